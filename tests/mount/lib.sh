# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# For the scripts of this folder to source, after `set -eu`. On top of ../mounted.sh: one volume in a scratch folder, mounted and
# unmounted in the words of the tests.
#
# Sets, beyond what mounted.sh sets: UMOUNT, FSOP, LINUXOP (programs).
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/mounted.sh
. "$here/../mounted.sh"
UMOUNT=$builddir_top/fs/umount.hybridfs
FSOP=$builddir_top/tests/mount/fsop
LINUXOP=$builddir_top/tests/mount/linuxop

require_root() { [ "$(id -u)" = 0 ] || skip "needs root: $*"; }

# require_programs NAME…
require_programs() {
	for program; do
		command -v "$program" >/dev/null || skip "no $program"
	done
}

# format [SIZE]: a new volume in $image.
format() {
	rm -f "$image"
	"$MKFS" -q -s "${1:-256M}" "$image"
}

# mount_image [options of hybridfs]
mount_image() { "$DAEMON" -o "$via" "$@" "$image" "$mnt" || fail "hybridfs $* exits with $?"; }

# Returns when the daemon has let go of the image. A mount may be busy for a moment because somebody walks over all mounts, or over all
# processes and holds what one that just ended had mapped.
unmount_image() { wait_until 5 "$UMOUNT" "$mnt" || fail "umount.hybridfs does not unmount"; }

# Unmounts and checks.
finish() {
	unmount_image
	check_image "$@"
}

# The process that serves $mnt: the one that holds the lock on $image.
daemon_pid() { awk -v ino="$(stat -c %i "$image")" '$2 == "FLOCK" && $6 ~ ":" ino "$" { print $5 }' /proc/locks; }

# kill -9 of the daemon. What it leaves is checked as it lies there.
kill_daemon() {
	pid=$(daemon_pid)
	kill -9 "$pid" || fail "no daemon to kill"
	wait_until 10 is_gone "$pid" || fail "the killed daemon stays"
	umount_lazily "$mnt"
	check_image "as the kill left it"
}

# For tests that root starts, right after make_scratch: "user COMMAND…" runs something as an ordinary user. That one may mount, has a folder
# $scratch/home with $mnt and $image in it, and programs of its own there, because the build folder may be closed to others. When an
# ordinary user runs the test, it is that one.
make_user() {
	mkdir "$scratch/home" "$scratch/home/mnt" "$scratch/bin"
	mnt=$scratch/home/mnt
	image=$scratch/home/image
	[ "$(id -u)" = 0 ] || return 0
	require_programs setpriv
	chmod 755 "$scratch"
	cp "$MKFS" "$DAEMON" "$FSCK" "$UMOUNT" "$scratch/bin/"
	MKFS=$scratch/bin/mkfs.hybridfs DAEMON=$scratch/bin/hybridfs FSCK=$scratch/bin/fsck.hybridfs UMOUNT=$scratch/bin/umount.hybridfs
	chown -R 65534:65534 "$scratch/home"
	# Without udev /dev/fuse may be root's alone: then the test starts anew in a namespace that has one that is not.
	if ! user test -w /dev/fuse; then
		[ -z "${TEST_USER_AGAIN:-}" ] || skip "/dev/fuse is not for users here"
		TEST_USER_AGAIN=1 unshare -m --propagation private sh -c '
			umount -i -a -l -t fuse.hybridfs # copies, that would keep the volumes of other tests
			mknod -m 666 "$1/fuse" c 10 229 && mount --bind "$1/fuse" /dev/fuse && shift && exec "$@"' sh "$scratch" sh "$0"
		exit
	fi
	user test -x "$DAEMON" || skip "the scratch folder is closed to others"
}

user() {
	if [ "$(id -u)" = 0 ]; then
		(cd / && HOME=$scratch/home setpriv --reuid=65534 --regid=65534 --clear-groups "$@")
	else
		"$@"
	fi
}

# wait_until SECONDS COMMAND…: until the command succeeds.
wait_until() {
	tries=$(($1 * 20))
	shift
	until "$@"; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || return 1
		sleep 0.05
	done
}

is_gone() { ! kill -0 "$1" 2>/dev/null || grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }

# fails_with STATUS TEXT COMMAND…: the command must exit with that status and say one line with that text on stderr.
fails_with() {
	want=$1 text=$2
	shift 2
	got=0
	"$@" >"$scratch/out" 2>"$scratch/err" || got=$?
	[ "$got" = "$want" ] || fail "$*: exits with $got instead of $want: $(cat "$scratch/err")"
	[ "$(wc -l <"$scratch/err")" = 1 ] || fail "$*: not one line: $(cat "$scratch/err")"
	grep -qF -e "$text" "$scratch/err" || fail "$*: does not say '$text': $(cat "$scratch/err")"
}

same() { [ "$1" = "$2" ] || fail "${3:-}: '$1' is not '$2'"; }

# can_acl FOLDER: whether files there have ACLs.
can_acl() {
	command -v setfacl >/dev/null || return 1
	: >"$1/.acl"
	can=0
	setfacl -m u:12345:r "$1/.acl" 2>/dev/null || can=1
	rm "$1/.acl"
	return $can
}

# make_tree FOLDER: one of everything that programs which copy trees have to keep.
make_tree() (
	mkdir "$1" "$1/dir" "$1/dir/sub"
	cd "$1" || exit
	echo plain >plain
	: >empty
	echo deep >dir/sub/deep
	dd if=/dev/urandom of=large bs=1M count=5 2>/dev/null
	truncate -s 20M sparse
	printf middle | dd of=sparse bs=1 seek=7000000 conv=notrunc 2>/dev/null
	echo linked >link-1
	ln link-1 link-2
	ln link-1 dir/link-3
	ln -s plain symlink
	ln -s /nowhere/at/all dangling
	mkfifo fifo
	echo name >"$(printf 'odd \n\t\\ \377 name')"
	chmod 6755 large
	chmod 400 empty
	chmod 1777 dir/sub
	setfattr -n user.name -v value plain
	setfattr -n user.empty dir
	if [ "$(id -u)" = 0 ]; then
		mknod null c 1 3
		mknod block b 7 250
		chown 12345:23456 link-1 plain
		chown -h 12345:23456 symlink
		setfattr -h -n trusted.name -v value symlink
		setfattr -n trusted.name -v value dir/sub
	fi
	touch -h -d '2001-02-03 04:05:06.123456789' symlink
	touch -d '1969-12-31 23:59:58.5 UTC' plain
	touch -d '2001-02-03 04:05:06.123456789' large dir/sub dir
)

# What list_tree says and what files hold is the same in both folders. Sizes of folders are the filesystem's own affair.
list_tree() {
	(cd "$1" && find . -printf '%p %y %#m %n %U %G %T@ %l ' \( -type d -printf '\n' -o -printf '%s\n' \) | LC_ALL=C sort
		getfattr -R -P -h -d -m '^(user|trusted)\.' . | awk -v RS= '{ print | "LC_ALL=C sort" }')
}
same_tree() {
	diff -r --no-dereference -x fifo -x null -x block "$1" "$2" || fail "$2 is not $1, $3"
	list_tree "$1" >"$scratch/list-1"
	list_tree "$2" >"$scratch/list-2"
	diff "$scratch/list-1" "$scratch/list-2" || fail "attributes in $2, $3"
}
