// SPDX-License-Identifier: MIT
// The reaper: a thread that deletes what has lost its last name and its last reference, finishes truncates that a crash has
// interrupted, and takes the allocation windows back from files that nobody writes any more.
//
// Work comes as inode numbers in a queue (from forget and unlink) and, at the start, from the orphan table. Nothing
// here is lost if it is not done: the row in the orphan table stays, and the next mount begins with it.
//
// It lets work gather for GATHER_MS before it begins: being woken for each deleted file cost a quarter of the deletions per second.
//
// The thread never waits for an inode's data lock: whoever waits in reaper_drain() may hold one. What it finds locked it passes over
// and looks at again at a later tick.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fs/fs_internal.h"
#include "meta/orphan.h"
#include "util/log.h"

#define TICK_S 5
#define GATHER_MS 10
#define QUEUE_MIN 64u
#define LIST_BATCH 64u
#define IDLE_BATCH 64u

// ---- the queue; reaper locked ----

static bool push_locked(struct reaper *rp, uint64_t ino)
{
	if (rp->n == rp->cap) {
		size_t cap = rp->cap == 0 ? QUEUE_MIN : rp->cap * 2;
		uint64_t *bigger = reallocarray(NULL, cap, sizeof(*bigger));

		if (bigger == NULL)
			return false;
		for (size_t i = 0; i < rp->n; i++)
			bigger[i] = rp->queue[(rp->head + i) & (rp->cap - 1)];
		free(rp->queue);
		rp->queue = bigger;
		rp->cap = cap;
		rp->head = 0;
	}
	rp->queue[(rp->head + rp->n++) & (rp->cap - 1)] = ino;
	return true;
}

static uint64_t pop_locked(struct reaper *rp)
{
	uint64_t ino = rp->queue[rp->head];

	rp->head = (rp->head + 1) & (rp->cap - 1);
	rp->n--;
	return ino;
}

void reaper_queue(struct fs *fs, uint64_t ino)
{
	struct reaper *rp = &fs->reaper;

	pthread_mutex_lock(&rp->lock);
	if (!push_locked(rp, ino))
		rp->rescan_later = true; // its row in the orphan table remembers it
	if (rp->n == 1)
		pthread_cond_signal(&rp->wake);
	pthread_mutex_unlock(&rp->lock);
}

void reaper_drain(struct fs *fs)
{
	struct reaper *rp = &fs->reaper;

	if (!rp->started)
		return;
	pthread_mutex_lock(&rp->lock);
	rp->n_waiting++;
	pthread_cond_signal(&rp->wake);
	while ((rp->n > 0 || rp->rescan || rp->busy) && !rp->stop)
		pthread_cond_wait(&rp->idle, &rp->lock);
	rp->n_waiting--;
	pthread_mutex_unlock(&rp->lock);
}

// ---- the work ----

enum reap_result { // the later, the worse
	REAPED,
	IN_USE,
	LEFT,        // it cannot be done: whoever changes the file has to try himself
	PASSED_OVER, // it can be done later
};

// With the data lock held: an orphan is deleted unless somebody still has it; an inode with a name or a user loses its tail.
static enum reap_result reap_locked(struct fs *fs, struct inode *in)
{
	struct inode_row row;
	bool in_use;
	int r;

	store_lock(fs->st);
	r = inode_get(fs->st, in->ino, &row);
	store_unlock(fs->st);
	in_use = r == 0 && row.nlink == 0 && inode_is_referenced(fs, in->ino); // its last forget will queue it
	if (r == 0 && (row.nlink > 0 || in_use))
		r = fs_trim_tail(fs, in);
	else if (r == 0 || r == -ENOENT)
		r = orphan_finish(fs->vol, in->ino);
	fs_note_result(fs, r);
	if (r == 0 || r == -ENOENT)
		return in_use ? IN_USE : REAPED;
	if (r == -ENOMEM || r == -ENOSPC)
		return PASSED_OVER;
	if (volume_refusal(fs->vol) == 0)
		msg_error("inode %llu: cannot finish deleting (%s); left for the next mount", (unsigned long long)in->ino,
		          strerrordesc_np(-r));
	return LEFT;
}

static enum reap_result reap(struct fs *fs, uint64_t ino)
{
	enum reap_result result = PASSED_OVER;
	struct inode *in;

	in = inode_pin(fs, ino);
	if (in == NULL)
		return result;
	if (pthread_rwlock_trywrlock(&in->lock) == 0) {
		result = reap_locked(fs, in);
		pthread_rwlock_unlock(&in->lock);
	}
	inode_unpin(fs, in);
	return result;
}

static bool stopping(struct reaper *rp)
{
	bool stop;

	pthread_mutex_lock(&rp->lock);
	stop = rp->stop;
	pthread_mutex_unlock(&rp->lock);
	return stop;
}

// Everything in the orphan table; the worst result.
static enum reap_result reap_table(struct fs *fs)
{
	uint64_t inos[LIST_BATCH], after = 0;
	enum reap_result worst = REAPED, result;
	unsigned n;
	int r;

	do {
		store_lock(fs->st);
		r = orphan_list(fs->vol, after, inos, LIST_BATCH, &n);
		store_unlock(fs->st);
		if (r != 0)
			return PASSED_OVER;
		for (unsigned i = 0; i < n; i++) {
			if (atomic_load(&fs->vol->failed) != 0 || stopping(&fs->reaper))
				return PASSED_OVER;
			result = reap(fs, inos[i]);
			worst = result > worst ? result : worst;
			after = inos[i];
		}
	} while (n == LIST_BATCH);
	return worst;
}

static bool end_writer(struct fs *fs, uint64_t ino, int64_t before_s)
{
	struct inode *in = inode_pin_existing(fs, ino);
	bool ended = false;

	if (in == NULL)
		return false;
	if (pthread_rwlock_trywrlock(&in->lock) == 0) {
		if (in->ws != NULL && in->ws->used_s < before_s) {
			inode_end_wstate(fs, in);
			ended = true;
		}
		pthread_rwlock_unlock(&in->lock);
	}
	inode_unpin(fs, in);
	return ended;
}

// Write states that were not used for a tick: their windows go back.
static void end_idle_writers(struct fs *fs)
{
	int64_t before_s = inode_clock_s() - TICK_S + 1;
	uint64_t inos[IDLE_BATCH];
	unsigned n, ended;

	do {
		ended = 0;
		n = inode_idle_writers(fs, before_s, inos, IDLE_BATCH);
		for (unsigned i = 0; i < n; i++)
			ended += end_writer(fs, inos[i], before_s);
	} while (n == IDLE_BATCH && ended > 0);
}

// ---- the thread ----

static void tick(struct fs *fs)
{
	struct reaper *rp = &fs->reaper;

	end_idle_writers(fs);
	pthread_mutex_lock(&rp->lock);
	rp->rescan |= rp->rescan_later;
	rp->rescan_later = false;
	pthread_mutex_unlock(&rp->lock);
}

static void rescan(struct fs *fs)
{
	struct reaper *rp = &fs->reaper;
	enum reap_result worst = reap_table(fs);

	if (worst < LEFT)
		atomic_store(&fs->check_orphans, false);
	pthread_mutex_lock(&rp->lock);
	rp->rescan_later |= worst == PASSED_OVER;
	pthread_mutex_unlock(&rp->lock);
}

// The first of what may be many has come. Nobody may wait for it meanwhile.
static void gather_locked(struct reaper *rp)
{
	struct timespec until;

	if (rp->n == 0)
		return;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += GATHER_MS * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_nsec -= 1000000000L;
		until.tv_sec++;
	}
	while (!rp->stop && rp->n_waiting == 0 && pthread_cond_timedwait(&rp->wake, &rp->lock, &until) == 0)
		continue;
}

// One piece of work, or a wait for it. The lock is held at entry and exit.
static void step_locked(struct fs *fs, struct timespec *next_tick)
{
	struct reaper *rp = &fs->reaper;
	bool do_rescan = rp->rescan && rp->n == 0;
	uint64_t ino = rp->n > 0 ? pop_locked(rp) : 0;
	bool passed_over = false;
	struct timespec now;

	if (ino == 0 && !do_rescan) {
		rp->busy = false;
		pthread_cond_broadcast(&rp->idle);
		pthread_cond_timedwait(&rp->wake, &rp->lock, next_tick);
		gather_locked(rp);
	} else {
		rp->busy = true;
		rp->rescan &= !do_rescan;
		pthread_mutex_unlock(&rp->lock);
		if (do_rescan)
			rescan(fs);
		else
			passed_over = reap(fs, ino) == PASSED_OVER;
		pthread_mutex_lock(&rp->lock);
		rp->rescan_later |= passed_over;
	}
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (now.tv_sec >= next_tick->tv_sec && !rp->stop) {
		pthread_mutex_unlock(&rp->lock);
		tick(fs);
		pthread_mutex_lock(&rp->lock);
		*next_tick = now;
		next_tick->tv_sec += TICK_S;
	}
}

static void *reaper_main(void *arg)
{
	struct fs *fs = arg;
	struct reaper *rp = &fs->reaper;
	struct timespec next_tick;

	clock_gettime(CLOCK_MONOTONIC, &next_tick);
	next_tick.tv_sec += TICK_S;
	pthread_mutex_lock(&rp->lock);
	while (!rp->stop)
		step_locked(fs, &next_tick);
	rp->busy = false;
	pthread_cond_broadcast(&rp->idle);
	pthread_mutex_unlock(&rp->lock);
	return NULL;
}

// At unmount nobody can use an inode without a name any more: all orphans go, referenced or not.
static void finish_all(struct fs *fs)
{
	uint64_t ino = 0;
	unsigned n = 1;
	int r = 0;

	while (r == 0 && n == 1 && atomic_load(&fs->vol->failed) == 0) {
		store_lock(fs->st);
		r = orphan_list(fs->vol, ino, &ino, 1, &n);
		store_unlock(fs->st);
		if (r == 0 && n == 1)
			r = orphan_finish(fs->vol, ino);
	}
	fs_note_result(fs, r);
	if (r != 0 && volume_refusal(fs->vol) == 0)
		msg_error("cannot finish deleting inode %llu (%s); left for the next mount", (unsigned long long)ino,
		          strerrordesc_np(-r));
}

int reaper_start(struct fs *fs)
{
	struct reaper *rp = &fs->reaper;
	pthread_condattr_t attr;
	int r;

	pthread_mutex_init(&rp->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&rp->wake, &attr);
	pthread_cond_init(&rp->idle, NULL);
	pthread_condattr_destroy(&attr);
	if (fs->vol->read_only)
		return 0;
	rp->rescan = atomic_load(&fs->check_orphans);
	r = pthread_create(&rp->thread, NULL, reaper_main, fs);
	if (r != 0) {
		pthread_cond_destroy(&rp->wake);
		pthread_cond_destroy(&rp->idle);
		pthread_mutex_destroy(&rp->lock);
		return -r;
	}
	rp->started = true;
	return 0;
}

void reaper_stop(struct fs *fs)
{
	struct reaper *rp = &fs->reaper;

	if (rp->started) {
		pthread_mutex_lock(&rp->lock);
		rp->stop = true;
		pthread_cond_signal(&rp->wake);
		pthread_mutex_unlock(&rp->lock);
		pthread_join(rp->thread, NULL);
		finish_all(fs);
	}
	free(rp->queue);
	pthread_cond_destroy(&rp->wake);
	pthread_cond_destroy(&rp->idle);
	pthread_mutex_destroy(&rp->lock);
}
