// SPDX-License-Identifier: MIT
#include "fsck/blocks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fsck/sql.h"
#include "meta/csum.h"
#include "meta/deferred_rows.h"
#include "util/endian.h"

int blocks_init(struct blocks *b)
{
	*b = (struct blocks){ .data = aligned_alloc(BLK_SIZE, blk_to_bytes(BLOCKS_MAX)) };
	return b->data != NULL ? 0 : -ENOMEM;
}

void blocks_free(struct blocks *b)
{
	free(b->data);
	b->data = NULL;
}

static void set_bit(uint64_t *bits, uint64_t i) { bits[i / 64] |= 1ull << (i % 64); }

// ---- content ----

static int overlay_deferred(struct fsck *f, struct blocks *b, uint64_t start_blk, uint64_t len_blk)
{
	struct cursor c;
	int err = cursor_open(f, &c, "SELECT phys, data FROM deferred WHERE phys >= ?1 AND phys < ?2 AND " DEFERRED_LIVE_SQL, (int64_t)start_blk,
	                      (int64_t)(start_blk + len_blk));

	while (err == 0 && c.have) {
		uint64_t i = (uint64_t)c.key - start_blk;

		if (sqlite3_column_bytes(c.stmt, 1) == BLK_SIZE) {
			memcpy(blocks_at(b, i), sqlite3_column_blob(c.stmt, 1), BLK_SIZE);
			b->unreadable[i / 64] &= ~(1ull << (i % 64));
		}
		err = cursor_next(f, &c);
	}
	cursor_close(&c);
	return err;
}

int blocks_read(struct fsck *f, struct blocks *b, uint64_t start_blk, uint64_t len_blk)
{
	ASSERT(len_blk <= BLOCKS_MAX);
	memset(b->unreadable, 0, sizeof(b->unreadable));
	if (bdev_read(f->dev, b->data, blk_to_bytes(len_blk), blk_to_bytes(start_blk)) != 0) {
		for (uint64_t i = 0; i < len_blk; i++) {
			if (bdev_read(f->dev, blocks_at(b, i), BLK_SIZE, blk_to_bytes(start_blk + i)) == 0)
				continue;
			memset(blocks_at(b, i), 0, BLK_SIZE);
			set_bit(b->unreadable, i);
		}
	}
	return f->n_deferred > 0 ? overlay_deferred(f, b, start_blk, len_blk) : 0;
}

// ---- checksums ----

static uint32_t get_crc(const uint8_t *row, uint64_t i)
{
	le32 raw;

	memcpy(&raw, row + i * sizeof(raw), sizeof(raw));
	return from_le32(raw);
}

static void put_crc(uint8_t *row, uint64_t i, uint32_t crc)
{
	le32 raw = to_le32(crc);

	memcpy(row + i * sizeof(raw), &raw, sizeof(raw));
}

static int64_t chunk_of(uint64_t blk) { return (int64_t)(blk / CSUM_CHUNK_BLK); }

static int overlay_deferred_crc(struct fsck *f, struct blocks *b, uint64_t start_blk, uint64_t len_blk)
{
	struct cursor c;
	int err = cursor_open(f, &c, "SELECT phys, crc FROM deferred WHERE phys >= ?1 AND phys < ?2 AND " DEFERRED_LIVE_SQL, (int64_t)start_blk,
	                      (int64_t)(start_blk + len_blk));

	while (err == 0 && c.have) {
		uint64_t i = (uint64_t)c.key - start_blk;

		b->crc[i] = (uint32_t)cursor_int(&c, 1);
		b->no_crc[i / 64] &= ~(1ull << (i % 64));
		err = cursor_next(f, &c);
	}
	cursor_close(&c);
	return err;
}

int blocks_get_crc(struct fsck *f, struct blocks *b, uint64_t start_blk, uint64_t len_blk)
{
	struct cursor c;
	int err = cursor_open(f, &c, "SELECT chunk, crc FROM csum WHERE chunk >= ?1 AND chunk <= ?2", chunk_of(start_blk),
	                      chunk_of(start_blk + len_blk - 1));

	memset(b->no_crc, 0xff, sizeof(b->no_crc));
	while (err == 0 && c.have) {
		uint64_t first = (uint64_t)c.key * CSUM_CHUNK_BLK;
		uint64_t from = max_u64(first, start_blk), to = min_u64(first + CSUM_CHUNK_BLK, start_blk + len_blk);
		const uint8_t *crc = sqlite3_column_blob(c.stmt, 1);

		if (crc != NULL && sqlite3_column_bytes(c.stmt, 1) == CSUM_ROW_BYTES) {
			for (uint64_t blk = from; blk < to; blk++) {
				b->crc[blk - start_blk] = get_crc(crc, blk - first);
				b->no_crc[(blk - start_blk) / 64] &= ~(1ull << ((blk - start_blk) % 64));
			}
		}
		err = cursor_next(f, &c);
	}
	cursor_close(&c);
	return err == 0 && f->n_deferred > 0 ? overlay_deferred_crc(f, b, start_blk, len_blk) : err;
}

static int set_chunk(struct fsck *f, const struct blocks *b, int64_t chunk, uint64_t start_blk, uint64_t end_blk)
{
	uint64_t first = (uint64_t)chunk * CSUM_CHUNK_BLK;
	uint8_t row[CSUM_ROW_BYTES] = { 0 };
	sqlite3_stmt *stmt = NULL;
	struct cursor c;
	int err = cursor_open(f, &c, "SELECT chunk, crc FROM csum WHERE chunk = ?1", chunk, 0);

	if (err == 0 && c.have && sqlite3_column_bytes(c.stmt, 1) == CSUM_ROW_BYTES)
		memcpy(row, sqlite3_column_blob(c.stmt, 1), sizeof(row));
	cursor_close(&c);
	for (uint64_t blk = max_u64(first, start_blk); blk < min_u64(first + CSUM_CHUNK_BLK, end_blk); blk++)
		put_crc(row, blk - first, b->crc[blk - start_blk]);
	if (err == 0)
		err = sql_prepare(f, "INSERT OR REPLACE INTO csum(chunk, crc) VALUES(?1, ?2)", &stmt);
	if (err != 0)
		return err;
	sqlite3_bind_int64(stmt, 1, chunk);
	sqlite3_bind_blob(stmt, 2, row, sizeof(row), SQLITE_STATIC);
	return sql_finish(f, stmt);
}

int blocks_set_crc(struct fsck *f, const struct blocks *b, uint64_t start_blk, uint64_t len_blk)
{
	int err = 0;

	for (int64_t chunk = chunk_of(start_blk); err == 0 && chunk <= chunk_of(start_blk + len_blk - 1); chunk++)
		err = set_chunk(f, b, chunk, start_blk, start_blk + len_blk);
	return err;
}
