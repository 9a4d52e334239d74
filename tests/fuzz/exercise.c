// SPDX-License-Identifier: MIT
// Operations on a volume that may say anything about itself. See exercise.h.
//
// All loops are bounded here: sizes may be terabytes, directories may hold themselves.
#include "exercise.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/fs.h"
#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "fuzz.h"
#include "meta/rows.h"
#include "meta/volume.h"

#define INTERVAL_MS 3600000
#define FILES_MAX 24u       // that are visited
#define ROOT_FILES_MAX 16u  // of the root
#define DIR_FILES_MAX 5u    // of any other directory: one for each way to change names but one
#define ENTRIES_MAX 100u    // that are listed
#define DEPTH_MAX 6u
#define READ_BYTES (128u << 10)
#define FAR (3ull << 20)    // beyond the end of every file of the prepared volume

struct visit {
	struct fs *fs;
	struct exercise *out;
	bool change;
	uint8_t *buf;    // READ_BYTES
	uint64_t other;  // the file that was visited before this one
};

// An answer is 0 or an errno.
static int got(struct visit *v, int r)
{
	REQUIRE(r <= 0 && r > -4096);
	v->out->n_damaged += r == -EUCLEAN;
	return r;
}

// ---- a file ----

static void read_at(struct visit *v, uint64_t ino, uint64_t off)
{
	size_t done = 0;

	if (got(v, fs_read(v->fs, ino, v->buf, READ_BYTES, off, &done)) == 0)
		REQUIRE(done <= READ_BYTES);
}

static void read_data(struct visit *v, uint64_t ino, uint64_t size)
{
	uint64_t at = 0, hole;

	for (unsigned i = 0; i < 4 && i * (uint64_t)READ_BYTES < size; i++)
		read_at(v, ino, i * (uint64_t)READ_BYTES);
	read_at(v, ino, size > 5000 ? size - 5000 : 0);
	for (unsigned i = 0; i < 8; i++) {
		if (got(v, fs_lseek(v->fs, ino, at, SEEK_DATA, &at)) != 0 || got(v, fs_lseek(v->fs, ino, at, SEEK_HOLE, &hole)) != 0)
			break;
		REQUIRE(hole > at); // else nobody who follows them comes to an end
		at = hole;
	}
}

static void write_at(struct visit *v, uint64_t ino, size_t len, uint64_t off)
{
	size_t done = 0;

	if (got(v, fs_write(v->fs, ino, v->buf, len, off, FS_WRITE_KILL_SUIDGID, &done)) == 0)
		REQUIRE(done <= len);
}

static void truncate_to(struct visit *v, uint64_t ino, uint64_t size)
{
	struct fs_setattr attr = { .set = FS_SET_SIZE, .size_bytes = size };
	struct stat st;

	if (got(v, fs_setattr(v->fs, ino, &attr, &st)) == 0)
		REQUIRE((uint64_t)st.st_size == size);
}

static void change_data(struct visit *v, uint64_t ino, uint64_t size)
{
	size_t done;

	write_at(v, ino, 100, 10);
	write_at(v, ino, 4096, 4096);
	if (v->out->n_files % 8 == 0) // a commit costs more than all the rest
		got(v, fs_fsync(v->fs, ino));
	write_at(v, ino, 70000, 3000);
	write_at(v, ino, 200, size / 2);
	write_at(v, ino, 5000, size);
	write_at(v, ino, 9, FAR);
	got(v, fs_fallocate(v->fs, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5000, 20000));
	got(v, fs_fallocate(v->fs, ino, FALLOC_FL_ZERO_RANGE, 30000, 9000));
	got(v, fs_fallocate(v->fs, ino, 0, 0, 65536));
	if (v->other != 0) {
		got(v, fs_copy_range(v->fs, v->other, 0, ino, 8192, 50000, &done));
		got(v, fs_copy_range(v->fs, ino, 0, v->other, 1000, 10000, &done));
	}
	truncate_to(v, ino, size / 3);
	truncate_to(v, ino, 9000);
	read_at(v, ino, 0);
	truncate_to(v, ino, 0);
	write_at(v, ino, 20000, 0);
	v->other = ino;
}

static void visit_attributes(struct visit *v, uint64_t ino)
{
	struct fs_setattr attr = { .set = FS_SET_MODE | FS_SET_UID | FS_SET_MTIME_NOW, .mode = 0640, .uid = 7 };
	char *list = malloc(XATTR_VALUE_MAX_BYTES);
	size_t len = 0, one;
	unsigned flags;
	struct stat st;

	REQUIRE(list != NULL);
	if (got(v, fs_listxattr(v->fs, ino, list, XATTR_VALUE_MAX_BYTES, &len)) != 0)
		len = 0;
	REQUIRE(len <= XATTR_VALUE_MAX_BYTES && (len == 0 || list[len - 1] == '\0'));
	for (size_t at = 0; at < len; at += strlen(list + at) + 1) {
		if (got(v, fs_getxattr(v->fs, ino, list + at, v->buf, READ_BYTES, &one)) == 0)
			REQUIRE(one <= READ_BYTES);
		if (v->change)
			got(v, fs_removexattr(v->fs, ino, list + at));
	}
	free(list);
	got(v, fs_get_flags(v->fs, ino, &flags));
	if (!v->change)
		return;
	got(v, fs_setattr(v->fs, ino, &attr, &st));
	got(v, fs_setxattr(v->fs, ino, "user.new", v->buf, 5000, 0));
	got(v, fs_setxattr(v->fs, ino, "user.new", v->buf, 10, 0));
	got(v, fs_set_flags(v->fs, ino, FS_NOCOW_FL));
}

static void visit_file(struct visit *v, uint64_t ino)
{
	struct stat st = { 0 };
	size_t len = 0;

	v->out->n_files++;
	if (got(v, fs_getattr(v->fs, ino, &st)) != 0)
		return;
	REQUIRE(st.st_ino == ino && st.st_size >= 0);
	visit_attributes(v, ino);
	if (S_ISLNK(st.st_mode) && got(v, fs_readlink(v->fs, ino, (char *)v->buf, READ_BYTES, &len)) == 0)
		REQUIRE(len <= SYMLINK_MAX_BYTES);
	// Also of what says that it is no file: it must be refused.
	read_data(v, ino, (uint64_t)st.st_size);
	if (v->change)
		change_data(v, ino, (uint64_t)st.st_size);
}

// ---- a directory ----

struct listing {
	struct entry { uint64_t ino; char name[NAME_MAX_BYTES + 1]; } *entries;
	unsigned n;
	uint64_t cookie;
};

static bool list_one(void *ctx, const char *name, const struct stat *st, uint64_t cookie)
{
	struct listing *l = ctx;

	REQUIRE(cookie > l->cookie && strlen(name) <= NAME_MAX_BYTES && strchr(name, '/') == NULL);
	if (l->n == ENTRIES_MAX)
		return false;
	l->cookie = cookie;
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return true;
	l->entries[l->n].ino = st->st_nlink > 0 ? st->st_ino : 0; // has got a reference
	strcpy(l->entries[l->n++].name, name);
	return true;
}

static void change_names(struct visit *v, uint64_t dir, const struct entry *e, uint64_t ino, unsigned i)
{
	const struct fs_cred cred = { .uid = 1, .gid = 1 };
	struct fs_entry made = { 0 };
	struct stat st;

	switch (i % 6) {
	case 0: got(v, fs_unlink(v->fs, dir, e->name)); break;
	case 1: got(v, fs_rename(v->fs, dir, e->name, dir, "renamed", 0)); break;
	case 2: got(v, fs_rename(v->fs, dir, e->name, ROOT_INO, "moved", 0)); break;
	case 3: got(v, fs_rename(v->fs, dir, e->name, dir, "renamed", RENAME_EXCHANGE)); break;
	case 4:
		if (got(v, fs_link(v->fs, ino, dir, "linked-again", &made)) == 0)
			fs_forget(v->fs, made.ino, 1);
		break;
	default: got(v, fs_rmdir(v->fs, dir, e->name)); break;
	}
	if (i == 3 && got(v, fs_mkdir(v->fs, dir, "made", 0700, &cred, &made)) == 0)
		fs_forget(v->fs, made.ino, 1);
	if (i == 5 && got(v, fs_mknod(v->fs, dir, "new", S_IFREG | 0600, 0, &cred, &made)) == 0) {
		write_at(v, made.ino, 50000, 0);
		got(v, fs_getattr(v->fs, made.ino, &st));
		fs_forget(v->fs, made.ino, 1);
	}
	if (i == 7 && got(v, fs_symlink(v->fs, dir, "pointer", "anywhere", &cred, &made)) == 0)
		fs_forget(v->fs, made.ino, 1);
}

static void visit_dir(struct visit *v, uint64_t dir, unsigned depth)
{
	struct listing l = { .entries = calloc(ENTRIES_MAX, sizeof(struct entry)) };
	unsigned files_max = depth == 0 ? ROOT_FILES_MAX : DIR_FILES_MAX;
	struct fs_entry e;

	REQUIRE(l.entries != NULL);
	got(v, fs_readdir(v->fs, dir, 0, true, list_one, &l));
	for (unsigned i = 0; i < l.n; i++) {
		if (i < files_max && v->out->n_files < FILES_MAX && got(v, fs_lookup(v->fs, dir, l.entries[i].name, &e)) == 0) {
			if (S_ISDIR(e.st.st_mode) && depth < DEPTH_MAX)
				visit_dir(v, e.ino, depth + 1);
			visit_file(v, e.ino);
			if (v->change)
				change_names(v, dir, &l.entries[i], e.ino, i);
			fs_forget(v->fs, e.ino, 1);
		}
		if (l.entries[i].ino != 0)
			fs_forget(v->fs, l.entries[i].ino, 1);
	}
	free(l.entries);
	if (v->change && depth == 1)
		got(v, fs_fsync(v->fs, dir));
}

// ---- the whole ----

static void visit_all(struct visit *v)
{
	struct statvfs space;
	struct fs_entry e;

	if (got(v, fs_statfs(v->fs, &space)) == 0)
		REQUIRE(space.f_bfree <= space.f_blocks);
	visit_dir(v, ROOT_INO, 0);
	if (got(v, fs_lookup(v->fs, ROOT_INO, "..", &e)) == 0)
		fs_forget(v->fs, e.ino, 1);
	if (v->change)
		got(v, fs_sync(v->fs));
}

void exercise_mount(struct bdev *dev, bool change, struct exercise *out)
{
	struct volume_opts opts = { .commit_interval_ms = INTERVAL_MS, .cache_bytes = 1u << 20 };
	struct fs_opts fs_opts = { .atime = FS_RELATIME, .discard = true, .trim_delay_ms = 1 };
	struct visit v = { .out = out, .change = change };
	struct errmsg why = { "" };
	struct volume *vol;

	*out = (struct exercise){ 0 };
	if (got(&v, volume_open(dev, &opts, &vol, &why)) != 0) {
		REQUIRE(why.text[0] != '\0');
		return;
	}
	if (got(&v, fs_create_context(vol, &fs_opts, &v.fs)) == 0) {
		out->opened = true;
		v.buf = malloc(READ_BYTES);
		REQUIRE(v.buf != NULL);
		memset(v.buf, 'w', READ_BYTES);
		visit_all(&v);
		fs_destroy_context(v.fs);
		free(v.buf);
	}
	got(&v, volume_close(vol));
}

// ---- fsck ----

// What it prints is of no interest here.
static FILE *silence(void)
{
	FILE *before = stdout;

	stdout = fopen("/dev/null", "w");
	REQUIRE(stdout != NULL);
	return before;
}

static void speak(FILE *before)
{
	fclose(stdout);
	stdout = before;
}

static int check_volume(struct fsck *f)
{
	int err = fsck_read_last_txn(f);

	return err != 0 ? err : fsck_check(f);
}

// As main.c of fsck has it between its options and its summary: a database that does not open is salvaged.
static int open_or_salvage(struct fsck *f, bool *opened)
{
	int err = fsck_open(f);

	*opened = err == 0;
	if (err != -EUCLEAN)
		return err;
	f->why.text[0] = '\0';
	if (!PROBLEM(f, FP_DB_OPEN, .text = "it does not open"))
		return 0;
	err = salvage(f, opened);
	return err == 0 && *opened ? fsck_open(f) : err;
}

int exercise_fsck(struct bdev *dev, struct repair *out)
{
	static const volatile sig_atomic_t never;
	FILE *before = getenv("FUZZ_VERBOSE") == NULL ? silence() : NULL;
	struct fsck *f = calloc(1, sizeof(*f));
	bool opened = false;
	int err;

	REQUIRE(f != NULL);
	if (before == NULL)
		setvbuf(stdout, NULL, _IOLBF, 0); // the process may not live to its end
	f->device = "fsck";
	f->mode = FSCK_YES;
	f->verbose = before == NULL;
	f->stop = &never;
	f->dev = dev;
	err = phase_superblock(f);
	if (err == 0)
		err = open_or_salvage(f, &opened);
	if (err == 0 && opened)
		err = check_volume(f);
	if (f->vol != NULL && err == 0)
		err = volume_close(f->vol);
	else if (f->vol != NULL)
		volume_abandon(f->vol);
	*out = (struct repair){ .n_fixed = f->n_fixed, .n_left = f->n_left - f->n_damaged };
	if (err != 0 && before == NULL)
		fprintf(stderr, "fsck: %s (%s)\n", f->why.text, strerror(-err));
	fsck_free(f);
	free(f);
	if (before != NULL)
		speak(before);
	return err;
}
