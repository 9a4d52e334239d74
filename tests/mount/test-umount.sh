#!/bin/sh
# SPDX-License-Identifier: MIT
# umount.hybridfs: waits until the daemon has ended, knows a busy mount, the lazy way, the mount point and the device. Open files go on working
# after a lazy unmount. A mount over one whose daemon has died says so.
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

# Who has a file open when the mount goes lazily goes on with it; the volume is free when the last one has closed.
mount_image
exec 8<>"$mnt/open" 9<>"$mnt/unlinked"
echo before >&8
rm "$mnt/unlinked"
"$UMOUNT" -l "$mnt" || fail "-l with open files"
! is_mounted "$mnt" || fail "-l with open files"
same "$(ls -A "$mnt")" "" "the mount point after -l"
echo after >&8 || fail "writing after -l"
echo nameless >&9 || fail "writing to a file without a name after -l"
"$FSOP" fsync /dev/fd/8 || fail "fsync after -l"
same "$(cat /dev/fd/8 | tr '\n' ' ')$(stat -L -c %h /dev/fd/9)" "before after 0" "reading after -l"
[ -n "$(daemon_pid)" ] || fail "the daemon does not stay for its last users"
exec 8>&- 9>&-
wait_until 10 eval '[ -z "$(daemon_pid)" ]' || fail "the daemon stays after the last file was closed"
check_image
mount_image
same "$(cat "$mnt/open" | tr '\n' ' ')" "before after " "what was written after -l"

# The daemon dies. The dead mount is told; when it is taken off, all goes on.
pid=$(daemon_pid)
kill -9 "$pid"
wait_until 5 is_gone "$pid"
if ls "$mnt/none" 2>"$scratch/err"; then fail "a dead mount answers"; fi
grep -q "not connected\|connection abort" "$scratch/err" || fail "a dead mount: $(cat "$scratch/err")"
fails_with 32 "still mounted, but its daemon has ended: run 'umount" "$DAEMON" "$image" "$mnt"
"$UMOUNT" "$mnt" || fail "umount.hybridfs of a dead mount"
! is_mounted "$mnt" || fail "the dead mount is still there"
check_image
mount_image
same "$(cat "$mnt/open" | tr '\n' ' ')" "before after " "after a dead mount"
unmount_image

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
