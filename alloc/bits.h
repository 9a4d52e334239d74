// SPDX-License-Identifier: MIT
// Bits: ranges in a plain array of words, and a set of small integers with 64-way summaries.
//
// Units: bit positions. No locks: the owner of the words sees to that. Errors: only bitset_init, -ENOMEM.
#ifndef HYBRIDFS_ALLOC_BITS_H
#define HYBRIDFS_ALLOC_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attr.h"

#define NIL UINT32_MAX

static inline uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

// ---- bits in an array of words ----

static inline bool bits_test(const uint64_t *bits, uint32_t pos) { return bits[pos / 64] >> (pos % 64) & 1; }

// The part of word `w` that [start, start + len) covers. The range must reach into the word.
static inline uint64_t bits_mask(uint32_t w, uint32_t start, uint32_t len)
{
	uint32_t from = start > w * 64 ? start - w * 64 : 0;
	uint32_t to = min_u32(start + len - w * 64, 64);

	return (~0ull >> (64 - (to - from))) << from;
}

void bits_set(uint64_t *bits, uint32_t start, uint32_t len);
void bits_clear(uint64_t *bits, uint32_t start, uint32_t len);
bool bits_any(const uint64_t *bits, uint32_t start, uint32_t len);
// First set / first clear position in [from, end), or end.
uint32_t bits_next_set(const uint64_t *bits, uint32_t from, uint32_t end);
uint32_t bits_next_clear(const uint64_t *bits, uint32_t from, uint32_t end);
// The lowest p >= floor such that [p, from) is all set.
uint32_t bits_set_back_to(const uint64_t *bits, uint32_t from, uint32_t floor);
uint32_t bits_count(const uint64_t *bits, uint32_t n_words); // set ones

// ---- bitset.c: a set of integers below n. Each operation takes at most 2 × levels steps: 8 for 2^24 ----

#define BITSET_LEVELS 4u

struct bitset {
	uint32_t n_levels;
	uint32_t n_words[BITSET_LEVELS];
	uint64_t *level[BITSET_LEVELS]; // [0]: the members; [k + 1] has a bit for each word of [k] that is not zero
};

int bitset_init(struct bitset *set, uint32_t n) ATTR_MUST_USE; // 0 or -ENOMEM
void bitset_free(struct bitset *set);                         // zero-initialised is allowed
size_t bitset_bytes(const struct bitset *set);
void bitset_add(struct bitset *set, uint32_t pos);
void bitset_remove(struct bitset *set, uint32_t pos);
uint32_t bitset_next(const struct bitset *set, uint32_t from); // smallest member >= from, or NIL
uint32_t bitset_prev(const struct bitset *set, uint32_t from); // largest member <= from, or NIL
bool bitset_summaries_hold(const struct bitset *set);

#endif
