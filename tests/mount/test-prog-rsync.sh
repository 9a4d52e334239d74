#!/bin/sh
# SPDX-License-Identifier: MIT
# rsync to a volume and back, with hard links, holes, extended attributes and special files, and ACLs where the mount has them: what
# comes back is what went, and a second run finds nothing to do. Large files that changed a little are changed in place.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
require_programs rsync setfattr getfattr
make_scratch
format 256M
tree=$scratch/tree
make_tree "$tree"

mount_image
options=-aHX
if can_acl "$mnt" && can_acl "$scratch"; then
	options=-aHAX
	setfacl -m u:12345:rw,g:23456:r "$tree/plain"
	setfacl -d -m u:12345:rwx "$tree/dir"
fi
# sync FROM TO [more options]: what it did, a line for each thing. The window: rsync takes times of the same second for the same.
sync() { rsync "$options" --numeric-ids --modify-window=-1 -i --delete "$@"; }
nothing_to_do() { same "$(sync -nc "$1/" "$2/")" "" "rsync from $1 to $2 again, $3"; }

sync --sparse "$tree/" "$mnt/tree/" >/dev/null || fail "rsync to the volume"
nothing_to_do "$tree" "$mnt/tree" "at once"
same_tree "$tree" "$mnt/tree" "at once"
[ "$(stat -c %b "$mnt/tree/sparse")" -le 1024 ] || fail "a sparse file takes $(stat -c %b "$mnt/tree/sparse") sectors"
finish
mount_image -o writeback
nothing_to_do "$tree" "$mnt/tree" "after a remount"
sync --sparse "$mnt/tree/" "$scratch/back/" >/dev/null || fail "rsync from the volume"
same_tree "$tree" "$scratch/back" "and back"

# Changes: in a large file, by name, by attribute, and less.
printf changed | dd of="$tree/large" bs=1 seek=3000000 conv=notrunc 2>/dev/null
echo more >>"$tree/plain"
mv "$tree/dir/sub" "$tree/moved"
rm "$tree/link-1"
chmod 700 "$tree/dir"
setfattr -n user.new -v value "$tree/link-2"
sync --inplace --no-whole-file "$tree/" "$mnt/tree/" >"$scratch/did" || fail "rsync of changes"
grep -q '^[<>]f.*large$' "$scratch/did" || fail "rsync saw no change: $(cat "$scratch/did")"
nothing_to_do "$tree" "$mnt/tree" "after changes"
finish
mount_image
nothing_to_do "$tree" "$mnt/tree" "after changes and a remount"
same_tree "$tree" "$mnt/tree" "after changes and a remount"
finish
