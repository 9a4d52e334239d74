#!/bin/sh
# SPDX-License-Identifier: MIT
# Mounts that cannot be made: the device is taken, the mount point is missing, no directory, or still held by a daemon that died.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 64M
mkdir "$scratch/other"

fails_with 32 "does not exist" "$DAEMON" "$image" "$scratch/missing"
fails_with 32 "not a directory" "$DAEMON" "$image" "$image"

mount_image
echo kept >"$mnt/file"
fails_with 32 "mounted on $mnt" "$DAEMON" "$image" "$scratch/other"
grep -q "(pid $(daemon_pid))" "$scratch/err" || fail "does not name the holder: $(cat "$scratch/err")"
"$FSCK" -n "$image" >/dev/null 2>&1 && fail "fsck checked a mounted volume"
same "$(cat "$mnt/file")" kept "after a refused second mount"

# A mount point that is not empty is nothing special.
mkdir "$scratch/other/full"
"$DAEMON" -o ro "$image" "$scratch/other" 2>/dev/null && fail "a second mount for reading"

kill -9 "$(daemon_pid)"
wait_until 5 eval '[ -z "$(daemon_pid)" ]' || fail "the lock outlives its daemon"
fails_with 32 "umount $mnt" "$DAEMON" "$image" "$mnt"
umount_lazily "$mnt"

"$DAEMON" -o "$via" "$image" "$scratch/other" || fail "a mount point that is not empty"
"$UMOUNT" "$scratch/other"
[ -d "$scratch/other/full" ] || fail "what the mount covered"
check_image
