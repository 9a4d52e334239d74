#!/bin/sh
# SPDX-License-Identifier: MIT
# fsck.hybridfs --online: a mounted volume is checked as it is at one moment, whatever goes on; damage is told as fsck -n tells it; a scrub names
# the files that are hit; only those may ask who may, one at a time; whoever has asked can end it, and ends it by going away.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
DAMAGE=$builddir_top/tests/fsck/fsck-damage
STRESS=$builddir_top/tests/mount/stress
CHECKS=${CHECKS:-20}
make_scratch
on_exit() { [ -z "${load:-}" ] || kill "$load" 2>/dev/null || true; }

# online STATUS [options]: the check must end with this status; output in $scratch/out.
online() {
	want=$1 got=0
	shift
	timeout 120 "$FSCK" --online "$@" "$mnt" >"$scratch/out" 2>&1 || got=$?
	[ "$got" = "$want" ] || fail "--online $*: exits with $got instead of $want: $(tail -n 20 "$scratch/out")"
}

says() { grep -qF -e "$1" "$scratch/out" || fail "does not say '$1': $(cat "$scratch/out")"; }

identifiers() { sed -n 's/.*\[\([a-z-]*\)\]$/\1/p; s/.*\[\([a-z-]*\)\]\. .*/\1/p' "$1" | sort -u | tr '\n' ' '; }

# ---- under load, on a volume with so small a log that it has to begin anew all the time ----
format 128M
mount_image
"$STRESS" "$mnt" 3 120 "${SEED:-$$}" 2>"$scratch/err" &
load=$!
i=0
while [ $i -lt "$CHECKS" ]; do
	case $((i % 4)) in
	3) online 0 --scrub --rate 400 ;;
	*) online 0 -v ;;
	esac
	i=$((i + 1))
done
says " files, "
kill "$load"
wait "$load" || fail "the load: $(cat "$scratch/err")"
load=
finish "after $CHECKS checks under load, SEED=${SEED:-$$}"

# ---- what may not be, and ends ----
mkdir "$scratch/tree" "$scratch/tree/d"
head -c 40000000 /dev/urandom >"$scratch/tree/d/large"
head -c 500000 /dev/urandom >"$scratch/tree/d/other"
echo 'some text' >"$scratch/tree/small"
ln "$scratch/tree/d/other" "$scratch/tree/again"
rm "$image"
"$MKFS" -q -s 256M -d "$scratch/tree" "$image"
cp --sparse=always "$image" "$scratch/good"
mount_image
online 16 -y
online 16 -f
online 16 --rate 5
online 0 -n -C 1
grep -q '^8 ' "$scratch/out" || fail "no progress of the last phase: $(cat "$scratch/out")"
fails_with 8 "not the mount point" "$FSCK" --online "$scratch"
fails_with 8 "No such file" "$FSCK" --online "$scratch/none"

# slow_scrub: one that takes half a minute, in the background; returns when it reads. Its lines are in $scratch/slow.
slow_scrub() {
	: >"$scratch/slow"
	"$FSCK" --online --scrub --rate 1 -C 1 "$mnt" >"$scratch/slow" 2>&1 &
	slow=$!
	wait_until 10 grep -q '^9 [1-9]' "$scratch/slow" || grep -q '^8 [1-9][0-9][0-9]' "$scratch/slow" || fail "the scrub does not begin: $(cat "$scratch/slow")"
}

slow_scrub
online 8
says "being checked already"
kill -INT "$slow"
got=0
wait "$slow" || got=$?
same "$got" 32 "a scrub that is interrupted: $(tail -n 1 "$scratch/slow")"
online 0 # at once

slow_scrub
unmount_image
got=0
wait "$slow" || got=$?
same "$got" 8 "a scrub whose volume is unmounted: $(tail -n 1 "$scratch/slow")"
check_image
mount_image

slow_scrub
kill -KILL "$slow"
wait "$slow" 2>/dev/null || true
online 8
ended() { "$FSCK" --online "$mnt" >/dev/null 2>&1; }
wait_until 30 ended || fail "a job that nobody asks for does not end"

if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	chmod 755 "$scratch"
	cp "$FSCK" "$scratch/fsck"
	if setpriv --reuid=65534 --regid=65534 --clear-groups test -x "$scratch/fsck"; then
		fails_with 8 "only root" setpriv --reuid=65534 --regid=65534 --clear-groups "$scratch/fsck" --online "$mnt"
	fi
fi
unmount_image

# ---- damaged data ----
number_of() { "$DAMAGE" "$image" list | awk -v name="$1" '$1 == name { print $2; exit }'; }
phys=$("$DAMAGE" "$image" extents "$(number_of large)" | awk 'NR == 1 { print $2 }')
"$DAMAGE" "$image" flip "$(number_of other)"
"$DAMAGE" "$image" poke $(((phys + 300) * 4096 + 77)) a55a
mount_image
online 0
online 4 --scrub --rate 1000 -v
says "/d/other"
says "/again"
says "damaged in bytes 0 to 4095"
says "/d/large: damaged in bytes 1228800 to 1232895"
says " 2 damaged"
says "2 files are damaged"
rm "$mnt/d/large" "$mnt/d/other" "$mnt/again"
online 0 --scrub
finish

# ---- damaged metadata: what fsck -n says of the image, fsck --online says of the mount ----
small=$("$DAMAGE" "$scratch/good" list | awk '$1 == "small" { print $2 }')
other=$("$DAMAGE" "$scratch/good" list | awk '$1 == "other" { print $2 }')
# compare PROBLEM KIND ARGUMENT
compare() {
	cp --sparse=always "$scratch/good" "$image"
	"$DAMAGE" "$image" "$2" "$3" >"$scratch/out" || fail "fsck-damage: $(cat "$scratch/out")"
	! "$FSCK" -n -v "$image" >"$scratch/offline" || fail "fsck -n does not see $1"
	mount_image
	online 4 -v
	same "$(identifiers "$scratch/out")" "$(identifiers "$scratch/offline")" "$1"
	says "[$1]"
	says "unmount the volume and run fsck.hybridfs"
	unmount_image
	"$FSCK" -p "$image" >"$scratch/out" 2>&1 || true
	! grep -q ': clean, ' "$scratch/out" || fail "the volume was not marked, so fsck -p takes it for clean ($1)"
}
compare inode-blocks sql "UPDATE inode SET blocks = blocks + 1 WHERE ino = $other"
compare row-type sql "UPDATE inode SET uid = 'nobody' WHERE ino = $small"
compare extent-flags sql "UPDATE extent SET flags = 8 WHERE ino = $other"
compare blocks-lost sql "DELETE FROM extent WHERE ino = $other"
compare metaslab-count sql "UPDATE metaslab SET log_bytes = log_bytes + 1"
compare csum-missing sql "DELETE FROM csum"
compare dirent-target sql "UPDATE dirent SET ino = 99999 WHERE ino = $small"
compare link-count sql "UPDATE inode SET nlink = 5 WHERE ino = $small"
compare dir-size sql "UPDATE inode SET size = 77 WHERE ino = 1"
cp --sparse=always "$scratch/good" "$image"
"$DAMAGE" "$image" flip-leaf csum >/dev/null
mount_image
online 4 -v
says "[db-integrity]"
unmount_image
