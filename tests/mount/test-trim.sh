#!/bin/sh
# SPDX-License-Identifier: MIT
# Deleted space is trimmed in the background: an image file gives it back, at a bounded cost, and an idle mount does nothing.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 512M

used_mib() { echo $(($(stat -c %b "$image") * 512 / 1048576)); }
at_most() { [ "$(used_mib)" -le "$1" ]; }

# can_punch: whether the filesystem of the image can.
head -c 1048576 /dev/zero >"$scratch/probe"
fallocate -p -o 0 -l 1048576 "$scratch/probe" 2>/dev/null || skip "this filesystem cannot punch holes into files"

# trimmer_stat: wake-ups and nanoseconds of processor time of the thread that trims.
trimmer_stat() {
	for task in "/proc/$1/task/"*; do
		if [ "$(cat "$task/comm")" = hybridfs-trim ]; then
			awk '/^voluntary_ctxt/ { print $2 }' "$task/status"
			[ ! -r "$task/schedstat" ] || awk '{ print $1 }' "$task/schedstat"
			return
		fi
	done
	fail "there is no thread that trims"
}

# fill NAME MIB
fill() {
	dd if=/dev/urandom of="$mnt/$1" bs=1M count="$2" conv=fsync 2>/dev/null || fail "writing $2 MiB"
}

# 200 MiB in a large file and many small ones, of which every second one stays.
mount_image -o commit=1
pid=$(daemon_pid)
empty=$(used_mib)
fill large 150
mkdir "$mnt/small"
head -c 524288 /dev/urandom >"$scratch/small"
for i in $(seq 100); do cp "$scratch/small" "$mnt/small/$i"; done
fill stays 20
cp "$mnt/stays" "$scratch/stays"
sync -f "$mnt"
sleep 2
full=$(used_mib)
[ "$full" -ge $((empty + 200)) ] || fail "220 MiB were written, the image has grown by $((full - empty))"
rm "$mnt/large"
for i in $(seq 1 2 100); do rm "$mnt/small/$i"; done
wait_until 60 at_most $((full - 165)) || fail "170 MiB were deleted, the image has shrunk from $full to $(used_mib) MiB"
cmp "$mnt/stays" "$scratch/stays" || fail "a file that stays has changed"
for i in $(seq 2 2 100); do cmp "$mnt/small/$i" "$scratch/small" || fail "a small file that stays has changed"; done

# Idle: the thread does not wake.
sleep 6
before=$(trimmer_stat "$pid")
sleep 4
same "$(trimmer_stat "$pid")" "$before" "the thread that trims woke while nothing was freed"

# After a remount: the first thing that happens is a deletion, in metaslabs that nobody has loaded.
unmount_image
check_image
mount_image -o commit=1
before=$(used_mib)
rm -r "$mnt/stays" "$mnt/small"
wait_until 60 at_most $((before - 40)) || fail "45 MiB were deleted after a remount, the image has shrunk from $before to $(used_mib) MiB"

# On request, all of it at once, also where nothing trims in the background.
if [ "$(id -u)" = 0 ] && command -v fstrim >/dev/null; then
	unmount_image
	mount_image -o nodiscard,commit=1
	fill large 100
	before=$(used_mib)
	rm "$mnt/large"
	trim_helps() { fstrim -v "$mnt" >"$scratch/out" && at_most $((before - 95)); }
	wait_until 10 trim_helps || fail "100 MiB were deleted, fstrim has shrunk the image from $before to $(used_mib) MiB"
	bytes=$(sed 's/.*(\([0-9]*\) bytes.*/\1/' "$scratch/out")
	[ "$bytes" -gt $((256 << 20)) ] && [ "$bytes" -lt $((512 << 20)) ] || fail "fstrim: $(cat "$scratch/out")"
	fstrim -v -o 100M -l 32M "$mnt" >"$scratch/out"
	bytes=$(sed 's/.*(\([0-9]*\) bytes.*/\1/' "$scratch/out")
	[ "$bytes" -le $((32 << 20)) ] || fail "fstrim of 32 MiB: $(cat "$scratch/out")"
	if fstrim -o 1T "$mnt" 2>/dev/null; then fail "fstrim beyond the volume works"; fi
	if command -v setpriv >/dev/null; then
		chmod 755 "$scratch"
		if setpriv --reuid=65534 --clear-groups fstrim "$mnt" 2>/dev/null; then fail "fstrim works for anybody"; fi
		if setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin fstrim "$mnt" 2>/dev/null; then
			fail "fstrim works for root without CAP_SYS_ADMIN"
		fi
	fi
fi

# Not when it is not wanted; then a crash while it is at work; then an unmount.
unmount_image
mount_image -o nodiscard,commit=1
fill large 100
before=$(used_mib)
rm "$mnt/large"
sleep 9
[ "$(used_mib)" -ge "$before" ] || fail "nodiscard: the image has shrunk"
if grep -q hybridfs-trim /proc/"$(daemon_pid)"/task/*/comm; then fail "nodiscard: there is a thread that trims"; fi
unmount_image
mount_image -o discard,commit=1
fill large 200
pid=$(daemon_pid)
rm "$mnt/large"
sleep 7
kill -9 "$pid"
wait_until 10 is_gone "$pid" || fail "the killed daemon stays"
umount_lazily "$mnt"
mount_image
fill large 300
finish
