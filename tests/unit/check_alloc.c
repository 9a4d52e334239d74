// SPDX-License-Identifier: MIT
// The allocator's promises, one test each; then a model test against a naive map of states, and two threads at once.
//
// The model test prints its seed when it fails; ALLOC_SEED=n runs that seed only, ALLOC_OPS=n changes the length.
#include <check.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/alloc.h"
#include "util/blk.h"
#include "util/log.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MODEL_OPS 40000u // for each of MODEL_SEEDS
#else
#define MODEL_OPS 200000u
#endif
#define MODEL_SEEDS 5

#define MS_SHIFT 12u
#define MS_BLK (1u << MS_SHIFT)

// ---- a source that remembers what is used, as the store would ----

struct disk {
	pthread_mutex_t lock;
	uint64_t n_blks;
	uint32_t ms_shift;
	uint8_t *used; // a byte per block
	unsigned n_loads;
	int load_error;
	struct alloc *a;
};

static void disk_enter(void *ctx) { pthread_mutex_lock(&((struct disk *)ctx)->lock); }
static void disk_leave(void *ctx) { pthread_mutex_unlock(&((struct disk *)ctx)->lock); }

static int disk_load(void *ctx, uint32_t ms, struct alloc_loader *loader)
{
	struct disk *d = ctx;
	uint64_t start = (uint64_t)ms << d->ms_shift, end = min_u64(start + (1ull << d->ms_shift), d->n_blks);
	int err = 0;

	d->n_loads++;
	// Later calls win: say first that all is used, then what is free.
	err = alloc_loader_mark(loader, start, end - start, true);
	for (uint64_t blk = start; blk < end && err == 0; blk++)
		if (!d->used[blk])
			err = alloc_loader_mark(loader, blk, 1, false);
	return err != 0 ? err : d->load_error;
}

static const struct alloc_source disk_source = { disk_enter, disk_leave, disk_load };

static struct disk *disk_new(uint64_t n_blks, uint32_t ms_shift)
{
	struct disk *d = calloc(1, sizeof(*d));

	pthread_mutex_init(&d->lock, NULL);
	d->n_blks = n_blks;
	d->ms_shift = ms_shift;
	d->used = calloc(n_blks, 1);
	return d;
}

static void disk_mount(struct disk *d, uint64_t reserve_blk)
{
	uint64_t ms_blk = 1ull << d->ms_shift, n_ms = (d->n_blks + ms_blk - 1) >> d->ms_shift;
	uint64_t *free_blk = calloc(n_ms, sizeof(*free_blk));
	struct alloc_config cfg = { .n_blks = d->n_blks, .ms_shift = d->ms_shift, .reserve_blk = reserve_blk,
	                            .ms_free_blk = free_blk, .source = &disk_source, .source_ctx = d };

	for (uint64_t blk = 0; blk < d->n_blks; blk++)
		free_blk[blk >> d->ms_shift] += !d->used[blk];
	ck_assert_int_eq(alloc_create(&cfg, &d->a), 0);
	free(free_blk);
}

static struct disk *disk_mounted(uint64_t n_blks)
{
	struct disk *d = disk_new(n_blks, MS_SHIFT);

	disk_mount(d, 0);
	return d;
}

static void disk_free(struct disk *d)
{
	alloc_destroy(d->a);
	pthread_mutex_destroy(&d->lock);
	free(d->used);
	free(d);
}

static void check(struct disk *d)
{
	struct errmsg why = { "" };

	ck_assert_msg(alloc_check(d->a, &why) == 0, "%s", why.text);
}

static uint64_t free_blks(struct disk *d)
{
	struct alloc_stats st;

	alloc_get_stats(d->a, &st);
	return st.free_blk;
}

static unsigned n_loaded(struct disk *d)
{
	struct alloc_stats st;

	alloc_get_stats(d->a, &st);
	return st.n_loaded;
}

static int get(struct disk *d, struct alloc_stream *s, uint64_t goal, uint64_t want, unsigned flags, struct runlist *out)
{
	struct alloc_req req = { .goal_blk = goal, .want_blk = want, .flags = flags, .locality = 1 };

	return alloc_get(d->a, s, &req, out);
}

// One run of exactly want blocks; its start.
static uint64_t get_one(struct disk *d, struct alloc_stream *s, uint64_t goal, uint64_t want)
{
	struct runlist out = { 0 };
	uint64_t start;

	ck_assert_int_eq(get(d, s, goal, want, 0, &out), 0);
	ck_assert_uint_eq(out.n, 1);
	ck_assert_uint_eq(out.runs[0].len_blk, want);
	start = out.runs[0].start_blk;
	runlist_free(&out);
	return start;
}

static void own(struct disk *d, uint64_t start, uint64_t len)
{
	ck_assert_int_eq(alloc_commit(d->a, start, len), 0);
	memset(d->used + start, 1, len);
}

static void disown(struct disk *d, uint64_t start, uint64_t len, uint64_t epoch)
{
	ck_assert_int_eq(alloc_free(d->a, start, len, epoch), 0);
	memset(d->used + start, 0, len);
}

// ---- promises ----

START_TEST(exact_sizes)
{
	struct disk *d = disk_mounted(8 * MS_BLK);
	static const uint64_t sizes[] = { 1, 2, 15, 16, 17, 63, 64, 65, 255, 256, 257, 589, 1023, 1024, 1025, 4096 };
	uint64_t left = 8 * MS_BLK;

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		get_one(d, NULL, 0, sizes[i]);
		left -= sizes[i];
		ck_assert_uint_eq(free_blks(d), left);
		check(d);
	}
	disk_free(d);
}
END_TEST

START_TEST(refuses_nonsense)
{
	struct disk *d = disk_mounted(MS_BLK);
	struct runlist out = { 0 };
	struct alloc_config cfg = { .n_blks = 100, .ms_shift = 11 };
	struct alloc *a;

	ck_assert_int_eq(get(d, NULL, 0, 0, 0, &out), -EINVAL);
	ck_assert_int_eq(get(d, NULL, 0, ALLOC_MAX_RUN_BLK + 1ull, 0, &out), -EINVAL);
	ck_assert_int_eq(get(d, NULL, 0, MS_BLK + 1, 0, &out), -ENOSPC);
	ck_assert_uint_eq(out.n, 0);
	ck_assert_uint_eq(free_blks(d), MS_BLK);
	ck_assert_int_eq(alloc_create(&cfg, &a), -EINVAL);
	get_one(d, NULL, 1ull << 60, 5); // a goal outside is no goal
	check(d);
	disk_free(d);
}
END_TEST

START_TEST(goal_is_extended)
{
	struct disk *d = disk_mounted(4 * MS_BLK);
	uint64_t first = get_one(d, NULL, 2000, 100);

	ck_assert_uint_eq(first, 2000);
	ck_assert_uint_eq(get_one(d, NULL, 2100, 300), 2100);
	ck_assert_uint_eq(get_one(d, NULL, 2400, 1), 2400);
	ck_assert_uint_ne(get_one(d, NULL, 2100, 1), 2100); // taken
	check(d);
	disk_free(d);
}
END_TEST

START_TEST(goal_is_extended_as_far_as_it_goes)
{
	struct disk *d = disk_mounted(4 * MS_BLK);
	struct runlist out = { 0 };

	ck_assert_uint_eq(get_one(d, NULL, 1000, 10), 1000);
	ck_assert_uint_eq(get_one(d, NULL, 1040, 10), 1040);
	ck_assert_int_eq(get(d, NULL, 1010, 100, ALLOC_CONTIG, &out), 0); // not there, then
	ck_assert_uint_eq(out.n, 1);
	ck_assert_uint_ne(out.runs[0].start_blk, 1010);
	runlist_clear(&out);
	ck_assert_int_eq(get(d, NULL, 1010, 100, 0, &out), 0);
	ck_assert_uint_eq(out.n, 2);
	ck_assert_uint_eq(out.runs[0].start_blk, 1010);
	ck_assert_uint_eq(out.runs[0].len_blk, 30);
	ck_assert_uint_eq(out.runs[1].len_blk, 70);
	runlist_free(&out);
	check(d);
	disk_free(d);
}
END_TEST

// Every second block used: the hardest case for anything that wants runs.
static struct disk *disk_combed(uint64_t n_blks)
{
	struct disk *d = disk_new(n_blks, MS_SHIFT);

	for (uint64_t blk = 0; blk < n_blks; blk += 2)
		d->used[blk] = 1;
	disk_mount(d, 0);
	return d;
}

START_TEST(splits_when_it_must)
{
	struct disk *d = disk_combed(2 * MS_BLK);
	struct runlist out = { 0 };

	ck_assert_int_eq(get(d, NULL, 0, 2, ALLOC_CONTIG, &out), -ENOSPC);
	ck_assert_uint_eq(out.n, 0);
	ck_assert_uint_eq(free_blks(d), MS_BLK);
	ck_assert_int_eq(get(d, NULL, 0, MS_BLK, 0, &out), 0);
	ck_assert_uint_eq(runlist_blks(&out), MS_BLK);
	ck_assert_uint_eq(out.n, MS_BLK);
	for (uint32_t i = 0; i < out.n; i++)
		ck_assert_uint_eq(out.runs[i].start_blk % 2, 1);
	ck_assert_uint_eq(free_blks(d), 0);
	check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(largest_pieces_first)
{
	struct disk *d = disk_new(MS_BLK, MS_SHIFT);
	struct runlist out = { 0 };

	memset(d->used, 1, MS_BLK);
	memset(d->used + 100, 0, 10);
	memset(d->used + 700, 0, 500);
	memset(d->used + 2000, 0, 40);
	memset(d->used + 3000, 0, 41);
	disk_mount(d, 0);
	ck_assert_int_eq(get(d, NULL, 0, 540, 0, &out), 0);
	ck_assert_uint_eq(out.n, 2);
	ck_assert_uint_eq(out.runs[0].start_blk, 700);
	ck_assert_uint_eq(out.runs[0].len_blk, 500);
	ck_assert_uint_eq(out.runs[1].start_blk, 2000); // best fit for the rest
	ck_assert_uint_eq(out.runs[1].len_blk, 40);
	check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

// A whole volume in one request crosses metaslabs; a run for ALLOC_CONTIG does not.
START_TEST(crosses_metaslabs)
{
	struct disk *d = disk_mounted(5 * MS_BLK + 77);
	struct runlist out = { 0 };

	ck_assert_int_eq(get(d, NULL, 0, MS_BLK + 1, ALLOC_CONTIG, &out), -ENOSPC);
	ck_assert_int_eq(get(d, NULL, 0, 5 * MS_BLK + 77, 0, &out), 0);
	ck_assert_uint_eq(runlist_blks(&out), 5 * MS_BLK + 77);
	ck_assert_uint_eq(free_blks(d), 0);
	runlist_sort(&out);
	ck_assert_uint_eq(out.n, 1);
	ck_assert_int_eq(alloc_commit(d->a, 0, 5 * MS_BLK + 77), 0);
	ck_assert_int_eq(alloc_free(d->a, 0, 5 * MS_BLK + 77, 1), 0);
	check(d);
	alloc_release(d->a, 1);
	ck_assert_uint_eq(free_blks(d), 5 * MS_BLK + 77);
	check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(partial_gives_what_there_is)
{
	struct disk *d = disk_mounted(MS_BLK);
	struct runlist out = { 0 };

	get_one(d, NULL, 100, 3900);
	ck_assert_int_eq(get(d, NULL, 0, 1000, ALLOC_PARTIAL | ALLOC_CONTIG, &out), 0);
	ck_assert_uint_eq(out.n, 1);
	ck_assert_uint_eq(out.runs[0].len_blk, 100); // [0, 100) is longer than [4000, 4096)
	ck_assert_uint_eq(free_blks(d), MS_BLK - 4000);
	ck_assert_int_eq(get(d, NULL, 0, 1000, ALLOC_PARTIAL, &out), 0);
	ck_assert_uint_eq(runlist_blks(&out), MS_BLK - 3900);
	ck_assert_int_eq(get(d, NULL, 0, 1000, ALLOC_PARTIAL, &out), -ENOSPC);
	check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(reserve_is_kept)
{
	struct disk *d = disk_new(MS_BLK, MS_SHIFT);
	struct runlist out = { 0 };

	disk_mount(d, 96);
	ck_assert_int_eq(get(d, NULL, 0, 4001, 0, &out), -ENOSPC);
	ck_assert_int_eq(get(d, NULL, 0, 4000, 0, &out), 0);
	ck_assert_int_eq(get(d, NULL, 0, 1, ALLOC_PARTIAL, &out), -ENOSPC);
	ck_assert_int_eq(get(d, NULL, 0, 97, ALLOC_USE_RESERVE, &out), -ENOSPC);
	ck_assert_int_eq(get(d, NULL, 0, 96, ALLOC_USE_RESERVE, &out), 0);
	ck_assert_uint_eq(free_blks(d), 0);
	check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(appends_and_undoes)
{
	struct disk *d = disk_mounted(MS_BLK);
	struct runlist out = { 0 };
	struct run before;

	ck_assert_int_eq(get(d, NULL, 0, 100, 0, &out), 0);
	before = out.runs[out.n - 1];
	ck_assert_int_eq(get(d, NULL, before.start_blk + before.len_blk, 4000, ALLOC_CONTIG, &out), -ENOSPC);
	ck_assert_uint_eq(out.n, 1);
	ck_assert_uint_eq(out.runs[0].len_blk, before.len_blk);
	ck_assert_uint_eq(free_blks(d), MS_BLK - 100);
	check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(life_of_a_block)
{
	struct disk *d = disk_mounted(MS_BLK);
	struct runlist out = { 0 };
	uint64_t x;

	x = get_one(d, NULL, 50, 10);
	ck_assert_int_eq(alloc_put(d->a, x, 10), 0);
	ck_assert_uint_eq(free_blks(d), MS_BLK);
	x = get_one(d, NULL, 0, MS_BLK);
	own(d, x, MS_BLK);
	disown(d, 0, 100, 7);
	disown(d, 100, 100, 8);
	ck_assert_uint_eq(free_blks(d), 0);
	ck_assert_int_eq(get(d, NULL, 0, 1, 0, &out), -ENOSPC);
	check(d);
	alloc_release(d->a, 6);
	ck_assert_uint_eq(free_blks(d), 0);
	alloc_release(d->a, 7);
	ck_assert_uint_eq(free_blks(d), 100);
	check(d);
	ck_assert_int_eq(get(d, NULL, 0, 101, 0, &out), -ENOSPC);
	ck_assert_uint_eq(get_one(d, NULL, 0, 100), 0);
	alloc_release(d->a, 100);
	ck_assert_uint_eq(get_one(d, NULL, 0, 100), 100);
	check(d);
	disk_free(d);
}
END_TEST

static void refused(struct disk *d, int err)
{
	ck_assert_int_eq(err, -EINVAL);
	check(d);
}

START_TEST(bad_frees_change_nothing)
{
	struct disk *d = disk_mounted(3 * MS_BLK);
	struct alloc_stats before, after;
	uint64_t end = 3 * MS_BLK;

	own(d, get_one(d, NULL, 1000, 500), 500);
	own(d, get_one(d, NULL, MS_BLK - 100, 100), 100);
	disown(d, 1100, 10, 1);
	get_one(d, NULL, 2000, 50);
	alloc_get_stats(d->a, &before);
	refused(d, alloc_free(d->a, 900, 200, 1));                // begins free
	refused(d, alloc_free(d->a, 1499, 2, 1));                 // ends free
	refused(d, alloc_free(d->a, 1109, 5, 2));                 // FREEING already
	refused(d, alloc_free(d->a, 1000, 0, 1));
	refused(d, alloc_free(d->a, end - 1, 2, 1));
	refused(d, alloc_free(d->a, UINT64_MAX, 2, 1));
	refused(d, alloc_free(d->a, 5, UINT64_MAX, 1));
	refused(d, alloc_free(d->a, MS_BLK - 100, 101, 1));       // the second metaslab's part is free
	refused(d, alloc_put(d->a, 1100, 10));
	refused(d, alloc_put(d->a, 2000, 51));
	refused(d, alloc_put(d->a, 1200, 60));                    // more than was handed out
	refused(d, alloc_commit(d->a, 2040, 20));
	refused(d, alloc_commit(d->a, 2 * MS_BLK, 1));            // not even loaded
	alloc_get_stats(d->a, &after);
	ck_assert_mem_eq(&before.free_blk, &after.free_blk, sizeof(before.free_blk));
	ck_assert_uint_eq(before.freeing_blk, after.freeing_blk);
	disown(d, 1000, 100, 1);
	disown(d, 1110, 390, 2);
	alloc_release(d->a, 2);
	ck_assert_uint_eq(free_blks(d), end - 150);
	check(d);
	disk_free(d);
}
END_TEST

START_TEST(windows_are_not_owned)
{
	struct disk *d = disk_mounted(4 * MS_BLK);
	struct alloc_stream s;
	uint64_t x;

	alloc_stream_init(&s);
	x = get_one(d, &s, 0, 256);
	own(d, x, 256);
	ck_assert_uint_gt(s.window.len_blk, 0);
	refused(d, alloc_free(d->a, s.window.start_blk, 1, 1));
	refused(d, alloc_put(d->a, s.window.start_blk, 1));
	ck_assert_uint_eq(free_blks(d), 4 * MS_BLK - 256);
	alloc_stream_end(&s);
	check(d);
	disk_free(d);
}
END_TEST

// ---- loading ----

START_TEST(loads_what_the_source_says)
{
	struct disk *d = disk_new(6 * MS_BLK, MS_SHIFT);
	struct runlist out = { 0 };
	uint64_t n_free = 0;

	srand(5);
	for (uint64_t blk = 0; blk < d->n_blks; blk++)
		d->used[blk] = rand() % 5 < 2 || blk / 1000 % 2;
	for (uint64_t blk = 0; blk < d->n_blks; blk++)
		n_free += !d->used[blk];
	disk_mount(d, 0);
	ck_assert_uint_eq(n_loaded(d), 0);
	ck_assert_uint_eq(free_blks(d), n_free);
	ck_assert_uint_eq(get_one(d, NULL, 0, 3) > 0, 1);
	ck_assert_uint_eq(n_loaded(d), 1);
	ck_assert_int_eq(get(d, NULL, 0, n_free - 3, 0, &out), 0);
	for (uint32_t i = 0; i < out.n; i++)
		for (uint64_t k = 0; k < out.runs[i].len_blk; k++)
			ck_assert_uint_eq(d->used[out.runs[i].start_blk + k]++, 0);
	ck_assert_uint_eq(d->n_loads, 6);
	check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(unload_keeps_freeing_blocks_back)
{
	struct disk *d = disk_mounted(MS_BLK);
	struct runlist out = { 0 };

	own(d, get_one(d, NULL, 0, MS_BLK), MS_BLK);
	disown(d, 10, 100, 1);
	alloc_shrink(d->a, 0);
	ck_assert_uint_eq(n_loaded(d), 0);
	disown(d, 200, 50, 1);
	refused(d, alloc_free(d->a, 249, 1, 2)); // seen though it is not loaded
	disown(d, 300, 20, 2);
	alloc_release(d->a, 1);
	ck_assert_uint_eq(free_blks(d), 150);
	check(d);
	// The source has [300, 320) free already; it is FREEING and must not be handed out.
	ck_assert_int_eq(get(d, NULL, 300, 150, 0, &out), 0);
	ck_assert_uint_eq(n_loaded(d), 1);
	runlist_sort(&out);
	ck_assert_uint_eq(out.n, 2);
	ck_assert_uint_eq(out.runs[0].start_blk, 10);
	ck_assert_uint_eq(out.runs[0].len_blk, 100);
	ck_assert_uint_eq(out.runs[1].start_blk, 200);
	ck_assert_int_eq(get(d, NULL, 0, 1, 0, &out), -ENOSPC);
	alloc_release(d->a, 2);
	ck_assert_uint_eq(get_one(d, NULL, 0, 20), 300);
	check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(taken_blocks_keep_it_loaded)
{
	struct disk *d = disk_mounted(2 * MS_BLK);
	struct alloc_stream s;
	uint64_t x;

	alloc_stream_init(&s);
	x = get_one(d, &s, 0, 300);
	alloc_shrink(d->a, 0);
	ck_assert_uint_eq(s.window.len_blk, 0);
	ck_assert_uint_eq(n_loaded(d), 1);
	own(d, x, 300);
	alloc_shrink(d->a, 0);
	ck_assert_uint_eq(n_loaded(d), 0);
	ck_assert_uint_eq(alloc_largest_run(d->a, 0), 0);
	ck_assert_uint_eq(get_one(d, &s, 0, 10), x + 300); // the stream goes on where it was
	ck_assert_uint_ge(alloc_largest_run(d->a, 0), MS_BLK / 2);
	alloc_stream_end(&s);
	check(d);
	disk_free(d);
}
END_TEST

START_TEST(load_errors_come_back)
{
	struct disk *d = disk_mounted(2 * MS_BLK);
	struct runlist out = { 0 };

	d->load_error = -EIO;
	ck_assert_int_eq(get(d, NULL, 0, 1, 0, &out), -EIO);
	d->load_error = 0;
	d->used[17] = d->used[MS_BLK + 17] = 1; // not what the records say
	ck_assert_int_eq(get(d, NULL, 0, 1, 0, &out), -EUCLEAN);
	d->used[17] = d->used[MS_BLK + 17] = 0;
	ck_assert_uint_eq(free_blks(d), 2 * MS_BLK);
	get_one(d, NULL, 0, 1);
	check(d);
	disk_free(d);
}
END_TEST

static int load_outside(void *ctx ATTR_UNUSED, uint32_t ms ATTR_UNUSED, struct alloc_loader *loader)
{
	ck_assert_int_eq(alloc_loader_mark(loader, MS_BLK - 1, 2, true), -EUCLEAN);
	ck_assert_int_eq(alloc_loader_mark(loader, UINT64_MAX - 1, 4, true), -EUCLEAN);
	ck_assert_int_eq(alloc_loader_mark(loader, 0, 0, true), -EUCLEAN);
	return alloc_loader_mark(loader, 2 * MS_BLK, 1, true);
}

START_TEST(marks_outside_are_refused)
{
	static const struct alloc_source source = { disk_enter, disk_leave, load_outside };
	struct disk *d = disk_new(MS_BLK, MS_SHIFT);
	uint64_t free_blk = MS_BLK, too_many = MS_BLK + 1;
	struct alloc_config cfg = { .n_blks = MS_BLK, .ms_shift = MS_SHIFT, .ms_free_blk = &free_blk,
	                            .source = &source, .source_ctx = d };
	struct runlist out = { 0 };

	ck_assert_int_eq(alloc_create(&cfg, &d->a), 0);
	ck_assert_int_eq(get(d, NULL, 0, 1, 0, &out), -EUCLEAN);
	alloc_destroy(d->a);
	d->a = NULL;
	cfg.ms_free_blk = &too_many;
	ck_assert_int_eq(alloc_create(&cfg, &d->a), -EUCLEAN);
	disk_free(d);
}
END_TEST

START_TEST(memory_follows_use)
{
	uint64_t n_ms = 4096, *free_blk = calloc(n_ms, sizeof(*free_blk));
	struct disk *d = calloc(1, sizeof(*d));
	struct alloc_config cfg = { .n_blks = n_ms << 18, .ms_shift = 18, .ms_free_blk = free_blk,
	                            .source = &disk_source, .source_ctx = d };
	struct alloc_stats st;

	// 4 TiB; only the first metaslab has anything free.
	pthread_mutex_init(&d->lock, NULL);
	d->n_blks = 1 << 18;
	d->ms_shift = 18;
	d->used = calloc(d->n_blks, 1);
	free_blk[0] = 1 << 18;
	ck_assert_int_eq(alloc_create(&cfg, &d->a), 0);
	get_one(d, NULL, 0, 1000);
	alloc_get_stats(d->a, &st);
	ck_assert_uint_eq(st.n_loaded, 1);
	ck_assert_uint_lt(st.memory_bytes, 4 << 20);
	check(d);
	free(free_blk);
	disk_free(d);
}
END_TEST

// ---- keeping together what belongs together ----

// Two streams written in turn, then four. Extents longer than a window show that streams grow in place: nobody was put
// right behind another's window.
START_TEST(streams_get_long_extents)
{
	static const uint64_t pieces[] = { 1, 16, 32, 256 };
	uint64_t want = pieces[_i / 2], blks = 0, extents = 0;
	unsigned n_streams = _i % 2 == 0 ? 2 : 4, least = _i % 2 == 0 ? 2048 : 1536;
	struct disk *d = disk_new(1 << 19, 18);
	struct alloc_stream s[4];
	struct runlist out[4] = { { 0 } };
	uint64_t end[4] = { 0 };

	disk_mount(d, 0);
	for (unsigned i = 0; i < n_streams; i++)
		alloc_stream_init(&s[i]);
	for (uint64_t done = 0; done < 160000; done += want * n_streams) {
		for (unsigned i = 0; i < n_streams; i++) {
			ck_assert_int_eq(get(d, &s[i], end[i], want, 0, &out[i]), 0);
			end[i] = out[i].runs[out[i].n - 1].start_blk + out[i].runs[out[i].n - 1].len_blk;
		}
	}
	check(d);
	for (unsigned i = 0; i < n_streams; i++) {
		blks += runlist_blks(&out[i]);
		extents += out[i].n;
		alloc_stream_end(&s[i]);
		runlist_free(&out[i]);
	}
	ck_assert_msg(blks / extents >= least, "%" PRIu64 " extents for %" PRIu64 " blocks in pieces of %" PRIu64,
	              extents, blks, want);
	check(d);
	disk_free(d);
}
END_TEST

START_TEST(small_files_lie_together)
{
	struct disk *d = disk_new(1 << 16, 14);
	uint64_t lo[2] = { UINT64_MAX, UINT64_MAX }, hi[2] = { 0, 0 };
	struct runlist out = { 0 };

	disk_mount(d, 0);
	// Two directories filled in turn, 400 files of 1 to 8 blocks each.
	for (unsigned i = 0; i < 800; i++) {
		struct alloc_stream s;
		struct alloc_req req = { .want_blk = 1 + i / 2 % 8, .locality = 1000 + i % 2 };

		alloc_stream_init(&s);
		runlist_clear(&out);
		ck_assert_int_eq(alloc_get(d->a, &s, &req, &out), 0);
		ck_assert_uint_eq(out.n, 1);
		lo[i % 2] = min_u64(lo[i % 2], out.runs[0].start_blk);
		hi[i % 2] = max_u64(hi[i % 2], out.runs[0].start_blk + out.runs[0].len_blk);
		alloc_stream_end(&s);
	}
	// 1800 blocks each; both together need not take more than these and a few slabs.
	for (int dir = 0; dir < 2; dir++)
		ck_assert_uint_lt(hi[dir] - lo[dir], 2 * 1800 + 4 * 256);
	check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(small_files_leave_large_runs_whole)
{
	struct disk *d = disk_mounted(MS_BLK);
	struct runlist out = { 0 };

	// A small file and a large one in turn: the small ones all come from the far end.
	for (unsigned i = 0; i < 5; i++) {
		get_one(d, NULL, 0, 1);
		get_one(d, NULL, 0, 300);
	}
	ck_assert_uint_ge(alloc_largest_run(d->a, 0), MS_BLK - 5 * 300 - 512);
	check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(small_first_write_takes_no_window)
{
	struct disk *d = disk_mounted(4 * MS_BLK);
	struct alloc_stream s;
	uint64_t x;

	alloc_stream_init(&s);
	x = get_one(d, &s, 0, 20);
	ck_assert_uint_eq(s.window.len_blk, 0);
	ck_assert_uint_eq(get_one(d, &s, x + 20, 20), x + 20);
	ck_assert_uint_ge(s.window.len_blk, 16);
	ck_assert_uint_eq(s.window.start_blk, x + 40);
	alloc_stream_end(&s);
	ck_assert_uint_eq(get_one(d, NULL, x + 40, 1), x + 40);
	check(d);
	disk_free(d);
}
END_TEST

START_TEST(window_moves_with_the_goal)
{
	struct disk *d = disk_mounted(4 * MS_BLK);
	struct alloc_stream s;
	uint64_t x, w;

	alloc_stream_init(&s);
	x = get_one(d, &s, 0, 256);
	w = s.window.start_blk;
	ck_assert_uint_eq(w, x + 256);
	ck_assert_uint_eq(get_one(d, &s, w + 10, 5), w + 10); // inside the window: what lies before goes back
	check(d);
	ck_assert_uint_eq(get_one(d, NULL, w, 10), w);
	ck_assert_uint_eq(get_one(d, &s, 1, 5), 1);           // elsewhere: the window goes back
	ck_assert_uint_eq(get_one(d, NULL, w + 15, 10), w + 15);
	alloc_stream_end(&s);
	check(d);
	disk_free(d);
}
END_TEST

START_TEST(windows_are_taken_back_when_short)
{
	struct disk *d = disk_mounted(4 * MS_BLK);
	struct alloc_stream s[6];
	struct runlist out = { 0 };
	uint64_t held = 0;

	for (int i = 0; i < 6; i++) {
		alloc_stream_init(&s[i]);
		get_one(d, &s[i], 0, 256);
		held += s[i].window.len_blk;
	}
	ck_assert_uint_gt(held, 0);
	ck_assert_uint_eq(free_blks(d), 4 * MS_BLK - 6 * 256);
	ck_assert_int_eq(get(d, NULL, 0, 4 * MS_BLK - 6 * 256, 0, &out), 0);
	ck_assert_uint_eq(free_blks(d), 0);
	for (int i = 0; i < 6; i++)
		ck_assert_uint_eq(s[i].window.len_blk, 0);
	ck_assert_int_eq(get(d, &s[0], 0, 1, 0, &out), -ENOSPC);
	for (int i = 0; i < 6; i++)
		alloc_stream_end(&s[i]);
	check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(contig_takes_windows_back)
{
	struct disk *d = disk_mounted(MS_BLK);
	struct alloc_stream s;
	struct runlist out = { 0 };

	alloc_stream_init(&s);
	get_one(d, &s, 0, 1024);
	ck_assert_uint_gt(s.window.len_blk, 0);
	ck_assert_int_eq(get(d, NULL, 0, MS_BLK - 1024, ALLOC_CONTIG, &out), 0);
	alloc_stream_end(&s);
	check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(every_last_block_can_be_had)
{
	static const uint64_t sizes[] = { 1, 3, 16, 100, 255, 700 };
	struct disk *d = disk_mounted(3 * MS_BLK + 1000);
	struct alloc_stream s;
	struct runlist out = { 0 };
	uint64_t want = sizes[_i], left = 3 * MS_BLK + 1000;
	int err = 0;

	alloc_stream_init(&s);
	while (left >= want) {
		ck_assert_int_eq(get(d, left % 2 ? &s : NULL, 0, want, 0, &out), 0);
		left -= want;
	}
	ck_assert_int_eq(get(d, NULL, 0, want, 0, &out), -ENOSPC);
	for (; left > 0; left--)
		err |= get(d, NULL, 0, 1, 0, &out);
	ck_assert_int_eq(err, 0);
	ck_assert_int_eq(get(d, NULL, 0, 1, 0, &out), -ENOSPC);
	runlist_sort(&out);
	ck_assert_uint_eq(out.n, 1); // no block twice, none missing
	ck_assert_uint_eq(out.runs[0].len_blk, 3 * MS_BLK + 1000);
	alloc_stream_end(&s);
	check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

// The shortest run that fits is used, in all three ranges of sizes.
START_TEST(best_fit)
{
	static const uint64_t holes[] = { 5, 9, 40, 41, 200, 300, 302, 900 };
	struct disk *d = disk_new(4 * MS_BLK, 14); // so little of it free that nothing is set apart in words
	uint64_t at = 10, start[ARRAY_LEN(holes)];
	struct runlist out = { 0 };

	memset(d->used, 1, 4 * MS_BLK);
	for (size_t i = 0; i < ARRAY_LEN(holes); i++) {
		start[i] = at;
		memset(d->used + at, 0, holes[i]);
		at += holes[i] + 3;
	}
	disk_mount(d, 0);
	for (size_t i = 0; i < ARRAY_LEN(holes); i++)
		ck_assert_uint_eq(get_one(d, NULL, 0, holes[i]), start[i]);
	ck_assert_uint_eq(free_blks(d), 0);
	check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

// The one run that is long enough is the last in a bin of shorter ones, behind more than a search looks at.
START_TEST(contig_finds_the_only_run)
{
	struct disk *d = disk_new(4 * MS_BLK, 14);
	struct runlist out = { 0 };

	memset(d->used, 1, 4 * MS_BLK);
	memset(d->used + 1, 0, 327);
	for (unsigned i = 0; i < 12; i++)
		memset(d->used + 1000 + i * 600, 0, 320);
	disk_mount(d, 0);
	ck_assert_int_eq(get(d, NULL, 0, 328, ALLOC_CONTIG, &out), -ENOSPC);
	ck_assert_int_eq(get(d, NULL, 0, 325, ALLOC_CONTIG, &out), 0);
	ck_assert_uint_eq(out.runs[0].start_blk, 1);
	check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

// ---- against a model ----

enum state { FREE, TAKEN, OWNED, FREEING };

struct piece {
	struct run r;
	enum state state; // TAKEN or OWNED
};

struct model {
	struct disk *d;
	uint8_t *state;
	uint64_t *epoch_of; // of FREEING blocks
	uint64_t n_free, epoch, durable;
	struct piece *pieces;
	size_t n_pieces, cap;
	struct alloc_stream streams[8];
	uint64_t rng;
};

static uint64_t rnd(struct model *m)
{
	m->rng ^= m->rng << 13;
	m->rng ^= m->rng >> 7;
	m->rng ^= m->rng << 17;
	return m->rng * 0x2545f4914f6cdd1dull >> 16;
}

static void move(struct model *m, struct run r, enum state from, enum state to)
{
	for (uint64_t blk = r.start_blk; blk < r.start_blk + r.len_blk; blk++) {
		if (m->state[blk] != from)
			ck_abort_msg("block %" PRIu64 " is in state %u, not %u", blk, m->state[blk], from);
		m->state[blk] = (uint8_t)to;
		m->epoch_of[blk] = m->epoch;
		m->d->used[blk] = to == OWNED;
	}
}

static void add_piece(struct model *m, struct run r)
{
	if (m->n_pieces == m->cap) {
		m->cap = m->cap * 2 + 64;
		m->pieces = reallocarray(m->pieces, m->cap, sizeof(*m->pieces));
	}
	m->pieces[m->n_pieces++] = (struct piece){ r, TAKEN };
}

static uint64_t longest_free(const struct model *m)
{
	uint64_t best = 0, len = 0;

	for (uint64_t blk = 0; blk < m->d->n_blks; blk++) {
		len = m->state[blk] == FREE && blk % (1ull << m->d->ms_shift) != 0 ? len + 1 : m->state[blk] == FREE;
		best = max_u64(best, len);
	}
	return best;
}

static uint64_t random_size(struct model *m)
{
	unsigned kind = rnd(m) % 16;

	return kind < 9 ? 1 + rnd(m) % 4 : kind < 13 ? 1 + rnd(m) % 40 : kind < 15 ? 1 + rnd(m) % 300 : 1 + rnd(m) % 1500;
}

static void model_get(struct model *m)
{
	struct alloc_req req = { .want_blk = random_size(m), .locality = (uint32_t)(rnd(m) % 20) };
	struct alloc_stream *s = rnd(m) % 3 == 0 ? &m->streams[rnd(m) % ARRAY_LEN(m->streams)] : NULL;
	struct runlist out = { 0 };
	bool contig = rnd(m) % 8 == 0, partial = rnd(m) % 8 == 0;
	int err;

	req.flags = (contig ? ALLOC_CONTIG : 0) | (partial ? ALLOC_PARTIAL : 0);
	if (rnd(m) % 4 == 0)
		req.goal_blk = rnd(m) % m->d->n_blks;
	else if (s != NULL && rnd(m) % 4 != 0)
		req.goal_blk = s->goal_blk;
	err = alloc_get(m->d->a, s, &req, &out);
	if (err == -ENOSPC && contig)
		ck_assert_uint_lt(partial ? m->n_free : longest_free(m), partial ? 1 : req.want_blk);
	else if (err == -ENOSPC)
		ck_assert_uint_lt(m->n_free, partial ? 1 : req.want_blk);
	else
		ck_assert_int_eq(err, 0);
	if (err == 0 && !partial)
		ck_assert_uint_eq(runlist_blks(&out), req.want_blk);
	if (err == 0 && partial && !contig)
		ck_assert_uint_eq(runlist_blks(&out), min_u64(req.want_blk, m->n_free));
	if (err == 0 && partial && contig)
		ck_assert_uint_eq(runlist_blks(&out), min_u64(req.want_blk, longest_free(m)));
	ck_assert_uint_eq(out.n == 0, err != 0);
	if (contig && err == 0)
		ck_assert_uint_eq(out.n, 1);
	for (uint32_t i = 0; i < out.n; i++) {
		move(m, out.runs[i], FREE, TAKEN);
		m->n_free -= out.runs[i].len_blk;
		add_piece(m, out.runs[i]);
	}
	runlist_free(&out);
}

// A random piece, or a random part of one, moves on in its life.
static void model_move_on(struct model *m)
{
	size_t i;
	struct piece *p;
	struct run r;

	if (m->n_pieces == 0)
		return;
	i = rnd(m) % m->n_pieces;
	p = &m->pieces[i];
	r = p->r;
	if (rnd(m) % 4 == 0)
		r.len_blk = 1 + rnd(m) % r.len_blk;
	if (p->state == TAKEN && rnd(m) % 4 != 0) {
		ck_assert_int_eq(alloc_commit(m->d->a, p->r.start_blk, p->r.len_blk), 0);
		move(m, p->r, TAKEN, OWNED);
		p->state = OWNED;
		return;
	}
	if (p->state == TAKEN) {
		ck_assert_int_eq(alloc_put(m->d->a, r.start_blk, r.len_blk), 0);
		move(m, r, TAKEN, FREE);
		m->n_free += r.len_blk;
	} else {
		ck_assert_int_eq(alloc_free(m->d->a, r.start_blk, r.len_blk, m->epoch), 0);
		move(m, r, OWNED, FREEING);
	}
	p->r.start_blk += r.len_blk;
	p->r.len_blk -= r.len_blk;
	if (p->r.len_blk == 0)
		*p = m->pieces[--m->n_pieces];
}

static void model_bad_free(struct model *m)
{
	uint64_t start = rnd(m) % m->d->n_blks, len = 1 + rnd(m) % min_u64(20, m->d->n_blks - start);
	bool loaded = alloc_largest_run(m->d->a, (uint32_t)(start >> m->d->ms_shift)) > 0, bad = false;

	if ((start + len - 1) >> m->d->ms_shift != start >> m->d->ms_shift)
		return;
	for (uint64_t blk = start; blk < start + len; blk++)
		bad |= m->state[blk] == FREEING || (loaded && m->state[blk] == FREE);
	if (bad)
		ck_assert_int_eq(alloc_free(m->d->a, start, len, m->epoch), -EINVAL);
}

static void model_release(struct model *m)
{
	m->durable = m->epoch - rnd(m) % 2;
	m->epoch++;
	alloc_release(m->d->a, m->durable);
	for (uint64_t blk = 0; blk < m->d->n_blks; blk++) {
		if (m->state[blk] == FREEING && m->epoch_of[blk] <= m->durable) {
			m->state[blk] = FREE;
			m->n_free++;
		}
	}
}

static void model_check(struct model *m)
{
	struct alloc_stats st;
	uint64_t freeing = 0;

	for (uint64_t blk = 0; blk < m->d->n_blks; blk++)
		freeing += m->state[blk] == FREEING;
	alloc_get_stats(m->d->a, &st);
	ck_assert_uint_eq(st.free_blk, m->n_free);
	ck_assert_uint_eq(st.freeing_blk, freeing);
	check(m->d);
}

// Everything TAKEN is committed, so that all metaslabs can go; the next requests load them again.
static void model_unload(struct model *m)
{
	for (size_t i = 0; i < m->n_pieces; i++) {
		struct piece *p = &m->pieces[i];

		if (p->state != TAKEN)
			continue;
		ck_assert_int_eq(alloc_commit(m->d->a, p->r.start_blk, p->r.len_blk), 0);
		move(m, p->r, TAKEN, OWNED);
		p->state = OWNED;
	}
	alloc_shrink(m->d->a, 0);
	ck_assert_uint_eq(n_loaded(m->d), 0);
}

static void model_step(struct model *m, uint64_t op)
{
	// Now filling, now emptying, so that full, half full and nearly empty are all met.
	unsigned get_share = op / 10000 % 2 ? 30 : 50;
	unsigned kind = rnd(m) % 100;

	if (kind < get_share)
		model_get(m);
	else
		model_move_on(m);
	if (rnd(m) % 50 == 0)
		model_bad_free(m);
	if (rnd(m) % 500 == 0)
		model_release(m);
	if (rnd(m) % 2000 == 0)
		model_unload(m);
	if (rnd(m) % 200 == 0)
		alloc_stream_end(&m->streams[rnd(m) % ARRAY_LEN(m->streams)]);
	if (op % 2000 == 0)
		model_check(m);
}

static void run_model(uint64_t seed, uint64_t n_ops)
{
	struct model m = { .rng = seed * 0x9e3779b97f4a7c15ull + 1, .epoch = 1 };

	printf("check_alloc: model, ALLOC_SEED=%" PRIu64 " ALLOC_OPS=%" PRIu64 "\n", seed, n_ops);
	fflush(stdout);
	m.d = disk_new(4 * 4096 + 1000 + seed % 300, MS_SHIFT + seed % 3);
	m.state = calloc(m.d->n_blks, 1);
	m.epoch_of = calloc(m.d->n_blks, sizeof(*m.epoch_of));
	m.n_free = m.d->n_blks;
	disk_mount(m.d, 0);
	for (uint64_t op = 0; op < n_ops; op++)
		model_step(&m, op);
	model_check(&m);
	for (size_t i = 0; i < ARRAY_LEN(m.streams); i++)
		alloc_stream_end(&m.streams[i]);
	disk_free(m.d);
	free(m.pieces);
	free(m.state);
	free(m.epoch_of);
}

START_TEST(agrees_with_the_model)
{
	const char *seed = getenv("ALLOC_SEED"), *ops = getenv("ALLOC_OPS");
	uint64_t n_ops = ops != NULL ? strtoull(ops, NULL, 0) : MODEL_OPS;

	if (seed == NULL)
		run_model((uint64_t)_i + 1, n_ops);
	else if (_i == 0)
		run_model(strtoull(seed, NULL, 0), n_ops);
}
END_TEST

// ---- threads ----

#define STRESS_OPS 30000u
#define STRESS_KEEP 512u

struct stress {
	struct disk *d;
	pthread_mutex_t lock;
	uint8_t *taken; // under lock: who has which block
	uint64_t seed;
};

static void stress_own(struct stress *st, const struct run *r, int delta)
{
	pthread_mutex_lock(&st->lock);
	for (uint64_t blk = r->start_blk; blk < r->start_blk + r->len_blk; blk++) {
		st->taken[blk] = (uint8_t)(st->taken[blk] + delta);
		if (st->taken[blk] > 1)
			ck_abort_msg("block %" PRIu64 " was handed out twice", blk);
	}
	pthread_mutex_unlock(&st->lock);
}

// Gives a run back in one of the two ways. The store changes with the allocator, under its lock.
static void stress_give(struct stress *st, const struct run *r, uint64_t epoch)
{
	struct disk *d = st->d;

	stress_own(st, r, -1);
	if (epoch % 2 == 0) {
		ck_assert_int_eq(alloc_put(d->a, r->start_blk, r->len_blk), 0);
		return;
	}
	disk_enter(d);
	own(d, r->start_blk, r->len_blk);
	disk_leave(d);
	disk_enter(d);
	disown(d, r->start_blk, r->len_blk, epoch);
	disk_leave(d);
}

static void *stress_thread(void *arg)
{
	struct stress *st = arg;
	struct alloc_stream s;
	struct run kept[STRESS_KEEP] = { { 0 } };
	struct runlist out = { 0 };
	uint64_t x;
	int err;

	pthread_mutex_lock(&st->lock);
	x = ++st->seed * 0x9e3779b97f4a7c15ull;
	pthread_mutex_unlock(&st->lock);
	alloc_stream_init(&s);
	for (unsigned op = 0; op < STRESS_OPS; op++) {
		struct alloc_req req = { .locality = (uint32_t)(x >> 40) % 3 };

		x = x * 6364136223846793005ull + 1442695040888963407ull;
		req.want_blk = 1 + (x >> 33) % (op % 16 == 0 ? 1000 : 60);
		runlist_clear(&out);
		err = alloc_get(st->d->a, x >> 62 ? &s : NULL, &req, &out);
		ck_assert(err == 0 || err == -ENOSPC);
		for (uint32_t i = 0; i < out.n; i++)
			stress_own(st, &out.runs[i], 1);
		for (uint32_t i = 0; i < max_u64(out.n, 1); i++) {
			struct run *slot = &kept[((x >> 20) + i * 7) % STRESS_KEEP];

			if (slot->len_blk > 0)
				stress_give(st, slot, op);
			*slot = i < out.n ? out.runs[i] : (struct run){ 0, 0 };
		}
		if (op % 64 == 0)
			alloc_release(st->d->a, op);
		if (op % 1000 == 0)
			alloc_shrink(st->d->a, 0);
	}
	for (unsigned i = 0; i < STRESS_KEEP; i++)
		if (kept[i].len_blk > 0)
			stress_give(st, &kept[i], 0);
	alloc_stream_end(&s);
	runlist_free(&out);
	return NULL;
}

START_TEST(two_threads)
{
	struct disk *d = disk_mounted(16 * MS_BLK);
	struct stress st = { .d = d, .taken = calloc(16 * MS_BLK, 1) };
	pthread_t thread[2];

	pthread_mutex_init(&st.lock, NULL);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, stress_thread, &st), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	alloc_release(d->a, UINT64_MAX);
	ck_assert_uint_eq(free_blks(d), 16 * MS_BLK);
	check(d);
	pthread_mutex_destroy(&st.lock);
	free(st.taken);
	disk_free(d);
}
END_TEST

static Suite *alloc_suite(void)
{
	Suite *suite = suite_create("alloc");
	TCase *promises = tcase_create("promises"), *loading = tcase_create("loading");
	TCase *together = tcase_create("together"), *model = tcase_create("model"), *threads = tcase_create("threads");

	tcase_add_test(promises, exact_sizes);
	tcase_add_test(promises, refuses_nonsense);
	tcase_add_test(promises, goal_is_extended);
	tcase_add_test(promises, goal_is_extended_as_far_as_it_goes);
	tcase_add_test(promises, splits_when_it_must);
	tcase_add_test(promises, largest_pieces_first);
	tcase_add_test(promises, crosses_metaslabs);
	tcase_add_test(promises, partial_gives_what_there_is);
	tcase_add_test(promises, reserve_is_kept);
	tcase_add_test(promises, appends_and_undoes);
	tcase_add_test(promises, life_of_a_block);
	tcase_add_test(promises, bad_frees_change_nothing);
	tcase_add_test(promises, windows_are_not_owned);
	tcase_add_loop_test(promises, every_last_block_can_be_had, 0, 6);
	tcase_add_test(promises, best_fit);
	tcase_add_test(promises, contig_finds_the_only_run);
	tcase_add_test(loading, loads_what_the_source_says);
	tcase_add_test(loading, unload_keeps_freeing_blocks_back);
	tcase_add_test(loading, taken_blocks_keep_it_loaded);
	tcase_add_test(loading, load_errors_come_back);
	tcase_add_test(loading, marks_outside_are_refused);
	tcase_add_test(loading, memory_follows_use);
	tcase_add_loop_test(together, streams_get_long_extents, 0, 8);
	tcase_add_test(together, small_files_lie_together);
	tcase_add_test(together, small_files_leave_large_runs_whole);
	tcase_add_test(together, small_first_write_takes_no_window);
	tcase_add_test(together, window_moves_with_the_goal);
	tcase_add_test(together, windows_are_taken_back_when_short);
	tcase_add_test(together, contig_takes_windows_back);
	tcase_set_timeout(model, 120);
	tcase_add_loop_test(model, agrees_with_the_model, 0, MODEL_SEEDS);
	tcase_set_timeout(threads, 120);
	tcase_add_test(threads, two_threads);
	suite_add_tcase(suite, promises);
	suite_add_tcase(suite, loading);
	suite_add_tcase(suite, together);
	suite_add_tcase(suite, model);
	suite_add_tcase(suite, threads);
	return suite;
}

int main(void)
{
	SRunner *runner = srunner_create(alloc_suite());
	int failed;

	msg_open("check_alloc", MSG_TO_NOWHERE, MSG_ERROR); // refused frees are meant here
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
