// SPDX-License-Identifier: MIT
// Loading and unloading: a metaslab's free map comes from the source when it is needed and goes when nothing of it is TAKEN;
// what is FREEING is remembered in both states; what the source says wrong, or cannot say, is an error that changes nothing.
#include "alloctest.h"

#include "alloc/engine.h"

START_TEST(loads_what_the_source_says)
{
	struct disk *d = disk_new(6 * MS_BLK, MS_SHIFT);
	struct runlist out = { 0 };
	uint64_t n_free = 0, x;

	srand(5);
	for (uint64_t blk = 0; blk < d->n_blks; blk++)
		d->used[blk] = rand() % 5 < 2 || blk / 1000 % 2;
	for (uint64_t blk = 0; blk < d->n_blks; blk++)
		n_free += !d->used[blk];
	disk_mount(d, 0);
	ck_assert_uint_eq(disk_n_loaded(d), 0);
	ck_assert_uint_eq(disk_free_blks(d), n_free);
	x = disk_get_one(d, NULL, 0, 3);
	for (uint64_t k = 0; k < 3; k++)
		ck_assert_uint_eq(d->used[x + k]++, 0);
	ck_assert_uint_lt(disk_n_loaded(d), 6);
	ck_assert_int_eq(disk_get(d, NULL, 0, n_free - 3, 0, &out), 0);
	for (uint32_t i = 0; i < out.n; i++)
		for (uint64_t k = 0; k < out.runs[i].len_blk; k++)
			ck_assert_uint_eq(d->used[out.runs[i].start_blk + k]++, 0);
	ck_assert_uint_eq(d->n_loads, 6);
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(unload_keeps_freeing_blocks_back)
{
	struct disk *d = disk_mounted(MS_BLK);
	struct runlist out = { 0 };

	disk_own(d, disk_get_one(d, NULL, 0, MS_BLK), MS_BLK);
	disk_disown(d, 10, 100, 1);
	alloc_shrink(d->a, 0);
	ck_assert_uint_eq(disk_n_loaded(d), 0);
	disk_disown(d, 200, 50, 1);
	disk_refused(d, alloc_free(d->a, 249, 1, 2)); // seen though it is not loaded
	disk_disown(d, 300, 20, 2);
	alloc_release(d->a, 1);
	ck_assert_uint_eq(disk_free_blks(d), 150);
	disk_check(d);
	// The source has [300, 320) free already; it is FREEING and must not be handed out.
	ck_assert_int_eq(disk_get(d, NULL, 300, 150, 0, &out), 0);
	ck_assert_uint_eq(disk_n_loaded(d), 1);
	runlist_sort(&out);
	ck_assert_uint_eq(out.n, 2);
	ck_assert_uint_eq(out.runs[0].start_blk, 10);
	ck_assert_uint_eq(out.runs[0].len_blk, 100);
	ck_assert_uint_eq(out.runs[1].start_blk, 200);
	ck_assert_int_eq(disk_get(d, NULL, 0, 1, 0, &out), -ENOSPC);
	alloc_release(d->a, 2);
	ck_assert_uint_eq(disk_get_one(d, NULL, 0, 20), 300);
	disk_check(d);
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
	x = disk_get_one(d, &s, 0, 300);
	alloc_shrink(d->a, 0);
	ck_assert_uint_eq(disk_n_loaded(d), 1);
	disk_own(d, x, 300);
	alloc_shrink(d->a, 0);
	ck_assert_uint_eq(disk_n_loaded(d), 0);
	ck_assert_uint_eq(alloc_largest_run(d->a, (uint32_t)(x / MS_BLK)), 0);
	ck_assert_uint_eq(disk_get_one(d, &s, 0, 10), x + 300); // the stream goes on where it was
	ck_assert_uint_ge(alloc_largest_run(d->a, (uint32_t)(x / MS_BLK)), MS_BLK / 2);
	alloc_stream_end(&s);
	disk_check(d);
	disk_free(d);
}
END_TEST

START_TEST(load_errors_come_back)
{
	struct disk *d = disk_mounted(2 * MS_BLK);
	struct runlist out = { 0 };

	d->load_error = -EIO;
	ck_assert_int_eq(disk_get(d, NULL, 0, 1, 0, &out), -EIO);
	d->load_error = 0;
	d->used[17] = d->used[MS_BLK + 17] = 1; // not what the records say
	ck_assert_int_eq(disk_get(d, NULL, 0, 1, 0, &out), -EUCLEAN);
	d->used[17] = d->used[MS_BLK + 17] = 0;
	ck_assert_uint_eq(disk_free_blks(d), 2 * MS_BLK);
	disk_get_one(d, NULL, 0, 1);
	disk_check(d);
	runlist_free(&out);
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
	ck_assert_int_eq(disk_get(d, NULL, 0, 1, 0, &out), -EUCLEAN);
	alloc_destroy(d->a);
	d->a = NULL;
	cfg.ms_free_blk = &too_many;
	ck_assert_int_eq(alloc_create(&cfg, &d->a), -EUCLEAN);
	runlist_free(&out);
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
	disk_get_one(d, NULL, 0, 1000);
	alloc_get_stats(d->a, &st);
	ck_assert_uint_eq(st.n_loaded, 1);
	ck_assert_uint_lt(st.memory_bytes, 4 << 20);
	disk_check(d);
	free(free_blk);
	disk_free(d);
}
END_TEST

// The second metaslab cannot be loaded: what had been taken from the first one for the same request is free again.
START_TEST(failed_load_leaves_nothing_taken)
{
	struct disk *d = disk_mounted(2 * MS_BLK);
	struct runlist out = { 0 }, runs = { 0 };
	uint64_t x = disk_get_one(d, NULL, 0, 10);

	d->load_error = -EIO;
	ck_assert_int_eq(disk_get(d, NULL, 0, MS_BLK + 100, 0, &out), -EIO);
	ck_assert_uint_eq(out.n, 0);
	ck_assert_uint_eq(disk_free_blks(d), 2 * MS_BLK - 10);
	ck_assert_int_eq(disk_get(d, NULL, 0, MS_BLK - 5, ALLOC_CONTIG, &out), -EIO); // only the other one has it
	ck_assert_int_eq(alloc_walk_free(d->a, alloctest_add_run, &runs), -EIO);
	disk_get_one(d, NULL, x + 10, 20); // the first one goes on working
	disk_check(d);
	d->load_error = 0;
	ck_assert_int_eq(disk_get(d, NULL, 0, 2 * MS_BLK - 30, 0, &out), 0);
	ck_assert_uint_eq(disk_free_blks(d), 0);
	disk_check(d);
	runlist_free(&out);
	runlist_free(&runs);
	disk_free(d);
}
END_TEST

// Frees into metaslabs that are not loaded load nothing, however many and however long they are.
START_TEST(frees_load_nothing)
{
	struct disk *d = disk_new(8 * MS_BLK + 100, MS_SHIFT);
	struct runlist runs = { 0 };

	memset(d->used, 1, d->n_blks);
	disk_mount(d, 0);
	for (uint64_t blk = 0; blk + 100 <= d->n_blks; blk += 1000)
		disk_disown(d, blk, 100, 1 + blk % 2);
	disk_disown(d, 2 * MS_BLK - 60, 120, 3); // across the border
	disk_disown(d, 5 * MS_BLK + 700, 720, 3);
	ck_assert_uint_eq(d->n_loads, 0);
	ck_assert_uint_eq(disk_free_blks(d), 0);
	alloc_release(d->a, 2);
	ck_assert_uint_eq(disk_free_blks(d), 33 * 100);
	ck_assert_uint_eq(d->n_loads, 0);
	disk_check(d);
	disk_free_runs(d, &runs);
	ck_assert_uint_eq(runs.n, 33);
	alloc_release(d->a, 3);
	ck_assert_uint_eq(disk_free_blks(d), 33 * 100 + 120 + 720);
	disk_check(d);
	runlist_free(&runs);
	disk_free(d);
}
END_TEST

// Of a metaslab that is not loaded only what is FREEING and the counts are known: no more can be freed than it owns.
START_TEST(frees_into_unloaded_are_counted)
{
	struct disk *d = disk_new(2 * MS_BLK, MS_SHIFT);

	memset(d->used + 1000, 1, 50);
	disk_mount(d, 0);
	disk_refused(d, alloc_free(d->a, 1000, 51, 1));
	disk_refused(d, alloc_free(d->a, MS_BLK, 1, 1)); // nothing there is owned
	disk_disown(d, 1000, 40, 1);
	disk_refused(d, alloc_free(d->a, 1039, 1, 1));
	disk_refused(d, alloc_free(d->a, 1040, 11, 1));
	disk_disown(d, 1040, 10, 1);
	ck_assert_uint_eq(d->n_loads, 0);
	alloc_release(d->a, 1);
	ck_assert_uint_eq(disk_free_blks(d), 2 * MS_BLK);
	disk_free(d);
}
END_TEST

START_TEST(shrink_gives_memory_back)
{
	struct disk *d = disk_new(1u << 22, 16); // 16 GiB
	struct alloc_stats st;
	struct runlist runs = { 0 };
	uint64_t before, loaded;

	for (uint64_t blk = 0; blk < d->n_blks; blk += 2)
		d->used[blk] = 1;
	disk_mount(d, 0);
	alloc_get_stats(d->a, &st);
	before = st.memory_bytes;
	disk_free_runs(d, &runs);
	ck_assert_uint_eq(runs.n, d->n_blks / 2);
	alloc_get_stats(d->a, &st);
	ck_assert_uint_eq(st.n_loaded, 64);
	loaded = st.memory_bytes;
	alloc_shrink(d->a, 0);
	alloc_get_stats(d->a, &st);
	ck_assert_uint_eq(st.n_loaded, 0);
	ck_assert_uint_gt(loaded, before);
	ck_assert_uint_le(st.memory_bytes, before + (loaded - before) / 4);
	ck_assert_uint_eq(disk_free_blks(d), d->n_blks / 2);
	disk_get_one(d, NULL, 0, 1);
	disk_check(d);
	runlist_free(&runs);
	disk_free(d);
}
END_TEST

// ---- engines that need memory ----

static bool no_memory;      // reserve fails
static unsigned n_reserves; // after so many more it begins to, if not 0
static struct engine_ops poor;

static int poor_create(const struct engine_config *cfg, struct engine **out)
{
	int err = engine_stupid.create(cfg, out);

	if (err == 0)
		(*out)->ops = &poor;
	return err;
}

static int poor_reserve(struct engine *e, uint32_t n)
{
	if (n_reserves > 0 && --n_reserves == 0)
		no_memory = true;
	return no_memory ? -ENOMEM : engine_stupid.reserve(e, n);
}

static struct disk *poor_disk(uint64_t n_blks)
{
	struct disk *d = disk_new(n_blks, MS_SHIFT);

	poor = engine_stupid;
	poor.create = poor_create;
	poor.reserve = poor_reserve;
	no_memory = false;
	d->engine = &poor;
	return d;
}

// What an engine got for runs that are FREEING is still there when it knows of no free block any more.
START_TEST(unload_leaves_room_for_freeing)
{
	for (unsigned i = 0; engines[i] != NULL; i++) {
		struct disk *d = disk_new(2 * MS_BLK, MS_SHIFT);

		d->engine = engines[i];
		memset(d->used + MS_BLK, 1, MS_BLK - 1);
		disk_mount(d, 0);
		ck_assert_int_eq(alloc_put(d->a, disk_get_one(d, NULL, 2 * MS_BLK - 1, 1), 1), 0);
		ck_assert_uint_eq(disk_get_one(d, NULL, 1, MS_BLK - 1), 1);
		ck_assert_uint_eq(disk_get_one(d, NULL, 0, 1) % (2 * MS_BLK - 1), 0);
		disk_own(d, 100, 900);
		disk_disown(d, 100, 900, 1);
		alloc_shrink(d->a, 0);
		ck_assert_uint_ge(disk_n_loaded(d), 1);
		alloc_release(d->a, 1);
		disk_check(d);
		ck_assert_uint_eq(disk_free_blks(d), 901);
		disk_free(d);
	}
}
END_TEST

// A metaslab's runs fill the room that was kept for FREEING ones, and there is no more: it is not loaded.
START_TEST(load_leaves_room_for_freeing)
{
	struct disk *d = poor_disk(2 * MS_BLK);
	struct runlist out = { 0 };

	memset(d->used + MS_BLK, 1, MS_BLK);
	for (unsigned i = 0; i < 300; i++)
		d->used[MS_BLK + 8 * i] = 0;
	disk_mount(d, 0);
	disk_own(d, disk_get_one(d, NULL, 1, MS_BLK - 1), MS_BLK - 1);
	for (unsigned i = 0; i < 300; i++)
		disk_disown(d, 8 + 8 * i, 1, 1);
	no_memory = true;
	ck_assert_int_eq(disk_get(d, NULL, MS_BLK, 1, 0, &out), -ENOMEM);
	ck_assert_uint_eq(disk_n_loaded(d), 1);
	disk_check(d);
	alloc_release(d->a, 1);
	disk_check(d);
	no_memory = false;
	ck_assert_int_eq(disk_get(d, NULL, MS_BLK, 601, 0, &out), 0);
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

// Memory runs out between two pieces, also for the first one's way back. Blocks may be lost until the next mount, not more.
START_TEST(no_memory_to_give_up)
{
	bool worked = false;

	for (unsigned n = 1; !worked; n++) {
		struct disk *d = poor_disk(MS_BLK);
		struct runlist out = { 0 };
		int err;

		disk_mount(d, 0);
		ck_assert_uint_eq(disk_get_one(d, NULL, 1000, 100), 1000);
		n_reserves = n;
		err = disk_get(d, NULL, 0, MS_BLK - 100, 0, &out);
		worked = err == 0;
		ck_assert(worked || (err == -ENOMEM && out.n == 0));
		no_memory = false;
		n_reserves = 0;
		disk_check(d);
		if (!worked && disk_free_blks(d) > 0)
			ck_assert_int_eq(disk_get(d, NULL, 0, disk_free_blks(d), 0, &out), 0);
		disk_check(d);
		runlist_free(&out);
		disk_free(d);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("check_alloc_load");
	TCase *loading = tcase_create("loading");

	tcase_add_test(loading, loads_what_the_source_says);
	tcase_add_test(loading, unload_keeps_freeing_blocks_back);
	tcase_add_test(loading, taken_blocks_keep_it_loaded);
	tcase_add_test(loading, load_errors_come_back);
	tcase_add_test(loading, marks_outside_are_refused);
	tcase_add_test(loading, memory_follows_use);
	tcase_add_test(loading, failed_load_leaves_nothing_taken);
	tcase_add_test(loading, frees_load_nothing);
	tcase_add_test(loading, frees_into_unloaded_are_counted);
	tcase_add_test(loading, shrink_gives_memory_back);
	tcase_add_test(loading, unload_leaves_room_for_freeing);
	tcase_add_test(loading, load_leaves_room_for_freeing);
	tcase_add_test(loading, no_memory_to_give_up);
	suite_add_tcase(suite, loading);
	return alloctest_run("check_alloc_load", suite);
}
