// SPDX-License-Identifier: MIT
// The allocator with four threads at once on one volume. Each thread knows its own blocks; a shared byte per block, changed by
// an atomic exchange before and after each call, shows a block that was handed out twice. Under TSan this is also the test of
// the locks, so everything that may be called from any thread is called here.
#include "alloctest.h"

#include <stdatomic.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define OPS 20000u // of each thread
#define ROUNDS 4
#else
#define OPS 60000u
#define ROUNDS 20
#endif

#define N_THREADS 4
#define N_STREAMS 4 // of each thread
#define N_KEPT 600

struct shared {
	struct disk *d;
	_Atomic uint8_t *held;  // per block from the disk's base_blk on: 1 = some thread has it
	_Atomic uint64_t epoch;
	uint64_t most_blk;      // that a thread may hold; such that with it -ENOSPC is never true. 0: no bound
	uint64_t seed;
};

struct kept {
	struct run r;
	bool owned;
};

struct worker {
	struct shared *sh;
	uint64_t rng, held_blk;
	struct alloc_stream streams[N_STREAMS];
	struct kept kept[N_KEPT];
	unsigned n_kept;
	struct runlist out;
};

static uint64_t rnd(struct worker *w, uint64_t below) { return alloctest_rnd(&w->rng) % below; }

// The blocks that are not used for good.
static uint64_t stretch_blks(const struct disk *d) { return d->n_blks - d->base_blk; }

static void mark(struct worker *w, struct run r, uint8_t to)
{
	uint64_t base = w->sh->d->base_blk;

	if (r.start_blk < base || r.start_blk + r.len_blk > w->sh->d->n_blks)
		ck_abort_msg("block %" PRIu64 " was not free", r.start_blk);
	for (uint64_t blk = r.start_blk; blk < r.start_blk + r.len_blk; blk++)
		if (atomic_exchange_explicit(&w->sh->held[blk - base], to, memory_order_relaxed) == to)
			ck_abort_msg("block %" PRIu64 " is %s", blk, to ? "handed out twice" : "not held");
	w->held_blk += to ? r.len_blk : -r.len_blk;
}

// TAKEN → FREE, or OWNED → FREEING. The store changes with the allocator, under its lock.
static void let_go(struct worker *w, struct run r, bool owned)
{
	struct disk *d = w->sh->d;
	uint64_t epoch;

	mark(w, r, 0);
	if (!owned) {
		ck_assert_int_eq(alloc_put(d->a, r.start_blk, r.len_blk), 0);
		return;
	}
	disk_enter(d);
	epoch = atomic_fetch_add(&w->sh->epoch, 1);
	disk_disown(d, r.start_blk, r.len_blk, epoch);
	disk_leave(d);
	if (w->sh->most_blk > 0 || rnd(w, 50) == 0)
		alloc_release(d->a, epoch);
}

static void let_one_go(struct worker *w)
{
	struct kept *k;
	struct run r;

	if (w->n_kept == 0)
		return;
	k = &w->kept[rnd(w, w->n_kept)];
	r = k->r;
	if (rnd(w, 3) == 0)
		r.len_blk = 1 + rnd(w, r.len_blk);
	let_go(w, r, k->owned);
	k->r.start_blk += r.len_blk;
	k->r.len_blk -= r.len_blk;
	if (k->r.len_blk == 0)
		*k = w->kept[--w->n_kept];
}

static void commit_one(struct worker *w)
{
	struct disk *d = w->sh->d;
	struct kept *k;

	if (w->n_kept == 0)
		return;
	k = &w->kept[rnd(w, w->n_kept)];
	if (k->owned)
		return;
	disk_enter(d);
	disk_own(d, k->r.start_blk, k->r.len_blk);
	disk_leave(d);
	k->owned = true;
}

static void keep_all(struct worker *w)
{
	for (uint32_t i = 0; i < w->out.n; i++) {
		mark(w, w->out.runs[i], 1);
		if (w->n_kept < N_KEPT)
			w->kept[w->n_kept++] = (struct kept){ w->out.runs[i], false };
		else
			let_go(w, w->out.runs[i], false);
	}
}

static void get_some(struct worker *w)
{
	struct alloc_req req = { .locality = (uint32_t)rnd(w, 6) };
	struct alloc_stream *s = rnd(w, 3) == 0 ? &w->streams[rnd(w, N_STREAMS)] : NULL;
	unsigned kind = (unsigned)rnd(w, 32);
	int err;

	req.want_blk = 1 + rnd(w, kind == 0 ? 1200 : kind < 6 ? 200 : 20);
	req.flags = kind == 6 ? ALLOC_CONTIG : kind == 7 ? ALLOC_PARTIAL : 0;
	if (rnd(w, 8) == 0)
		req.goal_blk = w->sh->d->base_blk + rnd(w, stretch_blks(w->sh->d));
	runlist_clear(&w->out);
	err = alloc_get(w->sh->d->a, s, &req, &w->out);
	ck_assert(err == 0 || (err == -ENOSPC && w->out.n == 0));
	if (err != 0 && w->sh->most_blk > 0 && !(req.flags & ALLOC_CONTIG))
		ck_abort_msg("-ENOSPC for %" PRIu64 " blocks though there is room", req.want_blk);
	if (err == 0 && !(req.flags & ALLOC_PARTIAL))
		ck_assert_uint_eq(runlist_blks(&w->out), req.want_blk);
	keep_all(w);
}

static int count_blks(void *ctx, uint64_t start_blk ATTR_UNUSED, uint64_t len_blk)
{
	*(uint64_t *)ctx += len_blk;
	return 0;
}

// What other parts of the program do beside: ask for counts, give memory back, list the free runs, fail at a free.
static void disturb(struct worker *w)
{
	struct disk *d = w->sh->d;
	struct alloc_stats st;
	uint64_t free_blk, freeing_blk, n = 0;

	switch (rnd(w, 12)) {
	case 0:
		alloc_shrink(d->a, rnd(w, 2) ? 0 : 100000);
		break;
	case 1:
		if (d->base_blk > 0)
			break; // loads every metaslab, and there are thousands
		ck_assert_int_eq(alloc_walk_free(d->a, count_blks, &n), 0);
		ck_assert_uint_le(n, d->n_blks);
		break;
	case 2:
	case 3:
		alloc_release(d->a, atomic_load(&w->sh->epoch) - 1);
		break;
	case 4:
		alloc_get_stats(d->a, &st);
		ck_assert_uint_le(st.n_loaded, st.n_metaslabs);
		break;
	case 5:
		alloc_get_free(d->a, &free_blk, &freeing_blk);
		ck_assert_uint_le(free_blk, d->n_blks);
		break;
	case 6:
		alloc_largest_run(d->a, (uint32_t)rnd(w, d->n_blks >> d->ms_shift));
		break;
	case 7:
		ck_assert_int_eq(alloc_free(d->a, d->n_blks - 1, 2, 1), -EINVAL);
		break;
	default:
		alloc_stream_end(&w->streams[rnd(w, N_STREAMS)]);
	}
}

static void worker_init(struct worker *w, struct shared *sh, unsigned i)
{
	*w = (struct worker){ .sh = sh, .rng = alloctest_seed(sh->seed * N_THREADS + i) };
	for (unsigned s = 0; s < N_STREAMS; s++)
		alloc_stream_init(&w->streams[s]);
}

static void worker_end(struct worker *w)
{
	for (unsigned s = 0; s < N_STREAMS; s++)
		alloc_stream_end(&w->streams[s]);
	runlist_free(&w->out);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	for (unsigned op = 0; op < OPS; op++) {
		unsigned kind = (unsigned)rnd(w, 100);

		if (w->sh->most_blk > 0 && w->held_blk > w->sh->most_blk)
			let_one_go(w);
		else if (kind < (op / 2000 % 2 ? 45 : 30))
			get_some(w);
		else if (kind < 60)
			commit_one(w);
		else if (kind < 99)
			let_one_go(w);
		else
			disturb(w);
	}
	return NULL;
}

static void run_threads(void *(*fn)(void *), struct worker *w)
{
	pthread_t thread[N_THREADS];

	for (unsigned i = 0; i < N_THREADS; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, fn, &w[i]), 0);
	for (unsigned i = 0; i < N_THREADS; i++)
		pthread_join(thread[i], NULL);
}

// Each free run is held by nobody.
static int not_held(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	struct shared *sh = ctx;

	for (uint64_t blk = start_blk; blk < start_blk + len_blk; blk++)
		if (sh->held[blk - sh->d->base_blk])
			return -EUCLEAN;
	return 0;
}

static void shared_init(struct shared *sh, struct disk *d, uint64_t seed)
{
	if (d->a == NULL)
		disk_mount(d, 0);
	*sh = (struct shared){ .d = d, .held = calloc(stretch_blks(d), 1), .epoch = 1, .seed = seed };
	printf("SEED=%" PRIu64 "\n", seed);
	fflush(stdout);
}

static struct disk *new_disk(int kind)
{
	if (kind == 0)
		return disk_new(24 * MS_BLK + 333, MS_SHIFT);
	return kind == 1 ? disk_new_large(3u << LARGE_MS_SHIFT) : disk_new(2 * MS_BLK + 333, MS_SHIFT);
}

// First with room to spare, where no request may fail, on a small and a large volume; then on one that is too small for all.
START_TEST(four_threads)
{
	struct worker *w = calloc(N_THREADS, sizeof(*w));
	struct shared sh;
	uint64_t held = 0;

	shared_init(&sh, new_disk(_i), alloctest_env("SEED", 1));
	sh.most_blk = _i < 2 ? stretch_blks(sh.d) / 8 : 0;
	for (unsigned i = 0; i < N_THREADS; i++)
		worker_init(&w[i], &sh, i);
	run_threads(work, w);
	for (unsigned i = 0; i < N_THREADS; i++)
		held += w[i].held_blk;
	alloc_release(sh.d->a, UINT64_MAX);
	ck_assert_uint_eq(disk_free_blks(sh.d), stretch_blks(sh.d) - held);
	disk_check(sh.d);
	ck_assert_int_eq(alloc_walk_free(sh.d->a, not_held, &sh), 0);
	for (unsigned i = 0; i < N_THREADS; i++) {
		while (w[i].n_kept > 0)
			let_one_go(&w[i]);
		worker_end(&w[i]);
	}
	alloc_release(sh.d->a, UINT64_MAX);
	ck_assert_uint_eq(disk_free_blks(sh.d), stretch_blks(sh.d));
	disk_check(sh.d);
	disk_free(sh.d);
	free(sh.held);
	free(w);
}
END_TEST

// Ranges that cross metaslabs, committed and given back as a whole while others do the same beside and between.
// The blocks on both sides of the border of two metaslabs become one range if nobody else has them.
static void get_at_border(struct worker *w)
{
	struct disk *d = w->sh->d;
	uint64_t border = d->base_blk + ((1 + rnd(w, (stretch_blks(d) - 1) >> d->ms_shift)) << d->ms_shift);
	struct alloc_req req = { .want_blk = 1 + rnd(w, 40) };

	runlist_clear(&w->out);
	req.goal_blk = border - req.want_blk;
	if (alloc_get(d->a, NULL, &req, &w->out) != 0)
		return;
	req.goal_blk = border;
	if (alloc_get(d->a, NULL, &req, &w->out) == 0)
		ck_assert_uint_eq(runlist_blks(&w->out), 2 * req.want_blk);
	keep_all(w);
}

static void *work_at_borders(void *arg)
{
	struct worker *w = arg;

	for (unsigned op = 0; op < OPS / 4; op++) {
		get_at_border(w);
		while (w->n_kept > 3) {
			commit_one(w);
			let_one_go(w);
		}
	}
	while (w->n_kept > 0)
		let_one_go(w);
	return NULL;
}

START_TEST(over_the_borders)
{
	struct worker *w = calloc(N_THREADS, sizeof(*w));
	struct shared sh;

	shared_init(&sh, new_disk(_i), alloctest_env("SEED", 1));
	sh.most_blk = stretch_blks(sh.d) / 8;
	for (unsigned i = 0; i < N_THREADS; i++)
		worker_init(&w[i], &sh, i);
	run_threads(work_at_borders, w);
	alloc_release(sh.d->a, UINT64_MAX);
	ck_assert_uint_eq(disk_free_blks(sh.d), stretch_blks(sh.d));
	disk_check(sh.d);
	for (unsigned i = 0; i < N_THREADS; i++)
		worker_end(&w[i]);
	disk_free(sh.d);
	free(sh.held);
	free(w);
}
END_TEST

// Takes what there is until there is nothing; a thread sees -ENOSPC for one block only when all are gone.
static void *drain(void *arg)
{
	struct worker *w = arg;
	struct alloc_req req = { .want_blk = 1 };
	struct disk *d = w->sh->d;
	int err = 0;

	while (err == 0) {
		struct alloc_stream *s = rnd(w, 2) ? &w->streams[rnd(w, N_STREAMS)] : NULL;

		req.locality = (uint32_t)rnd(w, 8);
		req.want_blk = 1 + rnd(w, rnd(w, 8) ? 16 : 400);
		runlist_clear(&w->out);
		err = alloc_get(d->a, s, &req, &w->out);
		if (err == -ENOSPC) {
			req.want_blk = 1;
			err = alloc_get(d->a, s, &req, &w->out);
		}
		for (uint32_t i = 0; i < w->out.n; i++)
			mark(w, w->out.runs[i], 1);
	}
	ck_assert_int_eq(err, -ENOSPC);
	return NULL;
}

START_TEST(every_block_is_found)
{
	struct worker *w = calloc(N_THREADS, sizeof(*w));
	struct shared sh;
	uint64_t held = 0;

	shared_init(&sh, _i % 4 == 3 ? disk_new_large(2u << LARGE_MS_SHIFT) : disk_mounted(5 * MS_BLK + 100),
	            alloctest_env("SEED", (uint64_t)_i + 1));
	for (unsigned i = 0; i < N_THREADS; i++)
		worker_init(&w[i], &sh, i);
	run_threads(drain, w);
	for (unsigned i = 0; i < N_THREADS; i++) {
		held += w[i].held_blk;
		worker_end(&w[i]);
	}
	ck_assert_uint_eq(held, stretch_blks(sh.d));
	ck_assert_uint_eq(disk_free_blks(sh.d), 0);
	disk_check(sh.d);
	disk_free(sh.d);
	free(sh.held);
	free(w);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("check_alloc_threads");
	TCase *threads = tcase_create("threads");

	tcase_set_timeout(threads, 240);
	tcase_add_loop_test(threads, four_threads, 0, 3);
	tcase_add_loop_test(threads, over_the_borders, 0, 2);
	tcase_add_loop_test(threads, every_block_is_found, 0, ROUNDS);
	suite_add_tcase(suite, threads);
	return alloctest_run("check_alloc_threads", suite);
}
