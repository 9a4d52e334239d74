// SPDX-License-Identifier: MIT
// The workloads W1–W4.
//
// W1 stress  Uniform sizes up to 4 MiB. Fill until the first request fails, give back a random 30–50% in random order,
//            again, until ten times the volume was written. How much had found room at the failure is the measure.
// W2 basic   The same sizes, N threads: 70% of the operations allocate, 30% give back a random one of the thread's own; a
//            request that fails becomes a giving back.
// W3 small   A filesystem's mix: 60% 4 KiB, 20% 8–32 KiB, 15% 64–256 KiB, 5% 1–4 MiB. Filled to 95%, then 20 rounds of
//            giving back a random 20% and filling up.
// W4 full    W3, but filled to 99.9%; each single request beyond 99% has its own time.
//    edge    W3's end, filled to 99.9% and kept there: random ones go only until the next request may come. What is
//            free are crumbs; most of a large request's time is the number of its pieces.
//
//    sparse  Extents of 4 MiB until 1% of a vast volume is in use; a random half goes and comes back. What counts is the memory.
//
// Victims are shuffled to the end of the table before the clock starts, or chosen some operations ahead and prefetched: the
// benchmark should not wait for its own memory.
#include <errno.h>
#include <math.h>
#include <string.h>

#include "bench/alloc_bench.h"
#include "util/attr.h"
#include "util/blk.h"

#define W1_MAX_BLK 1024u
#define W1_VOLUMES 10u     // written in all
#define W1_MAX_ROUNDS 200u // for allocators that decay to nothing
#define W2_ALLOC_SHARE (UINT32_MAX / 10 * 7)
#define W3_ROUNDS 20u
#define W4_ROUNDS 100u

// ---- sizes ----

static void small_sizes(struct sizes *out)
{
	static const struct {
		uint32_t twentieths, min_blk, max_blk;
	} mix[] = { { 12, 1, 1 }, { 4, 2, 8 }, { 3, 16, 64 }, { 1, 256, 1024 } };

	out->n = 0;
	for (unsigned m = 0; m < ARRAY_LEN(mix); m++) {
		for (uint32_t i = 0; i < mix[m].twentieths; i++, out->n++) {
			out->class[out->n].base = mix[m].min_blk;
			out->class[out->n].span = mix[m].max_blk - mix[m].min_blk + 1;
		}
	}
}

void work_sizes(enum workload workload, uint64_t n_blks, struct sizes *out)
{
	if (workload == WORK_AGE) {
		age_sizes(n_blks, out);
	} else if (workload == WORK_W3 || workload == WORK_W4 || workload == WORK_EDGE) {
		small_sizes(out);
	} else if (workload == WORK_SPARSE) {
		out->n = 1;
		out->class[0].base = W1_MAX_BLK;
		out->class[0].span = 1;
	} else {
		// Multiples of 512 B up to 4 MiB, rounded up to blocks: each number of blocks is as likely.
		out->n = 1;
		out->class[0].base = 1;
		out->class[0].span = W1_MAX_BLK;
	}
}

// ---- phases ----

// Until so many blocks are used, or a request fails.
static void fill(struct worker *w, uint64_t until_blk)
{
	struct spent start;

	spent_start(&start);
	while (w->used_blk < until_blk && worker_get_sampled(w, draw_size(w)) == 0)
		;
	spent_stop(&start, &w->alloc_time);
}

static void give_back_share(struct worker *w, double share)
{
	struct live *live = &w->live;
	uint32_t count = (uint32_t)(share * live->n);
	struct spent start;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t last = live->n - 1 - i, victim = draw_below(w, live->n - i);
		uint64_t slot = live->slots[victim];

		live->slots[victim] = live->slots[last];
		live->slots[last] = slot;
	}
	spent_start(&start);
	for (uint32_t i = 0; i < count; i++)
		worker_put(w, live->slots[--live->n]);
	worker_release(w);
	spent_stop(&start, &w->free_time);
}

// Gives back a random one that was chosen N_VICTIMS of them ago (so it may lie behind the end by now), and chooses
// another. There must be one.
static inline void give_back(struct worker *w, uint64_t random)
{
	struct live *live = &w->live;
	uint32_t *chosen = &w->victims[w->victim++ % N_VICTIMS];
	uint32_t victim = *chosen < live->n ? *chosen : live->n - 1;
	uint64_t slot = live->slots[victim];

	live->slots[victim] = live->slots[--live->n];
	*chosen = (uint32_t)((random >> 32) * live->n >> 32);
	__builtin_prefetch(&live->slots[*chosen], 1);
	worker_put(w, slot);
}

// ---- W1 ----

static void run_stress(struct pass *p)
{
	struct worker *w = &p->workers[0];
	uint64_t rounds = p->plan->rounds, target_blk = W1_VOLUMES * p->plan->n_blks;

	for (uint64_t round = 0;; round++) {
		fill(w, UINT64_MAX);
		note_full(p, round > 0);
		if (rounds != 0 ? round == rounds : w->written_blk >= target_blk || round == W1_MAX_ROUNDS)
			return;
		give_back_share(w, 0.3 + 0.2 * draw_below(w, 1u << 20) / (1u << 20));
		note_free_space(p);
	}
}

// ---- W2 ----

static void basic_ops(struct worker *w, uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		uint64_t random = bench_random(&w->random);
		bool wants = (uint32_t)random < W2_ALLOC_SHARE || w->live.n == 0;

		if (!wants || worker_get_sampled(w, draw_size(w)) != 0)
			if (w->live.n > 0)
				give_back(w, random);
	}
}

static void *basic_thread(void *arg)
{
	struct worker *w = arg;
	struct spent start;

	samples_start(&w->samples);
	pthread_barrier_wait(w->barrier);
	w->start_s = bench_now_s();
	spent_start(&start);
	basic_ops(w, w->plan->ops / w->plan->threads);
	spent_stop(&start, &w->mixed_time);
	w->end_s = bench_now_s();
	return NULL;
}

static void run_basic(struct pass *p)
{
	unsigned n = p->plan->threads;
	pthread_barrier_t barrier;

	pthread_barrier_init(&barrier, NULL, n);
	for (unsigned i = 0; i < n; i++) {
		p->workers[i].barrier = &barrier;
		errno = pthread_create(&p->workers[i].thread, NULL, basic_thread, &p->workers[i]);
		if (errno != 0)
			bench_die("thread");
	}
	for (unsigned i = 0; i < n; i++)
		pthread_join(p->workers[i].thread, NULL);
	pthread_barrier_destroy(&barrier);
	for (unsigned i = 0; i < n; i++)
		worker_release(&p->workers[i]);
	note_full(p, true);
	note_free_space(p);
}

// ---- W3 and W4 ----

static void run_small(struct pass *p)
{
	struct worker *w = &p->workers[0];
	uint64_t until_blk = (uint64_t)(0.95 * (double)p->plan->n_blks);
	uint64_t rounds = p->plan->rounds != 0 ? p->plan->rounds : W3_ROUNDS;

	for (uint64_t round = 0;; round++) {
		fill(w, until_blk);
		note_full(p, round > 0);
		note_free_space(p);
		if (round == rounds)
			return;
		give_back_share(w, 0.2);
	}
}

static uint64_t ticks_beyond(const struct clock *clock, uint64_t begin, uint64_t end)
{
	return end - begin > clock->overhead_ticks ? end - begin - clock->overhead_ticks : 0;
}

static struct spent spent_in(const struct pass *p, uint64_t ticks, const struct spent *loop)
{
	double wall_s = (double)ticks * p->clock->ns_per_tick / 1e9;

	// The clock runs on while another program has the processor, which meets all parts of the loop alike.
	return (struct spent){ .wall_s = wall_s, .cpu_s = wall_s * fmin(loop->cpu_s / loop->wall_s, 1) };
}

// Returns the least that was in use before a request.
static uint64_t edge_ops(struct pass *p, struct worker *w, uint64_t full_blk)
{
	uint64_t alloc_ticks = 0, free_ticks = 0, least_blk = UINT64_MAX, begin, end;
	struct spent start;

	spent_start(&start);
	for (uint64_t i = 0; i < p->plan->ops; i++) {
		uint32_t size = draw_size(w);

		while (w->used_blk >= full_blk) {
			uint64_t random = bench_random(&w->random);

			begin = clock_begin();
			give_back(w, random);
			free_ticks += ticks_beyond(p->clock, begin, clock_end());
		}
		least_blk = min_u64(least_blk, w->used_blk);
		begin = clock_begin();
		(void)worker_get(w, size);
		end = clock_end();
		alloc_ticks += ticks_beyond(p->clock, begin, end);
		samples_add(&w->samples, end - begin);
	}
	spent_stop(&start, &w->mixed_time);
	w->alloc_time = spent_in(p, alloc_ticks, &w->mixed_time);
	w->free_time = spent_in(p, free_ticks, &w->mixed_time);
	return least_blk;
}

// The rounds before are another workload's: nothing of them is noted.
static void run_edge(struct pass *p)
{
	struct worker *w = &p->workers[0];
	uint64_t full_blk = (uint64_t)(0.999 * (double)p->plan->n_blks);
	struct result *out = p->out;
	uint64_t least_blk;
	uint32_t refused = 0;

	p->out = NULL;
	run_small(p);
	p->out = out;
	p->seen_allocs = p->seen_extents = 0;
	while (w->used_blk < full_blk && refused < 100000)
		refused = worker_get(w, draw_size(w)) == 0 ? 0 : refused + 1;
	worker_forget_counts(w);
	least_blk = edge_ops(p, w, full_blk);
	worker_release(w);
	note_full(p, true);
	note_least(p, least_blk);
	note_free_space(p);
}

// The last percent, each request timed by itself. Adds the ticks.
static void fill_timed(struct worker *w, uint64_t until_blk, uint64_t *ticks, uint64_t overhead_ticks)
{
	uint32_t refused = 0;

	while (w->used_blk < until_blk && refused < 100000) {
		uint32_t size = draw_size(w);
		uint64_t begin = clock_begin(), end;

		refused = worker_get(w, size) == 0 ? 0 : refused + 1;
		end = clock_end();
		*ticks += end - begin > overhead_ticks ? end - begin - overhead_ticks : 0;
		samples_add(&w->samples, end - begin);
	}
}

static void run_full(struct pass *p)
{
	struct worker *w = &p->workers[0];
	uint64_t rounds = p->plan->rounds != 0 ? p->plan->rounds : W4_ROUNDS, ticks = 0;
	struct spent start, timed = { 0 };

	for (uint64_t round = 0;; round++) {
		fill(w, (uint64_t)(0.99 * (double)p->plan->n_blks));
		if (round == 0)
			worker_forget_counts(w);
		spent_start(&start);
		fill_timed(w, (uint64_t)(0.999 * (double)p->plan->n_blks), &ticks, p->clock->overhead_ticks);
		spent_stop(&start, &timed);
		note_full(p, true);
		if (round == rounds)
			break;
		give_back_share(w, 0.2);
	}
	timed = spent_in(p, ticks, &timed);
	w->alloc_time.wall_s += timed.wall_s;
	w->alloc_time.cpu_s += timed.cpu_s;
	note_free_space(p);
}

// ---- sparse ----

uint64_t work_target_blk(const struct plan *plan)
{
	return plan->workload == WORK_SPARSE ? plan->n_blks / 100 * plan->used_percent : plan->n_blks;
}

// No look at the free space at the end: that would load all metaslabs.
static void run_sparse(struct pass *p)
{
	struct worker *w = &p->workers[0];
	uint64_t until_blk = work_target_blk(p->plan);

	fill(w, until_blk);
	note_full(p, false);
	give_back_share(w, 0.5);
	fill(w, until_blk);
	note_full(p, true);
}

void work_run(struct pass *p)
{
	static void (*const run[N_WORKLOADS])(struct pass *p) = {
		[WORK_W1] = run_stress,
		[WORK_W2] = run_basic,
		[WORK_W3] = run_small,
		[WORK_W4] = run_full,
		[WORK_EDGE] = run_edge,
		[WORK_AGE] = age_run,
		[WORK_SPARSE] = run_sparse,
	};

	run[p->plan->workload](p);
}
