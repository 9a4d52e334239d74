#!/bin/sh
# SPDX-License-Identifier: MIT
# bench/alloc on small volumes: every engine × workload runs to its end with the allocator's own checks passed, the JSON is JSON with the
# promised keys and plausible numbers in it, and the pictures are pictures. How fast anything is does not matter here.
set -eu
# shellcheck source=tests/mounted.sh
. "$(dirname "$0")/../mounted.sh"
BENCH=$builddir_top/bench/alloc
[ -x "$BENCH" ] || skip "bench/alloc was not built"
make_scratch
json=$scratch/json

"$BENCH" --help | grep -q '^Engines:' || fail "--help"
engines=$("$BENCH" --help | sed -n '/^Engines:/,/^$/s/^  \([a-z]*\) .*/\1/p')
workloads='w1 w2 w3 w4 edge age'
[ "$(echo "$engines" | wc -w)" -ge 7 ] || fail "--help lists only these engines: $engines"

"$BENCH" --engine=all --workload="$(echo "$workloads" | tr ' ' ,)" --quick --size=64M --rounds=3 --ops=20000 --json \
	--plot="$scratch/plots" >"$json" 2>"$scratch/err" || fail "bench/alloc: $(cat "$scratch/err")"
# A hundredth of 16 TiB: more metaslabs than are ever loaded.
"$BENCH" --workload=sparse --size=16T --json >"$scratch/sparse" 2>"$scratch/err" || fail "sparse: $(cat "$scratch/err")"

# One result a line, each with all keys, a number or null behind each; w1 is there twice.
n_results=$(($(echo "$engines" | wc -w) * ($(echo "$workloads" | wc -w) + 1)))
[ "$(grep -c '^{"engine": ' "$json")" = "$n_results" ] || fail "$(grep -c '^{"engine": ' "$json") results, not $n_results"
keys='alloc_per_s free_per_s ops_per_s utilisation_contiguous_min utilisation_split_min extents_per_alloc free_extents free_share_1m
	ceph_score p50_ns p99_ns p999_ns max_ns rss_bytes cpu_seconds wall_seconds'
for key in $keys; do
	n=$(grep -cE "\"$key\": (null|-?[0-9]+(\.[0-9]+)?)[,}]" "$json") || true
	[ "$n" = "$n_results" ] || fail "$key is in $n of $n_results results"
done
for engine in $engines; do
	for workload in $workloads; do
		grep -F "\"engine\": \"$engine\", \"workload\": \"$workload\"" "$json" | grep -qE '"ops_per_s": [1-9]' ||
			fail "$engine, $workload: no operations"
	done
done

if command -v sqlite3 >/dev/null; then
	for file in "$json" "$scratch/sparse"; do
		[ "$(sqlite3 :memory: "SELECT json_valid(readfile('$file'))")" = 1 ] || fail "no JSON: $(cat "$file")"
	done
	# What cannot be, however small the volume and slow the machine is.
	wrong=$(sqlite3 :memory: "SELECT value ->> 'engine', value ->> 'workload', value ->> 'mode'
		FROM json_each(readfile('$json'), '\$.results')
		WHERE value ->> 'utilisation_end' NOT BETWEEN 1 AND 100 OR value ->> 'p50_ns' > value ->> 'max_ns'
			OR value ->> 'mode' = 'contig' AND value ->> 'extents_per_alloc' <> 1
			OR value ->> 'extents_per_alloc' < 1 OR value ->> 'allocs' < 1")
	[ -z "$wrong" ] || fail "implausible: $wrong"
	# The hybrid one loses nothing when requests may be split.
	lost=$(sqlite3 :memory: "SELECT count(*) FROM json_each(readfile('$json'), '\$.results')
		WHERE value ->> 'engine' = 'hybrid' AND value ->> 'utilisation_last_block' < 100")
	[ "$lost" = 0 ] || fail "the hybrid engine could not give the last block"
	loaded=$(sqlite3 :memory: "SELECT value ->> 'metaslabs_loaded' * 10 < value ->> 'metaslabs'
		FROM json_each(readfile('$scratch/sparse'), '\$.results')")
	[ "$loaded" = 1 ] || fail "sparse: too many metaslabs are loaded: $(cat "$scratch/sparse")"
else
	echo "no sqlite3: the JSON was looked at with grep only"
fi

for picture in w1-utilisation w1-fragmentation w1-extents w3-utilisation age-utilisation w2-latency w4-latency edge-latency w1-hybrid-split-map; do
	svg=$scratch/plots/$picture.svg
	[ -s "$svg" ] || fail "$picture.svg is missing or empty"
	head -n 2 "$svg" | grep -q '<svg ' || fail "$picture.svg is no SVG"
	tail -n 1 "$svg" | grep -q '</svg>' || fail "$picture.svg does not end"
done

# Wrong usage is refused with one line.
for wrong in --engine=none-such --workload=w9 --size=1 --threads=0 --used=0; do
	if "$BENCH" "$wrong" >/dev/null 2>"$scratch/err"; then fail "$wrong is accepted"; fi
	[ "$(wc -l <"$scratch/err")" = 1 ] || fail "$wrong: $(cat "$scratch/err")"
done
