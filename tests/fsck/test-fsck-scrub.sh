#!/bin/bash
# SPDX-License-Identifier: MIT
# --scrub: names what is damaged by all its names and by bytes, sees deferred writes, leaves out files without checksums, and repairs nothing.
. "${srcdir:-$(dirname "$0")}/lib.sh"
image=$work/image

mkdir -p "$work/tree/d/e"
head -c 3000000 /dev/urandom >"$work/tree/d/e/large file"
head -c 100000 /dev/urandom >"$work/tree/other"
ln "$work/tree/d/e/large file" "$work/tree/again"
run 0 "$MKFS" -q -s 32M -d "$work/tree" "$work/good" || finish
declare -A numbers
while read -r name ino; do numbers[$name]=$ino; done < <("$DAMAGE" "$work/good" list)
large=${numbers[again]}
other=${numbers[other]}

cp --sparse=always "$work/good" "$image"
run 0 "$FSCK" --scrub -n "$image" && says ' 0 damaged'
cmp "$image" "$work/good" || fail "a scrub with -n has changed the image"
run 0 "$FSCK" --scrub -p "$image"

# One block at the front, and two far behind.
phys=$("$DAMAGE" "$image" extents "$large" | awk 'NR == 1 { print $2 }')
run 0 "$DAMAGE" "$image" flip "$large"
run 0 "$DAMAGE" "$image" poke $(((phys + 300) * 4096 + 77)) a55a
run 0 "$DAMAGE" "$image" poke $(((phys + 301) * 4096 + 77)) a55a
cp --sparse=always "$image" "$work/damaged"
for how in -n -y -p; do
	run 4 "$FSCK" --scrub $how "$image" && says "/d/e/large file" && says "/again" &&
		says 'damaged in bytes 0 to 4095, 1228800 to 1236991$' && says '3 damaged' && says '1 files are damaged'
done
run 0 "$FSCK" -p "$image" && says 'clean' # it is not a problem of the volume
run 0 "$FSCK" -y "$image"

# What is deferred counts, not what is on the device.
cp --sparse=always "$work/good" "$image"
read -r crc hex < <("$DAMAGE" "$image" block "$other" && echo)
run 0 "$DAMAGE" "$image" sql "INSERT INTO deferred SELECT 1, phys, 1, $crc, x'', x'$hex' FROM extent WHERE ino = $other AND off = 0"
run 0 "$DAMAGE" "$image" flip "$other"
run 0 "$FSCK" --scrub -n "$image"
run 0 "$FSCK" -y "$image" # leaves it to the next mount
run 0 "$DAMAGE" "$image" sql "DELETE FROM deferred"
run 4 "$FSCK" --scrub -n "$image" && says '/other: damaged in bytes 0 to 4095'

# Without checksums.
run 0 "$DAMAGE" "$image" sql "UPDATE inode SET flags = 2 WHERE ino = $other"
run 0 "$FSCK" --scrub -n "$image" && says '1 files without checksums left out'
finish
