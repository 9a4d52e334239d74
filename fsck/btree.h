// SPDX-License-Identifier: MIT
// Rows out of a damaged SQLite database: B-tree pages read one by one, each believed only as far as it makes sense.
//
// The tables and their root pages are known beforehand: every volume's schema was made by the same statements in the same order, so what page 1
// says of it is not needed. From each root the tree is walked; a page that is not a page of this tree is counted as lost, with all below
// it. Then all other pages of the database are looked at, except those on its free list: a leaf whose rows have the form of a table that
// has lost pages gives its rows to that table.
//
// A page of user data cannot be taken for a leaf: user data lies in overflow pages, which begin with the number of the next one, and
// in leaves behind their headers.
//
// Memory: 1 byte for each page. Errors: negative errno; damage is counted, not an error.
#ifndef HYBRIDFS_FSCK_BTREE_H
#define HYBRIDFS_FSCK_BTREE_H

#include "fsck/dbpages.h"

#define ROW_COLUMNS_MAX 14u

struct value {
	char type; // 'i' integer, 'b' blob, 't' text, 'n' NULL, 'r' floating point
	int64_t number;
	const uint8_t *bytes; // of a blob or text; valid during the call
	size_t len;
};

struct table {
	const char *name;
	const char *columns; // types, one letter each; 'k' first: an INTEGER PRIMARY KEY. Otherwise WITHOUT ROWID
	uint32_t root;       // 0: not looked for
	size_t blob_max;     // longer ones are damage
	bool exact;          // holds bytes that nothing else would verify: rows of a page that does not fit its checksum are not taken
	// what came out
	uint64_t n_rows;     // rows of the right form
	uint64_t n_found;    // of these, in pages outside the tree
	uint64_t n_bad_rows, n_lost_pages;
};

// ---- pages and records, for both ----

#define TREE_DEPTH_MAX 20u
#define TRUNK_LEAVES_MAX (PAGE_USABLE / 4 - 2)
#define FILE_HEADER_BYTES 100u // before the header of page 1

struct page { // a B-tree page that makes sense
	uint8_t data[PAGE_BYTES];
	uint32_t number;
	uint8_t type;
	bool interior, index;
	bool sound; // it fits its checksum
	uint32_t header_at;
	uint32_t n_cells;
	uint32_t cells_at; // of the array of pointers
};

struct cell {
	uint32_t at, size;
	uint32_t child; // interior pages
	int64_t rowid;  // pages of tables
	uint64_t len;   // of the payload
	const uint8_t *local; // what of it is in the page
	uint32_t n_local;
	uint32_t overflow;    // the page with the next part; 0 = none
};

enum record { RECORD_BROKEN, RECORD_TYPES, RECORD_OK }; // TYPES: decoded, but not all values are of the columns' types

bool page_load(const struct dbpages *pages, uint32_t number, struct page *p);
bool page_cell(const struct page *p, uint32_t i, struct cell *c);
static inline bool page_is_interior_table(const struct page *p) { return p->interior && !p->index; }
static inline uint32_t page_right_child(const struct page *p) { return be32_at(p->data + p->cells_at - 4); }
static inline bool table_is_index(const struct table *t) { return t->columns[0] != 'k'; }
// The values of the first n_values columns go to `row`; the types of all columns are looked at.
enum record record_decode(const uint8_t *rec, size_t len, const struct table *t, int64_t rowid, struct value *row, unsigned n_values);

// ---- all that can be read ----

// What to do with a row. Sees the columns of the table, the key included. 0 or a negative errno, which ends the walk.
typedef int (*row_fn)(void *ctx, const struct table *t, const struct value *row);

// For a leaf outside all trees whose rows fit more than one table: whether this row can be one of `t`.
typedef bool (*row_belongs_fn)(void *ctx, const struct table *t, const struct value *row);

struct btree_scan {
	const struct dbpages *pages;
	struct table *tables;
	unsigned n_tables;
	row_fn row;
	row_belongs_fn belongs;
	void *ctx;
	void (*progress)(void *ctx, uint32_t page);
	bool free_list_ok; // set by btree_scan(): otherwise rows found outside trees may be out of date
};

int btree_scan(struct btree_scan *s) ATTR_MUST_USE;

// ---- is it whole? (btree_check.c) ----
//
// What SQLite's integrity check looks for, in the form of our tables: every page is in use exactly once or on the free list; pages
// are well-formed, their cells do not overlap, their free space is accounted for; all leaves of a tree are at one depth; keys ascend; records
// can be decoded. Rows whose values have another type than their columns are counted: no damage to the tree. It takes less than a fifth of the
// time of SQLite's own check, which runs a program for each row.

struct btree_check {
	const struct dbpages *pages;
	struct table *tables; // n_bad_rows: rows with values of a wrong type. columns NULL: another table, only its pages are looked at
	unsigned n_tables;
	void (*damage)(void *ctx, const char *text);
	void (*progress)(void *ctx, uint32_t page);
	bool (*stop)(void *ctx);
	void *ctx;
	unsigned n_damages;   // set by btree_check()
};

int btree_check(struct btree_check *c) ATTR_MUST_USE;

#endif
