#!/bin/sh
# SPDX-License-Identifier: MIT
# An ordinary user makes a user and mount namespace and mounts a volume there, as its root, without fusermount3: nobody outside sees the mount,
# and owners are numbers of the namespace. A daemon keeps its namespace alive until SIGTERM, or until the end of its namespace of processes
# kills it: what it leaves is consistent.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
require_programs unshare flock
make_scratch
make_user
cp -r --no-preserve=mode "$srcdir_top/util" "$scratch/tree" # which may be closed to others
user unshare -Urm true 2>/dev/null || skip "users may not make namespaces here"
# The owners on the volume are the numbers inside, and what is not a number inside is nobody's: so the volume is made inside, too.
user unshare -Ur "$MKFS" -q -s 128M "$image" || fail "mkfs"

# inside SCRIPT [options of unshare]: run as the root of a new namespace. Arguments of the script: the daemon, umount.hybridfs, the image, the mount point, a tree.
inside() { user unshare -Urm ${2:-} sh -euc "$1" sh "$DAEMON" "$UMOUNT" "$image" "$mnt" "$scratch/tree"; }

# In the quotes are scripts for the shell inside.
# shellcheck disable=SC2016
inside '
	[ "$(id -u)" = 0 ]
	"$1" -o commit=1 "$3" "$4"
	grep -q " $4 .* fuse.hybridfs $3" /proc/self/mountinfo
	cp -r "$5" "$4/tree"
	diff -r "$5" "$4/tree"
	[ "$(stat -c %u:%g "$4/tree")" = 0:0 ]
	chmod 4755 "$4/tree"
	ln -s target "$4/symlink"
	mkfifo "$4/fifo"
	setfattr -n user.name -v value "$4/tree" 2>/dev/null || ! command -v setfattr >/dev/null
	! mknod "$4/null" c 1 3 2>/dev/null
	! chown 1:1 "$4/tree" 2>/dev/null # an id that the namespace does not have
	flock "$4/tree" true
	"$2" "$4"
	! grep -q " $4 " /proc/self/mountinfo
' || fail "inside the namespace"
! is_mounted "$mnt" || fail "mounted outside, too"
check_image "after the unmount in the namespace"

on_exit() {
	pid=$(daemon_pid)
	[ -z "$pid" ] || kill -9 "$pid" || true
}
is_let_go() { [ -z "$(daemon_pid)" ]; }
# shellcheck disable=SC2016
inside '
	"$1" "$3" "$4"
	diff -r "$5" "$4/tree"
	rm -r "$4/tree"
	echo text >"$4/left"
' || fail "the namespace without an unmount"
! is_mounted "$mnt" || fail "mounted outside, too"
kill "$(daemon_pid)"
wait_until 20 is_let_go || fail "the daemon in a namespace does not end with SIGTERM"
check_image "after SIGTERM"

# shellcheck disable=SC2016
inside '
	"$1" -o commit=1 "$3" "$4"
	[ "$(cat "$4/left")" = text ]
	cp -r "$5" "$4/tree"
	echo fsynced | dd of="$4/fsynced" conv=fsync 2>/dev/null
	cp -r "$5" "$4/more"
' -pf || fail "the namespace of processes"
wait_until 20 is_let_go || fail "the daemon outlives its namespace"
check_image "after the end of the namespace"

mount_image
same "$(cat "$mnt/left")" text "written in the namespace"
same "$(stat -c %u "$mnt/left")" 0 "its owner"
diff -r "$scratch/tree" "$mnt/tree" || fail "a tree that is older than an fsync in the namespace"
same "$(cat "$mnt/fsynced")" fsynced "fsynced in the namespace"
finish
