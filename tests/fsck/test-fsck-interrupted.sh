#!/bin/bash
# SPDX-License-Identifier: MIT
# A repair that is interrupted or killed in the middle leaves a volume that the next fsck repairs; many repairs of one
# kind go through although the log of a small volume holds few of them.
. "${srcdir:-$(dirname "$0")}/lib.sh"
image=$work/image

mkdir "$work/tree"
for i in $(seq 1000); do echo "$i" >"$work/tree/file$i"; done
run 0 "$MKFS" -q -s 32M -d "$work/tree" "$work/good" || finish
run 0 "$DAMAGE" "$work/good" sql "UPDATE inode SET nlink = 7, blocks = 3 WHERE ino > 1; \
	UPDATE dirent SET type = 4 WHERE ino > 1; DELETE FROM dirent WHERE ino % 3 = 0; DELETE FROM spacemap" || finish

cp --sparse=always "$work/good" "$image"
run 1 "$FSCK" -y "$image"
says '[0-9]* problems repaired'
run 0 "$FSCK" -n "$image"

# Ended after more and more lines of output: between any two repairs.
cancelled=0
for lines in 1 300 1500 2500; do
	for sig in INT KILL; do
		cp --sparse=always "$work/good" "$image"
		: >"$work/log"
		"$FSCK" -y "$image" >"$work/log" 2>&1 &
		pid=$!
		while kill -0 $pid 2>/dev/null && [ "$(wc -l <"$work/log")" -lt $lines ]; do :; done
		kill -$sig $pid 2>/dev/null
		wait $pid 2>/dev/null
		status=$?
		if [ $sig = INT ] && [ $status -ne 1 ] && [ $((status & 32)) -eq 0 ]; then
			fail "interrupted after $lines lines: exit status $status"
		fi
		[ $sig = KILL ] || cancelled=$((cancelled | (status & 32)))
		"$FSCK" -y "$image" >"$work/out" 2>&1
		status=$?
		[ $status -le 1 ] || fail "repair after $sig at $lines lines: exit status $status"
		run 0 "$FSCK" -n "$image" || fail "… after $sig at $lines lines"
	done
done
# Repairs that make the database larger than its file: the file grows.
run 0 "$MKFS" -q -s 16M "$work/small"
run 0 "$DAMAGE" "$work/small" mount-sql "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 21000) \
	INSERT INTO inode SELECT i, 0, 33188, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 FROM n"
before=$("$FSCK" -n "$work/small" | sed -n 's/.* \([0-9]*\)\/4096 blocks/\1/p')
run 1 "$FSCK" -y "$work/small" && says '20002 files\|20003 files'
after=$("$FSCK" -n "$work/small" | sed -n 's/.* \([0-9]*\)\/4096 blocks/\1/p')
[ "$after" -gt "$before" ] || fail "the database has not grown: $before, $after blocks; this tests nothing"
run 0 "$FSCK" -n "$work/small"
run 0 "$DAMAGE" "$work/small" open

[ $cancelled -eq 32 ] || fail "SIGINT never gave exit status 32"
finish
