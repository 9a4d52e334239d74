#!/bin/sh
# SPDX-License-Identifier: MIT
# PostgreSQL keeps its databases on a volume: initdb, pgbench, then the server is killed, then the daemon below it. Every transaction that
# the server had confirmed is there after its recovery, the tables add up, and its own checks of pages and indexes find nothing.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
PATH=$(printf '%s:' /usr/lib/postgresql/*/bin)$PATH # where Debian has the programs of a server
require_programs initdb pg_ctl pg_checksums pg_amcheck pg_dump pgbench psql
make_scratch
make_user # the server does not start as root
format 1G
data=$mnt/data
export PGHOST="$scratch/home" PGPORT=5432 PGUSER=postgres PGDATABASE=postgres

# Of the server that was started last: its head, which must not get more, and the children.
server_pids() {
	[ -s "$scratch/home/head" ] || return 0
	kill -STOP "$(cat "$scratch/home/head")" || return 0
	awk -v head="$(cat "$scratch/home/head")" 'BEGIN { print head }
		$1 == "PPid:" && $2 == head { split(FILENAME, part, "/"); print part[3] }' /proc/[0-9]*/status 2>/dev/null || true
}
kill_server() {
	for pid in $1; do kill -9 "$pid" 2>/dev/null || true; done
	for pid in $1; do wait_until 20 is_gone "$pid" || fail "a killed server stays"; done
	wait "$server" || true # a zombie would be a running server to the next one
}
on_exit() {
	for pid in $(server_pids); do kill -9 "$pid" 2>/dev/null || true; done
}

start() {
	user postgres -D "$data" >>"$scratch/home/log" 2>&1 &
	server=$!
	wait_until 120 pg_isready -q || fail "the server does not start, $1: $(tail -n 5 "$scratch/home/log")"
	head -n 1 "$data/postmaster.pid" >"$scratch/home/head"
}
stop() {
	user pg_ctl -s -w -t 120 -D "$data" -m fast stop || fail "the server does not stop"
	rm "$scratch/home/head"
	wait "$server" || fail "the server's exit status is $?"
	user pg_checksums --check -D "$data" >/dev/null || fail "a page has a wrong checksum, $1"
}
query() { psql -X -q -At -c "$1"; }
adds_up() {
	same "$(query 'select (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0) from pgbench_history)
		and (select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers)
		and (select sum(bbalance) from pgbench_branches) = (select coalesce(sum(delta), 0) from pgbench_history)')" t "the sums, $1"
	pg_amcheck --heapallindexed --rootdescend --parent-check 2>"$scratch/err" || fail "pg_amcheck, $1: $(cat "$scratch/err")"
}
dump() { pg_dump | grep -v '^\\[a-z]*restrict '; } # without a key that is another one each time
history() { query 'select count(*) from pgbench_history'; }
has_history() { [ "$(history 2>/dev/null || echo 0)" -ge "$1" ]; }

# crash server|daemon: in the middle of transactions. pgbench counts those that were confirmed.
crash() {
	before=$(history)
	pgbench -n -c 3 -T 300 >"$scratch/bench" 2>&1 &
	bench=$!
	wait_until 60 has_history $((before + 100)) || fail "no transactions: $(cat "$scratch/bench")"
	victims=$(server_pids)
	[ "$1" = server ] || kill_daemon
	kill_server "$victims"
	wait "$bench" || true
	[ "$1" = server ] || mount_image
	start "after the $1 was killed"
	confirmed=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$scratch/bench")
	[ "${confirmed:-0}" -ge 90 ] || fail "pgbench does not say how many transactions it made: $(cat "$scratch/bench")"
	[ "$(history)" -ge $((before + confirmed)) ] || fail "$confirmed transactions were confirmed, $(($(history) - before)) are there"
	[ "$(history)" -le $((before + confirmed + 3)) ] || fail "$confirmed transactions were confirmed, $(($(history) - before)) are there"
	adds_up "after the $1 was killed"
}

mount_image
mkdir -m 700 "$data"
[ "$(id -u)" != 0 ] || chown 65534:65534 "$data"
user initdb -D "$data" -U postgres -A trust -k --no-locale -E UTF8 --wal-segsize=1 >"$scratch/home/initdb" 2>&1 ||
	fail "initdb: $(cat "$scratch/home/initdb")"
# Small, so that checkpoints and switches of the log happen while the test runs; shared memory in mapped files of the volume.
cat >>"$data/postgresql.conf" <<END
listen_addresses = ''
unix_socket_directories = '$scratch/home'
shared_buffers = 8MB
min_wal_size = 2MB
max_wal_size = 4MB
wal_keep_size = 0
dynamic_shared_memory_type = mmap
END
start "new"
query 'create extension amcheck'
pgbench -q -i -s 1 >"$scratch/bench" 2>&1 || fail "filling the tables: $(cat "$scratch/bench")"
pgbench -n -c 3 -t 50 >"$scratch/bench" 2>&1 || fail "pgbench: $(cat "$scratch/bench")"
same "$(history)" 150 "transactions"
adds_up "at once"
crash server
crash daemon
dump >"$scratch/dump"
stop "at the end"
finish
mount_image -o writeback
start "after a remount"
dump | cmp - "$scratch/dump" || fail "the content after a remount"
crash daemon
stop "with a writeback cache"
finish
