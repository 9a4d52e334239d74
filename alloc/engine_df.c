// SPDX-License-Identifier: MIT
// ZFS's dynamic fit (metaslab_df_alloc, OpenZFS module/zfs/metaslab.c): first fit from a cursor while there is room,
// best fit when it gets tight.
//
//   cursor    one for each alignment of a length (the largest power of two that divides it), where the last run
//             taken through it ended: what is alike lies together
//   first fit from the run around the cursor on, by address, over 16 MiB or 100 runs, whichever is more; then the
//             cursor goes back to zero
//   best fit  if first fit found nothing, less than 4% of the blocks is free or no run has 128 KiB: the shortest run
//             that is long enough. Runs below 16 KiB are passed over until nothing else fits, as if not in the tree
//             by length (as in ZFS)
//
// ZFS keeps this state per metaslab; here the arena, which is as many metaslabs as it has parts, is one.
// Bound: O(log n) and at most 2,049 steps: so many runs of one block, a block apart, start within 16 MiB.
#include "alloc/engine_tree.h"

#define SEARCH_BLK 4096u // metaslab_df_max_search: 16 MiB
#define SEARCH_MIN_RUNS 100u
#define INDEXED_BLK 4u // metaslab_by_size_min_shift: 16 KiB

struct engine_df {
	struct engine_tree tree;
	uint32_t cursor[ENGINE_TREE_CURSORS]; // by log2 of the alignment
};

static int df_create(const struct engine_config *cfg, struct engine **out)
{
	return engine_tree_create(&engine_df, sizeof(struct engine_df), cfg, out);
}

static struct mrun first_fit(struct engine_tree *t, uint32_t cursor, uint32_t len)
{
	struct range_iter it;
	struct mrun run = engine_tree_walk(t, cursor, &it);
	uint32_t first = run.start;

	for (uint32_t n = 0; run.len > 0 && (run.start - first <= SEARCH_BLK || n < SEARCH_MIN_RUNS); n++) {
		if (run.len >= len)
			return run;
		run = engine_tree_walk_on(t, &it);
	}
	return (struct mrun){ 0 };
}

static struct mrun best_fit(struct engine_tree *t, uint32_t len)
{
	struct mrun run = engine_tree_best_fit(t, len < INDEXED_BLK ? INDEXED_BLK : len);

	return run.len == 0 && len < INDEXED_BLK ? engine_tree_best_fit(t, len) : run;
}

static struct mrun df_find(struct engine *e, uint32_t len, enum engine_fit fit)
{
	struct engine_tree *t = engine_tree(e);
	uint32_t *cursor = &((struct engine_df *)(void *)e)->cursor[__builtin_ctz(len)];
	struct mrun run = { 0 };

	(void)fit;
	if (range_tree_last(&t->by_len) < range_key(len, 0))
		return run;
	if (!engine_tree_is_tight(t)) {
		run = first_fit(t, *cursor, len);
		*cursor = run.len > 0 ? run.start + len : 0;
	}
	if (run.len == 0) {
		run = best_fit(t, len);
		*cursor = run.start + len;
	}
	return run;
}

const struct engine_ops engine_df = {
	.name = "df",
	.about = "ZFS dynamic fit: first fit from a cursor per alignment, best fit when space is short",
	.fits = 1u << FIT_BEST,
	.create = df_create,
	.find = df_find,
	ENGINE_TREE_OPS,
};
