#!/bin/sh
# SPDX-License-Identifier: MIT
# git: clone, commit, repack, gc, and its own check of everything that it stored. Then the daemon is killed in the middle of commits and
# of a clone: what git had said was committed before an fsync is there, and no object is torn.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
require_programs git
make_scratch
format 512M
export HOME="$scratch" GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=tester GIT_AUTHOR_EMAIL=tester@example.org GIT_COMMITTER_NAME=tester GIT_COMMITTER_EMAIL=tester@example.org
export GIT_AUTHOR_DATE='2024-01-01 00:00:00 +0000' GIT_COMMITTER_DATE='2024-01-01 00:00:00 +0000'
git config --global init.defaultBranch main
git config --global advice.detachedHead false
git config --global gc.autoDetach false
git config --global safe.directory '*' # the repository may belong to whoever

sound() { git -C "$1" fsck --full --strict >"$scratch/err" 2>&1 || fail "git fsck of $1, $2: $(cat "$scratch/err")"; }
unchanged() { same "$(git -C "$1" status --porcelain)" "" "git status, $2"; }

# The origin: a few states of this project's tree, off the volume.
origin=$scratch/origin
git init -q "$origin"
for room in util block alloc meta fs fsck; do
	mkdir "$origin/$room"
	cp "$srcdir_top/$room"/*.[ch] "$origin/$room/"
	sed -i "1s/\$/ $room/" "$origin"/*/*.[ch]
	git -C "$origin" add .
	git -C "$origin" commit -q -m "add $room"
	git -C "$origin" tag "$room"
done

mount_image
git clone -q "file://$origin" "$mnt/clone" || fail "clone"
git clone -q "$mnt/clone" "$mnt/linked" || fail "clone with hard links"
diff -r -x .git "$origin" "$mnt/clone" || fail "the clone is another tree"
cd "$mnt/clone"
for tag in util meta fsck; do
	git checkout -q "$tag" || fail "checkout of $tag"
	unchanged . "at $tag"
done
git checkout -q -b work main
for file in */*.c; do echo "// more" >>"$file"; done
git commit -q -a -m more
git mv alloc allocator
git commit -q -m renamed
git rebase -q --no-ff meta || fail "rebase"
git gc -q --prune=now || fail "gc"
git repack -q -a -d -f || fail "repack"
git worktree add -q ../tree main || fail "worktree"
cd "$scratch"
for repository in clone linked tree; do
	sound "$mnt/$repository" "at once"
	unchanged "$mnt/$repository" "at once"
done
heads=$(git -C "$mnt/clone" for-each-ref)
finish
mount_image -o writeback
same "$(git -C "$mnt/clone" for-each-ref)" "$heads" "references after a remount"
for repository in clone linked tree; do
	sound "$mnt/$repository" "after a remount"
	unchanged "$mnt/$repository" "after a remount"
done
diff -r -x .git "$origin" "$mnt/tree" || fail "the worktree is another tree after a remount"
finish

# From within the mount: the folder below it is not to be filled when the mount is gone.
commits() (
	cd "$mnt/linked"
	i=0
	while i=$((i + 1)) && echo "$i" >>counter && git add counter && git commit -q -m "$i"; do
		[ $((i % 5)) = 0 ] || continue
		"$FSOP" fsync .git/refs/heads # and with it everything that came before
		git rev-parse HEAD >>"$scratch/durable"
	done 2>/dev/null
)
clones() { (cd "$mnt"; i=0; while git clone -q "file://$origin" "new-$i" 2>/dev/null; do i=$((i + 1)); done); }
has_lines() { [ "$(wc -l <"$1")" -ge "$2" ]; }

# crash OPTIONS: the daemon dies while one repository gets commits and the origin is cloned again and again.
crash() {
	mount_image -o "$1"
	: >"$scratch/durable"
	commits &
	committing=$!
	clones &
	cloning=$!
	wait_until 60 has_lines "$scratch/durable" 3 || fail "no commits"
	kill_daemon
	wait "$committing" "$cloning" || true
	mount_image
	rm -f "$mnt"/linked/.git/*.lock "$mnt"/linked/.git/refs/heads/*.lock
	sound "$mnt/linked" "after a crash, $1"
	while read -r commit; do
		git -C "$mnt/linked" merge-base --is-ancestor "$commit" HEAD || fail "commit $commit is lost, $1"
	done <"$scratch/durable"
	git -C "$mnt/linked" reset -q --hard
	unchanged "$mnt/linked" "after a crash, $1"
	[ ! -e "$mnt/new-1" ] || sound "$mnt/new-0" "after a crash, $1"
	rm -rf "$mnt"/new-*
	git clone -q "file://$origin" "$mnt/new" || fail "a clone after the crash"
	diff -r -x .git "$origin" "$mnt/new" || fail "the clone after a crash, $1"
	rm -rf "$mnt/new"
	finish
}
crash commit=1
crash writeback,commit=1
