#!/bin/bash
# SPDX-License-Identifier: MIT
# Blocks of two files: each file has its content afterwards, as the blocks held it, with good checksums, and a damaged block is damaged in both.
# On a full volume the later file gets a hole, which is said.
. "${srcdir:-$(dirname "$0")}/lib.sh"
image=$work/image
blk=4096

content() { # INO: the bytes of its extents, in order
	"$DAMAGE" "$image" extents "$1" | while read -r _ phys len _; do
		dd if="$image" bs=$blk skip="$phys" count="$len" status=none
	done
}

mkdir "$work/tree"
head -c 3000000 /dev/urandom >"$work/tree/first"
head -c 3000000 /dev/urandom >"$work/tree/second"
run 0 "$MKFS" -q -s 32M -d "$work/tree" "$work/good" || finish
declare -A numbers
while read -r name ino; do numbers[$name]=$ino; done < <("$DAMAGE" "$work/good" list)
a=$(printf '%s\n' "${numbers[@]}" | sort -n | head -1)
b=$(printf '%s\n' "${numbers[@]}" | sort -n | tail -1)

# All of it, the front, the middle, the end.
for shift in 0 100 -100; do
	cp --sparse=always "$work/good" "$image"
	phys=$("$DAMAGE" "$image" extents "$a" | awk 'NR == 1 { print $2 }')
	len=$("$DAMAGE" "$image" extents "$a" | awk '{ n += $3 } END { print n }')
	run 0 "$DAMAGE" "$image" sql "DELETE FROM extent WHERE ino = $b AND off > 0; \
		UPDATE extent SET phys = $phys + $shift, len = 700 WHERE ino = $b; UPDATE inode SET blocks = 700 WHERE ino = $b" || finish
	content "$a" >"$work/a"
	content "$b" >"$work/b"
	run 1 "$FSCK" -y "$image"
	run 0 "$FSCK" -n --scrub "$image" && says 'scrub: [0-9]* blocks read, 0 damaged'
	content "$a" | cmp - "$work/a" || fail "the first file has changed (shift $shift)"
	content "$b" | cmp - "$work/b" || fail "the second file has changed (shift $shift)"
	[ "$("$DAMAGE" "$image" extents "$a" | awk '{ n += $3 } END { print n }')" -eq "$len" ] || fail "blocks are lost"
done

# Damage goes along: it does not become good by being copied.
cp --sparse=always "$work/good" "$image"
run 0 "$DAMAGE" "$image" sql "DELETE FROM extent WHERE ino = $b AND off > 0; \
	UPDATE extent SET phys = $phys, len = 700 WHERE ino = $b; UPDATE inode SET blocks = 700 WHERE ino = $b"
run 0 "$DAMAGE" "$image" flip "$a"
run 1 "$FSCK" -y "$image"
run 4 "$FSCK" -n --scrub "$image" && says '2 files are damaged'

# No space.
cp --sparse=always "$work/good" "$image"
run 0 "$DAMAGE" "$image" fill
filled=$("$DAMAGE" "$image" list | awk '$1 == "filled" { print $2 }')
run 0 "$DAMAGE" "$image" sql "INSERT INTO extent SELECT $filled, off + 500000, phys, len, flags FROM extent WHERE ino = $b; \
	DELETE FROM extent WHERE ino = $b AND off > 0; \
	UPDATE extent SET phys = (SELECT phys FROM extent WHERE ino = $a AND off = 0), len = 700 WHERE ino = $b; \
	UPDATE inode SET blocks = 700 WHERE ino = $b"
run 1 "$FSCK" -y "$image" && says 'become a hole'
run 0 "$FSCK" -n "$image"
finish
