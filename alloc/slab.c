// SPDX-License-Identifier: MIT
// The middle tier: spans of 1 MiB that serve requests smaller than themselves.
//
// A slab is a span in which no free run of a span's length starts. It has no state of its own beside its entry in the
// index: its map is 4 words of the free map, its class is the bin of its longest hole. Best fit over the bins
// therefore fills the fullest slab that can serve a request; a slab that becomes empty is part of a large run again at
// the same moment, because runs merge across any border.
//
// A new slab opens at the far end of the smallest large run, while large requests are cut from the near end: short-lived
// small blocks do not lie between large extents, and what is free between the two ends stays in one piece.
#include "alloc/alloc_internal.h"

struct mrun slab_next_hole(const struct buddy *map, uint32_t sp, uint32_t from)
{
	uint32_t base = sp * SPAN_BLK, end = base + SPAN_BLK;
	uint32_t start = bits_next_set(map->bits, from, end);
	uint32_t stop;

	// Free blocks at the border of the span before belong to a run that starts there.
	if (start == base && base > 0 && bits_test(map->bits, base - 1)) {
		start = bits_next_clear(map->bits, start, end);
		start = bits_next_set(map->bits, start, end);
	}
	if (start == end)
		return (struct mrun){ 0, 0 };
	stop = bits_next_clear(map->bits, start, end);
	if (stop == end && sp + 1 < map->n_spans)
		stop = bits_next_clear(map->bits, end, end + SPAN_BLK);
	return (struct mrun){ start, stop - start };
}

struct mrun slab_longest(const struct buddy *map, uint32_t sp)
{
	struct mrun longest = { 0, 0 };
	struct mrun hole = slab_next_hole(map, sp, sp * SPAN_BLK);

	while (hole.len > 0) {
		if (hole.len > longest.len)
			longest = hole;
		if (mrun_end(hole) >= (sp + 1) * SPAN_BLK)
			break;
		hole = slab_next_hole(map, sp, mrun_end(hole));
	}
	return longest;
}

struct mrun slab_best_hole(const struct buddy *map, uint32_t sp, uint32_t len)
{
	const struct span *span = &map->spans[sp];
	struct mrun best = { sp * SPAN_BLK + span->off, span->len };
	struct mrun hole = slab_next_hole(map, sp, sp * SPAN_BLK);

	while (hole.len > 0 && best.len > len) {
		if (hole.len >= len && hole.len < best.len && hole.start != best.start)
			best = hole;
		if (mrun_end(hole) >= (sp + 1) * SPAN_BLK)
			break;
		hole = slab_next_hole(map, sp, mrun_end(hole));
	}
	return best;
}

uint32_t slab_open_at(struct mrun run)
{
	if (run.len < 2 * SPAN_BLK)
		return run.start;
	return (mrun_end(run) - SPAN_BLK) & ~(SPAN_BLK - 1);
}
