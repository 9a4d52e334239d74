// SPDX-License-Identifier: MIT
// A B+-tree of 64-bit keys (Bayer & McCreight 1972, with all keys in the leaves as in Comer 1979). A node is 512
// bytes, eight cache lines: 62 keys or 40 children. 250,000 ranges are four levels, where a binary tree has
// eighteen, each a cache miss and a branch that is guessed wrong every other time.
//
//   inner:  sep[0..n), child[0..n)      child[i] has the keys in [sep[i], sep[i+1]); sep[0] bounds the node as
//                                       a whole, 0 at the tree's left edge, and is not searched
//   leaf:   key[0..n), prev, next       ascending, and a list through all leaves
//   both:   the keys from n on are RANGE_KEY_MAX, so that a search need not know n
//
// A search in a node compares with every eighth key at once, then with eight keys: two rounds of loads that do not
// wait for each other, where a binary search has six that do (measured with the avl engine and 10,000 runs: 320 ns
// instead of 390 per allocation).
//
// A full node splits in halves on the way of an insert (a leaf that is full because keys come in ascending order
// gives only its last quarter, so that loading packs it to three quarters). A node that falls below a quarter is
// joined with a neighbour under the same parent if both fill no more than three quarters of one node; otherwise the
// two share evenly. So a node that was split, joined or evened is at least a quarter of its places away from the
// next split (range_tree_need() counts on that).
//
// Cost: a lookup is one search per level, or one altogether if the finger is at the right leaf. Insert, erase: that
// and moving up to 62 keys; and O(log n) splits or joins at worst, one per 15 changes on average.
#include "alloc/range_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LEAF_CAP 62u
#define INNER_CAP 40u

struct range_node {
	uint32_t n;
	uint32_t prev, next; // leaves; next of a free node: the next free one
	uint32_t level;      // 0 = leaf
	union {
		uint64_t key[LEAF_CAP];
		struct {
			uint64_t sep[INNER_CAP];
			uint32_t child[INNER_CAP];
		};
	};
};
static_assert(sizeof(struct range_node) == 512, "a node is eight cache lines");

static uint32_t node_cap(uint32_t level) { return level == 0 ? LEAF_CAP : INNER_CAP; }

static uint32_t node_min(uint32_t level) { return node_cap(level) / 4; }

static struct range_node *node_at(const struct range_tree *t, uint32_t id) { return &t->pool->node[id]; }

// Forgets the entries from n on.
static void node_cut(struct range_node *node, uint32_t n)
{
	uint64_t *keys = node->level == 0 ? node->key : node->sep;

	for (uint32_t i = n; i < node->n; i++)
		keys[i] = RANGE_KEY_MAX;
	node->n = n;
}

// ---- The pool

void range_pool_init(struct range_pool *pool)
{
	*pool = (struct range_pool){ .n_touched = 1 };
	atomic_init(&pool->bytes, 0);
}

void range_pool_free(struct range_pool *pool)
{
	free(pool->node);
	pool->node = NULL;
	pool->n_nodes = pool->n_free = pool->free_id = 0;
	pool->n_touched = 1;
	atomic_store_explicit(&pool->bytes, 0, memory_order_relaxed);
}

int range_pool_reserve(struct range_pool *pool, uint64_t n)
{
	uint64_t want = pool->n_touched + (n > pool->n_free ? n - pool->n_free : 0);
	struct range_node *node;

	if (want <= pool->n_nodes)
		return 0;
	want += want / 4; // so that copying costs four times each node at most, however large the pool gets
	if (want > UINT32_MAX)
		return -ENOMEM;
	node = aligned_alloc(64, want * sizeof(*node));
	if (!node)
		return -ENOMEM;
	if (pool->node)
		memcpy(node + 1, pool->node + 1, (pool->n_touched - 1) * sizeof(*node));
	free(pool->node);
	pool->node = node;
	pool->n_nodes = (uint32_t)want;
	atomic_store_explicit(&pool->bytes, want * sizeof(*node), memory_order_relaxed);
	return 0;
}

static uint32_t node_new(struct range_tree *t, uint32_t level)
{
	struct range_pool *pool = t->pool;
	uint32_t id = pool->free_id;

	if (id != 0) {
		pool->free_id = pool->node[id].next;
		pool->n_free--;
	} else {
		VERIFY(pool->n_touched < pool->n_nodes); // the caller forgot to reserve
		id = pool->n_touched++;
	}
	t->n_nodes++;
	pool->node[id].n = node_cap(level);
	pool->node[id].prev = pool->node[id].next = 0;
	pool->node[id].level = level;
	node_cut(&pool->node[id], 0);
	return id;
}

static void node_drop(struct range_tree *t, uint32_t id)
{
	node_at(t, id)->next = t->pool->free_id;
	t->pool->free_id = id;
	t->pool->n_free++;
	t->n_nodes--;
}

// ---- Looking up

void range_tree_init(struct range_tree *t, struct range_pool *pool, uint64_t sep_mask)
{
	*t = (struct range_tree){ .pool = pool, .sep_mask = sep_mask };
}

// Per level: the splits of nodes that are there now, at most one each and at most n; then one per 15 (leaves) or 10
// inserts into that level, which sums to n / 13.5; a new root per 39 splits of the old one.
uint64_t range_tree_need(const struct range_tree *t, uint64_t n)
{
	uint64_t each = n * t->height, all = (uint64_t)t->n_nodes * 2;

	return (each < all ? each : all) + n / 8 + 2;
}

// How many of eight keys are below `key`. Without a branch: which ones cannot be guessed.
static inline uint32_t count_8(const uint64_t *keys, uint32_t stride, uint32_t n, uint64_t key)
{
	uint32_t below = 0;

#pragma GCC unroll 8
	for (uint32_t i = 0; i < n; i++)
		below += keys[i * stride] < key;
	return below;
}

// How many of `cap` ascending keys are below `key`; cap >= 8.
static inline uint32_t count_below(const uint64_t *keys, uint32_t cap, uint64_t key)
{
	uint32_t at = 8 * count_8(keys + 7, 8, cap / 8, key);

	if (at > cap - 8)
		at = cap - 8; // the last eight overlap with those before, which are all below
	return at + count_8(keys + at, 1, 8, key);
}

static void descend(struct range_tree *t, uint64_t key)
{
	struct range_finger *f = &t->finger;
	uint32_t id = t->root;

	f->from = 0;
	f->to = RANGE_KEY_MAX;
	for (uint32_t level = t->height - 1; level > 0; level--) {
		const struct range_node *node = node_at(t, id);
		uint32_t i = count_below(node->sep + 1, INNER_CAP - 1, key + 1);

		if (i > 0)
			f->from = node->sep[i];
		if (i + 1 < node->n)
			f->to = node->sep[i + 1];
		f->path[level].node = id;
		f->path[level].idx = i;
		id = node->child[i];
	}
	f->path[0].node = id;
	f->valid = true;
}

// Moves the finger to the first key of its leaf that is not below `key`, or behind the last. Returns the leaf; the
// tree is not empty.
static struct range_node *seek(struct range_tree *t, uint64_t key)
{
	struct range_finger *f = &t->finger;
	struct range_node *leaf;

	if (!f->valid || key < f->from || key >= f->to)
		descend(t, key);
	leaf = node_at(t, f->path[0].node);
	f->path[0].idx = count_below(leaf->key, LEAF_CAP, key);
	return leaf;
}

// The same for a key that must be there. Mostly the finger is on it or right behind it already: somebody has just
// looked.
static struct range_node *seek_known(struct range_tree *t, uint64_t key)
{
	struct range_finger *f = &t->finger;
	struct range_node *leaf;

	VERIFY(t->height > 0);
	if (f->valid && key >= f->from && key < f->to) {
		leaf = node_at(t, f->path[0].node);
		if (f->path[0].idx < leaf->n && leaf->key[f->path[0].idx] == key)
			return leaf;
		if (f->path[0].idx > 0 && leaf->key[f->path[0].idx - 1] == key) {
			f->path[0].idx--;
			return leaf;
		}
	}
	leaf = seek(t, key);
	VERIFY(f->path[0].idx < leaf->n && leaf->key[f->path[0].idx] == key);
	return leaf;
}

void range_tree_around(struct range_tree *t, uint64_t key, uint64_t *below, uint64_t *above)
{
	const struct range_node *leaf;
	uint32_t idx;

	*below = *above = 0;
	if (t->height == 0)
		return;
	leaf = seek(t, key);
	idx = t->finger.path[0].idx;
	if (idx > 0) {
		*below = leaf->key[idx - 1];
	} else if (leaf->prev != 0) {
		const struct range_node *prev = node_at(t, leaf->prev);

		*below = prev->key[prev->n - 1];
	}
	if (idx < leaf->n)
		*above = leaf->key[idx];
	else if (leaf->next != 0)
		*above = node_at(t, leaf->next)->key[0];
}

uint64_t range_tree_last(const struct range_tree *t)
{
	const struct range_node *leaf;

	if (t->height == 0)
		return 0;
	leaf = node_at(t, t->last);
	return leaf->key[leaf->n - 1];
}

// The key at the iterator, which may stand behind the last of its leaf.
static uint64_t iter_key(const struct range_tree *t, struct range_iter *it)
{
	const struct range_node *leaf = node_at(t, it->node);

	if (it->idx == leaf->n) {
		if (leaf->next == 0)
			return 0;
		*it = (struct range_iter){ .node = leaf->next };
		leaf = node_at(t, it->node);
	}
	return leaf->key[it->idx];
}

uint64_t range_tree_from(struct range_tree *t, uint64_t key, struct range_iter *it)
{
	if (t->height == 0)
		return 0;
	seek(t, key);
	*it = (struct range_iter){ .node = t->finger.path[0].node, .idx = t->finger.path[0].idx };
	return iter_key(t, it);
}

uint64_t range_tree_next(const struct range_tree *t, struct range_iter *it)
{
	if (it->idx < node_at(t, it->node)->n)
		it->idx++;
	return iter_key(t, it);
}

// ---- Moving entries

// Moves n entries inside a node or between two of the same level; they may overlap.
static void entries_move(struct range_node *to, uint32_t to_idx, struct range_node *from, uint32_t from_idx, uint32_t n)
{
	if (to->level == 0) {
		memmove(to->key + to_idx, from->key + from_idx, n * sizeof(to->key[0]));
		return;
	}
	memmove(to->sep + to_idx, from->sep + from_idx, n * sizeof(to->sep[0]));
	memmove(to->child + to_idx, from->child + from_idx, n * sizeof(to->child[0]));
}

static void entry_open(struct range_node *node, uint32_t idx)
{
	entries_move(node, idx + 1, node, idx, node->n - idx);
	node->n++;
}

static void entry_close(struct range_node *node, uint32_t idx)
{
	entries_move(node, idx, node, idx + 1, node->n - idx - 1);
	node_cut(node, node->n - 1);
}

static void leaf_link_behind(struct range_tree *t, uint32_t left_id, uint32_t id)
{
	struct range_node *left = node_at(t, left_id), *node = node_at(t, id);

	node->prev = left_id;
	node->next = left->next;
	if (left->next != 0)
		node_at(t, left->next)->prev = id;
	else
		t->last = id;
	left->next = id;
}

// Not for the first leaf: what is joined goes to the left.
static void leaf_unlink(struct range_tree *t, uint32_t id)
{
	const struct range_node *node = node_at(t, id);

	node_at(t, node->prev)->next = node->next;
	if (node->next != 0)
		node_at(t, node->next)->prev = node->prev;
	else
		t->last = node->prev;
}

// The separator that a node's first entry asks for.
static uint64_t first_sep(const struct range_tree *t, const struct range_node *node)
{
	return node->level == 0 ? node->key[0] & t->sep_mask : node->sep[0];
}

// ---- Inserting

static void grow_root(struct range_tree *t)
{
	uint32_t id = node_new(t, t->height);
	struct range_node *root = node_at(t, id);

	VERIFY(t->height < RANGE_MAX_HEIGHT);
	root->n = 1;
	root->sep[0] = 0;
	root->child[0] = t->root;
	t->finger.path[t->height].node = id;
	t->finger.path[t->height].idx = 0;
	t->root = id;
	t->height++;
}

// Splits the full node of this level on the finger's path, whose parent has room. The finger stays where it is.
static void split_node(struct range_tree *t, uint32_t level)
{
	struct range_finger *f = &t->finger;
	uint32_t id = f->path[level].node, idx = f->path[level].idx;
	uint32_t right_id = node_new(t, level);
	struct range_node *left = node_at(t, id), *right = node_at(t, right_id);
	struct range_node *parent = node_at(t, f->path[level + 1].node);
	uint32_t at = f->path[level + 1].idx + 1;
	uint32_t cut = idx == left->n ? left->n - node_min(level) : left->n / 2;
	uint64_t sep;

	right->n = left->n - cut;
	entries_move(right, 0, left, cut, right->n);
	node_cut(left, cut);
	if (level == 0)
		leaf_link_behind(t, id, right_id);
	sep = first_sep(t, right);
	entry_open(parent, at);
	parent->sep[at] = sep;
	parent->child[at] = right_id;

	// At the cut itself a leaf's new key goes to the left: it may be below the separator. An inner node's idx is
	// a child of it.
	if (idx > cut || (level > 0 && idx == cut)) {
		f->path[level].node = right_id;
		f->path[level].idx -= cut;
		f->path[level + 1].idx++;
		f->from = level == 0 ? sep : f->from;
	} else if (level == 0) {
		f->to = sep;
	}
}

// Splits what is full on the finger's path, from the top down, until its leaf has room.
static void make_room(struct range_tree *t)
{
	uint32_t n_full = 0;

	while (n_full < t->height && node_at(t, t->finger.path[n_full].node)->n == node_cap(n_full))
		n_full++;
	if (n_full == t->height)
		grow_root(t);
	while (n_full-- > 0)
		split_node(t, n_full);
}

void range_tree_insert(struct range_tree *t, uint64_t key)
{
	struct range_node *leaf;

	if (t->height == 0) {
		t->root = t->last = node_new(t, 0);
		t->height = 1;
		t->finger.valid = false;
	}
	leaf = seek(t, key);
	if (leaf->n == LEAF_CAP) {
		make_room(t);
		leaf = node_at(t, t->finger.path[0].node);
	}
	ASSERT(t->finger.path[0].idx == leaf->n || leaf->key[t->finger.path[0].idx] != key);
	entry_open(leaf, t->finger.path[0].idx);
	leaf->key[t->finger.path[0].idx] = key;
	t->n_keys++;
}

// ---- Erasing

// Joins the children i and i + 1 of a node, or lets them share evenly. True if the node has a child less now.
static bool join_children(struct range_tree *t, struct range_node *parent, uint32_t i)
{
	uint32_t right_id = parent->child[i + 1];
	struct range_node *left = node_at(t, parent->child[i]), *right = node_at(t, right_id);
	uint32_t total = left->n + right->n, cap = node_cap(left->level), want;

	want = total <= cap / 4 * 3 ? total : total / 2;
	if (want > left->n) {
		uint32_t n = want - left->n;

		entries_move(left, left->n, right, 0, n);
		left->n = want;
		entries_move(right, 0, right, n, right->n - n);
		node_cut(right, total - want);
	} else {
		uint32_t n = left->n - want;

		entries_move(right, n, right, 0, right->n);
		entries_move(right, 0, left, want, n);
		right->n = total - want;
		node_cut(left, want);
	}
	if (right->n > 0) {
		parent->sep[i + 1] = first_sep(t, right);
		return false;
	}
	if (right->level == 0)
		leaf_unlink(t, right_id);
	node_drop(t, right_id);
	entry_close(parent, i + 1);
	return true;
}

// Restores T3 along the finger's path after its leaf lost a key.
static void refill(struct range_tree *t)
{
	struct range_finger *f = &t->finger;

	for (uint32_t level = 0; level + 1 < t->height; level++) {
		struct range_node *parent = node_at(t, f->path[level + 1].node);
		uint32_t i = f->path[level + 1].idx;

		if (node_at(t, f->path[level].node)->n >= node_min(level))
			break;
		f->valid = false;
		if (!join_children(t, parent, i > 0 ? i - 1 : 0))
			break;
	}
	while (t->height > 0 && node_at(t, t->root)->n <= (t->height > 1)) {
		uint32_t id = t->root;

		f->valid = false;
		t->root = t->height > 1 ? node_at(t, id)->child[0] : 0;
		t->height--;
		node_drop(t, id);
	}
	if (t->height == 0)
		t->last = 0;
}

void range_tree_erase(struct range_tree *t, uint64_t key)
{
	struct range_node *leaf = seek_known(t, key);

	entry_close(leaf, t->finger.path[0].idx);
	t->n_keys--;
	if (leaf->n < node_min(0))
		refill(t);
}

void range_tree_replace(struct range_tree *t, uint64_t old, uint64_t key)
{
	struct range_node *leaf = seek_known(t, old);
	const struct range_finger *f = &t->finger;
	uint32_t idx = f->path[0].idx;

	if (key >= f->from && key < f->to && (idx == 0 || leaf->key[idx - 1] < key) &&
	    (idx + 1 == leaf->n || key < leaf->key[idx + 1])) {
		leaf->key[idx] = key;
		return;
	}
	range_tree_erase(t, old);
	range_tree_insert(t, key);
}

// ---- Checking

#define FAIL(why, ...) (errmsg_set(why, __VA_ARGS__), -EUCLEAN)

// What the walk over a tree has counted so far.
struct tally {
	uint64_t n_keys, last_key;
	uint32_t n_nodes, last_leaf;
};

static int check_leaf(const struct range_tree *t, uint32_t id, uint64_t from, uint64_t to, struct tally *sum,
		      struct errmsg *why)
{
	const struct range_node *leaf = node_at(t, id);

	if (leaf->prev != sum->last_leaf || (sum->last_leaf != 0 && node_at(t, sum->last_leaf)->next != id))
		return FAIL(why, "T1: leaf %u is not linked behind leaf %u", id, sum->last_leaf);
	for (uint32_t i = 0; i < leaf->n; i++) {
		if (leaf->key[i] <= sum->last_key)
			return FAIL(why, "T1: leaf %u: key %u does not ascend", id, i);
		if (leaf->key[i] < from || leaf->key[i] >= to)
			return FAIL(why, "T2: leaf %u: key %u is outside the leaf's separators", id, i);
		sum->last_key = leaf->key[i];
	}
	sum->n_keys += leaf->n;
	sum->last_leaf = id;
	return 0;
}

static int check_fill(const struct range_tree *t, uint32_t id, uint32_t level, struct errmsg *why)
{
	const struct range_node *node;
	uint32_t least = level + 1 < t->height ? node_min(level) : level > 0 ? 2 : 1;

	if (id == 0 || id >= t->pool->n_touched)
		return FAIL(why, "T2: there is no node %u", id);
	node = node_at(t, id);
	if (node->level != level)
		return FAIL(why, "T1: node %u is of level %u at level %u", id, node->level, level);
	if (node->n < least || node->n > node_cap(level))
		return FAIL(why, "T3: node %u of level %u has %u entries", id, level, node->n);
	for (uint32_t i = node->n; i < node_cap(level); i++)
		if ((level == 0 ? node->key : node->sep)[i] != RANGE_KEY_MAX)
			return FAIL(why, "T2: node %u of level %u: something is left at place %u", id, level, i);
	return 0;
}

static int check_totals(const struct range_tree *t, const struct tally *sum, struct errmsg *why)
{
	if (sum->last_leaf != t->last || (sum->last_leaf != 0 && node_at(t, sum->last_leaf)->next != 0))
		return FAIL(why, "T1: the list of leaves does not end with the last leaf");
	if (sum->n_keys != t->n_keys || sum->n_nodes != t->n_nodes)
		return FAIL(why, "T4: %llu keys in %u nodes are there, %llu in %u are counted",
			    (unsigned long long)sum->n_keys, sum->n_nodes, (unsigned long long)t->n_keys, t->n_nodes);
	return 0;
}

int range_tree_check(struct range_tree *t, struct errmsg *why)
{
	struct {
		uint32_t node, idx; // idx: the child to go down to next
		uint64_t from, to;
	} path[RANGE_MAX_HEIGHT];
	struct tally sum = { 0 };
	uint32_t level = t->height;
	int err;

	if (t->height > RANGE_MAX_HEIGHT)
		return FAIL(why, "T3: height %u", t->height);
	if (level > 0) {
		path[--level].node = t->root;
		path[level].idx = 0;
		path[level].from = 0;
		path[level].to = RANGE_KEY_MAX;
	}
	while (level < t->height) {
		uint32_t id = path[level].node, i = path[level].idx;
		const struct range_node *node;

		if (i == 0) {
			sum.n_nodes++;
			err = check_fill(t, id, level, why);
			if (!err && level == 0)
				err = check_leaf(t, id, path[0].from, path[0].to, &sum, why);
			if (err)
				return err;
		}
		node = node_at(t, id);
		if (level > 0 && node->sep[0] != path[level].from)
			return FAIL(why, "T2: node %u of level %u does not know its own separator", id, level);
		if (level == 0 || i == node->n) {
			level++;
			continue;
		}
		path[level].idx++;
		path[level - 1].node = node->child[i];
		path[level - 1].idx = 0;
		path[level - 1].from = i > 0 ? node->sep[i] : path[level].from;
		path[level - 1].to = i + 1 < node->n ? node->sep[i + 1] : path[level].to;
		level--;
	}
	return check_totals(t, &sum, why);
}
