// SPDX-License-Identifier: MIT
// What the allocator's memory may be, held against the kernel's opinion of it:
//
//      1 TiB, nearly empty or holding only large extents        8 MiB, with all metaslabs loaded
//      1 TiB, every second block free, or any other load       64 MiB
//      1 PiB of which 1% is in use                             what a volume of that 1% costs, and a little for each metaslab
//
// Metaslabs are those that mkfs would make. What is used is told by a function of the block's number or by a bit for each
// extent of 4 MiB, so that no test needs a bit per block.
//
// memory_bytes must not be less than what the process has grown by (but for the heap's own slack), or it would be
// no bound of anything. Where a sanitizer has its shadow in the way only memory_bytes is looked at, on smaller volumes.
#include "alloctest.h"

#include <malloc.h>
#include <unistd.h>

#include "block/superblock.h"

#define TIB_BLK (1ull << 28)
#define PIB_BLK (1ull << 38)
#define BIG_BLK 1024u // 4 MiB
#define MIB (1ull << 20)
// What 1 PiB takes beyond what is used in it: 16 rotors have a metaslab of 256 GiB each that is used in part, at 1 MiB, and
// 4096 metaslabs have their structs.
#define PIB_MORE (20 * MIB)

// The divisor of a volume's size, and of its bound.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SMALLER 16u
#define RSS_COUNTS false
#else
#define SMALLER 1u
#define RSS_COUNTS true
#endif

enum pattern { EXTENTS, EVERY_SECOND, RANDOM_BITS };

struct vast {
	pthread_mutex_t lock; // the store's
	uint64_t n_blks;
	uint32_t ms_shift, n_ms;
	enum pattern pattern;
	uint64_t *used; // EXTENTS: a bit for each 4 MiB
	uint64_t *map;  // of one metaslab, for the loader
	uint64_t rss_before;
	struct alloc *a;
};

static uint64_t resident_bytes(void)
{
	unsigned long long pages, resident = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	ck_assert(f != NULL && fscanf(f, "%llu %llu", &pages, &resident) == 2);
	fclose(f);
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

// ---- the source ----

static void vast_enter(void *ctx) { pthread_mutex_lock(&((struct vast *)ctx)->lock); }
static void vast_leave(void *ctx) { pthread_mutex_unlock(&((struct vast *)ctx)->lock); }

static uint64_t ms_blks(const struct vast *v, uint32_t ms)
{
	return min_u64(1ull << v->ms_shift, v->n_blks - ((uint64_t)ms << v->ms_shift));
}

static uint64_t pattern_word(enum pattern pattern, uint64_t w)
{
	uint64_t x = (w + 1) * 0x9e3779b97f4a7c15ull;

	if (pattern == EVERY_SECOND)
		return 0x5555555555555555ull;
	x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9ull;
	return x ^ x >> 32;
}

static int load_extents(struct vast *v, uint64_t first, uint64_t n, struct alloc_loader *loader)
{
	int err = 0;

	for (uint64_t e = first / BIG_BLK; e < (first + n) / BIG_BLK && err == 0; e++)
		if (v->used[e / 64] >> (e % 64) & 1)
			err = alloc_loader_mark(loader, e * BIG_BLK, BIG_BLK, true);
	return err;
}

static int vast_load(void *ctx, uint32_t ms, struct alloc_loader *loader)
{
	struct vast *v = ctx;
	uint64_t first = (uint64_t)ms << v->ms_shift, n = ms_blks(v, ms);

	if (v->pattern == EXTENTS)
		return load_extents(v, first, n, loader);
	for (uint64_t w = 0; w < n / 64; w++)
		v->map[w] = pattern_word(v->pattern, first / 64 + w);
	return alloc_loader_mark_used_bits(loader, v->map);
}

static const struct alloc_source vast_source = { vast_enter, vast_leave, vast_load };

// ---- a volume ----

static void vast_mount(struct vast *v)
{
	uint64_t *free_blk = calloc(v->n_ms, sizeof(*free_blk));
	struct alloc_config cfg = { .n_blks = v->n_blks, .ms_shift = v->ms_shift, .ms_free_blk = free_blk,
	                            .source = &vast_source, .source_ctx = v };

	for (uint32_t ms = 0; ms < v->n_ms; ms++) {
		uint64_t first = (uint64_t)ms << v->ms_shift, n = ms_blks(v, ms);

		free_blk[ms] = n;
		for (uint64_t w = first / 64; v->pattern != EXTENTS && w < (first + n) / 64; w++)
			free_blk[ms] -= (unsigned)__builtin_popcountll(pattern_word(v->pattern, w));
		for (uint64_t w = first / BIG_BLK / 64; v->pattern == EXTENTS && w < (first + n) / BIG_BLK / 64; w++)
			if (v->used[w] != 0)
				free_blk[ms] -= BIG_BLK * (unsigned)__builtin_popcountll(v->used[w]);
	}
	malloc_trim(0);
	v->rss_before = resident_bytes();
	ck_assert_int_eq(alloc_create(&cfg, &v->a), 0);
	free(free_blk);
}

// The volume has a multiple of 64 × 4 MiB.
static void vast_new(struct vast *v, uint64_t n_blks, enum pattern pattern)
{
	struct superblock sb = { 0 };
	struct errmsg why;

	ck_assert_int_eq(sb_geometry(blk_to_bytes(n_blks), &sb, &why), 0);
	*v = (struct vast){ .n_blks = n_blks, .ms_shift = sb.ms_shift, .n_ms = sb_n_metaslabs(&sb), .pattern = pattern };
	pthread_mutex_init(&v->lock, NULL);
	v->used = calloc(n_blks / BIG_BLK / 64, sizeof(*v->used));
	v->map = malloc((1ull << v->ms_shift) / 8);
	memset(v->used, 1, n_blks / BIG_BLK / 8); // touched now: this is not the allocator's memory
	memset(v->used, 0, n_blks / BIG_BLK / 8);
	memset(v->map, 0, (1ull << v->ms_shift) / 8);
	vast_mount(v);
}

static void vast_free(struct vast *v)
{
	alloc_destroy(v->a);
	pthread_mutex_destroy(&v->lock);
	free(v->used);
	free(v->map);
}

static void vast_check(struct vast *v)
{
	struct errmsg why = { "" };

	ck_assert_msg(alloc_check(v->a, &why) == 0, "%s", why.text);
}

// In loops: Check writes a note to a file for each of its own assertions.
static void must(bool ok, const char *what)
{
	if (!ok)
		ck_abort_msg("%s", what);
}

static int ignore_run(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	(void)ctx;
	(void)start_blk;
	return len_blk > 0 ? 0 : -EUCLEAN;
}

// Walking loads everything, but takes long when there are 2^27 free runs: then by a block of each metaslab, which has some free.
static void load_all(struct vast *v)
{
	struct runlist out = { 0 };
	struct alloc_stats stats;

	if (v->pattern == EXTENTS)
		ck_assert_int_eq(alloc_walk_free(v->a, ignore_run, NULL), 0);
	for (uint32_t ms = 0; ms < v->n_ms && v->pattern != EXTENTS; ms++) {
		struct alloc_req req = { .goal_blk = ((uint64_t)ms << v->ms_shift) + 1, .want_blk = 1 };

		runlist_clear(&out);
		must(alloc_get(v->a, NULL, &req, &out) == 0 && alloc_put(v->a, out.runs[0].start_blk, 1) == 0, "a block near a goal");
	}
	runlist_free(&out);
	alloc_get_stats(v->a, &stats);
	ck_assert_uint_eq(stats.n_loaded, stats.n_metaslabs);
}

// Prints and returns memory_bytes, which must not hide anything.
static uint64_t memory(struct vast *v, const char *when)
{
	struct alloc_stats stats;
	uint64_t rss, grown;

	alloc_get_stats(v->a, &stats);
	malloc_trim(0);
	rss = resident_bytes();
	grown = rss > v->rss_before ? rss - v->rss_before : 0;
	printf("%-44s %8.2f MiB, resident %8.2f MiB, %4u of %4u metaslabs of 2^%u blocks loaded\n", when,
	       (double)stats.memory_bytes / MIB, (double)grown / MIB, stats.n_loaded, stats.n_metaslabs, v->ms_shift);
	fflush(stdout);
	// The heap's slack, and a byte for each page of bits (128 MiB) that counts only when the page is used.
	if (RSS_COUNTS)
		ck_assert_msg(grown <= stats.memory_bytes + 4 * MIB + (v->n_blks >> 15), "%s: %llu resident, memory_bytes says %llu", when,
		              (unsigned long long)grown, (unsigned long long)stats.memory_bytes);
	return stats.memory_bytes;
}

static void assert_at_most(uint64_t bytes, uint64_t bound, const char *what)
{
	ck_assert_msg(bytes <= bound, "%s: %.2f MiB, more than %.2f", what, (double)bytes / MIB, (double)bound / MIB);
}

// Takes an extent for each directory in turn until `until` of them are owned.
static void take_extents(struct vast *v, uint64_t until)
{
	struct runlist out = { 0 };

	for (uint64_t i = 0; i < until; i++) {
		struct alloc_req req = { .want_blk = BIG_BLK, .locality = 1 + (uint32_t)(i % 64) };
		uint64_t e;

		runlist_clear(&out);
		must(alloc_get(v->a, NULL, &req, &out) == 0 && out.n == 1, "an extent of 4 MiB");
		must(out.runs[0].start_blk % BIG_BLK == 0, "aligned, or vast_load would not tell the truth");
		must(alloc_commit(v->a, out.runs[0].start_blk, BIG_BLK) == 0, "commit");
		e = out.runs[0].start_blk / BIG_BLK;
		v->used[e / 64] |= 1ull << (e % 64);
	}
	runlist_free(&out);
}

// Half of them, at random, a thousand in each transaction; one transaction is always on its way.
static void free_half(struct vast *v)
{
	uint64_t rng = alloctest_seed(alloctest_env("SEED", 1)), n = 0;

	for (uint64_t e = 0; e < v->n_blks / BIG_BLK; e++) {
		if (v->used[e / 64] == 0)
			e |= 63;
		if ((v->used[e / 64] >> (e % 64) & 1) == 0 || (alloctest_rnd(&rng) & 1) != 0)
			continue;
		must(alloc_free(v->a, e * BIG_BLK, BIG_BLK, 1 + n / 1000) == 0, "free");
		v->used[e / 64] &= ~(1ull << (e % 64));
		if (++n % 1000 == 0 && n >= 2000)
			alloc_release(v->a, n / 1000 - 1);
	}
	alloc_release(v->a, UINT64_MAX);
}

// ---- 1 TiB ----

START_TEST(nearly_empty)
{
	struct vast v;

	vast_new(&v, TIB_BLK / SMALLER, EXTENTS);
	assert_at_most(memory(&v, "new, 1 TiB"), 8 * MIB, "new");
	take_extents(&v, 1000);
	assert_at_most(memory(&v, "1000 extents of 4 MiB"), 8 * MIB, "1000 extents");
	load_all(&v);
	assert_at_most(memory(&v, "and everything loaded"), 8 * MIB, "everything loaded");
	vast_check(&v);
	vast_free(&v);
}
END_TEST

START_TEST(large_extents)
{
	struct vast v;

	vast_new(&v, TIB_BLK / SMALLER, EXTENTS);
	take_extents(&v, v.n_blks / BIG_BLK);
	assert_at_most(memory(&v, "full of extents of 4 MiB"), 8 * MIB, "full");
	free_half(&v);
	assert_at_most(memory(&v, "a random half of them freed"), 8 * MIB, "half freed");
	vast_check(&v);
	take_extents(&v, v.n_blks / BIG_BLK / 3);
	assert_at_most(memory(&v, "two thirds of the holes filled"), 8 * MIB, "filled again");
	vast_check(&v);
	alloc_shrink(v.a, 0);
	assert_at_most(memory(&v, "shrunk"), 2 * MIB, "shrunk");
	take_extents(&v, 100);
	load_all(&v); // what the source tells is what the counts say, or this fails
	assert_at_most(memory(&v, "loaded again"), 8 * MIB, "loaded again");
	vast_check(&v);
	vast_free(&v);
}
END_TEST

// ---- the worst ----

// Single blocks come and go, so that the index has seen more than what was loaded.
static void churn_blocks(struct vast *v, unsigned n)
{
	struct alloc_req req = { .want_blk = 1 };
	struct runlist out = { 0 };

	for (unsigned i = 0; i < n; i++) {
		req.locality = 1 + i / 4096;
		must(alloc_get(v->a, NULL, &req, &out) == 0, "a block");
	}
	for (uint32_t i = 0; i < out.n; i++)
		must(alloc_put(v->a, out.runs[i].start_blk, out.runs[i].len_blk) == 0, "put");
	runlist_free(&out);
}

static void worst(enum pattern pattern, unsigned smaller, const char *name)
{
	struct vast v;
	uint64_t all, half;

	vast_new(&v, TIB_BLK / smaller, pattern);
	load_all(&v);
	all = memory(&v, name);
	assert_at_most(all, 64 * MIB / smaller, name);
	churn_blocks(&v, 200000);
	assert_at_most(memory(&v, "after 200,000 came and went"), 64 * MIB / smaller, name);
	alloc_shrink(v.a, all / 2);
	half = memory(&v, "shrunk to half");
	assert_at_most(half, all / 2, "shrunk to half");
	alloc_shrink(v.a, 0);
	assert_at_most(memory(&v, "shrunk"), MIB, "shrunk");
	churn_blocks(&v, 1000);
	vast_check(&v); // of a few metaslabs: it looks at each run
	vast_free(&v);
}

START_TEST(every_second_block) { worst(EVERY_SECOND, SMALLER, "every second block free"); }
END_TEST

// Smaller, because loading so many runs (50 ns each) is what takes the time here.
START_TEST(random_blocks) { worst(RANDOM_BITS, 16, "64 GiB, each block free by chance"); }
END_TEST

// ---- 1 PiB ----

START_TEST(sparse_pebibyte)
{
	uint64_t n = PIB_BLK / 100 / SMALLER / BIG_BLK / 64 * 64, little, much;
	struct vast full, vast;

	vast_new(&full, n * BIG_BLK, EXTENTS);
	take_extents(&full, n);
	little = memory(&full, "a hundredth of a PiB, full of 4 MiB");
	vast_free(&full);

	vast_new(&vast, PIB_BLK, EXTENTS);
	assert_at_most(memory(&vast, "a PiB, new"), 4 * MIB, "new");
	take_extents(&vast, n);
	much = memory(&vast, "a PiB, 1% of it such extents");
	assert_at_most(much, little + PIB_MORE, "1 PiB, 1% in use");
	free_half(&vast);
	assert_at_most(memory(&vast, "a random half of them freed"), little + PIB_MORE + 8 * MIB, "half freed");

	// A mount knows the counts only, and what it loads is what it needs.
	alloc_destroy(vast.a);
	vast_mount(&vast);
	take_extents(&vast, 1000);
	assert_at_most(memory(&vast, "mounted again, 1000 more"), PIB_MORE, "mounted again");
	vast_check(&vast);
	vast_free(&vast);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("alloc_memory");
	TCase *tib = tcase_create("tebibyte"), *worst_load = tcase_create("worst"), *pib = tcase_create("pebibyte");

	tcase_add_test(tib, nearly_empty);
	tcase_add_test(tib, large_extents);
	tcase_add_test(worst_load, every_second_block);
	tcase_add_test(worst_load, random_blocks);
	tcase_add_test(pib, sparse_pebibyte);
	tcase_set_timeout(tib, 120);
	tcase_set_timeout(worst_load, 120);
	tcase_set_timeout(pib, 120);
	suite_add_tcase(s, tib);
	suite_add_tcase(s, worst_load);
	suite_add_tcase(s, pib);
	return s;
}

int main(void) { return alloctest_run("check_alloc_memory", suite()); }
