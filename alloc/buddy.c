// SPDX-License-Identifier: MIT
// The bottom tier, and the hybrid engine's functions: runs of free blocks of any length and alignment.
//
// Giving blocks back merges them with both neighbours, whatever the alignment: their ends are read off the spans. Taking a
// part of a run leaves at most two runs. Either way the runs that come into being are pushed into the size index, and the
// entries of those that are gone are left behind as stale ones (hybrid.h, H2).
//
// Which run serves a request (measured in doc/ALLOCATOR.md):
//
//      FIT_EXACT    a run of just this length: nothing is left over
//      FIT_SPARE    the shortest one whose rest is at least the longest extent (4 MiB): the rest still serves anybody
//      FIT_BEST     the shortest one that is long enough
//      FIT_LARGEST  the longest one: what is left over is as useful as it can be
//
// Plain best fit leaves a trail of small rests; asking for room to spare before that halves what is lost.
#include "alloc/hybrid.h"

#include <errno.h>
#include <stdlib.h>

#include "util/blk.h"

struct hybrid {
	struct engine engine;
	uint32_t n_blk, part_shift, n_parts;
	bool *open;          // for each part
	uint32_t n_spans;    // of the open parts
	uint32_t n_runs;
	struct mrun found;   // returned by find or longest, its entry popped; len 0: none
	atomic_bool lossy;   // short runs without an entry may exist
	uint32_t refill_at;  // while lossy: where the last pass over short runs ended
	_Atomic uint32_t absent_len; // while lossy: no run of this length or more exists; NIL = not known
	struct slab slab;
	struct bins bins;
};

static struct hybrid *hybrid_of(struct engine *e) { return (struct hybrid *)e; }
static const struct hybrid *const_hybrid_of(const struct engine *e) { return (const struct hybrid *)e; }

static inline uint32_t part_start(const struct hybrid *h, uint32_t part) { return part << h->part_shift; }

static uint32_t part_end(const struct hybrid *h, uint32_t part)
{
	uint32_t left = h->n_blk - part_start(h, part);

	return part_start(h, part) + min_u32(left, 1u << h->part_shift);
}

static int hybrid_create(const struct engine_config *cfg, struct engine **out)
{
	struct hybrid *h = calloc(1, sizeof(*h));

	if (h == NULL)
		return -ENOMEM;
	h->engine.ops = &engine_hybrid;
	h->n_blk = cfg->n_blk;
	h->part_shift = cfg->part_shift;
	h->n_parts = ((cfg->n_blk - 1) >> cfg->part_shift) + 1;
	atomic_init(&h->absent_len, NIL);
	if (bins_init(&h->bins, h->n_blk) != 0)
		goto no_bins;
	if (slab_init(&h->slab, h->n_blk, h->part_shift) != 0)
		goto no_slab;
	h->open = calloc(h->n_parts, sizeof(h->open[0]));
	if (h->open == NULL)
		goto no_parts;
	*out = &h->engine;
	return 0;
no_parts:
	slab_free(&h->slab);
no_slab:
	bins_free(&h->bins);
no_bins:
	free(h);
	return -ENOMEM;
}

static void hybrid_destroy(struct engine *e)
{
	struct hybrid *h = hybrid_of(e);

	slab_free(&h->slab);
	bins_free(&h->bins);
	free(h->open);
	free(h);
}

static size_t hybrid_bytes(const struct engine *e)
{
	const struct hybrid *h = const_hybrid_of(e);

	return sizeof(*h) + h->n_parts * sizeof(h->open[0]) + atomic_load_explicit(&h->slab.bytes, memory_order_relaxed) +
	       bins_bytes(&h->bins);
}

// The first free run of the part at or after `from` (which is in it); false: none.
static bool next_in_part(const struct hybrid *h, uint32_t part, uint32_t from, struct mrun *run)
{
	uint32_t end = part_end(h, part);

	run->start = slab_next_free(&h->slab, from, end);
	if (run->start == end)
		return false;
	run->len = slab_right_edge(&h->slab, run->start) - run->start;
	return true;
}

// ---- the index ----

// The run that an entry of this bin stands for; len 0: the entry is stale.
static inline struct mrun run_of_entry(const struct hybrid *h, uint32_t bin, uint32_t start)
{
	struct mrun run = { start, slab_run_end(&h->slab, start) - start };

	if (run.len == 0 || bin_of(run.len) != bin)
		run.len = 0;
	return run;
}

// Long runs start in a span that is free up to its end, so each span is looked at once.
static void push_long(struct hybrid *h, uint32_t part)
{
	uint32_t first = part_start(h, part) / SPAN_BLK, last = (part_end(h, part) - 1) / SPAN_BLK;

	for (uint32_t sp = first, end = 0; sp <= last; sp++) {
		uint32_t start = (sp + 1) * SPAN_BLK - slab_suffix(&h->slab, sp);

		if (start < end || start == (sp + 1) * SPAN_BLK)
			continue; // part of the run before, or none
		end = slab_right_edge(&h->slab, start);
		if (end - start >= SPAN_BLK)
			bins_push(&h->bins, bin_of(end - start), start);
	}
}

// Entries for short runs leave a quarter of the index to the long ones.
static bool has_room_for_short(const struct hybrid *h) { return h->bins.n_entries < h->bins.max_entries / 4 * 3; }

// Pushes short runs from refill_at on, round the arena, until all of them were seen or there is no more room.
static void push_short(struct hybrid *h)
{
	uint32_t first = h->refill_at >> h->part_shift;
	struct mrun run;

	for (uint32_t i = 0; i <= h->n_parts; i++) {
		uint32_t part = (first + i) % h->n_parts, from = i == 0 ? h->refill_at : part_start(h, part);

		for (; h->open[part] && next_in_part(h, part, from, &run); from = mrun_end(run)) {
			if (!has_room_for_short(h)) {
				h->refill_at = run.start;
				return;
			}
			if (run.len < SPAN_BLK)
				bins_push(&h->bins, bin_of(run.len), run.start);
		}
	}
	h->refill_at = 0;
	atomic_store(&h->lossy, false);
}

// H1, H3: the index made anew, the long runs first. One pass over the spans and one over the short runs that find room.
static void reindex(struct hybrid *h)
{
	// Lossy first: whoever asks may_have meanwhile must not hear that there is nothing.
	atomic_store(&h->absent_len, NIL);
	atomic_store(&h->lossy, true);
	bins_clear(&h->bins);
	for (uint32_t i = 0; i < h->n_parts; i++)
		if (h->open[i])
			push_long(h, i);
	push_short(h);
}

// At least this many entries are stale or doubles; so many were pushed since the index was last made.
static bool is_overgrown(const struct hybrid *h)
{
	return h->bins.n_entries > 4 * (uint64_t)h->n_runs + h->n_spans / 4 + BINS_SLACK;
}

// Whether there is room is asked when a chunk is full: H3 is kept to within a chunk for each bin.
static void push_slowly(struct hybrid *h, uint32_t start, uint32_t len)
{
	bool has_room = len >= SPAN_BLK ? h->bins.n_entries < h->bins.max_entries : has_room_for_short(h);

	if (is_overgrown(h) || (!has_room && (len >= SPAN_BLK || h->bins.n_entries / 2 > h->n_runs)))
		reindex(h);
	else if (has_room)
		bins_push(&h->bins, bin_of(len), start);
	else
		atomic_store_explicit(&h->lossy, true, memory_order_relaxed);
}

static inline void push(struct hybrid *h, uint32_t start, uint32_t len)
{
	if (!bins_push_quick(&h->bins, bin_of(len), start))
		push_slowly(h, start, len);
}

// The run is in the spans already.
static void add_run(struct hybrid *h, uint32_t start, uint32_t len)
{
	h->n_runs++;
	if (len >= atomic_load_explicit(&h->absent_len, memory_order_relaxed))
		atomic_store_explicit(&h->absent_len, NIL, memory_order_relaxed);
	push(h, start, len);
}

// What find returned was not taken: its entry goes back.
static inline void settle(struct hybrid *h)
{
	if (h->found.len > 0)
		push(h, h->found.start, h->found.len);
	h->found.len = 0;
}

// Pops entries until one is not stale.
static inline bool pop_run(struct hybrid *h, uint32_t bin)
{
	uint32_t start, next;

	while (bins_pop(&h->bins, bin, &start, &next)) {
		if (next != NIL)
			__builtin_prefetch(&h->slab.spans[next / SPAN_BLK]);
		h->found = run_of_entry(h, bin, start);
		if (h->found.len > 0)
			return true;
	}
	return false;
}

static bool pop_from(struct hybrid *h, uint32_t bin)
{
	for (bin = bins_next(&h->bins, bin); bin != NIL; bin = bins_next(&h->bins, bin + 1))
		if (pop_run(h, bin))
			return true;
	return false;
}

static bool pop_longest(struct hybrid *h)
{
	for (uint32_t bin = bins_prev(&h->bins, N_BINS - 1); bin != NIL; bin = bins_prev(&h->bins, bin)) // known to be empty by then
		if (pop_run(h, bin))
			return true;
	return false;
}

struct search {
	const struct hybrid *h;
	uint32_t bin, len;
	struct mrun run;
};

static bool is_long_enough(void *ctx, uint32_t start)
{
	struct search *f = ctx;

	f->run = run_of_entry(f->h, f->bin, start);
	return f->run.len >= f->len;
}

// The bins above len's own hold only runs that are long enough; in its own one they have to be looked at.
static bool find_best(struct hybrid *h, uint32_t len)
{
	uint32_t own = bin_of(len);
	struct search f = { .h = h, .bin = own, .len = len };

	if (own <= BIN_EXACT_MAX)
		return pop_from(h, own);
	if (pop_from(h, own + 1))
		return true;
	if (!bins_search(&h->bins, own, is_long_enough, &f))
		return false;
	h->found = f.run; // its entry stays; settle makes it a double, which is harmless
	return true;
}

static bool find_indexed(struct hybrid *h, uint32_t len, enum engine_fit fit)
{
	uint32_t with_spare = len + EXTENT_MAX_BLK;

	switch (fit) {
	case FIT_EXACT:
		return len <= BIN_EXACT_MAX && pop_run(h, len);
	case FIT_SPARE:
		return with_spare > len && pop_from(h, bin_of(with_spare) + 1);
	case FIT_LARGEST:
		if (bins_next(&h->bins, bin_of(len)) == NIL)
			return false;
		if (pop_longest(h) && h->found.len >= len)
			return true;
		settle(h);
		return find_best(h, len);
	default:
		return find_best(h, len);
	}
}

// While the index is lossy: the first run that is long enough, by address. At most every free run is looked at; that there is
// none is remembered.
static bool find_unindexed(struct hybrid *h, uint32_t len)
{
	if (!atomic_load_explicit(&h->lossy, memory_order_relaxed) || len >= atomic_load_explicit(&h->absent_len, memory_order_relaxed))
		return false;
	for (uint32_t part = 0; part < h->n_parts; part++)
		for (uint32_t from = part_start(h, part); h->open[part] && next_in_part(h, part, from, &h->found);
		     from = mrun_end(h->found))
			if (h->found.len >= len)
				return true;
	atomic_store_explicit(&h->absent_len, len, memory_order_relaxed);
	return false;
}

// Half of the entries of a lossy index have been used up: others find room.
static void prepare(struct hybrid *h)
{
	settle(h);
	if (atomic_load_explicit(&h->lossy, memory_order_relaxed) && h->bins.n_entries < h->bins.max_entries / 2)
		push_short(h);
}

static struct mrun hybrid_find(struct engine *e, uint32_t len, enum engine_fit fit)
{
	struct hybrid *h = hybrid_of(e);

	prepare(h);
	if (!find_indexed(h, len, fit) && (fit < FIT_BEST || !find_unindexed(h, len)))
		h->found.len = 0;
	return h->found;
}

static struct mrun hybrid_longest(struct engine *e)
{
	struct hybrid *h = hybrid_of(e);

	prepare(h);
	if (!pop_longest(h) && !find_unindexed(h, 1))
		h->found.len = 0;
	return h->found;
}

static bool hybrid_may_have(const struct engine *e, uint32_t len, enum engine_fit fit)
{
	const struct hybrid *h = const_hybrid_of(e);

	if (fit == FIT_EXACT)
		return len <= BIN_EXACT_MAX && bins_next(&h->bins, len) == len;
	if (fit == FIT_SPARE)
		return bins_next(&h->bins, bin_of(len + EXTENT_MAX_BLK) + 1) != NIL;
	return bins_next(&h->bins, bin_of(len)) != NIL ||
	       (atomic_load_explicit(&h->lossy, memory_order_relaxed) &&
	        len < atomic_load_explicit(&h->absent_len, memory_order_relaxed));
}

static uint32_t hybrid_longest_hint(const struct engine *e)
{
	const struct hybrid *h = const_hybrid_of(e);
	uint32_t bin = bins_prev(&h->bins, N_BINS - 1);

	if (bin != NIL)
		return bin_floor(bin);
	return atomic_load_explicit(&h->lossy, memory_order_relaxed) &&
	       atomic_load_explicit(&h->absent_len, memory_order_relaxed) > 1;
}

// ---- changes ----

static void hybrid_give(struct engine *e, uint32_t start, uint32_t len)
{
	struct hybrid *h = hybrid_of(e);
	uint32_t end = start + len, left, right = end;

	settle(h);
	ASSERT(!slab_any_free(&h->slab, start, len));
	if (slab_give_alone(&h->slab, start, len)) {
		add_run(h, start, len);
		return;
	}
	left = start & ((1u << h->part_shift) - 1) ? slab_left_edge(&h->slab, start) : start;
	if (end < h->n_blk && (end & ((1u << h->part_shift) - 1)) != 0)
		right = slab_right_edge(&h->slab, end);
	slab_set_free(&h->slab, start, len);
	h->n_runs -= (left < start) + (right > end);
	add_run(h, left, right - left);
}

static void hybrid_take(struct engine *e, struct mrun run, uint32_t start, uint32_t len)
{
	struct hybrid *h = hybrid_of(e);
	uint32_t end = start + len;

	if (h->found.start != run.start)
		settle(h);
	h->found.len = 0;
	ASSERT(start >= run.start && end <= mrun_end(run) && slab_is_free(&h->slab, start));
	slab_set_used(&h->slab, start, len);
	h->n_runs--;
	if (start > run.start)
		add_run(h, run.start, start - run.start);
	if (end < mrun_end(run))
		add_run(h, end, mrun_end(run) - end);
}

// Takes a run of just this length.
static inline bool grab_exact(struct hybrid *h, uint32_t len, uint32_t *start)
{
	uint32_t next;

	while (bins_pop(&h->bins, len, start, &next)) {
		if (next != NIL)
			__builtin_prefetch(&h->slab.spans[next / SPAN_BLK]);
		if (!slab_take_alone(&h->slab, *start, len)) {
			if (run_of_entry(h, len, *start).len == 0)
				continue;
			slab_set_used(&h->slab, *start, len);
		}
		h->n_runs--;
		return true;
	}
	return false;
}

static bool hybrid_grab(struct engine *e, uint32_t len, unsigned fits, uint32_t *start)
{
	struct hybrid *h = hybrid_of(e);

	prepare(h);
	if ((fits & 1u << FIT_EXACT) && len <= BIN_EXACT_MAX && grab_exact(h, len, start))
		return true;
	for (fits &= ~(1u << FIT_EXACT); fits != 0; fits &= fits - 1) {
		enum engine_fit fit = (enum engine_fit)__builtin_ctz(fits);

		if (find_indexed(h, len, fit) || (fit >= FIT_BEST && find_unindexed(h, len)))
			break;
	}
	if (fits == 0) {
		h->found.len = 0;
		return false;
	}
	*start = h->found.start;
	slab_set_used(&h->slab, h->found.start, len);
	h->n_runs--;
	if (h->found.len > len)
		add_run(h, h->found.start + len, h->found.len - len);
	h->found.len = 0;
	return true;
}

static int hybrid_reserve(struct engine *e ATTR_UNUSED, uint32_t n ATTR_UNUSED) { return 0; }

static int hybrid_open(struct engine *e, uint32_t start, uint32_t len, const uint64_t *free_bits)
{
	struct hybrid *h = hybrid_of(e);
	uint32_t part = start >> h->part_shift;
	struct mrun run;

	ASSERT(!h->open[part]);
	settle(h);
	slab_open(&h->slab, start, len, free_bits);
	h->open[part] = true;
	h->n_spans += (len + SPAN_BLK - 1) / SPAN_BLK;
	for (uint32_t from = start; next_in_part(h, part, from, &run); from = mrun_end(run))
		add_run(h, run.start, run.len);
	return 0;
}

// The entries of its runs become stale.
static void hybrid_close(struct engine *e, uint32_t start, uint32_t len)
{
	struct hybrid *h = hybrid_of(e);
	uint32_t part = start >> h->part_shift;
	struct mrun run;

	settle(h);
	for (uint32_t from = start; next_in_part(h, part, from, &run); from = mrun_end(run))
		h->n_runs--;
	h->open[part] = false;
	h->n_spans -= (len + SPAN_BLK - 1) / SPAN_BLK;
	slab_close(&h->slab, start, len);
	if (h->n_runs == 0 || is_overgrown(h))
		reindex(h);
}

// ---- looking ----

static bool hybrid_any_free(const struct engine *e, uint32_t start, uint32_t len)
{
	return slab_any_free(&const_hybrid_of(e)->slab, start, len);
}

static void hybrid_prefetch(const struct engine *e, uint32_t start, uint32_t len)
{
	const struct hybrid *h = const_hybrid_of(e);

	__builtin_prefetch(&h->slab.spans[start / SPAN_BLK], 1);
	__builtin_prefetch(&h->slab.spans[(start + len) / SPAN_BLK], 1);
}

static struct mrun hybrid_run_at(struct engine *e, uint32_t blk)
{
	struct hybrid *h = hybrid_of(e);
	struct mrun run = { blk, 0 };

	if (!slab_is_free(&h->slab, blk))
		return run;
	run.start = blk & ((1u << h->part_shift) - 1) ? slab_left_edge(&h->slab, blk) : blk;
	run.len = slab_right_edge(&h->slab, blk) - run.start;
	return run;
}

static struct mrun hybrid_next_run(struct engine *e, uint32_t from)
{
	struct hybrid *h = hybrid_of(e);
	struct mrun run;

	for (uint32_t part = from >> h->part_shift; part < h->n_parts; part++)
		if (h->open[part] && next_in_part(h, part, max_u32(from, part_start(h, part)), &run))
			return hybrid_run_at(e, run.start);
	return (struct mrun){ 0, 0 };
}

// ---- checking ----

struct wanted {
	uint32_t start;
};

static bool is_start(void *ctx, uint32_t start) { return ((struct wanted *)ctx)->start == start; }

// H1 for the runs of one part; counts them.
static int check_part(struct hybrid *h, uint32_t part, uint32_t *n_runs, struct errmsg *why)
{
	uint32_t start = part_start(h, part), len = part_end(h, part) - start;
	bool lossy = atomic_load(&h->lossy);
	struct mrun run;

	if (!slab_holds(&h->slab, start, len)) {
		errmsg_set(why, "the spans of the part at %u contradict each other", start);
		return -EUCLEAN;
	}
	for (uint32_t from = start; next_in_part(h, part, from, &run); from = mrun_end(run), ++*n_runs) {
		struct wanted wanted = { run.start };

		if ((lossy && run.len < SPAN_BLK) || h->n_runs > 10000) // too slow for many
			continue;
		if (!bins_search(&h->bins, bin_of(run.len), is_start, &wanted)) {
			errmsg_set(why, "H1: the run of %u blocks at %u is not in the index", run.len, run.start);
			return -EUCLEAN;
		}
	}
	return 0;
}

static int check_bins(const struct hybrid *h, struct errmsg *why)
{
	uint32_t n = 0;

	for (uint32_t bin = 0; bin < N_BINS; bin++) {
		uint32_t top = h->bins.head[bin];

		if (bins_next(&h->bins, bin) != bin && top != NIL && h->bins.chunks[top].n > 0) {
			errmsg_set(why, "bin %u is wrong in the set of bins", bin);
			return -EUCLEAN;
		}
		for (uint32_t c = top; c != NIL; c = h->bins.chunks[c].next)
			n += h->bins.chunks[c].n;
	}
	if (n == h->bins.n_entries && n <= h->bins.max_entries + N_BINS * (CHUNK_ENTRIES - 1)) // bins_push_quick does not ask
		return 0;
	errmsg_set(why, "H3: the index has %u entries, the count says %u of %u", n, h->bins.n_entries, h->bins.max_entries);
	return -EUCLEAN;
}

static int hybrid_check(struct engine *e, struct errmsg *why)
{
	struct hybrid *h = hybrid_of(e);
	uint32_t n_runs = 0, n_spans = 0;
	int err;

	settle(h);
	err = check_bins(h, why);
	for (uint32_t i = 0; i < h->n_parts && err == 0; i++) {
		if (!h->open[i])
			continue;
		n_spans += (part_end(h, i) - part_start(h, i) + SPAN_BLK - 1) / SPAN_BLK;
		err = check_part(h, i, &n_runs, why);
	}
	if (err == 0 && (n_runs != h->n_runs || n_spans != h->n_spans)) {
		errmsg_set(why, "%u runs in %u spans, the counts say %u in %u", n_runs, n_spans, h->n_runs, h->n_spans);
		err = -EUCLEAN;
	}
	return err;
}

const struct engine_ops engine_hybrid = {
	.name = "hybrid",
	.about = "best fit with room to spare, from spans of 1 MiB and a bin for each length (default)",
	.fits = 1 << FIT_EXACT | 1 << FIT_SPARE | 1 << FIT_BEST | 1 << FIT_LARGEST,
	.in_place = true,
	.create = hybrid_create,
	.destroy = hybrid_destroy,
	.open = hybrid_open,
	.close = hybrid_close,
	.reserve = hybrid_reserve,
	.give = hybrid_give,
	.take = hybrid_take,
	.grab = hybrid_grab,
	.prefetch = hybrid_prefetch,
	.any_free = hybrid_any_free,
	.run_at = hybrid_run_at,
	.next_run = hybrid_next_run,
	.find = hybrid_find,
	.longest = hybrid_longest,
	.may_have = hybrid_may_have,
	.longest_hint = hybrid_longest_hint,
	.bytes = hybrid_bytes,
	.check = hybrid_check,
};
