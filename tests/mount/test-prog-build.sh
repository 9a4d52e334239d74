#!/bin/sh
# SPDX-License-Identifier: MIT
# A package is configured and built on a volume with several jobs: this project itself. The programs run from there, make finds
# nothing to do again, also after a remount, and cleaning leaves what was there before.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
[ -x "$srcdir_top/configure" ] || skip "no configure in $srcdir_top"
[ ! -e "$srcdir_top/config.status" ] || skip "the sources were configured in place"
make_scratch
format 512M
unset MAKEFLAGS MFLAGS MAKELEVEL top_srcdir top_builddir

quietly() { "$@" >"$scratch/out" 2>&1 || fail "$*: $(tail -n 20 "$scratch/out")"; }
list() { (cd "$mnt/source" && find . -printf '%p %y %#m %s %l\n' | LC_ALL=C sort); }
up_to_date() {
	for room in $rooms; do
		quietly make -C "$mnt/build/$room" -q all
	done
}
rooms='util block alloc'
runs() { quietly "$mnt/build/bench/alloc" --quick --workload=w4 --size=64M --rounds=2; }

mount_image -o writeback
mkdir "$mnt/source" "$mnt/build"
for entry in "$srcdir_top"/*; do # without builds, and what else lies there
	case $entry in *.img | */mnt) continue ;; esac
	[ -e "$entry/config.status" ] || cp -a "$entry" "$mnt/source/"
done
chmod -R u+w "$mnt/source"
list >"$scratch/before"
(cd "$mnt/build" && quietly ../source/configure CFLAGS="-O0")
for room in $rooms; do
	quietly make -C "$mnt/build/$room" -j4 all
done
quietly make -C "$mnt/build/bench" -j4 alloc
up_to_date
runs
objects=$(cd "$mnt/build" && find . -name '*.[oa]' -exec cksum {} + | sort)
finish
mount_image
same "$(cd "$mnt/build" && find . -name '*.[oa]' -exec cksum {} + | sort)" "$objects" "objects after a remount"
up_to_date
runs
list | diff "$scratch/before" - || fail "the sources changed"
touch "$mnt/source/util/attr.h"
if make -C "$mnt/build/util" -q all >/dev/null 2>&1; then fail "make does not see a newer header"; fi
quietly make -C "$mnt/build" -j4 clean
rm -r "$mnt/build" "$mnt/source"
finish
