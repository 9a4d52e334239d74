#!/bin/sh
# SPDX-License-Identifier: MIT
# Sparse files up to 8 TiB: holes are zeros and take no space, SEEK_DATA and SEEK_HOLE find them, fallocate makes and removes them.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 64M
mount_image
tib=$((1 << 40))

truncate -s 8T "$mnt/huge" || fail "8 TiB"
same "$(stat -c %s "$mnt/huge")" $((8 * tib)) "size"
printf end | dd of="$mnt/huge" bs=1 seek=$((8 * tib - 3)) conv=notrunc 2>/dev/null
printf mid | dd of="$mnt/huge" bs=1 seek=$((5 * tib)) conv=notrunc 2>/dev/null
same "$(tail -c 3 "$mnt/huge")" end "the last bytes"
same "$(dd if="$mnt/huge" bs=1 skip=$((5 * tib)) count=3 2>/dev/null)" mid "the middle"
same "$(dd if="$mnt/huge" bs=1M skip=$((3 * tib)) iflag=skip_bytes count=4 2>/dev/null | tr -d '\0' | wc -c)" 0 "a hole"
[ "$(stat -c %b "$mnt/huge")" -le 64 ] || fail "8 TiB of holes take $(stat -c %b "$mnt/huge") sectors"
same "$("$FSOP" seek "$mnt/huge" 4096)" "$((5 * tib)) 4096" "SEEK_DATA and SEEK_HOLE"

# Punching and zeroing.
dd if=/dev/urandom of="$mnt/full" bs=64k count=16 2>/dev/null
cp "$mnt/full" "$scratch/full"
for file in "$mnt/full" "$scratch/full"; do
	fallocate -p -o 100000 -l 300000 "$file" || fail "punching a hole into $file"
done
cmp "$mnt/full" "$scratch/full" || fail "after punching"
if fallocate -z -o 500000 -l 100001 "$scratch/full" 2>/dev/null; then
	fallocate -z -o 500000 -l 100001 "$mnt/full" || fail "zeroing"
	cmp "$mnt/full" "$scratch/full" || fail "after zeroing"
fi
fallocate -l 4M "$mnt/reserved" || fail "fallocate"
same "$(stat -c %s "$mnt/reserved")" $((4 << 20)) "fallocate"
same "$(tr -d '\0' <"$mnt/reserved" | wc -c)" 0 "reserved space is zeros"
if fallocate -c -l 4096 "$mnt/reserved" 2>"$scratch/err"; then fail "collapsing a range, which FUSE cannot"; fi

# Cutting and growing again: no old data.
truncate -s 10 "$mnt/full"
truncate -s 100000 "$mnt/full"
same "$(tail -c +11 "$mnt/full" | tr -d '\0' | wc -c)" 0 "old data after truncate"

# What is still in the kernel's cache is no hole.
"$FSOP" seek-dirty "$mnt/dirty" || fail "holes where pages are dirty"
timeout -s KILL 300 "$FSOP" seek-many "$mnt" || fail "many at once look for holes where pages are dirty"
unmount_image
mount_image -o writeback
"$FSOP" seek-dirty "$mnt/dirty2" || fail "holes where pages are dirty, with a writeback cache"
timeout -s KILL 300 "$FSOP" seek-many "$mnt" || fail "many at once look for holes where pages are dirty, with a writeback cache"

unmount_image
check_image
mount_image
same "$(tail -c 3 "$mnt/huge")" end "the last bytes after a remount"
same "$("$FSOP" seek "$mnt/huge" 4096)" "$((5 * tib)) 4096" "holes after a remount"
rm "$mnt/huge"
finish
