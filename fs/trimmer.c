// SPDX-License-Identifier: MIT
// The trimmer: a thread that tells the device which blocks hold nothing any more (BLKDISCARD, a hole punched into an image).
//
//      asleep ---- something became free ----> waiting DELAY_MS ----> walking through the volume ----> asleep
//                  (alloc_trim_watch)          more is freed           discard, pause, discard, …
//
// While nothing is freed it does not wake at all. The wait lets deletions gather, and lets blocks that are used again
// at once be used without a discard. The walk and the choice of the runs are the allocator's (alloc/trim.c).
//
// Pace. A step is a few discards. What it has cost is paid back by sleeping before the next one: so that the thread has
// used at most 1/CPU_SHARE of a processor and the device was busy for it for at most 1/DEVICE_SHARE of the time, over each step and so over any
// time. Sharing alone does not help who waits behind one long discard, so the length of the next one follows from an average of what they cost
// (EWMA, of time and of blocks, so that small ones do not count as much as large ones): about TARGET_NS.
//
// Losing a trim loses nothing that anybody stored: errors end the trimming for this mount with one line in the log, and what was not
// trimmed at unmount stays as it is until its span is freed into again.
//
// fs_trim() does the same for whoever asks (fstrim), in his thread: for everything that is free, without pauses, and with its errors.
#include <errno.h>
#include <string.h>
#include <time.h>

#include "fs/fs_internal.h"
#include "util/log.h"

#define DELAY_MS 5000u
#define CPU_SHARE 100u
#define DEVICE_SHARE 20u
#define MIN_BLK 16u             // 64 KiB: shorter runs are not worth a request
#define MAX_BLK 16384u          // 64 MiB
#define SLOW_MAX_BLK 1024u      // 4 MiB: no fewer, however slow it is
#define FIRST_BLK 4096u         // 16 MiB, while nothing is known
#define TARGET_NS 20000000ull   // of one discard
#define STEP_NS 5000000ull      // a step that has cost this ends
#define STEP_CALLS 64u
#define EWMA_WEIGHT 8
#define NS_PER_S 1000000000ull

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

// ---- pace ----

// One discard.
static void note_cost(struct trimmer *tr, uint64_t len_blk, uint64_t ns)
{
	if (tr->cost_blk == 0) {
		tr->cost_blk = (int64_t)len_blk;
		tr->cost_ns = (int64_t)ns;
	}
	tr->cost_blk += ((int64_t)len_blk - tr->cost_blk) / EWMA_WEIGHT;
	tr->cost_ns += ((int64_t)ns - tr->cost_ns) / EWMA_WEIGHT;
}

static uint64_t next_max_blk(const struct trimmer *tr)
{
	if (tr->cost_blk <= 0)
		return FIRST_BLK;
	return max_u64(SLOW_MAX_BLK, min_u64(MAX_BLK, TARGET_NS * (uint64_t)tr->cost_blk / max_u64((uint64_t)tr->cost_ns, 1)));
}

static uint64_t pause_ns(uint64_t cpu_ns, uint64_t device_ns)
{
	return max_u64(cpu_ns * (CPU_SHARE - 1), device_ns * (DEVICE_SHARE - 1));
}

// ---- steps ----

static int discard_blocks(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	struct fs *fs = ctx;
	struct trimmer *tr = &fs->trimmer;
	uint64_t begin = clock_ns(CLOCK_MONOTONIC), ns;
	int r = bdev_discard(fs->vol->dev, blk_to_bytes(start_blk), blk_to_bytes(len_blk));

	ns = clock_ns(CLOCK_MONOTONIC) - begin;
	tr->device_ns += ns;
	if (r == 0)
		note_cost(tr, len_blk, ns);
	return r;
}

static bool stopping(struct trimmer *tr)
{
	bool stop;

	pthread_mutex_lock(&tr->lock);
	stop = tr->stop;
	pthread_mutex_unlock(&tr->lock);
	return stop;
}

// Some discards.
static int step(struct fs *fs)
{
	struct trimmer *tr = &fs->trimmer;
	uint64_t begin = clock_ns(CLOCK_MONOTONIC), done_blk;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < STEP_CALLS && tr->walk.next_blk < tr->walk.end_blk; i++) {
		if (stopping(tr) || atomic_load(&fs->vol->failed) != 0)
			return -ECANCELED;
		tr->walk.max_blk = next_max_blk(tr);
		r = alloc_trim(fs->vol->alloc, &tr->walk, discard_blocks, fs, &done_blk);
		tr->n_discards += done_blk > 0;
		tr->discarded_blk += done_blk;
		if (clock_ns(CLOCK_MONOTONIC) - begin >= STEP_NS)
			break;
	}
	return r;
}

// With the lock. Until it is time, or the thread shall end.
static void sleep_locked(struct trimmer *tr, uint64_t ns)
{
	uint64_t until_ns = clock_ns(CLOCK_MONOTONIC) + ns;
	struct timespec until = { .tv_sec = (time_t)(until_ns / NS_PER_S), .tv_nsec = (long)(until_ns % NS_PER_S) };

	while (!tr->stop && pthread_cond_timedwait(&tr->wake, &tr->lock, &until) == 0)
		continue;
}

// To the end of the volume.
static int walk(struct fs *fs)
{
	struct trimmer *tr = &fs->trimmer;
	int r = 0;

	while (r == 0 && tr->walk.next_blk < tr->walk.end_blk) {
		uint64_t cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID), device_ns = tr->device_ns;

		r = step(fs);
		cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns;
		pthread_mutex_lock(&tr->lock);
		sleep_locked(tr, pause_ns(cpu_ns, tr->device_ns - device_ns));
		pthread_mutex_unlock(&tr->lock);
	}
	return r;
}

// From where the last walk has stopped, if it has, and then all of it: something may have become free in the part before that.
static int walk_all(struct fs *fs)
{
	struct trimmer *tr = &fs->trimmer;
	int r = walk(fs);

	if (r == 0) {
		tr->walk = (struct alloc_trim){ .end_blk = fs->vol->files.sb.n_blks, .min_blk = MIN_BLK };
		r = walk(fs);
	}
	if (r == -EAGAIN || r == -ENOMEM) // too full, or no memory, just now: goes on when something becomes free again
		r = 0;
	return r;
}

// ---- on request ----

static int discard_for_caller(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	struct fs *fs = ctx;

	return bdev_discard(fs->vol->dev, blk_to_bytes(start_blk), blk_to_bytes(len_blk));
}

static int check_trim(struct fs *fs, const struct fs_trim *t)
{
	if (t->start_bytes >= blk_to_bytes(fs->vol->files.sb.n_blks) || t->len_bytes < BLK_SIZE)
		return -EINVAL;
	if (fs->vol->read_only)
		return -EROFS;
	return fs->vol->dev->can_discard ? volume_refusal(fs->vol) : -EOPNOTSUPP;
}

// A run that is cut into pieces loses the last one if that is too short: so whoever wants only long runs gets them in one piece.
static struct alloc_trim walk_of(struct fs *fs, const struct fs_trim *t)
{
	uint64_t n_blks = fs->vol->files.sb.n_blks, end_bytes;
	struct alloc_trim w = { .all = true, .next_blk = bytes_to_blk_up(t->start_bytes), .end_blk = n_blks };

	if (!__builtin_add_overflow(t->start_bytes, t->len_bytes, &end_bytes))
		w.end_blk = min_u64(n_blks, end_bytes >> BLK_SHIFT);
	w.next_blk = min_u64(w.next_blk, w.end_blk);
	w.min_blk = max_u64(bytes_to_blk_up(t->min_bytes), 1);
	w.max_blk = w.min_blk <= MIN_BLK ? MAX_BLK : UINT32_MAX;
	return w;
}

int fs_trim(struct fs *fs, struct fs_trim *t)
{
	struct alloc_trim w = walk_of(fs, t);
	uint64_t done_blk;
	int r = check_trim(fs, t);

	t->trimmed_bytes = 0;
	if (r == 0 && !fs_reclaim(fs)) // what was deleted before becomes free
		r = -EIO;
	if (w.min_blk > w.max_blk) // no run is that long
		return r;
	while (r == 0 && w.next_blk < w.end_blk) {
		if (t->cancelled != NULL && t->cancelled(t->ctx))
			return -EINTR;
		r = alloc_trim(fs->vol->alloc, &w, discard_for_caller, fs, &done_blk);
		t->trimmed_bytes += blk_to_bytes(done_blk);
	}
	return r == -EAGAIN ? 0 : r; // too full to spare blocks even for a moment: that was all
}

// ---- the thread ----

static void say_why(struct fs *fs, int r)
{
	const char *name = fs->vol->dev->name;

	if (r == -EOPNOTSUPP)
		msg_info("%s: the device does not take discards; freed space is not trimmed", name);
	else if (r != -ECANCELED && r != -EROFS) // asked to end, or the device has stopped, which was said
		msg_warn("%s: discarding freed blocks failed (%s): freed space is not trimmed any more", name, strerrordesc_np(-r));
}

static void *trimmer_main(void *arg)
{
	struct fs *fs = arg;
	struct trimmer *tr = &fs->trimmer;
	int r = 0;

	pthread_setname_np(pthread_self(), "hybridfs-trim");
	pthread_mutex_lock(&tr->lock);
	while (r == 0) {
		while (!tr->freed && !tr->stop)
			pthread_cond_wait(&tr->wake, &tr->lock);
		sleep_locked(tr, tr->delay_ns);
		tr->freed = false;
		if (tr->stop)
			break;
		tr->busy = true;
		pthread_mutex_unlock(&tr->lock);
		r = walk_all(fs);
		if (r != 0) {
			alloc_trim_watch(fs->vol->alloc, NULL, NULL);
			say_why(fs, r);
		}
		pthread_mutex_lock(&tr->lock);
		tr->busy = false;
	}
	tr->freed = false;
	pthread_mutex_unlock(&tr->lock);
	return NULL;
}

// Under the allocator's release lock.
static void something_freed(void *ctx)
{
	struct trimmer *tr = ctx;

	pthread_mutex_lock(&tr->lock);
	if (!tr->freed)
		pthread_cond_signal(&tr->wake);
	tr->freed = true;
	pthread_mutex_unlock(&tr->lock);
}

void trimmer_start(struct fs *fs, unsigned delay_ms)
{
	struct trimmer *tr = &fs->trimmer;
	pthread_condattr_t attr;
	int r;

	if (fs->vol->read_only || !fs->vol->dev->can_discard)
		return;
	pthread_mutex_init(&tr->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&tr->wake, &attr);
	pthread_condattr_destroy(&attr);
	tr->delay_ns = (delay_ms != 0 ? delay_ms : DELAY_MS) * 1000000ull;
	r = pthread_create(&tr->thread, NULL, trimmer_main, fs);
	if (r != 0) {
		msg_warn("%s: no thread for trimming (%s): freed space is not trimmed", fs->vol->dev->name, strerrordesc_np(r));
		pthread_cond_destroy(&tr->wake);
		pthread_mutex_destroy(&tr->lock);
		return;
	}
	tr->started = true;
	alloc_trim_watch(fs->vol->alloc, something_freed, tr);
}

void trimmer_stop(struct fs *fs)
{
	struct trimmer *tr = &fs->trimmer;

	if (!tr->started)
		return;
	alloc_trim_watch(fs->vol->alloc, NULL, NULL);
	pthread_mutex_lock(&tr->lock);
	tr->stop = true;
	pthread_cond_signal(&tr->wake);
	pthread_mutex_unlock(&tr->lock);
	pthread_join(tr->thread, NULL);
	msg_debug("%s: trimmed %llu blocks by %llu discards in %llu ms", fs->vol->dev->name, (unsigned long long)tr->discarded_blk,
	          (unsigned long long)tr->n_discards, (unsigned long long)(tr->device_ns / 1000000));
	pthread_cond_destroy(&tr->wake);
	pthread_mutex_destroy(&tr->lock);
}
