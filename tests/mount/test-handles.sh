#!/bin/sh
# SPDX-License-Identifier: MIT
# File handles, as a server of NFS keeps them: they find the same file when the kernel has forgotten it, when it has other names, and after
# remounts; that of a deleted file finds nothing, whatever was made since.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_root "open_by_handle_at needs CAP_DAC_READ_SEARCH"
require_fuse
make_scratch
format 64M
mount_image

opens() {
	sync
	echo 2 >/proc/sys/vm/drop_caches 2>/dev/null || true # the kernel forgets, and must ask for the number alone
	for name in file dir deep renamed; do
		same "$("$LINUXOP" handle-open "$mnt" "$scratch/$name.handle")" "$(cat "$scratch/$name.want")" "$name, $1"
	done
	for name in deleted replaced removed; do
		same "$("$LINUXOP" handle-open "$mnt" "$scratch/$name.handle")" ESTALE "$name, $1"
	done
}
save() {
	"$LINUXOP" handle-save "$mnt/$2" "$scratch/$1.handle" || fail "name_to_handle_at $2"
	echo "$3" >"$scratch/$1.want"
}

mkdir -p "$mnt/dir/a/b" "$mnt/removed"
for name in file dir/a/b/deep old-name deleted replaced; do
	echo "$name" >"$mnt/$name"
done
save file file file
save dir dir/a directory
save deep dir/a/b/deep dir/a/b/deep
save renamed old-name old-name
save deleted deleted ""
save replaced replaced ""
save removed removed ""
mv "$mnt/old-name" "$mnt/dir/new-name"
rm "$mnt/deleted"
rmdir "$mnt/removed"
echo another >"$mnt/other"
mv "$mnt/other" "$mnt/replaced"
i=0
while [ $i -lt 200 ]; do # whatever is made now must not get a number that was used before
	echo "$i" >"$mnt/after-$i"
	i=$((i + 1))
done
opens "at once"
unmount_image
mount_image
opens "after a remount"
mv "$mnt/dir" "$mnt/moved"
opens "after its directory was moved"
pid=$(daemon_pid)
"$FSOP" fsync "$mnt"
kill -9 "$pid"
umount_lazily "$mnt"
mount_image
opens "after a crash"

# Through an export: the kernel goes from a handle up to the root by "..".
(cd "$mnt/moved/a/b" && echo 2 >/proc/sys/vm/drop_caches 2>/dev/null || true)
same "$(cd "$mnt/moved/a/b" && pwd -P)" "$mnt/moved/a/b" "the way up"
finish
