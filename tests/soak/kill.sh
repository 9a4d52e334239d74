#!/bin/sh
# SPDX-License-Identifier: MIT
# Kills the daemon (kill -9) at random moments while a source tree is being copied and a program writes files and makes them durable.
# Each time: the image is clean as it lies there, it mounts, every file that was durable is whole, and it is clean again.
#
#     ROUNDS=100 SOURCE=/usr/include SEED=1 tests/soak/kill.sh
#
# ROUNDS (5), SOURCE: the tree to copy (/usr/include, or this source tree), SEED of the moments and of the files (from the clock),
# MAX_MS: the latest moment (3000). BUILD: the build folder. KEEP=1 keeps the image of a failure.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/mounted.sh
. "$here/../mounted.sh"

require_fuse
rounds=${ROUNDS:-5}
seed=${SEED:-$(date +%s)}
max_ms=${MAX_MS:-3000}
source=${SOURCE:-/usr/include}
[ -d "$source" ] || source=$srcdir_top
durable=$builddir_top/tests/soak/durable
daemon_pid=

make_scratch
on_exit() {
	[ "$status" = 0 ] || [ "$status" = 77 ] || echo "Again: ROUNDS=$rounds SEED=$seed SOURCE=$source MAX_MS=$max_ms $0"
	# Only the daemon that this script has started and not yet waited for.
	[ -z "$daemon_pid" ] || kill -9 "$daemon_pid" 2>/dev/null || true
}

# The daemon stays in the foreground of a background job, so its process id is known for sure.
start_daemon() {
	"$DAEMON" -o "$via" -f "$image" "$mnt" >>"$scratch/daemon.log" 2>&1 &
	daemon_pid=$!
	tries=200
	until is_mounted "$mnt"; do
		tries=$((tries - 1))
		if [ "$tries" = 0 ] || ! kill -0 "$daemon_pid" 2>/dev/null; then
			cat "$scratch/daemon.log" >&2
			fail "the daemon did not mount"
		fi
		sleep 0.05
	done
}

stop_daemon() {
	umount_cleanly "$mnt"
	wait "$daemon_pid" || fail "the daemon ended with $?"
	daemon_pid=
}

copy_tree() {
	if command -v rsync >/dev/null; then
		rsync -a "$source/" "$1/"
	else
		cp -a "$source/." "$1/"
	fi
}

# A number below $1 that follows from the seed and the round.
random_below() {
	seed_line=$(printf '%s %s' "$seed" "$round" | cksum)
	echo $((${seed_line%% *} % $1))
}

one_round() {
	moment_ms=$(random_below "$max_ms")
	start_daemon
	rm -rf "$mnt/copy-$((round - 2))" "$mnt/durable-$((round - 2))"
	mkdir "$mnt/copy-$round" "$mnt/durable-$round"
	copy_tree "$mnt/copy-$round" >"$scratch/copy.log" 2>&1 &
	copy_pid=$!
	"$durable" write "$mnt/durable-$round" "$scratch/log-$round" "$((seed + round))" >"$scratch/durable.out" &
	durable_pid=$!
	tries=200
	until [ -s "$scratch/log-$round" ]; do # the moment counts from the first durable file on
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || fail "no file became durable: $(cat "$scratch/durable.out")"
		sleep 0.05
	done
	sleep "$(printf '%d.%03d' $((moment_ms / 1000)) $((moment_ms % 1000)))"
	kill -9 "$daemon_pid"
	wait "$daemon_pid" 2>/dev/null || true
	daemon_pid=
	wait "$copy_pid" 2>/dev/null || true
	wait "$durable_pid" || fail "the writer of durable files"
	umount_lazily "$mnt"
	echo "round $round: killed after $moment_ms ms; $(cat "$scratch/durable.out")"

	check_image "as the kill left it"
	start_daemon
	for log in "$scratch/log-$round" "$scratch/log-$((round - 1))"; do
		[ ! -e "$log" ] || "$durable" verify "$mnt/durable-${log##*-}" "$log" || fail "files that were durable are not there"
	done
	stop_daemon
	check_image "after the remount"
}

echo "seed $seed, $rounds rounds, copying $source"
"$MKFS" -q -s 4G "$image"
round=1
while [ "$round" -le "$rounds" ]; do
	one_round
	round=$((round + 1))
done
echo "$rounds kills: the image was clean each time, every durable file was whole"
