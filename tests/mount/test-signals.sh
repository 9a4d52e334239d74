#!/bin/sh
# SPDX-License-Identifier: MIT
# Signals: SIGTERM and SIGINT unmount cleanly, twice is no different, also while the mount is in use; SIGHUP changes nothing. The foreground
# daemon's exit status and its messages.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 128M
pid=
on_exit() { [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true; }

foreground() {
	rm -f "$scratch/log"
	# sh starts background jobs with SIGINT ignored; the daemon must read it anyway.
	"$DAEMON" -o "$via" -f "$image" "$mnt" 2>"$scratch/log" &
	pid=$!
	wait_until 10 grep -qs "mounted $image on $mnt" "$scratch/log" || fail "no line for the mount: $(cat "$scratch/log")"
}
ended() {
	status=0
	wait "$pid" || status=$?
	pid=
	same "$status" 0 "exit status; $(cat "$scratch/log")"
	! is_mounted "$mnt" || fail "still mounted"
	grep -q "unmounted $image" "$scratch/log" || fail "no line for the unmount: $(cat "$scratch/log")"
	check_image
}

foreground
kill -HUP "$pid"
wait_until 5 grep -q SIGHUP "$scratch/log" || fail "no line for SIGHUP"
echo hup >"$mnt/file" || fail "after SIGHUP"
kill -TERM "$pid"
ended
grep -q SIGTERM "$scratch/log" || fail "no line for SIGTERM"

foreground
! grep -q recovered "$scratch/log" || fail "SIGTERM did not unmount cleanly"
same "$(cat "$mnt/file")" hup "after SIGTERM"
dd if=/dev/urandom of="$mnt/big" bs=1M count=32 2>/dev/null
sum=$(md5sum <"$mnt/big")
kill -INT "$pid"
kill -INT "$pid" 2>/dev/null || true
kill -TERM "$pid" 2>/dev/null || true
ended

# In use: whoever uses it is cut off, but not what was written before.
foreground
same "$(md5sum <"$mnt/big")" "$sum" "after two signals"
exec 9>"$mnt/open"
echo before >&9
kill -TERM "$pid"
ended
grep -q "in use" "$scratch/log" || fail "no line about the users: $(cat "$scratch/log")"
if echo after 2>/dev/null >&9; then fail "writing to a mount that is gone"; fi
exec 9>&-

# umount(8)'s way ends the foreground daemon as well, and a crash is told at the next mount.
foreground
same "$(cat "$mnt/open")" before "what was written before SIGTERM"
kill -9 "$pid"
wait "$pid" 2>/dev/null || true
umount_lazily "$mnt"
foreground
unmount_image
ended
