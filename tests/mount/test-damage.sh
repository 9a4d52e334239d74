#!/bin/sh
# SPDX-License-Identifier: MIT
# A bit that has flipped on the device: EIO for what it hits and nothing else, one line in the log; and files without checksums (chattr +C,
# -o nodatacow), which notice nothing but never fall apart. And damage of metadata.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 128M

# block_of FILE BYTE: the block of the image that holds the file's 16 bytes at BYTE, which must be unlike all others.
block_of() {
	pattern=$(dd if="$1" bs=1 skip="$2" count=16 2>/dev/null)
	at=$(LC_ALL=C grep -aobF -e "$pattern" "$image" | tail -n 1 | cut -d: -f1)
	[ -n "$at" ] || fail "the content of $1 is not in the image"
	echo $((at / 4096))
}

# flip BLOCK: one bit of it.
flip() {
	byte=$(dd if="$image" bs=1 skip=$(($1 * 4096 + 77)) count=1 2>/dev/null | od -An -tu1 | tr -d ' ')
	# The octal number is what printf is to see.
	# shellcheck disable=SC2059
	printf "\\$(printf %03o $((byte ^ 4)))" | dd of="$image" bs=1 seek=$(($1 * 4096 + 77)) conv=notrunc 2>/dev/null
}

# words: a file of which every 16 bytes are different text.
words() { seq -f %015.0f "$1" $(($1 + 65535)); }

words 1000000 >"$scratch/a" # 1 MiB
words 2000000 >"$scratch/raw"
mount_image -f 2>"$scratch/log" &
wait_until 10 mountpoint -q "$mnt" || fail "it does not mount"
cp "$scratch/a" "$mnt/a"
cp "$scratch/a" "$mnt/sound"
: >"$mnt/raw"
chattr +C "$mnt/raw" || fail "chattr +C"
lsattr "$mnt/raw" | grep -q '^[-A-Za-z]*C' || fail "lsattr does not show C: $(lsattr "$mnt/raw")"
cp "$scratch/raw" "$mnt/raw"
! chattr +C "$mnt/a" 2>/dev/null || fail "chattr +C works on a file that has blocks"
! chattr +i "$mnt/a" 2>/dev/null || fail "chattr +i works"
mkdir "$mnt/rawdir"
chattr +C "$mnt/rawdir"
touch "$mnt/rawdir/new"
lsattr "$mnt/rawdir/new" | grep -q '^[-A-Za-z]*C' || fail "C is not inherited"
unmount_image
wait

# Blocks 100 of both, found by their content.
bad=$(block_of "$scratch/a" 409600)
flip "$bad"
flip "$(block_of "$scratch/raw" 409600)"
[ "$("$FSCK" -n "$image" >/dev/null 2>&1; echo $?)" = 0 ] || fail "fsck complains about data"

mount_image -f 2>"$scratch/log" &
wait_until 10 mountpoint -q "$mnt" || fail "it does not mount again"
# First of all, with nothing in the kernel's cache.
for f in a sound; do "$FSOP" map-direct "$mnt/$f" >>"$scratch/mapped" || fail "$f through a mapping of a direct descriptor"; done
grep -q '^[1-9]' "$scratch/mapped" || fail "no page is lost to the mapping: $(cat "$scratch/mapped")"
victim=a
cmp -s "$scratch/a" "$mnt/a" || true
if cmp "$scratch/a" "$mnt/a" >/dev/null 2>&1; then victim=sound; fi
! cat "$mnt/$victim" >/dev/null 2>&1 || fail "a damaged file can be read"
grep -q "offset 409600 (block $bad of the volume) is damaged: its checksum should be [0-9a-f]\{8\} and is [0-9a-f]\{8\}" "$scratch/log" ||
	fail "the log does not say it: $(cat "$scratch/log")"
# Page by page, all others can be had.
lost=$(dd if="$mnt/$victim" of="$scratch/rest" bs=4096 conv=noerror,sync 2>&1 >/dev/null | grep -c "error reading") || true
[ "$lost" -ge 1 ] || fail "no page is lost"
echo "$lost pages of 256 are lost to buffered reads"
lost=$(dd if="$mnt/$victim" of="$scratch/rest" bs=4096 iflag=direct conv=noerror,sync 2>&1 >/dev/null | grep -c "error reading") || true
same "$lost" 1 "blocks lost to direct reads"
got=$(dd if="$mnt/$victim" bs=1M count=1 iflag=direct 2>/dev/null | wc -c)
same "$got" 409600 "a direct read up to the bad block"
# Overwriting the block heals it.
dd if="$scratch/a" of="$mnt/$victim" bs=4096 skip=100 seek=100 count=1 conv=notrunc,fsync 2>/dev/null || fail "a bad block cannot be overwritten"
cmp "$scratch/a" "$mnt/$victim" || fail "it is not healed"
cmp -s "$scratch/a" "$mnt/sound" && cmp -s "$scratch/a" "$mnt/a" || fail "other content"
# Without checksums nobody notices.
cat "$mnt/raw" >/dev/null || fail "a file without checksums cannot be read"
! cmp -s "$mnt/raw" "$scratch/raw" || fail "the test has not hit the file without checksums"
unmount_image
wait
check_image

# -o nodatacow for what is new.
mount_image -o nodatacow
cp "$scratch/a" "$mnt/b"
lsattr "$mnt/b" | grep -q '^[-A-Za-z]*C' || fail "nodatacow: a new file is not marked"
dd if="$scratch/raw" of="$mnt/b" bs=64k count=4 conv=notrunc,fsync 2>/dev/null
dd if="$scratch/raw" of="$scratch/a" bs=64k count=4 conv=notrunc 2>/dev/null
finish
mount_image
cmp "$mnt/b" "$scratch/a" || fail "nodatacow: other content after a remount"
finish

# Damage of metadata, met while it is mounted: the volume is marked, so that the next fsck -p does not pass it by.
format 32M
mount_image
mkdir "$mnt/d"
touch "$mnt/d/lost" "$mnt/d/stays"
ino=$(stat -c %i "$mnt/d/lost")
finish
"$builddir_top/tests/fsck/fsck-damage" "$image" sql "DELETE FROM inode WHERE ino = $ino" || fail "fsck-damage"
"$FSCK" -p "$image" >/dev/null || fail "a quick check finds it"
mount_image -o commit=1
! stat "$mnt/d/lost" 2>"$scratch/err" || fail "an entry without an inode can be used"
grep -q 'Structure needs cleaning' "$scratch/err" || fail "not EUCLEAN: $(cat "$scratch/err")"
stat "$mnt/d/stays" >/dev/null || fail "nothing works any more"
unmount_image
status=0
"$FSCK" -p "$image" >"$scratch/out" || status=$?
same "$status" 4 "fsck -p of a marked volume"
status=0
"$FSCK" -y "$image" >"$scratch/out" || status=$?
same "$status" 1 "fsck -y"
check_image -p
