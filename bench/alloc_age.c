// SPDX-License-Identifier: MIT
// Ageing, after Geriatrix (Kadekodi, Nagarajan, Ganger: "Geriatrix: Aging what you see and what you don't see", USENIX ATC 2018):
// a volume held at one utilisation while files come and go, with a distribution of sizes and one of ages, until the
// written volume is a multiple of the capacity.
//
// Sizes: two log-normal distributions, nine tenths small files (median 16 KiB), one tenth large ones (median 1 MiB), up to 64 MiB:
// the shape that studies of file systems agree on (Agrawal et al., FAST 2007). The inverse of the distribution is
// tabulated once; drawing is one lookup and an interpolation.
//
// Ages: files stand in the order of their creation; the age of one is the number of younger ones. Classes double: class k
// holds the ages from 64 × (2^k - 1) on. Each class loses as many files as any other, so most files die young and the old ones stay long.
#include <math.h>

#include "bench/alloc_bench.h"
#include "util/blk.h"

#define AGE_VOLUMES 10u     // written after filling
#define AGE_UTILISATION 0.8
#define MOMENTS_PER_VOLUME 10u
#define MAX_FILE_BLK 16384u // 64 MiB
#define YOUNGEST_CLASS 64u  // files
#define HOLE_TRIES 32

static double log_normal_share(double blks, double median, double sigma)
{
	return 0.5 * erfc(-log(blks / median) / (sigma * M_SQRT2));
}

static double share_below(double blks)
{
	return 0.9 * log_normal_share(blks, 4, 2.0) + 0.1 * log_normal_share(blks, 256, 1.5);
}

static uint32_t quantile(double share, uint32_t max_blk)
{
	double low = 1.0 / 64, high = max_blk;

	for (int i = 0; i < 60; i++) {
		double middle = sqrt(low * high);

		if (share_below(middle) < share)
			low = middle;
		else
			high = middle;
	}
	return (uint32_t)ceil(high);
}

void age_sizes(uint64_t n_blks, struct sizes *out)
{
	uint32_t max_blk = (uint32_t)max_u64(min_u64(MAX_FILE_BLK, n_blks / 64), 1);
	uint32_t to, from = 1;

	out->n = SIZES_MAX;
	for (uint32_t i = 0; i < SIZES_MAX; i++, from = to) {
		to = quantile((i + 1.0) / SIZES_MAX, max_blk);
		out->class[i].base = from;
		out->class[i].span = to - from + 1;
	}
}

// Closes the holes in the table.
static void squeeze(struct live *live)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < live->n; i++)
		if (live->slots[i] != 0)
			live->slots[kept++] = live->slots[i];
	live->n = kept;
}

static uint32_t pick_by_age(struct worker *w)
{
	uint32_t n = w->live.n, classes = 1, from, len, k;

	while ((uint64_t)YOUNGEST_CLASS * ((1u << classes) - 1) < n)
		classes++;
	for (;;) {
		k = draw_below(w, classes);
		from = YOUNGEST_CLASS * ((1u << k) - 1);
		len = (uint32_t)min_u64((uint64_t)YOUNGEST_CLASS << k, n - from);
		for (int tries = 0; tries < HOLE_TRIES; tries++) {
			uint32_t slot = n - 1 - from - draw_below(w, len);

			if (w->live.slots[slot] != 0)
				return slot;
		}
	}
}

static void churn(struct worker *w, uint64_t full_blk, uint64_t until_written_blk)
{
	uint64_t holes = 0;
	uint32_t victim;
	struct spent start;

	spent_start(&start);
	while (w->written_blk < until_written_blk) {
		if (w->used_blk < full_blk && worker_get_sampled(w, draw_size(w)) == 0)
			continue;
		if (holes * 4 >= w->live.n) { // also when nothing is left but holes
			squeeze(&w->live);
			holes = 0;
			if (w->live.n == 0)
				break;
		}
		victim = pick_by_age(w);
		worker_put(w, w->live.slots[victim]);
		w->live.slots[victim] = 0;
		holes++;
	}
	squeeze(&w->live);
	worker_release(w);
	spent_stop(&start, &w->mixed_time);
}

void age_run(struct pass *p)
{
	struct worker *w = &p->workers[0];
	uint64_t n_blks = p->plan->n_blks;
	uint64_t full_blk = (uint64_t)(AGE_UTILISATION * (double)n_blks);
	uint64_t steps = p->plan->rounds != 0 ? p->plan->rounds : AGE_VOLUMES * MOMENTS_PER_VOLUME;

	churn(w, full_blk, full_blk);
	note_full(p, false);
	note_free_space(p);
	for (uint64_t step = 1; step <= steps; step++) {
		churn(w, full_blk, full_blk + step * n_blks / MOMENTS_PER_VOLUME);
		note_full(p, true);
		note_free_space(p);
	}
}
