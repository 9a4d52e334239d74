// SPDX-License-Identifier: MIT
// The allocator's promises, one test each: what alloc/alloc.h says of requests, of the life of a block and of bad input. Streams
// and nearness are in check_alloc_pool.c, loading in check_alloc_load.c, random sequences in check_alloc_model.c.
#include "alloctest.h"

START_TEST(exact_sizes)
{
	struct disk *d = disk_mounted(8 * MS_BLK);
	static const uint64_t sizes[] = { 1, 2, 15, 16, 17, 63, 64, 65, 255, 256, 257, 589, 1023, 1024, 1025, 4096 };
	uint64_t left = 8 * MS_BLK;

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		disk_get_one(d, NULL, 0, sizes[i]);
		left -= sizes[i];
		ck_assert_uint_eq(disk_free_blks(d), left);
		disk_check(d);
	}
	disk_free(d);
}
END_TEST

START_TEST(refuses_nonsense)
{
	struct disk *d = disk_mounted(MS_BLK);
	struct runlist out = { 0 };
	uint64_t ms_free_blk[1] = { 100 };
	struct alloc_config cfg = { .n_blks = 0, .ms_shift = MS_SHIFT, .ms_free_blk = ms_free_blk,
	                            .source = &disk_source, .source_ctx = d };
	struct alloc *a;

	ck_assert_int_eq(disk_get(d, NULL, 0, 0, 0, &out), -EINVAL);
	ck_assert_int_eq(disk_get(d, NULL, 0, ALLOC_MAX_RUN_BLK + 1ull, 0, &out), -EINVAL);
	ck_assert_int_eq(disk_get(d, NULL, 0, MS_BLK + 1, 0, &out), -ENOSPC);
	ck_assert_uint_eq(out.n, 0);
	ck_assert_uint_eq(disk_free_blks(d), MS_BLK);
	ck_assert_int_eq(alloc_create(&cfg, &a), -EINVAL);
	cfg.n_blks = 100;
	cfg.ms_shift = 0;
	ck_assert_int_eq(alloc_create(&cfg, &a), -EINVAL);
	cfg.ms_shift = 64;
	ck_assert_int_eq(alloc_create(&cfg, &a), -EINVAL);
	cfg.ms_shift = ALLOC_MS_SHIFT_MAX;
	cfg.n_blks = ALLOC_MAX_BLKS + 1;
	ck_assert_int_eq(alloc_create(&cfg, &a), -EINVAL);
	disk_get_one(d, NULL, 1ull << 60, 5); // a goal outside is no goal
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(goal_is_extended)
{
	struct disk *d = disk_mounted(4 * MS_BLK);
	uint64_t first = disk_get_one(d, NULL, 2000, 100);

	ck_assert_uint_eq(first, 2000);
	ck_assert_uint_eq(disk_get_one(d, NULL, 2100, 300), 2100);
	ck_assert_uint_eq(disk_get_one(d, NULL, 2400, 1), 2400);
	ck_assert_uint_ne(disk_get_one(d, NULL, 2100, 1), 2100); // taken
	disk_check(d);
	disk_free(d);
}
END_TEST

START_TEST(goal_is_extended_as_far_as_it_goes)
{
	struct disk *d = disk_mounted(4 * MS_BLK);
	struct runlist out = { 0 };

	ck_assert_uint_eq(disk_get_one(d, NULL, 1000, 10), 1000);
	ck_assert_uint_eq(disk_get_one(d, NULL, 1040, 10), 1040);
	ck_assert_int_eq(disk_get(d, NULL, 1010, 100, ALLOC_CONTIG, &out), 0); // not there, then
	ck_assert_uint_eq(out.n, 1);
	ck_assert_uint_ne(out.runs[0].start_blk, 1010);
	runlist_clear(&out);
	ck_assert_int_eq(disk_get(d, NULL, 1010, 100, 0, &out), 0);
	ck_assert_uint_eq(out.n, 2);
	ck_assert_uint_eq(out.runs[0].start_blk, 1010);
	ck_assert_uint_eq(out.runs[0].len_blk, 30);
	ck_assert_uint_eq(out.runs[1].len_blk, 70);
	runlist_free(&out);
	disk_check(d);
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

	ck_assert_int_eq(disk_get(d, NULL, 0, 2, ALLOC_CONTIG, &out), -ENOSPC);
	ck_assert_uint_eq(out.n, 0);
	ck_assert_uint_eq(disk_free_blks(d), MS_BLK);
	ck_assert_int_eq(disk_get(d, NULL, 0, MS_BLK, 0, &out), 0);
	ck_assert_uint_eq(runlist_blks(&out), MS_BLK);
	ck_assert_uint_eq(out.n, MS_BLK);
	for (uint32_t i = 0; i < out.n; i++)
		ck_assert_uint_eq(out.runs[i].start_blk % 2, 1);
	ck_assert_uint_eq(disk_free_blks(d), 0);
	disk_check(d);
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
	ck_assert_int_eq(disk_get(d, NULL, 0, 540, 0, &out), 0);
	ck_assert_uint_eq(out.n, 2);
	ck_assert_uint_eq(out.runs[0].start_blk, 700);
	ck_assert_uint_eq(out.runs[0].len_blk, 500);
	ck_assert_uint_eq(out.runs[1].len_blk, 40); // the rest in one run as well
	ck_assert(out.runs[1].start_blk == 2000 || out.runs[1].start_blk == 3000);
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

// A whole volume in one request crosses metaslabs; a run for ALLOC_CONTIG does not.
START_TEST(crosses_metaslabs)
{
	struct disk *d = disk_mounted(5 * MS_BLK + 77);
	struct runlist out = { 0 };

	ck_assert_int_eq(disk_get(d, NULL, 0, MS_BLK + 1, ALLOC_CONTIG, &out), -ENOSPC);
	ck_assert_int_eq(disk_get(d, NULL, 0, 5 * MS_BLK + 77, 0, &out), 0);
	ck_assert_uint_eq(runlist_blks(&out), 5 * MS_BLK + 77);
	ck_assert_uint_eq(disk_free_blks(d), 0);
	runlist_sort(&out);
	ck_assert_uint_eq(out.n, 1);
	ck_assert_int_eq(alloc_commit(d->a, 0, 5 * MS_BLK + 77), 0);
	ck_assert_int_eq(alloc_free(d->a, 0, 5 * MS_BLK + 77, 1), 0);
	disk_check(d);
	alloc_release(d->a, 1);
	ck_assert_uint_eq(disk_free_blks(d), 5 * MS_BLK + 77);
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(partial_gives_what_there_is)
{
	struct disk *d = disk_mounted(MS_BLK);
	struct runlist out = { 0 };

	disk_get_one(d, NULL, 1000, 2536); // [0, 1000) and [3536, 4096) are left
	ck_assert_int_eq(disk_get(d, NULL, 0, 1200, ALLOC_PARTIAL | ALLOC_CONTIG, &out), 0);
	ck_assert_uint_eq(out.n, 1);
	ck_assert_uint_eq(out.runs[0].start_blk, 0);
	ck_assert_uint_eq(out.runs[0].len_blk, 1000);
	ck_assert_uint_eq(disk_free_blks(d), 560);
	ck_assert_int_eq(disk_get(d, NULL, 0, 1000, ALLOC_PARTIAL, &out), 0);
	ck_assert_uint_eq(runlist_blks(&out), 1560);
	ck_assert_int_eq(disk_get(d, NULL, 0, 1000, ALLOC_PARTIAL, &out), -ENOSPC);
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(reserve_is_kept)
{
	struct disk *d = disk_new(MS_BLK, MS_SHIFT);
	struct runlist out = { 0 };

	disk_mount(d, 96);
	ck_assert_int_eq(disk_get(d, NULL, 0, 4001, 0, &out), -ENOSPC);
	ck_assert_int_eq(disk_get(d, NULL, 0, 4000, 0, &out), 0);
	ck_assert_int_eq(disk_get(d, NULL, 0, 1, ALLOC_PARTIAL, &out), -ENOSPC);
	ck_assert_int_eq(disk_get(d, NULL, 0, 97, ALLOC_USE_RESERVE, &out), -ENOSPC);
	ck_assert_int_eq(disk_get(d, NULL, 0, 96, ALLOC_USE_RESERVE, &out), 0);
	ck_assert_uint_eq(disk_free_blks(d), 0);
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(appends_and_undoes)
{
	struct disk *d = disk_mounted(MS_BLK);
	struct runlist out = { 0 };
	struct run before;

	ck_assert_int_eq(disk_get(d, NULL, 0, 100, 0, &out), 0);
	before = out.runs[out.n - 1];
	ck_assert_int_eq(disk_get(d, NULL, before.start_blk + before.len_blk, 4000, ALLOC_CONTIG, &out), -ENOSPC);
	ck_assert_uint_eq(out.n, 1);
	ck_assert_uint_eq(out.runs[0].len_blk, before.len_blk);
	ck_assert_uint_eq(disk_free_blks(d), MS_BLK - 100);
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(life_of_a_block)
{
	struct disk *d = disk_mounted(MS_BLK);
	struct runlist out = { 0 };
	uint64_t x;

	x = disk_get_one(d, NULL, 50, 10);
	ck_assert_int_eq(alloc_put(d->a, x, 10), 0);
	ck_assert_uint_eq(disk_free_blks(d), MS_BLK);
	x = disk_get_one(d, NULL, 0, MS_BLK);
	disk_own(d, x, MS_BLK);
	disk_disown(d, 0, 100, 7);
	disk_disown(d, 100, 100, 8);
	ck_assert_uint_eq(disk_free_blks(d), 0);
	ck_assert_int_eq(disk_get(d, NULL, 0, 1, 0, &out), -ENOSPC);
	disk_check(d);
	alloc_release(d->a, 6);
	ck_assert_uint_eq(disk_free_blks(d), 0);
	alloc_release(d->a, 7);
	ck_assert_uint_eq(disk_free_blks(d), 100);
	disk_check(d);
	ck_assert_int_eq(disk_get(d, NULL, 0, 101, 0, &out), -ENOSPC);
	ck_assert_uint_eq(disk_get_one(d, NULL, 0, 100), 0);
	alloc_release(d->a, 100);
	ck_assert_uint_eq(disk_get_one(d, NULL, 0, 100), 100);
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(bad_frees_change_nothing)
{
	struct disk *d = disk_mounted(3 * MS_BLK);
	struct alloc_stats before, after;
	uint64_t end = 3 * MS_BLK;

	disk_own(d, disk_get_one(d, NULL, 1000, 500), 500);
	disk_own(d, disk_get_one(d, NULL, MS_BLK - 100, 100), 100);
	disk_disown(d, 1100, 10, 1);
	disk_get_one(d, NULL, 2000, 50);
	alloc_get_stats(d->a, &before);
	disk_refused(d, alloc_free(d->a, 900, 200, 1));                // begins free
	disk_refused(d, alloc_free(d->a, 1499, 2, 1));                 // ends free
	disk_refused(d, alloc_free(d->a, 1109, 5, 2));                 // FREEING already
	disk_refused(d, alloc_free(d->a, 1000, 0, 1));
	disk_refused(d, alloc_free(d->a, end - 1, 2, 1));
	disk_refused(d, alloc_free(d->a, UINT64_MAX, 2, 1));
	disk_refused(d, alloc_free(d->a, 5, UINT64_MAX, 1));
	disk_refused(d, alloc_free(d->a, MS_BLK - 100, 101, 1));       // the second metaslab's part is free
	disk_refused(d, alloc_put(d->a, 1100, 10));
	disk_refused(d, alloc_put(d->a, 2000, 51));
	disk_refused(d, alloc_put(d->a, 1200, 60));                    // more than was handed out
	disk_refused(d, alloc_commit(d->a, 2040, 20));
	disk_refused(d, alloc_commit(d->a, 2 * MS_BLK, 1));            // not even loaded
	alloc_get_stats(d->a, &after);
	ck_assert_mem_eq(&before.free_blk, &after.free_blk, sizeof(before.free_blk));
	ck_assert_uint_eq(before.freeing_blk, after.freeing_blk);
	disk_disown(d, 1000, 100, 1);
	disk_disown(d, 1110, 390, 2);
	alloc_release(d->a, 2);
	ck_assert_uint_eq(disk_free_blks(d), end - 150);
	disk_check(d);
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
		ck_assert_int_eq(disk_get(d, left % 2 ? &s : NULL, 0, want, 0, &out), 0);
		left -= want;
	}
	ck_assert_int_eq(disk_get(d, NULL, 0, want, 0, &out), -ENOSPC);
	for (; left > 0; left--)
		err |= disk_get(d, NULL, 0, 1, 0, &out);
	ck_assert_int_eq(err, 0);
	ck_assert_int_eq(disk_get(d, NULL, 0, 1, 0, &out), -ENOSPC);
	runlist_sort(&out);
	ck_assert_uint_eq(out.n, 1); // no block twice, none missing
	ck_assert_uint_eq(out.runs[0].len_blk, 3 * MS_BLK + 1000);
	alloc_stream_end(&s);
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

// Each request finds the hole of just its size, whatever the order: had one of them cut a longer hole, a later one would have
// come in pieces.
START_TEST(best_fit)
{
	static const uint64_t holes[] = { 5, 9, 40, 41, 200, 300, 302, 900 };
	static const unsigned order[][ARRAY_LEN(holes)] = { { 0, 1, 2, 3, 4, 5, 6, 7 }, { 5, 0, 4, 3, 6, 1, 7, 2 } };
	struct disk *d = disk_new(4 * MS_BLK, MS_SHIFT + 2);
	uint64_t at = 10, start[ARRAY_LEN(holes)];

	memset(d->used, 1, 4 * MS_BLK);
	for (size_t i = 0; i < ARRAY_LEN(holes); i++) {
		start[i] = at;
		memset(d->used + at, 0, holes[i]);
		at += holes[i] + 3;
	}
	disk_mount(d, 0);
	for (size_t i = 0; i < ARRAY_LEN(holes); i++) {
		unsigned hole = order[_i][i];

		ck_assert_uint_eq(disk_get_one(d, NULL, 0, holes[hole]), start[hole]);
	}
	ck_assert_uint_eq(disk_free_blks(d), 0);
	disk_check(d);
	disk_free(d);
}
END_TEST

// One run is long enough, among many that are a little too short.
START_TEST(contig_finds_the_only_run)
{
	struct disk *d = disk_new(4 * MS_BLK, MS_SHIFT + 2);
	struct runlist out = { 0 };

	memset(d->used, 1, 4 * MS_BLK);
	memset(d->used + 1, 0, 327);
	for (unsigned i = 0; i < 12; i++)
		memset(d->used + 1000 + i * 600, 0, 320);
	disk_mount(d, 0);
	ck_assert_int_eq(disk_get(d, NULL, 0, 328, ALLOC_CONTIG, &out), -ENOSPC);
	ck_assert_int_eq(disk_get(d, NULL, 0, 325, ALLOC_CONTIG, &out), 0);
	ck_assert_uint_eq(out.runs[0].start_blk, 1);
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

// FREE blocks are walked over; TAKEN, OWNED and FREEING ones are not.
START_TEST(walks_the_free_runs)
{
	struct disk *d = disk_mounted(3 * MS_BLK + 50);
	struct runlist runs = { 0 };

	disk_own(d, disk_get_one(d, NULL, 1000, 500), 500);
	disk_disown(d, 1100, 100, 4);
	disk_get_one(d, NULL, 2 * MS_BLK, 1);
	disk_free_runs(d, &runs);
	runlist_sort(&runs);
	ck_assert_uint_eq(runs.n, 3);
	ck_assert_uint_eq(runs.runs[0].start_blk, 0);
	ck_assert_uint_eq(runs.runs[0].len_blk, 1000);
	ck_assert_uint_eq(runs.runs[1].start_blk, 1500);
	ck_assert_uint_eq(runs.runs[1].len_blk, 2 * MS_BLK - 1500);
	ck_assert_uint_eq(runs.runs[2].start_blk, 2 * MS_BLK + 1);
	ck_assert_uint_eq(runlist_blks(&runs), disk_free_blks(d));
	alloc_release(d->a, 4);
	disk_free_runs(d, &runs);
	runlist_sort(&runs);
	ck_assert_uint_eq(runs.n, 4);
	ck_assert_uint_eq(runs.runs[1].start_blk, 1100);
	ck_assert_uint_eq(runs.runs[1].len_blk, 100);
	runlist_free(&runs);
	disk_free(d);
}
END_TEST

static int stop_at_third(void *ctx, uint64_t start_blk ATTR_UNUSED, uint64_t len_blk ATTR_UNUSED)
{
	return ++*(int *)ctx == 3 ? -EINTR : 0;
}

START_TEST(a_walk_can_be_ended)
{
	struct disk *d = disk_combed(2 * MS_BLK);
	int n = 0;

	ck_assert_int_eq(alloc_walk_free(d->a, stop_at_third, &n), -EINTR);
	ck_assert_int_eq(n, 3);
	disk_check(d);
	disk_free(d);
}
END_TEST

START_TEST(counts_agree)
{
	struct disk *d = disk_new(4 * MS_BLK + 9, MS_SHIFT);
	struct alloc_stats st;
	uint64_t free_blk, freeing_blk;

	disk_mount(d, 123);
	disk_own(d, disk_get_one(d, NULL, 0, 700), 700);
	disk_get_one(d, NULL, 0, 3);
	disk_disown(d, disk_next(d, 0, d->n_blks, true), 60, 1);
	alloc_get_stats(d->a, &st);
	alloc_get_free(d->a, &free_blk, &freeing_blk);
	ck_assert_uint_eq(st.total_blk, d->n_blks);
	ck_assert_uint_eq(st.free_blk, d->n_blks - 703);
	ck_assert_uint_eq(st.freeing_blk, 60);
	ck_assert_uint_eq(st.reserve_blk, 123);
	ck_assert_uint_eq(st.n_metaslabs, 5);
	ck_assert_uint_eq(free_blk, st.free_blk);
	ck_assert_uint_eq(freeing_blk, st.freeing_blk);
	disk_free(d);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("check_alloc");
	TCase *promises = tcase_create("promises");

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
	tcase_add_loop_test(promises, every_last_block_can_be_had, 0, 6);
	tcase_add_loop_test(promises, best_fit, 0, 2);
	tcase_add_test(promises, contig_finds_the_only_run);
	tcase_add_test(promises, walks_the_free_runs);
	tcase_add_test(promises, a_walk_can_be_ended);
	tcase_add_test(promises, counts_agree);
	suite_add_tcase(suite, promises);
	return alloctest_run("check_alloc", suite);
}
