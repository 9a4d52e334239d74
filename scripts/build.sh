# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# For the other scripts to source: where to build, and building.
#
# The source tree is built out of tree, in ./build* of the source folder. When this user may not write there (the sources are
# root's, or read-only, or an earlier run as root has left its files), the sources are copied to the user's cache folder and
# built beside that copy: nobody needs another one's permission, and a second run compiles only what has changed. The same
# when the path has a space or another character in it that make and configure cannot stand.
#
# What autogen.sh makes is not copied but made anew there.
#
# The caller sets `top` (the source folder). HYBRIDFS_BUILD names another folder for the builds.

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

: "${top:?}"

# What automake accepts as the path of a source folder; blanks are the ones that people have.
path_is_buildable() {
	case $1 in
	*[!A-Za-z0-9/._+,:@%=~^-]*) return 1 ;;
	esac
}

# Whether everything that autogen.sh writes in the source folder can be written by this user.
source_is_writable() {
	[ -w "$top" ] || return 1
	for file in "$top/autom4te.cache" "$top/build-aux" "$top/configure" "$top"/Makefile.in "$top"/*/Makefile.in; do
		[ ! -e "$file" ] || [ -w "$file" ] || return 1
	done
}

# All folders of builds that exist can be written by this user.
builds_are_writable() {
	for folder in "$top"/build "$top"/build-asan "$top"/build-tsan; do
		[ ! -e "$folder" ] || [ -w "$folder" ] || return 1
	done
}

# The user's cache folder; users without a home of their own, or with blanks in its path, have one in /tmp.
cache_folder() {
	if [ -n "${XDG_CACHE_HOME:-}" ] && path_is_buildable "$XDG_CACHE_HOME"; then
		echo "$XDG_CACHE_HOME/hybridfs"
	elif [ -w "${HOME:-/nonexistent}" ] && path_is_buildable "$HOME"; then
		echo "$HOME/.cache/hybridfs"
	else
		echo "/tmp/hybridfs-$(id -u)"
	fi
}

copy_source() {
	if ! mkdir -p "$1" || ! [ -O "$(cache_folder)" ] || ! [ -O "$1" ]; then
		die "cannot create $1, or it is not yours"
	fi
	(cd "$top" && tar -cf - --anchored --exclude=./.git --exclude="./build*" --exclude=./mnt --exclude="*.img" \
		--exclude=./configure --exclude=./aclocal.m4 --exclude=./autom4te.cache --exclude=./config.h.in \
		--no-anchored --exclude=Makefile.in .) |
		(cd "$1" && tar -xf -) || die "cannot copy $top to $1"
}

# Sets `src` (what is built) and `builds` (the prefix of the folders to build in).
choose_folders() {
	src=$top
	builds=${HYBRIDFS_BUILD:-$top}/build
	why=
	if ! path_is_buildable "$top"; then
		why="configure cannot work in a path like $top"
	elif ! source_is_writable || { [ -z "${HYBRIDFS_BUILD:-}" ] && ! builds_are_writable; }; then
		why="The source folder is not writable for $(id -un)"
	fi
	if [ -n "$why" ]; then
		cache=$(cache_folder)/$(printf %s "$top" | cksum | tr " " -)
		src=$cache/source
		builds=${HYBRIDFS_BUILD:-$cache}/build
		copy_source "$src"
		say "$why: building in $builds"
	fi
	[ ! -e "$src/config.status" ] || die "$src was configured in place; run 'make distclean' there first"
}

# build_in FOLDER [configure options]: configures if need be and runs make. Its output goes to FOLDER/build.log.
build_in() (
	into=$1
	shift
	mkdir -p "$into" || die "cannot create $into"
	log=$into/build.log
	: >"$log" || die "cannot write $log"
	fail() {
		grep -E "error|undefined reference|cannot find|No such file|\*\*\*" "$log" >"$into/build.errors" || tail -n 20 "$log" >"$into/build.errors"
		head -n 20 "$into/build.errors" >&2
		die "$1 failed; the whole output is in $log"
	}
	if [ ! -x "$src/configure" ] || [ ! -f "$src/Makefile.in" ] || [ ! -d "$src/build-aux" ]; then
		"$src/autogen.sh" >>"$log" 2>&1 || fail autogen.sh
	fi
	if [ ! -f "$into/Makefile" ]; then
		(cd "$into" && "$src/configure" "$@") >>"$log" 2>&1 || fail configure
	fi
	make -C "$into" -j"$(nproc)" >>"$log" 2>&1 || fail make
)
