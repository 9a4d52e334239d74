// SPDX-License-Identifier: MIT
// Listing directories. Entries come in the order of their cookies, which never change, so a walk may be broken off and go on at any
// cookie: what is there all the time is seen once. The store's lock is given back after each batch.
#include <errno.h>
#include <sys/stat.h>

#include "fs/fs_internal.h"

#define DIR_BATCH 64u // entries per hold of the store's lock

#define COOKIE_DOT 1u
#define COOKIE_DOTDOT 2u

struct dir_walk {
	struct fs *fs;
	uint64_t dir;
	fs_emit_fn emit;
	void *ctx;
	bool plus, full;
	unsigned n;      // entries of this batch
	uint64_t cookie; // of the last one emitted
};

// An entry's reference is taken before it is emitted: that can fail, and nothing that was emitted can be taken back.
static int emit_entry(void *arg, const struct dirent_row *ent, const struct inode_row *row)
{
	struct dir_walk *w = arg;
	struct stat st = { .st_ino = ent->ino, .st_mode = (mode_t)ent->type << 12 };
	int r;

	if (w->plus) {
		fs_row_to_stat(row, &st);
		r = inode_ref(w->fs, ent->ino, w->dir);
		if (r != 0)
			return r;
	}
	if (!w->emit(w->ctx, ent->name, &st, ent->cookie)) {
		if (w->plus)
			inode_unref(w->fs, ent->ino, 1);
		w->full = true;
		return 1;
	}
	w->cookie = ent->cookie;
	return ++w->n >= DIR_BATCH;
}

// "." and "..", as far as the walk has not passed them.
static void emit_dots(struct dir_walk *w, const struct inode_row *row)
{
	struct stat st = { .st_ino = row->ino, .st_mode = S_IFDIR };

	if (w->plus)
		fs_row_to_stat(row, &st);
	if (w->cookie < COOKIE_DOT) {
		w->full = !w->emit(w->ctx, ".", &st, COOKIE_DOT);
		if (w->full)
			return;
		w->cookie = COOKIE_DOT;
	}
	st = (struct stat){ .st_ino = row->parent, .st_mode = S_IFDIR };
	if (w->cookie < COOKIE_DOTDOT) {
		w->full = !w->emit(w->ctx, "..", &st, COOKIE_DOTDOT);
		if (!w->full)
			w->cookie = COOKIE_DOTDOT;
	}
}

static int walk_batch(struct dir_walk *w)
{
	int r;

	w->n = 0;
	store_lock(w->fs->st);
	r = dirent_scan(w->fs->st, w->dir, max_u64(w->cookie, DIRENT_COOKIE_MIN - 1), w->plus, emit_entry, w);
	store_unlock(w->fs->st);
	return r;
}

int fs_readdir(struct fs *fs, uint64_t ino, uint64_t cookie, bool plus, fs_emit_fn emit, void *ctx)
{
	struct dir_walk w = { .fs = fs, .dir = ino, .emit = emit, .ctx = ctx, .plus = plus, .cookie = cookie };
	struct inode_row row;
	int r;

	store_lock(fs->st);
	r = fs_get_dir(fs, ino, &row);
	store_unlock(fs->st);
	if (r != 0)
		return r;
	if (cookie < COOKIE_DOTDOT)
		emit_dots(&w, &row);
	if (row.size_bytes > FS_PLUS_MAX)
		w.plus = false;
	do {
		if (w.full)
			break;
		r = walk_batch(&w);
	} while (r == 0 && w.n >= DIR_BATCH);
	if (r == 0 && cookie == 0)
		fs_update_atime(fs, &row);
	// Whoever has got entries has got references: an error must not make him forget them. The next call meets it again.
	return w.cookie != cookie ? 0 : r;
}
