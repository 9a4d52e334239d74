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
[ $cancelled -eq 32 ] || fail "SIGINT never gave exit status 32"
finish
