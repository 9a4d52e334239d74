// SPDX-License-Identifier: MIT
// meta/spacemap and meta/freemap: blobs, replaying them, P3 and P5 over random histories, what condensing costs, damaged rows.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "meta/freemap.h"
#include "meta/spacemap.h"
#include "run_suite.h"
#include "util/blk.h"
#include "voltest.h"

#define GIB (1ull << 30)
#define MS 100u // in the middle of the volume, where no system file is

// ---- the blob ----

struct got {
	unsigned n;
	uint64_t start[16], len[16];
	bool used[16];
};

static int collect(void *ctx, uint64_t start, uint64_t len, bool used)
{
	struct got *g = ctx;

	g->start[g->n] = start;
	g->len[g->n] = len;
	g->used[g->n++] = used;
	return 0;
}

START_TEST(round_trip)
{
	struct spacemap_buf buf = { 0 };
	struct got g = { 0 };

	ck_assert_int_eq(spacemap_put(&buf, 100, 50, true), 0);
	ck_assert_int_eq(spacemap_put(&buf, 10, 1, true), 0);
	ck_assert_int_eq(spacemap_put(&buf, 110, 4000, false), 0);
	ck_assert_int_eq(spacemap_decode(buf.data, buf.len, 5000, collect, &g), 0);
	ck_assert_uint_eq(g.n, 3);
	ck_assert_uint_eq(g.start[1], 10);
	ck_assert_uint_eq(g.len[1], 1);
	ck_assert_uint_eq(g.start[2], 110);
	ck_assert_uint_eq(g.len[2], 4000);
	ck_assert(g.used[0] && g.used[1] && !g.used[2]);
	// The same bytes for a smaller metaslab, and cut short.
	ck_assert_int_eq(spacemap_decode(buf.data, buf.len, 4109, collect, &(struct got){ 0 }), -EUCLEAN);
	ck_assert_int_eq(spacemap_decode(buf.data, buf.len - 1, 5000, collect, &(struct got){ 0 }), -EUCLEAN);
	ck_assert_int_eq(spacemap_decode(NULL, 0, 5000, collect, NULL), 0);
	spacemap_buf_free(&buf);
}
END_TEST

START_TEST(append_continues_a_blob)
{
	struct spacemap_buf a = { 0 }, b = { 0 };
	struct got g = { 0 };

	ck_assert_int_eq(spacemap_put(&a, 4000, 90, true), 0);
	ck_assert_int_eq(spacemap_put(&b, 7, 300, true), 0);
	ck_assert_int_eq(spacemap_put(&b, 4001, 2, false), 0);
	ck_assert_int_eq(spacemap_append(&a, b.data, b.len, 5000), 0);
	ck_assert_int_eq(spacemap_decode(a.data, a.len, 5000, collect, &g), 0);
	ck_assert_uint_eq(g.n, 3);
	ck_assert_uint_eq(g.start[1], 7);
	ck_assert_uint_eq(g.len[1], 300);
	ck_assert_uint_eq(g.start[2], 4001);
	ck_assert(g.used[1] && !g.used[2]);
	ck_assert_int_eq(spacemap_append(&a, b.data, b.len - 1, 5000), -EUCLEAN);
	spacemap_buf_free(&a);
	spacemap_buf_free(&b);
}
END_TEST

START_TEST(bits_refuse_contradictions)
{
	struct spacemap_bits bits;
	uint64_t start = 0, len = 0;

	ck_assert_int_eq(spacemap_bits_init(&bits, 200), 0);
	ck_assert_int_eq(spacemap_bits_apply(&bits, 60, 80, true), 0);
	ck_assert_int_eq(spacemap_bits_apply(&bits, 139, 2, true), -EUCLEAN);
	ck_assert_int_eq(spacemap_bits_apply(&bits, 59, 2, false), -EUCLEAN);
	ck_assert_int_eq(spacemap_bits_apply(&bits, 199, 2, true), -EUCLEAN);
	ck_assert_int_eq(spacemap_bits_apply(&bits, 0, 0, true), -EUCLEAN);
	ck_assert_int_eq(spacemap_bits_apply(&bits, 5, UINT64_MAX, true), -EUCLEAN);
	ck_assert_uint_eq(bits.used_blk, 80);
	ck_assert(spacemap_bits_next(&bits, true, &start, &len));
	ck_assert_uint_eq(start, 60);
	ck_assert_uint_eq(len, 80);
	start = 140;
	ck_assert(!spacemap_bits_next(&bits, true, &start, &len));
	ck_assert(spacemap_bits_next(&bits, false, &start, &len));
	ck_assert_uint_eq(start, 140);
	ck_assert_uint_eq(len, 60);
	spacemap_bits_free(&bits);
}
END_TEST

static int apply(void *ctx, uint64_t start, uint64_t len, bool used) { return spacemap_bits_apply(ctx, start, len, used); }

// Random bytes, half of them small so that some entries are good: the fast way and the slow one say the same.
START_TEST(random_bytes)
{
	unsigned rng = vt_seed(4711), good = 0;
	uint8_t junk[64];

	for (int i = 0; i < 40000; i++) {
		size_t len = vt_rand(&rng) % sizeof(junk);
		uint64_t n_blks = 1 + vt_rand(&rng) % 4096;
		uint8_t mask = i % 2 != 0 ? 0xff : 0x0f;
		struct spacemap_bits slow, fast;
		int err;

		for (size_t k = 0; k < sizeof(junk); k++)
			junk[k] = (uint8_t)vt_rand(&rng) & mask;
		ck_assert_int_eq(spacemap_bits_init(&slow, n_blks), 0);
		ck_assert_int_eq(spacemap_bits_init(&fast, n_blks), 0);
		err = spacemap_decode(junk, len, n_blks, apply, &slow);
		ck_assert(err == 0 || err == -EUCLEAN);
		ck_assert_int_eq(spacemap_bits_replay(&fast, junk, len), err);
		ck_assert_uint_eq(fast.used_blk, slow.used_blk);
		ck_assert_mem_eq(fast.words, slow.words, (n_blks + 63) / 64 * 8);
		good += err == 0 && len > 0;
		spacemap_bits_free(&slow);
		spacemap_bits_free(&fast);
	}
	ck_assert_uint_gt(good, 100);
}
END_TEST

// ---- a map as bytes, and changes of it ----

struct model {
	uint64_t n_blks, cursor;
	uint8_t *used;
	unsigned rng;
};

struct change {
	uint64_t start, len;
	bool used;
};

static void model_init(struct model *m, uint64_t n_blks, unsigned seed)
{
	*m = (struct model){ .n_blks = n_blks, .used = calloc(n_blks, 1), .rng = seed };
	ck_assert_ptr_nonnull(m->used);
}

// Makes a run of up to max_len blocks used (or free): the next one by address, or a random one. False: there is nothing left to change.
static bool model_change(struct model *m, bool used, bool by_address, uint64_t max_len, struct change *c)
{
	uint64_t from = by_address ? m->cursor : vt_rand(&m->rng) % m->n_blks;
	uint8_t *at = memchr(m->used + from, !used, m->n_blks - from), *end;

	if (at == NULL)
		at = memchr(m->used, !used, m->n_blks);
	if (at == NULL)
		return false;
	c->start = (uint64_t)(at - m->used);
	c->len = min_u64(1 + vt_rand(&m->rng) % max_len, m->n_blks - c->start);
	end = memchr(at, used, c->len);
	if (end != NULL)
		c->len = (uint64_t)(end - at);
	c->used = used;
	memset(at, used, c->len);
	m->cursor = (c->start + c->len) % m->n_blks;
	return true;
}

static void check_bits(const struct model *m, const struct spacemap_bits *bits)
{
	uint64_t used_blk = 0, wrong = 0;

	ck_assert_uint_eq(bits->n_blks, m->n_blks);
	for (uint64_t blk = 0; blk < m->n_blks; blk++) {
		wrong += (bits->words[blk / 64] >> (blk % 64) & 1) != m->used[blk];
		used_blk += m->used[blk];
	}
	ck_assert_uint_eq(wrong, 0);
	ck_assert_uint_eq(bits->used_blk, used_blk);
}

static uint64_t condensed_bytes(const struct spacemap_bits *bits)
{
	struct spacemap_buf buf = { 0 };
	uint64_t len;

	ck_assert_int_eq(spacemap_bits_condense(bits, &buf), 0);
	len = buf.len;
	spacemap_buf_free(&buf);
	return len;
}

// The bound that P3 rests on, with runs around the lengths where varints get longer; and that a condensed form replays to the same.
START_TEST(one_entry_loses_little)
{
	static const uint64_t max_len[] = { 1, 2, 40, 140, 5000, 20000 };
	static const uint64_t size[] = { 64, 100, 16384, 70000 };
	unsigned seed = vt_seed(77);

	for (size_t k = 0; k < ARRAY_LEN(size); k++) {
		struct spacemap_bits bits, again;
		struct spacemap_buf buf = { 0 };
		struct model m;
		uint64_t before = 0;

		model_init(&m, size[k], seed);
		ck_assert_int_eq(spacemap_bits_init(&bits, size[k]), 0);
		for (int i = 0; i < 6000; i++) {
			bool used = vt_rand(&m.rng) % 100 < (i % 1000 < 500 ? 70 : 30);
			struct change c;
			uint64_t now;

			if (!model_change(&m, used, i % 3 == 0, max_len[vt_rand(&m.rng) % ARRAY_LEN(max_len)], &c))
				continue;
			ck_assert_int_eq(spacemap_bits_apply(&bits, c.start, c.len, c.used), 0);
			now = condensed_bytes(&bits);
			ck_assert_uint_le(now, size[k] + 1);
			ck_assert_msg(before <= now + spacemap_entry_loss(c.len, size[k]), "%d: %lu bytes, then %lu", i,
			              (unsigned long)before, (unsigned long)now);
			before = now;
		}
		check_bits(&m, &bits);
		ck_assert_int_eq(spacemap_bits_condense(&bits, &buf), 0);
		ck_assert_int_eq(spacemap_bits_init(&again, size[k]), 0);
		ck_assert_int_eq(spacemap_bits_replay(&again, buf.data, buf.len), 0);
		check_bits(&m, &again);
		spacemap_buf_free(&buf);
		spacemap_bits_free(&again);
		spacemap_bits_free(&bits);
		free(m.used);
	}
}
END_TEST

// ---- logs in a volume ----

struct numbers {
	uint64_t free_blk, log_bytes, base_bytes; // of the metaslab's row
	uint64_t n_rows, row_bytes;
};

struct history {
	struct bdev *dev;
	struct volume *vol;
	struct model m;
	struct numbers now;
	uint64_t appended, loss;       // bytes, since the last condensing
	uint64_t appended_m, loss_m;   // since the last time that the log was read; 0 and unknown after a remount
	bool remounted;
	unsigned n_condensed, n_read, n_commits;
	uint64_t condensed_bytes, appended_bytes; // altogether
};

static int64_t ask(struct volume *vol, const char *sql)
{
	sqlite3_stmt *stmt = NULL;
	int64_t value = 0;

	store_lock(vol->store);
	ck_assert_int_eq(sqlite3_prepare_v2(store_db(vol->store), sql, -1, &stmt, NULL), SQLITE_OK);
	if (sqlite3_step(stmt) == SQLITE_ROW)
		value = sqlite3_column_int64(stmt, 0);
	ck_assert_int_eq(sqlite3_finalize(stmt), SQLITE_OK);
	store_unlock(vol->store);
	return value;
}

static struct numbers read_numbers(struct volume *vol)
{
	return (struct numbers){
		.free_blk = (uint64_t)ask(vol, "SELECT free_blk FROM metaslab WHERE ms = 100"),
		.log_bytes = (uint64_t)ask(vol, "SELECT log_bytes FROM metaslab WHERE ms = 100"),
		.base_bytes = (uint64_t)ask(vol, "SELECT base_bytes FROM metaslab WHERE ms = 100"),
		.n_rows = (uint64_t)ask(vol, "SELECT count(*) FROM spacemap WHERE ms = 100"),
		.row_bytes = (uint64_t)ask(vol, "SELECT sum(length(runs)) FROM spacemap WHERE ms = 100"),
	};
}

static void history_init(struct history *h, unsigned ms_shift, unsigned seed)
{
	*h = (struct history){ .dev = vt_format((200ull << ms_shift) * BLK_SIZE) };
	h->vol = vt_open_flags(h->dev, VOLUME_NO_ALLOC);
	ck_assert_uint_eq(h->vol->files.sb.ms_shift, ms_shift);
	model_init(&h->m, 1ull << ms_shift, seed);
}

static void history_end(struct history *h)
{
	ck_assert_int_eq(volume_close(h->vol), 0);
	bdev_close(h->dev);
	free(h->m.used);
}

static void remount(struct history *h)
{
	ck_assert_int_eq(volume_close(h->vol), 0);
	h->vol = vt_open_flags(h->dev, VOLUME_NO_ALLOC);
	h->remounted = true;
}

// What a transaction must have done to the rows: P3, P5, and that reading and condensing were paid for.
static void check_commit(struct history *h, uint64_t delta_bytes)
{
	struct numbers before = h->now, now = read_numbers(h->vol);
	struct spacemap_bits bits;
	bool replaced = false;
	uint64_t condensed;

	store_lock(h->vol->store);
	ck_assert_int_eq(freemap_read_bits(txn_freemap(h->vol), MS, &bits), 0);
	store_unlock(h->vol->store);
	condensed = condensed_bytes(&bits);
	ck_assert_uint_eq(now.free_blk, bits.n_blks - bits.used_blk); // P4
	if (h->n_commits % 50 == 0)
		check_bits(&h->m, &bits);
	spacemap_bits_free(&bits);

	ck_assert_uint_eq(now.row_bytes, now.log_bytes);
	ck_assert_msg(now.log_bytes <= max_u64(SPACEMAP_MIN_LOG, 2 * condensed), "P3: %lu bytes of log, condensed %lu",
	              (unsigned long)now.log_bytes, (unsigned long)condensed);
	ck_assert_uint_le(now.n_rows, 2 * now.log_bytes / SPACEMAP_ROW_BYTES + 1); // P5
	ck_assert_uint_le(now.base_bytes, now.log_bytes);

	// A delta that was appended may have become a little longer or shorter.
	if (now.log_bytes + 4 < before.log_bytes + delta_bytes || now.log_bytes > before.log_bytes + delta_bytes + 4) {
		ck_assert_uint_eq(now.log_bytes, condensed);
		ck_assert_uint_le(now.n_rows, 1);
		ck_assert_uint_lt(3 * condensed, 4 * (h->appended + h->loss));
		h->condensed_bytes += condensed;
		h->n_condensed++;
		h->appended = h->loss = 0;
		replaced = true;
	}
	if (replaced || now.base_bytes != before.base_bytes) {
		if (!h->remounted)
			ck_assert_uint_gt(4 * (h->appended_m + 2 * h->loss_m), before.base_bytes);
		h->remounted = false;
		h->n_read++;
		h->appended_m = h->loss_m = 0;
	}
	h->now = now;
}

static void commit(struct history *h, unsigned n, bool used, bool by_address, uint64_t max_len)
{
	struct spacemap_buf delta = { 0 };
	struct change c;
	uint64_t id;

	ck_assert_int_eq(txn_begin(h->vol, TXN_FREE, &id), 0);
	store_lock(h->vol->store);
	while (n-- > 0 && model_change(&h->m, used, by_address, max_len, &c)) {
		ck_assert_int_eq(spacemap_put(&delta, c.start, c.len, c.used), 0);
		ck_assert_int_eq(txn_log_run(h->vol, ((uint64_t)MS << h->vol->files.sb.ms_shift) + c.start, c.len, c.used), 0);
		h->loss += spacemap_entry_loss(c.len, h->m.n_blks);
		h->loss_m += spacemap_entry_loss(c.len, h->m.n_blks);
	}
	store_unlock(h->vol->store);
	txn_end(h->vol);
	ck_assert_int_eq(txn_commit(h->vol), 0);
	h->appended += delta.len;
	h->appended_m += delta.len;
	h->appended_bytes += delta.len;
	h->n_commits++;
	if (delta.len > 0)
		check_commit(h, delta.len);
	spacemap_buf_free(&delta);
}

// Fragmentation rises and falls, in small transactions and in large ones, with remounts between them.
START_TEST(random_histories)
{
	static const uint64_t max_len[] = { 1, 1, 1, 3, 50, 3000 };
	static const unsigned n_changes[] = { 1, 5, 40, 300, 2000 };
	struct history h;

	history_init(&h, 14, vt_seed(1234 + (unsigned)_i));
	for (int phase = 0; phase < 60; phase++) {
		bool used = vt_rand(&h.m.rng) % 2 != 0, by_address = vt_rand(&h.m.rng) % 2 != 0;
		bool both = vt_rand(&h.m.rng) % 3 == 0; // churn
		uint64_t len = max_len[vt_rand(&h.m.rng) % ARRAY_LEN(max_len)];
		unsigned n = n_changes[vt_rand(&h.m.rng) % ARRAY_LEN(n_changes)];

		for (int i = 0; i < 30; i++)
			commit(&h, n, both ? i % 2 != 0 : used, by_address, len);
		if (phase % 6 == 5)
			remount(&h);
	}
	ck_assert_uint_gt(h.n_condensed, 5);
	history_end(&h);
}
END_TEST

// The largest map, then all of it freed in the order in which the log says it: the log must go as well, not only stop growing. The second
// time with a remount before each transaction, after which nobody remembers what was logged since the last condensing.
START_TEST(log_follows_a_map_that_shrinks)
{
	struct history h;

	history_init(&h, 18, vt_seed(5));
	while (h.now.free_blk == 0 || h.now.free_blk > h.m.n_blks * 6 / 10)
		commit(&h, 4000, true, false, 1);
	ck_assert_uint_gt(h.now.log_bytes, 100000);
	h.m.cursor = 0;
	while (h.now.free_blk < h.m.n_blks) {
		if (_i == 1)
			remount(&h);
		commit(&h, 4000, false, true, 100);
	}
	ck_assert_uint_le(h.now.log_bytes, SPACEMAP_MIN_LOG);
	ck_assert_uint_le(h.now.n_rows, 2 * SPACEMAP_MIN_LOG / SPACEMAP_ROW_BYTES + 1);
	history_end(&h);
}
END_TEST

// Steady churn in a fragmented metaslab: most commits only append, and for each byte appended about two are written altogether.
START_TEST(condensing_is_rare)
{
	struct history h;
	uint64_t appended, condensed;
	unsigned n_condensed, n_read;

	history_init(&h, 18, vt_seed(6));
	for (int i = 0; i < 20; i++)
		commit(&h, 4000, true, false, 1);
	appended = h.appended_bytes;
	condensed = h.condensed_bytes;
	n_condensed = h.n_condensed;
	n_read = h.n_read;
	for (int i = 0; i < 400; i++)
		commit(&h, 750, i % 2 != 0, false, 1);
	ck_assert_uint_gt(h.n_condensed, n_condensed);
	ck_assert_uint_lt(h.n_condensed - n_condensed, 40);
	ck_assert_uint_lt(h.n_read - n_read, 160);
	ck_assert_uint_lt(h.condensed_bytes - condensed, 2 * (h.appended_bytes - appended));
	history_end(&h);
}
END_TEST

START_TEST(tiny_transactions_share_rows)
{
	struct history h;

	history_init(&h, 14, vt_seed(8));
	commit(&h, 3000, true, false, 1);
	for (int i = 0; i < 1500; i++)
		commit(&h, 1, i % 2 != 0, false, 1);
	ck_assert_uint_lt(h.now.n_rows, 30);
	remount(&h);
	commit(&h, 1, true, false, 1);
	history_end(&h);
}
END_TEST

// ---- damage ----

static void damage(struct history *h, const char *sql)
{
	uint64_t id;

	ck_assert_int_eq(txn_begin(h->vol, TXN_FREE, &id), 0);
	store_lock(h->vol->store);
	ck_assert_int_eq(sqlite3_exec(store_db(h->vol->store), sql, NULL, NULL, NULL), SQLITE_OK);
	store_unlock(h->vol->store);
	txn_end(h->vol);
	ck_assert_int_eq(txn_commit(h->vol), 0);
}

// Whatever the numbers in the metaslab's row are, the next transactions find the log's length again.
START_TEST(wrong_lengths_are_put_right)
{
	static const char *const sql[] = {
		"UPDATE metaslab SET base_bytes = 9223372036854775807 WHERE ms = 100",
		"UPDATE metaslab SET base_bytes = 0 WHERE ms = 100",
		"UPDATE metaslab SET base_bytes = -1 WHERE ms = 100",
		"UPDATE metaslab SET log_bytes = 9223372036854775807 WHERE ms = 100",
		"UPDATE metaslab SET log_bytes = -1 WHERE ms = 100",
		"UPDATE metaslab SET log_bytes = -1, base_bytes = -9223372036854775807 WHERE ms = 100",
	};

	for (size_t i = 0; i < ARRAY_LEN(sql); i++) {
		struct history h;

		history_init(&h, 14, vt_seed(9));
		for (int k = 0; k < 10; k++)
			commit(&h, 400, true, false, 1);
		damage(&h, sql[i]);
		remount(&h);
		// Without looking into the rows meanwhile, what an entry more or less costs is not known.
		for (int k = 0; k < 30; k++) {
			struct spacemap_bits bits;
			struct change c;
			uint64_t id;

			ck_assert_int_eq(txn_begin(h.vol, TXN_FREE, &id), 0);
			store_lock(h.vol->store);
			for (int n = 0; n < 400 && model_change(&h.m, k % 2 == 0, false, 1, &c); n++)
				ck_assert_int_eq(txn_log_run(h.vol, ((uint64_t)MS << 14) + c.start, c.len, c.used), 0);
			store_unlock(h.vol->store);
			txn_end(h.vol);
			ck_assert_int_eq(txn_commit(h.vol), 0);
			store_lock(h.vol->store);
			ck_assert_int_eq(freemap_read_bits(txn_freemap(h.vol), MS, &bits), 0);
			store_unlock(h.vol->store);
			check_bits(&h.m, &bits);
			spacemap_bits_free(&bits);
		}
		h.now = read_numbers(h.vol);
		ck_assert_uint_eq(h.now.log_bytes, h.now.row_bytes);
		ck_assert_uint_le(h.now.base_bytes, h.now.log_bytes);
		history_end(&h);
	}
}
END_TEST

// A row that makes no sense does not keep others from being written, and is found by whoever reads the map.
START_TEST(damaged_last_row)
{
	struct spacemap_bits bits;
	struct history h;

	msg_open("test", MSG_TO_NOWHERE, MSG_ERROR);
	history_init(&h, 14, vt_seed(10));
	commit(&h, 20, true, false, 1);
	damage(&h, "UPDATE spacemap SET runs = x'ffffffff' WHERE ms = 100");
	ck_assert_int_eq(ask(h.vol, "SELECT count(*) FROM spacemap WHERE ms = 100"), 1);
	{
		uint64_t id;

		ck_assert_int_eq(txn_begin(h.vol, TXN_FREE, &id), 0);
		store_lock(h.vol->store);
		ck_assert_int_eq(txn_log_run(h.vol, ((uint64_t)MS << 14) + 7000, 1000, true), 0);
		store_unlock(h.vol->store);
		txn_end(h.vol);
		ck_assert_int_eq(txn_commit(h.vol), 0);
	}
	ck_assert_int_eq(ask(h.vol, "SELECT count(*) FROM spacemap WHERE ms = 100"), 2);
	store_lock(h.vol->store);
	ck_assert_int_eq(freemap_read_bits(txn_freemap(h.vol), MS, &bits), -EUCLEAN);
	store_unlock(h.vol->store);
	history_end(&h);
}
END_TEST

// What the allocator gets from a load is what the map says: all that is free can be had, and nothing else.
START_TEST(allocator_gets_the_map)
{
	struct bdev *dev = vt_format(16ull << 20);
	struct volume *vol = vt_open(dev);
	struct runlist taken = { 0 };
	struct volume_space space;
	struct errmsg why = { "" };
	uint64_t id, n_blks = vol->files.sb.n_blks;
	uint8_t *seen = calloc(n_blks, 1);

	ck_assert_ptr_nonnull(seen);
	// Every third block of what there is stays in use over a remount.
	volume_get_space(vol, &space);
	ck_assert_int_eq(alloc_get(vol->alloc, NULL, &(struct alloc_req){ .want_blk = space.avail_blk, .flags = ALLOC_PARTIAL }, &taken), 0);
	ck_assert_int_eq(txn_begin(vol, TXN_FREE, &id), 0);
	store_lock(vol->store);
	for (uint32_t i = 0; i < taken.n; i++) {
		for (uint64_t blk = taken.runs[i].start_blk; blk < taken.runs[i].start_blk + taken.runs[i].len_blk; blk++) {
			if (blk % 3 == 0) {
				ck_assert_int_eq(txn_log_run(vol, blk, 1, true), 0);
				ck_assert_int_eq(alloc_commit(vol->alloc, blk, 1), 0);
				seen[blk] = 1;
			} else {
				ck_assert_int_eq(alloc_put(vol->alloc, blk, 1), 0);
			}
		}
	}
	store_unlock(vol->store);
	txn_end(vol);
	ck_assert_int_eq(volume_close(vol), 0);

	vol = vt_open(dev);
	volume_get_space(vol, &space);
	runlist_clear(&taken);
	ck_assert_int_eq(alloc_get(vol->alloc, NULL, &(struct alloc_req){ .want_blk = space.free_blk, .flags = ALLOC_USE_RESERVE }, &taken), 0);
	for (uint32_t i = 0; i < taken.n; i++)
		for (uint64_t blk = taken.runs[i].start_blk; blk < taken.runs[i].start_blk + taken.runs[i].len_blk; blk++)
			ck_assert_uint_eq(seen[blk]++, 0);
	ck_assert_msg(alloc_check(vol->alloc, &why) == 0, "%s", why.text);
	for (uint32_t i = 0; i < taken.n; i++)
		ck_assert_int_eq(alloc_put(vol->alloc, taken.runs[i].start_blk, taken.runs[i].len_blk), 0);
	runlist_free(&taken);
	free(seen);
	ck_assert_int_eq(volume_close(vol), 0);
	bdev_close(dev);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("spacemap");
	TCase *tc = tcase_create("spacemap");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, round_trip);
	tcase_add_test(tc, append_continues_a_blob);
	tcase_add_test(tc, bits_refuse_contradictions);
	tcase_add_test(tc, random_bytes);
	tcase_add_test(tc, one_entry_loses_little);
	tcase_add_loop_test(tc, random_histories, 0, 4);
	tcase_add_loop_test(tc, log_follows_a_map_that_shrinks, 0, 2);
	tcase_add_test(tc, condensing_is_rare);
	tcase_add_test(tc, tiny_transactions_share_rows);
	tcase_add_test(tc, wrong_lengths_are_put_right);
	tcase_add_test(tc, damaged_last_row);
	tcase_add_test(tc, allocator_gets_the_map);
	suite_add_tcase(s, tc);
	return run_suite(s);
}
