#!/bin/sh
# SPDX-License-Identifier: MIT
# A directory of 20,000 files is walked while everything that is seen is deleted: each name is seen exactly once. Beside it, files come
# and go in the same directory, which must not disturb the walk.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 256M
mount_image
mkdir "$mnt/dir"
(
	i=0
	while [ ! -e "$mnt/stop" ]; do
		: >"$mnt/dir/other-$i"
		rm "$mnt/dir/other-$i"
		i=$((i + 1))
	done
) &
busy=$!
status=0
"$FSOP" readdir-delete "$mnt/dir" 20000 || status=$?
: >"$mnt/stop"
wait "$busy"
[ "$status" = 0 ] || fail "walking and deleting"
same "$(ls -A "$mnt/dir")" "" "after deleting everything"
rmdir "$mnt/dir" || fail "rmdir"
finish
