// SPDX-License-Identifier: MIT
// Running a history: the recorded volume, its steps and marks, and what a crash may leave of them. See history.h. The operations
// themselves are in operate.c.
#include "history.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "fs/fs_internal.h"
#include "listing.h"
#include "look.h"
#include "operate.h"

#define INTERVAL_MS 3600000 // nothing is committed because time passes
#define BESIDE_MS 3u        // a checkpoint that has not ended by then waits for the commit

static void *must(void *memory)
{
	VERIFY(memory != NULL);
	return memory;
}

// ---- mounting ----

static int mount_it(struct history *h)
{
	struct volume_opts opts = { .commit_interval_ms = INTERVAL_MS, .cache_bytes = HISTORY_CACHE_BYTES };
	struct fs_opts fs_opts = { .atime = FS_NOATIME, .discard = h->discard, .trim_delay_ms = 1 };
	struct errmsg why = { "" };
	int err = volume_open(&h->front.dev, &opts, &h->vol, &why);

	if (err == 0)
		err = fs_create_context(h->vol, &fs_opts, &h->fs);
	if (err != 0)
		snprintf(h->why, sizeof(h->why), "mount: %s (%s)", why.text, strerror(-err));
	return err;
}

// The model's nodes hold references in the filesystem as the kernel would: one for each name, at least.
static int take_references(struct history *h, unsigned dir)
{
	struct fs_entry entry;
	int err = 0;

	for (unsigned i = 0; err == 0 && i < h->model.nodes[dir].n_entries; i++) {
		const struct model_entry *e = &h->model.nodes[dir].entries[i];
		struct model_node *node = &h->model.nodes[e->node];

		err = fs_lookup(h->fs, h->model.nodes[dir].ino, e->name, &entry);
		if (err == 0)
			node->refs++;
		if (err == 0 && S_ISDIR(node->mode))
			err = take_references(h, e->node);
	}
	return err;
}

static void add_step(struct history *h, uint64_t first, uint64_t last, const char *what)
{
	h->steps = must(reallocarray(h->steps, h->n_steps + 1, sizeof(*h->steps)));
	h->steps[h->n_steps++] = (struct step){ .first = first, .last = last, .text = model_text(&h->model), .what = must(strdup(what)) };
}

// The last step that is over when this transaction is.
static size_t last_step(const struct history *h, uint64_t txn)
{
	size_t i = h->n_steps;

	while (i > 1 && h->steps[i - 1].last > txn)
		i--;
	return i - 1;
}

static void add_mark(struct history *h, uint64_t txn)
{
	size_t step = last_step(h, txn);

	if (h->n_marks > 0 && step <= h->marks[h->n_marks - 1].step)
		return;
	h->marks = must(reallocarray(h->marks, h->n_marks + 1, sizeof(*h->marks)));
	h->marks[h->n_marks++] = (struct mark){ testdev_log_len(h->dev), step };
}

int history_begin(struct history *h, const struct base *base, bool discard)
{
	int err;

	*h = (struct history){ 0 };
	clock_reset();
	model_copy(&h->model, &base->model);
	for (unsigned i = 0; i < h->model.n; i++)
		h->model.nodes[i].refs = h->model.nodes[i].changed_txn = 0;
	err = testdev_clone(base->dev, &h->dev);
	if (err != 0)
		return err;
	testdev_record(h->dev, true);
	front_init(&h->front, h->dev);
	h->discard = h->varies = discard;
	err = mount_it(h);
	if (err == 0)
		err = take_references(h, 0);
	if (err == 0) {
		uint64_t last = txn_open_id(h->vol) - 1;

		add_step(h, 0, last, "the prepared tree");
		add_mark(h, last);
	}
	return err;
}

// ---- steps ----

// Background work that the operation has caused ends before the next one: deletions, and a checkpoint when the log is long.
static void settle(struct history *h)
{
	size_t len = testdev_log_len(h->dev);
	uint64_t open = txn_open_id(h->vol);

	reaper_drain(h->fs);
	if (h->syncing)
		return;
	if (dbvfs_wal_end_bytes(h->vol->vfs) <= sysfile_capacity_bytes(&h->vol->files, SYSFILE_WAL) / 2)
		return;
	for (unsigned quiet = 0, tries = 0; quiet < 3 && tries < 200; tries++) {
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
		quiet = testdev_log_len(h->dev) == len && txn_open_id(h->vol) == open ? quiet + 1 : 0;
		len = testdev_log_len(h->dev);
		open = txn_open_id(h->vol);
	}
}

// Inode numbers come with the operation, times are asked for.
static int learn_times(struct history *h)
{
	struct stat st;
	int err = 0;

	for (unsigned i = 0; err == 0 && i < h->model.n; i++) {
		struct model_node *node = &h->model.nodes[i];

		if (!node->used)
			continue;
		err = fs_getattr(h->fs, node->ino, &st);
		node->mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
		node->ctime_ns = (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec;
	}
	return err;
}

static void say_op(const struct op *op, char *buf, size_t cap)
{
	static const char *const kinds[] = {
		[OP_MKNOD] = "mknod", [OP_MKDIR] = "mkdir", [OP_RMDIR] = "rmdir", [OP_SYMLINK] = "symlink", [OP_LINK] = "link",
		[OP_UNLINK] = "unlink", [OP_RENAME] = "rename", [OP_TMPFILE] = "tmpfile", [OP_TRUNCATE] = "truncate", [OP_WRITE] = "write",
		[OP_APPEND] = "append", [OP_FALLOCATE] = "fallocate", [OP_COPY] = "copy", [OP_CHMOD] = "chmod", [OP_CHOWN] = "chown",
		[OP_UTIMENS] = "utimens", [OP_SETXATTR] = "setxattr", [OP_REMOVEXATTR] = "removexattr", [OP_FSYNC] = "fsync",
		[OP_SYNC] = "sync", [OP_SYNC_BESIDE] = "sync-beside", [OP_CHECKPOINT_BESIDE] = "checkpoint-beside", [OP_REMOUNT] = "remount",
		[OP_GROW_DATABASE] = "grow-database",
	};

	snprintf(buf, cap, "%s: %s %s%s%s off %llu len %llu arg %#x", op->name, kinds[op->kind], op->path, op->to[0] != '\0' ? " " : "",
	         op->to, (unsigned long long)op->off, (unsigned long long)op->len, op->arg);
}

static void *sync_beside(void *fs) { return fs_sync(fs) == 0 ? NULL : fs; }

// 0, or what the thread has met.
static int join_syncer(struct history *h)
{
	void *failed = NULL;

	if (h->syncing)
		pthread_join(h->syncer, &failed);
	h->syncing = false;
	if (failed == NULL)
		return 0;
	snprintf(h->why, sizeof(h->why), "the sync beside failed");
	return -EUCLEAN;
}

// By a connection of its own: the volume has its checkpoints in order among themselves.
static void *checkpoint_beside(void *arg)
{
	struct history *h = arg;
	sqlite3 *db = NULL;
	int rc = sqlite3_open_v2(DBVFS_FILE, &db, SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_READWRITE, dbvfs_name(h->vol->vfs));

	if (rc == SQLITE_OK)
		rc = sqlite3_exec(db, "PRAGMA synchronous = NORMAL", NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
	sqlite3_close(db);
	atomic_store(&h->checkpointed, true);
	return rc == SQLITE_OK || rc == SQLITE_BUSY ? NULL : h;
}

// The commit stands before a flush. The checkpoint goes as far as it may meanwhile.
static void begin_checkpoint(void *arg)
{
	struct history *h = arg;

	VERIFY(pthread_create(&h->checkpointer, NULL, checkpoint_beside, h) == 0);
	for (unsigned us = 0; us < BESIDE_MS * 1000 && !atomic_load(&h->checkpointed); us += 100)
		nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
}

static int join_checkpointer(struct history *h)
{
	void *failed = NULL;

	if (front_disarm(&h->front))
		pthread_join(h->checkpointer, &failed);
	if (failed == NULL)
		return 0;
	snprintf(h->why, sizeof(h->why), "the checkpoint beside failed");
	return -EUCLEAN;
}

// Syncs wait for each other, nothing else does.
static int begin_op(struct history *h, const struct op *op)
{
	bool syncs = op->kind == OP_SYNC || op->kind == OP_FSYNC || op->kind == OP_SYNC_BESIDE || op->kind == OP_CHECKPOINT_BESIDE;
	int err = syncs ? join_syncer(h) : 0;

	if (err == 0 && op->kind == OP_SYNC_BESIDE) {
		err = -pthread_create(&h->syncer, NULL, sync_beside, h->fs);
		h->syncing = err == 0;
	}
	if (err == 0 && op->kind == OP_CHECKPOINT_BESIDE) {
		h->checkpointed = false;
		front_arm(&h->front, begin_checkpoint, h);
	}
	if (err == 0 && op->kind == OP_GROW_DATABASE) {
		err = sysfile_grow(&h->vol->files, SYSFILE_DB, op->len);
		err = err == -ENOSPC ? 0 : err;
	}
	h->varies |= op->kind == OP_SYNC_BESIDE || op->kind == OP_CHECKPOINT_BESIDE;
	return err;
}

static int do_step(struct history *h, const struct op *op)
{
	struct operate_result res = { 0 };
	uint64_t first = txn_open_id(h->vol), last;
	char what[256];
	int err;

	say_op(op, what, sizeof(what));
	err = begin_op(h, op);
	if (err != 0)
		return err;
	err = operate(h->fs, &h->model, op, first, &res);
	if (op->kind == OP_CHECKPOINT_BESIDE && join_checkpointer(h) != 0 && err == 0)
		return -EUCLEAN;
	if (err != 0) {
		snprintf(h->why, sizeof(h->why), "%s: %s", what, res.why);
		return err;
	}
	last = txn_open_id(h->vol); // before the reaper may go on
	h->n_refused += res.refused;
	h->n_full += res.full;
	err = learn_times(h);
	if (err != 0) {
		snprintf(h->why, sizeof(h->why), "%s: getattr after it: %s", what, strerror(-err));
		return -EUCLEAN;
	}
	add_step(h, first, last, what);
	h->steps[h->n_steps - 1].loose_ino = res.loose_ino;
	settle(h);
	add_mark(h, txn_durable_id(h->vol) > res.promised ? txn_durable_id(h->vol) : res.promised);
	return 0;
}

// ---- the end of a process, and the next one ----

// What the next mount will find, which must be all that was promised. *whole: nothing at all got lost.
static int look_at_rest(struct history *h, bool *whole)
{
	struct look *look = must(calloc(1, sizeof(*look)));
	struct bdev *rest;
	ssize_t match = -1;
	int err;

	VERIFY(testdev_clone(h->dev, &rest) == 0);
	err = look_at(rest, false, look);
	if (err == 0)
		match = history_match(h, look->txn, look->text, look->why, sizeof(look->why));
	if (err == 0 && match < (ssize_t)history_promised(h, testdev_log_len(h->dev)))
		err = -EUCLEAN;
	if (err != 0)
		snprintf(h->why, sizeof(h->why), "after the end of the process: step %zd: %.900s", match, look->why);
	*whole = err == 0 && strcmp(look->text, h->steps[h->n_steps - 1].text) == 0;
	look_free(look);
	free(look);
	bdev_close(rest);
	return err;
}

static int unmount(struct history *h, unsigned die_at)
{
	int err;

	h->checkpoints = history_checkpoints(h);
	if (die_at > 0)
		front_die_after(&h->front, (int)die_at - 1);
	fs_destroy_context(h->fs);
	err = volume_close(h->vol);
	h->fs = NULL;
	h->vol = NULL;
	front_revive(&h->front);
	if (err == 0) { // nothing is left to be lost
		h->marks = must(reallocarray(h->marks, h->n_marks + 1, sizeof(*h->marks)));
		h->marks[h->n_marks++] = (struct mark){ testdev_log_len(h->dev), h->n_steps - 1 };
	}
	if (err == 0 || die_at > 0)
		return 0;
	snprintf(h->why, sizeof(h->why), "unmount: %s", strerror(-err));
	return -EUCLEAN;
}

static int remount(struct history *h, unsigned die_at)
{
	bool whole = true;
	int err = join_syncer(h);

	if (err == 0)
		err = unmount(h, die_at);
	if (err == 0)
		err = look_at_rest(h, &whole);
	if (err != 0 || !whole)
		return err;
	for (unsigned i = 0; i < h->model.n; i++)
		h->model.nodes[i].refs = 0;
	h->n_remounts++;
	err = mount_it(h);
	return err != 0 ? err : take_references(h, 0);
}

int history_do(struct history *h, const struct op *op)
{
	if (h->vol == NULL)
		return 0; // over
	return op->kind == OP_REMOUNT ? remount(h, op->arg) : do_step(h, op);
}

uint64_t history_checkpoints(struct history *h)
{
	struct txn_stats stats = { 0 };

	if (h->vol != NULL)
		txn_get_stats(h->vol, &stats);
	return h->checkpoints + stats.checkpoints;
}

void history_focus(struct history *h) { h->focus = testdev_log_len(h->dev); }

int history_compare(struct history *h)
{
	const char *expected = h->steps[h->n_steps - 1].text;
	char *text = NULL, where[256];
	int err;

	if (h->vol == NULL)
		return 0; // over
	err = listing_of_fs(h->fs, &text, where, sizeof(where));
	if (err != 0)
		snprintf(h->why, sizeof(h->why), "reading the tree at %s: %s", where, strerror(-err));
	else if (strcmp(text, expected) != 0) {
		snprintf(h->why, sizeof(h->why), "the live tree is not the model's");
		err = -EUCLEAN;
	}
	free(text);
	return err;
}

void history_stop(struct history *h)
{
	if (h->dev != NULL && h->vol == NULL)
		testdev_record(h->dev, false);
	if (h->vol == NULL)
		return;
	(void)join_syncer(h);
	h->checkpoints = history_checkpoints(h);
	atomic_store(&h->vol->failed, -EIO); // whatever still runs ends without writing
	if (h->fs != NULL)
		fs_destroy_context(h->fs);
	volume_abandon(h->vol);
	h->fs = NULL;
	h->vol = NULL;
	testdev_record(h->dev, false);
}

void history_free(struct history *h)
{
	history_stop(h);
	for (size_t i = 0; i < h->n_steps; i++) {
		free(h->steps[i].text);
		free(h->steps[i].what);
	}
	free(h->steps);
	free(h->marks);
	model_free(&h->model);
	if (h->dev != NULL)
		bdev_close(h->dev);
	*h = (struct history){ 0 };
}

void history_print(const struct history *h)
{
	static const char *const ops[] = { [TESTDEV_WRITE] = "write", [TESTDEV_FLUSH] = "flush", [TESTDEV_DISCARD] = "discard" };

	for (size_t i = 0; i < h->n_steps; i++)
		printf("step %zu: transactions %llu to %llu: %s\n", i, (unsigned long long)h->steps[i].first,
		       (unsigned long long)h->steps[i].last, h->steps[i].what);
	for (size_t i = 0, m = 0; i <= testdev_log_len(h->dev); i++) {
		for (; m < h->n_marks && h->marks[m].log_len <= i; m++)
			printf("    durable up to step %zu\n", h->marks[m].step);
		if (i < testdev_log_len(h->dev)) {
			const struct testdev_entry *e = testdev_log_at(h->dev, i);

			printf("%zu: %s block %llu, %llu bytes\n", i, ops[e->op], (unsigned long long)(e->off_bytes / BLK_SIZE),
			       (unsigned long long)e->len_bytes);
		}
	}
}

// ---- the prepared volume ----

static int format(uint64_t size_bytes, struct bdev **dev, char *why_text, size_t why_cap)
{
	static const uint8_t uuid[16] = "crash test uuid";
	struct volume_params params = { .label = "crash", .uuid = uuid };
	struct errmsg why = { "" };
	int err = testdev_create(size_bytes, dev);

	clock_reset();
	if (err == 0)
		err = volume_format(*dev, &params, &why);
	if (err != 0)
		snprintf(why_text, why_cap, "format: %s", why.text);
	return err;
}

// Its own mount, so that everything lies in the database when the histories begin.
int base_create(uint64_t size_bytes, struct base *out, char *why, size_t why_cap)
{
	struct base empty = { 0 };
	struct history h = { 0 };
	const struct op *op;
	int err = format(size_bytes, &empty.dev, why, why_cap);

	if (err != 0)
		return err;
	model_init(&empty.model, ROOT_INO);
	err = history_begin(&h, &empty, false);
	for (unsigned i = 0; err == 0 && (op = workload_prepare(i)) != NULL; i++)
		err = history_do(&h, op);
	if (err == 0)
		err = history_compare(&h);
	if (err == 0) {
		fs_destroy_context(h.fs);
		err = volume_close(h.vol);
		h.fs = NULL;
		h.vol = NULL;
	}
	if (err == 0)
		err = testdev_clone(h.dev, &out->dev);
	if (err == 0)
		model_copy(&out->model, &h.model);
	else
		snprintf(why, why_cap, "the prepared tree: %s (%s)", h.why, strerror(-err));
	history_free(&h);
	base_free(&empty);
	return err;
}

void base_free(struct base *base)
{
	model_free(&base->model);
	if (base->dev != NULL)
		bdev_close(base->dev);
	*base = (struct base){ 0 };
}

// ---- the oracle ----

size_t history_promised(const struct history *h, size_t log_len)
{
	size_t step = 0;

	for (size_t i = 0; i < h->n_marks && h->marks[i].log_len <= log_len; i++)
		step = h->marks[i].step;
	return step;
}

// One line of a text; its length includes the end of the line.
static size_t line_len(const char *at) { return strcspn(at, "\n") + (at[strcspn(at, "\n")] == '\n'); }

static bool line_is_of(const char *line, uint64_t ino)
{
	char number[32];
	size_t len = (size_t)snprintf(number, sizeof(number), "#%llu ", (unsigned long long)ino);
	const char *hash = strchr(line, '#');

	return hash != NULL && strncmp(hash, number, len) == 0;
}

// Equal but for the lines of one inode, which must be there in both.
static bool equal_but(const char *a, const char *b, uint64_t ino)
{
	while (*a != '\0' && *b != '\0') {
		size_t len_a = line_len(a), len_b = line_len(b);

		if (!(line_is_of(a, ino) && line_is_of(b, ino)) && (len_a != len_b || memcmp(a, b, len_a) != 0))
			return false;
		a += len_a;
		b += len_b;
	}
	return *a == '\0' && *b == '\0';
}

// Appends the lines of `of` that are not in `in`.
static void add_diff(char *why, size_t cap, const char *sign, const char *of, const char *in)
{
	for (; *of != '\0'; of += line_len(of)) {
		const char *at = in;
		size_t len = line_len(of), used = strlen(why);

		while (*at != '\0' && (line_len(at) != len || memcmp(at, of, len) != 0))
			at += line_len(at);
		if (*at == '\0')
			snprintf(why + used, cap - used, "    %s %.*s", sign, (int)len, of);
	}
}

static void explain(const struct history *h, uint64_t txn, size_t lo, const char *text, char *why, size_t cap)
{
	snprintf(why, cap, "the tree is not that of transaction %llu, which ends with '%s'", (unsigned long long)txn, h->steps[lo].what);
	for (size_t i = 0; i < h->n_steps; i++) {
		size_t used = strlen(why);

		if (strcmp(h->steps[i].text, text) == 0)
			snprintf(why + used, cap - used, "\n  (it is the tree after step %zu '%s', transactions %llu to %llu)", i,
			         h->steps[i].what, (unsigned long long)h->steps[i].first, (unsigned long long)h->steps[i].last);
	}
	snprintf(why + strlen(why), cap - strlen(why), "\n");
	add_diff(why, cap, "is     ", text, h->steps[lo].text);
	add_diff(why, cap, "must be", h->steps[lo].text, text);
}

// The last of equal texts.
static ssize_t last_alike(const struct history *h, size_t i)
{
	while (i + 1 < h->n_steps && strcmp(h->steps[i + 1].text, h->steps[i].text) == 0)
		i++;
	return (ssize_t)i;
}

ssize_t history_match(const struct history *h, uint64_t txn, const char *text, char *why, size_t why_cap)
{
	size_t lo = last_step(h, txn);

	if (h->steps[0].last > txn) {
		snprintf(why, why_cap, "transaction %llu is older than the volume", (unsigned long long)txn);
		return -1;
	}
	for (size_t i = lo; i < h->n_steps && (i == lo || h->steps[i].first <= txn); i++) {
		const struct step *step = &h->steps[i];

		if (strcmp(step->text, text) == 0)
			return last_alike(h, i);
		if (i > lo && step->loose_ino != 0 && equal_but(step->text, text, step->loose_ino))
			return (ssize_t)i - 1;
	}
	explain(h, txn, lo, text, why, why_cap);
	return -1;
}
