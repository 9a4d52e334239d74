#!/bin/sh
# SPDX-License-Identifier: MIT
# transport=: which way is used, and said in the log; a mount that insists on io_uring; the fallback when there are too few descriptors for
# the rings, for every number of them. On both ways: SIGTERM with data that is not yet written, kill -9 and abort in the middle of
# requests; an idle mount sleeps.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 256M
pid=
on_exit() {
	[ "$status" = 0 ] || [ "$status" = 77 ] || sed "s/^/the daemon: /" "$scratch/log" || true
	[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true
}

# foreground OPTIONS [COMMAND that starts the daemon …]
foreground() {
	options=$1
	shift
	rm -f "$scratch/log"
	"$@" "$DAEMON" -f -o "$options" "$image" "$mnt" 2>"$scratch/log" &
	pid=$!
	wait_until 20 grep -qs "mounted $image on $mnt" "$scratch/log" || fail "no line for the mount: $(cat "$scratch/log")"
}
ended() {
	status=0
	wait "$pid" || status=$?
	pid=
	same "$status" 0 "exit status; $(cat "$scratch/log")"
}
over_uring() { grep -q "mounted $image on .* over io_uring" "$scratch/log"; }
works() {
	cp -r "$srcdir_top/util" "$mnt/$1" || fail "$1: writing"
	diff -r "$srcdir_top/util" "$mnt/$1" || fail "$1: comparing"
}

# Each way to end. The clients of dead and aborted daemons get errors, and the volume is clean.
ends() {
	foreground "transport=$1,commit=3600"
	works "$1-term"
	kill -TERM "$pid"
	ended
	check_image "after SIGTERM, transport=$1"
	foreground "transport=$1"
	diff -r "$srcdir_top/util" "$mnt/$1-term" || fail "SIGTERM lost data, transport=$1"
	for end in kill abort; do
		(while cat "$srcdir_top"/util/*.c >"$mnt/busy-1"; do :; done) 2>/dev/null &
		first=$!
		(while "$FSOP" fsync "$mnt/busy-1"; do :; done) 2>/dev/null &
		second=$!
		sleep 0.3
		if [ "$end" = kill ]; then
			kill -9 "$pid"
		else
			echo 1 >"/sys/fs/fuse/connections/$(mountpoint -d "$mnt" | cut -d: -f2)/abort"
		fi
		wait "$first" "$second" || true
		wait "$pid" || true
		umount_lazily "$mnt"
		check_image "after $end, transport=$1"
		pid=
		if [ "$end" = abort ] || [ "$(id -u)" != 0 ] || ! mount | grep -q ' type fusectl '; then
			break
		fi
		foreground "transport=$1"
	done
}
ends dev

# The rest of the CPU time of an idle daemon: its timer for commits, if anything was changed.
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
sleeps() {
	foreground "transport=$1,noatime"
	works "$1-idle"
	sleep 6 # past the commit
	before=$(ticks "$pid")
	sleep 1
	after=$(ticks "$pid")
	[ $((after - before)) -le 1 ] || fail "transport=$1: an idle mount used $((after - before)) ticks of a second"
	unmount_image
	ended
}
sleeps dev

if ! has_uring; then
	fails_with 32 "no FUSE over io_uring: " "$DAEMON" -o transport=uring "$image" "$mnt"
	foreground transport=auto
	! over_uring || fail "io_uring where there is none"
	works no-uring
	unmount_image
	ended
	check_image
	skip "$no_uring; the rest of this test passed"
fi

ends uring
sleeps uring
foreground transport=auto
over_uring || fail "auto does not take io_uring: $(cat "$scratch/log")"
unmount_image
ended

# One CPU for all of it, and clients elsewhere.
foreground transport=uring taskset 1
over_uring || fail "on one CPU: $(cat "$scratch/log")"
works one-cpu
unmount_image
ended

# Too few descriptors for the rings, for every number of them: the mount fails before it is made, or serves.
up_or_gone() { grep -qs "mounted $image on $mnt" "$scratch/log" || is_gone "$pid"; }
fallbacks=0
for n in $(seq 8 40); do
	rm -f "$scratch/log"
	prlimit --nofile="$n" -- "$DAEMON" -f -o transport=auto "$image" "$mnt" 2>"$scratch/log" &
	pid=$!
	wait_until 20 up_or_gone || fail "$n descriptors: neither mounted nor ended"
	if is_gone "$pid"; then
		wait "$pid" && fail "$n descriptors: not mounted, exit status 0"
		! is_mounted "$mnt" || fail "$n descriptors: a mount stays"
		continue
	fi
	works "descriptors-$n"
	if grep -q "no FUSE over io_uring: .*; going on over /dev/fuse" "$scratch/log"; then
		! over_uring || fail "$n descriptors: says both"
		fallbacks=$((fallbacks + 1))
	fi
	unmount_image
	ended
done
[ "$fallbacks" -gt 0 ] || fail "no number of descriptors was too small for the rings only"
check_image
