// SPDX-License-Identifier: MIT
// One thread's hands on the allocator.
//
// All of this runs inside the measured time, so it is kept small: a live allocation is one word in an array that is walked in order
// or prefetched, lists exist only for allocations in several pieces. What it costs all the same is measured by the dry pass.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "bench/alloc_bench.h"

#define FREES_PER_EPOCH 1000u
#define SPLIT_MARK (1ull << 63)
#define OVERHEAD_TRIES 1001
#define SAMPLE_EVERY 64u
#define SUSPICIOUS_TICKS 32768u // some 10 us

// ---- live allocations ----

// Twice as many elements, or `least`; all pages touched: memory that appears in the middle of a run would be taken for the
// allocator's.
static void *grow(void *array, uint32_t least, uint32_t *cap, size_t size)
{
	uint32_t want = *cap < least ? least : *cap * 2;
	char *bigger;

	if (want >= UINT32_MAX / 2)
		bench_die("too many live allocations");
	bigger = reallocarray(array, want, size);
	if (bigger == NULL)
		bench_die("memory for the live allocations");
	memset(bigger + *cap * size, 0, (want - *cap) * size);
	*cap = want;
	return bigger;
}

static inline uint64_t pack_run(uint64_t start, uint64_t len)
{
	return start << 17 | len;
}

static inline struct run unpack_run(uint64_t slot)
{
	return (struct run){ slot >> 17, slot & (LIVE_MAX_LEN - 1) };
}

static uint32_t piece_new(struct live *live)
{
	uint32_t i = live->free_piece;

	if (i != NIL_PIECE) {
		live->free_piece = live->pieces[i].next;
		return i;
	}
	if (live->n_pieces == live->cap_pieces)
		live->pieces = grow(live->pieces, 4096, &live->cap_pieces, sizeof(*live->pieces));
	return live->n_pieces++;
}

static uint64_t pack_pieces(struct live *live, const struct runlist *runs)
{
	uint32_t next = NIL_PIECE;

	for (uint32_t i = runs->n; i-- > 0;) {
		uint32_t p = piece_new(live);

		live->pieces[p] = (struct piece){ pack_run(runs->runs[i].start_blk, runs->runs[i].len_blk), next };
		next = p;
	}
	return SPLIT_MARK | next;
}

// ---- one operation ----

static void dry_get(struct worker *w, uint32_t len_blk)
{
	w->out.runs[0] = (struct run){ w->cursor, len_blk };
	w->out.n = 1;
	w->cursor += len_blk;
	if (w->cursor + LIVE_MAX_LEN >= LIVE_MAX_START)
		w->cursor = 0;
}

static int ask(struct worker *w, uint32_t len_blk)
{
	const struct alloc_req req = { .want_blk = len_blk, .flags = w->flags };
	int err;

	if (w->a == NULL) {
		if (w->used_blk + len_blk > w->limit_blk)
			return -ENOSPC;
		dry_get(w, len_blk);
		return 0;
	}
	runlist_clear(&w->out);
	err = alloc_get(w->a, NULL, &req, &w->out);
	if (err == -ENOSPC && w->unreleased > 0) {
		worker_release(w);
		runlist_clear(&w->out);
		err = alloc_get(w->a, NULL, &req, &w->out);
	}
	return err;
}

static void commit_all(struct worker *w)
{
	for (uint32_t i = 0; i < w->out.n; i++) {
		errno = -alloc_commit(w->a, w->out.runs[i].start_blk, w->out.runs[i].len_blk);
		if (errno != 0)
			bench_die("alloc_commit");
	}
}

int worker_get(struct worker *w, uint32_t len_blk)
{
	struct live *live = &w->live;
	int err = ask(w, len_blk);

	if (err != 0) {
		errno = -err;
		if (err != -ENOSPC)
			bench_die("alloc_get of %u blocks", len_blk);
		w->failed++;
		return err;
	}
	if (w->cycle && w->a != NULL)
		commit_all(w);
	if (live->n == live->cap)
		live->slots = grow(live->slots, 4096, &live->cap, sizeof(*live->slots));
	live->slots[live->n++] = w->out.n == 1 ? pack_run(w->out.runs[0].start_blk, w->out.runs[0].len_blk) :
	                                         pack_pieces(live, &w->out);
	w->used_blk += len_blk;
	w->written_blk += len_blk;
	w->allocs++;
	w->extents += w->out.n;
	return 0;
}

int worker_get_sampled(struct worker *w, uint32_t len_blk)
{
	uint64_t begin;
	int err;

	if (w->allocs % SAMPLE_EVERY != 0)
		return worker_get(w, len_blk);
	begin = clock_begin();
	err = worker_get(w, len_blk);
	samples_add(&w->samples, clock_end() - begin);
	return err;
}

static inline void put_run(struct worker *w, struct run run)
{
	int err;

	w->used_blk -= run.len_blk;
	if (w->a == NULL)
		return;
	if (w->cycle)
		err = alloc_free(w->a, run.start_blk, run.len_blk, atomic_load(w->epoch));
	else
		err = alloc_put(w->a, run.start_blk, run.len_blk);
	if (err != 0) {
		errno = -err;
		bench_die("giving back %llu blocks at %llu", (unsigned long long)run.len_blk, (unsigned long long)run.start_blk);
	}
}

void worker_put(struct worker *w, uint64_t slot)
{
	struct live *live = &w->live;
	uint32_t piece, next;

	w->frees++;
	if ((slot & SPLIT_MARK) == 0) {
		put_run(w, unpack_run(slot));
	} else {
		for (piece = (uint32_t)slot; piece != NIL_PIECE; piece = next) {
			next = live->pieces[piece].next;
			put_run(w, unpack_run(live->pieces[piece].run));
			live->pieces[piece].next = live->free_piece;
			live->free_piece = piece;
		}
	}
	if (w->cycle && ++w->unreleased == FREES_PER_EPOCH)
		worker_release(w);
}

void worker_release(struct worker *w)
{
	w->unreleased = 0;
	if (w->a != NULL && w->cycle)
		alloc_release(w->a, atomic_fetch_add(w->epoch, 1));
}

void worker_put_all(struct worker *w)
{
	for (uint32_t i = 0; i < w->live.n; i++)
		if (w->live.slots[i] != 0)
			worker_put(w, w->live.slots[i]);
	w->live.n = 0;
	worker_release(w);
}

// ---- a worker ----

// Room for what it will hold and note, so that little grows later.
static void prepare_tables(struct worker *w, const struct plan *plan)
{
	uint64_t blks = 0, n;

	for (uint32_t i = 0; i < w->sizes->n; i++)
		blks += w->sizes->class[i].base + w->sizes->class[i].span / 2;
	n = work_target_blk(plan) / plan->threads * w->sizes->n / blks;
	n += n / 8 + 4096;
	if (n >= UINT32_MAX / 4)
		bench_die("a smaller volume, please: this one holds %llu allocations", (unsigned long long)n);
	w->live.slots = grow(NULL, (uint32_t)n, &w->live.cap, sizeof(*w->live.slots));
	w->live.pieces = grow(NULL, plan->contig ? 1 : (uint32_t)(n / 4), &w->live.cap_pieces, sizeof(*w->live.pieces));
	w->samples.cap = plan->workload == WORK_W4 || plan->workload == WORK_EDGE ? plan->ops :
	                 plan->workload == WORK_W2 ? plan->ops / plan->threads / SAMPLE_EVERY + SAMPLE_EVERY :
	                                             1u << 18;
	w->samples.ticks = malloc(w->samples.cap * sizeof(*w->samples.ticks));
	if (w->samples.ticks == NULL)
		bench_die("memory");
	memset(w->samples.ticks, 0, w->samples.cap * sizeof(*w->samples.ticks));
	if (runlist_add(&w->out, 0, 1) != 0) // the dry pass writes there
		bench_die("memory");
}

void worker_init(struct worker *w, const struct plan *plan, const struct sizes *sizes, unsigned number)
{
	uint64_t state = plan->seed + number * 0x9e3779b97f4a7c15u;

	*w = (struct worker){
		.plan = plan,
		.sizes = sizes,
		.flags = plan->contig ? ALLOC_CONTIG : 0,
		.cycle = plan->cycle,
		.limit_blk = plan->n_blks / plan->threads,
		.random = state != 0 ? state : 1,
	};
	for (int i = 0; i < 16; i++) // small seeds take a few steps to spread
		bench_random(&w->random);
	prepare_tables(w, plan);
}

void worker_forget_counts(struct worker *w)
{
	w->allocs = w->frees = w->failed = w->extents = 0;
	w->alloc_time = w->free_time = w->mixed_time = (struct spent){ 0 };
	samples_start(&w->samples);
}

void worker_reset(struct worker *w, struct alloc *a)
{
	w->a = a;
	w->live.n = w->live.n_pieces = 0;
	w->live.free_piece = NIL_PIECE;
	w->used_blk = w->written_blk = w->cursor = 0;
	w->unreleased = 0;
	worker_forget_counts(w);
}

void worker_destroy(struct worker *w)
{
	free(w->live.slots);
	free(w->live.pieces);
	free(w->samples.ticks);
	runlist_free(&w->out);
}

size_t worker_bytes(const struct worker *w)
{
	return w->live.cap * sizeof(*w->live.slots) + w->live.cap_pieces * sizeof(*w->live.pieces) +
	       w->samples.cap * sizeof(*w->samples.ticks);
}

// ---- clocks ----

#if defined(__x86_64__)
uint64_t clock_begin(void)
{
	uint64_t ticks;

	_mm_lfence();
	ticks = __rdtsc();
	_mm_lfence();
	return ticks;
}

uint64_t clock_end(void)
{
	unsigned cpu;
	uint64_t ticks = __rdtscp(&cpu);

	_mm_lfence();
	return ticks;
}
#else
uint64_t clock_begin(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t clock_end(void) { return clock_begin(); }
#endif

static int compare_u32(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

void clock_calibrate(struct clock *clock)
{
	uint32_t empty[OVERHEAD_TRIES];
	double from_s = bench_now_s(), to_s;
	uint64_t from = clock_begin(), begin;

	for (unsigned i = 0; i < OVERHEAD_TRIES; i++) {
		begin = clock_begin();
		empty[i] = (uint32_t)(clock_end() - begin);
	}
	qsort(empty, OVERHEAD_TRIES, sizeof(empty[0]), compare_u32);
	clock->overhead_ticks = empty[OVERHEAD_TRIES / 2];
	do
		to_s = bench_now_s();
	while (to_s - from_s < 0.05);
	clock->ns_per_tick = (to_s - from_s) * 1e9 / (double)(clock_end() - from);
}

static long preemptions(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_nivcsw;
}

void samples_start(struct samples *s)
{
	s->n = s->disturbed = 0;
	s->preemptions = preemptions();
}

// The kernel is asked only after a long time, so that asking does not disturb. (What happened between two operations is then
// taken for this one's; both are rare.)
static bool was_preempted(struct samples *s)
{
	long before = s->preemptions;

	s->preemptions = preemptions();
	return s->preemptions != before;
}

void samples_add(struct samples *s, uint64_t ticks)
{
	if (ticks > SUSPICIOUS_TICKS && was_preempted(s)) {
		s->disturbed++;
		return;
	}
	if (s->n < s->cap)
		s->ticks[s->n++] = ticks < UINT32_MAX ? (uint32_t)ticks : UINT32_MAX;
}

void spent_start(struct spent *now)
{
	struct timespec ts;

	now->wall_s = bench_now_s();
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	now->cpu_s = (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

void spent_stop(const struct spent *start, struct spent *sum)
{
	struct spent now;

	spent_start(&now);
	sum->cpu_s += now.cpu_s - start->cpu_s;
	sum->wall_s += now.wall_s - start->wall_s;
}
