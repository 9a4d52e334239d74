#!/bin/sh
# SPDX-License-Identifier: MIT
# A full volume: writing ends with ENOSPC and not before the space ends, nothing that was written is lost, deleting works, and the space
# comes back.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 64M
mount_image
mkdir "$mnt/small"
echo first >"$mnt/first"

avail_kb() { df -k --output=avail "$mnt" | tail -n 1 | tr -d ' '; }
promised=$(avail_kb)
if dd if=/dev/zero of="$mnt/big" bs=64k 2>"$scratch/err"; then fail "dd found no end"; fi
grep -q "No space left" "$scratch/err" || fail "$(cat "$scratch/err")"
written=$(($(stat -c %s "$mnt/big") / 1024))
[ "$written" -ge $((promised * 95 / 100)) ] || fail "df promised $promised KiB, $written could be written"
i=0
while echo "$i" >"$mnt/small/$i" 2>/dev/null && [ "$i" -lt 20000 ]; do i=$((i + 1)); done

same "$(cat "$mnt/first")" first "on a full volume"
rm -r "$mnt/small" || fail "deleting on a full volume"
rm "$mnt/big" || fail "deleting on a full volume"
freed() { [ "$(avail_kb)" -ge $((promised * 95 / 100)) ]; }
wait_until 15 freed || fail "of $promised KiB only $(avail_kb) came back"
dd if=/dev/zero of="$mnt/again" bs=64k count=$((promised / 64 / 2)) 2>/dev/null || fail "writing again"
finish

# Full, and unmounted like that.
mount_image
dd if=/dev/zero of="$mnt/fill" bs=64k 2>/dev/null || true
finish "of a full volume"
mount_image
rm "$mnt/fill" "$mnt/again" || fail "deleting after a remount"
finish

# With -o writeback the kernel takes what write(2) is given without asking. The error comes with close(2), or with fsync(2) before it.
mount_image -o writeback
mib=$(($(avail_kb) / 1024 + 8))
fails_with 1 "fsync: No space left" "$FSOP" fill "$mnt/fill" "$mib" fsync
rm "$mnt/fill"
wait_until 15 freed || fail "of $promised KiB only $(avail_kb) came back"
fails_with 1 ": No space left" "$FSOP" fill "$mnt/fill" "$mib" close
rm "$mnt/fill"
finish
