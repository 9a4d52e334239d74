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

void spacemap_buf_free(struct spacemap_buf *buf)
{
	free(buf->data);
	*buf = (struct spacemap_buf){ 0 };
}

int spacemap_decode(const void *blob, size_t len, uint64_t ms_blks, spacemap_entry_fn fn, void *ctx)
{
	const uint8_t *p = blob, *end = p + len;
	uint64_t head, more, start, prev_end = 0;
	size_t n;
	int err;

	while (p < end) {
		n = varint_get(p, (size_t)(end - p), &head);
		p += n;
		if (n == 0 || (n = varint_get(p, (size_t)(end - p), &more)) == 0)
			return -EUCLEAN;
		p += n;
		start = prev_end + (uint64_t)unzigzag(head >> 1); // wraps around for nonsense, caught below
		if (start >= ms_blks || more >= ms_blks - start)
			return -EUCLEAN;
		prev_end = start + more + 1;
		err = fn(ctx, start, more + 1, (head & 1) != 0);
		if (err != 0)
			return err;
	}
	return 0;
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

// The bits of word w that lie in [start, end).
static uint64_t word_mask(uint64_t w, uint64_t start, uint64_t end)
{
	uint64_t mask = ~0ull;

	if (start > w * 64)
		mask &= ~0ull << (start - w * 64);
	if (end < w * 64 + 64)
		mask &= ~0ull >> (w * 64 + 64 - end);
	return mask;
}

int spacemap_bits_apply(struct spacemap_bits *bits, uint64_t rel_start, uint64_t len_blk, bool used)
{
	uint64_t end = rel_start + len_blk;

	if (len_blk == 0 || rel_start >= bits->n_blks || len_blk > bits->n_blks - rel_start)
		return -EUCLEAN;
	for (uint64_t w = rel_start / 64; w * 64 < end; w++) {
		uint64_t mask = word_mask(w, rel_start, end);

		if ((bits->words[w] & mask) != (used ? 0 : mask))
			return -EUCLEAN;
		bits->words[w] ^= mask;
	}
	if (used)
		bits->used_blk += len_blk;
	else
		bits->used_blk -= len_blk;
	return 0;
}

// The first block at or after `from` whose bit equals `used`, or n_blks.
static uint64_t find_bit(const struct spacemap_bits *bits, uint64_t from, bool used)
{
	for (uint64_t w = from / 64; w * 64 < bits->n_blks; w++) {
		uint64_t word = (used ? bits->words[w] : ~bits->words[w]) & word_mask(w, from, bits->n_blks);

		if (word != 0)
			return w * 64 + (uint64_t)__builtin_ctzll(word);
	}
	return bits->n_blks;
}

bool spacemap_bits_next(const struct spacemap_bits *bits, bool used, uint64_t *rel_start, uint64_t *len_blk)
{
	uint64_t start = *rel_start < bits->n_blks ? find_bit(bits, *rel_start, used) : bits->n_blks;

	if (start == bits->n_blks)
		return false;
	*rel_start = start;
	*len_blk = find_bit(bits, start, !used) - start;
	return true;
}
