// SPDX-License-Identifier: MIT
// bench/alloc: how fast and how tight an allocator is, through the public functions of alloc/alloc.h.
//
//      alloc.c         command line; one process per run, so that the memory of one is not that of the next
//      alloc_run.c     one run: an allocator, its workers, both passes, and what is measured from outside
//      alloc_work.c    the workloads W1–W4
//      alloc_age.c     the workload that ages a volume
//      alloc_drive.c   one thread's hands: get, put, its table of live allocations, its clocks
//      alloc_report.c  the numbers of a run by name: JSON and table
//      alloc_plot.c    pictures (SVG)
//
// A run is one engine × workload × mode. Each workload runs twice: first *dry* (no allocator behind it: consecutive numbers
// until the volume is full), which tells what the benchmark itself costs, then for real.
//
// Units: blocks unless the name says otherwise. Shares and utilisations are percentages. A number that does not apply is NaN.
// Locks: none: a worker belongs to its thread; results are written by the run's main thread.
// Errors: a benchmark that cannot go on says why and exits with 1 (bench_die).
#ifndef HYBRIDFS_BENCH_ALLOC_BENCH_H
#define HYBRIDFS_BENCH_ALLOC_BENCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc/alloc.h"
#include "alloc/engine.h"
#include "bench/bench.h"

#define BENCH_MAX_THREADS 1024u
#define MAP_COLUMNS 512u
#define MAP_ROWS 128u
#define MAP_CELLS (MAP_COLUMNS * MAP_ROWS)
#define HISTORY_MAX 1024u

enum workload { WORK_W1, WORK_W2, WORK_W3, WORK_W4, WORK_EDGE, WORK_AGE, WORK_SPARSE, N_WORKLOADS };

// What to run.
struct plan {
	const struct engine_ops *engine; // NULL: "none", no allocator at all
	enum workload workload;
	bool contig;     // ALLOC_CONTIG in each request
	bool cycle;      // get, commit, free, release instead of get, put
	unsigned threads;
	uint64_t n_blks;
	uint32_t ms_shift;
	uint64_t rounds; // 0: what the workload says
	uint64_t used_percent; // of the volume, in sparse
	uint64_t ops;    // of W2 and W4
	uint64_t seed;   // not 0
};

// One moment of a run, for the pictures.
struct moment {
	double written;     // volume handed out so far, in capacities
	double utilisation; // at the end of filling
	double extents;     // per allocation since the last moment
	double score;       // Ceph's fragmentation score: 0 = one run, 1 = single blocks
	double share_1m;    // of the free space, in runs of 1 MiB and more
};

// What came out. Lives in memory that the run's process shares with its parent; the numbers are listed in alloc_report.c.
struct result {
	struct plan plan;
	double alloc_per_s, free_per_s, ops_per_s;
	double alloc_per_s_wall, free_per_s_wall, ops_per_s_wall;
	double alloc_per_s_net, free_per_s_net, ops_per_s_net;
	double alloc_per_s_aged;
	double bench_alloc_ns, bench_free_ns, bench_ns_per_op;
	double utilisation_first, utilisation_contiguous_min, utilisation_split_min, utilisation_mean, utilisation_end;
	double utilisation_last_block;
	double extents_per_alloc;
	double free_extents, free_mean_kib, free_share_1m, ceph_score;
	double p50_ns, p90_ns, p99_ns, p999_ns, p9999_ns, max_ns, bench_max_ns, clock_ns, disturbed;
	double rss_bytes, memory_bytes;
	double metaslabs, metaslabs_loaded;
	double allocs, frees, failed, rounds, ops_per_thread;
	double cpu_seconds, wall_seconds;

	uint32_t n_moments;
	struct moment moments[HISTORY_MAX];
	uint64_t cell_blk;    // blocks in a cell of the map; 0: there is no map
	float map[MAP_CELLS]; // free share of each cell, by address
};

// ---- one thread ----

// A piece of a split allocation. `run` as in live.slots.
struct piece {
	uint64_t run;
	uint32_t next; // NIL_PIECE ends the list
};
#define NIL_PIECE UINT32_MAX

// Live allocations, 8 bytes each: start (40 bits) and length (17 bits) of its run, or, marked by the top bit, the first of its
// pieces. 0 is a hole (ageing only). Memory is touched when it is got, and counted.
struct live {
	uint64_t *slots;
	struct piece *pieces;
	uint32_t n, cap;
	uint32_t n_pieces, cap_pieces, free_piece;
};
#define LIVE_MAX_START (1ull << 40)
#define LIVE_MAX_LEN (1u << 17)

// Times of single operations. One during which the kernel gave the processor to somebody else says nothing about the
// allocator (waiting for a lock does): it is counted apart.
struct samples {
	uint32_t *ticks; // of the clock
	uint64_t n, cap;
	uint64_t disturbed;
	long preemptions; // of this thread when it was last looked
};

// Sizes of requests: a class is drawn, then a length from `base` up to `base` + `span` - 1.
#define SIZES_MAX 1024u
struct sizes {
	uint32_t n;
	struct {
		uint32_t base, span;
	} class[SIZES_MAX];
};

#define N_VICTIMS 8u

struct spent {
	double cpu_s, wall_s;
};

struct worker {
	struct alloc *a; // NULL: dry
	const struct sizes *sizes;
	_Atomic uint64_t *epoch;
	unsigned flags;  // of alloc_req
	bool cycle;
	uint64_t limit_blk; // dry: this thread's share of the volume
	uint64_t used_blk;
	uint64_t written_blk;
	uint64_t cursor; // dry: the next block
	uint64_t random;
	uint32_t unreleased;
	uint32_t victims[N_VICTIMS], victim; // slots chosen ahead, and the place of the next one to go
	struct live live;
	struct runlist out;
	struct samples samples;

	uint64_t allocs, frees, failed, extents;
	struct spent alloc_time, free_time;
	struct spent mixed_time; // where the two cannot be told apart without a clock per operation
	double start_s, end_s;   // wall clock

	const struct plan *plan;
	pthread_t thread;
	pthread_barrier_t *barrier;
};

void worker_init(struct worker *w, const struct plan *plan, const struct sizes *sizes, unsigned number);
void worker_reset(struct worker *w, struct alloc *a); // for another pass; keeps the memory
void worker_destroy(struct worker *w);
void worker_forget_counts(struct worker *w); // counters, clocks and samples start anew
size_t worker_bytes(const struct worker *w); // of its tables, all touched

// One request: 0 or -ENOSPC (counted as failed). What was got is the last of live.slots.
int worker_get(struct worker *w, uint32_t len_blk);
void worker_put(struct worker *w, uint64_t slot); // gives back what the slot (not a hole) names; the slot itself is the caller's
void worker_release(struct worker *w);            // lets go of what was freed (cycle)
void worker_put_all(struct worker *w);
int worker_get_sampled(struct worker *w, uint32_t len_blk); // as worker_get(); every 64th is timed

static inline uint32_t draw_size(struct worker *w)
{
	uint64_t r = bench_random(&w->random);
	uint32_t i = (uint32_t)((r >> 32) * w->sizes->n >> 32);

	return w->sizes->class[i].base + (uint32_t)((r & UINT32_MAX) * w->sizes->class[i].span >> 32);
}

static inline uint32_t draw_below(struct worker *w, uint32_t n)
{
	return (uint32_t)((bench_random(&w->random) >> 32) * n >> 32);
}

// ---- clocks ----

// Ticks around a single operation, as exact as the processor allows, and what a tick is worth.
struct clock {
	double ns_per_tick;
	uint32_t overhead_ticks; // of an empty measurement: subtracted from each
};
void clock_calibrate(struct clock *clock);
uint64_t clock_begin(void);
uint64_t clock_end(void);
void samples_start(struct samples *s); // by the thread that adds
void samples_add(struct samples *s, uint64_t ticks);

void spent_start(struct spent *now);
void spent_stop(const struct spent *start, struct spent *sum);

// ---- one run ----

// A pass of a workload. Workloads use the workers and call note_…() between the measured phases.
struct pass {
	const struct plan *plan;
	const struct clock *clock;
	struct alloc *a;     // NULL: dry
	struct worker *workers;
	struct result *out;  // NULL: dry
	size_t outside_bytes; // resident before the allocator was made, less the workers' tables
	uint64_t seen_allocs, seen_extents; // at the last moment
	uint64_t first_allocs; // of the first filling
	struct spent first_time;
	double aged_sum; // of the aged rounds' utilisations
	uint32_t aged_n;
};

void run_plan(const struct plan *plan, const struct clock *clock, struct result *out);

// The end of filling: utilisation (aged: everything but the first time), extents, memory.
void note_full(struct pass *p, bool aged);
void note_least(struct pass *p, uint64_t used_blk); // an utilisation between two of these
// The free space as it is now, for the numbers, the map and the last note_full()'s moment.
void note_free_space(struct pass *p);

void work_sizes(enum workload workload, uint64_t n_blks, struct sizes *out);
void work_run(struct pass *p);

uint64_t work_target_blk(const struct plan *plan); // blocks that will be in use at most

void age_sizes(uint64_t n_blks, struct sizes *out);
void age_run(struct pass *p);

// ---- what came out ----

const char *engine_name(const struct engine_ops *engine);
const char *workload_name(enum workload workload);
void result_init(struct result *r, const struct plan *plan);
void print_results(const struct result *results, unsigned n, bool json);
void print_metrics_help(FILE *out);
void plot_results(const char *dir, const struct result *results, unsigned n);

#endif
