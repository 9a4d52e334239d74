#!/bin/sh
# SPDX-License-Identifier: MIT
# Other tests of this folder once more, as an ordinary user who mounts through fusermount3: those that say nothing of root.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
require_root "starts the tests as another user"
require_programs fusermount3
[ -u "$(command -v fusermount3)" ] || skip "fusermount3 is not setuid here"
make_scratch
make_user
tests=${USER_TESTS:-test-sparse.sh test-names.sh test-links.sh test-rename-flags.sh test-readdir-delete.sh test-data-paths.sh
	test-kill.sh test-tmpfile.sh test-locks.sh test-errno.sh test-enospc.sh test-requests.sh test-prog-mmap.sh test-prog-inotify.sh test-prog-rsync.sh}

# The folders that the tests look for. The build folder may be closed to others.
mkdir "$scratch/home/build" "$scratch/home/source" "$scratch/home/scratch"
for room in fs mkfs fsck tests tests/mount; do
	mkdir "$scratch/home/build/$room"
done
for program in fs/hybridfs fs/umount.hybridfs mkfs/mkfs.hybridfs fsck/fsck.hybridfs \
	tests/mount/fsop tests/mount/linuxop tests/mount/stress tests/mount/coherence tests/mount/watch; do
	cp "$builddir_top/$program" "$scratch/home/build/$program"
done
mkdir "$scratch/home/source/tests" "$scratch/home/source/tests/mount"
cp "$srcdir_top/tests/mounted.sh" "$scratch/home/source/tests/"
cp "$srcdir_top"/tests/mount/*.sh "$scratch/home/source/tests/mount/"
for room in util block alloc meta fs fsck; do
	cp -r --no-preserve=mode "$srcdir_top/$room" "$scratch/home/source/"
done
chown -R 65534:65534 "$scratch/home"

for name in $tests; do
	status=0
	TMPDIR=$scratch/home/scratch user env SEED=1 top_srcdir="$scratch/home/source" top_builddir="$scratch/home/build" \
		sh "$scratch/home/source/tests/mount/$name" >"$scratch/log" 2>&1 || status=$?
	case $status in
	0) echo "as a user: $name" ;;
	77) echo "as a user: $name: $(tail -n 1 "$scratch/log")" ;;
	*)
		cat "$scratch/log"
		fail "$name exits with $status as an ordinary user"
		;;
	esac
done
