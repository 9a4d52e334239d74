#!/bin/bash
# SPDX-License-Identifier: MIT
# A database with pages overwritten at random is written anew in one run, with everything that the other pages hold, also when the
# newest state of it is in the log, and when fsck is killed on the way. SEED chooses the first of SEEDS (default 15) seeds.
. "${srcdir:-$(dirname "$0")}/lib.sh"
image=$work/image
first=${SEED:-1}
last=$((first + ${SEEDS:-15} - 1))

mkdir -p "$work/tree/dir"
for i in $(seq 1500); do echo "content of $i" >"$work/tree/dir/a file with a longer name, number $i"; done
for i in $(seq 20); do head -c 20000 /dev/urandom >"$work/tree/large$i"; done
run 0 "$MKFS" -q -s 32M -d "$work/tree" "$work/good" || finish
run 0 "$FSCK" -n "$work/good" || finish
cp --sparse=always "$work/good" "$work/logged"
run 0 "$DAMAGE" "$work/logged" crash-sql "UPDATE inode SET mtime = mtime + 1; UPDATE inline SET data = data" || finish
all=$("$DAMAGE" "$work/good" list | wc -l)

# The volume is sound after one run; what SQLite's own check finds, fsck has found, too.
repair() {
	if "$FSCK" -n "$image" >"$work/out" 2>&1; then
		cp --sparse=always "$image" "$work/copy"
		run 0 "$DAMAGE" "$work/copy" integrity || fail "fsck finds nothing: $1"
	fi
	"$FSCK" -y "$image" >"$work/out" 2>&1
	status=$?
	[ $status -le 1 ] || { fail "$1: exit status $status"; sed 's/^/    /' "$work/out"; return 1; }
	run 0 "$FSCK" -n "$image" || fail "… $1"
	run 0 "$DAMAGE" "$image" open || fail "… $1"
	run 0 "$DAMAGE" "$image" integrity || fail "… $1"
}

# What one page holds is lost at most, and what belongs to it: a page has less than 100 names.
for seed in $(seq "$first" "$last"); do
	for what in good logged; do
		cp --sparse=always "$work/$what" "$image"
		run 0 "$DAMAGE" "$image" smash-pages "$seed" 1
		repair "SEED=$seed SEEDS=1, $what, one page" || continue
		kept=$("$DAMAGE" "$image" list | wc -l)
		[ "$kept" -ge $((all - 100)) ] || fail "SEED=$seed SEEDS=1, $what: $kept of $all names are left"
	done
	cp --sparse=always "$work/good" "$image"
	run 0 "$DAMAGE" "$image" smash-pages "$seed" 5
	repair "SEED=$seed SEEDS=1, five pages"
done

# Neither the pages above the leaves nor the header are needed.
for table in config dirent inode extent inline; do
	cp --sparse=always "$work/good" "$image"
	run 0 "$DAMAGE" "$image" smash $table
	repair "the root of $table"
	[ "$("$DAMAGE" "$image" list | wc -l)" -ge "$all" ] || fail "names are lost without the root of $table"
	cp --sparse=always "$work/good" "$image"
	run 0 "$DAMAGE" "$image" smash $table
	run 0 "$DAMAGE" "$image" db-poke 0 ffffffffffffffffffffffffffffffff
	repair "the root of $table and the header"
done
cp --sparse=always "$work/good" "$image"
run 0 "$DAMAGE" "$image" db-poke 0 ffffffffffffffffffffffffffffffff
repair "the header"
[ "$("$DAMAGE" "$image" list | wc -l)" -eq "$all" ] || fail "names are lost without the header"

# Killed after more and more time: what was there is there, or the new one is.
for ms in 5 10 20 40 60 80 100 150; do
	cp --sparse=always "$work/good" "$image"
	run 0 "$DAMAGE" "$image" smash inode
	{ timeout -s KILL "0.$(printf '%03d' $ms)" "$FSCK" -y "$image" >"$work/out"; } 2>/dev/null
	repair "killed after $ms ms"
	[ "$("$DAMAGE" "$image" list | wc -l)" -ge "$all" ] || fail "names are lost after a kill at $ms ms"
done

# No room for another database: said, and nothing is changed.
cp --sparse=always "$work/good" "$image"
run 0 "$DAMAGE" "$image" fill
run 0 "$DAMAGE" "$image" smash inode
cp --sparse=always "$image" "$work/before"
run 4 "$FSCK" -y "$image" && says 'no room'
cmp "$image" "$work/before" || fail "fsck has changed what it could not repair"
finish
