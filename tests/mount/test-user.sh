#!/bin/sh
# SPDX-License-Identifier: MIT
# An ordinary user makes a volume, mounts it through fusermount3, uses it and unmounts it.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_root "starts programs as another user"
require_fuse
command -v setpriv >/dev/null || skip "no setpriv"
fusermount=$(command -v fusermount3) || skip "no fusermount3"
[ -u "$fusermount" ] || skip "fusermount3 is not setuid here"
user() { (cd / && HOME=$scratch/home setpriv --reuid=65534 --regid=65534 --clear-groups "$@"); }
make_scratch
chmod 755 "$scratch"
cp "$MKFS" "$DAEMON" "$FSCK" "$UMOUNT" "$scratch/" # the build folder may be closed to others
mkdir "$scratch/home" "$scratch/home/mnt"
chown -R 65534:65534 "$scratch/home"
mnt=$scratch/home/mnt
image=$scratch/home/image
# Without udev /dev/fuse may be root's alone: then a namespace of our own gets one that is not.
if ! user test -w /dev/fuse; then
	[ -z "${TEST_USER_AGAIN:-}" ] || skip "/dev/fuse is not for users here"
	TEST_USER_AGAIN=1 unshare -m sh -c '
		mknod -m 666 "$1/fuse" c 10 229 && mount --bind "$1/fuse" /dev/fuse && shift && exec "$@"' sh "$scratch" sh "$0"
	exit
fi
user test -x "$scratch/hybridfs" || skip "the scratch folder is closed to others"

user "$scratch/mkfs.hybridfs" -q -s 128M "$image" || fail "mkfs as a user"
user "$scratch/hybridfs" "$image" "$mnt" || fail "mounting as a user"
grep -F " $mnt " /proc/self/mountinfo | grep -q "nosuid,nodev.*fuse.hybridfs $image" || fail "how it is mounted: $(grep -F " $mnt " /proc/self/mountinfo)"
user cp -r "$srcdir_top/util" "$mnt/" || fail "writing as a user"
user diff -r "$srcdir_top/util" "$mnt/util" || fail "comparing as a user"
same "$(user stat -c %u "$mnt/util")" 65534 "owner"
if ls "$mnt" >/dev/null 2>&1; then fail "somebody else may look into a user's mount"; fi
user "$scratch/umount.hybridfs" "$mnt" || fail "unmounting as a user"
! is_mounted "$mnt" || fail "still mounted"
user "$scratch/fsck.hybridfs" -n "$image" || fail "fsck right after the unmount exits with $?"

# SIGTERM unmounts through fusermount3 too.
user "$scratch/hybridfs" "$image" "$mnt"
pid=$(daemon_pid)
kill "$pid"
wait_until 10 is_gone "$pid" || fail "the user's daemon did not end"
! is_mounted "$mnt" || fail "still mounted after SIGTERM"
check_image
