#!/bin/sh
# SPDX-License-Identifier: MIT
# Names are bytes: up to 255 of them, any but / and NUL. Trees are deep.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 128M
mount_image

longest=$(printf '%0255d' 7)
for make in touch mkdir; do
	$make "$mnt/$longest" || fail "$make with 255 bytes"
	[ -e "$mnt/$longest" ] || fail "255 bytes are not found"
	rm -r "${mnt:?}/$longest"
	if $make "$mnt/${longest}8" 2>"$scratch/err"; then fail "$make with 256 bytes"; fi
	grep -q "File name too long" "$scratch/err" || fail "256 bytes: $(cat "$scratch/err")"
done
if ln -s x "$mnt/${longest}8" 2>/dev/null || mv "$mnt" "$mnt/${longest}8" 2>/dev/null; then fail "256 bytes"; fi
if ls "$mnt/${longest}8" 2>"$scratch/err"; then fail "looking up 256 bytes"; fi
grep -q "File name too long" "$scratch/err" || fail "looking up 256 bytes: $(cat "$scratch/err")"

mkdir "$mnt/odd"
for bytes in ' ' '  two' '-rf' '*' 'new\nline' '\001\377\200' 'caf\303\251' 'CAF\303\211' '...' 'a\\b' "it's"; do
	name=$(printf "./${bytes}x")
	name=${name%x}
	printf '%s\n' "$bytes" >"$mnt/odd/$name" || fail "name $bytes"
	same "$(cat "$mnt/odd/$name")" "$bytes" "name $bytes"
done
same "$(find "$mnt/odd" -type f -printf x | wc -c)" 11 "odd names"

# 200 levels, then from the bottom up to the top again by "..".
deep=$mnt/deep
mkdir "$deep"
(cd "$deep" && i=0 && while [ $i -lt 200 ]; do mkdir "level-$i" && cd "level-$i" && i=$((i + 1)); done && echo bottom >file)
same "$(find "$deep" -name file -printf '%d\n')" 201 "a deep tree"
target=$(printf '%04095d' 0)
ln -s "$target" "$mnt/link"
same "$(readlink "$mnt/link")" "$target" "a symbolic link of 4095 bytes"
unmount_image
check_image
mount_image
same "$(find "$mnt/odd" -type f -printf x | wc -c)" 11 "odd names after a remount"
same "$(find "$deep" -name file -exec cat {} \;)" bottom "the bottom after a remount"
same "$(readlink "$mnt/link")" "$target" "the symbolic link after a remount"
rm -r "$deep" "$mnt/odd"
finish
