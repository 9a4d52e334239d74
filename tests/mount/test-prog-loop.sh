#!/bin/sh
# SPDX-License-Identifier: MIT
# A loop device on a file of a volume, with an ext4 in it: filled, checked, trimmed, and the same after a remount. Buffered and with direct I/O.
# What ext4 had made durable is there when the daemon is killed below it.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
require_root "loop devices"
require_programs losetup mkfs.ext4 e2fsck fstrim
make_scratch
format 512M
tree=$srcdir_top/fs
inner=$scratch/inner
mkdir "$inner"
loop=
# The outer mount cannot go before what lies on it.
on_exit() {
	if is_mounted "$inner"; then umount "$inner" || umount -l "$inner" || true; fi
	[ -z "$loop" ] || losetup -d "$loop" 2>/dev/null || true
}

attach() {
	loop=$(losetup -f --show "$@" "$mnt/disk" 2>"$scratch/err") || skip "no loop device: $(cat "$scratch/err")"
}
detach() {
	umount "$inner" || fail "umount of the ext4"
	losetup -d "$loop"
	wait_until 10 is_detached || fail "the loop device stays"
	loop=
}
is_detached() { ! losetup "$loop" >/dev/null 2>&1; }
sound() { e2fsck -fn "$mnt/disk" >"$scratch/out" 2>&1 || fail "e2fsck, $1: $(cat "$scratch/out")"; }
sectors() { stat -c %b "$mnt/disk"; }

for direct in off on; do
	mount_image
	truncate -s 200M "$mnt/disk"
	attach --direct-io=$direct
	mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$loop" || fail "mkfs.ext4, direct-io=$direct"
	mount "$loop" "$inner"
	cp -a "$tree" "$inner/tree"
	dd if=/dev/urandom of="$inner/random" bs=1M count=30 2>/dev/null
	cksum <"$inner/random" >"$scratch/sum"
	detach
	sound "direct-io=$direct"
	finish
	mount_image -o writeback
	sound "direct-io=$direct, after a remount"
	attach --direct-io=$direct
	mount "$loop" "$inner"
	diff -r "$tree" "$inner/tree" || fail "the tree in the ext4, direct-io=$direct"
	cksum <"$inner/random" | cmp - "$scratch/sum" || fail "a file in the ext4, direct-io=$direct"
	# What is freed in there is freed here.
	filled=$(sectors)
	rm "$inner/random"
	sync -f "$inner"
	fstrim "$inner" || fail "fstrim, direct-io=$direct"
	[ "$(sectors)" -lt $((filled - 50000)) ] || fail "fstrim of the ext4 freed nothing: $filled, now $(sectors) sectors"
	detach
	sound "trimmed, direct-io=$direct"
	rm "$mnt/disk"
	finish
done

mount_image
truncate -s 200M "$mnt/disk"
attach
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$loop"
mount "$loop" "$inner"
(i=0; while cp -r "$tree" "$inner/$i" && echo "$i" >"$inner/last" && sync -f "$inner/last"; do echo "$i" >>"$scratch/durable"; i=$((i + 1)); done) 2>/dev/null &
work=$!
has_two() { [ -e "$scratch/durable" ] && [ "$(wc -l <"$scratch/durable")" -ge 2 ]; }
wait_until 60 has_two || fail "nothing is copied"
kill_daemon
wait "$work" || true
umount "$inner" || fail "umount of an ext4 without a disk"
losetup -d "$loop"
wait_until 10 is_detached || fail "the loop device stays"
mount_image
attach
mount "$loop" "$inner" || fail "mounting the ext4 after a crash"
while read -r i; do
	diff -r "$tree" "$inner/$i" || fail "copy $i was durable"
done <"$scratch/durable"
detach
sound "after a crash"
finish
