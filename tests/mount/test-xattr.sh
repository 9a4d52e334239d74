#!/bin/sh
# SPDX-License-Identifier: MIT
# Extended attributes by name space: who sees which, what may have them, errors and limits; capabilities of files go when these change.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
require_root "trusted attributes and users"
require_programs setfattr setpriv
make_scratch
chmod 755 "$scratch"
format 64M
mount_image
cd "$mnt"
nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
refused() { if "$@" >/dev/null 2>&1; then fail "allowed: $*"; fi; }
names() { getfattr -hm - "$@" | grep -v '^#' | xargs; }

touch f
ln -s f link
mkfifo fifo
"$FSOP" xattr-limits f || fail "errors and limits"
rm f
touch f

# Name spaces.
setfattr -n user.u -v 1 f
setfattr -n trusted.t -v 2 f
setfattr -n security.s -v 3 f
same "$(names f)" "security.s trusted.t user.u" "what root sees"
chmod 755 .
same "$(nobody getfattr -m - f | grep -v '^#' | xargs)" "security.s user.u" "what a user sees"
refused nobody getfattr -n trusted.t f
refused nobody setfattr -n trusted.t -v 2 f
refused nobody setfattr -n security.s -v 3 f
refused nobody setfattr -n user.u -v 3 f
same "$(setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin getfattr -m - f | grep -v '^#' | xargs)" "security.s user.u" \
	"what root sees without the capability"
if unshare -Ur true 2>/dev/null; then
	same "$(unshare -Ur getfattr -m - f | grep -v '^#' | xargs)" "security.s user.u" "what root of a user namespace sees"
fi
for special in link fifo; do
	refused setfattr -hn user.u -v 1 $special
	setfattr -hn trusted.t -v 4 $special
	same "$(names $special)" trusted.t "$special"
done
mkdir -m 1777 sticky
refused nobody setfattr -n user.u -v 1 sticky
mkdir -m 777 open
nobody setfattr -n user.u -v 1 open || fail "a user's attribute of a directory"

# The tools.
if command -v rsync >/dev/null; then
	rsync -aX f link fifo open "$scratch/" 2>/dev/null && rsync -aX "$scratch/f" back && same "$(names back | tr ' ' '\n' | grep -c user)" 1 "rsync -X"
fi
cp -a f copy
same "$(names copy)" "$(names f)" "cp -a"
mv copy moved
same "$(getfattr -hn trusted.t --only-values moved)" 2 "after a rename"

# Capabilities: any change of the contents or the owner takes them away, by whomever; nothing else does.
if command -v setcap >/dev/null && command -v getcap >/dev/null; then
	capable() {
		rm -f p
		head -c 10000 /dev/zero >p
		chmod 777 p
		setcap cap_net_raw+ep p
		getcap p | grep -q net_raw || fail "setcap"
	}
	lost() { same "$(getcap p)" "" "file capabilities after $1"; }
	kept() { getcap p | grep -q net_raw || fail "file capabilities are lost after $1"; }
	capable
	chmod 755 p
	kept chmod
	touch p
	kept touch
	cat p >/dev/null
	ln p p2
	mv p2 p3
	kept "read, link and rename"
	echo more >>p
	lost "a write"
	capable
	truncate -s 5 p
	lost "truncate"
	capable
	: >p
	lost "O_TRUNC"
	capable
	fallocate -l 20000 p
	lost "fallocate"
	capable
	fallocate -p -l 4096 p
	lost "a hole"
	capable
	dd if=/dev/zero of=p bs=4096 count=1 oflag=direct conv=notrunc 2>/dev/null
	lost "a direct write"
	capable
	"$FSOP" mmap p
	lost "truncation and mmap"
	capable
	chown 65534 p
	lost "chown"
	capable
	cp --reflink=never f p
	lost "cp"
	capable
	nobody sh -c 'echo more >>p'
	lost "a user's write"
	capable
fi

"$FSOP" late-write late || fail "file capabilities and a late write"

cd /
unmount_image
check_image
mount_image -o writeback
"$FSOP" late-write "$mnt/late" || fail "file capabilities and a late write, with a writeback cache"
cd "$mnt"
same "$(names f)" "security.s trusted.t user.u" "after a remount"
! command -v getcap >/dev/null || getcap p | grep -q net_raw || fail "file capabilities after a remount"
cd /
finish

# What a request costs. Writing asks for capabilities once for a file, not for each write.
format 64M
"$DAEMON" -d -o "$via" "$image" "$mnt" >"$scratch/log" 2>&1 &
daemon=$!
wait_until 10 is_mounted "$mnt" || fail "no mount"
echo start >"$mnt/f"
wait_until 5 grep -aq 'opcode: WRITE' "$scratch/log" || fail "no requests in the log"
for i in 1 2 3 4 5 6 7 8 9 10; do echo "$i"; done >>"$mnt/f"
cat "$mnt/f" >/dev/null
echo end >>"$mnt/f"
unmount_image
wait "$daemon"
[ "$(grep -ac 'opcode: GETXATTR' "$scratch/log")" -le 2 ] || fail "requests for attributes: $(grep -ac 'opcode: GETXATTR' "$scratch/log")"
check_image
