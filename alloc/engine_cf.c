// SPDX-License-Identifier: MIT
// ZFS's cursor fit (metaslab_cf_alloc, OpenZFS module/zfs/metaslab.c): one region, the longest free run there was,
// is used up from its start by whatever comes; when the next request does not fit into its rest, the longest run
// becomes the region. Fast, and kind to disks that like writing in one place; the rests stay behind as fragments.
//
// C1  The blocks of the region are free. So a find needs no look at the map; a take that reaches into the region, by
//     whatever way the caller came to it, cuts the region down, and close() forgets it. In ZFS nobody else takes
//     from a metaslab.
//
// Bound: O(log n), and O(1) inside the region.
#include "alloc/engine_tree.h"

#include <errno.h>

struct engine_cf {
	struct engine_tree tree;
	struct mrun region; // what is left of it; len 0: none
};

static struct engine_cf *cf_of(struct engine *e) { return (struct engine_cf *)(void *)e; }

static int cf_create(const struct engine_config *cfg, struct engine **out)
{
	return engine_tree_create(&engine_cf, sizeof(struct engine_cf), cfg, out);
}

static void cf_close(struct engine *e, uint32_t start, uint32_t len)
{
	struct engine_cf *cf = cf_of(e);

	if (cf->region.start - start < len)
		cf->region = (struct mrun){ 0 };
	engine_tree_close(e, start, len);
}

static void cf_take(struct engine *e, struct mrun run, uint32_t start, uint32_t len)
{
	struct mrun *region = &cf_of(e)->region;
	uint32_t region_end = mrun_end(*region), end = start + len;

	engine_tree_take(e, run, start, len);
	if (end <= region->start || start >= region_end)
		return;
	if (start > region->start)
		region->len = start - region->start;
	else
		*region = (struct mrun){ end, end < region_end ? region_end - end : 0 };
}

static struct mrun cf_find(struct engine *e, uint32_t len, enum engine_fit fit)
{
	struct mrun *region = &cf_of(e)->region;
	struct mrun longest;

	(void)fit;
	if (region->len >= len)
		return *region;
	longest = engine_tree_longest(e);
	if (longest.len < len)
		return (struct mrun){ 0 };
	*region = longest;
	return longest;
}

static int cf_check(struct engine *e, struct errmsg *why)
{
	const struct mrun region = cf_of(e)->region;
	struct mrun around;

	if (region.len > 0) {
		around = engine_tree_run_at(e, region.start);
		if (around.len == 0 || mrun_end(around) < mrun_end(region)) {
			errmsg_set(why, "C1: the region of %u blocks at %u is not free", region.len, region.start);
			return -EUCLEAN;
		}
	}
	return engine_tree_check(e, why);
}

const struct engine_ops engine_cf = {
	.name = "cf",
	.about = "ZFS cursor fit: the longest run is used up from its start, then the next",
	.fits = 1u << FIT_BEST,
	.create = cf_create,
	.find = cf_find,
	ENGINE_TREE_OPS_WITH(cf_close, cf_take, cf_check),
};
