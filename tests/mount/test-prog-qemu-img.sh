#!/bin/sh
# SPDX-License-Identifier: MIT
# qemu-img and qemu-io keep disk images on a volume: every format and cache mode gives the same disk, their own checks find nothing, and
# holes stay holes.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
require_programs qemu-img qemu-io
make_scratch
format 512M
raw=$scratch/raw
truncate -s 64M "$raw"
for i in 0 7 8 30 63; do
	dd if=/dev/urandom of="$raw" bs=1M count=1 seek="$i" conv=notrunc 2>/dev/null
done

qimg() { qemu-img "$@" >"$scratch/out" 2>&1 || fail "qemu-img $*: $(cat "$scratch/out")"; }
qio() {
	qemu-io "$@" >"$scratch/out" 2>&1 || fail "qemu-io $*: $(cat "$scratch/out")"
	! grep -q "verification failed" "$scratch/out" || fail "qemu-io $*: $(cat "$scratch/out")"
}
# good NAME FORMAT
good() {
	[ "$2" = raw ] || qimg check -f "$2" "$mnt/$1"
	qimg compare -f raw -F "$2" "$raw" "$mnt/$1"
}
sectors() { stat -c %b "$mnt/$1"; }

mount_image
for cache in writeback none directsync; do
	qimg convert -t $cache -T $cache -f raw -O qcow2 "$raw" "$mnt/$cache.qcow2"
	good $cache.qcow2 qcow2
	qimg convert -t $cache -T $cache -f qcow2 -O raw "$mnt/$cache.qcow2" "$mnt/$cache.raw"
	good $cache.raw raw
	[ "$(sectors $cache.raw)" -le 12000 ] || fail "$(sectors $cache.raw) sectors for 5 MiB of data, $cache"
done
qimg convert -f raw -O qcow2 -o preallocation=falloc "$raw" "$mnt/falloc.qcow2"
good falloc.qcow2 qcow2
qimg convert -c -f raw -O qcow2 "$raw" "$mnt/small.qcow2"
good small.qcow2 qcow2

# An image over another one, snapshots, other sizes.
qimg create -q -f qcow2 -b "$mnt/none.qcow2" -F qcow2 "$mnt/over.qcow2"
good over.qcow2 qcow2
qio -t none -c "write -P 7 1M 3M" -c "write -z -u 7M 1M" -c "discard 30M 1M" -c flush "$mnt/over.qcow2"
qio -c "read -P 7 1M 3M" -c "read -P 0 7M 1M" -c "read -P 0 30M 1M" "$mnt/over.qcow2"
qimg commit -q "$mnt/over.qcow2"
qio -c "read -P 7 1M 3M" -c "read -P 0 7M 1M" "$mnt/none.qcow2"
qimg snapshot -c first "$mnt/directsync.qcow2"
qio -t none -i native -c "write -P 9 0 64M" "$mnt/directsync.qcow2"
qimg snapshot -a first "$mnt/directsync.qcow2"
qimg snapshot -d first "$mnt/directsync.qcow2"
good directsync.qcow2 qcow2
qimg resize -q "$mnt/over.qcow2" 100M
qimg check "$mnt/over.qcow2"
sums=$(cd "$mnt" && cksum ./*)
finish

mount_image -o writeback
same "$(cd "$mnt" && cksum ./*)" "$sums" "after a remount"
for name in writeback.qcow2 writeback.raw falloc.qcow2 small.qcow2 directsync.qcow2; do
	good $name ${name#*.}
done
# Discards and zeros in a raw disk become holes.
qio -f raw -d unmap -c "discard 7M 2M" -c "write -z -u 30M 1M" -c flush "$mnt/writeback.raw"
[ "$(sectors writeback.raw)" -le 5000 ] || fail "$(sectors writeback.raw) sectors after discards"
qio -f raw -c "read -P 0 7M 2M" -c "read -P 0 30M 1M" "$mnt/writeback.raw"
finish
