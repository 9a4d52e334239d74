#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs every test: installs what is missing, builds and runs `make check` plain, then real mounts once more over io_uring, then everything
# with ASan and UBSan, and the tests of threads with TSan. The last line is "N passed, N failed"; skipped tests stand above it with their reasons.
# Exit status 0 when something passed and nothing failed.
#
#     scripts/check.sh                  everything
#     scripts/check.sh plain|uring|asan|tsan  only these
#
# The stage uring needs Linux 6.14. If FUSE over io_uring is switched off there, root switches it on meanwhile.
# As an ordinary user the tests that need root skip themselves. CHECK_TIMEOUT: seconds for one stage (3000).
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=scripts/build.sh
. "$top/scripts/build.sh"

timeout=${CHECK_TIMEOUT:-3000}
threaded_tests='check_alloc_threads check_alloc_trim check_dbvfs_errors check_deferred check_duty check_engine check_fs_life check_keeper check_trimmer check_txn check_wal_log'
# What goes through the transport in its own way: large and many requests, crashes, signals, users, slow work beside brief.
uring_tests='test-transport.sh test-requests.sh test-options-effect.sh test-tree-copy.sh test-enospc.sh test-kill.sh test-attributes.sh test-acl.sh'
uring_tests="$uring_tests test-readdir-delete.sh test-data-paths.sh test-setuid.sh test-user.sh test-signals.sh test-tmpfile.sh test-umount.sh"
uring_switch=/sys/module/fuse/parameters/enable_uring
passed=0
failed=0
skipped=0
skips=
broken=

# Address space randomisation of new kernels is too much for the sanitizers of older compilers: they die at random.
if setarch "$(uname -m)" -R true 2>/dev/null; then
	fixed_addresses="setarch $(uname -m) -R"
else
	fixed_addresses=
fi

# count STAGE FOLDER: adds up the results that automake has left in FOLDER, one .trs file per test.
count() {
	for trs in $(find "$2" -name "*.trs" | sort); do
		name=$(basename "$trs" .trs)
		# One word per line.
		# shellcheck disable=SC2013
		for result in $(sed -n 's/^:test-result: *\([A-Z]*\).*/\1/p' "$trs"); do
			case $result in
			PASS | XFAIL) passed=$((passed + 1)) ;;
			SKIP)
				skipped=$((skipped + 1))
				reason=$(grep -v '^SKIP ' "${trs%.trs}.log" | tail -n 1)
				skips="$skips
  skipped: $1 $name: ${reason:-no reason given}"
				;;
			*) stage_failed "$1" "$name" "${trs%.trs}.log" ;;
			esac
		done
	done
}

# A stage that cannot be built or does not end is a failure of its own.
stage_failed() {
	failed=$((failed + 1))
	broken="$broken
  $1: $2 ($3)"
	if [ -f "$3" ]; then
		say "---- the end of $3:"
		tail -n 30 "$3"
		say "----"
	fi
}

# stage NAME FOLDER SUBFOLDER "TESTS, or all" "words for make" [configure options]
stage() {
	name=$1 dir=$2 sub=$3 tests=$4 words=$5
	shift 5
	say "== $name: building in $dir"
	if ! build_in "$dir" "$@"; then
		stage_failed "$name" "the build" "$dir/build.log"
		return
	fi
	find "$dir" -name '*.trs' -exec rm -f {} +
	say "== $name: running the tests"
	# fixed_addresses and words are lists of words. Each test's own output is in a log of its own.
	# shellcheck disable=SC2086
	(
		set +e
		timeout -k 60 "$timeout" $fixed_addresses make -k -C "$dir/$sub" -j"$(nproc)" check VERBOSE=1 $words ${tests:+"TESTS=$tests"}
		echo $? >"$dir/check.status"
	) 2>&1 | tee "$dir/check.log" | grep --line-buffered -E '^(PASS|FAIL|SKIP|ERROR|XFAIL|XPASS): ' || true
	status=$(cat "$dir/check.status")
	failed_before=$failed
	count "$name" "$dir/$sub"
	if [ "$status" = 124 ]; then
		stage_failed "$name" "did not end within $timeout seconds" "$dir/check.log"
	elif [ "$status" != 0 ] && [ "$failed" = "$failed_before" ]; then
		stage_failed "$name" "make check" "$dir/check.log"
	fi
}

# TSan of an older compiler may not start at all on a new kernel: then these tests cannot run here.
tsan_works() {
	probe=$(mktemp -d)
	echo 'int main(void) { return 0; }' >"$probe/probe.c"
	# shellcheck disable=SC2086
	if ${CC:-gcc} -fsanitize=thread -o "$probe/probe" "$probe/probe.c" 2>/dev/null && $fixed_addresses "$probe/probe" 2>/dev/null; then
		works=true
	else
		works=false
	fi
	rm -rf "$probe"
	$works
}

# Sets why_not if there is no FUSE over io_uring here, and uring_was if it has to be switched off again.
switch_uring_on() {
	why_not=
	uring_was=
	case $(cat "$uring_switch" 2>/dev/null) in
	Y) return ;;
	N) ;;
	*) why_not="the kernel has no FUSE over io_uring (Linux 6.14)"; return ;;
	esac
	if [ -w "$uring_switch" ] && echo Y 2>/dev/null >"$uring_switch"; then
		uring_was=N
		trap switch_uring_back EXIT
	else
		why_not="FUSE over io_uring is switched off: as root, echo Y >$uring_switch"
	fi
}
switch_uring_back() {
	[ -z "$uring_was" ] || echo "$uring_was" >"$uring_switch"
	uring_was=
	trap - EXIT
}

skip_stage() {
	skipped=$((skipped + 1))
	skips="$skips
  skipped: $1: $2"
}

stages=
for arg; do
	case $arg in
	plain | uring | asan | tsan) stages="$stages $arg" ;;
	-h | --help) sed -n '3,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
	*) die "unknown argument '$arg'; try --help" ;;
	esac
done

"$top/scripts/deps.sh" --test
choose_folders
for wanted in ${stages:-plain uring asan tsan}; do
	case $wanted in
	plain) stage plain "$builds" . "" "" ;;
	uring)
		switch_uring_on
		if [ -n "$why_not" ]; then
			skip_stage uring "$why_not"
		else
			HYBRIDFS_TRANSPORT=uring
			export HYBRIDFS_TRANSPORT
			stage uring "$builds" tests/mount "$uring_tests" ""
			stage uring "$builds" tests "model/test-model.sh soak/test-kill.sh" SUBDIRS=.
			stage uring "$builds" tests/unit check_transport ""
			unset HYBRIDFS_TRANSPORT
			switch_uring_back
		fi
		;;
	asan) stage asan "$builds-asan" . "" FUZZ_SECONDS=10 --enable-asan ;; # libFuzzer's programs are the same as before
	tsan)
		if tsan_works; then
			stage tsan "$builds-tsan" tests/unit "$threaded_tests" "" --enable-tsan
		else
			skip_stage tsan "programs built with -fsanitize=thread do not start on this kernel"
		fi
		;;
	esac
done

[ -z "$skips" ] || say "Skipped:$skips"
[ -z "$broken" ] || say "Failed:$broken"
if [ "$passed" = 0 ] && [ "$failed" = 0 ]; then
	say "No test ran."
	failed=1
fi
if [ "$skipped" = 0 ]; then
	say "$passed passed, $failed failed"
else
	say "$passed passed, $failed failed, $skipped skipped"
fi
[ "$failed" = 0 ]
