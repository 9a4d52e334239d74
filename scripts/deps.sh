#!/bin/sh
# SPDX-License-Identifier: MIT
# Sees to it that the Debian packages are there which building, testing or benchmarking needs. Says nothing when they are.
#
#     scripts/deps.sh            to build and run
#     scripts/deps.sh --test     and to run every test
#     scripts/deps.sh --bench    and the peers of bench/compare.sh
#     scripts/deps.sh --list ... only prints the names
#
# Missing ones are installed with apt-get, through sudo when not root. Exit status 1 when that cannot be done.
set -eu

packages='autoconf automake gcc libc6-dev make pkg-config fuse3 libfuse3-dev libsqlite3-dev libblkid-dev uuid-dev
	libxxhash-dev libisal-dev liburing-dev'
list=false

for arg; do
	case $arg in
	--test) packages="$packages check acl attr clang e2fsprogs git libclang-rt-dev postgresql qemu-utils
		rsync sqlite3 util-linux" ;;
	--bench) packages="$packages e2fsprogs xfsprogs btrfs-progs fuse2fs ntfs-3g util-linux" ;;
	--list) list=true ;;
	-h | --help) sed -n '3,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
	*) echo "deps.sh: unknown option '$arg'; try --help" >&2; exit 2 ;;
	esac
done

if $list; then
	echo "$packages" | tr -s ' \t\n' '\n' | sort -u
	exit 0
fi
if ! command -v dpkg-query >/dev/null; then
	echo "deps.sh: no Debian system; going on and hoping for what these packages hold: $(echo "$packages" | tr -s "\t\n" "  ")" >&2
	exit 0
fi

missing=
for package in $packages; do
	status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || status=
	case " $missing " in
	*" $package "*) continue ;;
	esac
	[ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
	sudo=
elif command -v sudo >/dev/null; then
	sudo=sudo
else
	echo "deps.sh: as root, run: apt-get install$missing" >&2
	exit 1
fi

echo "Installing:$missing"
# Debian starts a PostgreSQL server with its package. The tests start their own, and nobody asked for one.
case " $missing " in
*" postgresql "*)
	# shellcheck disable=SC2016
	$sudo sh -c 'conf=/etc/postgresql-common/createcluster.conf
		[ -e "$conf" ] || { mkdir -p "${conf%/*}" && echo "create_main_cluster = false" >"$conf"; }'
	;;
esac
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# $sudo and $missing are lists of words. The package lists of a fresh machine may be missing or old: update first.
# shellcheck disable=SC2086
if ! { $sudo env DEBIAN_FRONTEND=noninteractive apt-get -q update &&
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install $missing; } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "deps.sh: could not install:$missing (see above)" >&2
	exit 1
fi
