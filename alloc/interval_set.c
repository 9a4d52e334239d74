// SPDX-License-Identifier: MIT
// Treaps (Seidel and Aragon 1996): search trees by start that are heaps by a priority. With priorities that look random the
// shape is that of a tree built in random order, whatever the order of inserts was. A run's priority is a hash of its
// index in the pool, so it needs no room, and two runs never have the same one: the hash is a bijection.
#include "alloc/interval_set.h"

#include <errno.h>
#include <stdlib.h>

#include "alloc/bits.h"

static_assert(sizeof(struct interval) == 32, "two to a cache line");

// ---- the pool ----

int interval_reserve(struct interval_pool *pool, uint32_t n)
{
	uint64_t want = (uint64_t)pool->n_used + n;
	uint64_t cap = pool->cap < 64 ? 64 : pool->cap;
	struct interval *at;

	if (want <= pool->cap)
		return 0;
	while (cap < want)
		cap += cap / 2;
	if (want >= NIL)
		return -ENOMEM;
	if (cap >= NIL)
		cap = NIL - 1;
	at = realloc(pool->at, cap * sizeof(*at));
	if (at == NULL)
		return -ENOMEM;
	pool->at = at;
	pool->cap = (uint32_t)cap;
	return 0;
}

uint32_t interval_new(struct interval_pool *pool, uint32_t start, uint32_t len)
{
	uint32_t i;

	ASSERT(pool->n_used < pool->cap);
	if (pool->n_recycled > 0) {
		i = pool->recycled;
		pool->recycled = pool->at[i].link[0].left;
		pool->n_recycled--;
	} else {
		i = pool->n_touched++;
	}
	pool->n_used++;
	pool->at[i].start = start;
	pool->at[i].len = len;
	return i;
}

void interval_recycle(struct interval_pool *pool, uint32_t i)
{
	pool->at[i].link[0].left = pool->recycled;
	pool->recycled = i;
	pool->n_recycled++;
	pool->n_used--;
}

void interval_recycle_tree(struct interval_pool *pool, enum iset_links by, uint32_t root)
{
	while (root != NIL) {
		uint32_t right = pool->at[root].link[by].right;

		interval_recycle_tree(pool, by, pool->at[root].link[by].left);
		interval_recycle(pool, root);
		root = right;
	}
}

size_t interval_bytes(const struct interval_pool *pool)
{
	return (size_t)pool->cap * sizeof(*pool->at);
}

void interval_free(struct interval_pool *pool)
{
	free(pool->at);
	*pool = (struct interval_pool){ 0 };
}

// ---- trees; `at` is the pool's array, `t` a root or NIL ----

// Multiplications by odd numbers and shifts to the right, each of which can be undone.
static uint32_t priority(uint32_t i)
{
	i = (i + 1) * 0x9e3779b1u;
	i = (i ^ i >> 15) * 0x85ebca77u;
	return i ^ i >> 13;
}

static uint32_t tree_longest(const struct interval *at, enum iset_links by, uint32_t t)
{
	return t == NIL ? 0 : at[t].link[by].longest;
}

static uint32_t longest_of(const struct interval *at, enum iset_links by, uint32_t t)
{
	uint32_t below = max_u32(tree_longest(at, by, at[t].link[by].left), tree_longest(at, by, at[t].link[by].right));

	return max_u32(at[t].len, below);
}

static void refresh(struct interval *at, enum iset_links by, uint32_t t)
{
	at[t].link[by].longest = longest_of(at, by, t);
}

// Into the runs that start before `key` and the others.
static void split(struct interval *at, enum iset_links by, uint32_t t, uint32_t key, uint32_t *low, uint32_t *high)
{
	if (t == NIL) {
		*low = *high = NIL;
		return;
	}
	if (at[t].start < key) {
		*low = t;
		split(at, by, at[t].link[by].right, key, &at[t].link[by].right, high);
	} else {
		*high = t;
		split(at, by, at[t].link[by].left, key, low, &at[t].link[by].left);
	}
	refresh(at, by, t);
}

// All of `low` lies before all of `high`.
static uint32_t join(struct interval *at, enum iset_links by, uint32_t low, uint32_t high)
{
	if (low == NIL)
		return high;
	if (high == NIL)
		return low;
	if (priority(low) > priority(high)) {
		at[low].link[by].right = join(at, by, at[low].link[by].right, high);
		refresh(at, by, low);
		return low;
	}
	at[high].link[by].left = join(at, by, low, at[high].link[by].left);
	refresh(at, by, high);
	return high;
}

// The link that leads from t towards run i, which is below it.
static uint32_t *towards(struct interval *at, enum iset_links by, uint32_t t, uint32_t i)
{
	return at[i].start < at[t].start ? &at[t].link[by].left : &at[t].link[by].right;
}

static uint32_t insert(struct interval *at, enum iset_links by, uint32_t t, uint32_t i)
{
	if (t == NIL || priority(i) > priority(t)) {
		split(at, by, t, at[i].start, &at[i].link[by].left, &at[i].link[by].right);
		t = i;
	} else {
		uint32_t *link = towards(at, by, t, i);

		*link = insert(at, by, *link, i);
	}
	refresh(at, by, t);
	return t;
}

static uint32_t without(struct interval *at, enum iset_links by, uint32_t t, uint32_t i)
{
	uint32_t *link;

	ASSERT(t != NIL);
	if (t == i)
		return join(at, by, at[i].link[by].left, at[i].link[by].right);
	link = towards(at, by, t, i);
	*link = without(at, by, *link, i);
	refresh(at, by, t);
	return t;
}

static void refresh_path(struct interval *at, enum iset_links by, uint32_t t, uint32_t i)
{
	ASSERT(t != NIL);
	if (t != i)
		refresh_path(at, by, *towards(at, by, t, i), i);
	refresh(at, by, t);
}

// Goes into a left subtree in vain only along the one path to `from`: a subtree behind that, if its longest run is
// long enough, has a result.
static uint32_t first(const struct interval *at, enum iset_links by, uint32_t t, uint32_t from, uint32_t len)
{
	while (t != NIL && at[t].link[by].longest >= len) {
		if (interval_end(&at[t]) > from) {
			uint32_t found = first(at, by, at[t].link[by].left, from, len);

			if (found != NIL)
				return found;
			if (at[t].len >= len)
				return t;
		}
		t = at[t].link[by].right;
	}
	return NIL;
}

// Each subtree's runs must lie in [start, end), which gets smaller on the way down: so this ends even in a ring.
static bool tree_holds(const struct interval_pool *pool, enum iset_links by, uint32_t t, uint32_t start, uint32_t end,
		       uint32_t *n_runs)
{
	const struct interval *v;
	uint32_t left, right;

	if (t == NIL)
		return true;
	if (t >= pool->n_touched)
		return false;
	v = &pool->at[t];
	if (v->len == 0 || v->start < start || v->start >= end || v->len > end - v->start)
		return false;
	++*n_runs;
	left = v->link[by].left;
	right = v->link[by].right;
	if ((left != NIL && priority(left) > priority(t)) || (right != NIL && priority(right) > priority(t)))
		return false;
	return tree_holds(pool, by, left, start, v->start, n_runs) &&
	       tree_holds(pool, by, right, interval_end(v), end, n_runs) &&
	       v->link[by].longest == longest_of(pool->at, by, t);
}

// ---- sets ----

void iset_init(struct iset *set, enum iset_links by)
{
	*set = (struct iset){ .root = NIL, .by = by };
}

void iset_insert(struct interval_pool *pool, struct iset *set, uint32_t i)
{
	set->root = insert(pool->at, set->by, set->root, i);
}

void iset_remove(struct interval_pool *pool, struct iset *set, uint32_t i)
{
	set->root = without(pool->at, set->by, set->root, i);
}

void iset_resized(struct interval_pool *pool, struct iset *set, uint32_t i)
{
	refresh_path(pool->at, set->by, set->root, i);
}

uint32_t iset_longest(const struct interval_pool *pool, const struct iset *set)
{
	return tree_longest(pool->at, set->by, set->root);
}

uint32_t iset_first(const struct interval_pool *pool, const struct iset *set, uint32_t from, uint32_t len)
{
	return first(pool->at, set->by, set->root, from, len);
}

uint32_t iset_cut(struct interval_pool *pool, struct iset *set, uint32_t start, uint32_t end)
{
	uint32_t low, cut, high;

	split(pool->at, set->by, set->root, start, &low, &cut);
	split(pool->at, set->by, cut, end, &cut, &high);
	set->root = join(pool->at, set->by, low, high);
	return cut;
}

bool iset_check(const struct interval_pool *pool, const struct iset *set, uint32_t n_blk, uint32_t *n_runs)
{
	*n_runs = 0;
	return tree_holds(pool, set->by, set->root, 0, n_blk, n_runs);
}
