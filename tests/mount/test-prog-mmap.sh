#!/bin/sh
# SPDX-License-Identifier: MIT
# Two processes with one file mapped, and written, read, punched, cut and copied meanwhile: both always see the same, through every way, with
# and without a writeback cache; and so does a later mount.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 128M
seeds=${SEED:-1 2 3}
turns=${TURNS:-400}
for options in commit=1 writeback; do
	mount_image -o "$options"
	for seed in $seeds; do
		"$builddir_top/tests/mount/coherence" "$mnt/$options-$seed" "$scratch/$options-$seed" "$seed" "$turns" ||
			fail "-o $options; again: SEED=$seed TURNS=$turns $0"
	done
	finish
done
mount_image
for seed in $seeds; do
	for options in commit=1 writeback; do
		cmp "$mnt/$options-$seed" "$scratch/$options-$seed" || fail "after a remount; again: SEED=$seed TURNS=$turns $0"
	done
done
finish
