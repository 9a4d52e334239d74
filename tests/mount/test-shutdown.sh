#!/bin/sh
# SPDX-License-Identifier: MIT
# The forced shutdown (XFS_IOC_GOINGDOWN): everything is EIO until the volume is mounted again, and then it holds what the kind of shutdown
# promises: 0 everything, 1 what the daemon was told, 2 what was durable.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format
head -c 4096 /dev/urandom >"$scratch/page"

# fails_eio COMMAND…
fails_eio() {
	if "$@" >"$scratch/out" 2>&1; then fail "$* works after a shutdown"; fi
	grep -q "Input/output error" "$scratch/out" || fail "$*: $(cat "$scratch/out")"
}

# shut_down OPTIONS HOW: with a file that is durable, one that is not, and a mapped page that only the kernel has.
shut_down() {
	mount_image -o "$1"
	cp "$scratch/page" "$mnt/file"
	echo durable >"$mnt/durable"
	"$FSOP" fsync "$mnt/durable"
	"$FSOP" fsync "$mnt/file"
	echo late >"$mnt/late"
	"$FSOP" shutdown-open "$mnt" "$2" || fail "shutdown $2"
	fails_eio cat "$mnt/durable"
	fails_eio ls "$mnt"
	fails_eio touch "$mnt/new"
	fails_eio rm "$mnt/late"
	fails_eio mkdir "$mnt/dir"
	unmount_image
	check_image "after shutdown $2"
	mount_image
	same "$(cat "$mnt/durable")" durable "after shutdown $2"
}

# mapped: whether the page that was written through the mapping is there.
mapped() { [ "$(head -c 1 "$mnt/file")" = m ] && ! cmp -s "$mnt/file" "$scratch/page"; }

for opts in rw writeback; do
	shut_down "$opts,commit=600" 0
	same "$(cat "$mnt/late")" late "a flushing shutdown"
	mapped || fail "a flushing shutdown has left a dirty page behind"
	rm "$mnt/late"
	unmount_image

	shut_down "$opts,commit=600" 1
	[ "$opts" = writeback ] || same "$(cat "$mnt/late")" late "a shutdown that flushes the log"
	rm -f "$mnt/late"
	unmount_image

	shut_down "$opts,commit=600" 2
	[ ! -e "$mnt/late" ] || fail "a shutdown without flushing has flushed"
	cmp "$mnt/file" "$scratch/page" || fail "a shutdown without flushing has flushed a dirty page"
	finish
done

# Under load, over and over: it always stops, it is always consistent.
for how in 0 1 2 1 2; do
	mount_image
	mkdir -p "$mnt/many"
	(
		set +e
		i=0
		while cp "$scratch/page" "$mnt/many/$i"; do
			mv "$mnt/many/$i" "$mnt/many/x$i"
			i=$((i + 1))
		done 2>/dev/null
	) &
	sleep 1
	"$FSOP" shutdown "$mnt" "$how" || fail "shutdown $how under load"
	wait
	finish "after shutdown $how under load"
done

# Read-only; a kind that there is not; who may.
mount_image
fails_with 1 "Invalid argument" "$FSOP" shutdown "$mnt" 3
ls "$mnt" >/dev/null
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	chmod 755 "$scratch"
	fails_with 1 "not permitted" setpriv --reuid=65534 --clear-groups "$FSOP" shutdown "$mnt" 1
	fails_with 1 "not permitted" setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin "$FSOP" shutdown "$mnt" 1
	ls "$mnt" >/dev/null
fi
unmount_image
mount_image -o ro
"$FSOP" shutdown "$mnt" 1 || fail "shutdown of a read-only mount"
fails_eio ls "$mnt"
finish
