#!/bin/sh
# SPDX-License-Identifier: MIT
# Rules of the tree that a machine can check. Each finding is one line; exit status 1 if there is any.
#
#   arrows    includes point down: mkfs -> fs -> fsck -> meta -> alloc, block -> util, never back;
#             alloc and block do not know each other, nobody but tests and bench knows tests and bench
#   headers   each header compiles alone
#   licence   the first line of every .c and .h
#   help      the long options of --help and of the man page are the same
#   words     that have no business in the tree
#
# `make check` sets top_srcdir, top_builddir and COMPILE (compiler and flags for a header).
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
src=$(cd "${top_srcdir:-$here}" && pwd)
build=$(cd "${top_builddir:-$here/build}" && pwd)
findings=$(mktemp)
trap 'rm -f "$findings"' EXIT
cd "$src"

found() { echo "$*" | tee -a "$findings"; }

# All C files of the rooms, without what a build may have left.
c_files() { find util block alloc meta fs mkfs fsck bench tests -name '*.[ch]' | sort; }

# Which rooms a room's files may include from.
allowed_rooms() {
	case $1 in
	util) echo util ;;
	block) echo block util ;;
	alloc) echo alloc util ;;
	meta) echo meta alloc block util ;;
	fs) echo fs fsck meta alloc block util ;;
	mkfs) echo mkfs fs meta alloc block util ;;
	fsck) echo fsck meta alloc block util ;;
	bench) echo bench meta alloc block util ;;
	tests) echo tests fsck mkfs fs meta alloc block util ;;
	esac
}

check_arrows() {
	for file in $(c_files); do
		room=${file%%/*}
		allowed=" $(allowed_rooms "$room") "
		# Names of headers have no spaces.
		# shellcheck disable=SC2013
		for header in $(sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"\([^"]*\)".*/\1/p' "$file"); do
			case $header in
			*/*) target=${header%%/*} ;;
			*) target=$room ;; # of the same folder
			esac
			case $allowed in
			*" $target "*) ;;
			*) found "arrow: $file includes $header; $room may include only from:$allowed" ;;
			esac
		done
	done
	# The room of blocks does not know the test device, which lives there for its neighbours' tests.
	# shellcheck disable=SC2046
	grep -ln 'block/testdev\.h' $(c_files | grep -v -e '^tests/' -e '^block/testdev\.[ch]$') /dev/null | while read -r file; do
		found "arrow: $file uses the test device"
	done
}

check_headers() {
	for header in $(c_files | grep '\.h$'); do
		# COMPILE is a list of words.
		# shellcheck disable=SC2086
		output=$(echo "#include \"$header\"" | ${COMPILE:-gcc -std=gnu11 -D_GNU_SOURCE} -I"$src" \
			-fsyntax-only -Wall -Werror -x c - 2>&1) || found "header: $header does not compile alone: $output"
	done
}

check_licence() {
	for file in $(c_files); do
		case $(head -n 1 "$file") in
		'// SPDX-License-Identifier: MIT') ;;
		*) found "licence: the first line of $file" ;;
		esac
	done
}

long_options() { grep -o -e '--[a-z][a-z0-9-]*' | sort -u; }

check_help() {
	for page in man/*.8; do
		[ -e "$page" ] || continue
		name=$(basename "$page" .8)
		for program in "$build"/fs/"$name" "$build"/mkfs/"$name" "$build"/fsck/"$name" "$build"/bench/"$name"; do
			[ -x "$program" ] || continue
			help=$("$program" --help 2>&1 | long_options || true)
			# Of the page, only the lines that define an option: its text may speak of other programs.
			manual=$(grep -E '^\.(B|BR|BI|IP) "?\\-' "$page" | sed 's/\\-/-/g; s/\\f[A-Z]//g' | long_options || true)
			[ "$help" = "$manual" ] || found "help: $name --help and $page differ in:" \
				"$(printf '%s\n%s\n' "$help" "$manual" | sort | uniq -u | tr '\n' ' ')"
		done
	done
}

# Written in pieces, so that this file does not find itself.
check_words() {
	pattern="/wo""rk/|TO""DO|FIX""ME"
	find util block alloc meta fs mkfs fsck man bench tests scripts doc .ci README.md HACKING.md configure.ac Makefile.am common.mk \
		-type f \( -name '*.[ch]' -o -name '*.sh' -o -name '*.md' -o -name '*.am' -o -name '*.ac' -o -name '*.mk' -o -name '*.[578]' \
		-o -name run \) 2>/dev/null | sort | while read -r file; do
		grep -nE "$pattern" "$file" | while read -r line; do
			found "word: $file:$line"
		done
	done
}

check_arrows
check_headers
check_licence
check_help
check_words
if [ -s "$findings" ]; then
	echo "$(wc -l <"$findings") findings"
	exit 1
fi
echo "$(c_files | wc -l) files: nothing found"
