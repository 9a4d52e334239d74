#!/bin/bash
# SPDX-License-Identifier: MIT
# Compares a full check with fsck.hybridfs and with e2fsck: the same tree of small files on an image of each, filled by mkfs. Prints the median
# time, the processor time and the memory of each, and how many times as long fsck.hybridfs takes.
#
#     bench/fsck.sh [options]
#       --build DIR     where HybridFS was built (the build folder of the source tree)
#       --files N       (200000), 1000 in a folder; every second one has 100 bytes, the others 5000
#       --rounds N      (3); the two take turns
#       --cold          drop the page cache before each check (needs root)
#       --scrub         fsck.hybridfs --scrub as well
#       --workdir DIR   where the tree and the images go (a new folder in /var/tmp)
#       -h, --help
set -eu
export LC_ALL=C

build=$(cd "$(dirname "$0")/.." && pwd)/build
files=200000
rounds=3
cold=
scrub=
workdir=

die() { echo "fsck.sh: $*" >&2; exit 1; }

while [ $# -gt 0 ]; do
	case $1 in
	--cold) cold=yes; shift; continue ;;
	--scrub) scrub=yes; shift; continue ;;
	-h | --help) sed -n '3,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
	esac
	[ $# -ge 2 ] || die "$1: unknown option, or its value is missing; try --help"
	case $1 in
	--build) build=$(cd "$2" && pwd) ;;
	--files) files=$2 ;;
	--rounds) rounds=$2 ;;
	--workdir) workdir=$2 ;;
	*) die "unknown option '$1'; try --help" ;;
	esac
	shift 2
done

mkfs=$build/mkfs/mkfs.hybridfs
fsck=$build/fsck/fsck.hybridfs
[ -x "$mkfs" ] && [ -x "$fsck" ] || die "there is nothing built in $build"
PATH=$PATH:/sbin:/usr/sbin
command -v mke2fs >/dev/null && command -v e2fsck >/dev/null || die "mke2fs and e2fsck are not installed"
[ -x /usr/bin/time ] || die "GNU time is not installed"
work=$(mktemp -d "${workdir:-/var/tmp}/hybridfs-fsck.XXXXXX")
trap 'rm -rf "$work"' EXIT

make_tree() {
	local small large i

	small=$(printf 'x%.0s' $(seq 100))
	large=$(printf 'y%.0s' $(seq 5000))
	for ((i = 0; i < files; i++)); do
		((i % 1000)) || mkdir -p "$work/tree/d$((i / 1000))"
		if ((i % 2)); then
			printf '%s' "$large"
		else
			printf '%s' "$small"
		fi >"$work/tree/d$((i / 1000))/file number $i"
	done
}

# check NAME COMMAND…: one check, its numbers to $work/NAME.
check() {
	local name=$1 status=0

	shift
	[ -z "$cold" ] || { sync; echo 3 >/proc/sys/vm/drop_caches; }
	/usr/bin/time -a -o "$work/$name" -f '%e %U %S %M' "$@" >"$work/out" 2>&1 || status=$?
	[ $status -eq 0 ] || die "$name: exit status $status: $(tail -3 "$work/out")"
}

median() { sort -n "$work/$1" | awk '{ line[NR] = $0 } END { print line[int((NR + 1) / 2)] }'; }

show() {
	local elapsed user sys kib

	read -r elapsed user sys kib < <(median "$1")
	printf '%-26s %8.2f s   user %7.2f s   system %6.2f s   %6d MiB\n' "$1" "$elapsed" "$user" "$sys" $((kib / 1024))
}

bytes=$((files * 12288 + (256 << 20)))
make_tree
truncate -s $bytes "$work/ext4"
mke2fs -q -F -t ext4 -N $((files + files / 500 + 1000)) -d "$work/tree" "$work/ext4"
"$mkfs" -q -s $((bytes / 4096 * 4096)) -d "$work/tree" "$work/hybridfs"
rm -rf "$work/tree"
e2fsck -f -y "$work/ext4" >/dev/null 2>&1 || [ $? -le 1 ] || die "e2fsck has found something on a new filesystem"
"$fsck" -p -f "$work/hybridfs" >/dev/null 2>&1 || die "fsck.hybridfs has found something on a new filesystem"
for ((round = 0; round < rounds; round++)); do
	check e2fsck e2fsck -f -y -C 0 "$work/ext4"
	check fsck.hybridfs "$fsck" -f -y -C 1 "$work/hybridfs"
	[ -z "$scrub" ] || check fsck.hybridfs-scrub "$fsck" -f -y --scrub -C 1 "$work/hybridfs"
done
echo "$files files, $(if [ -n "$cold" ]; then echo cold; else echo warm; fi) page cache, median of $rounds; load $(cut -d' ' -f1 /proc/loadavg), $(nproc) processors"
show e2fsck
show fsck.hybridfs
[ -z "$scrub" ] || show fsck.hybridfs-scrub
awk -v ours="$(median fsck.hybridfs | cut -d' ' -f1)" -v theirs="$(median e2fsck | cut -d' ' -f1)" \
	'BEGIN { printf "fsck.hybridfs takes %.2f times as long as e2fsck\n", ours / (theirs > 0 ? theirs : 0.01) }'
