// SPDX-License-Identifier: MIT
// One run: makes the allocator and the workers, drives both passes, and measures from outside.
//
// Resident memory is read from /proc/self/statm outside the measured phases; what the workers' tables have grown to is
// known exactly and not counted. After the workload the allocator must pass alloc_check(), and again when everything was
// given back, with as many free blocks as the volume has.
//
// Fragmentation is Ceph's score: value(len) = len × 1.1^log2(len) for a free run, and the score is where the sum of the values lies
// between all free space in one run (0) and in single blocks (1).
#include <errno.h>
#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/alloc_bench.h"
#include "util/blk.h"
#include "util/errmsg.h"

#define MIB_BLK (1u << (20 - BLK_SHIFT))

// ---- the allocator under test ----

static void no_lock(void *ctx) { (void)ctx; }

static int load_all_free(void *ctx, uint32_t ms, struct alloc_loader *loader)
{
	(void)ctx;
	(void)ms;
	(void)loader;
	return 0;
}

static const struct alloc_source empty_volume = { .enter = no_lock, .leave = no_lock, .load = load_all_free };

static struct alloc *create_allocator(const struct plan *plan)
{
	uint64_t n_ms = ((plan->n_blks - 1) >> plan->ms_shift) + 1, ms_blks = 1ull << plan->ms_shift;
	uint64_t *free_blk = malloc(n_ms * sizeof(*free_blk));
	struct alloc_config cfg = {
		.n_blks = plan->n_blks,
		.ms_shift = plan->ms_shift,
		.ms_free_blk = free_blk,
		.source = &empty_volume,
		.engine = plan->engine,
	};
	struct alloc *a;

	if (free_blk == NULL)
		bench_die("memory");
	for (uint64_t i = 0; i < n_ms; i++)
		free_blk[i] = min_u64(ms_blks, plan->n_blks - i * ms_blks);
	errno = -alloc_create(&cfg, &a);
	if (errno != 0)
		bench_die("alloc_create: %llu metaslabs of 2^%u blocks", (unsigned long long)n_ms, plan->ms_shift);
	free(free_blk);
	return a;
}

static void check_allocator(struct alloc *a, const char *when)
{
	struct errmsg why = { .text = "" };

	errno = -alloc_check(a, &why);
	if (errno != 0)
		bench_die("the allocator is inconsistent %s: %s", when, why.text);
}

static void give_everything_back(struct pass *p)
{
	struct alloc_stats stats;

	for (unsigned i = 0; i < p->plan->threads; i++)
		worker_put_all(&p->workers[i]);
	alloc_get_stats(p->a, &stats);
	errno = 0;
	if (stats.free_blk != p->plan->n_blks || stats.freeing_blk != 0)
		bench_die("%llu of %llu blocks are free and %llu on the way after everything was given back",
		          (unsigned long long)stats.free_blk, (unsigned long long)p->plan->n_blks,
		          (unsigned long long)stats.freeing_blk);
	check_allocator(p->a, "after everything was given back");
}

// ---- memory ----

static size_t resident_bytes(void)
{
	unsigned long long pages, resident;
	FILE *f = fopen("/proc/self/statm", "re");

	if (f == NULL || fscanf(f, "%llu %llu", &pages, &resident) != 2)
		bench_die("/proc/self/statm");
	fclose(f);
	return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE);
}

// Resident, less the benchmark's own tables.
static size_t resident_outside_tables(const struct pass *p)
{
	size_t resident = resident_bytes();

	for (unsigned i = 0; i < p->plan->threads; i++)
		resident -= worker_bytes(&p->workers[i]);
	return resident;
}

static void note_memory(struct pass *p)
{
	size_t resident = resident_outside_tables(p);
	size_t grown = resident > p->outside_bytes ? resident - p->outside_bytes : 0;
	struct alloc_stats stats;

	alloc_get_stats(p->a, &stats);
	p->out->rss_bytes = fmax(p->out->rss_bytes, (double)grown);
	p->out->memory_bytes = fmax(p->out->memory_bytes, (double)stats.memory_bytes);
	p->out->metaslabs = stats.n_metaslabs;
	p->out->metaslabs_loaded = stats.n_loaded;
}

// ---- moments ----

static double share_of(uint64_t part, uint64_t whole) { return whole == 0 ? NAN : 100.0 * (double)part / (double)whole; }

static void note_min(struct pass *p, double utilisation)
{
	struct result *out = p->out;
	double *min = p->plan->contig ? &out->utilisation_contiguous_min : &out->utilisation_split_min;

	*min = fmin(*min, utilisation); // of NaN and a number: the number
}

void note_least(struct pass *p, uint64_t used_blk)
{
	if (p->out != NULL)
		note_min(p, share_of(used_blk, p->plan->n_blks));
}

static void note_utilisation(struct pass *p, double utilisation, bool aged)
{
	struct result *out = p->out;

	out->utilisation_end = utilisation;
	if (!aged) {
		out->utilisation_first = utilisation;
		return;
	}
	note_min(p, utilisation);
	p->aged_sum += utilisation;
	p->aged_n++;
	out->utilisation_mean = p->aged_sum / p->aged_n;
}

void note_full(struct pass *p, bool aged)
{
	uint64_t used = 0, written = 0, allocs = 0, extents = 0;
	struct result *out = p->out;
	struct moment *m;

	if (out == NULL)
		return;
	for (unsigned i = 0; i < p->plan->threads; i++) {
		used += p->workers[i].used_blk;
		written += p->workers[i].written_blk;
		allocs += p->workers[i].allocs;
		extents += p->workers[i].extents;
	}
	note_utilisation(p, share_of(used, p->plan->n_blks), aged);
	if (!aged) {
		p->first_allocs = allocs;
		p->first_time = p->workers[0].alloc_time;
	}
	if (p->a != NULL)
		note_memory(p);
	if (out->n_moments == HISTORY_MAX)
		return;
	m = &out->moments[out->n_moments++];
	*m = (struct moment){ .written = (double)written / (double)p->plan->n_blks, .score = NAN, .share_1m = NAN };
	m->utilisation = out->utilisation_end;
	m->extents = allocs == p->seen_allocs ? NAN : (double)(extents - p->seen_extents) / (double)(allocs - p->seen_allocs);
	p->seen_allocs = allocs;
	p->seen_extents = extents;
}

// ---- free space ----

struct walk {
	uint64_t runs, blks, blks_1m;
	double value;
	uint64_t cell_blk;
	float *map; // free blocks of each cell, then shares
};

static double run_value(double len) { return len * pow(1.1, log2(len)); }

static int visit_run(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	struct walk *walk = ctx;

	walk->runs++;
	walk->blks += len_blk;
	if (len_blk >= MIB_BLK)
		walk->blks_1m += len_blk;
	walk->value += run_value((double)len_blk);
	while (len_blk > 0) {
		uint64_t cell = start_blk / walk->cell_blk;
		uint64_t inside = min_u64(len_blk, (cell + 1) * walk->cell_blk - start_blk);

		walk->map[cell] += (float)inside;
		start_blk += inside;
		len_blk -= inside;
	}
	return 0;
}

static double score_of(const struct walk *walk)
{
	double one_run = run_value((double)walk->blks);

	return walk->blks < 2 ? NAN : (one_run - walk->value) / (one_run - (double)walk->blks * run_value(1));
}

// A cell that the end of the volume cuts is as free as the part of it that exists.
static void finish_map(const struct walk *walk, uint64_t n_blks)
{
	for (uint64_t i = 0; i < MAP_CELLS && i * walk->cell_blk < n_blks; i++)
		walk->map[i] /= (float)min_u64(walk->cell_blk, n_blks - i * walk->cell_blk);
}

void note_free_space(struct pass *p)
{
	struct result *out = p->out;
	struct walk walk = { .cell_blk = (p->plan->n_blks + MAP_CELLS - 1) / MAP_CELLS };
	struct moment *m;

	if (out == NULL || p->a == NULL)
		return;
	walk.map = out->map;
	memset(out->map, 0, sizeof(out->map));
	errno = -alloc_walk_free(p->a, visit_run, &walk);
	if (errno != 0)
		bench_die("alloc_walk_free");
	finish_map(&walk, p->plan->n_blks);
	out->cell_blk = walk.cell_blk;
	out->free_extents = (double)walk.runs;
	out->free_mean_kib = walk.runs == 0 ? NAN : (double)blk_to_bytes(walk.blks) / 1024 / (double)walk.runs;
	out->free_share_1m = share_of(walk.blks_1m, walk.blks);
	out->ceph_score = score_of(&walk);
	if (out->n_moments == 0)
		return;
	m = &out->moments[out->n_moments - 1];
	m->score = out->ceph_score;
	m->share_1m = out->free_share_1m;
}

// ---- rates ----

// Of all workers together.
struct totals {
	uint64_t allocs, frees, failed, extents, samples;
	struct spent alloc, free, ops;
};

static void add_spent(struct spent *sum, const struct spent *more)
{
	sum->cpu_s += more->cpu_s;
	sum->wall_s += more->wall_s;
}

static struct totals totals_of(const struct pass *p)
{
	const struct worker *first = &p->workers[0];
	double start_s = first->start_s, end_s = first->end_s;
	struct totals t = { 0 };

	for (unsigned i = 0; i < p->plan->threads; i++) {
		const struct worker *w = &p->workers[i];

		t.allocs += w->allocs;
		t.frees += w->frees;
		t.failed += w->failed;
		t.extents += w->extents;
		t.samples += w->samples.n;
		add_spent(&t.alloc, &w->alloc_time);
		add_spent(&t.free, &w->free_time);
		add_spent(&t.ops, &w->mixed_time);
		start_s = fmin(start_s, w->start_s);
		end_s = fmax(end_s, w->end_s);
	}
	if (p->plan->workload == WORK_W2)
		t.ops.wall_s = end_s - start_s; // of the first start to the last end
	if (t.ops.cpu_s <= 0) {
		t.ops = t.alloc;
		add_spent(&t.ops, &t.free);
	}
	return t;
}

static double per_second(uint64_t n, double seconds) { return n == 0 || seconds <= 0 ? NAN : (double)n / seconds; }
static double ns_each(double seconds, uint64_t n) { return n == 0 || seconds <= 0 ? NAN : seconds * 1e9 / (double)n; }

// Without what the benchmark itself took.
static double net_rate(double per_s, double bench_ns)
{
	double ns = 1e9 / per_s - bench_ns;

	return ns > 0 ? 1e9 / ns : NAN;
}

static void note_rates(const struct pass *p, const struct totals *t)
{
	struct result *out = p->out;
	uint64_t ops = t->allocs + t->frees;

	out->alloc_per_s = per_second(t->allocs, t->alloc.cpu_s);
	out->free_per_s = per_second(t->frees, t->free.cpu_s);
	out->ops_per_s = per_second(ops, t->ops.cpu_s);
	out->alloc_per_s_wall = per_second(t->allocs, t->alloc.wall_s);
	out->free_per_s_wall = per_second(t->frees, t->free.wall_s);
	out->ops_per_s_wall = per_second(ops, t->ops.wall_s);
	out->alloc_per_s_net = net_rate(out->alloc_per_s, out->bench_alloc_ns);
	out->free_per_s_net = net_rate(out->free_per_s, out->bench_free_ns);
	out->ops_per_s_net = net_rate(out->ops_per_s, out->bench_ns_per_op);
	out->cpu_seconds = t->ops.cpu_s;
	out->wall_seconds = t->ops.wall_s;
	out->allocs = (double)t->allocs;
	out->frees = (double)t->frees;
	out->failed = (double)t->failed;
	out->rounds = p->aged_n;
	out->extents_per_alloc = t->allocs == 0 ? NAN : (double)t->extents / (double)t->allocs;
	if (p->first_allocs > 0)
		out->alloc_per_s_aged = per_second(t->allocs - p->first_allocs, t->alloc.cpu_s - p->first_time.cpu_s);
	if (p->plan->workload == WORK_W2)
		out->ops_per_thread = (double)(p->plan->ops / p->plan->threads);
}

static int compare_u32(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static void note_latencies(const struct pass *p, uint64_t n, struct result *out)
{
	uint32_t *all = malloc((n + 1) * sizeof(*all));
	const struct {
		double *ns;
		double share;
	} wanted[] = {
		{ &out->p50_ns, 0.5 },    { &out->p90_ns, 0.9 },     { &out->p99_ns, 0.99 },
		{ &out->p999_ns, 0.999 }, { &out->p9999_ns, 0.9999 }, { &out->max_ns, 1 },
	};
	uint64_t at = 0, disturbed = 0;

	if (all == NULL)
		bench_die("memory");
	for (unsigned i = 0; i < p->plan->threads; i++) {
		memcpy(all + at, p->workers[i].samples.ticks, p->workers[i].samples.n * sizeof(*all));
		at += p->workers[i].samples.n;
		disturbed += p->workers[i].samples.disturbed;
	}
	qsort(all, n, sizeof(*all), compare_u32);
	for (unsigned i = 0; n > 0 && i < ARRAY_LEN(wanted); i++) {
		double ticks = all[(uint64_t)ceil(wanted[i].share * (double)n) - 1];

		*wanted[i].ns = fmax(ticks - p->clock->overhead_ticks, 0) * p->clock->ns_per_tick;
	}
	out->disturbed = (double)disturbed;
	out->clock_ns = p->clock->overhead_ticks * p->clock->ns_per_tick;
	free(all);
}

static void note_bench_cost(const struct pass *p, struct result *out)
{
	struct totals t = totals_of(p);

	note_latencies(p, t.samples, out);
	out->bench_max_ns = out->max_ns;
	out->bench_alloc_ns = ns_each(t.alloc.cpu_s, t.allocs);
	out->bench_free_ns = ns_each(t.free.cpu_s, t.frees);
	out->bench_ns_per_op = ns_each(t.ops.cpu_s, t.allocs + t.frees);
}

// ---- a run ----

// After W1 in several pieces: single blocks, until there is none. What is then still free could not be had.
static void take_last_blocks(struct pass *p)
{
	struct worker *w = &p->workers[0];

	while (worker_get(w, 1) == 0)
		;
	p->out->utilisation_last_block = share_of(w->used_blk, p->plan->n_blks);
}

static void run_dry(struct pass *p, struct result *out)
{
	memset(out->map, 0, sizeof(out->map)); // touched now: it is not the allocator's
	for (unsigned i = 0; i < p->plan->threads; i++)
		worker_reset(&p->workers[i], NULL);
	work_run(p);
	note_bench_cost(p, out);
}

static void run_real(struct pass *p, struct result *out)
{
	struct totals totals;

	malloc_trim(0);
	p->out = out;
	p->outside_bytes = resident_outside_tables(p);
	if (p->plan->engine != NULL)
		p->a = create_allocator(p->plan);
	for (unsigned i = 0; i < p->plan->threads; i++)
		worker_reset(&p->workers[i], p->a);
	work_run(p);
	totals = totals_of(p);
	note_rates(p, &totals);
	note_latencies(p, totals.samples, out);
	if (p->a == NULL)
		return;
	check_allocator(p->a, "after the workload");
	if (p->plan->workload == WORK_W1 && !p->plan->contig)
		take_last_blocks(p);
	give_everything_back(p);
	alloc_destroy(p->a);
}

void run_plan(const struct plan *plan, const struct clock *clock, struct result *out)
{
	struct pass p = { .plan = plan, .clock = clock };
	_Atomic uint64_t epoch = 1;
	struct sizes sizes;

	work_sizes(plan->workload, plan->n_blks, &sizes);
	p.workers = calloc(plan->threads, sizeof(*p.workers));
	if (p.workers == NULL)
		bench_die("memory");
	for (unsigned i = 0; i < plan->threads; i++) {
		worker_init(&p.workers[i], plan, &sizes, i);
		p.workers[i].epoch = &epoch;
	}
	run_dry(&p, out);
	run_real(&p, out);
	for (unsigned i = 0; i < plan->threads; i++)
		worker_destroy(&p.workers[i]);
	free(p.workers);
}
