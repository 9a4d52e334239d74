#!/bin/sh
# SPDX-License-Identifier: MIT
# POSIX ACLs on a mount: they are enforced, they and the mode follow each other, new files inherit them, and the usual tools keep them.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
require_root "files of several users"
require_programs setfacl setpriv
make_scratch
chmod 755 "$scratch"
format 64M
mount_image
cd "$mnt"

# as UID GROUPS COMMAND…
as() {
	uid=$1 groups=$2
	shift 2
	setpriv --reuid="$uid" --regid="$uid" --groups="$groups" "$@" 2>/dev/null
}
acl() { getfacl -cnpE "$@" | grep . | tr '\n' ' '; }
allowed() { "$@" >/dev/null || fail "refused: $*"; }
refused() { if "$@" >/dev/null; then fail "allowed: $*"; fi; }
mode() { stat -c %a "$1"; }

# Who may what.
echo text >f
chmod 600 f
setfacl -m u:1001:r,u:1002:rw,g:2001:r f
same "$(acl f)" "user::rw- user:1001:r-- user:1002:rw- group::--- group:2001:r-- mask::rw- other::--- " "setfacl"
same "$(mode f)" 660 "the group's bits are the mask"
same "$(stat -c %A f)" "-rw-rw----" "stat"
allowed as 1001 1 cat f
refused as 1001 1 sh -c 'echo x >>f'
allowed as 1002 1 sh -c 'echo x >>f'
allowed as 1003 2001 cat f
refused as 1003 2001 sh -c 'echo x >>f'
refused as 1003 1 cat f
allowed as 1001 1 test -r f
refused as 1001 1 test -w f

# chmod changes the mask and what it lets through, at once; and back.
chmod 640 f
same "$(acl f)" "user::rw- user:1001:r-- user:1002:rw- group::--- group:2001:r-- mask::r-- other::--- " "chmod"
refused as 1002 1 sh -c 'echo x >>f'
allowed as 1002 1 cat f
chmod 600 f
refused as 1002 1 cat f
chmod 660 f
allowed as 1002 1 sh -c 'echo x >>f'

# Only the owner changes an ACL, and only what is one is taken.
refused as 1002 1 setfacl -m u:1002:rwx f
chown 1001 f
allowed as 1001 1 setfacl -m u:1004:r f
allowed as 1004 1 cat f
refused as 1002 1 setfacl -b f
if command -v setfattr >/dev/null; then
	refused setfattr -n system.posix_acl_access -v 0x0200000001 f 2>/dev/null
	refused setfattr -n system.posix_acl_access -v 0x02000000010007000000000004000700000000002000080000000000 f 2>/dev/null
	refused setfattr -n system.unheard_of -v x f 2>/dev/null
fi

# One that says no more than the mode is none; neither is one that was removed.
setfacl --set u::rw,g::r,o::r f
same "$(mode f)" 644 "an ACL of three entries"
same "$(getfacl -sp f)" "" "it is the mode and nothing else"
setfacl -m u:1002:rw f
setfacl -b f
same "$(getfacl -sp f)" "" "setfacl -b"
setfacl -b f || fail "setfacl -b without an ACL"
setfacl -k f || fail "setfacl -k of a file"
refused setfacl -d -m u:1002:rw f 2>/dev/null

# Inheritance. The umask counts only where there is no default ACL.
umask 027
mkdir d
same "$(mode d)" 750 "mkdir with a umask"
chmod 777 d
setfacl -d -m u:1001:rwx,g::rx,o::- d
before=$(mode d)
touch d/file
mkdir d/dir
mkfifo d/fifo
mknod d/null c 1 3
ln -s nowhere d/link
same "$before" 777 "a default ACL is not the directory's own"
same "$(acl d/file)" "user::rw- user:1001:rwx group::r-x mask::rw- other::--- " "a file inherits"
same "$(mode d/file) $(mode d/fifo) $(mode d/null) $(mode d/link)" "660 660 660 777" "modes of what inherits"
same "$(acl d/dir)" "user::rwx user:1001:rwx group::r-x mask::rwx other::--- default:user::rwx default:user:1001:rwx default:group::r-x default:mask::rwx default:other::--- " "a directory inherits"
mkdir -m 700 d/dir/private
same "$(mode d/dir/private)" 700 "mkdir with a mode of its own"
refused as 1001 1 ls d/dir/private
allowed as 1001 1 touch d/dir/theirs
same "$(stat -c %u d/dir/theirs)" 1001 "owner"
(umask 077 && : >d/dir/by-open)
same "$(mode d/dir/by-open)" 660 "the umask does not count"
setfacl -k d
touch d/after
same "$(mode d/after) $(getfacl -sp d/after)" "640 " "after setfacl -k"
setfacl -d --set u::rwx,g::rx,o::rx d
touch d/plain
same "$(mode d/plain) $(getfacl -sp d/plain)" "644 " "a default ACL that says no more than a mode"
ln d/file d/hard
same "$(acl d/hard)" "$(acl d/file)" "a hard link"
mv d/file moved
same "$(acl moved)" "$(acl d/hard)" "a rename"

# setgid goes when somebody who is not of the group sets the ACL.
touch g
chown 1001:2001 g
chmod 2755 g
allowed as 1001 2001 setfacl -m u:1002:r g
same "$(mode g)" 2755 "by a member"
allowed as 1001 1 setfacl -m u:1002:rx g
same "$(mode g)" 755 "by another"

# The tools.
setfacl -R -m u:1005:rX,d:u:1005:rX d
same "$(getfacl -cnpE d/dir/private | grep -c 1005)" 2 "setfacl -R"
getfacl -R -np d >"$scratch/saved"
listing() { (cd "$1" && find . ! -type l | sort | tee "$scratch/names" | getfacl -n - && xargs stat -c "%n %a %u %g" <"$scratch/names"); }
listing d >"$scratch/want"
cp -a d copy
listing copy | diff "$scratch/want" - || fail "cp -a"
if command -v rsync >/dev/null; then
	rsync -aAX d/ synced
	listing synced | diff "$scratch/want" - || fail "rsync -A"
fi
if tar --help | grep -q -e --acls; then
	tar --acls -cf "$scratch/d.tar" d
	mkdir untarred
	tar --acls -C untarred -xpf "$scratch/d.tar"
	listing untarred/d | diff "$scratch/want" - || fail "tar --acls"
fi
setfacl -R -b d
same "$(getfacl -R -sp d)" "" "setfacl -R -b"
(cd / && cd "$mnt" && setfacl --restore="$scratch/saved")
listing d | diff "$scratch/want" - || fail "setfacl --restore"

# The most that Linux passes, and one more.
many() { seq 10001 $((10000 + $1)) | sed 's/.*/u:&:r/' | paste -sd,; }
touch large
setfacl -m "$(many 507)" large
same "$(getfacl -cnpE large | grep -c :)" 511 "511 entries"
refused setfacl -m "$(many 508)" large 2>/dev/null

# All of it is on the volume; ACLs that are not to be enforced are neither shown nor changed.
cd /
unmount_image
check_image
mount_image
(cd "$mnt" && listing d | diff "$scratch/want" -) || fail "after a remount"
same "$(cd "$mnt" && getfacl -cnpE large | grep -c :)" 511 "511 entries after a remount"
allowed as 1001 1 touch "$mnt/d/dir/theirs"
unmount_image
mount_image -o noacl
refused setfacl -m u:1002:r "$mnt/f" 2>/dev/null
same "$(getfacl -R -sp "$mnt/d")" "" "noacl"
refused as 1001 1 touch "$mnt/d/dir/theirs"
unmount_image
mount_image
(cd "$mnt" && listing d | diff "$scratch/want" -) || fail "after noacl"
finish

# mkfs -d takes them over.
mkdir "$scratch/tree"
touch "$scratch/tree/file"
if setfacl -m u:1001:r "$scratch/tree/file" 2>/dev/null && setfacl -d -m u:1002:rwx "$scratch/tree"; then
	mkdir "$scratch/tree/sub"
	touch "$scratch/tree/sub/inherited"
	listing "$scratch/tree" >"$scratch/want"
	rm "$image"
	"$MKFS" -q -s 64M -d "$scratch/tree" "$image"
	mount_image
	(cd "$mnt" && listing . | diff "$scratch/want" -) || fail "mkfs -d"
	finish
else
	echo "no ACLs on $scratch: mkfs -d was left out"
fi
