#!/bin/bash
# SPDX-License-Identifier: MIT
# The options and exit codes of fsck, and what it says about things that are no volume.
. "${srcdir:-$(dirname "$0")}/lib.sh"
image=$work/image

# fsck must not change what it refuses.
refuses() {
	cp --sparse=always "$image" "$work/before"
	for how in -n -p -y; do
		run 8 "$FSCK" $how "$image"
		[ "$(wc -l <"$work/out")" -eq 1 ] || fail "more than one line for fsck $how: $1"
		cmp "$image" "$work/before" || fail "fsck $how has changed it: $1"
	done
}

# ---- usage ----
run 16 "$FSCK"
run 16 "$FSCK" -n -y "$image"
run 16 "$FSCK" -p -n "$image"
run 16 "$FSCK" -n "$image" "$image"
run 16 "$FSCK" -Z "$image"
run 16 "$FSCK" -n -C nonsense "$image"
run 16 "$FSCK" -n -C 77 "$image"
run 0 "$FSCK" --help && says 'Exit status'
run 0 "$FSCK" -V && says 'fsck.hybridfs'
# Every option of the help is in the man page, and the other way round.
for page in mkfs fsck; do
	"$builddir/$page/$page.hybridfs" --help | sed -n 's/^  \(-[A-Za-z]\).*/\1/p' | sort >"$work/help"
	sed -n 's/^\.BR* *\\\(-[A-Za-z]\).*/\1/p' "$srcdir/../../man/$page.hybridfs.8" | sort -u >"$work/man"
	diff "$work/help" "$work/man" >"$work/diff" || fail "$page: help and man page differ: $(cat "$work/diff")"
done

# ---- a sound volume ----
run 0 "$MKFS" -q -s 16M "$image"
cp --sparse=always "$image" "$work/good"
run 0 "$FSCK" -n "$image" && says '1 files, [0-9]*/4096 blocks'
cmp "$image" "$work/good" || fail "fsck -n has changed a sound volume"
run 0 "$FSCK" -y "$image"
run 0 "$FSCK" -p "$image" && says 'clean'
run 0 "$FSCK" -a -f "$image" && says '1 files'
run 8 "$FSCK" "$image" </dev/null && says 'no terminal'
run 0 "$FSCK" -n -C 5 "$image" 5>"$work/progress"
grep -q "^3 [0-9]* [0-9]* $image\$" "$work/progress" || fail "no progress lines"
awk 'NF != 4 || $2 > $3 || $1 < pass { exit 1 } { pass = $1 }' "$work/progress" || fail "progress lines make no sense"

# ---- -p: a short check, harmless repairs only ----
run 0 "$DAMAGE" "$image" sql "UPDATE inode SET nlink = 9 WHERE ino = 1"
run 0 "$FSCK" -p "$image"
run 1 "$FSCK" -p -f "$image"
run 0 "$FSCK" -n "$image"
run 0 "$DAMAGE" "$image" sql "INSERT INTO config VALUES('errors', 1); UPDATE inode SET nlink = 9 WHERE ino = 1"
run 1 "$FSCK" -p "$image"
run 0 "$FSCK" -p "$image" && says 'clean'
run 0 "$DAMAGE" "$image" sql "INSERT INTO dirent VALUES(99999, 77, 1, 4, x'61')"
run 4 "$FSCK" -p -f "$image" && says 'without -p'
run 4 "$FSCK" -p "$image" && says 'without -p' # what was left is not forgotten
run 1 "$FSCK" -y "$image"
run 0 "$FSCK" -p "$image" && says 'clean'

# ---- a superblock copy of an older generation: what a crash leaves, no error, but made new on the way ----
cp "$work/good" "$image"
run 0 "$DAMAGE" "$image" poke 0 0000000000000000
run 1 "$FSCK" -y "$image" # raises the generation
dd if="$work/good" of="$image" bs=16k count=1 seek=64 conv=notrunc status=none
run 0 "$FSCK" -n "$image"
run 0 "$FSCK" -y "$image"
cmp -n 16384 -i 0:1048576 "$image" "$image" || fail "fsck -y has left an old superblock copy"

# ---- things that are no volume ----
run 8 "$FSCK" -n "$work/nothing-here"
run 8 "$FSCK" -n "$work" && says 'directory'
: >"$image"
refuses "an empty file"
truncate -s 1000 "$image"
refuses "a tiny file"
head -c 16M /dev/urandom >"$image"
refuses "random bytes"
cp "$work/good" "$image"
truncate -s 8M "$image"
refuses "a truncated volume"
if command -v mke2fs >/dev/null; then
	rm -f "$image"
	truncate -s 16M "$image"
	mke2fs -q -F "$image" >/dev/null 2>&1
	refuses "another filesystem"
	# The same over a volume of ours, whose other superblocks are still there.
	cp "$work/good" "$image"
	mke2fs -q -F -E nodiscard "$image" >/dev/null 2>&1
	refuses "a volume that was formatted with another filesystem"
fi

# ---- a volume that somebody uses ----
if command -v flock >/dev/null; then
	cp "$work/good" "$image"
	flock "$image" sleep 3 &
	sleep 0.5
	run 0 "$FSCK" -y "$image" # waits until the lock goes
	wait
fi
finish
