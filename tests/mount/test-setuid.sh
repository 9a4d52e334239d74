#!/bin/sh
# SPDX-License-Identifier: MIT
# setuid and setgid go when somebody without the right to keep them changes the contents or the owner, and the kernel notices: a program
# that was setuid is not run as its owner any more.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
require_root "files of two users"
require_programs setpriv
make_scratch
chmod 755 "$scratch"
format 64M
mount_image
nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
mode() { stat -c %a "$mnt/f"; }

prepare() {
	rm -f "$mnt/f"
	echo text >"$mnt/f"
	chmod "$1" "$mnt/f"
	mode >/dev/null
}

prepare 6777
echo more >>"$mnt/f"
same "$(mode)" 6777 "root writes"
nobody sh -c "echo more >>$mnt/f"
same "$(mode)" 777 "another writes"
# Without x for the group setgid is no privilege: members of the group leave it alone.
prepare 2767
nobody sh -c "echo more >>$mnt/f"
same "$(mode)" 767 "another writes, setgid without x for the group"
member() { setpriv --reuid=65534 --regid=65534 --groups=0 "$@"; }
for change in "echo more >>$mnt/f" "truncate -s 1 $mnt/f" "fallocate -l 8192 $mnt/f"; do
	prepare 2767
	member sh -c "$change"
	same "$(mode)" 2767 "a member of the group: $change"
	prepare 2767
	nobody sh -c "$change"
	same "$(mode)" 767 "another: $change"
	prepare 6777
	member sh -c "$change"
	same "$(mode)" 777 "a member of the group, setgid with x: $change"
	prepare 6777
	setpriv --bounding-set=-fsetid --inh-caps=-fsetid sh -c "$change"
	same "$(mode)" 777 "root without CAP_FSETID: $change"
	prepare 6777
	sh -c "$change"
	same "$(mode)" 6777 "root: $change"
done
prepare 6777
nobody cp --reflink=never /etc/passwd "$mnt/f"
same "$(mode)" 777 "another copies into it"
prepare 6777
nobody truncate -s 1 "$mnt/f"
same "$(mode)" 777 "another truncates"
prepare 6777
nobody sh -c ": >$mnt/f"
same "$(mode)" 777 "another opens with O_TRUNC"
prepare 6777
nobody fallocate -l 8192 "$mnt/f"
same "$(mode)" 777 "another allocates"
prepare 6777
nobody dd if=/dev/zero of="$mnt/f" bs=4096 count=1 oflag=direct conv=notrunc 2>/dev/null
same "$(mode)" 777 "another writes directly"
prepare 6777
chown 65534:65534 "$mnt/f"
same "$(mode)" 777 "chown"
# One that changes nothing counts, too, but not everybody's.
prepare 6777
nobody chown "" "$mnt/f" || true # ext4 refuses it
same "$(mode)" 6777 "another's chown to what it is"
chown "" "$mnt/f"
same "$(mode)" 777 "chown to what it is"
mkdir "$mnt/d"
chmod 2777 "$mnt/d"
chown 0:65534 "$mnt/d"
same "$(stat -c %a "$mnt/d")" 2777 "chown of a directory"
nobody mkdir "$mnt/d/sub"
same "$(stat -c '%a %g' "$mnt/d/sub")" "2755 65534" "a directory in a setgid directory"

# The group of a setgid directory, and whether a file there may have setgid, too.
mkdir "$mnt/team"
chown 0:4711 "$mnt/team"
chmod 2777 "$mnt/team"
teamed() { setpriv --reuid=65534 --regid=65534 --groups=4711 "$@"; }
new_mode() { "$@" sh -c "umask 0; rm -f $mnt/team/new; $FSOP create $mnt/team/new 02775"; stat -c '%a %g' "$mnt/team/new"; }
same "$(new_mode teamed)" "2775 4711" "a member makes a setgid file"
same "$(new_mode nobody)" "775 4711" "another makes a setgid file"
same "$(new_mode env)" "2775 4711" "root makes a setgid file"
nobody sh -c "echo x >$mnt/team/theirs"
nobody chmod 2775 "$mnt/team/theirs"
same "$(stat -c '%a %g' "$mnt/team/theirs")" "775 4711" "chmod by an owner who is not of the group"
teamed chmod 2775 "$mnt/team/theirs"
same "$(stat -c '%a %g' "$mnt/team/theirs")" "2775 4711" "chmod by an owner who is of the group by a supplementary one"
teamed chown :65534 "$mnt/team/theirs"
same "$(stat -c '%a %g' "$mnt/team/theirs")" "775 65534" "chown by its owner"
chown 65534:4711 "$mnt/team/theirs"
chmod 6765 "$mnt/team/theirs"
nobody chown :65534 "$mnt/team/theirs"
same "$(stat -c '%a %g' "$mnt/team/theirs")" "765 65534" "chown by an owner who is not of the group, setgid without x"
if nobody chown :4711 "$mnt/team/theirs" 2>/dev/null; then fail "a file is given to a group that its owner is not of"; fi
if nobody chown 1 "$mnt/team/theirs" 2>/dev/null; then fail "a file is given away"; fi

# In a sticky directory everybody removes his own.
mkdir -m 1777 "$mnt/sticky"
echo text >"$mnt/sticky/roots"
nobody sh -c "echo text >$mnt/sticky/nobodys"
chmod 666 "$mnt/sticky/roots"
if nobody rm -f "$mnt/sticky/roots" 2>/dev/null; then fail "removed from a sticky directory"; fi
if nobody mv "$mnt/sticky/roots" "$mnt/sticky/mine" 2>/dev/null; then fail "renamed in a sticky directory"; fi
if nobody mv "$mnt/sticky/nobodys" "$mnt/sticky/roots" 2>/dev/null; then fail "replaced in a sticky directory"; fi
nobody rm "$mnt/sticky/nobodys" || fail "one's own in a sticky directory"

# What exec(2) believes. A static or instrumented program is as good as any.
cp "$FSOP" "$mnt/program"
chmod 4777 "$mnt/program"
if [ "$(nobody "$mnt/program" euid 2>/dev/null)" = 0 ]; then
	nobody sh -c "printf x >>$mnt/program"
	same "$(nobody "$mnt/program" euid)" 65534 "a changed program is run as its owner"
else
	echo "setuid programs do not run here: this part was left out"
fi
finish
