#!/bin/bash
# SPDX-License-Identifier: MIT
# mkfs: sizes, what it refuses, what it leaves behind, and filling from a directory.
. "${srcdir:-$(dirname "$0")}/lib.sh"
image=$work/image

run 0 "$MKFS" --help && says 'rootdir'
run 0 "$MKFS" -V
run 1 "$MKFS"
run 1 "$MKFS" "$image" "$image"
run 1 "$MKFS" -Z "$image"
run 1 "$MKFS" -s 20X "$image" && says 'not a size'
run 1 "$MKFS" -s 1M "$image" && says 'at least'
run 1 "$MKFS" -s 16M -U nonsense "$image" && says 'UUID'
run 1 "$MKFS" -s 16M -L "$(printf 'x%.0s' $(seq 64))" "$image" && says '63 bytes'
run 1 "$MKFS" -s 8000000T "$image"
[ ! -e "$image" ] || fail "an image was made on the way"

# ---- new images ----
run 1 "$MKFS" "$image" && says 'use -s\|with -s'
run 0 "$MKFS" -n -s 1G "$image" && says '262144 of 4 KiB'
[ ! -e "$image" ] || fail "the dry run has created an image"
run 0 "$MKFS" -s 64M -L 'a label' -U 01234567-89ab-cdef-0123-456789abcdef "$image"
says 'a label' && says '01234567-89ab-cdef-0123-456789abcdef' && says '16384 of 4 KiB'
[ "$(stat -c %s "$image")" -eq $((64 << 20)) ] || fail "wrong size"
[ "$(stat -c %b "$image")" -lt 20000 ] || fail "the image is not sparse"
run 0 "$FSCK" -n "$image"
run 0 "$MKFS" -q -s 8T "$work/large" && [ ! -s "$work/out" ] || fail "-q is not quiet"
run 0 "$FSCK" -n "$work/large"
rm "$work/large"

# ---- existing ones ----
cp --sparse=always "$image" "$work/before"
run 1 "$MKFS" "$image" && says 'HybridFS volume labelled "a label"' && says 'use -f'
run 1 "$MKFS" -n "$image"
run 0 "$MKFS" -n -f "$image"
cmp "$image" "$work/before" || fail "a refused mkfs or a dry run has changed the image"
run 0 "$MKFS" -q -f "$image"
[ "$(stat -c %s "$image")" -eq $((64 << 20)) ] || fail "the size has changed"
run 1 "$MKFS" -s 32M "$image"
run 0 "$MKFS" -q -f -s 32M "$image"
[ "$(stat -c %s "$image")" -eq $((32 << 20)) ] || fail "the size has not changed"
: >"$image"
run 1 "$MKFS" "$image" && says 'empty'
run 0 "$MKFS" -q -s 16M "$image"
dd if=/dev/zero of="$image" bs=1M count=16 status=none
run 1 "$MKFS" -s 32M "$image" && says '16 MiB'
run 0 "$MKFS" -q "$image"
run 1 "$MKFS" "$work" && says 'directory'
if command -v mke2fs >/dev/null; then
	rm "$image"
	truncate -s 32M "$image"
	mke2fs -q -F -L other "$image" >/dev/null 2>&1
	run 1 "$MKFS" "$image" && says 'type ext2 labelled "other"' && says 'use -f'
	run 0 "$MKFS" -q -f "$image"
	if command -v blkid >/dev/null; then
		blkid -p "$image" >"$work/out" 2>&1 && fail "blkid still sees: $(cat "$work/out")"
	fi
	run 0 "$FSCK" -n "$image"
fi
# A signature where nothing of ours will lie, of UFS2: it must go even if no block is discarded.
rm -f "$image"
truncate -s 16M "$image"
printf '\031\001\124\031' | dd of="$image" bs=1 seek=$((262144 + 1372)) conv=notrunc status=none
run 1 "$MKFS" "$image" && says 'type ufs'
run 0 "$MKFS" -q -f -K "$image"
dd if="$image" bs=1 skip=$((262144 + 1372)) count=4 status=none | tr -d '\0' >"$work/out"
[ ! -s "$work/out" ] || fail "mkfs -f has left another filesystem's signature"
run 0 "$FSCK" -n "$image"
if command -v flock >/dev/null; then
	run 1 flock "$image" "$MKFS" -f "$image" && says 'in use'
fi
# An image under a loop device: two programs would write to it, and neither would see the other's lock.
if [ "$(id -u)" = 0 ] && loop=$(losetup -f --show "$image" 2>/dev/null); then
	cp --sparse=always "$image" "$work/before"
	run 1 "$MKFS" -f "$image" && says "$loop is a loop device over it"
	losetup -d "$loop"
	cmp "$image" "$work/before" || fail "a refused mkfs has changed the image"
fi

# ---- filling from a directory ----
mkdir -p "$work/tree/d/e"
echo text >"$work/tree/d/file"
ln "$work/tree/d/file" "$work/tree/d/e/link"
ln -s nowhere "$work/tree/sym"
truncate -s 3G "$work/tree/sparse"
echo end >>"$work/tree/sparse"
rm -f "$work/new"
run 0 "$MKFS" -v -s 64M -d "$work/tree" "$work/new" && says '6 objects'
run 0 "$FSCK" -n "$work/new" && says '6 files'
run 0 "$MKFS" -f -q -d "$work/tree" "$work/new"
run 0 "$FSCK" -n "$work/new"
# The image inside its own source.
run 0 "$MKFS" -s 64M -d "$work/tree" "$work/tree/inside" && says 'left out'
run 0 "$FSCK" -n "$work/tree/inside"
rm "$work/tree/inside"
# A source that does not fit, or is none: nothing is left that could be mounted.
head -c 20M /dev/urandom >"$work/tree/d/large"
run 1 "$MKFS" -s 16M -d "$work/tree" "$work/failed" && says 'd/large: the volume is full'
[ ! -e "$work/failed" ] || fail "a failed mkfs leaves its image"
run 0 "$MKFS" -q -s 16M "$work/failed"
run 1 "$MKFS" -f -d "$work/tree" "$work/failed"
run 8 "$FSCK" -n "$work/failed"
run 0 "$MKFS" -q -f -s 16M "$work/failed"
cp "$work/failed" "$work/before"
run 1 "$MKFS" -f -d "$work/nothing" "$work/failed" && says 'No such file'
cmp "$work/failed" "$work/before" || fail "a missing source has cost the target"
finish
