#!/bin/sh
# SPDX-License-Identifier: MIT
# tar packs and unpacks on a volume: sparse files stay sparse, attributes and special files are kept, and ACLs where the mount has them.
# Also incremental archives, which trust inode numbers and times.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
require_programs tar setfattr getfattr
tar --version | grep -q "GNU tar" || skip "not GNU tar"
make_scratch
format 256M
tree=$scratch/tree
make_tree "$tree"
# Sizes and holes of all kinds: none, at the start, at the end, only a hole, many.
mkdir "$tree/holes"
truncate -s 3M "$tree/holes/only"
truncate -s 100M "$tree/holes/end"
printf data | dd of="$tree/holes/start" bs=1 seek=5000000 2>/dev/null
printf data | dd of="$tree/holes/end" bs=1 conv=notrunc 2>/dev/null
for i in 0 1 2 3 4 5 6 7 8 9; do
	printf %70000s $i | dd of="$tree/holes/many" bs=1M seek=$((i * 1000003)) oflag=seek_bytes conv=notrunc 2>/dev/null
done

mount_image
options='--xattrs --xattrs-include=* --sparse --numeric-owner'
if can_acl "$mnt" && can_acl "$scratch"; then
	options="$options --acls"
	setfacl -m u:12345:rw,g:23456:r "$tree/plain"
	setfacl -d -m u:12345:rwx "$tree/dir"
fi
set -f # $options is a list of words
# shellcheck disable=SC2086
packed() { tar $options "$@"; }
pack() { packed -cf "$1" -C "$2" .; }
unpack() { packed -xpf "$1" -C "$2"; }
unchanged() { packed -df "$1" -C "$2" >"$scratch/err" 2>&1 || fail "tar finds differences, $3: $(cat "$scratch/err")"; }
holes_are_holes() {
	for file in only end start many; do
		there=$(stat -c %b "$1/holes/$file")
		[ "$there" -le 2000 ] || fail "holes/$file takes $there sectors, $2"
	done
}

pack "$scratch/archive" "$tree" || fail "packing"
mkdir "$mnt/tree"
unpack "$scratch/archive" "$mnt/tree" || fail "unpacking on the volume"
unchanged "$scratch/archive" "$mnt/tree" "at once"
same_tree "$tree" "$mnt/tree" "at once"
holes_are_holes "$mnt/tree" "at once"
finish

mount_image -o writeback
unchanged "$scratch/archive" "$mnt/tree" "after a remount"
holes_are_holes "$mnt/tree" "after a remount"
pack "$mnt/archive" "$mnt/tree" || fail "packing on the volume"
[ "$(stat -c %s "$mnt/archive")" -lt 30000000 ] || fail "tar did not find the holes: $(stat -c %s "$mnt/archive") bytes"
mkdir "$scratch/back"
unpack "$mnt/archive" "$scratch/back"
same_tree "$tree" "$scratch/back" "and back"

# Incremental: the second archive has what changed, and no more. A renamed folder is known by its inode number.
packed -cf "$mnt/full" -g "$scratch/state" -C "$mnt/tree" . || fail "a full archive"
echo more >>"$mnt/tree/plain"
mv "$mnt/tree/dir/sub" "$mnt/tree/dir/renamed"
packed -cf "$mnt/changes" -g "$scratch/state" -C "$mnt/tree" . || fail "an incremental archive"
same "$(tar -tf "$mnt/changes" | grep -v '/$')" ./plain "what an incremental archive has"
finish
mount_image
unchanged "$mnt/changes" "$mnt/tree" "of an incremental archive after a remount"
finish
