#!/bin/sh
# SPDX-License-Identifier: MIT
# -o alloc=NAME: each engine of the allocator works on the same volume, one after the other. Each finds what the ones before have
# written, deletes a part of it, writes a tree of its own, and leaves a clean volume.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 128M
on_exit() { [ -z "${pid:-}" ] || kill -9 "$pid" 2>/dev/null || true; }

# make_tree FOLDER: 300 files in 10 folders, from nothing to 1.5 MiB.
make_tree() {
	awk 'BEGIN {
		srand(1)
		for (i = 0; i < 300; i++) {
			kind = rand()
			print i % 10, i, int(kind < 0.1 ? 0 : kind < 0.6 ? rand() * 10000 : kind < 0.95 ? rand() * 100000 : rand() * 1500000)
		}
	}' >"$scratch/plan"
	while read -r dir name bytes; do
		mkdir -p "$1/$dir"
		head -c "$bytes" /dev/urandom >"$1/$dir/$name"
	done <"$scratch/plan"
}

# every_third FOLDER: of its files.
every_third() { (cd "$1" && find . -type f | LC_ALL=C sort | awk 'NR % 3 == 0'); }

engines=$("$DAEMON" -o alloc= "$image" "$mnt" 2>&1 | sed 's/.*give one of //; s/,//g')
[ "$(echo "$engines" | wc -w)" -ge 7 ] || fail "alloc= lists only: $engines"
mkdir "$scratch/want"
make_tree "$scratch/tree"
before=
for engine in $engines; do
	mount_image -o "alloc=$engine"
	diff -r "$scratch/want" "$mnt" || fail "$engine finds something else than ${before:-mkfs} has left"
	# A part of what the one before has written goes, and its files that end in 7 are cut.
	if [ -n "$before" ]; then
		for file in $(every_third "$mnt/$before"); do
			rm "$mnt/$before/$file" "$scratch/want/$before/$file"
		done
		for file in "$mnt/$before"/*/*7; do
			[ -e "$file" ] || continue
			truncate -s 5000 "$file" "$scratch/want/$before/${file#"$mnt/$before/"}"
		done
	fi
	cp -r "$scratch/tree" "$mnt/$engine"
	cp -r "$scratch/tree" "$scratch/want/$engine"
	diff -r "$scratch/want" "$mnt" || fail "$engine: written"
	finish "$engine"
	before=$engine
done

# The last one's work is read without any; alloc= is accepted there.
mount_image -o ro,alloc=df
diff -r "$scratch/want" "$mnt" || fail "read-only"
finish "read-only"

# Everything goes, and with it every block: a volume of mkfs has as many free ones, but for what the database has taken.
mount_image
rm -rf "${mnt:?}"/*
unmount_image
mount_image -o alloc=bitmap
head -c 60M /dev/urandom >"$scratch/large"
cp "$scratch/large" "$mnt/large"
cmp "$scratch/large" "$mnt/large" || fail "a large file"
finish "a large file"

# The daemon says which one it uses.
"$DAEMON" -d -o "$via,alloc=ndf" "$image" "$mnt" 2>"$scratch/debug" &
pid=$!
wait_until 10 is_mounted "$mnt" || fail "-d does not mount"
unmount_image
wait "$pid" || fail "-d exits with $?"
pid=
grep -q 'allocator ndf, [0-9]* metaslabs' "$scratch/debug" || fail "-d does not say which engine"
check_image
