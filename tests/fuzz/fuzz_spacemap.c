// SPDX-License-Identifier: MIT
// Fuzz target: the bytes are one row of a space map, read for metaslabs of several sizes.
//
// Held against each other: decoding entry by entry, replaying at once, and a reader of a few lines that keeps a byte
// for each block. All three must accept or refuse the same rows. What was accepted is condensed and replayed again: the
// map is the same, and its condensed form too.
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "meta/spacemap.h"
#include "util/attr.h"

#define NAIVE_MAX_BLKS 4100u

// ---- the naive reader: doc/FORMAT.md, literally ----

struct naive {
	const uint8_t *data;
	size_t size, at;
};

static bool naive_varint(struct naive *n, uint64_t *value)
{
	*value = 0;
	for (unsigned k = 0; k < 10 && n->at < n->size; k++) {
		uint64_t byte = n->data[n->at++];

		if (k == 9 && byte > 1)
			return false;
		*value += (byte % 128) << (7 * k);
		if (byte < 128)
			return true;
	}
	return false;
}

// One byte for each block: 1 = used. False: refused.
static bool naive_replay(const uint8_t *data, size_t size, uint64_t n_blks, uint8_t *used_map)
{
	struct naive n = { data, size, 0 };
	__int128 end = 0;

	while (n.at < n.size) {
		uint64_t head, more, zigzag;
		__int128 start, len;

		if (!naive_varint(&n, &head) || !naive_varint(&n, &more))
			return false;
		zigzag = head / 2;
		start = end + (zigzag % 2 == 0 ? (__int128)(zigzag / 2) : -(__int128)(zigzag / 2) - 1);
		len = (__int128)more + 1;
		if (start < 0 || start + len > (__int128)n_blks)
			return false;
		end = start + len;
		for (__int128 blk = start; blk < end; blk++) {
			if (used_map[blk] == head % 2)
				return false;
			used_map[blk] = head % 2;
		}
	}
	return true;
}

// ---- the checks ----

static int apply(void *ctx, uint64_t start, uint64_t len, bool used)
{
	struct spacemap_bits *bits = ctx;

	VERIFY(len > 0 && start < bits->n_blks && len <= bits->n_blks - start); // P2
	return spacemap_bits_apply(bits, start, len, used);
}

static bool same(const struct spacemap_bits *a, const struct spacemap_bits *b)
{
	return a->used_blk == b->used_blk && memcmp(a->words, b->words, (a->n_blks + 63) / 64 * sizeof(a->words[0])) == 0;
}

static void check_naive(const uint8_t *data, size_t size, const struct spacemap_bits *bits, bool accepted)
{
	uint8_t used_map[NAIVE_MAX_BLKS] = { 0 };

	VERIFY(naive_replay(data, size, bits->n_blks, used_map) == accepted);
	for (uint64_t blk = 0; accepted && blk < bits->n_blks; blk++)
		VERIFY((bits->words[blk / 64] >> (blk % 64) & 1) == used_map[blk]);
}

static void check_condensed(const struct spacemap_bits *bits)
{
	struct spacemap_buf once = { 0 }, twice = { 0 };
	struct spacemap_bits again;

	VERIFY(spacemap_bits_condense(bits, &once) == 0);
	VERIFY(once.len <= bits->n_blks + 1);
	VERIFY(spacemap_bits_init(&again, bits->n_blks) == 0);
	VERIFY(spacemap_bits_replay(&again, once.data, once.len) == 0);
	VERIFY(same(bits, &again));
	VERIFY(spacemap_append(&twice, once.data, once.len, bits->n_blks) == 0);
	VERIFY(twice.len == once.len && (once.len == 0 || memcmp(twice.data, once.data, once.len) == 0));
	spacemap_bits_free(&again);
	spacemap_buf_free(&once);
	spacemap_buf_free(&twice);
}

static void check_one(const uint8_t *data, size_t size, uint64_t n_blks)
{
	struct spacemap_bits slow, fast;
	int err;

	VERIFY(spacemap_bits_init(&slow, n_blks) == 0);
	VERIFY(spacemap_bits_init(&fast, n_blks) == 0);
	err = spacemap_decode(data, size, n_blks, apply, &slow);
	VERIFY(err == 0 || err == -EUCLEAN);
	VERIFY(spacemap_bits_replay(&fast, data, size) == err);
	VERIFY(same(&slow, &fast));
	if (n_blks <= NAIVE_MAX_BLKS)
		check_naive(data, size, &slow, err == 0);
	if (err == 0)
		check_condensed(&slow);
	spacemap_bits_free(&slow);
	spacemap_bits_free(&fast);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint64_t n_blks[] = { 1, 63, 64, 65, 4096, 4100, 1u << 18 };

	for (size_t i = 0; i < ARRAY_LEN(n_blks); i++)
		check_one(data, size, n_blks[i]);
	return 0;
}
