#!/bin/sh
# SPDX-License-Identifier: MIT
# The main job: a real tree goes in, and is the same at once, after a remount, and with a writeback cache; fsck finds nothing.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
tree=${SOURCE:-/usr/include}
[ -d "$tree" ] || tree=$srcdir_top
make_scratch
format 2G

listing() { (cd "$1" && find . -printf '%p %y %m %U %G %s %T@ %l\n' | sed 's/^\(.* d .*\) [0-9]* \([0-9.]* \)$/\1 \2/' | sort); }
compare() {
	diff -r --no-dereference "$tree" "$1" || fail "$1 is not $tree, $2"
	listing "$1" >"$scratch/copy.list"
	diff "$scratch/tree.list" "$scratch/copy.list" || fail "attributes, $2"
}
listing "$tree" >"$scratch/tree.list"

mount_image
cp -a "$tree" "$mnt/tree"
[ "$(id -u)" = 0 ] || listing "$mnt/tree" >"$scratch/tree.list" # an ordinary user's copy has another owner
compare "$mnt/tree" "at once"
finish
mount_image
compare "$mnt/tree" "after a remount"
finish

mount_image -o writeback
cp -a "$tree" "$mnt/writeback"
compare "$mnt/writeback" "with a writeback cache"
finish
mount_image
compare "$mnt/writeback" "after a writeback cache"
rm -r "$mnt/tree" "$mnt/writeback"
same "$(ls -A "$mnt")" "" "after rm -r"
finish
