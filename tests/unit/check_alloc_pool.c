// SPDX-License-Identifier: MIT
// What belongs together lies together: streams and what is kept behind them, small files of one directory, and that nothing
// which is kept back for somebody is missing when space is short.
//
// How the allocator keeps blocks for a stream is its own business: these tests look at who gets which blocks.
#include "alloctest.h"

#include "alloc/engine.h"

// Two streams written in turn, then four: extents of 4 MiB on average for two, and for four what windows that double up to
// 4 MiB give at the least.
START_TEST(streams_get_long_extents)
{
	static const uint64_t pieces[] = { 1, 16, 32, 256 };
	uint64_t want = pieces[_i / 2], blks = 0, extents = 0;
	unsigned n_streams = _i % 2 == 0 ? 2 : 4, least = _i % 2 == 0 ? 1024 : 768;
	struct disk *d = disk_new(1 << 19, 18);
	struct alloc_stream s[4];
	struct runlist out[4] = { { 0 } };
	uint64_t end[4] = { 0 };

	disk_mount(d, 0);
	for (unsigned i = 0; i < n_streams; i++)
		alloc_stream_init(&s[i]);
	for (uint64_t done = 0; done < 160000; done += want * n_streams) {
		for (unsigned i = 0; i < n_streams; i++) {
			ck_assert_int_eq(disk_get(d, &s[i], end[i], want, 0, &out[i]), 0);
			end[i] = out[i].runs[out[i].n - 1].start_blk + out[i].runs[out[i].n - 1].len_blk;
		}
	}
	disk_check(d);
	for (unsigned i = 0; i < n_streams; i++) {
		blks += runlist_blks(&out[i]);
		extents += out[i].n;
		alloc_stream_end(&s[i]);
		runlist_free(&out[i]);
	}
	ck_assert_msg(blks / extents >= least, "%" PRIu64 " extents for %" PRIu64 " blocks in pieces of %" PRIu64,
	              extents, blks, want);
	disk_check(d);
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
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(small_files_leave_large_runs_whole)
{
	struct disk *d = disk_mounted(MS_BLK);
	struct runlist out = { 0 };

	// A small file and a large one in turn: the small ones do not lie between the large ones.
	for (unsigned i = 0; i < 5; i++) {
		disk_get_one(d, NULL, 0, 1);
		disk_get_one(d, NULL, 0, 300);
	}
	ck_assert_uint_ge(alloc_largest_run(d->a, 0), MS_BLK - 5 * 300 - 1024);
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

// Most files are written once and end there: a stream that has had one small request keeps nothing behind it, so that files
// written one after the other lie side by side although all of them are still open.
START_TEST(files_written_once_lie_side_by_side)
{
	struct disk *d = disk_mounted(4 * MS_BLK);
	struct alloc_stream s[60];
	uint64_t lo = UINT64_MAX, hi = 0, x;

	for (size_t i = 0; i < ARRAY_LEN(s); i++) {
		alloc_stream_init(&s[i]);
		x = disk_get_one(d, &s[i], 0, 20);
		lo = min_u64(lo, x);
		hi = max_u64(hi, x + 20);
	}
	ck_assert_uint_lt(hi - lo, 60 * 20 + 512);
	for (size_t i = 0; i < ARRAY_LEN(s); i++)
		alloc_stream_end(&s[i]);
	disk_check(d);
	disk_free(d);
}
END_TEST

// The blocks behind a stream that goes on are kept for it while there is room elsewhere, and count as free.
START_TEST(a_stream_goes_on_where_it_was)
{
	static const uint64_t others[] = { 1, 3, 16, 17, 100, 255, 256, 300, 1000 };
	struct disk *d = disk_mounted(8 * MS_BLK);
	struct runlist out = { 0 };
	struct alloc_stream s;
	uint64_t x, other, left = 8 * MS_BLK - 512;

	alloc_stream_init(&s);
	x = disk_get_one(d, &s, 0, 256);
	ck_assert_uint_eq(disk_get_one(d, &s, x + 256, 256), x + 256);
	ck_assert_uint_eq(disk_free_blks(d), left);
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		other = disk_get_one(d, NULL, 0, others[i]);
		left -= others[i];
		ck_assert(other >= x + 512 + 16 || other + others[i] <= x);
	}
	ck_assert_int_eq(disk_get(d, NULL, x + 512, 10, 0, &out), 0); // not even as a goal
	ck_assert_uint_ne(out.runs[0].start_blk, x + 512);
	ck_assert_uint_eq(disk_free_blks(d), left - 10);
	ck_assert_uint_eq(disk_get_one(d, &s, 0, 16), x + 512);
	ck_assert_uint_eq(disk_free_blks(d), left - 26);
	alloc_stream_end(&s);
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

// What a stream holds is nobody's yet: it can be neither freed nor put back nor committed.
START_TEST(windows_are_not_owned)
{
	struct disk *d = disk_mounted(4 * MS_BLK);
	struct alloc_stream s;
	uint64_t x;

	alloc_stream_init(&s);
	x = disk_get_one(d, &s, 0, 256);
	ck_assert_uint_eq(disk_get_one(d, &s, 0, 256), x + 256);
	disk_own(d, x, 512);
	disk_get_one(d, NULL, 0, 5); // so that something is TAKEN, and the refusal is not one of counts
	for (uint64_t i = 0; i < 16; i++) {
		disk_refused(d, alloc_free(d->a, x + 512 + i, 1, 1));
		disk_refused(d, alloc_put(d->a, x + 512 + i, 1));
		disk_refused(d, alloc_commit(d->a, x + 512 + i, 1));
	}
	disk_refused(d, alloc_free(d->a, x + 500, 24, 1));
	ck_assert_uint_eq(disk_free_blks(d), 4 * MS_BLK - 517);
	alloc_stream_end(&s);
	disk_disown(d, x, 512, 1);
	disk_check(d);
	disk_free(d);
}
END_TEST

// Blocks beside small ones may be held for more small ones: all that was not handed out is refused.
START_TEST(pooled_blocks_are_not_owned)
{
	struct disk *d = disk_mounted(2 * MS_BLK);
	uint8_t *mine = calloc(d->n_blks, 1);
	uint64_t x = 0;

	for (unsigned i = 0; i < 20; i++) {
		x = disk_get_one(d, NULL, 0, 1 + i % 5);
		memset(mine + x, 1, 1 + i % 5);
		disk_own(d, x, 1 + i % 5);
	}
	for (uint64_t blk = x > 200 ? x - 200 : 0; blk < min_u64(x + 200, d->n_blks); blk++) {
		if (mine[blk])
			continue;
		ck_assert_int_eq(alloc_free(d->a, blk, 1, 1), -EINVAL);
		ck_assert_int_eq(alloc_put(d->a, blk, 1), -EINVAL);
		ck_assert_int_eq(alloc_commit(d->a, blk, 1), -EINVAL);
	}
	ck_assert_uint_eq(disk_free_blks(d), d->n_blks - 60);
	disk_check(d);
	free(mine);
	disk_free(d);
}
END_TEST

START_TEST(window_moves_with_the_goal)
{
	struct disk *d = disk_mounted(4 * MS_BLK);
	struct alloc_stream s;
	uint64_t x, far;

	alloc_stream_init(&s);
	x = disk_get_one(d, &s, 0, 256) + 256;
	ck_assert_uint_eq(disk_get_one(d, &s, x, 256), x);
	x += 256;
	ck_assert_uint_eq(disk_get_one(d, &s, x + 10, 5), x + 10); // a bit further on: what lies between is left out
	disk_check(d);
	far = x < 2 * MS_BLK ? x + 2 * MS_BLK : x - 2 * MS_BLK;
	ck_assert_uint_eq(disk_get_one(d, &s, far, 5), far);       // elsewhere
	ck_assert_uint_eq(disk_get_one(d, &s, 0, 5), far + 5);     // and from there on
	alloc_stream_end(&s);
	disk_check(d);
	ck_assert_uint_eq(disk_get_one(d, NULL, x, 10), x);        // nothing of all that is held any more
	ck_assert_uint_eq(disk_get_one(d, NULL, x + 15, 10), x + 15);
	ck_assert_uint_eq(disk_get_one(d, NULL, far + 10, 10), far + 10);
	disk_check(d);
	disk_free(d);
}
END_TEST

// Requests of one stream overtake each other. Who comes early leaves room for those before him; who comes late takes it, and
// the stream goes on behind the one that came early.
START_TEST(late_requests_fill_in)
{
	struct disk *d = disk_new(2 * MS_BLK, MS_SHIFT);
	struct runlist runs = { 0 };
	struct alloc_stream s;

	// A shorter run is elsewhere, which a stream that does not know where it was would rather have.
	memset(d->used + MS_BLK, 1, MS_BLK);
	memset(d->used + MS_BLK + 100, 0, 2000);
	disk_mount(d, 0);
	disk_free_runs(d, &runs); // all is loaded
	alloc_stream_init(&s);
	ck_assert_uint_eq(disk_get_one(d, &s, 100, 256), 100);
	ck_assert_uint_eq(disk_get_one(d, &s, 868, 256), 868); // two have not come yet
	ck_assert_uint_eq(disk_get_one(d, &s, 612, 256), 612);
	disk_check(d);
	ck_assert_uint_eq(disk_get_one(d, &s, 0, 256), 1124);
	ck_assert_uint_eq(disk_get_one(d, &s, 356, 256), 356);
	ck_assert_uint_eq(disk_get_one(d, &s, 0, 256), 1380);
	alloc_stream_end(&s);
	disk_check(d);
	runlist_free(&runs);
	disk_free(d);
}
END_TEST

// A stream may be ended and used again; ending one that was never used, or twice, does nothing.
START_TEST(a_stream_may_begin_anew)
{
	struct disk *d = disk_mounted(4 * MS_BLK);
	struct runlist runs = { 0 };
	struct alloc_stream s;
	uint64_t x;

	alloc_stream_init(&s);
	alloc_stream_end(&s);
	for (unsigned i = 0; i < 3; i++) {
		x = disk_get_one(d, &s, 0, 300);
		ck_assert_uint_eq(disk_get_one(d, &s, 0, 40), x + 300);
		alloc_stream_end(&s);
		alloc_stream_end(&s);
		ck_assert_int_eq(alloc_put(d->a, x, 340), 0);
	}
	disk_free_runs(d, &runs);
	ck_assert_uint_eq(runlist_blks(&runs), 4 * MS_BLK);
	runlist_sort(&runs);
	ck_assert_uint_eq(runs.n, 1);
	disk_check(d);
	runlist_free(&runs);
	disk_free(d);
}
END_TEST

START_TEST(windows_are_taken_back_when_short)
{
	struct disk *d = disk_mounted(4 * MS_BLK);
	struct alloc_stream s[6];
	struct runlist out = { 0 };

	for (int i = 0; i < 6; i++) {
		alloc_stream_init(&s[i]);
		disk_get_one(d, &s[i], 0, 256);
		disk_get_one(d, &s[i], 0, 64);
	}
	ck_assert_uint_eq(disk_free_blks(d), 4 * MS_BLK - 6 * 320);
	ck_assert_int_eq(disk_get(d, NULL, 0, 4 * MS_BLK - 6 * 320, 0, &out), 0);
	ck_assert_uint_eq(disk_free_blks(d), 0);
	for (int i = 0; i < 6; i++)
		ck_assert_int_eq(disk_get(d, &s[i], 0, 1, 0, &out), -ENOSPC);
	for (int i = 0; i < 6; i++)
		alloc_stream_end(&s[i]);
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

START_TEST(contig_takes_windows_back)
{
	struct disk *d = disk_mounted(MS_BLK);
	struct alloc_stream s;
	struct runlist out = { 0 };
	uint64_t x;

	alloc_stream_init(&s);
	x = disk_get_one(d, &s, 1, 1024) + 1024;
	ck_assert_int_eq(disk_get(d, NULL, 0, MS_BLK - x, ALLOC_CONTIG, &out), 0);
	ck_assert_uint_eq(out.runs[0].start_blk, x);
	alloc_stream_end(&s);
	disk_check(d);
	runlist_free(&out);
	disk_free(d);
}
END_TEST

// Words of many localities and windows of many streams: together they hide nothing from the one who wants all that is left.
START_TEST(nothing_stays_in_the_pool)
{
	struct disk *d = disk_new(12 * MS_BLK + 345, MS_SHIFT);
	struct alloc_stream s[20];
	struct runlist out = { 0 }, all = { 0 };
	uint64_t left = d->n_blks;

	disk_mount(d, 0);
	for (unsigned i = 0; i < ARRAY_LEN(s); i++)
		alloc_stream_init(&s[i]);
	for (unsigned i = 0; i < 400; i++) {
		struct alloc_req req = { .want_blk = 1 + i % 30, .locality = i % 37 };

		ck_assert_int_eq(alloc_get(d->a, i % 3 ? NULL : &s[i % 20], &req, &all), 0);
		left -= req.want_blk;
	}
	ck_assert_uint_eq(disk_free_blks(d), left);
	ck_assert_int_eq(disk_get(d, NULL, 0, left + 1, 0, &out), -ENOSPC);
	ck_assert_int_eq(disk_get(d, NULL, 0, left, 0, &all), 0);
	ck_assert_int_eq(disk_get(d, NULL, 0, 1, 0, &out), -ENOSPC);
	runlist_sort(&all);
	ck_assert_uint_eq(all.n, 1); // each block once
	ck_assert_uint_eq(all.runs[0].len_blk, d->n_blks);
	for (unsigned i = 0; i < ARRAY_LEN(s); i++)
		alloc_stream_end(&s[i]);
	disk_check(d);
	runlist_free(&out);
	runlist_free(&all);
	disk_free(d);
}
END_TEST

// A word at the very beginning of the volume is closed and opened again like any other.
START_TEST(a_word_at_block_0)
{
	for (unsigned i = 0; engines[i] != NULL; i++) {
		struct disk *d = disk_new(4 * MS_BLK, MS_SHIFT);

		d->engine = engines[i];
		for (uint64_t blk = 0; blk < d->n_blks; blk++)
			d->used[blk] = blk >= 90 && (blk % 128 >= 63 || blk / 512 == 10);
		disk_mount(d, 0);
		for (unsigned k = 0; k < 16; k++)
			disk_get_one(d, NULL, 0, 4);
		disk_disown(d, 5184, 200, 1);
		alloc_release(d->a, 1);
		for (unsigned k = 0; k < 32; k++) {
			disk_get_one(d, NULL, 0, 4);
			disk_check(d);
		}
		disk_free(d);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("check_alloc_pool");
	TCase *together = tcase_create("together");

	tcase_add_loop_test(together, streams_get_long_extents, 0, 8);
	tcase_add_test(together, small_files_lie_together);
	tcase_add_test(together, small_files_leave_large_runs_whole);
	tcase_add_test(together, files_written_once_lie_side_by_side);
	tcase_add_test(together, a_stream_goes_on_where_it_was);
	tcase_add_test(together, windows_are_not_owned);
	tcase_add_test(together, pooled_blocks_are_not_owned);
	tcase_add_test(together, window_moves_with_the_goal);
	tcase_add_test(together, late_requests_fill_in);
	tcase_add_test(together, a_stream_may_begin_anew);
	tcase_add_test(together, windows_are_taken_back_when_short);
	tcase_add_test(together, contig_takes_windows_back);
	tcase_add_test(together, nothing_stays_in_the_pool);
	tcase_add_test(together, a_word_at_block_0);
	suite_add_tcase(suite, together);
	return alloctest_run("check_alloc_pool", suite);
}
