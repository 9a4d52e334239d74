#!/bin/sh
# SPDX-License-Identifier: MIT
# As many names of a file as may be, and more subdirectories than ext4 can count.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 256M
mount_image
echo linked >"$mnt/file"
"$LINUXOP" links "$mnt/file" 65000 || fail "65000 links"
same "$(ls "$mnt")" file "names afterwards"
mkdir "$mnt/dir"
"$LINUXOP" subdirs "$mnt/dir" 66000 || fail "66000 subdirectories"
finish
