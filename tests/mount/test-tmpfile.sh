#!/bin/sh
# SPDX-License-Identifier: MIT
# O_TMPFILE: files without a name, which may get one; without one they go with the last who has them open, also when that was a crash.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 128M
holder=
on_exit() { [ -z "$holder" ] || kill -9 "$holder" 2>/dev/null || true; }
used_kb() { df -k --output=used "$mnt" | tail -n 1 | tr -d ' '; }
# Opens a file that gets the name "late" and one that stays nameless, both fsync'ed, until $holder is killed.
hold() {
	: >"$scratch/out" # before the process starts: what is in there must be its own
	"$LINUXOP" tmpfile-hold "$1" >"$scratch/out" &
	holder=$!
	wait_until 15 grep -q ready "$scratch/out" || fail "tmpfile-hold"
}

mount_image
mkdir "$mnt/dir" "$mnt/group"
"$LINUXOP" tmpfile "$mnt/dir" || fail "O_TMPFILE"
"$FSOP" fsync "$mnt" # the database has its size now
before=$(used_kb)
"$LINUXOP" tmpfile "$mnt/dir" || fail "O_TMPFILE once more"
freed() { [ "$(used_kb)" -le $((before + 256)) ]; }
wait_until 15 freed || fail "the space of nameless files did not come back: $before KiB before, $(used_kb) now"

# The daemon dies while one is open that has got a name, and one that has none.
hold "$mnt/dir"
kill -9 "$(daemon_pid)"
kill -9 "$holder"
wait "$holder" 2>/dev/null || true
holder=
umount_lazily "$mnt"
check_image "as the kill left it"
mount_image
"$LINUXOP" has-pieces "$mnt/dir/late" || fail "the file with a late name after a crash"
same "$(stat -c '%h %a' "$mnt/dir/late")" "1 640" "the file with a late name after a crash"
same "$(ls "$mnt/dir")" late "names after a crash"
rm "$mnt/dir/late"
wait_until 15 freed || fail "a nameless file stayed after a crash: $before KiB before, $(used_kb) now"

# What a directory gives its new files it gives these, too.
if [ "$(id -u)" = 0 ]; then
	chown 0:12 "$mnt/group"
	chmod 2775 "$mnt/group"
	! command -v setfacl >/dev/null || setfacl -d -m u:7:rw "$mnt/group"
	hold "$mnt/group"
	same "$(stat -c %g "$mnt/group/late")" 12 "the group of a setgid directory"
	! command -v setfacl >/dev/null || getfacl -cnp "$mnt/group/late" | grep -q "^user:7:rw-" || fail "the default ACL of a directory"
	kill -9 "$holder"
	wait "$holder" 2>/dev/null || true
	holder=
fi
finish
mount_image -o ro
if "$LINUXOP" tmpfile "$mnt/dir" 2>"$scratch/err"; then fail "O_TMPFILE on a read-only volume"; fi
grep -q "Read-only file system" "$scratch/err" || fail "read-only: $(cat "$scratch/err")"
finish
