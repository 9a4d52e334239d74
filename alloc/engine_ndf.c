// SPDX-License-Identifier: MIT
// ZFS's new dynamic fit (metaslab_ndf_alloc, OpenZFS module/zfs/metaslab.c): clumps. A length goes on in the run in
// which the last one of its power of two went; if that is used up, it starts a new one in the shortest run that
// holds 16 of the next power of two, or, if there is none, in the longest.
//
//   cursor  one for each power of two of lengths, where the last run taken through it ended
//
// ZFS takes any run that overlaps [cursor, cursor + len); here it is the first of these by address.
// Bound: O(log n).
#include "alloc/engine_tree.h"

#define CLUMP_SHIFT 4u // metaslab_ndf_clump_shift: at least 2^4 requests to a clump

struct engine_ndf {
	struct engine_tree tree;
	uint32_t cursor[ENGINE_TREE_CURSORS]; // by log2 of the length
};

static int ndf_create(const struct engine_config *cfg, struct engine **out)
{
	return engine_tree_create(&engine_ndf, sizeof(struct engine_ndf), cfg, out);
}

static struct mrun new_clump(struct engine_tree *t, uint32_t log2, uint32_t longest)
{
	uint64_t clump = 1ull << (log2 + 1 + CLUMP_SHIFT);

	return engine_tree_best_fit(t, clump < longest ? (uint32_t)clump : longest);
}

static struct mrun ndf_find(struct engine *e, uint32_t len, enum engine_fit fit)
{
	struct engine_tree *t = engine_tree(e);
	uint32_t log2 = 31u - (uint32_t)__builtin_clz(len);
	uint32_t *cursor = &((struct engine_ndf *)(void *)e)->cursor[log2];
	uint32_t longest = range_major(range_tree_last(&t->by_len));
	struct range_iter it;
	struct mrun run;

	(void)fit;
	if (longest < len)
		return (struct mrun){ 0 };
	run = engine_tree_walk(t, *cursor, &it);
	if (run.len < len || run.start >= (uint64_t)*cursor + len)
		run = new_clump(t, log2, longest);
	*cursor = run.start + len;
	return run;
}

const struct engine_ops engine_ndf = {
	.name = "ndf",
	.about = "ZFS new dynamic fit: lengths of one power of two in clumps",
	.fits = 1u << FIT_BEST,
	.create = ndf_create,
	.find = ndf_find,
	ENGINE_TREE_OPS,
};
