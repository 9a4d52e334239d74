#!/bin/sh
# SPDX-License-Identifier: MIT
# What cannot be done fails with the error that POSIX and ext4 give. Programs that run, sockets, fifos and devices.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 128M
mount_image
busy=
on_exit() { [ -z "$busy" ] || kill "$busy" 2>/dev/null || true; }

mkdir "$mnt/errors" "$mnt/special" "$mnt/long"
"$LINUXOP" errors "$mnt/errors" || fail "errors"

# A running program is not overwritten, and a file that is open for writing does not run.
cp "$(command -v sleep)" "$mnt/sleep"
"$mnt/sleep" 60 &
busy=$!
wait_until 5 eval '[ "$(readlink "/proc/$busy/exe")" = "$mnt/sleep" ]' || fail "a program on the volume does not run"
if (echo x >>"$mnt/sleep") 2>"$scratch/err"; then fail "a running program was overwritten"; fi
grep -q "Text file busy" "$scratch/err" || fail "writing to a running program: $(cat "$scratch/err")"
mv "$mnt/sleep" "$mnt/renamed"
rm "$mnt/renamed"
kill "$busy"
wait "$busy" 2>/dev/null || true
busy=
cp "$(command -v sleep)" "$mnt/again"
"$mnt/again" 0 || fail "a program on the volume"
exec 9>>"$mnt/again"
if "$mnt/again" 0 2>"$scratch/err"; then fail "a file that is being written runs"; fi
grep -q "Text file busy" "$scratch/err" || fail "running what is being written: $(cat "$scratch/err")"
exec 9>&-
"$mnt/again" 0 || fail "the program afterwards"

"$LINUXOP" socket "$mnt/special" || fail "a socket"
mkfifo "$mnt/special/fifo"
echo through >"$mnt/special/fifo" &
same "$(cat "$mnt/special/fifo")" through "a fifo"
wait
if [ "$(id -u)" = 0 ]; then
	mknod "$mnt/special/zero" c 1 5
	mknod "$mnt/special/large" b 4095 1048575
	mknod "$mnt/special/nothing" c 0 0
	same "$(head -c 5 "$mnt/special/zero" | tr '\0' z)" zzzzz "a device"
fi
"$LINUXOP" long-path "$mnt/long" || fail "long paths"
list() { (cd "$mnt" && find special -printf '%P %y %m\n' && find special -type c,b -exec stat -c '%n %t:%T' {} +) | sort; }
list >"$scratch/before"
finish
mount_image
list >"$scratch/after"
diff "$scratch/before" "$scratch/after" || fail "special files after a remount"
[ "$(id -u)" != 0 ] || same "$(stat -c %t:%T "$mnt/special/large")" fff:fffff "the largest device number"
rm -r "$mnt/long" "$mnt/special" "$mnt/errors"
finish
