#!/bin/sh
# SPDX-License-Identifier: MIT
# The model test on a real mount: for each seed, random operations on HybridFS and on tmpfs with everything compared, then the same
# comparison after a remount, and a check of the image.
#
#     SEEDS="1 2 3" OPS=5000 tests/model/test-model.sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/mounted.sh
. "$here/../mounted.sh"

require_fuse
[ -w /dev/shm ] || skip "no /dev/shm for the reference"
# Two seeds that everybody has, so that a failure does not go away by itself, and a new one, so that the test learns more each time.
seeds=${SEEDS:-1 2 $(date +%s)}
ops=${OPS:-5000}
model=$builddir_top/tests/model/model

make_scratch
reference=$(mktemp -d /dev/shm/hybridfs-model-XXXXXX)
on_exit() { rm -rf "$reference"; }

"$MKFS" -q -s 2G "$image"
for seed in $seeds; do
	"$DAEMON" -o "$via" "$image" "$mnt"
	mkdir "$mnt/$seed" "$reference/$seed"
	"$model" --seed "$seed" --ops "$ops" --dir "$mnt/$seed" --ref "$reference/$seed" || fail "seed $seed"
	umount_cleanly "$mnt"
	check_image "after seed $seed"
	"$DAEMON" -o "$via" "$image" "$mnt"
	for done in $seeds; do
		[ ! -d "$reference/$done" ] ||
			"$model" --compare-only --dir "$mnt/$done" --ref "$reference/$done" || fail "seed $done after the remount"
	done
	umount_cleanly "$mnt"
done
check_image "at the end"
