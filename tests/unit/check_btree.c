// SPDX-License-Identifier: MIT
// fsck/btree.h: records of every form, and pages whose cells and free space do not fit together.
#include <sqlite3.h>
#include <string.h>
#include <sys/stat.h>

#include "fsck/btree.h"
#include "fsck/tables.h"
#include "meta/rows.h"
#include "voltest.h"

#define MIB (1ull << 20)

// ---- records ----

static const struct table form = { .name = "form", .columns = "kiiiiiiiibt", .blob_max = 3 };

// The key's own value is NULL.
static const uint8_t all_forms[] = {
	12, 0, 1, 2, 3, 4, 5, 6, 8, 9, 12 + 2 * 3, 13 + 2 * 2, // header
	0xff, 0x80, 0x00, 1, 0, 0, 0x80, 0, 0, 1, 1, 0, 0, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 3, // integers
	'a', 'b', 'c', 'x', 'y',
};

// In memory of its own, so that a sanitizer sees each byte that is read behind its end.
static enum record decode(const uint8_t *rec, size_t len, const struct table *t, struct value *row, unsigned n_values)
{
	uint8_t *copy = malloc(len > 0 ? len : 1);
	enum record is;

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, rec, len);
	is = record_decode(copy, len, t, 77, row, n_values);
	for (unsigned i = 0; is != RECORD_BROKEN && i < n_values && t->columns[i] != '\0'; i++)
		if (row[i].bytes != NULL)
			row[i].bytes = rec + (row[i].bytes - copy);
	free(copy);
	return is;
}

START_TEST(records_of_all_forms)
{
	static const int64_t numbers[] = { 77, -1, -32768, 65536, -2147483647, 0x010000000002, INT64_MIN + 3, 0, 1 };
	struct value row[ROW_COLUMNS_MAX];

	ck_assert_int_eq(decode(all_forms, sizeof(all_forms), &form, row, ROW_COLUMNS_MAX), RECORD_OK);
	for (unsigned i = 0; i < 9; i++) {
		ck_assert_int_eq(row[i].type, 'i');
		ck_assert_int_eq(row[i].number, numbers[i]);
	}
	ck_assert_int_eq(row[9].type, 'b');
	ck_assert_uint_eq(row[9].len, 3);
	ck_assert_mem_eq(row[9].bytes, "abc", 3);
	ck_assert_int_eq(row[10].type, 't');
	ck_assert_uint_eq(row[10].len, 2);
	ck_assert_mem_eq(row[10].bytes, "xy", 2);
}
END_TEST

// The last columns' values are not wanted: they are judged all the same, and `row` keeps what was there.
START_TEST(values_that_nobody_wants)
{
	struct value row[ROW_COLUMNS_MAX] = { [2] = { .type = '?', .number = 5 } };
	uint8_t rec[sizeof(all_forms)];

	ck_assert_int_eq(decode(all_forms, sizeof(all_forms), &form, row, 2), RECORD_OK);
	ck_assert_int_eq(row[1].number, -1);
	ck_assert_int_eq(row[2].type, '?');
	ck_assert_int_eq(row[2].number, 5);
	ck_assert_int_eq(decode(all_forms, sizeof(all_forms), &form, NULL, 0), RECORD_OK);
	memcpy(rec, all_forms, sizeof(rec));
	rec[11] = 12 + 2 * 2; // a blob in the place of the text
	ck_assert_int_eq(decode(rec, sizeof(rec), &form, NULL, 0), RECORD_TYPES);
	rec[11] = 11; // stands for nothing
	ck_assert_int_eq(decode(rec, sizeof(rec), &form, NULL, 0), RECORD_BROKEN);
}
END_TEST

START_TEST(records_that_end_too_early)
{
	struct table shorter = form;
	struct value row[ROW_COLUMNS_MAX];

	for (size_t len = 0; len < sizeof(all_forms); len++)
		for (unsigned n_values = 0; n_values <= ROW_COLUMNS_MAX; n_values += ROW_COLUMNS_MAX)
			ck_assert_int_eq(decode(all_forms, len, &form, row, n_values), RECORD_BROKEN);
	shorter.blob_max = 2;
	ck_assert_int_eq(decode(all_forms, sizeof(all_forms), &shorter, row, 0), RECORD_TYPES);
	// Columns that are not there are NULL; a floating point number is of no column's type.
	ck_assert_int_eq(decode((const uint8_t[]){ 2, 0 }, 2, &form, row, ROW_COLUMNS_MAX), RECORD_TYPES);
	ck_assert_int_eq(row[10].type, 'n');
	shorter.columns = "i";
	ck_assert_int_eq(decode((const uint8_t[]){ 2, 7, 0, 0, 0, 0, 0, 0, 0, 0 }, 10, &shorter, row, 1), RECORD_TYPES);
	ck_assert_int_eq(row[0].type, 'r');
}
END_TEST

// ---- the space of a page ----

struct db {
	struct bdev *dev;
	struct volume *vol;
	struct dbpages pages;
	struct table tables[32];
	char names[32][32];
	unsigned n_tables;
	unsigned n_misfits, n_others; // damages
};

static void note_damage(void *ctx, const char *text)
{
	struct db *db = ctx;

	if (strstr(text, "its cells and free space do not fit together") != NULL)
		db->n_misfits++;
	else
		db->n_others++;
}

static bool never(void *ctx)
{
	(void)ctx;
	return false;
}

static void check(struct db *db)
{
	struct btree_check c = {
		.pages = &db->pages, .tables = db->tables, .n_tables = db->n_tables, .damage = note_damage, .stop = never, .ctx = db,
	};

	db->n_misfits = db->n_others = 0;
	ck_assert_int_eq(btree_check(&c), 0);
	ck_assert_uint_eq(c.n_damages, db->n_misfits + db->n_others);
}

static void list_tables(struct db *db)
{
	sqlite3_stmt *stmt;

	db->tables[db->n_tables++] = (struct table){ .name = "schema", .root = 1 };
	store_lock(db->vol->store);
	ck_assert_int_eq(sqlite3_prepare_v2(store_db(db->vol->store), "SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0", -1,
	                                    &stmt, NULL), SQLITE_OK);
	while (sqlite3_step(stmt) == SQLITE_ROW) {
		char *name = db->names[db->n_tables];
		const struct table *known;

		snprintf(name, sizeof(db->names[0]), "%s", (const char *)sqlite3_column_text(stmt, 0));
		known = table_form(name);
		ck_assert_ptr_nonnull(known);
		db->tables[db->n_tables] = *known;
		db->tables[db->n_tables++].root = (uint32_t)sqlite3_column_int64(stmt, 1);
	}
	sqlite3_finalize(stmt);
	store_unlock(db->vol->store);
}

// Three hundred files with data in the database, of which every third has gone.
static void make_rows(struct volume *vol)
{
	char data[300] = "";
	uint64_t id;

	ck_assert_int_eq(txn_begin(vol, TXN_GROW, &id), 0);
	store_lock(vol->store);
	for (uint64_t ino = 100; ino < 400; ino++) {
		struct inode_row row = { .ino = ino, .mode = S_IFREG | 0644, .nlink = 1, .size_bytes = 100 + ino % 200 };

		ck_assert_int_eq(inode_insert(vol->store, &row), 0);
		ck_assert_int_eq(inline_set(vol->store, ino, data, 100 + ino % 200), 0);
	}
	for (uint64_t ino = 100; ino < 400; ino += 3)
		ck_assert_int_eq(inode_delete(vol->store, ino), 0);
	ck_assert_int_eq(sqlite3_exec(store_db(vol->store), "DELETE FROM inline WHERE ino % 3 = 1", NULL, NULL, NULL), SQLITE_OK);
	store_unlock(vol->store);
	txn_end(vol);
}

static void db_begin(struct db *db)
{
	*db = (struct db){ .dev = vt_format(32 * MIB) };
	db->vol = vt_open(db->dev);
	make_rows(db->vol);
	ck_assert_int_eq(volume_close(db->vol), 0);
	db->vol = vt_open(db->dev);
	list_tables(db);
	ck_assert_int_eq(dbpages_open(&db->vol->files, &db->pages), 0);
	check(db);
	ck_assert_uint_eq(db->n_misfits + db->n_others, 0);
}

static void db_end(struct db *db)
{
	dbpages_close(&db->pages);
	ck_assert_int_eq(volume_close(db->vol), 0);
	bdev_close(db->dev);
}

static uint32_t be16(const uint8_t *b) { return (uint32_t)b[0] << 8 | b[1]; }

static void put16(uint8_t *b, uint32_t v)
{
	b[0] = (uint8_t)(v >> 8);
	b[1] = (uint8_t)v;
}

// A leaf of a table in the database file with two free blocks, a cell between them, and no unused bytes between cells.
static uint32_t find_leaf(struct db *db, uint8_t page[BLK_SIZE])
{
	for (uint32_t i = 2; i <= db->pages.n_pages; i++) {
		uint32_t blk, next;

		if (db->pages.frame[i] != 0 || dbpages_read(&db->pages, i, page) != 0 || page[0] != 0x0d || page[7] != 0)
			continue;
		blk = be16(page + 1);
		next = blk + be16(page + blk + 2);
		if (blk != 0 && next + 8 < be16(page + blk))
			return i;
	}
	ck_abort_msg("no such page");
	return 0;
}

// The page with a change, which its checksum confirms.
static void check_changed(struct db *db, uint32_t number, const uint8_t page[BLK_SIZE], unsigned misfits)
{
	uint8_t sealed[BLK_SIZE];
	uint64_t off = (uint64_t)(number - 1) * BLK_SIZE;

	memcpy(sealed, page, sizeof(sealed));
	dbpage_seal(sealed, number);
	ck_assert_int_eq(sysfile_write(&db->vol->files, SYSFILE_DB, sealed, sizeof(sealed), off), 0);
	check(db);
	ck_assert_uint_eq(db->n_misfits, misfits);
	ck_assert_uint_eq(db->n_others, 0);
}

START_TEST(space_that_does_not_fit_together)
{
	uint8_t good[BLK_SIZE], page[BLK_SIZE];
	struct db db;
	uint32_t number, blk, len;

	db_begin(&db); // which finds nothing
	number = find_leaf(&db, good);
	blk = be16(good + 1);
	len = be16(good + blk + 2);
	for (int i = 0; i <= 9; i++) {
		memcpy(page, good, sizeof(page));
		switch (i) {
		case 0: // unused bytes that are not
			page[7]++;
			break;
		case 1: // two cells in one place
			memcpy(page + 8, page + 10, 2);
			break;
		case 2: // a byte of a cell is free, and as many bytes are in use as before
			memmove(page + blk + 1, good + blk, 4);
			put16(page + 1, blk + 1);
			break;
		case 3: // bytes that belong to nobody
			put16(page + blk + 2, len - 4);
			break;
		case 4: // free up to the middle of a cell
			put16(page + blk + 2, len + 4);
			break;
		case 5: // a list of free blocks without an end
			put16(page + blk, blk);
			break;
		case 6: // free to behind the end of the page
			put16(page + blk + 2, DBPAGE_USABLE - blk + 1);
			break;
		case 7: // cells before the area for them
			put16(page + 5, blk + 4);
			break;
		case 8: // too short to be on the list
			put16(page + blk + 2, 3);
			page[7] = (uint8_t)(page[7] + len - 3);
			break;
		case 9: // the second free block before the first
			memcpy(page + 1, good + blk, 2);
			put16(page + be16(good + blk), blk);
			memcpy(page + blk, good + be16(good + blk), 2);
			break;
		}
		check_changed(&db, number, page, 1);
	}
	check_changed(&db, number, good, 0);
	db_end(&db);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("btree");
	TCase *tc = tcase_create("btree");
	SRunner *sr;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, records_of_all_forms);
	tcase_add_test(tc, values_that_nobody_wants);
	tcase_add_test(tc, records_that_end_too_early);
	tcase_add_test(tc, space_that_does_not_fit_together);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed != 0;
}
