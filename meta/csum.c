// SPDX-License-Identifier: MIT
// Table csum. See csum.h (CS1, CS2).
#include "meta/csum.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "meta/store_internal.h"
#include "meta/volume.h"
#include "util/endian.h"
#include "util/keymap.h"
#include "util/log.h"

#define CHAIN_BITS 12u

_Static_assert(CSUM_CHUNK_BLK == 64, "a chunk's blocks are the bits of a word");

// What was set in one chunk and is not in the table yet.
struct chunk {
	struct key_node node; // key: the chunk's number
	struct chunk *next, **link; // all that are due, or all that are late
	bool late;
	uint64_t set;         // a bit for each block
	uint32_t crc[CSUM_CHUNK_BLK];
};

struct csums {
	struct volume *vol;
	struct keymap map;
	struct chunk *first;      // to be written when the open transaction closes
	struct chunk *first_late; // nothing in these has to be
};

int csums_create(struct volume *vol, struct csums **out)
{
	struct csums *cs = calloc(1, sizeof(*cs));

	if (cs == NULL || keymap_init(&cs->map, CHAIN_BITS) != 0) {
		free(cs);
		return -ENOMEM;
	}
	cs->vol = vol;
	*out = cs;
	return 0;
}

static void enter_list(struct csums *cs, struct chunk *ch, bool late)
{
	struct chunk **head = late ? &cs->first_late : &cs->first;

	ch->late = late;
	ch->next = *head;
	ch->link = head;
	if (ch->next != NULL)
		ch->next->link = &ch->next;
	*head = ch;
}

static void leave_list(struct chunk *ch)
{
	*ch->link = ch->next;
	if (ch->next != NULL)
		ch->next->link = ch->link;
}

static void drop_chunk(struct csums *cs, struct chunk *ch)
{
	keymap_remove(&cs->map, &ch->node);
	leave_list(ch);
	free(ch);
}

void csums_rolled_back(struct csums *cs)
{
	while (cs != NULL && cs->first != NULL)
		drop_chunk(cs, cs->first);
	while (cs != NULL && cs->first_late != NULL)
		drop_chunk(cs, cs->first_late);
}

void csums_destroy(struct csums *cs)
{
	if (cs == NULL)
		return;
	csums_rolled_back(cs);
	keymap_destroy(&cs->map);
	free(cs);
}

// ---- rows ----

// The row's checksums; -ENODATA if there is no row.
static int read_row(struct volume *vol, uint64_t number, uint32_t crc[CSUM_CHUNK_BLK])
{
	sqlite3_stmt *stmt = store_stmt(vol->store, STMT_CSUM_GET);
	int rc;

	sqlite3_bind_int64(stmt, 1, (int64_t)number);
	rc = stmt_row(vol->store, stmt, "read checksums");
	if (rc == 1 && sqlite3_column_bytes(stmt, 0) == (int)CSUM_ROW_BYTES) {
		memcpy(crc, sqlite3_column_blob(stmt, 0), CSUM_ROW_BYTES);
		for (unsigned i = 0; i < CSUM_CHUNK_BLK; i++)
			crc[i] = from_le32((le32){ crc[i] });
	} else if (rc == 1) {
		msg_error("checksums of chunk %llu are damaged; run fsck.hybridfs", (unsigned long long)number);
		rc = -EUCLEAN;
	} else if (rc == 0) {
		rc = -ENODATA;
	}
	stmt_done(stmt);
	return rc < 0 ? rc : 0;
}

static int write_row(struct volume *vol, struct chunk *ch)
{
	sqlite3_stmt *stmt = store_stmt(vol->store, STMT_CSUM_SET);
	uint32_t crc[CSUM_CHUNK_BLK] = { 0 };
	int err = 0;

	if (ch->set != UINT64_MAX)
		err = read_row(vol, ch->node.key, crc);
	if (err != 0 && err != -ENODATA)
		return err;
	for (unsigned i = 0; i < CSUM_CHUNK_BLK; i++)
		crc[i] = to_le32((ch->set >> i & 1) != 0 ? ch->crc[i] : crc[i]).v;
	sqlite3_bind_int64(stmt, 1, (int64_t)ch->node.key);
	sqlite3_bind_blob(stmt, 2, crc, sizeof(crc), SQLITE_STATIC);
	return stmt_write(vol->store, stmt, "write checksums", NULL);
}

bool csums_is_clean(const struct csums *cs) { return cs->first == NULL; }

int csums_write(struct csums *cs)
{
	int err;

	while (cs->first != NULL) {
		err = write_row(cs->vol, cs->first);
		if (err != 0)
			return err;
		drop_chunk(cs, cs->first);
	}
	return 0;
}

// ---- setting and asking ----

static void make_due(struct csums *cs, struct chunk *ch)
{
	if (!ch->late)
		return;
	leave_list(ch);
	enter_list(cs, ch, false);
	txn_add_pages(cs->vol, 1);
}

static struct chunk *get_chunk(struct csums *cs, uint64_t number, bool late)
{
	struct chunk *ch = keymap_find(&cs->map, number);

	if (ch == NULL) {
		ch = malloc(sizeof(*ch));
		if (ch == NULL) {
			store_fail(cs->vol->store, -ENOMEM, "set checksums");
			return NULL;
		}
		ch->set = 0;
		enter_list(cs, ch, true);
		keymap_add(&cs->map, number, &ch->node);
	}
	if (!late)
		make_due(cs, ch);
	return ch;
}

static uint64_t bits(unsigned from, uint64_t n) { return (n == 64 ? UINT64_MAX : (1ull << n) - 1) << from; }

int csum_set(struct volume *vol, uint64_t start_blk, uint64_t len_blk, const uint32_t *crc)
{
	if (store_has_failed(vol->store)) // nothing closes any more: readers would be held against checksums of what never came
		return -EROFS;
	while (len_blk > 0) {
		unsigned at = (unsigned)(start_blk % CSUM_CHUNK_BLK);
		uint64_t n = min_u64(len_blk, CSUM_CHUNK_BLK - at);
		struct chunk *ch = get_chunk(vol->csums, start_blk / CSUM_CHUNK_BLK, false);

		if (ch == NULL)
			return -ENOMEM;
		memcpy(&ch->crc[at], crc, n * sizeof(crc[0]));
		ch->set |= bits(at, n);
		crc += n;
		start_blk += n;
		len_blk -= n;
	}
	return 0;
}

int csum_set_late(struct volume *vol, uint64_t blk, uint32_t crc)
{
	struct chunk *ch;

	if (store_has_failed(vol->store))
		return -EROFS;
	ch = get_chunk(vol->csums, blk / CSUM_CHUNK_BLK, true);
	if (ch == NULL)
		return -ENOMEM;
	ch->crc[blk % CSUM_CHUNK_BLK] = crc;
	ch->set |= bits((unsigned)(blk % CSUM_CHUNK_BLK), 1);
	return 0;
}

void csum_settle(struct volume *vol, uint64_t blk)
{
	struct chunk *ch = keymap_find(&vol->csums->map, blk / CSUM_CHUNK_BLK);

	if (ch != NULL && (ch->set & bits((unsigned)(blk % CSUM_CHUNK_BLK), 1)) != 0)
		make_due(vol->csums, ch);
}

int csum_get(struct volume *vol, uint64_t start_blk, uint64_t len_blk, uint32_t *crc)
{
	store_assert_locked(vol->store);
	while (len_blk > 0) {
		unsigned at = (unsigned)(start_blk % CSUM_CHUNK_BLK);
		uint64_t n = min_u64(len_blk, CSUM_CHUNK_BLK - at);
		const struct chunk *ch = keymap_find(&vol->csums->map, start_blk / CSUM_CHUNK_BLK);
		uint32_t row[CSUM_CHUNK_BLK];
		int err = 0;

		if (ch == NULL || (ch->set & bits(at, n)) != bits(at, n))
			err = read_row(vol, start_blk / CSUM_CHUNK_BLK, row);
		if (err != 0)
			return err;
		for (unsigned i = 0; i < n; i++)
			crc[i] = ch != NULL && (ch->set >> (at + i) & 1) != 0 ? ch->crc[at + i] : row[at + i];
		crc += n;
		start_blk += n;
		len_blk -= n;
	}
	return 0;
}

static void forget_listed(struct csums *cs, struct chunk *ch, uint64_t first, uint64_t end)
{
	struct chunk *next;

	for (; ch != NULL; ch = next) {
		next = ch->next;
		if (ch->node.key >= first && ch->node.key < end)
			drop_chunk(cs, ch);
	}
}

// By number or through all of them, whichever is less.
static void forget_pending(struct csums *cs, uint64_t first, uint64_t end)
{
	struct chunk *ch;

	if (end - first < cs->map.n) {
		for (uint64_t number = first; number < end; number++) {
			ch = keymap_find(&cs->map, number);
			if (ch != NULL)
				drop_chunk(cs, ch);
		}
		return;
	}
	forget_listed(cs, cs->first, first, end);
	forget_listed(cs, cs->first_late, first, end);
}

int csum_forget(struct volume *vol, uint64_t start_blk, uint64_t len_blk)
{
	uint64_t first = (start_blk + CSUM_CHUNK_BLK - 1) / CSUM_CHUNK_BLK, end = (start_blk + len_blk) / CSUM_CHUNK_BLK;
	sqlite3_stmt *stmt = store_stmt(vol->store, STMT_CSUM_DELETE);
	struct csums *cs = vol->csums;

	if (first >= end)
		return 0;
	forget_pending(cs, first, end);
	sqlite3_bind_int64(stmt, 1, (int64_t)first);
	sqlite3_bind_int64(stmt, 2, (int64_t)end - 1);
	return stmt_write(vol->store, stmt, "remove checksums", NULL);
}
