# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# For test scripts to source: finds the programs, makes a scratch folder, mounts, unmounts, and cleans up at the end.
#
# top_builddir and top_srcdir come from `make check`; by hand, set BUILD to the build folder (default: the source folder's build).
# Sets: MKFS, DAEMON, FSCK (programs), scratch (a new folder), mnt (a mount point in it), image (a path in it), via (the mount option
# that every mount which shall work is made with: the way of requests that HYBRIDFS_TRANSPORT names, uring or dev; default auto).
# A script may define more to do at its end in a function on_exit.

# Folders may be relative to where the test starts.
absolute() { (cd "$1" && pwd); }
srcdir_top=$(absolute "${top_srcdir:-$(dirname "$0")/../..}")
builddir_top=$(absolute "${top_builddir:-${BUILD:-$srcdir_top/build}}")
MKFS=$builddir_top/mkfs/mkfs.hybridfs
DAEMON=$builddir_top/fs/hybridfs
via=transport=${HYBRIDFS_TRANSPORT:-auto}
FSCK=$builddir_top/fsck/fsck.hybridfs

skip() { echo "skipped: $*"; exit 77; }
fail() { echo "FAILED: $*" >&2; exit 1; }

# Whether the kernel offers FUSE over io_uring, and we can use it.
has_uring() { grep -qs Y /sys/module/fuse/parameters/enable_uring && grep -qs '^#define HAVE_LIBURING' "$builddir_top/config.h"; }
no_uring='no FUSE over io_uring: it needs Linux 6.14, Y in /sys/module/fuse/parameters/enable_uring, and a build with liburing'

require_fuse() {
	[ -e /dev/fuse ] || skip "there is no /dev/fuse"
	[ -w /dev/fuse ] || skip "/dev/fuse is not for this user"
	[ "$via" != transport=uring ] || has_uring || skip "$no_uring"
	[ "$(id -u)" = 0 ] || command -v fusermount3 >/dev/null || skip "no fusermount3, which an ordinary user needs"
	for program in "$MKFS" "$DAEMON" "$FSCK"; do
		[ -x "$program" ] || fail "$program was not built"
	done
}

# Asks the kernel's table, because a dead FUSE mount answers nothing else. It writes blanks and backslashes as octal numbers.
is_mounted() { grep -qF " $(printf %s "$1" | sed 's/\\/\\134/g; s/ /\\040/g; s/\t/\\011/g') " /proc/self/mountinfo; }

# umount_lazily MOUNTPOINT: also when the daemon is dead.
umount_lazily() {
	if [ "$(id -u)" = 0 ]; then
		umount -l "$1"
	else
		fusermount3 -u -z "$1"
	fi
}

umount_cleanly() {
	if [ "$(id -u)" = 0 ]; then
		umount "$1"
	else
		fusermount3 -u "$1"
	fi
}

# A daemon that may still be writing is waited for by fsck and by the next mount: both find the image locked.
check_image() { "$FSCK" -n "$image" || fail "fsck.hybridfs -n exits with $? ${1:-}"; }

make_scratch() {
	scratch=$(mktemp -d "${TMPDIR:-/tmp}/hybridfs-test-XXXXXX")
	scratch=$(absolute "$scratch")
	mnt=$scratch/mnt
	image=$scratch/image
	mkdir "$mnt"
	trap 'end_of_test' EXIT
	trap 'exit 130' INT TERM HUP
}

end_of_test() {
	status=$?
	trap - EXIT INT TERM HUP
	jobs -p >"$scratch/jobs" # what is still running in the background
	while read -r job; do
		kill "$job" 2>/dev/null || true
	done <"$scratch/jobs"
	if command -v on_exit >/dev/null; then
		on_exit
	fi
	if is_mounted "$mnt"; then
		umount_cleanly "$mnt" 2>/dev/null || umount_lazily "$mnt" || true
	fi
	if [ "$status" = 0 ] || [ "$status" = 77 ] || [ -z "${KEEP:-}" ]; then
		rm -rf --one-file-system "$scratch"
	else
		echo "kept: $scratch"
	fi
	exit "$status"
}
