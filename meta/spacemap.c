// SPDX-License-Identifier: MIT
// The space map's blob and the bitmap that replays it. The tables are freemap.c's.
#include "meta/spacemap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/varint.h"

#define ENTRY_MAX_LEN (2 * VARINT_MAX_LEN)

static uint64_t zigzag(int64_t v) { return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63); }
static int64_t unzigzag(uint64_t v) { return (int64_t)(v >> 1) ^ -(int64_t)(v & 1); }

int spacemap_put(struct spacemap_buf *buf, uint64_t rel_start, uint64_t len_blk, bool used)
{
	uint8_t *bigger;
	size_t cap;

	if (buf->cap - buf->len < ENTRY_MAX_LEN) {
		cap = buf->cap == 0 ? 64 : buf->cap * 2;
		bigger = realloc(buf->data, cap);
		if (bigger == NULL)
			return -ENOMEM;
		buf->data = bigger;
		buf->cap = cap;
	}
	buf->len += varint_put(buf->data + buf->len, zigzag((int64_t)(rel_start - buf->prev_end)) << 1 | used);
	buf->len += varint_put(buf->data + buf->len, len_blk - 1);
	buf->prev_end = rel_start + len_blk;
	return 0;
}

void spacemap_buf_clear(struct spacemap_buf *buf)
{
	buf->len = 0;
	buf->prev_end = 0;
}

void spacemap_buf_free(struct spacemap_buf *buf)
{
	free(buf->data);
	*buf = (struct spacemap_buf){ 0 };
}

// ---- reading a blob ----

struct entry {
	uint64_t start, len;
	bool used;
};

struct reader {
	const uint8_t *p, *end;
	uint64_t prev_end, ms_blks;
};

// Call only while p < end. 0 or -EUCLEAN (P2, or no entry at all).
static inline int read_entry(struct reader *r, struct entry *e)
{
	uint64_t head, more;
	size_t n;

	n = varint_get(r->p, (size_t)(r->end - r->p), &head);
	if (n == 0)
		return -EUCLEAN;
	r->p += n;
	n = varint_get(r->p, (size_t)(r->end - r->p), &more);
	if (n == 0)
		return -EUCLEAN;
	r->p += n;
	e->start = r->prev_end + (uint64_t)unzigzag(head >> 1); // wraps around for nonsense, caught below
	if (e->start >= r->ms_blks || more >= r->ms_blks - e->start)
		return -EUCLEAN;
	e->len = more + 1;
	e->used = (head & 1) != 0;
	r->prev_end = e->start + e->len;
	return 0;
}

static struct reader reader_of(const void *blob, size_t len, uint64_t ms_blks)
{
	struct reader r = { .p = blob, .ms_blks = ms_blks };

	r.end = len > 0 ? r.p + len : r.p; // an empty blob may be NULL
	return r;
}

int spacemap_decode(const void *blob, size_t len, uint64_t ms_blks, spacemap_entry_fn fn, void *ctx)
{
	struct reader r = reader_of(blob, len, ms_blks);
	struct entry e;
	int err = 0;

	while (err == 0 && r.p < r.end) {
		err = read_entry(&r, &e);
		if (err == 0)
			err = fn(ctx, e.start, e.len, e.used);
	}
	return err;
}

static int put_entry(void *ctx, uint64_t rel_start, uint64_t len_blk, bool used)
{
	return spacemap_put(ctx, rel_start, len_blk, used);
}

int spacemap_append(struct spacemap_buf *buf, const void *blob, size_t len, uint64_t ms_blks)
{
	return spacemap_decode(blob, len, ms_blks, put_entry, buf);
}

// A used run costs gap(g) + length(l) bytes, where gap(g) = bytes of the varint 4g + 1 and length(l) = bytes of the varint l - 1, so
// length(x) <= gap(x); gap(a + b) <= max(gap(a), gap(b)) + 1, and the same for length. With x = the entry's length:
//   a used entry that fills a gap joins two runs: gap(x) and the shorter of their lengths go.
//   a used entry beside one run: a gap g becomes g - x, which saves gap(x) at most.
//   a free entry that takes away a run: length(x) and the smaller of two gaps go.
//   a free entry at the end of a run: a length l becomes l - x, which saves length(x) at most.
//   an entry in the middle of a gap or a run: one number becomes three, which is never shorter.
// So gap(x) + gap(blocks of the metaslab) is never too little.
uint64_t spacemap_entry_loss(uint64_t len_blk, uint64_t ms_blks)
{
	return varint_len(4 * len_blk + 1) + varint_len(4 * ms_blks + 1);
}

// ---- the bitmap ----

int spacemap_bits_init(struct spacemap_bits *bits, uint64_t n_blks)
{
	bits->n_blks = n_blks;
	bits->used_blk = 0;
	bits->words = calloc((n_blks + 63) / 64, sizeof(bits->words[0]));
	return bits->words != NULL ? 0 : -ENOMEM;
}

void spacemap_bits_free(struct spacemap_bits *bits)
{
	free(bits->words);
	bits->words = NULL;
}

static uint64_t low_ones(uint64_t n) { return n < 64 ? (1ull << n) - 1 : ~0ull; }

// Turns bits over that must all be the opposite of `used` before (P1).
static inline bool flip(uint64_t *word, uint64_t mask, bool used)
{
	if (((used ? *word : ~*word) & mask) != 0)
		return false;
	*word ^= mask;
	return true;
}

// Inside the metaslab (P2) for certain. False: P1 is broken.
static inline bool apply(struct spacemap_bits *bits, const struct entry *e)
{
	uint64_t *word = &bits->words[e->start / 64];
	uint64_t bit = e->start % 64, left = e->len;

	if (bit + left <= 64) { // nearly always, in a map with many entries
		if (!flip(word, low_ones(left) << bit, e->used))
			return false;
	} else {
		if (!flip(word++, ~0ull << bit, e->used))
			return false;
		for (left -= 64 - bit; left >= 64; left -= 64)
			if (!flip(word++, ~0ull, e->used))
				return false;
		if (left > 0 && !flip(word, low_ones(left), e->used))
			return false;
	}
	bits->used_blk += e->used ? e->len : -e->len;
	return true;
}

int spacemap_bits_apply(struct spacemap_bits *bits, uint64_t rel_start, uint64_t len_blk, bool used)
{
	struct entry e = { rel_start, len_blk, used };

	if (len_blk == 0 || rel_start >= bits->n_blks || len_blk > bits->n_blks - rel_start)
		return -EUCLEAN;
	return apply(bits, &e) ? 0 : -EUCLEAN;
}

int spacemap_bits_replay(struct spacemap_bits *bits, const void *blob, size_t len)
{
	struct reader r = reader_of(blob, len, bits->n_blks);
	struct entry e;

	while (r.p < r.end)
		if (read_entry(&r, &e) != 0 || !apply(bits, &e))
			return -EUCLEAN;
	return 0;
}

// The first block at or after `from` whose bit equals `used`, or n_blks.
static inline uint64_t find_bit(const struct spacemap_bits *bits, uint64_t from, bool used)
{
	uint64_t invert = used ? 0 : ~0ull;

	while (from < bits->n_blks) {
		uint64_t rest = (bits->words[from / 64] ^ invert) >> (from % 64);

		if (rest != 0) { // in the last word, "free" bits beyond the end may be found
			from += (uint64_t)__builtin_ctzll(rest);
			return from < bits->n_blks ? from : bits->n_blks;
		}
		from = (from | 63) + 1;
	}
	return bits->n_blks;
}

bool spacemap_bits_next(const struct spacemap_bits *bits, bool used, uint64_t *rel_start, uint64_t *len_blk)
{
	uint64_t start = find_bit(bits, *rel_start, used);

	if (start == bits->n_blks)
		return false;
	*rel_start = start;
	*len_blk = find_bit(bits, start, !used) - start;
	return true;
}

int spacemap_bits_condense(const struct spacemap_bits *bits, struct spacemap_buf *buf)
{
	uint64_t start = 0, len;
	int err = 0;

	while (err == 0 && spacemap_bits_next(bits, true, &start, &len)) {
		err = spacemap_put(buf, start, len, true);
		start += len;
	}
	return err;
}
