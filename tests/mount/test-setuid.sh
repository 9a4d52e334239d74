#!/bin/sh
# SPDX-License-Identifier: MIT
# setuid and setgid go when somebody without the right to keep them changes the contents or the owner, and the kernel notices: a program
# that was setuid is not run as its owner any more.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
require_root "files of two users"
command -v setpriv >/dev/null || skip "no setpriv"
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
prepare 2767
nobody sh -c "echo more >>$mnt/f"
same "$(mode)" 2767 "another writes, setgid without x for the group"
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
mkdir "$mnt/d"
chmod 2777 "$mnt/d"
chown 0:65534 "$mnt/d"
same "$(stat -c %a "$mnt/d")" 2777 "chown of a directory"
nobody mkdir "$mnt/d/sub"
same "$(stat -c '%a %g' "$mnt/d/sub")" "2755 65534" "a directory in a setgid directory"

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
