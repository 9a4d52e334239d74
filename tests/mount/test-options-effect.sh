#!/bin/sh
# SPDX-License-Identifier: MIT
# What the mount options do: access times, the commit interval, the writeback cache, and the kernel's own flags.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 64M
on_exit() { [ -z "${pid:-}" ] || kill -9 "$pid" 2>/dev/null || true; }

# Access times. A mount of its own for each look: what the kernel has in its cache is no read for the daemon.
old=$(date -d '2 hours ago' +%s)
new=$(date -d '1 hour ago' +%s)
# atime_after MOUNT_OPTIONS ATIME MTIME: the access time after a read under these options.
atime_after() {
	mount_image
	head -c 10000 /dev/zero >"$mnt/file"
	touch -m -d "@$3" "$mnt/file"
	touch -a -d "@$2" "$mnt/file"
	unmount_image
	mount_image -o "$1"
	cat "$mnt/file" >/dev/null
	stat -c %X "$mnt/file"
	unmount_image
}
# The change time is now: relatime sees an older access time, whatever the modification time is.
tomorrow=$(date -d tomorrow +%s)
[ "$(atime_after relatime "$old" "$new")" -gt "$new" ] || fail "relatime does not update an old access time"
same "$(atime_after relatime "$tomorrow" "$old")" "$tomorrow" "relatime updates a recent access time"
same "$(atime_after noatime "$old" "$new")" "$old" "noatime updates the access time"
[ "$(atime_after strictatime "$tomorrow" "$old")" -lt "$tomorrow" ] || fail "strictatime does not update the access time"

# commit=: without fsync a change is on the device after that time, and not much earlier.
# survives_crash SECONDS NAME OPTIONS: whether a new file is there after a kill that many seconds after it was made.
survives_crash() {
	mount_image -o "$3"
	pid=$(daemon_pid)
	echo content >"$mnt/$2"
	sleep "$1"
	kill -9 "$pid"
	wait_until 10 is_gone "$pid" || fail "the killed daemon stays"
	pid=
	umount_lazily "$mnt"
	mount_image
	found=1
	if [ -e "$mnt/$2" ]; then
		found=0
		same "$(cat "$mnt/$2")" content "after a crash"
	fi
	unmount_image
	return $found
}
survives_crash 2.5 early commit=1 || fail "commit=1 has not committed after 2.5 seconds"
if survives_crash 6.5 late commit=3600; then fail "commit=3600 has committed after 6.5 seconds"; fi

# writeback: the kernel hands over small writes as one.
# requests OPTIONS: how many WRITE requests 200 writes of a byte become.
requests() {
	"$DAEMON" -d -o "$via,$1" "$image" "$mnt" 2>"$scratch/debug" &
	pid=$!
	wait_until 10 is_mounted "$mnt" || fail "-d does not mount"
	dd if=/dev/zero of="$mnt/bytes" bs=1 count=200 2>/dev/null
	unmount_image
	wait "$pid" || fail "-d exits with $?"
	pid=
	grep -c 'opcode: WRITE ' "$scratch/debug" || true
}
[ "$(requests rw)" -ge 200 ] || fail "without writeback the daemon must see each write"
[ "$(requests writeback)" -le 10 ] || fail "writeback: the kernel does not collect writes"

# What is the kernel's business arrives there.
mount_image -o noexec,nosuid,nodev,sync,noatime
flags=$(awk -v dir="$mnt" '$5 == dir { print $6 "," $NF }' /proc/self/mountinfo)
for flag in noexec nosuid nodev sync; do
	case ,$flags, in
	*,"$flag",*) ;;
	*) fail "$flag did not arrive: $flags" ;;
	esac
done
finish
