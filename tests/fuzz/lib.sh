# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# For the test scripts here to source. Each fuzz target NAME has fuzz_NAME.c, seeds in corpus-NAME/, and these tests:
#
#   mutate_test NAME [RUNS]  the plain program over the seeds and random mutations of them. RUNS: how many (20000),
#                            SEED: where to begin (1).
#   planted_test NAME FILE   the same program over a planted bug, which a check in FILE must find.
#   fuzz_test NAME [LEN]     libFuzzer with ASan and UBSan for FUZZ_SECONDS (20) on a copy of the seeds, from SEED (1)
#                            on, with inputs of up to LEN bytes (4096). Skipped where clang cannot do it.
#
# top_srcdir and abs_top_builddir come from `make check`; by hand, set BUILD to the build folder (default: the source
# folder's build).
srcdir_fuzz=$(cd "$(dirname "$0")" && pwd)
build_fuzz=${abs_top_builddir:-${BUILD:-$srcdir_fuzz/../../build}}/tests/fuzz

skip() { echo "skipped: $*"; exit 77; }
fail() { echo "FAILED: $*" >&2; exit 1; }

mutate_test() {
	if ! "$build_fuzz/fuzz_$1" --runs "${RUNS:-${2:-20000}}" --seed "${SEED:-1}" "$srcdir_fuzz/corpus-$1"/*; then
		fail "fuzz_$1; SEED=(the one above) runs it again"
	fi
}

# Its process stops itself, at a check of the target's own: anything else would not be the planted bug.
planted_test() {
	if log=$("$build_fuzz/fuzz_$1_planted" --runs 0 --seed 1 "$srcdir_fuzz/corpus-$1"/* 2>&1); then
		fail "fuzz_$1 has not found the planted bug"
	fi
	case $log in
	*"/$2:"*": not so: "*) echo "found: $log" ;;
	*) fail "the planted bug ended otherwise: $log" ;;
	esac
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
	# What is freed is soon used again: a fifth faster than always taking fresh pages.
	export ASAN_OPTIONS="quarantine_size_mb=16${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
	if ! fixed_addresses "$fuzzer" -max_total_time="${FUZZ_SECONDS:-20}" -seed="${SEED:-1}" -max_len="${2:-4096}" -timeout=10 -rss_limit_mb=1024 \
		-print_final_stats=1 -artifact_prefix="$scratch/found-" "$scratch/corpus" >"$scratch/log" 2>&1; then
		tail -n 60 "$scratch/log" >&2
		for found in "$scratch"/found-*; do
			[ ! -f "$found" ] || { echo "the input, for 'base64 -d >FILE' and '$fuzzer FILE':"; base64 "$found"; } >&2
		done
		fail "libfuzzer_$1"
	fi
	echo "seed ${SEED:-1}; edges: $(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$scratch/log" | tail -n 1)"
	grep -E '^stat::(number_of_executed_units|average_exec_per_sec|new_units_added|peak_rss_mb)' "$scratch/log"
}
