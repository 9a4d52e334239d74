#!/bin/sh
# SPDX-License-Identifier: MIT
# SQLite's databases on a volume, in every journal mode: two writers and a reader at once (in WAL mode they share an index in mapped
# memory), a killed program, a killed daemon. Every transaction that was committed is there, and none half.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
require_programs sqlite3 stdbuf
make_scratch
format 256M
modes='delete truncate persist wal'
# The mode is the connection's, except for wal. In mode delete only "extra" makes the deletion of the journal durable, which is the commit.
pragmas() { echo "pragma journal_mode=$1; pragma synchronous=extra; pragma mmap_size=33554432;"; }

sql() { sqlite3 -bail -cmd ".timeout 20000" "$@"; }
sound() { same "$(sql "$1" 'pragma integrity_check')" ok "$1, $2"; }
make_database() { sql "$1" "$(pragmas "$2") create table t(n integer primary key, who, data); create index i on t(data);" >/dev/null; }

# write_rows DATABASE MODE WHO N: so many transactions.
write_rows() {
	{
		pragmas "$2"
		awk -v who="$3" -v n="$4" 'BEGIN { for (i = 1; i <= n; i++)
			print "insert into t(who, data) values(" who ", randomblob(700)); select max(n) from t;" }'
	} | stdbuf -oL sqlite3 -bail -cmd ".timeout 20000" "$1"
}

# Two processes write, and what a third sees grows.
together() {
	for mode in $modes; do
		db=$mnt/$mode-$1.db
		make_database "$db" "$mode"
		write_rows "$db" "$mode" 1 50 >/dev/null &
		first=$!
		write_rows "$db" "$mode" 2 50 >/dev/null &
		second=$!
		seen=0
		for _ in 1 2 3 4; do
			now=$(sql "$db" 'select count(*) from t') || fail "reading beside writers, $mode"
			[ "$now" -ge "$seen" ] || fail "rows went away beside writers, $mode: $now after $seen"
			seen=$now
		done
		wait "$first" || fail "a writer, $mode, $1"
		wait "$second" || fail "a writer, $mode, $1"
		same "$(sql "$db" 'select who, count(*) from t group by who' | tr '\n' ' ')" "1|50 2|50 " "rows of two writers, $mode, $1"
		sound "$db" "$1"
		sql "$db" 'update t set data = randomblob(900) where n % 3 = 0; delete from t where n % 7 = 0; vacuum;'
		sql "$db" .dump | cksum >"$scratch/$mode-$1.sum"
	done
}
mount_image
together plain
finish
mount_image -o writeback
together writeback
finish
mount_image
for mode in $modes; do
	for how in plain writeback; do
		sound "$mnt/$mode-$how.db" "after a remount"
		same "$(sql "$mnt/$mode-$how.db" .dump | cksum)" "$(cat "$scratch/$mode-$how.sum")" "$mode, $how, after a remount"
	done
done
unmount_image

# crash VICTIM OPTIONS: one writer for each mode, until VICTIM (program, daemon) is killed.
all_have_lines() {
	for mode in $modes; do
		[ "$(wc -l <"$scratch/$mode.log")" -ge "$1" ] || return 1
	done
}
writers() { grep -lF "$mnt/$1-" /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3; }
crash() {
	mount_image -o "$2"
	for mode in $modes; do
		: >"$scratch/$mode.log"
		make_database "$mnt/$mode-$1-$2.db" "$mode"
		write_rows "$mnt/$mode-$1-$2.db" "$mode" 1 1000000 >"$scratch/$mode.log" 2>/dev/null &
	done
	wait_until 60 all_have_lines 20 || fail "no transactions"
	if [ "$1" = daemon ]; then
		kill_daemon
		wait
		mount_image -o "$2"
	else
		for mode in $modes; do
			for pid in $(writers "$mode"); do
				kill -9 "$pid" 2>/dev/null || true
			done
		done
		wait
	fi
	for mode in $modes; do
		db=$mnt/$mode-$1-$2.db
		said=$(tail -n 1 "$scratch/$mode.log")
		sound "$db" "killed $1, $2"
		same "$(sql "$db" 'select count(*) = max(n) from t')" 1 "no holes in $db"
		rows=$(sql "$db" 'select count(*) from t')
		# What is running when a program is killed may have been committed, and not said. And SQLite says that it has committed when
		# it cannot open the folder to make the journal's deletion durable, because the daemon is gone.
		least=$said
		if [ "$1-$mode" = daemon-delete ]; then least=$((said - 1)); fi
		[ "$rows" -ge "$least" ] || fail "$db, killed $1: $said transactions were committed, $rows are there"
		[ "$rows" -le $((said + 2)) ] || fail "$db, killed $1: $said transactions were committed, $rows are there"
	done
	finish "killed $1, $2"
}
crash program commit=30
crash daemon commit=30
crash daemon writeback,commit=30
