// SPDX-License-Identifier: MIT
// Ageing, as Geriatrix does it (Kadekodi, Nagarajan, Ganger: "Geriatrix: Aging what you see and what you don't see", USENIX ATC
// 2018): a volume of 10 GiB is filled and then churned five times over with files of mixed sizes, whose deaths follow
// their ages: most die young, some live through all of it. The rate of deaths holds the utilisation between 80 and 90%.
// What is asserted is what an aged volume must still be: files in one piece, free space in large runs.
//
// The same seed gives the same sequence. SEED=n runs another one; the seed and the figures are printed.
#include "alloctest.h"

#include "alloc/engine.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define AGE_MS 40u // half of the volume
#else
#define AGE_MS 80u
#endif

#define AGE_MS_SHIFT 15u                    // 128 MiB
#define AGE_BLKS ((uint64_t)AGE_MS << AGE_MS_SHIFT)
#define CHURNS 5u
#define MIB_BLK 256u
#define N_DIRS 400u
#define N_OPEN 8u       // files being written at the same time
#define PIECE_BLK 256u  // larger files are written in pieces of that much
#define EPOCH_OPS 100u  // from one durable transaction to the next

// Deaths by age: of the files in order of their birth, this share of the deaths falls on that share of the files.
struct age_class {
	unsigned files_percent, deaths_percent; // oldest first; both add up to 100
};

static const struct age_class classes[] = { { 40, 10 }, { 30, 20 }, { 20, 30 }, { 10, 40 } };

struct file {
	struct run *runs;
	uint32_t n;
};

struct aged {
	struct disk *d;
	uint64_t rng, epoch, ops;
	struct file *files; // by birth; dead ones (n = 0) are squeezed out now and then
	size_t n_files, cap, n_dead;
	uint64_t written_blk, n_requests, n_extents;
	uint64_t large_blk, large_extents; // of files of more than 4 MiB
	struct alloc_stream streams[N_OPEN];
};

static uint64_t rnd(struct aged *g, uint64_t below) { return alloctest_rnd(&g->rng) % below; }

// 60% 4 KiB, 20% 8–32 KiB, 15% 64–256 KiB, 4.6% 1–4 MiB, 0.4% up to 32 MiB: most files are small, most bytes are in large ones.
static uint64_t random_size(struct aged *g)
{
	uint64_t kind = rnd(g, 1000);

	if (kind < 600)
		return 1;
	if (kind < 800)
		return 2 + rnd(g, 7);
	if (kind < 950)
		return 16 + rnd(g, 49);
	return kind < 996 ? 256 + rnd(g, 769) : 1024 + rnd(g, 7169);
}

// ---- one file ----

static void write_piece(struct aged *g, struct alloc_stream *s, uint64_t want, uint32_t dir, struct runlist *out)
{
	struct alloc_req req = { .want_blk = want, .locality = dir + 1 };
	uint64_t end = 0;
	uint32_t before = out->n;

	if (out->n > 0)
		end = out->runs[out->n - 1].start_blk + out->runs[out->n - 1].len_blk;
	req.goal_blk = end;
	ck_assert_int_eq(alloc_get(g->d->a, s, &req, out), 0);
	g->n_requests++;
	// A request that has been put behind the one before has got one extent, although the list has not grown.
	g->n_extents += out->n > before ? out->n - before : 1;
	g->written_blk += want;
}

static void keep(struct aged *g, const struct runlist *out)
{
	struct file *f;

	if (g->n_files == g->cap) {
		g->cap = g->cap * 2 + 1024;
		g->files = reallocarray(g->files, g->cap, sizeof(*g->files));
	}
	f = &g->files[g->n_files++];
	f->n = out->n;
	f->runs = malloc(out->n * sizeof(*f->runs));
	memcpy(f->runs, out->runs, out->n * sizeof(*f->runs));
	if (runlist_blks(out) > 4 * MIB_BLK) {
		g->large_blk += runlist_blks(out);
		g->large_extents += out->n;
	}
	for (uint32_t i = 0; i < out->n; i++)
		disk_own(g->d, out->runs[i].start_blk, out->runs[i].len_blk);
}

// A few files grow in turn, each in a directory of its own; a file of one piece is written at once.
static void write_files(struct aged *g)
{
	struct runlist out[N_OPEN] = { { 0 } };
	uint64_t left[N_OPEN];
	uint32_t dir[N_OPEN];
	bool more = true;

	for (unsigned i = 0; i < N_OPEN; i++) {
		left[i] = random_size(g);
		dir[i] = (uint32_t)rnd(g, N_DIRS);
		alloc_stream_init(&g->streams[i]);
	}
	while (more) {
		more = false;
		for (unsigned i = 0; i < N_OPEN; i++) {
			uint64_t n = min_u64(left[i], PIECE_BLK);

			if (n == 0)
				continue;
			write_piece(g, &g->streams[i], n, dir[i], &out[i]);
			left[i] -= n;
			more |= left[i] > 0;
		}
	}
	for (unsigned i = 0; i < N_OPEN; i++) {
		alloc_stream_end(&g->streams[i]);
		keep(g, &out[i]);
		runlist_free(&out[i]);
	}
}

// ---- death ----

static void squeeze(struct aged *g)
{
	size_t kept = 0;

	for (size_t i = 0; i < g->n_files; i++)
		if (g->files[i].n > 0)
			g->files[kept++] = g->files[i];
	g->n_files = kept;
	g->n_dead = 0;
}

static size_t pick_victim(struct aged *g)
{
	uint64_t die = rnd(g, 100), from = 0, i = 0;

	for (; die >= classes[i].deaths_percent; i++) {
		die -= classes[i].deaths_percent;
		from += classes[i].files_percent;
	}
	from = g->n_files * from / 100;
	return from + rnd(g, max_u64(g->n_files * classes[i].files_percent / 100, 1));
}

static void delete_one(struct aged *g)
{
	struct file *f = &g->files[pick_victim(g)];

	if (f->n == 0)
		return;
	for (uint32_t i = 0; i < f->n; i++)
		disk_disown(g->d, f->runs[i].start_blk, f->runs[i].len_blk, g->epoch);
	free(f->runs);
	*f = (struct file){ NULL, 0 };
	if (++g->n_dead > g->n_files / 16)
		squeeze(g);
}

// ---- ageing ----

static uint64_t used_percent(struct aged *g)
{
	uint64_t free_blk, freeing_blk;

	alloc_get_free(g->d->a, &free_blk, &freeing_blk);
	return 100 - 100 * (free_blk + freeing_blk) / AGE_BLKS;
}

// Transactions become durable one behind: what this one frees may be used in the one after the next.
static void tick(struct aged *g)
{
	if (++g->ops % EPOCH_OPS == 0) {
		alloc_release(g->d->a, g->epoch - 1);
		g->epoch++;
	}
}

// Swings between 80 and 90% until so many blocks more have been written.
static void churn(struct aged *g, uint64_t blks)
{
	uint64_t stop = g->written_blk + blks, used;
	bool filling = true;

	while (g->written_blk < stop) {
		used = used_percent(g);
		if (used >= 90)
			filling = false;
		else if (used < 80)
			filling = true;
		// Ten deaths or one round of births: both go on all the time, in changing shares.
		if (rnd(g, 10) < (filling ? 7 : 2)) {
			write_files(g);
		} else if (used >= 80) {
			for (unsigned i = 0; i < 10; i++)
				delete_one(g);
		}
		tick(g);
	}
}

struct shares {
	uint64_t free_blk, large_blk, n_runs;
};

static int add_run(void *ctx, uint64_t start_blk ATTR_UNUSED, uint64_t len_blk)
{
	struct shares *s = ctx;

	s->n_runs++;
	s->free_blk += len_blk;
	s->large_blk += len_blk >= MIB_BLK ? len_blk : 0;
	return 0;
}

// No block belongs to two files, and all that belongs to none is free.
static void check_owners(struct aged *g)
{
	uint8_t *owned = calloc(AGE_BLKS, 1);
	uint64_t n = 0;

	for (size_t i = 0; i < g->n_files; i++) {
		for (uint32_t k = 0; k < g->files[i].n; k++) {
			struct run r = g->files[i].runs[k];

			ck_assert_ptr_null(memchr(owned + r.start_blk, 1, r.len_blk));
			memset(owned + r.start_blk, 1, r.len_blk);
			n += r.len_blk;
		}
	}
	ck_assert_uint_eq(disk_free_blks(g->d), AGE_BLKS - n);
	ck_assert_mem_eq(owned, g->d->used, AGE_BLKS);
	free(owned);
}

static struct shares measure(struct aged *g)
{
	struct shares s = { 0, 0, 0 };

	alloc_release(g->d->a, g->epoch);
	g->epoch++;
	ck_assert_int_eq(alloc_walk_free(g->d->a, add_run, &s), 0);
	disk_check(g->d);
	check_owners(g);
	ck_assert_uint_eq(s.free_blk, disk_free_blks(g->d));
	return s;
}

static void aged_free(struct aged *g)
{
	for (size_t i = 0; i < g->n_files; i++)
		free(g->files[i].runs);
	free(g->files);
	disk_free(g->d);
}

static struct aged aged_new(const struct engine_ops *engine, uint64_t seed)
{
	struct aged g = { .rng = alloctest_seed(seed), .epoch = 1 };

	g.d = disk_new(AGE_BLKS, AGE_MS_SHIFT);
	g.d->engine = engine;
	disk_mount(g.d, 0);
	return g;
}

START_TEST(stays_young)
{
	uint64_t seed = alloctest_env("SEED", (uint64_t)_i + 1);
	struct aged g;
	double extents;
	struct shares s;

	if (_i > 0 && getenv("SEED") != NULL)
		return; // once is enough
	g = aged_new(NULL, seed);
	churn(&g, AGE_BLKS * 85 / 100);
	for (unsigned round = 0; round < CHURNS; round++) {
		g.n_requests = g.n_extents = g.large_blk = g.large_extents = 0;
		churn(&g, AGE_BLKS);
		s = measure(&g);
		extents = (double)g.n_extents / (double)g.n_requests;
		printf("SEED=%" PRIu64 " round %u: %" PRIu64 "%% used, %.4f extents per allocation, %" PRIu64
		       " blocks per extent of large files, %.1f%% of free space in runs of 1 MiB and more (%" PRIu64 " in all)\n",
		       seed, round, used_percent(&g), extents, g.large_blk / g.large_extents,
		       100.0 * (double)s.large_blk / (double)s.free_blk, s.n_runs);
		fflush(stdout);
		ck_assert_uint_ge(used_percent(&g), 79);
		ck_assert_uint_le(used_percent(&g), 91);
		ck_assert_double_le(extents, 1.05);
		ck_assert_uint_gt(g.large_blk / g.large_extents, PIECE_BLK); // pieces of one file lie behind each other
		ck_assert_uint_ge(s.large_blk * 2, s.free_blk);
	}
	aged_free(&g);
}
END_TEST

// The other engines fragment as they do; but no block is lost or given twice, and no request fails while there are blocks.
START_TEST(every_engine_lives_through_it)
{
	for (const struct engine_ops *const *e = engines; *e != NULL; e++) {
		struct aged g = aged_new(*e, alloctest_env("SEED", 1));

		churn(&g, AGE_BLKS * 3 / 2);
		measure(&g);
		aged_free(&g);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("check_alloc_age");
	TCase *age = tcase_create("age");

	tcase_set_timeout(age, 300);
	tcase_add_loop_test(age, stays_young, 0, 2);
	tcase_add_test(age, every_engine_lives_through_it);
	suite_add_tcase(suite, age);
	return alloctest_run("check_alloc_age", suite);
}
