#!/bin/sh
# SPDX-License-Identifier: MIT
# Times: what is shown is what is kept, whoever sets it (programs, the daemon, or the kernel with its writeback cache).
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch

# All times but those of reading.
listing() { (cd "$mnt" && find . | sort | xargs -d '\n' stat -c '%n %.9Y %.9Z'); }

# remount [options]: the same times before and after.
remount() {
	listing >"$scratch/before"
	unmount_image
	check_image
	mount_image "$@"
	listing | diff "$scratch/before" - || fail "times after a remount"
}

format 256M
mount_image

# ---- set by programs ----
cd "$mnt"
touch both now
touch -d '2001-02-03 04:05:06.123456789 UTC' both
touch -a -d '1969-12-31 23:59:59.000000001 UTC' both
same "$(stat -c '%.9X %.9Y' both)" "-0.999999999 981173106.123456789" "the access time alone"
touch -m both
[ "$(stat -c %Y both)" -ge "$(stat -c %Y now)" ] || fail "the modification time becomes now: $(stat -c %y both)"
[ "$(stat -c %X both)" -lt 1 ] || fail "the access time stays: $(stat -c %x both)"
touch -d '2001-02-03 04:05:06 UTC' both
chmod 600 both
[ "$(stat -c %Y both)" = 981173106 ] || fail "chmod has changed the modification time"
[ "$(stat -c %Z both)" -gt 981173106 ] || fail "chmod has not changed the change time"

# What 64 bits of nanoseconds cannot hold becomes the nearest that they can.
touch early late
touch -d '1066-10-14 UTC' early
touch -d '2500-01-01 UTC' late
same "$(stat -c '%X %Y' early late | xargs)" "-9223372037 -9223372037 9223372036 9223372036" "out of range"
cd /
remount

# ---- when it was made ----
cd "$mnt"
touch -d '2001-02-03 UTC' born
mkdir born-dir
if command -v getfattr >/dev/null; then
	born=$(getfattr --only-values -n system.hybridfs.btime born)
	[ "${born%.*}" -gt 1600000000 ] || fail "born: $born"
	echo text >born
	mv born again
	same "$(getfattr --only-values -n system.hybridfs.btime again)" "$born" "born after changes"
	same "$(getfattr -m - again born-dir)" "" "it is not listed"
	if setfattr -n system.hybridfs.btime -v 1.0 again 2>/dev/null; then fail "it was changed"; fi
	if setfattr -x system.hybridfs.btime again 2>/dev/null; then fail "it was removed"; fi
	if [ "$(printf '%s\n' 6.6 "$(uname -r)" | sort -V | head -n 1)" = 6.6 ]; then
		same "$(stat -c %.9W again)" "$born" "statx"
		[ "$(stat -c %W "$mnt")" -gt 1600000000 ] || fail "statx of the root"
	fi
	cd /
	remount
	same "$(getfattr --only-values -n system.hybridfs.btime "$mnt/again" 2>/dev/null)" "$born" "born, after a remount"
fi
cd /

# ---- reading ----
rm -r "${mnt:?}"/*
mkdir "$mnt/dir"
for o in diratime nodiratime; do
	unmount_image
	mount_image -o "strictatime,lazytime,$o"
	touch -a -d '2001-02-03 UTC' "$mnt/dir"
	find "$mnt/dir" >/dev/null
	at=$(stat -c %X "$mnt/dir")
	[ "$o" = diratime ] && [ "$at" -lt 1600000000 ] && fail "$o: $at"
	[ "$o" = nodiratime ] && [ "$at" -gt 1600000000 ] && fail "$o: $at"
done
unmount_image

# ---- set by the kernel ----
# Writes of all kinds, with data and times on their way to the daemon at any moment.
work() {
	for i in $(seq 60); do
		dd if=/dev/zero of="$mnt/$i" bs=3000 count=100 2>/dev/null
		case $((i % 12)) in
		0) touch -d '2001-02-03 04:05:06.7 UTC' "$mnt/$i" ;;
		1) echo more >>"$mnt/$i" ;;
		2) truncate -s 5000 "$mnt/$i" ;;
		3) fallocate -l 1M "$mnt/$i" ;;
		4) fallocate -p -o 4096 -l 8192 "$mnt/$i" ;;
		5) cp "$mnt/$i" "$mnt/copy$i" ;;
		6) "$FSOP" mmap "$mnt/$i" ;;
		7) mv "$mnt/$i" "$mnt/moved$i" ;;
		8) ln -f "$mnt/$i" "$mnt/link$i" ;;
		9) chmod 600 "$mnt/$i" ;;
		10) "$FSOP" direct "$mnt/$i" ;;
		11) dd if=/dev/zero of="$mnt/$i" bs=1000 count=1 seek=7 conv=notrunc,fsync 2>/dev/null ;;
		esac
	done
}
for o in writeback rw; do
	format 256M
	mount_image -o "$o"
	(while [ ! -e "$scratch/done" ]; do sync -f "$mnt"; done) &
	syncs=$!
	work
	: >"$scratch/done"
	wait "$syncs"
	rm "$scratch/done"
	work
	remount -o "$o"
	finish
done
