#!/bin/sh
# SPDX-License-Identifier: MIT
# mkfs -d: the mounted volume is the directory that it was filled from: contents, attributes, links, holes, xattrs.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
tree=$scratch/tree

mkdir -p "$tree/dir/sub"
head -c 2048 /dev/urandom >"$tree/inline"
head -c 2049 /dev/urandom >"$tree/no-inline"
head -c 3000000 /dev/urandom >"$tree/dir/large"
: >"$tree/empty"
ln "$tree/dir/large" "$tree/dir/sub/second-name"
ln -s "no where" "$tree/link"
mkfifo "$tree/fifo"
truncate -s 1G "$tree/sparse"
printf x | dd of="$tree/sparse" bs=1 seek=500000000 conv=notrunc 2>/dev/null
printf x >"$tree/$(printf 'new\nline')"
chmod 4751 "$tree/dir/large"
chmod 1770 "$tree/dir/sub"
if [ "$(id -u)" = 0 ]; then
	mknod "$tree/null" c 1 3
	chown 12:34 "$tree/inline"
	chown -h 56:78 "$tree/link"
fi
xattrs=false
! command -v setfattr >/dev/null || ! setfattr -n user.colour -v "dark blue" "$tree/dir" 2>/dev/null || xattrs=true
touch -d '1960-02-03 04:05:06.123456789' "$tree/no-inline"
touch -h -d '2001-02-03 04:05:06.987654321' "$tree/link"
touch -d '1999-01-01 00:00:00.000000001' "$tree/dir/sub" "$tree/dir" "$tree"

# Type, mode, owner, links, size, time, target of everything, and the root; the size of a directory is each filesystem's own.
listing() {
	(cd "$1" && find . -type d -printf '%P|%y|%m|%U|%G|%T@\n' -o -printf '%P|%y|%m|%U|%G|%n|%s|%T@|%l\n' | tr '\n' '/' | tr -s '/' '\n' |
		sort)
}

"$MKFS" -q -s 64M -d "$tree" "$image"
check_image
mount_image -o ro
listing "$tree" >"$scratch/want"
listing "$mnt" >"$scratch/got"
diff "$scratch/want" "$scratch/got" || fail "attributes"
for file in inline no-inline dir/large dir/sub/second-name sparse; do
	cmp "$tree/$file" "$mnt/$file" || fail "$file"
done
same "$(stat -c %i "$mnt/dir/large")" "$(stat -c %i "$mnt/dir/sub/second-name")" "two names of one file"
[ "$(stat -c %b "$mnt/sparse")" -le 64 ] || fail "the holes take $(stat -c %b "$mnt/sparse") sectors"
if $xattrs; then
	same "$(getfattr --only-values -n user.colour "$mnt/dir")" "dark blue" "extended attribute"
fi
[ "$(id -u)" != 0 ] || same "$(stat -c '%t %T' "$mnt/null")" "1 3" "device number"
finish

# Without -d the root belongs to who made it.
"$MKFS" -q -f "$image"
mount_image
same "$(stat -c '%u %g' "$mnt")" "$(id -u) $(id -g)" "owner of a new root"
head -c 8000000 /dev/urandom >"$mnt/data"
unmount_image

# Making it anew gives the space of the image back, unless -K says not to.
if fallocate -p -o 0 -l 4096 "$tree/inline" 2>/dev/null; then
	used=$(stat -c %b "$image")
	"$MKFS" -q -f -K "$image"
	[ "$(stat -c %b "$image")" -ge "$used" ] || fail "-K has discarded blocks"
	"$MKFS" -q -f "$image"
	[ "$(stat -c %b "$image")" -lt $((used / 2)) ] || fail "the old blocks were not discarded"
	check_image
fi
