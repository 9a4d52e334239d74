#!/bin/sh
# SPDX-License-Identifier: MIT
# SIGUSR2 logs the requests that there were; and how many an operation costs: what the kernel can answer from its caches does not come to us, what is
# new comes in few, and streams come in large ones.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
require_programs flock
make_scratch
format 256M
files=100
pid=
on_exit() {
	[ "$status" = 0 ] || [ "$status" = 77 ] || sed "s/^/the daemon: /" "$scratch/log" || true
	[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true
}

foreground() {
	rm -f "$scratch/log"
	"$DAEMON" -f -o "$via,noatime" "$image" "$mnt" 2>"$scratch/log" &
	pid=$!
	wait_until 20 grep -qs "mounted $image on $mnt" "$scratch/log" || fail "no line for the mount: $(cat "$scratch/log")"
}

# table FILE: the requests up to now, lines "KIND number" and, for the sizes of transfers, "KIND:KIB number".
table() {
	seen=$(grep -c "requests: .* in all" "$scratch/log" || true)
	kill -USR2 "$pid"
	more() { [ "$(grep -c "requests: .* in all" "$scratch/log")" -gt "$seen" ]; }
	wait_until 20 more || fail "no lines about requests: $(cat "$scratch/log")"
	tac "$scratch/log" | awk '/requests: .* in all/ && n++ { exit } /requests: / && !/ in all/ { sub(/.*requests: /, ""); gsub(/; /, "\n"); print }' |
		awk '{
			kind = $1
			print kind, $2
			if (sub(/.*\(/, "")) {
				n_sizes = split($0, size, ", ") # "32 up to 1024 KiB"
				for (i = 1; i <= n_sizes; i++) { split(size[i], word, " "); print kind ":" word[4], word[1] }
			}
		}' >"$1"
}
# of KIND…: how many of these there were between the tables "before" and "after"; of all kinds without any.
of() {
	awk -v kinds=" $* " 'kinds == "  " ? $1 !~ /:/ : index(kinds, " " $1 " ") { n += FILENAME ~ /after$/ ? $2 : -$2 } END { print n + 0 }' \
		"$scratch/before" "$scratch/after"
}
# costs MAX WHAT COMMAND…: it may cause so many requests of any kind. The table "after" is of the time before it.
costs() {
	max=$1 what=$2
	shift 2
	mv "$scratch/after" "$scratch/before"
	"$@"
	table "$scratch/after"
	echo "$what: $(of) requests"
	[ "$(of)" -le "$max" ] || fail "$what: more than $max requests: $(diff "$scratch/before" "$scratch/after")"
}

create() { for i in $(seq "$files"); do echo data >"$mnt/dir/$i"; done; }
append() { for i in $(seq "$files"); do echo more >>"$mnt/dir/$i"; done; }
look() { stat "$mnt"/dir/* >/dev/null; }
show() { cat "$mnt"/dir/* >/dev/null; }
delete() { rm "$mnt"/dir/*; }
few=10 # for what has nothing to do with the number of files

# A signal that comes while the daemon waits for the device finds nothing to log, and does no harm.
mkfifo "$scratch/held"
flock "$image" cat "$scratch/held" &
holder=$!
is_held() { ! flock -n "$image" true; }
wait_until 20 is_held || fail "nobody holds $image"
"$DAEMON" -f -o "$via,noatime" "$image" "$mnt" 2>"$scratch/log" &
pid=$!
wait_until 20 grep -qs '^SigBlk:.*[89a-f]..$' "/proc/$pid/status" || fail "the daemon does not take SIGUSR2"
kill -USR2 "$pid"
: >"$scratch/held"
wait "$holder" || fail "the holder's exit status"
wait_until 20 grep -qs "mounted $image on $mnt" "$scratch/log" || fail "no line for the mount: $(cat "$scratch/log")"
mkdir "$mnt/dir"
echo warm >"$mnt/dir/warm" # the first OPEN, FLUSH … are refused, and never come again
table "$scratch/after"
costs $((5 * files + few)) "creating, writing and closing $files files" create
same "$(of OPEN FLUSH RELEASE CREATE)" 0 "requests to open and close"
costs $((files + few)) "looking at them" look
costs "$few" "looking at them again" look
costs $((files + few)) "reading them" show
costs $((files + few)) "reading them again" show # when they were read last
costs "$few" "reading them once more" show
costs $((3 * files + few)) "appending to each" append
costs $((4 * files + few)) "deleting them" delete # with FORGET, and the attributes of the directory each time

mib=32
stream() { dd if=/dev/zero of="$mnt/stream" bs=1M count="$mib" 2>/dev/null; }
costs $((mib + few)) "writing $mib MiB" stream
same "$(of WRITE:1024)" "$mib" "writes of 1 MiB"
same "$(of WRITE)" "$mib" "writes"

unmount_image
wait "$pid" || fail "the daemon's exit status"
foreground
table "$scratch/after"
draw() { dd if="$mnt/stream" of=/dev/null bs=1M 2>/dev/null; }
if [ "$(id -u)" = 0 ]; then
	costs $((2 * mib + few)) "reading $mib MiB" draw # root may raise the kernel's read-ahead
else
	costs $((8 * mib + few)) "reading $mib MiB" draw
fi
costs "$few" "reading $mib MiB again" draw
finish
