// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fsck/btree.h"

#define DAMAGES_MAX 100u
#define KEY_COLUMNS_MAX 2u
#define KEY_BYTES 256u // of a blob or text in a key, as much as is compared
#define LOCK_BYTE_PAGE (0x40000000u / PAGE_BYTES + 1) // SQLite leaves it alone

struct key { // the last one that was met in a tree
	bool there;
	int64_t rowid;
	struct value v[KEY_COLUMNS_MAX];
	uint8_t bytes[KEY_BYTES];
};

struct level { // of a tree: the page at hand
	struct page page;
	struct cell cells[PAGE_USABLE / 2]; // more than any page has
};

struct state {
	struct btree_check *c;
	struct table *t;
	struct level *levels[TREE_DEPTH_MAX + 1]; // by depth, which begins with 1; made when the first tree gets so deep
	uint8_t *seen;
	uint8_t *payload; // of one row that does not fit into its page
	size_t payload_cap;
	struct key last;
	unsigned n_key;      // columns of the key
	unsigned leaf_depth; // 0: no leaf yet
};

static void damage(struct state *s, uint32_t page, const char *text)
{
	char line[160];

	snprintf(line, sizeof(line), "%s%spage %u: %s", s->t != NULL ? s->t->name : "", s->t != NULL ? ", " : "", page, text);
	if (s->c->n_damages++ < DAMAGES_MAX)
		s->c->damage(s->c->ctx, line);
}

static bool gave_up(const struct state *s) { return s->c->n_damages >= DAMAGES_MAX; }

static bool stopping(const struct state *s) { return gave_up(s) || s->c->stop(s->c->ctx); }

// Each page is used once.
static bool take_page(struct state *s, uint32_t page, uint32_t from)
{
	if (page == 0 || page > s->c->pages->n_pages || s->seen[page]) {
		damage(s, from, page == 0 || page > s->c->pages->n_pages ? "refers to a page that does not exist"
		                                                       : "refers to a page that is used twice");
		return false;
	}
	s->seen[page] = 1;
	return true;
}

// ---- one page ----

static void check_sum(struct state *s, uint32_t number, bool sound)
{
	if (!sound)
		damage(s, number, "does not fit its checksum");
}

// `used` has a bit per byte of the page.
static bool claim_bytes(uint64_t used[PAGE_BYTES / 64], uint32_t at, uint32_t size)
{
	if (at + size > PAGE_USABLE)
		return false;
	for (uint32_t end = at + size, n; at < end; at += n) {
		uint64_t mask;

		n = (uint32_t)min_u64(64 - at % 64, end - at);
		mask = (~0ull >> (64 - n)) << at % 64;
		if ((used[at / 64] & mask) != 0)
			return false;
		used[at / 64] |= mask;
	}
	return true;
}

// Cells and free blocks lie side by side in the content area; what is between them is counted in the header.
static bool space_is_sound(const struct page *p, const struct cell *cells)
{
	const uint8_t *header = p->data + p->header_at;
	uint32_t content = be16_at(header + 5), unused, end = 0;
	uint64_t used[PAGE_BYTES / 64] = { 0 };

	if (content == 0)
		content = 65536;
	if (content < p->cells_at + 2 * p->n_cells || content > PAGE_USABLE)
		return false;
	unused = PAGE_USABLE - content; // what is claimed lies in there, each byte once
	for (uint32_t i = 0; i < p->n_cells; i++) {
		uint32_t n = cells[i].size < 4 ? 4 : cells[i].size;

		if (cells[i].at < content || !claim_bytes(used, cells[i].at, n))
			return false;
		unused -= n;
	}
	for (uint32_t blk = be16_at(header + 1); blk != 0; blk = be16_at(p->data + blk)) {
		uint32_t n;

		if (blk < content || blk < end || blk + 4 > PAGE_USABLE)
			return false;
		n = be16_at(p->data + blk + 2);
		if (n < 4 || !claim_bytes(used, blk, n))
			return false;
		unused -= n;
		end = blk + n;
	}
	return unused == header[7];
}

// ---- rows ----

static int rank(const struct value *v)
{
	switch (v->type) {
	case 'n':
		return 0;
	case 't':
		return 2;
	case 'b':
		return 3;
	default:
		return 1;
	}
}

static int compare_values(const struct value *a, const struct value *b)
{
	int order;

	if (rank(a) != rank(b))
		return rank(a) < rank(b) ? -1 : 1;
	if (rank(a) < 2)
		return (a->number > b->number) - (a->number < b->number);
	order = memcmp(a->bytes, b->bytes, min_u64(a->len, b->len));
	return order != 0 ? order : (a->len > b->len) - (a->len < b->len);
}

static bool keys_ascend(const struct key *last, const struct value *row, unsigned n_key)
{
	for (unsigned i = 0; last->there && i < n_key; i++) {
		int order;

		if (row[i].type == 'r' || last->v[i].type == 'r')
			return true; // a wrong type, which is found elsewhere
		order = compare_values(&last->v[i], &row[i]);
		if (order != 0)
			return order < 0;
	}
	return !last->there;
}

static void remember_key(struct key *last, const struct value *row, unsigned n_key)
{
	last->there = true;
	for (unsigned i = 0; i < n_key; i++) {
		last->v[i] = row[i];
		if (rank(&row[i]) < 2)
			continue;
		if (row[i].len > KEY_BYTES) {
			last->there = false; // longer than any of ours: the phases will say so
			return;
		}
		memcpy(last->bytes, row[i].bytes, row[i].len);
		last->v[i].bytes = last->bytes;
	}
}

// The whole payload: in the page, or gathered. NULL in *rec: damage, which has been said.
static int get_payload(struct state *s, const struct page *p, const struct cell *c, const uint8_t **rec)
{
	uint8_t page[PAGE_BYTES];
	uint32_t next = c->overflow, from = p->number;
	size_t n = c->n_local;

	*rec = c->local;
	if (n == c->len)
		return 0;
	*rec = NULL;
	if (c->len > (uint64_t)s->c->pages->n_pages * PAGE_BYTES) {
		damage(s, p->number, "a row is longer than the database");
		return 0;
	}
	if (c->len > s->payload_cap) {
		free(s->payload);
		s->payload_cap = 0;
		s->payload = malloc(c->len);
		if (s->payload == NULL)
			return -ENOMEM;
		s->payload_cap = c->len;
	}
	memcpy(s->payload, c->local, n);
	while (n < c->len) {
		size_t part = min_u64(c->len - n, PAGE_USABLE - 4);

		if (!take_page(s, next, from))
			return 0;
		if (dbpages_read(s->c->pages, next, page) != 0) {
			damage(s, next, "cannot be read");
			return 0;
		}
		check_sum(s, next, dbpages_is_sound(s->c->pages, next, page));
		memcpy(s->payload + n, page + 4, part);
		n += part;
		from = next;
		next = be32_at(page);
	}
	if (next != 0)
		damage(s, from, "goes on behind the end of a row");
	*rec = s->payload;
	return 0;
}

static int check_row(struct state *s, const struct page *p, const struct cell *c)
{
	struct value row[KEY_COLUMNS_MAX];
	const uint8_t *rec;
	enum record is;
	int err = get_payload(s, p, c, &rec);

	if (err != 0 || rec == NULL)
		return err;
	if (!p->index) {
		if (s->last.there && c->rowid <= s->last.rowid)
			damage(s, p->number, "keys are out of order");
		s->last.there = true;
		s->last.rowid = c->rowid;
	}
	if (s->t->columns == NULL)
		return 0;
	is = record_decode(rec, c->len, s->t, c->rowid, row, p->index ? s->n_key : 0);
	s->t->n_rows++;
	s->t->n_bad_rows += is == RECORD_TYPES;
	if (is == RECORD_BROKEN) {
		damage(s, p->number, "a row cannot be decoded");
	} else if (p->index) {
		if (!keys_ascend(&s->last, row, s->n_key))
			damage(s, p->number, "keys are out of order");
		remember_key(&s->last, row, s->n_key);
	}
	return 0;
}

// ---- a tree ----

static int check_tree(struct state *s, uint32_t number, uint32_t from, unsigned depth);

static int check_cell(struct state *s, const struct page *p, const struct cell *c, unsigned depth)
{
	int err = p->interior ? check_tree(s, c->child, p->number, depth + 1) : 0;

	if (err != 0)
		return err;
	if (!page_is_interior_table(p))
		return check_row(s, p, c);
	// Everything to the left has a key up to this one, everything to the right a larger one.
	if (s->last.there && s->last.rowid > c->rowid)
		damage(s, p->number, "keys are out of order");
	s->last.there = true;
	s->last.rowid = c->rowid;
	return 0;
}

static int check_cells(struct state *s, struct level *level, unsigned depth)
{
	const struct page *p = &level->page;
	int err = 0;

	for (uint32_t i = 0; i < p->n_cells; i++) {
		if (!page_cell(p, i, &level->cells[i])) {
			damage(s, p->number, "a cell is not inside the page");
			return 0;
		}
	}
	if (!space_is_sound(p, level->cells)) {
		damage(s, p->number, "its cells and free space do not fit together");
		return 0;
	}
	for (uint32_t i = 0; err == 0 && i < p->n_cells && !gave_up(s); i++)
		err = check_cell(s, p, &level->cells[i], depth);
	return err == 0 && p->interior ? check_tree(s, page_right_child(p), p->number, depth + 1) : err;
}

static int check_page(struct state *s, struct level *level, uint32_t number, unsigned depth)
{
	struct page *p = &level->page;

	if (!page_load(s->c->pages, number, p) || (s->t->columns != NULL && p->index != table_is_index(s->t))) {
		damage(s, number, "is not a page of this tree");
		return 0;
	}
	check_sum(s, number, p->sound);
	if (!p->interior && s->leaf_depth == 0)
		s->leaf_depth = depth;
	if (!p->interior && s->leaf_depth != depth)
		damage(s, number, "is not as deep in the tree as others");
	return check_cells(s, level, depth);
}

static int check_tree(struct state *s, uint32_t number, uint32_t from, unsigned depth)
{
	if (stopping(s) || !take_page(s, number, from))
		return 0;
	if (s->c->progress != NULL)
		s->c->progress(s->c->ctx, number);
	if (depth > TREE_DEPTH_MAX) {
		damage(s, number, "is not a page of this tree");
		return 0;
	}
	if (s->levels[depth] == NULL)
		s->levels[depth] = malloc(sizeof(*s->levels[depth]));
	return s->levels[depth] != NULL ? check_page(s, s->levels[depth], number, depth) : -ENOMEM;
}

// ---- the rest ----

static void check_free_list(struct state *s)
{
	uint8_t head[PAGE_BYTES], page[PAGE_BYTES];
	uint32_t trunk, from = 1, n = 0;

	if (dbpages_read(s->c->pages, 1, head) != 0)
		return;
	for (trunk = be32_at(head + 32); trunk != 0; trunk = be32_at(page)) {
		uint32_t leaves;

		if (!take_page(s, trunk, from))
			return;
		if (dbpages_read(s->c->pages, trunk, page) != 0 || (leaves = be32_at(page + 4)) > TRUNK_LEAVES_MAX) {
			damage(s, trunk, "is not a page of the free list");
			return;
		}
		check_sum(s, trunk, dbpages_is_sound(s->c->pages, trunk, page));
		for (uint32_t i = 0; i < leaves && !stopping(s); i++)
			(void)take_page(s, be32_at(page + 8 + 4 * i), trunk);
		n += 1 + leaves;
		from = trunk;
	}
	if (n != be32_at(head + 36))
		damage(s, 1, "the length of the free list is wrong");
}

int btree_check(struct btree_check *c)
{
	struct state s = { .c = c, .seen = calloc((size_t)c->pages->n_pages + 1, 1) };
	int err = s.seen != NULL ? 0 : -ENOMEM;

	c->n_damages = 0;
	for (unsigned i = 0; err == 0 && i < c->n_tables; i++) {
		s.t = &c->tables[i];
		s.last = (struct key){ 0 };
		s.leaf_depth = 0;
		s.n_key = s.t->columns != NULL && s.t->columns[0] == 't' ? 1 : 2; // config has one
		err = check_tree(&s, s.t->root, 1, 1);
	}
	s.t = NULL;
	if (err == 0 && !stopping(&s))
		check_free_list(&s);
	for (uint32_t page = 1; err == 0 && page <= c->pages->n_pages && !stopping(&s); page++)
		if (!s.seen[page] && page != LOCK_BYTE_PAGE)
			damage(&s, page, "is not used by anybody");
	for (unsigned depth = 0; depth <= TREE_DEPTH_MAX; depth++)
		free(s.levels[depth]);
	free(s.payload);
	free(s.seen);
	return err;
}
