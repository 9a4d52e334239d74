#!/bin/sh
# SPDX-License-Identifier: MIT
# Modes, owners, times in nanoseconds, extended attributes, special files, statfs.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 64M
mount_image
cd "$mnt"

touch -d '2031-05-06 07:08:09.123456789 UTC' file
touch -a -d '1931-02-03 04:05:06.000000001 UTC' file
ln -s nowhere link
touch -h -d '2200-01-01 00:00:00.5 UTC' link
mkdir dir
chmod 1751 dir
chmod 4711 file
attributes() {
	stat -c '%n %a %s %.9X %.9Y' file link
	stat -c '%n %a' dir
}
want="file 4711 0 -1227902093.999999999 1935817689.123456789
link 777 7 $(date -d '2200-01-01 UTC' +%s).500000000 $(date -d '2200-01-01 UTC' +%s).500000000
dir 1751"
same "$(attributes)" "$want" "attributes"

# A change moves ctime, writing moves mtime, and both are seen at once.
touch -d '2001-01-01' old
echo text >>old
[ "$(stat -c %Y old)" -gt 1600000000 ] || fail "mtime after writing"
before=$(stat -c %z dir)
sleep 0.02
touch dir/entry
[ "$(stat -c %z dir)" != "$before" ] || fail "times of a directory after a change in it"
same "$(stat -c %s old)" 5 "size"

# What is copied by copy_file_range(2), as cp does, was read.
touch -a -d '2001-01-01' old
cp old copy
[ "$(stat -c %X old)" -gt 1600000000 ] || fail "atime of the source of a copy: $(stat -c %x old)"

if command -v setfattr >/dev/null; then
	setfattr -n user.name -v value file
	setfattr -n user.binary -v 0x00ff0a file
	same "$(getfattr --only-values -n user.name file)" value "an extended attribute"
	same "$(getfattr -d -e hex file | grep -c ^user.)" 2 "listing"
	setfattr -n user.name -v other file
	same "$(getfattr --only-values -n user.name file)" other "replaced"
	setfattr -x user.binary file
	if getfattr -n user.binary file >/dev/null 2>&1; then fail "a removed attribute"; fi
	setfattr -n user.big -v "$(printf '%03000d' 1)" file
	same "$(getfattr --only-values -n user.big file | wc -c)" 3000 "3000 bytes"
fi

mkfifo fifo
if [ "$(id -u)" = 0 ]; then
	mknod null c 1 3
	mknod block b 259 70000
	same "$(stat -c '%F %Hr %Lr' block)" "block special file 259 70000" "device number"
	echo gone >null
	chown 12345:54321 file link -h
	same "$(stat -c '%u:%g %a' file)" "12345:54321 711" "chown, which clears setuid"
fi
[ -p fifo ] || fail "fifo"
same "$(stat -f -c '%l %S' .)" "255 4096" "statfs"
"$FSOP" ioctl file || fail "ioctl"
cp --reflink=auto old copy
cmp old copy || fail "cp"

cd /
unmount_image
check_image
mount_image
cd "$mnt"
[ "$(id -u)" != 0 ] || want=$(echo "$want" | sed 's/4711/711/')
same "$(attributes)" "$want" "attributes after a remount"
[ -p fifo ] || fail "fifo after a remount"
! command -v getfattr >/dev/null || same "$(getfattr --only-values -n user.name file)" other "an extended attribute after a remount"
cd /
finish

# The label of the volume can be read and changed while it is mounted.
rm "$image"
"$MKFS" -q -s 64M -L first "$image"
mount_image
same "$("$FSOP" label "$mnt")" first "the label that mkfs gave"
long=$(printf '%063d' 7)
"$FSOP" label-set "$mnt" "$long" || fail "a label of 63 bytes"
fails_with 1 "Invalid argument" "$FSOP" label-set "$mnt" "${long}8"
same "$("$FSOP" label "$mnt")" "$long" "the label after one that was refused"
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	chmod 755 "$scratch"
	fails_with 1 "not permitted" setpriv --reuid=65534 --clear-groups "$FSOP" label-set "$mnt" mine
fi
unmount_image
mount_image -o ro
same "$("$FSOP" label "$mnt")" "$long" "the label after a remount"
fails_with 1 "Read-only" "$FSOP" label-set "$mnt" no
finish
