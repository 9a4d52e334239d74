// SPDX-License-Identifier: MIT
// What the tests of the allocator share: a source that remembers what is used, as the store would, with an allocator over it,
// and shorthands that fail the test when a call does not do what it should.
//
// Everything goes through alloc/alloc.h, so that these tests hold for any engine and for any way of building one.
#ifndef HYBRIDFS_TESTS_ALLOCTEST_H
#define HYBRIDFS_TESTS_ALLOCTEST_H

#include <check.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/alloc.h"
#include "run_suite.h"
#include "util/blk.h"
#include "util/log.h"

// The smallest metaslab: 16 MiB. Many tests use a few of these.
#define MS_SHIFT 12u
#define MS_BLK (1u << MS_SHIFT)

// Large volumes: 512 GiB and a stretch. All but the stretch is used and stays so; in its middle meet whatever parts a large
// volume is cut into.
#define LARGE_BLKS (1ull << 27)
#define LARGE_MS_SHIFT 17u

struct disk {
	pthread_mutex_t lock; // the store's
	uint64_t n_blks;
	uint64_t base_blk;    // all blocks before it are used; a multiple of a metaslab's blocks
	uint32_t ms_shift;
	const struct engine_ops *engine; // NULL = the default one
	uint8_t *used;                   // a byte per block from base_blk on, 1 = named by a transaction; under `lock` with threads
	unsigned n_loads;
	int load_error; // of the next loads
	struct alloc *a;
};

static inline void disk_enter(void *ctx) { pthread_mutex_lock(&((struct disk *)ctx)->lock); }
static inline void disk_leave(void *ctx) { pthread_mutex_unlock(&((struct disk *)ctx)->lock); }

// The next block at or behind `blk` whose byte is `used`, or end.
static inline uint64_t disk_next(const struct disk *d, uint64_t blk, uint64_t end, bool used)
{
	const uint8_t *at = memchr(d->used + (blk - d->base_blk), used, end - blk);

	return at != NULL ? d->base_blk + (uint64_t)(at - d->used) : end;
}

static inline int disk_load(void *ctx, uint32_t ms, struct alloc_loader *loader)
{
	struct disk *d = ctx;
	uint64_t start = (uint64_t)ms << d->ms_shift, end = min_u64(start + (1ull << d->ms_shift), d->n_blks), next;
	int err;

	d->n_loads++;
	// Later calls win: say first that all is used, then what is free.
	err = alloc_loader_mark(loader, start, end - start, true);
	for (uint64_t blk = start; blk >= d->base_blk && blk < end && err == 0; blk = next) {
		blk = disk_next(d, blk, end, false);
		next = disk_next(d, blk, end, true);
		if (blk < next)
			err = alloc_loader_mark(loader, blk, next - blk, false);
	}
	return err != 0 ? err : d->load_error;
}

static const struct alloc_source disk_source = { disk_enter, disk_leave, disk_load };

static inline struct disk *disk_new_behind(uint64_t base_blk, uint64_t n_blks, uint32_t ms_shift)
{
	struct disk *d = calloc(1, sizeof(*d));

	pthread_mutex_init(&d->lock, NULL);
	d->n_blks = base_blk + n_blks;
	d->base_blk = base_blk;
	d->ms_shift = ms_shift;
	d->used = calloc(n_blks, 1);
	return d;
}

static inline struct disk *disk_new(uint64_t n_blks, uint32_t ms_shift) { return disk_new_behind(0, n_blks, ms_shift); }

// n_blks in the stretch, half of the metaslabs on each side of its middle.
static inline struct disk *disk_new_large(uint64_t n_blks)
{
	return disk_new_behind(LARGE_BLKS - (n_blks / 2 >> LARGE_MS_SHIFT << LARGE_MS_SHIFT), n_blks, LARGE_MS_SHIFT);
}

static inline void disk_mount(struct disk *d, uint64_t reserve_blk)
{
	uint64_t ms_blk = 1ull << d->ms_shift, n_ms = (d->n_blks + ms_blk - 1) >> d->ms_shift;
	uint64_t *free_blk = calloc(n_ms, sizeof(*free_blk));
	struct alloc_config cfg = { .n_blks = d->n_blks, .ms_shift = d->ms_shift, .reserve_blk = reserve_blk,
	                            .ms_free_blk = free_blk, .source = &disk_source, .source_ctx = d,
	                            .engine = d->engine };

	for (uint64_t blk = d->base_blk; blk < d->n_blks; blk++)
		free_blk[blk >> d->ms_shift] += !d->used[blk - d->base_blk];
	ck_assert_int_eq(alloc_create(&cfg, &d->a), 0);
	free(free_blk);
}

static inline struct disk *disk_mounted(uint64_t n_blks)
{
	struct disk *d = disk_new(n_blks, MS_SHIFT);

	disk_mount(d, 0);
	return d;
}

static inline void disk_free(struct disk *d)
{
	alloc_destroy(d->a);
	pthread_mutex_destroy(&d->lock);
	free(d->used);
	free(d);
}

static inline void disk_check(struct disk *d)
{
	struct errmsg why = { "" };

	ck_assert_msg(alloc_check(d->a, &why) == 0, "%s", why.text);
}

static inline uint64_t disk_free_blks(struct disk *d)
{
	uint64_t free_blk, freeing_blk;

	alloc_get_free(d->a, &free_blk, &freeing_blk);
	return free_blk;
}

static inline unsigned disk_n_loaded(struct disk *d)
{
	struct alloc_stats st;

	alloc_get_stats(d->a, &st);
	return st.n_loaded;
}

static inline int disk_get(struct disk *d, struct alloc_stream *s, uint64_t goal, uint64_t want, unsigned flags,
                           struct runlist *out)
{
	struct alloc_req req = { .goal_blk = goal, .want_blk = want, .flags = flags, .locality = 1 };

	return alloc_get(d->a, s, &req, out);
}

// One run of exactly want blocks; its start.
static inline uint64_t disk_get_one(struct disk *d, struct alloc_stream *s, uint64_t goal, uint64_t want)
{
	struct runlist out = { 0 };
	uint64_t start;

	ck_assert_int_eq(disk_get(d, s, goal, want, 0, &out), 0);
	ck_assert_uint_eq(out.n, 1);
	ck_assert_uint_eq(out.runs[0].len_blk, want);
	start = out.runs[0].start_blk;
	runlist_free(&out);
	return start;
}

static inline void disk_own(struct disk *d, uint64_t start, uint64_t len)
{
	ck_assert_int_eq(alloc_commit(d->a, start, len), 0);
	memset(d->used + (start - d->base_blk), 1, len);
}

static inline void disk_disown(struct disk *d, uint64_t start, uint64_t len, uint64_t epoch)
{
	ck_assert_int_eq(alloc_free(d->a, start, len, epoch), 0);
	memset(d->used + (start - d->base_blk), 0, len);
}

// A put, commit or free that must be refused, with nothing broken by it.
static inline void disk_refused(struct disk *d, int err)
{
	ck_assert_int_eq(err, -EINVAL);
	disk_check(d);
}

static inline int alloctest_add_run(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	return runlist_add(ctx, start_blk, len_blk);
}

// The free runs of the whole volume, by address. Gives windows and pools back.
static inline void disk_free_runs(struct disk *d, struct runlist *out)
{
	runlist_clear(out);
	ck_assert_int_eq(alloc_walk_free(d->a, alloctest_add_run, out), 0);
}

// ---- random sequences ----

static inline uint64_t alloctest_env(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text != NULL ? strtoull(text, NULL, 0) : otherwise;
}

static inline uint64_t alloctest_rnd(uint64_t *state) // xorshift64*
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * 0x2545f4914f6cdd1dull >> 16;
}

static inline uint64_t alloctest_seed(uint64_t seed) // never 0
{
	return (seed * 0x9e3779b97f4a7c15ull ^ 0x5851f42d4c957f2dull) | 1;
}

// ---- the end of each program ----

static inline int alloctest_run(const char *prog, Suite *suite)
{
	msg_open(prog, MSG_TO_NOWHERE, MSG_ERROR); // refused frees are meant here
	return run_suite(suite);
}

#endif
