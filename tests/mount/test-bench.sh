#!/bin/sh
# SPDX-License-Identifier: MIT
# bench/compare.sh on a few files: results of both programs, JSON that is JSON, and nothing left behind, also in a path with blanks.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
mkdir "$scratch/a place"

"$srcdir_top/bench/compare.sh" --build "$builddir_top" --only hybridfs --rounds 1 --files 50 --size 1M --image 256M \
	--workdir "$scratch/a place" --json "$scratch/json" >"$scratch/table" 2>"$scratch/err" || fail "compare.sh: $(cat "$scratch/err")"
for phase in create_write_close unlink seq_write_1m append_fsync; do
	grep -q "^$phase " "$scratch/table" || fail "no $phase in the table"
	grep -q "\"phase\": \"$phase\"" "$scratch/json" || fail "no $phase in the JSON"
done
if command -v sqlite3 >/dev/null; then
	same "$(sqlite3 :memory: "SELECT json_valid(readfile('$scratch/json'))")" 1 "JSON"
fi
same "$(ls -A "$scratch/a place")" "" "left behind"
! grep -q 'a\\040place' /proc/self/mountinfo || fail "a mount is left behind"
