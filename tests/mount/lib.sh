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

# format [SIZE]: a new volume in $image.
format() {
	rm -f "$image"
	"$MKFS" -q -s "${1:-256M}" "$image"
}

# mount_image [options of hybridfs]
mount_image() { "$DAEMON" "$@" "$image" "$mnt" || fail "hybridfs $* exits with $?"; }

# Returns when the daemon has let go of the image.
unmount_image() { "$UMOUNT" "$mnt" || fail "umount.hybridfs exits with $?"; }

# Unmounts and checks.
finish() {
	unmount_image
	check_image "$@"
}

# The process that serves $mnt: the one that holds the lock on $image.
daemon_pid() { awk -v ino="$(stat -c %i "$image")" '$2 == "FLOCK" && $6 ~ ":" ino "$" { print $5 }' /proc/locks; }

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
