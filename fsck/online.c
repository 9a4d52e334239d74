// SPDX-License-Identifier: MIT
#include "fsck/online.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fsck/sql.h"
#include "meta/rows.h"

#define ROOM_TRIES 400u
#define ROOM_PAUSE_NS 5000000L

bool online_stopping(struct online *o)
{
	if (o->stopped == 0 && o->stop(o->ctx))
		o->stopped = 1;
	return o->stopped != 0;
}

bool online_is_revoked(const struct online *o) { return o->f.vol != NULL && store_is_revoked(o->f.vol->store); }

static bool on_steps(void *ctx) { return online_stopping(ctx); }

// ---- snapshots ----

// After one that was taken away, the log has to begin anew first, which takes a commit or two. If nobody commits, there is no hurry.
static void wait_for_room(struct online *o)
{
	for (unsigned i = 0; i < ROOM_TRIES && !volume_snapshot_would_last(o->live) && !online_stopping(o); i++)
		nanosleep(&(struct timespec){ .tv_nsec = ROOM_PAUSE_NS }, NULL);
}

static int open_snapshot(struct online *o)
{
	struct fsck *f = &o->f;
	int err;

	wait_for_room(o);
	err = volume_snapshot_open(o->live, &f->vol, &f->why);
	if (err != 0) {
		f->vol = NULL;
		return err == -EINTR ? -EAGAIN : err; // taken away before it was open
	}
	f->sb = f->vol->files.sb;
	store_lock(f->vol->store);
	store_on_steps(f->vol->store, on_steps, o);
	store_unlock(f->vol->store);
	return 0;
}

// Turns the errors of a snapshot that was taken away, or of a check that shall end, into what they mean: -EAGAIN, -EINTR.
static int close_snapshot(struct online *o, int err)
{
	struct fsck *f = &o->f;
	bool revoked = store_is_revoked(f->vol->store);

	fsck_free(f);
	volume_snapshot_close(f->vol);
	f->vol = NULL;
	if (o->stopped != 0)
		err = -EINTR;
	else if (err == -EINTR)
		err = revoked ? -EAGAIN : -EIO;
	if (err == -EINTR || err == -EAGAIN)
		f->why.text[0] = '\0';
	return err;
}

// ---- the check ----

// The copies are written when a system file grows.
static int check_superblocks(struct online *o)
{
	struct volume *live = o->live;
	struct superblock *sb = malloc(sizeof(*sb));
	struct sb_scan scan;
	int err;

	if (sb == NULL)
		return -ENOMEM;
	pthread_mutex_lock(&live->files.grow_lock);
	err = sb_read(live->dev, sb, &scan, &o->f.why);
	pthread_mutex_unlock(&live->files.grow_lock);
	free(sb);
	if (err == 0)
		(void)fsck_report_copies(&o->f, &scan);
	return err;
}

// It was mounted, so this has come since.
static int report_unopened(struct fsck *f)
{
	char text[sizeof(f->why.text)];

	memcpy(text, f->why.text, sizeof(text));
	f->why.text[0] = '\0';
	f->db_damaged = true;
	(void)PROBLEM(f, FP_DB_OPEN, .text = text);
	return 0;
}

static int check_once(struct online *o)
{
	struct fsck *f = &o->f;
	int err = open_snapshot(o);

	if (err != 0)
		return err == -EUCLEAN ? report_unopened(f) : err;
	err = fsck_read_last_txn(f);
	if (err == 0)
		err = fsck_check(f);
	f->n_inodes = f->inodes.n;
	f->used_blk = f->owned.claimed_blk;
	f->summed_blk = f->summed.claimed_blk;
	return close_snapshot(o, err);
}

int online_check(struct online *o)
{
	struct fsck *f = &o->f;
	uint64_t left;
	int err;

	f->device = o->live->dev->name;
	f->dev = o->live->dev;
	f->mode = FSCK_NO;
	f->online = true;
	f->stop = &o->stopped;
	err = check_superblocks(o);
	if (err != 0)
		return err;
	left = f->n_left;
	for (unsigned i = 1; (err = check_once(o)) == -EAGAIN && f->n_left == left && i < ONLINE_TRIES; i++)
		if (f->verbose)
			problem_note(f, "the log has become long: beginning anew");
	if (err == -EAGAIN)
		errmsg_set(&f->why, "%s: the volume changes too fast to be checked: try again when there is less to do, or unmount it",
		           f->device);
	return err;
}

// ---- for a scrub ----

#define SELECT_FILES \
	"SELECT ino FROM inode WHERE ino > ?1 AND (mode & 61440) = 32768 AND (flags & 1) = 0 ORDER BY ino LIMIT ?2"

_Static_assert(INODE_INLINE == 1, "SELECT_FILES leaves them out");

static int list_files(struct fsck *f, uint64_t after, uint64_t *inos, unsigned max, unsigned *n)
{
	struct cursor c;
	int err;

	store_lock(f->vol->store);
	err = cursor_open(f, &c, SELECT_FILES, (int64_t)after, max);
	for (*n = 0; err == 0 && c.have; err = cursor_next(f, &c))
		inos[(*n)++] = (uint64_t)c.key;
	cursor_close(&c);
	store_unlock(f->vol->store);
	return err;
}

int online_next_files(struct online *o, uint64_t after, uint64_t *inos, unsigned max, unsigned *n)
{
	int err;

	do {
		err = open_snapshot(o);
		if (err == 0)
			err = close_snapshot(o, list_files(&o->f, after, inos, max, n));
	} while (err == -EAGAIN); // a moment's work: it cannot happen for long
	return err;
}

static int report_once(struct online *o, struct damage_list *list, uint64_t read_blk, uint64_t skipped_files)
{
	int err = open_snapshot(o);

	if (err != 0)
		return err;
	store_lock(o->f.vol->store);
	err = damage_report(&o->f, list, read_blk, skipped_files);
	store_unlock(o->f.vol->store);
	return close_snapshot(o, err);
}

int online_report_damage(struct online *o, struct damage_list *list, uint64_t read_blk, uint64_t skipped_files)
{
	uint64_t left = o->f.n_left;
	int err;

	for (unsigned i = 1; (err = report_once(o, list, read_blk, skipped_files)) == -EAGAIN && o->f.n_left == left && i < ONLINE_TRIES; i++)
		continue;
	return err;
}
