#!/bin/sh
# SPDX-License-Identifier: MIT
# Reading only: by option, by itself on a write-protected device, and of a volume that was not unmounted. Not a byte is changed.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
loop=
on_exit() { [ -z "$loop" ] || { umount_lazily "$mnt" 2>/dev/null; losetup -d "$loop"; } || true; }
format 64M

mount_image
echo text >"$mnt/file"
"$FSOP" fsync "$mnt/file"
unmount_image
before=$(cksum <"$image")

reads_only() {
	same "$(cat "$mnt/file")" text "$1"
	for change in "touch $mnt/new" "rm -f $mnt/file" "mkdir $mnt/dir" "chmod 600 $mnt/file"; do
		if $change 2>"$scratch/err"; then fail "$1: $change"; fi
		grep -q "Read-only file system" "$scratch/err" || fail "$1: $change: $(cat "$scratch/err")"
	done
	df "$mnt" >/dev/null
}

mount_image -o ro
reads_only "-o ro"
# Reading does not exclude reading.
mkdir "$scratch/second"
"$DAEMON" -o "$via,ro" "$image" "$scratch/second" || fail "a second mount, both for reading"
"$UMOUNT" "$scratch/second"
unmount_image
same "$(cksum <"$image")" "$before" "-o ro changed the image"

# Not unmounted, then only read: the write-ahead log is read where it is.
mount_image -o commit=3600
echo more >"$mnt/more"
"$FSOP" fsync "$mnt/more"
kill -9 "$(daemon_pid)"
umount_lazily "$mnt"
before=$(cksum <"$image")
mount_image -o ro
same "$(cat "$mnt/more")" more "-o ro after a crash"
unmount_image
same "$(cksum <"$image")" "$before" "-o ro after a crash changed the image"
mount_image
unmount_image
check_image

if [ "$(id -u)" = 0 ] && loop=$(losetup -r -f --show "$image" 2>/dev/null); then
	"$DAEMON" -o "$via" "$loop" "$mnt" 2>"$scratch/err" || fail "a write-protected device: $(cat "$scratch/err")"
	grep -q "mounted read-only" "$scratch/err" || fail "no warning: $(cat "$scratch/err")"
	reads_only "a write-protected device"
	unmount_image
fi
