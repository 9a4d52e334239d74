// SPDX-License-Identifier: MIT
// Ceph's AvlAllocator (src/os/bluestore/AvlAllocator.cc), itself made after ZFS's dynamic fit: first fit from a
// cursor per alignment, but round the whole arena; best fit over all runs when that gives up or space is short.
//
//   first fit from the run around the cursor to the end and from the beginning to the cursor, until 100 runs were
//             too short or 16 MiB lie behind it. The cursor follows the search even if nothing is found, so the next
//             one goes on there
//   best fit  if first fit found nothing, less than 4% of the blocks is free or no run has 128 KiB
//
// Ceph halves a request that no run fits; splitting is the arena's business here, so find() says that there is none.
// Ceph keeps its ranges in AVL trees, from which the name; here they stand in range_tree.h like all the others.
// Bound: O(log n) and at most 101 steps.
#include "alloc/engine_tree.h"

#define SEARCH_BLK 4096u // bluestore_avl_alloc_ff_max_search_bytes: 16 MiB
#define SEARCH_RUNS 100u // bluestore_avl_alloc_ff_max_search_count

struct engine_avl {
	struct engine_tree tree;
	uint32_t cursor[ENGINE_TREE_CURSORS]; // by log2 of the alignment
};

static int avl_create(const struct engine_config *cfg, struct engine **out)
{
	return engine_tree_create(&engine_avl, sizeof(struct engine_avl), cfg, out);
}

// One first-fit search: what it looks for and what it has passed.
struct search {
	uint32_t len;
	uint32_t n_runs; // that were too short
	uint32_t n_blk;  // from the first of them to the last; behind the wrap, and from the arena's start
	uint32_t *cursor;
};

// Goes from `run` on, which is at `it`, over those that start before `end`. True if that was the end of the search:
// `found` fits, or has length 0 as it gave up.
static bool search_span(struct engine_tree *t, struct search *s, struct mrun run, struct range_iter *it,
			uint32_t origin, uint32_t end, struct mrun *found)
{
	uint32_t passed = 0;

	*found = (struct mrun){ 0 };
	for (; run.len > 0 && run.start < end; run = engine_tree_walk_on(t, it)) {
		*s->cursor = run.start + s->len;
		if (run.len >= s->len) {
			*found = run;
			return true;
		}
		passed = run.start - origin;
		if (++s->n_runs > SEARCH_RUNS || s->n_blk + passed > SEARCH_BLK)
			return true;
	}
	s->n_blk += passed;
	return false;
}

static struct mrun first_fit(struct engine_tree *t, uint32_t *cursor, uint32_t len)
{
	struct search s = { .len = len, .cursor = cursor };
	struct range_iter it;
	struct mrun first = engine_tree_walk(t, *cursor, &it), found;
	uint32_t end = first.len > 0 ? first.start : UINT32_MAX;

	if (!search_span(t, &s, first, &it, first.start, UINT32_MAX, &found))
		search_span(t, &s, engine_tree_walk(t, 0, &it), &it, 0, end, &found);
	return found;
}

static struct mrun avl_find(struct engine *e, uint32_t len, enum engine_fit fit)
{
	struct engine_tree *t = engine_tree(e);
	struct mrun run = { 0 };

	(void)fit;
	if (range_tree_last(&t->by_len) < range_key(len, 0))
		return run;
	if (!engine_tree_is_tight(t))
		run = first_fit(t, &((struct engine_avl *)(void *)e)->cursor[__builtin_ctz(len)], len);
	return run.len > 0 ? run : engine_tree_best_fit(t, len);
}

const struct engine_ops engine_avl = {
	.name = "avl",
	.about = "Ceph AVL: first fit from a cursor per alignment, then best fit",
	.fits = 1u << FIT_BEST,
	.create = avl_create,
	.find = avl_find,
	ENGINE_TREE_OPS,
};
