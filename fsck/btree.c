// SPDX-License-Identifier: MIT
#include "fsck/btree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/attr.h"

// Types of pages.
enum { INDEX_INTERIOR = 0x02, TABLE_INTERIOR = 0x05, INDEX_LEAF = 0x0a, TABLE_LEAF = 0x0d };


enum seen {
	SEEN_TREE = 1, // or free list
	SEEN_OVERFLOW = 2, // may be a damaged cell's mistake
};

struct walk {
	struct btree_scan *scan;
	uint8_t *seen;     // by page: enum seen, or-ed
	uint32_t highest;  // page seen
	uint8_t *payload;  // of one row
	size_t payload_cap;
};

// ---- pages and cells ----

// A varint inside [b, end): its length, 0 if it does not end in time.
static inline unsigned get_varint(const uint8_t *b, const uint8_t *end, uint64_t *v)
{
	if (b < end && b[0] < 0x80) { // most are
		*v = b[0];
		return 1;
	}
	*v = 0;
	for (unsigned i = 0; i < 9 && b + i < end; i++) {
		if (i == 8) {
			*v = *v << 8 | b[i];
			return 9;
		}
		*v = *v << 7 | (b[i] & 0x7f);
		if ((b[i] & 0x80) == 0)
			return i + 1;
	}
	return 0;
}

bool page_load(const struct dbpages *pages, uint32_t number, struct page *p)
{
	uint32_t at = number == 1 ? FILE_HEADER_BYTES : 0;

	if (dbpages_read(pages, number, p->data) != 0)
		return false;
	p->number = number;
	p->sound = dbpages_is_sound(pages, number, p->data);
	p->header_at = at;
	p->type = p->data[at];
	p->interior = p->type == INDEX_INTERIOR || p->type == TABLE_INTERIOR;
	p->index = p->type == INDEX_INTERIOR || p->type == INDEX_LEAF;
	if (!p->interior && p->type != INDEX_LEAF && p->type != TABLE_LEAF)
		return false;
	p->n_cells = be16_at(p->data + at + 3);
	p->cells_at = at + (p->interior ? 12 : 8);
	return p->cells_at + 2 * p->n_cells <= PAGE_USABLE;
}

// How much of a payload is in the page.
static uint32_t local_bytes(const struct page *p, uint64_t len)
{
	uint32_t most = p->index ? (PAGE_USABLE - 12) * 64 / 255 - 23 : PAGE_USABLE - 35, least = (PAGE_USABLE - 12) * 32 / 255 - 23, n;

	if (len <= most)
		return (uint32_t)len;
	n = least + (uint32_t)((len - least) % (PAGE_USABLE - 4));
	return n <= most ? n : least;
}

bool page_cell(const struct page *p, uint32_t i, struct cell *c)
{
	uint32_t at = be16_at(p->data + p->cells_at + 2 * i);
	const uint8_t *b, *end = p->data + PAGE_USABLE;
	uint64_t rowid;
	unsigned n;

	*c = (struct cell){ .at = at };
	if (at < p->cells_at + 2 * p->n_cells || at >= PAGE_USABLE)
		return false;
	b = p->data + at;
	if (p->interior) {
		if (end - b < 4)
			return false;
		c->child = be32_at(b);
		b += 4;
	}
	if (p->type != TABLE_INTERIOR) {
		n = get_varint(b, end, &c->len);
		b += n;
		if (n == 0 || c->len > INT32_MAX)
			return false;
	}
	if (!p->index) {
		n = get_varint(b, end, &rowid);
		b += n;
		c->rowid = (int64_t)rowid;
		if (n == 0)
			return false;
	}
	c->size = (uint32_t)(b - p->data) - at;
	if (p->type == TABLE_INTERIOR)
		return true;
	c->local = b;
	c->n_local = local_bytes(p, c->len);
	if ((size_t)(end - b) < c->n_local + (c->n_local < c->len ? 4 : 0))
		return false;
	c->overflow = c->n_local < c->len ? be32_at(b + c->n_local) : 0;
	c->size += c->n_local + (c->n_local < c->len ? 4 : 0);
	return true;
}

static void see(struct walk *w, uint32_t page, enum seen how)
{
	w->seen[page] |= (uint8_t)how;
	if (page > w->highest)
		w->highest = page;
}

// The whole payload into w->payload. 1; 0 if a page of it is not there, or does not fit its checksum where that counts; negative errno.
static int get_payload(struct walk *w, const struct cell *c, size_t max, bool exact)
{
	uint8_t page[PAGE_BYTES];
	size_t n = c->n_local;
	uint32_t next = c->overflow;

	if (c->len > max)
		return 0;
	if (c->len > w->payload_cap) {
		free(w->payload);
		w->payload_cap = 0;
		w->payload = malloc(c->len);
		if (w->payload == NULL)
			return -ENOMEM;
		w->payload_cap = c->len;
	}
	if (n > 0)
		memcpy(w->payload, c->local, n);
	while (n < c->len) {
		size_t part = min_u64(c->len - n, PAGE_USABLE - 4);

		if (dbpages_read(w->scan->pages, next, page) != 0 ||
		    (exact && !dbpages_is_sound(w->scan->pages, next, page)))
			return 0;
		see(w, next, SEEN_OVERFLOW);
		memcpy(w->payload + n, page + 4, part);
		n += part;
		next = be32_at(page);
	}
	return 1;
}

// ---- records ----

static int64_t get_int(const uint8_t *b, unsigned n)
{
	uint64_t v = (b[0] & 0x80) != 0 ? ~0ull : 0;

	for (unsigned i = 0; i < n; i++)
		v = v << 8 | b[i];
	return (int64_t)v;
}

// The type of a column (as in struct value; 0: there is none) and the bytes of its value, by the number that says both.
static char serial_type(uint64_t serial, uint64_t *bytes)
{
	static const struct {
		char type;
		uint8_t bytes;
	} low[12] = {
		{ 'n', 0 }, { 'i', 1 }, { 'i', 2 }, { 'i', 3 }, { 'i', 4 }, { 'i', 6 }, { 'i', 8 },
		{ 'r', 8 }, // a floating point number: no column of ours holds one
		{ 'i', 0 }, { 'i', 0 }, // 0 and 1
	};

	if (serial < ARRAY_LEN(low)) {
		*bytes = low[serial].bytes;
		return low[serial].type;
	}
	*bytes = (serial - 12) / 2;
	return (serial & 1) != 0 ? 't' : 'b';
}

static struct value get_value(uint64_t serial, char type, const uint8_t *body, size_t n)
{
	struct value v = { .type = type };

	if (type == 'b' || type == 't') {
		v.bytes = body;
		v.len = n;
	} else if (type == 'i') {
		v.number = n > 0 ? get_int(body, (unsigned)n) : (int64_t)serial - 8;
	}
	return v;
}

enum record record_decode(const uint8_t *rec, size_t len, const struct table *t, int64_t rowid, struct value *row, unsigned n_values)
{
	const uint8_t *end, *body, *at = rec, *types_end;
	const char *columns = t->columns;
	bool types_ok = true;
	uint64_t header;
	unsigned n;

	if (len == 0)
		return RECORD_BROKEN; // and rec may be NULL
	end = rec + len;
	n = get_varint(rec, end, &header);
	if (n == 0 || header < n || header > len)
		return RECORD_BROKEN;
	at += n;
	types_end = body = rec + header;
	for (unsigned i = 0; columns[i] != '\0'; i++) {
		uint64_t serial = 0, bytes; // columns that are not there are NULL
		bool key = columns[i] == 'k';
		char type;

		n = get_varint(at, types_end, &serial);
		at += n;
		type = serial_type(serial, &bytes);
		if ((n == 0 && at != types_end) || type == 0 || bytes > (uint64_t)(end - body))
			return RECORD_BROKEN;
		if (!key && (type != columns[i] || (serial >= 12 && bytes > t->blob_max)))
			types_ok = false;
		if (i < n_values)
			row[i] = key ? (struct value){ .type = 'i', .number = rowid } : get_value(serial, type, body, bytes);
		body += bytes;
	}
	return types_ok ? RECORD_OK : RECORD_TYPES;
}

// ---- rows ----

// The row of a cell as one of `t`. 1; 0 if it is none; negative errno.
static int get_row(struct walk *w, const struct page *p, uint32_t i, const struct table *t, struct value *row)
{
	struct cell c;
	int rc;

	if (!page_cell(p, i, &c) || (t->exact && !p->sound))
		return 0;
	rc = get_payload(w, &c, 2 * t->blob_max + 1024, t->exact);
	if (rc != 1)
		return rc;
	return record_decode(w->payload, c.len, t, c.rowid, row, ROW_COLUMNS_MAX) == RECORD_OK;
}

static int take_rows(struct walk *w, const struct page *p, struct table *t, bool found)
{
	struct value row[ROW_COLUMNS_MAX];
	int rc = 0;

	for (uint32_t i = 0; rc >= 0 && i < p->n_cells && p->type != TABLE_INTERIOR; i++) {
		rc = get_row(w, p, i, t, row);
		if (rc == 0)
			t->n_bad_rows++;
		if (rc != 1)
			continue;
		t->n_rows++;
		t->n_found += found;
		rc = w->scan->row(w->scan->ctx, t, row);
	}
	return rc < 0 ? rc : 0;
}

// ---- a tree ----

static int walk_tree(struct walk *w, struct table *t, uint32_t number, unsigned depth);

static int walk_children(struct walk *w, struct table *t, const struct page *p, unsigned depth)
{
	int err = 0;

	for (uint32_t i = 0; err == 0 && i < p->n_cells; i++) {
		struct cell c;

		if (page_cell(p, i, &c) || c.child != 0)
			err = walk_tree(w, t, c.child, depth + 1);
		else
			t->n_lost_pages++;
	}
	return err != 0 ? err : walk_tree(w, t, page_right_child(p), depth + 1);
}

static int walk_tree(struct walk *w, struct table *t, uint32_t number, unsigned depth)
{
	struct page *p;
	int err;

	if (number < 2 || number > w->scan->pages->n_pages || (w->seen[number] & SEEN_TREE) != 0 || depth > TREE_DEPTH_MAX) {
		t->n_lost_pages++;
		return 0;
	}
	p = malloc(sizeof(*p));
	if (p == NULL)
		return -ENOMEM;
	if (!page_load(w->scan->pages, number, p) || p->index != table_is_index(t)) {
		t->n_lost_pages++;
		free(p);
		return 0;
	}
	see(w, number, SEEN_TREE);
	if (w->scan->progress != NULL)
		w->scan->progress(w->scan->ctx, number);
	err = take_rows(w, p, t, false);
	if (err == 0 && p->interior)
		err = walk_children(w, t, p, depth);
	free(p);
	return err;
}

// ---- what belongs to no tree ----

// Marks the free pages as seen.
static bool walk_free_list(struct walk *w)
{
	const struct dbpages *pages = w->scan->pages;
	uint8_t page[PAGE_BYTES];
	uint32_t trunk, count, n = 0;

	if (!pages->header_ok || dbpages_read(pages, 1, page) != 0)
		return false;
	trunk = be32_at(page + 32);
	count = be32_at(page + 36);
	while (trunk != 0) {
		uint32_t leaves;

		if (trunk > pages->n_pages || w->seen[trunk] != 0 || dbpages_read(pages, trunk, page) != 0)
			return false;
		w->seen[trunk] = SEEN_TREE;
		leaves = be32_at(page + 4);
		if (leaves > TRUNK_LEAVES_MAX)
			return false;
		for (uint32_t i = 0; i < leaves; i++) {
			uint32_t leaf = be32_at(page + 8 + 4 * i);

			if (leaf == 0 || leaf > pages->n_pages || w->seen[leaf] != 0)
				return false;
			w->seen[leaf] = SEEN_TREE;
		}
		n += 1 + leaves;
		trunk = be32_at(page);
	}
	return n == count;
}

// Whether all rows of the page that can be read are of this table.
static int fits(struct walk *w, const struct page *p, const struct table *t, bool *fit)
{
	struct value row[ROW_COLUMNS_MAX];
	uint32_t n = 0;
	int rc = 0;

	*fit = table_is_index(t) == p->index;
	for (uint32_t i = 0; rc >= 0 && *fit && i < p->n_cells; i++) {
		rc = get_row(w, p, i, t, row);
		n += rc == 1;
		*fit = rc == 1 && (w->scan->belongs == NULL || w->scan->belongs(w->scan->ctx, t, row));
	}
	*fit &= n > 0;
	return rc < 0 ? rc : 0;
}

static int take_stray_page(struct walk *w, struct page *p)
{
	for (unsigned i = 0; i < w->scan->n_tables; i++) {
		struct table *t = &w->scan->tables[i];
		bool fit;
		int err;

		if (t->root == 0 || t->n_lost_pages == 0)
			continue;
		err = fits(w, p, t, &fit);
		if (err != 0)
			return err;
		if (fit)
			return take_rows(w, p, t, true);
	}
	return 0;
}

static int walk_stray_pages(struct walk *w)
{
	const struct dbpages *pages = w->scan->pages;
	uint32_t end = pages->header_ok ? pages->n_pages : w->highest; // behind it may lie anything
	struct page p;
	int err = 0;

	for (uint32_t i = 2; err == 0 && i <= end; i++)
		if (w->seen[i] == 0 && page_load(pages, i, &p) && p.type != TABLE_INTERIOR)
			err = take_stray_page(w, &p);
	return err;
}

int btree_scan(struct btree_scan *s)
{
	struct walk w = { .scan = s, .seen = calloc((size_t)s->pages->n_pages + 1, 1) };
	int err = w.seen != NULL ? 0 : -ENOMEM;

	for (unsigned i = 0; i < s->n_tables; i++)
		s->tables[i].n_rows = s->tables[i].n_found = s->tables[i].n_bad_rows = s->tables[i].n_lost_pages = 0;
	for (unsigned i = 0; err == 0 && i < s->n_tables; i++)
		if (s->tables[i].root != 0)
			err = walk_tree(&w, &s->tables[i], s->tables[i].root, 0);
	if (err == 0) {
		s->free_list_ok = walk_free_list(&w);
		err = walk_stray_pages(&w);
	}
	free(w.payload);
	free(w.seen);
	return err;
}
