#!/bin/sh
# SPDX-License-Identifier: MIT
# overlayfs with its upper and work directory on HybridFS, as container engines use it: copy up, whiteouts, opaque directories, directories that
# were renamed (redirects), hard links, a second mount of the layers, and layers over layers. The lower tree lies on HybridFS or on tmpfs.
# The reference is the same work done to a plain copy of the lower tree.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_root "mounts overlayfs"
require_fuse
grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null || skip "this kernel has no overlayfs"
make_scratch
format 256M
merged=$scratch/merged
elsewhere=$scratch/tmpfs
plain=$scratch/plain
mkdir "$merged" "$elsewhere" "$plain"
on_exit() {
	for m in "$merged" "$elsewhere"; do
		! is_mounted "$m" || umount -l "$m" || true
	done
}

overlay() { mount -t overlay test-overlay -o "$1" "$merged" || fail "mount -t overlay -o $1"; }

make_lower() {
	mkdir -p "$1/etc/conf.d" "$1/usr/lib/deep/er" "$1/var/log" "$1/gone/sub" "$1/opaque"
	for i in 1 2 3 4 5 6; do
		echo "config $i" >"$1/etc/conf.d/$i"
		echo "library $i" >"$1/usr/lib/deep/$i"
		echo "old $i" >"$1/opaque/$i"
		echo "gone $i" >"$1/gone/sub/$i"
	done
	dd if=/dev/zero bs=4096 count=100 2>/dev/null | tr '\0' 'b' >"$1/usr/big"
	ln "$1/usr/big" "$1/usr/big-link"
	ln -s lib/deep "$1/usr/sym"
	mkfifo "$1/var/fifo"
	chmod 2750 "$1/var/log"
	chown 7:8 "$1/etc/conf.d/2"
}

# What is done in a container, from inside its root.
work() (
	cd "$1"
	echo more >>etc/conf.d/1      # copy up of data
	chmod 600 etc/conf.d/2        # of attributes
	chown 9:9 usr/lib/deep/1
	touch -d 2001-02-03 usr/lib/deep/2
	ln etc/conf.d/3 etc/three     # of a file that gets a second name
	rm etc/conf.d/4               # a whiteout
	mv etc/conf.d/5 usr/five      # copy up and a whiteout
	mv etc/conf.d/6 etc/conf.d/six
	mv usr/lib/deep usr/moved     # a directory of the lower layer
	mv usr/moved/er er
	echo new >er/file
	rm -r gone
	mkdir gone                    # opaque
	echo again >gone/file
	rm -r opaque
	mkdir opaque
	mv opaque renamed
	dd if=/dev/zero of=usr/big bs=1 seek=5000 count=10 conv=notrunc 2>/dev/null
	rm usr/sym
	ln -s moved usr/sym
	rm var/fifo
	mkfifo var/fifo2
	mknod var/null c 1 3
	mkdir var/log/empty
	rmdir var/log/empty
	for i in 1 2 3 4 5 6 7 8; do  # a package that is unpacked beside and put in place
		echo "v$i" >usr/lib/app.new
		mv usr/lib/app.new usr/lib/app
	done
	cp -a usr/moved usr/copy
	rm -r usr/moved/3
)

# Everything that a program sees. Times of what was not touched would differ between copies.
tree() (
	cd "$1"
	find . -printf '%P %y %m %U:%G %n %l\n' | sed 's/^\(.* d [^ ]* [^ ]*\) [0-9]* $/\1/' | LC_ALL=C sort
	find . -type f -exec md5sum {} + | LC_ALL=C sort -k 2
	stat -c '%n %Y' usr/moved/2
)
compare() {
	tree "$merged" >"$scratch/got"
	diff "$scratch/want" "$scratch/got" || fail "$1"
}

make_lower "$plain"
work "$plain"
# overlayfs tears hard links of the lower tree apart when it copies one up; with index=on it does not.
tree "$plain" >"$scratch/want"

mount_image
mount -t tmpfs -o size=64M tmpfs "$elsewhere"
make_lower "$elsewhere"
n=0
for lower in "$mnt/lower" "$elsewhere"; do
	n=$((n + 1))
	[ "$lower" = "$elsewhere" ] || { mkdir "$lower" && make_lower "$lower"; }
	mkdir -p "$mnt/$n/upper" "$mnt/$n/work"
	options=lowerdir=$lower,upperdir=$mnt/$n/upper,workdir=$mnt/$n/work,redirect_dir=on,index=on,xino=on
	overlay "$options"
	work "$merged"
	compare "after the work, lower tree on $lower"
	umount "$merged"
	[ -c "$mnt/$n/upper/etc/conf.d/4" ] || fail "there is no whiteout"
	same "$(stat -c '%t:%T %a' "$mnt/$n/upper/etc/conf.d/4")" "0:0 0" "a whiteout"
	overlay "$options"
	compare "after another mount, lower tree on $lower"
	umount "$merged"
done

# A crash of the daemon between two mounts of the layers; what sync has seen is there.
"$FSOP" fsync "$mnt"
kill -9 "$(daemon_pid)"
umount_lazily "$mnt"
check_image "after a kill"
mount_image
overlay "$options"
compare "after a kill"
umount "$merged"

# The upper layer as a lower one of the next: whiteouts and opaque directories are read, not only written.
mkdir -p "$mnt/3/upper" "$mnt/3/work"
overlay "lowerdir=$mnt/2/upper:$elsewhere,upperdir=$mnt/3/upper,workdir=$mnt/3/work,redirect_dir=on,index=off"
tree "$merged" | grep -v big-link >"$scratch/got" # that they are one file stands in the index, which this mount does without
grep -v big-link "$scratch/want" | diff - "$scratch/got" || fail "three layers"
rm -r "$merged/etc" "$merged/er"
mkdir "$merged/etc"
same "$(ls -A "$merged/etc")" "" "an opaque directory over two layers"
umount "$merged"

# Without a reference of our own: files without names are made for copying up, and volatile mounts leave nothing out.
mkdir -p "$mnt/4/upper" "$mnt/4/work"
overlay "lowerdir=$elsewhere,upperdir=$mnt/4/upper,workdir=$mnt/4/work,metacopy=on,redirect_dir=on,volatile"
chmod 640 "$merged/usr/big"
same "$(stat -c '%a %s' "$merged/usr/big")" "640 409600" "metacopy"
echo x >>"$merged/usr/big"
same "$(stat -c %s "$merged/usr/big")" 409602 "metacopy, then data"
umount "$merged"
if dmesg 2>/dev/null | grep -F "overlayfs: upper fs missing required features"; then fail "the kernel's log"; fi
umount "$elsewhere"
finish
