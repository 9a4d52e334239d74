#!/bin/bash
# SPDX-License-Identifier: MIT
# Each line of `cases` damages a volume in one way: fsck -n finds it and changes nothing, fsck -y repairs it in one run,
# and then there is nothing left to find, and the volume opens. With an argument: only cases of this problem.
. "${srcdir:-$(dirname "$0")}/lib.sh"
only=$1

make_tree() {
	mkdir -p "$work/tree/d1/d2/d3" "$work/tree/many"
	echo 'some text' >"$work/tree/small"
	head -c 100000 /dev/urandom >"$work/tree/d1/large"
	head -c 100000 /dev/urandom >"$work/tree/d1/d2/other"
	ln -s ../small "$work/tree/d1/sym"
	ln "$work/tree/d1/d2/other" "$work/tree/again"
	mkfifo "$work/tree/fifo"
	for i in $(seq 200); do echo "$i" >"$work/tree/many/file$i"; done
}

# The numbers are put in before anything is changed: names may go on the way.
resolve() {
	local sql=$1 name ino

	while [[ $sql =~ \{([a-z0-9]+)\} ]]; do
		name=${BASH_REMATCH[1]}
		ino=${numbers[$name]}
		[ -n "$ino" ] || { fail "no inode $name"; return 1; }
		sql=${sql//"{$name}"/$ino}
	done
	echo "$sql"
}

check_case() {
	local problem=$1 kind=$2 arg=$3 left=$4 image=$work/image

	cp --sparse=always "$work/good" "$image"
	if [ "$kind" = sql ] || [ "$kind" = raw-sql ]; then
		arg=$(resolve "$arg") || return
		run 0 "$DAMAGE" "$image" "$kind" "$arg" || return
	elif [ "$kind" = flip ]; then
		run 0 "$DAMAGE" "$image" flip "${numbers[$arg]}" || return
	else
		# shellcheck disable=SC2086 # two words
		run 0 "$DAMAGE" "$image" "$kind" $arg || return
	fi
	cp --sparse=always "$image" "$work/damaged"
	if [ "$left" = scrub ]; then
		run 0 "$FSCK" -n "$image"
		run 4 "$FSCK" -y -v --scrub "$image" && says "\[$problem\]" && says "$arg: damaged in bytes 0 to 4095"
		run 0 "$FSCK" -y "$image"
		return
	fi
	run 4 "$FSCK" -n -v "$image" && says "\[$problem\]"
	cmp "$image" "$work/damaged" || fail "fsck -n has changed the image ($problem: $arg)"
	if [ -n "$left" ]; then
		run 4 "$FSCK" -y "$image"
		cmp "$image" "$work/damaged" || fail "fsck -y has changed what it cannot repair ($problem: $arg)"
		return
	fi
	run 1 "$FSCK" -y -v "$image" && says "\[$problem\]"
	run 0 "$FSCK" -n -v "$image" || fail "  … after the repair of $problem: $arg"
	run 0 "$DAMAGE" "$image" open
}

make_tree
run 0 "$MKFS" -q -s 16M -d "$work/tree" "$work/good" || finish
run 0 "$FSCK" -n "$work/good" || finish
declare -A numbers
while read -r name ino; do numbers[$name]=$ino; done < <("$DAMAGE" "$work/good" list)

while IFS='|' read -r problem kind arg left; do
	problem=${problem// /}
	[[ $problem = '#'* || -z $problem ]] && continue
	[ -z "$only" ] || [ "$problem" = "$only" ] || continue
	read -r kind <<<"$kind"
	read -r arg <<<"$arg"
	read -r left <<<"$left"
	check_case "$problem" "$kind" "$arg" "$left"
done <"$srcdir/cases"

# No problem without a case.
for id in $(sed -n 's/.*\[FP_[A-Z_]*\] = { "\([a-z-]*\)".*/\1/p' "$srcdir/../../fsck/problem.c"); do
	grep -q "^$id " "$srcdir/cases" || fail "problem $id has no case"
done
finish
