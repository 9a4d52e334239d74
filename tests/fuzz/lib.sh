# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# For the test scripts here to source. Each fuzz target NAME has fuzz_NAME.c, seeds in corpus-NAME/, and two tests:
#
#   mutate_test NAME   the plain program over the seeds and random mutations of them. RUNS: how many (20000), SEED: where to begin.
#   fuzz_test NAME     libFuzzer with ASan and UBSan for FUZZ_SECONDS (20) on a copy of the seeds. Skipped where clang cannot do it.
#
# top_srcdir and abs_top_builddir come from `make check`; by hand, set BUILD to the build folder (default: the source folder's build).
srcdir_fuzz=$(cd "$(dirname "$0")" && pwd)
build_fuzz=${abs_top_builddir:-${BUILD:-$srcdir_fuzz/../../build}}/tests/fuzz

skip() { echo "skipped: $*"; exit 77; }
fail() { echo "FAILED: $*" >&2; exit 1; }

mutate_test() {
	if ! "$build_fuzz/fuzz_$1" --runs "${RUNS:-20000}" ${SEED:+--seed "$SEED"} "$srcdir_fuzz/corpus-$1"/*; then
		fail "fuzz_$1; SEED=(the one above) runs it again"
	fi
}

# ASan of an older clang dies at random where a new kernel randomises addresses as far as it can.
fixed_addresses() {
	if setarch "$(uname -m)" -R true 2>/dev/null; then
		setarch "$(uname -m)" -R "$@"
	else
		"$@"
	fi
}

fuzz_test() {
	fuzzer=$build_fuzz/libfuzzer_$1
	[ -x "$fuzzer" ] || skip "configure found no clang that can -fsanitize=fuzzer"
	scratch=$(mktemp -d "${TMPDIR:-/tmp}/hybridfs-fuzz-XXXXXX")
	trap 'rm -rf "$scratch"' EXIT
	cp -R "$srcdir_fuzz/corpus-$1" "$scratch/corpus"
	chmod -R u+w "$scratch/corpus"
	if ! fixed_addresses "$fuzzer" -max_total_time="${FUZZ_SECONDS:-20}" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
		-artifact_prefix="$scratch/found-" "$scratch/corpus" >"$scratch/log" 2>&1; then
		tail -n 60 "$scratch/log" >&2
		for found in "$scratch"/found-*; do
			[ ! -f "$found" ] || { echo "the input, for 'base64 -d >FILE' and '$fuzzer FILE':"; base64 "$found"; } >&2
		done
		fail "libfuzzer_$1"
	fi
	grep -E '^stat::(number_of_executed_units|new_units_added|peak_rss_mb)' "$scratch/log"
}
