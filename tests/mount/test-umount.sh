#!/bin/sh
# SPDX-License-Identifier: MIT
# umount.hybridfs: waits until the daemon has ended, knows a busy mount, the lazy way, the mount point and the device.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 512M

# Much to write at the end: without waiting, fsck would find the image in use.
mount_image -o commit=3600
dd if=/dev/zero of="$mnt/big" bs=1M count=100 2>/dev/null
pid=$(daemon_pid)
"$UMOUNT" "$mnt" -v -n -t fuse.hybridfs | grep -q "$mnt unmounted" || fail "-v"
same "$(daemon_pid)" "" "a daemon holds the image after umount"
check_image

# An umount that does not wait, and a daemon that is still at work: whoever opens the image next waits for it.
mount_image -o commit=3600
dd if=/dev/zero of="$mnt/big" bs=1M count=100 2>/dev/null
umount_cleanly "$mnt"
"$MKFS" -q -f "$image" || fail "mkfs.hybridfs right after an umount exits with $?"
check_image

mount_image
(cd "$mnt" && exec sleep 60) &
user=$!
wait_until 5 eval '[ "$(readlink /proc/$user/cwd)" = "$mnt" ]'
status=0
"$UMOUNT" "$mnt" 2>"$scratch/err" || status=$?
same "$status" 32 "a busy mount"
is_mounted "$mnt" || fail "a busy mount was unmounted"
"$UMOUNT" -l "$mnt" || fail "-l"
! is_mounted "$mnt" || fail "-l"
kill "$user"
wait "$user" 2>/dev/null || true
wait_until 10 eval '[ -z "$(daemon_pid)" ]' || fail "the daemon stays after its last user"
check_image

mount_image
"$UMOUNT" "$image" || fail "by its device"
! is_mounted "$mnt" || fail "by its device"
status=0
"$UMOUNT" "$mnt" 2>"$scratch/err" || status=$?
same "$status" 32 "not mounted"
grep -q "no HybridFS" "$scratch/err" || fail "$(cat "$scratch/err")"
status=0
"$UMOUNT" 2>/dev/null || status=$?
same "$status" 1 "usage"
