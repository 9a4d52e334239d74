#!/bin/sh
# SPDX-License-Identifier: MIT
# rename(2) and the flags of renameat2(2).
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch
format 64M
mount_image
cd "$mnt"

refused() {
	if "$FSOP" rename "$1" "$2" "$3" 2>"$scratch/err"; then fail "rename $1 $2 $3"; fi
	grep -q "$4" "$scratch/err" || fail "rename $1 $2 $3: $(cat "$scratch/err")"
}

echo a >a
echo b >b
mkdir d e d/sub
touch e/file
refused a b noreplace "File exists"
"$FSOP" rename a new noreplace
same "$(cat new)" a "noreplace"
mv new a
"$FSOP" rename a b exchange
same "$(cat a)$(cat b)" ba "exchange of files"
"$FSOP" rename a d exchange
same "$(cat d)" b "exchange of a file and a directory"
[ -d a/sub ] || fail "exchange of a file and a directory"
"$FSOP" rename a d exchange
"$FSOP" rename d/sub e exchange
[ -f d/sub/file ] && [ -d e ] || fail "exchange across directories"
same "$(stat -c %h d)" 3 "links of a directory after an exchange"
refused a missing exchange "No such file"
refused a b 1024 "Invalid argument"

refused d d/sub 0 "Invalid argument" # into itself
refused a d 0 "Is a directory"
refused d a 0 "Not a directory"
refused e d 0 "Directory not empty"
mv -T e d/sub/moved
[ -d d/sub/moved/.. ] && [ ! -e e ] || fail "mv of a directory"

# The kernel keeps listings; one that it has must know the new parent.
mkdir p q p/in q/out
for dir in p/in q/out; do
	"$FSOP" dotdot "$dir"
	"$FSOP" dotdot "$dir" # from the cache
done
"$FSOP" rename p/in q/out exchange
"$FSOP" dotdot p/in || fail "exchange: the first"
"$FSOP" dotdot q/out || fail "exchange: the second"
mv -T p/in q/in
"$FSOP" dotdot q/in || fail "mv"
rm -r p q

# The time of change of what was renamed is that of the rename.
mkdir times
touch times/file
mkdir times/dir
mkfifo times/fifo
ln -s nowhere times/symlink
for name in file dir fifo symlink; do
	was=$(stat -c %z "times/$name")
	mv "times/$name" "times/$name-2"
	[ "$(stat -c %z "times/$name-2")" != "$was" ] || fail "the ctime of a renamed $name"
done
rm -r times

# A whiteout stays behind (RENAME_WHITEOUT), also within one directory; NOREPLACE goes with it, EXCHANGE does not.
echo w >w
"$FSOP" rename w x whiteout
same "$(cat x) $(stat -c '%F %t:%T %a %h' w)" "w character special file 0:0 0 1" "a whiteout"
refused x w whiteout-noreplace "File exists"
refused x w 6 "Invalid argument" # with RENAME_EXCHANGE
"$FSOP" rename x w whiteout
same "$(cat w) $(stat -c %F x)" "w character special file" "a whiteout that was replaced"
mkdir from into from/sub
"$FSOP" rename from/sub into/sub whiteout
same "$(stat -c '%n %h' from into | tr '\n' ' ')$(ls from)" "from 2 into 3 sub" "a directory that leaves a whiteout"
rm -r from into w x

"$FSOP" rename a b 0
same "$(cat b)" b "replacing"
[ ! -e a ] || fail "the old name is still there"
cd /
finish
mount_image
same "$(cd "$mnt" && find . | sort | tr '\n' ' ')" ". ./b ./d ./d/sub ./d/sub/file ./d/sub/moved " "after a remount"
finish
