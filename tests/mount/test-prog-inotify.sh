#!/bin/sh
# SPDX-License-Identifier: MIT
# inotify tells of every change that is made through the mount, once, in order, with its name; and of the unmount.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 64M
WATCH=$builddir_top/tests/mount/watch

# events_of "EXPECTED" COMMANDS: in a folder that is watched.
events_of() {
	seen=$(cd "$mnt/dir" && "$WATCH" . sh -c "$2" | tr '\n' ';') || fail "$2: exits with $?"
	same "$seen" "$1" "events of: $2"
}
for options in commit=5 writeback; do
	mount_image -o "$options"
	mkdir "$mnt/dir" "$mnt/elsewhere"
	echo text >"$mnt/elsewhere/file"
	events_of "create a;open a;modify a;close_write a;" 'echo text >a'
	events_of "open a;modify a;close_write a;" 'echo more >>a'
	events_of "open a;modify a;close_write a;" 'echo new >a'
	events_of "open a;access a;close a;" 'cat a >/dev/null'
	events_of "attrib a;" 'chmod 600 a'
	events_of "create b;" 'ln a b'
	events_of "create symlink;create dir sub;" 'ln -s a symlink; mkdir sub'
	events_of "moved_from a;moved_to c;" 'mv a c'
	events_of "delete c;create c;open c;modify c;close_write c;moved_from c;moved_to b;" 'rm c; echo new >c; mv c b'
	events_of "moved_to file;" 'mv ../elsewhere/file .'
	events_of "moved_from file;" 'mv file ../elsewhere/'
	events_of "moved_from dir sub;moved_to dir other;" 'mv sub other'
	events_of "delete b;delete symlink;delete dir other;" 'rm b symlink; rmdir other'
	events_of "" 'ls -l ../elsewhere >/dev/null; echo text >../elsewhere/file'
	seen=$("$WATCH" "$mnt/dir" rmdir "$mnt/dir" | tr '\n' ';')
	same "$seen" "delete_self .;ignored .;" "events of rmdir"
	finish
	mount_image
	rm -r "$mnt/elsewhere"
	finish
done
mount_image
seen=$("$WATCH" "$mnt" "$UMOUNT" "$mnt" | tr '\n' ';')
same "$seen" "unmount dir .;ignored .;" "events of an unmount"
check_image
