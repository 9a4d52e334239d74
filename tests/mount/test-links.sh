#!/bin/sh
# SPDX-License-Identifier: MIT
# One inode under several names, and under none: hard links share everything, an open file without a name lives until it is closed.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 64M
mount_image

mkdir "$mnt/dir"
echo one >"$mnt/a"
ln "$mnt/a" "$mnt/dir/b"
ln "$mnt/a" "$mnt/c"
same "$(stat -c %i "$mnt/a")" "$(stat -c %i "$mnt/dir/b")" "inode"
same "$(stat -c %h "$mnt/c")" 3 "links"
cat "$mnt/a" "$mnt/dir/b" >/dev/null
echo two >>"$mnt/a"
same "$(cat "$mnt/dir/b")" "$(printf 'one\ntwo')" "through the other name"
rm "$mnt/a"
same "$(stat -c %h "$mnt/c")" 2 "links after rm"
chmod 640 "$mnt/c"
same "$(stat -c %a "$mnt/dir/b")" 640 "mode through the other name"
if ln "$mnt/dir" "$mnt/dir2" 2>/dev/null; then fail "a hard link to a directory"; fi
same "$(stat -c %h "$mnt")" 3 "links of the root"
ln -s nowhere "$mnt/sym"
same "$(readlink "$mnt/sym")" nowhere "symbolic link"

used_kb() { df -k --output=used "$mnt" | tail -n 1 | tr -d ' '; }
before=$(used_kb)
"$FSOP" unlinked "$mnt/nameless" || fail "a file without a name"
# The same for a file that rename has replaced.
echo kept >"$mnt/x"
exec 9<"$mnt/x"
echo new >"$mnt/y"
mv "$mnt/y" "$mnt/x"
same "$(cat <&9)" kept "a replaced file that is open"
exec 9<&-
freed() { [ "$(used_kb)" -le $((before + 256)) ]; }
wait_until 15 freed || fail "the space of the nameless file did not come back: $before KiB before, $(used_kb) now"

# Nameless when the daemon dies: gone after the next mount.
exec 8>"$mnt/orphan"
dd if=/dev/zero bs=64k count=32 >&8 2>/dev/null
rm "$mnt/orphan"
"$FSOP" fsync "$mnt"
kill -9 "$(daemon_pid)"
exec 8>&- || true
umount_lazily "$mnt"
mount_image
wait_until 15 freed || fail "an orphan stayed after the remount: $before KiB before, $(used_kb) now"
same "$(cat "$mnt/dir/b")" "$(printf 'one\ntwo')" "after a crash"
finish
