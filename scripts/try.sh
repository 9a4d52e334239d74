#!/bin/sh
# SPDX-License-Identifier: MIT
# Try HybridFS: installs what is missing, builds, makes a 1 GiB image hybridfs.img (sparse) in the current folder and mounts
# it on ./mnt there. Run again, it finds everything in place. Works as root and as an ordinary user, from any folder.
#
#     scripts/try.sh             build, format, mount
#     scripts/try.sh --umount    unmount; the image stays
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=scripts/build.sh
. "$top/scripts/build.sh"

# The type of what is mounted on folder $1; nothing if it is no mount point. Does not touch the folder: a dead FUSE mount
# answers every call with an error.
mounted_type() {
	point=$(printf %s "$1" | sed "s/\\\\/\\\\134/g; s/ /\\\\040/g; s/\t/\\\\011/g") \
		awk '$5 == ENVIRON["point"] { for (i = 7; $i != "-"; i++) ; type = $(i + 1) } END { if (type != "") print type }' \
		/proc/self/mountinfo
}

unmount() {
	if [ "$(id -u)" = 0 ]; then
		umount "$@"
	else
		fusermount3 -u "$@"
	fi
}

# A path for the user to paste into a shell.
quoted() {
	case $1 in
	*[!A-Za-z0-9/._+,:@%=~-]*) printf "'%s'" "$(printf %s "$1" | sed "s/'/'\\\\''/g")" ;;
	*) printf %s "$1" ;;
	esac
}

next_steps() {
	cat <<END

  $dir/mnt is a HybridFS on $image. Put something there:

      cp -a /usr/include $(quoted "$dir/mnt/")
      df -h $(quoted "$dir/mnt")

  Unmount and check it:

      $(quoted "$top/scripts/try.sh") --umount
      $(quoted "$daemon_dir/fsck/fsck.hybridfs") -n $(quoted "$image")

END
}

umount_only=false
for arg; do
	case $arg in
	--umount) umount_only=true ;;
	-h | --help) sed -n '3,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
	*) die "unknown option '$arg'; try --help" ;;
	esac
done

dir=$(pwd -P)
image=$dir/hybridfs.img
type=$(mounted_type "$dir/mnt")

if $umount_only; then
	[ -n "$type" ] || die "nothing is mounted on $dir/mnt"
	unmount "$dir/mnt"
	exit 0
fi

[ -w "$dir" ] || die "cannot write in $dir; change to a folder of yours, for example: mkdir ~/try && cd ~/try && $top/scripts/try.sh"
"$top/scripts/deps.sh"
choose_folders
daemon_dir=$builds
say "Building (output in $builds/build.log) ..."
build_in "$builds"

case $type in
*hybridfs*)
	if stat -f "$dir/mnt" >/dev/null 2>&1; then # not plain stat: the kernel remembers those answers
		say "Already there: $image is mounted on $dir/mnt."
		next_steps
		exit 0
	fi
	say "The daemon behind $dir/mnt is gone; mounting again."
	if [ "$(id -u)" = 0 ]; then
		umount -l "$dir/mnt"
	else
		fusermount3 -u -z "$dir/mnt"
	fi
	;;
?*) die "$dir/mnt is a mount point of type $type already; unmount it or run from another folder" ;;
esac

if [ ! -e "$image" ]; then
	"$builds/mkfs/mkfs.hybridfs" -q -s 1G "$image"
	say "Made $image (1 GiB, sparse)."
else
	say "Using $image, which is there already."
fi

mkdir -p "$dir/mnt"
[ -z "$(ls -A "$dir/mnt")" ] || die "$dir/mnt is not empty; move it away or run from another folder"
if [ ! -e /dev/fuse ] && [ "$(id -u)" = 0 ]; then
	modprobe fuse 2>/dev/null || true
fi
[ -e /dev/fuse ] || die "there is no /dev/fuse: load the kernel module as root (modprobe fuse), or give the container the device"
[ -w /dev/fuse ] || die "/dev/fuse is not writable for you; as root, run: chmod 0666 /dev/fuse"
"$builds/fs/hybridfs" "$image" "$dir/mnt"
say "Mounted."
next_steps
