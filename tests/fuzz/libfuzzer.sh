#!/bin/sh
# SPDX-License-Identifier: MIT
# Compiles the product once more for libFuzzer: what stands in the given libraries, into one archive.
#
#     libfuzzer.sh ARCHIVE TOP_SRCDIR "COMPILER AND FLAGS" ROOM/LIBRARY.a…
#
# The libraries' own lists of members say which sources: the library's folder is the room.
set -eu
archive=$1 top=$2 compile=$3
shift 3
objects=$archive.objects
rm -rf "$objects" "$archive"
mkdir -p "$objects"
for library; do
	room=$(basename "$(cd "$(dirname "$library")" && pwd)")
	for member in $(ar t "$library" | grep '\.o$'); do
		echo "$compile -c -o $objects/$room-$member $top/$room/${member%.o}.c"
	done
done >"$objects/commands"
tr '\n' '\0' <"$objects/commands" | xargs -0 -P "$(nproc)" -n 1 sh -ec
ar rcs "$archive" "$objects"/*.o
