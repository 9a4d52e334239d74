#!/bin/sh
# SPDX-License-Identifier: MIT
# The ways to data besides read and write: mappings, direct I/O, appends from two processes, copy_file_range, and all of it again with a
# writeback cache.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 256M

paths() {
	mkdir "$mnt/$1"
	cd "$mnt/$1"
	"$FSOP" mmap mapped || fail "mmap, $1"
	"$FSOP" direct direct || fail "direct I/O, $1"
	"$FSOP" append log a 3000 &
	first=$!
	"$FSOP" append log b 3000
	wait "$first"
	same "$(wc -l <log)" 6000 "lines of two writers, $1"
	for writer in a b; do
		same "$(grep "^$writer " log | cut -d' ' -f2 | sort -n | uniq | wc -l)" 3000 "lines of writer $writer, $1"
	done
	dd if=/dev/urandom of=original bs=1M count=8 2>/dev/null
	cp original copy
	cmp original copy || fail "cp, $1"
	md5sum mapped direct log original copy >"$scratch/sums-$1"
	cd /
}

mount_image
paths plain
unmount_image
mount_image -o writeback
paths writeback
unmount_image
check_image
mount_image
for kind in plain writeback; do
	(cd "$mnt/$kind" && md5sum --quiet -c "$scratch/sums-$kind") || fail "contents after a remount, $kind"
done
finish

# A file cannot be swapped to through a daemon: refused before anything is read or written.
if [ "$(id -u)" = 0 ] && command -v mkswap >/dev/null && command -v swapon >/dev/null; then
	mount_image
	dd if=/dev/zero of="$mnt/swap" bs=1M count=8 2>/dev/null
	chmod 600 "$mnt/swap"
	mkswap "$mnt/swap" >/dev/null 2>&1 || fail "mkswap exits with $?"
	if swapon "$mnt/swap" 2>"$scratch/err"; then
		swapoff "$mnt/swap"
		fail "swapon works"
	fi
	grep -q "Invalid argument" "$scratch/err" || fail "swapon: $(cat "$scratch/err")"
	rm "$mnt/swap"
	finish
fi
