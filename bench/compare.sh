#!/bin/sh
# SPDX-License-Identifier: MIT
# Compares HybridFS with other filesystems on this machine, in one run: bench/meta and bench/stream on each, on image files of
# the same size on the same disk. Prints medians, and how many times as fast HybridFS is.
#
#     bench/compare.sh [options]
#       --build DIR     where HybridFS was built (the build folder of the source tree)
#       --only A,B,...  of hybridfs ext4 xfs btrfs fuse2fs ntfs-3g (all of these), and hybridfs-nodatacow (mounted with -o nodatacow: what
#                       checksums and atomic overwrites cost), hybridfs-uring and hybridfs-dev (with -o transport=uring, dev)
#       --stream        only bench/stream
#       --rounds N      (3); the filesystems take turns in each round
#       --files N       for bench/meta (20000)
#       --threads N     for bench/meta (1)
#       --size SIZE     of the file of bench/stream (256M)
#       --image SIZE    of the images, sparse (8G)
#       --pin           client and daemon on CPU 0 (kernel threads of the others go where they like)
#       --workdir DIR   where the images go (a new folder in /var/tmp)
#       --json FILE     write all results of all rounds there
#       -h, --help
#
# A filesystem whose tools are missing, or that needs root, is left out with the reason. Each one is mounted for its turn only,
# after a short warm-up in the first round. In the end, also after a failure, everything is unmounted and removed.
# The state of the machine (load, pinned or not) is printed with the numbers, because they mean little without it.
set -eu
export LC_ALL=C

top=$(cd "$(dirname "$0")/.." && pwd)
build=$top/build
wanted=hybridfs,ext4,xfs,btrfs,fuse2fs,ntfs-3g
rounds=3
with_meta=yes
files=20000
threads=1
size=256M
image_size=8G
pin=
workdir=
json=

die() { echo "compare.sh: $*" >&2; exit 1; }

while [ $# -gt 0 ]; do
	case $1 in
	--pin) pin='taskset -c 0'; shift; continue ;;
	--stream) with_meta=; shift; continue ;;
	-h | --help) sed -n '3,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
	esac
	[ $# -ge 2 ] || die "$1: unknown option, or its value is missing; try --help"
	case $1 in
	--build) build=$(cd "$2" && pwd) ;;
	--only) wanted=$2 ;;
	--rounds) rounds=$2 ;;
	--files) files=$2 ;;
	--threads) threads=$2 ;;
	--size) size=$2 ;;
	--image) image_size=$2 ;;
	--workdir) workdir=$2 ;;
	--json) json=$2 ;;
	*) die "unknown option '$1'; try --help" ;;
	esac
	shift 2
done
for program in meta stream; do
	[ -x "$build/bench/$program" ] || die "$build/bench/$program is not there; build first, or name the folder with --build"
done

PATH=$PATH:/usr/sbin:/sbin
base=$(mktemp -d "${workdir:-/var/tmp}/hybridfs-bench-XXXXXX")
base=$(cd "$base" && pwd -P)
mnt=$base/mnt
results=$base/results # lines: filesystem round phase unit value
mkdir "$mnt"
: >"$results"

# The kernel's table writes blanks and backslashes as octal numbers.
is_mounted() { grep -qF " $(printf %s "$mnt" | sed 's/\\/\\134/g; s/ /\\040/g; s/\t/\\011/g') " /proc/self/mountinfo; }

# A FUSE daemon may still be writing when umount has returned: its turn ends when it is gone. It is known by the image on
# its command line.
wait_for_daemon() {
	tries=600
	while [ "$tries" -gt 0 ] && cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | grep -qxF "$1"; do
		sleep 0.1
		tries=$((tries - 1))
	done
}

unmount() {
	if [ "$(id -u)" = 0 ]; then
		umount "$mnt"
	else
		fusermount3 -u "$mnt"
	fi
}

cleanup() {
	trap - EXIT INT TERM
	if is_mounted; then
		unmount || umount -l "$mnt" || fusermount3 -u -z "$mnt" || true
	fi
	for image in "$base"/*.img; do
		[ ! -e "$image" ] || wait_for_daemon "$image"
	done
	rm -rf --one-file-system "$base"
}
trap cleanup EXIT
trap 'cleanup; exit 130' INT TERM

# Why filesystem $1 cannot be measured here; nothing if it can.
missing() {
	case $1 in
	hybridfs*) tools="$build/mkfs/mkfs.hybridfs $build/fs/hybridfs" ;;
	ext4 | xfs | btrfs) tools=mkfs.$1 ;;
	fuse2fs) tools='mkfs.ext4 fuse2fs' ;;
	ntfs-3g) tools='mkfs.ntfs ntfs-3g' ;;
	*) die "unknown filesystem '$1'" ;;
	esac
	for tool in $tools; do
		command -v "$tool" >/dev/null || { echo "no $tool"; return; }
	done
	case $1 in
	ext4 | xfs | btrfs)
		if [ "$(id -u)" != 0 ]; then
			echo 'needs root'
		elif ! grep -qw "$1" /proc/filesystems && ! modprobe "$1" 2>/dev/null; then
			echo 'not in this kernel'
		fi
		;;
	*) [ -w /dev/fuse ] || echo 'no /dev/fuse' ;;
	esac
}

format() {
	case $1 in
	hybridfs*) "$build/mkfs/mkfs.hybridfs" -q -s "$image_size" "$2" ;;
	ext4 | fuse2fs) truncate -s "$image_size" "$2" && mkfs.ext4 -q -F "$2" ;;
	xfs) truncate -s "$image_size" "$2" && mkfs.xfs -q -f "$2" ;;
	btrfs) truncate -s "$image_size" "$2" && mkfs.btrfs -q -f "$2" ;;
	ntfs-3g) truncate -s "$image_size" "$2" && mkfs.ntfs -Q -q -F "$2" ;;
	esac
}

# $pin is a list of words: with it the daemons inherit the CPU.
# shellcheck disable=SC2086
mount_image() {
	case $1 in
	hybridfs) $pin "$build/fs/hybridfs" "$2" "$mnt" ;;
	hybridfs-nodatacow) $pin "$build/fs/hybridfs" -o nodatacow "$2" "$mnt" ;;
	hybridfs-uring | hybridfs-dev) $pin "$build/fs/hybridfs" -o "transport=${1#*-}" "$2" "$mnt" ;;
	ext4 | xfs | btrfs) mount -o loop -t "$1" "$2" "$mnt" ;;
	fuse2fs) $pin fuse2fs "$2" "$mnt" ;;
	ntfs-3g) $pin ntfs-3g "$2" "$mnt" ;;
	esac
	is_mounted || die "$1 did not mount"
}

# bench NAME ROUND program options...: appends its phases to the results.
bench() {
	fs=$1 round=$2 program=$3
	shift 3
	# shellcheck disable=SC2086
	$pin "$build/bench/$program" --dir "$mnt" --json "$@" >"$base/out.json" || die "bench/$program failed on $fs"
	sed -n 's/^"\([a-z0-9_]*\)": {"value": \([0-9.]*\), "unit": "\([^"]*\)".*/'"$fs $round"' \1 \3 \2/p' "$base/out.json" >>"$results"
}

turn() {
	mount_image "$1" "$base/$1.img"
	if [ "$2" = 1 ]; then
		# shellcheck disable=SC2086
		$pin "$build/bench/meta" --dir "$mnt" --files 1000 >/dev/null || die "warm-up failed on $1"
		# shellcheck disable=SC2086
		$pin "$build/bench/stream" --dir "$mnt" --size 8M --ops 500 --appends 20 >/dev/null || die "warm-up failed on $1"
	fi
	[ -z "$with_meta" ] || bench "$1" "$2" meta --files "$files" --threads "$threads"
	bench "$1" "$2" stream --size "$size"
	unmount
	wait_for_daemon "$base/$1.img"
	sync
}

load() { cut -d ' ' -f 1-3 /proc/loadavg; }

peers=
for fs in $(echo "$wanted" | tr , ' '); do
	why=$(missing "$fs")
	if [ -n "$why" ]; then
		echo "Left out: $fs ($why)"
		continue
	fi
	format "$fs" "$base/$fs.img" >"$base/mkfs.log" 2>&1 || { cat "$base/mkfs.log" >&2; die "cannot format for $fs"; }
	peers="$peers $fs"
done
[ -n "$peers" ] || die "nothing to compare"

load_before=$(load)
state="not pinned"
[ -z "$pin" ] || state="client and daemon pinned to CPU 0"
for round in $(seq "$rounds"); do
	for fs in $peers; do
		echo "round $round of $rounds: $fs" >&2
		turn "$fs" "$round"
	done
done

cat <<END

$(nproc) CPUs, Linux $(uname -r), $state; load average $load_before before, $(load) after.
$files files of 4 KiB, $threads thread(s); stream $size; images of $image_size on $(df --output=fstype "$base" | tail -n 1); medians of $rounds round(s).

END
awk -v peers="$peers" '
	{ key = $1 " " $3; values[key] = values[key] " " $5; unit[$3] = $4; if (!($3 in seen)) { seen[$3] = 1; phase[++n] = $3 } }
	function median(list,   v, m, i, j, t) {
		m = split(list, v, " ")
		for (i = 2; i <= m; i++)
			for (j = i; j > 1 && v[j] + 0 < v[j - 1] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
		return m % 2 ? v[(m + 1) / 2] + 0 : (v[m / 2] + v[m / 2 + 1]) / 2
	}
	END {
		np = split(peers, fs, " ")
		printf "%-22s %-5s", "", "unit"
		for (i = 1; i <= np; i++) printf " %12s", substr(fs[i], 1, 12)
		print ""
		for (p = 1; p <= n; p++) {
			printf "%-22s %-5s", phase[p], unit[phase[p]]
			for (i = 1; i <= np; i++) {
				key = fs[i] " " phase[p]
				if (key in values) { med[key] = median(values[key]); printf " %12.0f", med[key] }
				else printf " %12s", "-"
			}
			print ""
		}
		for (i = 1; i <= np; i++)
			if (fs[i] == "hybridfs") { fs[i] = fs[1]; fs[1] = "hybridfs" }
		if (np < 2 || fs[1] != "hybridfs")
			exit
		printf "\nHow many times as fast hybridfs is (above 1: faster; of times in us the inverse):\n%-28s", ""
		for (i = 2; i <= np; i++) printf " %12s", substr(fs[i], 1, 12)
		print ""
		for (p = 1; p <= n; p++) {
			printf "%-28s", phase[p]
			mine = med["hybridfs " phase[p]]
			for (i = 2; i <= np; i++) {
				other = med[fs[i] " " phase[p]]
				if (mine > 0 && other > 0) printf " %12.2f", (unit[phase[p]] == "us" ? other / mine : mine / other)
				else printf " %12s", "-"
			}
			print ""
		}
	}' "$results"

if [ -n "$json" ]; then
	awk -v cpus="$(nproc)" -v kernel="$(uname -r)" -v pinned="${pin:+true}" -v files="$files" -v before="$load_before" '
		BEGIN { printf "{\"cpus\": %d, \"kernel\": \"%s\", \"pinned\": %s, \"files\": %d, \"load_before\": \"%s\", \"results\": [", \
			cpus, kernel, pinned == "" ? "false" : "true", files, before }
		{ printf "%s\n{\"fs\": \"%s\", \"round\": %d, \"phase\": \"%s\", \"unit\": \"%s\", \"value\": %s}", (NR > 1 ? "," : ""), $1, $2, $3, $4, $5 }
		END { print "\n]}" }' "$results" >"$json"
fi
