#!/bin/sh
# SPDX-License-Identifier: MIT
# kill -9 in the middle of work: the image is consistent as it lies there, what was fsync'ed is there, and so is what is older than
# the commit interval.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 512M
mount_image -o commit=1

echo old >"$mnt/old"
sleep 2.5
for round in 1 2; do
	(cd "$mnt"; i=0; while mkdir "$round-$i" && cp -a "$srcdir_top/util" "$round-$i/"; do i=$((i + 1)); done) 2>/dev/null &
	work=$!
	sleep 1
	echo "safe $round" >"$mnt/safe-$round"
	"$FSOP" fsync "$mnt/safe-$round"
	"$FSOP" fsync "$mnt"
	kill_daemon
	wait "$work" || true
	mount_image -o commit=1
	same "$(cat "$mnt/old")" old "older than the commit interval"
	same "$(cat "$mnt/safe-$round")" "safe $round" "fsync'ed"
	find "$mnt" -type f -exec cat {} + >/dev/null || fail "a file cannot be read"
done
finish
