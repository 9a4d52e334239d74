# SPDX-License-Identifier: MIT
# Shared by the tests of mkfs and fsck: where the programs are, a folder of one's own, and counting what failed.

builddir=${abs_top_builddir:-$(cd "${top_builddir:-../..}" && pwd)}
srcdir=${srcdir:-$(dirname "$0")}
MKFS=$builddir/mkfs/mkfs.hybridfs
FSCK=$builddir/fsck/fsck.hybridfs
DAMAGE=$builddir/tests/fsck/fsck-damage
failed=0

work=$(mktemp -d "${TMPDIR:-/tmp}/hybridfs-test.XXXXXX") || exit 99
trap 'chmod -R u+rwx "$work"; rm -rf "$work"' EXIT

fail() {
	echo "FAIL: $*"
	failed=$((failed + 1))
}

# run STATUS COMMAND…: runs it, output to $work/out; it must end with this status.
run() {
	want=$1
	shift
	"$@" >"$work/out" 2>&1
	got=$?
	if [ "$got" -ne "$want" ]; then
		fail "exit status $got instead of $want: $*"
		sed 's/^/    /' "$work/out"
		return 1
	fi
}

# says TEXT: the last output contains it.
says() {
	grep -q -e "$1" "$work/out" && return 0
	fail "no \"$1\" in the output of the last command:"
	sed 's/^/    /' "$work/out"
	return 1
}

finish() {
	[ "$failed" -eq 0 ] || echo "$failed failed"
	[ "$failed" -eq 0 ]
	exit
}
