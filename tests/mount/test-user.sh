#!/bin/sh
# SPDX-License-Identifier: MIT
# An ordinary user makes a volume, mounts it through fusermount3, uses it and unmounts it.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_root "starts programs as another user"
require_fuse
fusermount=$(command -v fusermount3) || skip "no fusermount3"
[ -u "$fusermount" ] || skip "fusermount3 is not setuid here"
make_scratch
make_user
cp -r --no-preserve=mode "$srcdir_top/util" "$scratch/tree" # which may be closed to others

user "$MKFS" -q -s 128M "$image" || fail "mkfs as a user"
user "$DAEMON" -o "$via" "$image" "$mnt" || fail "mounting as a user"
grep -F " $mnt " /proc/self/mountinfo | grep -q "nosuid,nodev.*fuse.hybridfs $image" || fail "how it is mounted: $(grep -F " $mnt " /proc/self/mountinfo)"
user cp -r "$scratch/tree" "$mnt/" || fail "writing as a user"
user diff -r "$scratch/tree" "$mnt/tree" || fail "comparing as a user"
same "$(user stat -c %u "$mnt/tree")" 65534 "owner"
if ls "$mnt" >/dev/null 2>&1; then fail "somebody else may look into a user's mount"; fi
user "$UMOUNT" "$mnt" || fail "unmounting as a user"
! is_mounted "$mnt" || fail "still mounted"
user "$FSCK" -n "$image" || fail "fsck right after the unmount exits with $?"

# SIGTERM unmounts through fusermount3 too.
user "$DAEMON" -o "$via" "$image" "$mnt"
pid=$(daemon_pid)
kill "$pid"
wait_until 10 is_gone "$pid" || fail "the user's daemon did not end"
! is_mounted "$mnt" || fail "still mounted after SIGTERM"
check_image
