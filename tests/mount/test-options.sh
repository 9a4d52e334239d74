#!/bin/sh
# SPDX-License-Identifier: MIT
# The command line: both calling conventions, wrong usage, and that --help and the man page know the same mount options.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 64M

fails_with 1 "a device and a mount point are needed" "$DAEMON"
fails_with 1 "a device and a mount point are needed" "$DAEMON" "$image"
fails_with 1 "too many arguments" "$DAEMON" "$image" "$mnt" more
fails_with 1 "unknown mount option 'noexce'" "$DAEMON" -o ro,noexce "$image" "$mnt"
fails_with 1 "unknown mount option 'uid=5'" "$DAEMON" -o uid=5 "$image" "$mnt"
fails_with 1 "commit=0" "$DAEMON" -o commit=0 "$image" "$mnt"
fails_with 1 "poll=soon" "$DAEMON" -o poll=soon "$image" "$mnt"
fails_with 1 "transport=x: give auto, uring or dev" "$DAEMON" -o transport=x "$image" "$mnt"
fails_with 1 "alloc=best: give one of hybrid, " "$DAEMON" -o alloc=best "$image" "$mnt"
fails_with 1 "commit=5x" "$DAEMON" -o commit=5x "$image" "$mnt"
fails_with 1 "unknown option" "$DAEMON" --no-such "$image" "$mnt"
fails_with 1 "needs a value" "$DAEMON" "$image" "$mnt" -o
fails_with 1 "mount -i -o remount" "$DAEMON" -o remount,ro "$image" "$mnt"
"$DAEMON" --version | grep -q '^hybridfs [0-9]' || fail "--version"
"$DAEMON" -h | grep -q '^Usage: hybridfs' || fail "-h"

# The words of the two lists, without what only one of them has a reason to explain.
help_options() { "$DAEMON" --help | sed -n '/^Mount options:/,/^Exit status/p' | grep -E '^  [a-z_]' | sed 's/   .*//'; }
manual_options() {
	sed -n '/^\.SH MOUNT OPTIONS/,/^\.SH SIGNALS/p' "$srcdir_top/man/hybridfs.8" | sed -e ':a' -e '/\\$/{N;s/\\\n//;ba;}' |
		sed -n '/^\.TP/{n;s/^\.B[RI]* //;p;}' | grep -v '^SIG'
}
words() { tr -s ' ",\n' '\n' | sed -e 's/=.*/=/' -e '/^seconds$/d' -e '/^microseconds$/d' -e '/^name$/d' -e '/^$/d' | sort -u; }
same "$(help_options | words)" "$(manual_options | words)" "mount options of --help and of the man page"

# The allocator's engines: the error lists them, and the help and the man page name each.
engine_names() { "$DAEMON" -o alloc= "$image" "$mnt" 2>&1 | sed 's/.*give one of //; s/,//g'; }
[ "$(engine_names | wc -w)" -ge 7 ] || fail "alloc= lists only: $(engine_names)"
help_alloc=$("$DAEMON" --help | sed -n '/^  alloc=/,/^  [a-z]/p' | tr -s ' ,' '\n')
manual_alloc=$(sed -n '/^\.BI alloc=/,/^\.TP/p' "$srcdir_top/man/hybridfs.8" | tr -s ' ",' '\n')
for engine in $(engine_names); do
	echo "$help_alloc" | grep -qx "$engine" || fail "$engine is not in --help"
	echo "$manual_alloc" | grep -qx "$engine" || fail "$engine is not in the man page"
done

# Everything that fstab may hold.
mount_image -o defaults,auto,noauto,nofail,user,users,nouser,owner,group,_netdev,loop,atime,diratime,nodiratime,lazytime,nolazytime,noacl,acl,default_permissions \
	-o fsname=x,subtype=y,comment=z,x-systemd.automount,rw,async,exec,relatime,commit=2
grep -qF " - fuse.hybridfs $image " /proc/self/mountinfo || fail "the mount is not named after its device"
unmount_image

mount_image -o norecovery,ro
unmount_image
fails_with 1 "norecovery needs ro" "$DAEMON" -o norecovery "$image" "$mnt"

# As mount(8) calls a helper: any order, -f is fake, -s ignores what is unknown.
ln -s "$DAEMON" "$scratch/mount.hybridfs"
"$scratch/mount.hybridfs" "$image" "$mnt" -f -o rw
! is_mounted "$mnt" || fail "-f of a helper mounted"
fails_with 1 "unknown mount option" "$scratch/mount.hybridfs" "$image" "$mnt" -o no-such
"$scratch/mount.hybridfs" -s -o no-such,noexec "$image" -n "$mnt" -v -t fuse.hybridfs
is_mounted "$mnt" || fail "the helper did not mount"
grep -F " $mnt " /proc/self/mountinfo | grep -q noexec || fail "noexec did not arrive"
finish
