// SPDX-License-Identifier: MIT
// The bottom tier: the free map of a metaslab and the index of its free runs. Splits and merges without regard to
// alignment: the neighbours of a range are found in the bitmap.
//
// A run may be as long as the metaslab, yet its ends are found by looking at no more than 16 words: within a span and
// the next one by their bits; beyond that the run is longer than a span, so the index entry of the span in which it
// starts is its own (I1), and that span is the nearest one below in which anything starts.
#include "alloc/alloc_internal.h"

#include <stdlib.h>

struct buddy *buddy_new(uint32_t n_blk)
{
	struct buddy *map = calloc(1, sizeof(*map));

	if (map == NULL)
		return NULL;
	map->n_blk = n_blk;
	map->n_spans = (n_blk + SPAN_BLK - 1) / SPAN_BLK;
	map->bits = calloc(map->n_spans, SPAN_BLK / 8);
	map->spans = calloc(map->n_spans, sizeof(struct span));
	if (map->bits == NULL || map->spans == NULL || bitset_init(&map->starts, map->n_spans) != 0 ||
	    bitset_init(&map->bins, N_BINS) != 0) {
		buddy_destroy(map);
		return NULL;
	}
	for (uint32_t bin = 0; bin < N_BINS; bin++)
		map->head[bin] = NIL;
	bits_set(map->bits, 0, n_blk);
	return map;
}

void buddy_destroy(struct buddy *map)
{
	if (map == NULL)
		return;
	bitset_free(&map->starts);
	bitset_free(&map->bins);
	free(map->spans);
	free(map->bits);
	free(map);
}

size_t buddy_bytes(const struct buddy *map)
{
	return sizeof(*map) + map->n_spans * (SPAN_BLK / 8 + sizeof(struct span)) + bitset_bytes(&map->starts) +
	       bitset_bytes(&map->bins);
}

uint32_t buddy_count_free(const struct buddy *map)
{
	uint32_t n = 0;

	for (uint32_t w = 0; w < map->n_spans * SPAN_BLK / 64; w++)
		n += (uint32_t)__builtin_popcountll(map->bits[w]);
	return n;
}

// ---- the index ----

static void unlink_span(struct buddy *map, uint32_t sp)
{
	struct span *span = &map->spans[sp];
	uint32_t bin = bin_of(span->len);

	if (span->next != NIL)
		map->spans[span->next].prev = span->prev;
	if (span->prev != NIL)
		map->spans[span->prev].next = span->next;
	else
		map->head[bin] = span->next;
	if (map->head[bin] == NIL)
		bitset_remove(&map->bins, bin);
}

static void link_span(struct buddy *map, uint32_t sp)
{
	struct span *span = &map->spans[sp];
	uint32_t bin = bin_of(span->len);

	span->prev = NIL;
	span->next = map->head[bin];
	if (span->next != NIL)
		map->spans[span->next].prev = sp;
	else
		bitset_add(&map->bins, bin);
	map->head[bin] = sp;
}

// From now on `longest` (len 0: none) is what the index knows of span sp.
static void set_longest(struct buddy *map, uint32_t sp, struct mrun longest)
{
	struct span *span = &map->spans[sp];
	bool was_in = span->len > 0, same_bin = was_in && longest.len > 0 && bin_of(span->len) == bin_of(longest.len);

	if (was_in && !same_bin)
		unlink_span(map, sp);
	span->len = longest.len;
	span->off = longest.start % SPAN_BLK;
	if (longest.len > 0 && !same_bin)
		link_span(map, sp);
	if (was_in && longest.len == 0)
		bitset_remove(&map->starts, sp);
	else if (!was_in && longest.len > 0)
		bitset_add(&map->starts, sp);
}

static bool is_longest(const struct buddy *map, uint32_t start)
{
	const struct span *span = &map->spans[start / SPAN_BLK];

	return span->len > 0 && span->off == start % SPAN_BLK;
}

// The longest run of its span has gone or become shorter; `rest` is what is left of it, whose true length the scan
// could not know.
static void rescan(struct buddy *map, uint32_t sp, struct mrun rest)
{
	struct mrun longest = slab_longest(map, sp);

	if (rest.len > 0 && longest.start == rest.start)
		longest.len = rest.len;
	set_longest(map, sp, longest);
}

void buddy_build(struct buddy *map)
{
	uint32_t end = map->n_spans * SPAN_BLK;
	uint32_t start = bits_next_set(map->bits, 0, end);

	while (start < end) {
		uint32_t stop = bits_next_clear(map->bits, start, end);

		if (stop - start > map->spans[start / SPAN_BLK].len)
			set_longest(map, start / SPAN_BLK, (struct mrun){ start, stop - start });
		start = bits_next_set(map->bits, stop, end);
	}
}

// ---- runs ----

static uint32_t run_start(const struct buddy *map, uint32_t blk)
{
	uint32_t base = blk & ~(SPAN_BLK - 1);
	uint32_t start = bits_set_back_to(map->bits, blk, base);
	uint32_t sp;

	if (start > base || base == 0 || !bits_test(map->bits, base - 1))
		return start;
	sp = bitset_prev(&map->starts, base / SPAN_BLK - 1);
	ASSERT(sp != NIL);
	return bits_set_back_to(map->bits, (sp + 1) * SPAN_BLK, sp * SPAN_BLK);
}

// The end of the run that holds blk and starts at `start`.
static uint32_t run_end(const struct buddy *map, uint32_t start, uint32_t blk)
{
	uint32_t span_end = (blk | (SPAN_BLK - 1)) + 1;
	uint32_t end = min_u32(span_end + SPAN_BLK, map->n_spans * SPAN_BLK);
	uint32_t stop = bits_next_clear(map->bits, blk, end);

	if (stop < end || end == map->n_spans * SPAN_BLK)
		return stop;
	ASSERT(is_longest(map, start));
	return start + map->spans[start / SPAN_BLK].len;
}

struct mrun buddy_run_at(const struct buddy *map, uint32_t blk)
{
	uint32_t start = run_start(map, blk);

	return (struct mrun){ start, run_end(map, start, blk) - start };
}

void buddy_take(struct buddy *map, struct mrun run, uint32_t start, uint32_t len)
{
	struct mrun left = { run.start, start - run.start };
	struct mrun right = { start + len, mrun_end(run) - (start + len) };
	uint32_t sp = run.start / SPAN_BLK;
	bool right_in_sp = right.len > 0 && right.start / SPAN_BLK == sp;

	ASSERT(bits_test(map->bits, start) && start >= run.start && start + len <= mrun_end(run));
	bits_clear(map->bits, start, len);
	// A run that was not the longest leaves pieces that are not the longest.
	if (is_longest(map, run.start))
		rescan(map, sp, right_in_sp && right.len >= left.len ? right : left);
	if (right.len > 0 && !right_in_sp && right.len > map->spans[right.start / SPAN_BLK].len)
		set_longest(map, right.start / SPAN_BLK, right);
}

void buddy_give(struct buddy *map, uint32_t start, uint32_t len)
{
	uint32_t end = start + len;
	uint32_t right_sp = end / SPAN_BLK;
	struct mrun merged = { start, len };
	bool right_was_longest = false;

	ASSERT(!bits_any(map->bits, start, len));
	if (end < map->n_blk && bits_test(map->bits, end)) {
		right_was_longest = is_longest(map, end);
		merged.len = run_end(map, end, end) - start;
	}
	if (start > 0 && bits_test(map->bits, start - 1)) {
		merged.start = run_start(map, start - 1);
		merged.len += start - merged.start;
	}
	bits_set(map->bits, start, len);
	if (right_was_longest && right_sp != merged.start / SPAN_BLK)
		rescan(map, right_sp, (struct mrun){ 0, 0 });
	if (is_longest(map, merged.start) || merged.len > map->spans[merged.start / SPAN_BLK].len)
		set_longest(map, merged.start / SPAN_BLK, merged);
}

// ---- searching ----

// The shortest run of at least len among the first `limit` entries of a bin; an exact one ends the search.
static uint32_t scan_bin(const struct buddy *map, uint32_t bin, uint32_t len, uint32_t limit)
{
	uint32_t best = NIL;

	for (uint32_t sp = map->head[bin]; sp != NIL && limit > 0; sp = map->spans[sp].next, limit--) {
		uint32_t have = map->spans[sp].len;

		if (have >= len && (best == NIL || have < map->spans[best].len))
			best = sp;
		if (have == len)
			break;
	}
	return best;
}

static struct mrun longest_of(const struct buddy *map, uint32_t sp)
{
	return (struct mrun){ sp * SPAN_BLK + map->spans[sp].off, map->spans[sp].len };
}

struct mrun buddy_fit(const struct buddy *map, uint32_t len, bool all)
{
	uint32_t own_bin = bin_of(len), bin, sp;

	if (len > map->n_blk)
		return (struct mrun){ 0, 0 };
	// Only the bin of len itself can hold runs that are too short.
	sp = scan_bin(map, own_bin, len, FIT_SCAN);
	if (sp == NIL) {
		bin = own_bin + 1 < N_BINS ? bitset_next(&map->bins, own_bin + 1) : NIL;
		if (bin != NIL)
			sp = scan_bin(map, bin, len, FIT_SCAN);
		else if (all)
			sp = scan_bin(map, own_bin, len, NIL);
	}
	if (sp == NIL)
		return (struct mrun){ 0, 0 };
	return len < SPAN_BLK ? slab_best_hole(map, sp, len) : longest_of(map, sp);
}

uint32_t buddy_top_bin(const struct buddy *map)
{
	uint32_t bin = bitset_prev(&map->bins, N_BINS - 1);

	return bin == NIL ? 0 : bin;
}

struct mrun buddy_top(const struct buddy *map)
{
	uint32_t bin = buddy_top_bin(map);

	return bin == 0 ? (struct mrun){ 0, 0 } : longest_of(map, map->head[bin]);
}

uint32_t buddy_largest(const struct buddy *map)
{
	uint32_t bin = buddy_top_bin(map), largest = 0;

	if (bin == 0)
		return 0;
	for (uint32_t sp = map->head[bin]; sp != NIL; sp = map->spans[sp].next)
		largest = max_u32(largest, map->spans[sp].len);
	return largest;
}
