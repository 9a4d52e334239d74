#!/bin/sh
# SPDX-License-Identifier: MIT
# flock, fcntl and OFD locks: they conflict, make wait, and end with their owner; waiting is interrupted by a signal; deadlocks are told. Leases are
# granted and broken. Calls that signals interrupt. All of it with a writeback cache, too.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 128M
for options in rw writeback; do
	mount_image -o "$options"
	echo locked >"$mnt/file"
	"$LINUXOP" locks "$mnt/file" || fail "locks, -o $options"
	"$LINUXOP" lease "$mnt/file" || fail "leases, -o $options"
	"$LINUXOP" interrupt "$mnt/interrupted" 300 || fail "signals, -o $options"
	same "$(cat "$mnt/file")" locked "-o $options"
	rm "$mnt/interrupted"* "$mnt/file"
	finish
done
