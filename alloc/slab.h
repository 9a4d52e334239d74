// SPDX-License-Identifier: MIT
// The middle tier of the hybrid engine: spans of 1 MiB (256 blocks) and what is free in them.
//
// Most spans hold large extents, or parts of them, and have at most two borders between free and used: these are written down
// in the 2 bytes of the span's entry. Where small extents lie together there are more: such a span is a slab, with a
// map of 256 bits. A span becomes a slab when a change needs a third border, and stops being one when it is all free or all
// used again. No change needs memory: the maps' pages are reserved when the arena is made, and cost nothing until touched.
//
// So a TiB of large extents is 2 MiB of entries, which the caches hold; only one full of small files has its 32 MiB of bits.
//
//      KIND_FREE   free = [a, b), the rest is used     all used: a = b = 0; all free: [0, 256)
//      KIND_USED   used = [a, b), the rest is free     0 < a < b < 256
//      KIND_BITS   see its 256 bits
//
// There are 65283 of these states. As an entry, two bytes x and y (the lowest bit is turned over, so that 0 is all used):
//
//      x <= y       free = [x, y + 1)
//      x >= y + 2   used = [y + 1, x)
//      1, 0         all used
//      2, 1         bits
//
// Ends of runs: within a span by its entry or bits; beyond, the set `mixed` of the spans that are not all free tells in
// one step for 64 MiB or 4 GiB where a stretch of free spans ends. No run crosses the border of a part.
//
// Everything that each request does is here, to be compiled into its caller; which neighbours are free is anybody's
// guess, so that branches on it are avoided. What is rare is in slab.c.
//
// Lock and units as in engine.h. Errors: only slab_init, -ENOMEM.
#ifndef HYBRIDFS_ALLOC_SLAB_H
#define HYBRIDFS_ALLOC_SLAB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "alloc/bits.h"
#include "util/attr.h"

#define SPAN_SHIFT 8u
#define SPAN_BLK (1u << SPAN_SHIFT) // 1 MiB
#define SPAN_WORDS (SPAN_BLK / 64)

struct slab {
	uint32_t n_spans, part_mask; // part_mask: a part's spans - 1
	// Private pages, reserved for the whole arena and touched as they are needed.
	uint16_t *spans;         // entries; closed parts: all used
	uint64_t *bits;          // SPAN_WORDS for each span
	uint64_t *mixed;         // set of spans that are not all free: a bit each …
	uint64_t *mixed_up;      // … and a bit for each word of it that is not zero
	uint8_t *bit_page_used;  // for each page of `bits`
	atomic_size_t bytes;     // touched
};

int slab_init(struct slab *s, uint32_t n_blk, uint32_t part_shift_blk) ATTR_MUST_USE;
void slab_free(struct slab *s);
void slab_open(struct slab *s, uint32_t start, uint32_t len, const uint64_t *free_bits); // a part: all used before
void slab_close(struct slab *s, uint32_t start, uint32_t len);
uint32_t slab_next_free(const struct slab *s, uint32_t from, uint32_t end); // first free block at or after `from`, or end
bool slab_holds(const struct slab *s, uint32_t start, uint32_t len); // of an open part: entries and the set agree

// The cases of the two functions below that have a third border or had two.
void slab_free_in_mixed(struct slab *s, uint32_t sp, uint32_t from, uint32_t to);
void slab_use_in_mixed(struct slab *s, uint32_t sp, uint32_t from, uint32_t to);

// ---- entries ----

enum span_kind { KIND_FREE, KIND_USED, KIND_BITS };

// What an entry says.
struct span {
	uint32_t kind, a, b;
};

#define SPAN_BITS ((2 | 1 << 8) ^ 1)
#define SPAN_ALL_USED 0
#define SPAN_ALL_FREE span_entry(0, SPAN_BLK)

// [a, b) is free. a < b.
static inline uint16_t span_entry(uint32_t a, uint32_t b) { return (uint16_t)((a | (b - 1) << 8) ^ 1); }
static inline uint16_t span_make_free(uint32_t a, uint32_t b) { return a < b ? span_entry(a, b) : SPAN_ALL_USED; }

// Everything but [a, b).
static inline uint16_t span_make_used(uint32_t a, uint32_t b)
{
	if (a == 0)
		return span_make_free(b, SPAN_BLK);
	if (b == SPAN_BLK)
		return span_make_free(0, a);
	return span_entry(b, a);
}

static inline struct span span_look(const struct slab *s, uint32_t sp)
{
	uint32_t x = (uint8_t)s->spans[sp] ^ 1, y = (s->spans[sp] >> 8) + 1u;

	if (x == y)
		return (struct span){ x == 1 ? KIND_FREE : KIND_BITS, 0, 0 };
	return x < y ? (struct span){ KIND_FREE, x, y } : (struct span){ KIND_USED, y, x };
}

// The spans between the first and the last one of an extent: three at most in nearly all cases. How many there are is anybody's
// guess, so up to three are looked at or written at once, in a word of four. There is room for that behind the last span of an arena.
#define SPANS_AT_ONCE 3u

static inline uint64_t spans_mask(uint32_t n)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return (1ull << 16 * n) - 1;
#else
	return ~(~0ull >> 16 * n);
#endif
}

static inline uint64_t spans_repeat(uint16_t entry) { return entry * 0x0001000100010001ull; }

static inline void spans_fill(struct slab *s, uint32_t first, uint32_t n, uint16_t entry)
{
	uint64_t word, mask;

	if (n > SPANS_AT_ONCE) {
		for (uint32_t i = 0; i < n; i++)
			s->spans[first + i] = entry;
		return;
	}
	mask = spans_mask(n);
	memcpy(&word, &s->spans[first], sizeof(word));
	word = (word & ~mask) | (spans_repeat(entry) & mask);
	memcpy(&s->spans[first], &word, sizeof(word));
}

// Whether all of them are `entry`.
static inline bool spans_are(const struct slab *s, uint32_t first, uint32_t n, uint16_t entry)
{
	uint32_t odd = 0;
	uint64_t word;

	if (n <= SPANS_AT_ONCE) {
		memcpy(&word, &s->spans[first], sizeof(word));
		return ((word ^ spans_repeat(entry)) & spans_mask(n)) == 0;
	}
	for (uint32_t i = 0; i < n; i++)
		odd |= s->spans[first + i] ^ entry;
	return odd == 0;
}

static inline uint64_t *span_words(const struct slab *s, uint32_t sp) { return s->bits + (size_t)sp * SPAN_WORDS; }

static inline bool slab_is_free(const struct slab *s, uint32_t blk)
{
	struct span span = span_look(s, blk >> SPAN_SHIFT);
	uint32_t off = blk & (SPAN_BLK - 1);

	if (span.kind == KIND_BITS)
		return s->bits[blk / 64] >> (blk % 64) & 1;
	return (off >= span.a && off < span.b) != (span.kind == KIND_USED);
}

// ---- the set of mixed spans ----

static inline void slab_mixed_add_word(struct slab *s, uint32_t w, uint64_t mask)
{
	uint64_t old = s->mixed[w];

	s->mixed[w] = old | mask;
	if (old == 0)
		s->mixed_up[w / 64] |= 1ull << (w % 64);
}

static inline void slab_mixed_remove_word(struct slab *s, uint32_t w, uint64_t mask)
{
	uint64_t new = s->mixed[w] & ~mask;

	s->mixed[w] = new;
	if (new == 0)
		s->mixed_up[w / 64] &= ~(1ull << (w % 64));
}

static inline void slab_mixed_add(struct slab *s, uint32_t sp) { slab_mixed_add_word(s, sp / 64, 1ull << (sp % 64)); }
static inline void slab_mixed_remove(struct slab *s, uint32_t sp) { slab_mixed_remove_word(s, sp / 64, 1ull << (sp % 64)); }

// [first, last], mostly in one word.
static inline void slab_mixed_change(struct slab *s, uint32_t first, uint32_t last, void (*word)(struct slab *, uint32_t, uint64_t))
{
	uint64_t from = ~0ull << (first % 64), to = ~0ull >> (63 - last % 64);
	uint32_t w = first / 64;

	if (w == last / 64) {
		word(s, w, from & to);
		return;
	}
	word(s, w, from);
	while (++w < last / 64)
		word(s, w, ~0ull);
	word(s, w, to);
}

// First mixed span in [from, end), or end. Its second level is a bit for 64 MiB, so 64 spans or 4 GiB a step.
static inline uint32_t slab_mixed_next(const struct slab *s, uint32_t from, uint32_t end)
{
	uint64_t rest = s->mixed[from / 64] >> (from % 64);
	uint32_t w;

	if (rest != 0)
		return min_u32(from + (uint32_t)__builtin_ctzll(rest), end);
	if ((from | 63) >= end - 1)
		return end;
	w = bits_next_set(s->mixed_up, from / 64 + 1, (end + 63) / 64);
	return w * 64 >= end ? end : min_u32(w * 64 + (uint32_t)__builtin_ctzll(s->mixed[w]), end);
}

// Lowest p >= floor such that no span of [p, from) is mixed.
static inline uint32_t slab_mixed_before(const struct slab *s, uint32_t from, uint32_t floor)
{
	uint32_t last = from - 1, w;
	uint64_t rest = s->mixed[last / 64] << (63 - last % 64);

	if (rest != 0)
		return max_u32(from - (uint32_t)__builtin_clzll(rest), floor);
	for (w = last / 64; w > floor / 64; w--) {
		rest = s->mixed_up[(w - 1) / 64] << (63 - (w - 1) % 64);
		if (rest == 0) {
			w = ((w - 1) & ~63u) + 1;
			continue;
		}
		w = w - (uint32_t)__builtin_clzll(rest);
		return max_u32(w * 64 - (uint32_t)__builtin_clzll(s->mixed[w - 1]), floor);
	}
	return floor;
}

// After something in the span became free.
static inline void span_set_freer(struct slab *s, uint32_t sp, uint16_t entry)
{
	s->spans[sp] = entry;
	if (entry == SPAN_ALL_FREE)
		slab_mixed_remove(s, sp);
}

// ---- one span ----

// Free blocks from the span's beginning on.
static inline uint32_t span_prefix(const struct slab *s, uint32_t sp)
{
	struct span span = span_look(s, sp);

	switch (span.kind) {
	case KIND_FREE:
		return span.a == 0 ? span.b : 0;
	case KIND_USED:
		return span.a;
	default:
		return bits_next_clear(span_words(s, sp), 0, SPAN_BLK);
	}
}

static inline uint32_t slab_suffix(const struct slab *s, uint32_t sp)
{
	struct span span = span_look(s, sp);

	switch (span.kind) {
	case KIND_FREE:
		return span.b == SPAN_BLK ? SPAN_BLK - span.a : 0;
	case KIND_USED:
		return SPAN_BLK - span.b;
	default:
		return SPAN_BLK - bits_set_back_to(span_words(s, sp), SPAN_BLK, 0);
	}
}

// The lowest p such that [p, off) of the span is free; off > 0.
static inline uint32_t span_left(const struct slab *s, uint32_t sp, uint32_t off)
{
	struct span span = span_look(s, sp);

	switch (span.kind) {
	case KIND_FREE:
		return off > span.a && off <= span.b ? span.a : off;
	case KIND_USED:
		return off <= span.a ? 0 : off > span.b ? span.b : off;
	default:
		return bits_set_back_to(span_words(s, sp), off, 0);
	}
}

// The highest p such that [off, p) of the span is free.
static inline uint32_t span_right(const struct slab *s, uint32_t sp, uint32_t off)
{
	struct span span = span_look(s, sp);

	switch (span.kind) {
	case KIND_FREE:
		return off >= span.a && off < span.b ? span.b : off;
	case KIND_USED:
		return off < span.a ? span.a : off >= span.b ? SPAN_BLK : off;
	default:
		return bits_next_clear(span_words(s, sp), off, SPAN_BLK);
	}
}

// First free block of the span at or after off, or SPAN_BLK.
static inline uint32_t span_next_free(const struct slab *s, uint32_t sp, uint32_t off)
{
	struct span span = span_look(s, sp);

	switch (span.kind) {
	case KIND_FREE:
		return off >= span.b ? SPAN_BLK : max_u32(off, span.a);
	case KIND_USED:
		return off < span.a || off >= span.b ? off : span.b;
	default:
		return bits_next_set(span_words(s, sp), off, SPAN_BLK);
	}
}

// [from, to) of the span, which is used, becomes free. Which neighbours are free is anybody's guess, so no branch
// depends on it.
static inline void span_free(struct slab *s, uint32_t sp, uint32_t from, uint32_t to)
{
	struct span span = span_look(s, sp);
	bool was_used = s->spans[sp] == SPAN_ALL_USED;

	if ((span.kind == KIND_FREE) & (was_used | (to == span.a) | (from == span.b)))
		span_set_freer(s, sp, span_entry(was_used ? from : min_u32(from, span.a), max_u32(to, span.b)));
	else
		slab_free_in_mixed(s, sp, from, to);
}

// [from, to) of the span, which is free, becomes used. The caller adds it to the mixed ones.
static inline void span_use(struct slab *s, uint32_t sp, uint32_t from, uint32_t to)
{
	struct span span = span_look(s, sp);

	if ((span.kind == KIND_FREE) & ((from == span.a) | (to == span.b)))
		s->spans[sp] = span_make_free(from == span.a ? to : span.a, from == span.a ? span.b : from);
	else
		slab_use_in_mixed(s, sp, from, to);
}

// ---- ranges ----

// The first and the last span are looked at, those between them are simply written.
static inline void slab_set_free(struct slab *s, uint32_t start, uint32_t len)
{
	uint32_t sp = start >> SPAN_SHIFT, from = start & (SPAN_BLK - 1), last = (start + len - 1) >> SPAN_SHIFT;

	if (sp == last) {
		span_free(s, sp, from, from + len);
		return;
	}
	if (sp + 1 < last) {
		spans_fill(s, sp + 1, last - sp - 1, SPAN_ALL_FREE);
		slab_mixed_change(s, sp + 1, last - 1, slab_mixed_remove_word);
	}
	span_free(s, sp, from, SPAN_BLK);
	span_free(s, last, 0, ((start + len - 1) & (SPAN_BLK - 1)) + 1);
}

static inline void slab_set_used(struct slab *s, uint32_t start, uint32_t len)
{
	uint32_t sp = start >> SPAN_SHIFT, from = start & (SPAN_BLK - 1), end = start + len - 1, last = end >> SPAN_SHIFT;

	slab_mixed_change(s, sp, last, slab_mixed_add_word);
	if (sp == last) {
		span_use(s, sp, from, from + len);
		return;
	}
	spans_fill(s, sp + 1, last - sp - 1, SPAN_ALL_USED);
	span_use(s, sp, from, SPAN_BLK);
	span_use(s, last, 0, (end & (SPAN_BLK - 1)) + 1);
}

static inline uint32_t span_part(const struct slab *s, uint32_t sp) { return sp & ~s->part_mask; }

// May lie beyond the last span: a mixed one stands there, in which nothing is free.
static inline uint32_t span_part_end(const struct slab *s, uint32_t sp) { return (sp | s->part_mask) + 1; }

static inline uint32_t slab_left_edge(const struct slab *s, uint32_t blk)
{
	uint32_t sp = blk >> SPAN_SHIFT, off = blk & (SPAN_BLK - 1), first;

	if (off > 0) {
		off = span_left(s, sp, off);
		if (off > 0)
			return sp * SPAN_BLK + off;
	}
	first = span_part(s, sp);
	if (sp == first)
		return blk & ~(SPAN_BLK - 1);
	sp = slab_mixed_before(s, sp, first);
	return sp * SPAN_BLK - (sp == first ? 0 : slab_suffix(s, sp - 1));
}

// Where the stretch of free blocks ends that reaches up to the beginning of span sp.
static inline uint32_t span_edge_from(const struct slab *s, uint32_t sp, uint32_t end)
{
	if (sp == end)
		return sp * SPAN_BLK;
	sp = slab_mixed_next(s, sp, end);
	return sp * SPAN_BLK + (sp == end ? 0 : span_prefix(s, sp));
}

static inline uint32_t slab_right_edge(const struct slab *s, uint32_t blk)
{
	uint32_t sp = blk >> SPAN_SHIFT, off = span_right(s, sp, blk & (SPAN_BLK - 1));

	return off < SPAN_BLK ? sp * SPAN_BLK + off : span_edge_from(s, sp + 1, span_part_end(s, sp));
}

static inline uint32_t slab_run_end(const struct slab *s, uint32_t start)
{
	uint32_t sp = start >> SPAN_SHIFT, off = start & (SPAN_BLK - 1);
	struct span span = span_look(s, sp);

	if (off == 0) {
		if (sp != span_part(s, sp) && slab_suffix(s, sp - 1) > 0)
			return start;
	} else if (span.kind == KIND_FREE) {
		if (off != span.a)
			return start;
	} else if (slab_is_free(s, start - 1)) {
		return start;
	}
	return slab_right_edge(s, start);
}

static inline bool span_any_free(const struct slab *s, uint32_t sp, uint32_t from, uint32_t to)
{
	struct span span = span_look(s, sp);

	if (span.kind == KIND_FREE)
		return (from < span.b) & (span.a < to);
	return span_next_free(s, sp, from) < to;
}

static inline bool slab_any_free(const struct slab *s, uint32_t start, uint32_t len)
{
	uint32_t sp = start >> SPAN_SHIFT, from = start & (SPAN_BLK - 1), last = (start + len - 1) >> SPAN_SHIFT;
	uint32_t to = ((start + len - 1) & (SPAN_BLK - 1)) + 1;

	if (sp == last)
		return span_any_free(s, sp, from, to);
	return span_any_free(s, sp, from, SPAN_BLK) | span_any_free(s, last, 0, to) |
	       !spans_are(s, sp + 1, last - sp - 1, SPAN_ALL_USED);
}

// The two most frequent changes, of ranges whose first and last span hold nothing else: every entry has just one value that
// it can have, so nothing needs to be read off it. False: it is not so, or not as simple, and nothing was done.

// The range is free as a whole and its neighbours are used.
static inline bool slab_take_alone(struct slab *s, uint32_t start, uint32_t len)
{
	uint32_t sp = start >> SPAN_SHIFT, last = (start + len - 1) >> SPAN_SHIFT, from = start & (SPAN_BLK - 1);
	uint32_t to = (start + len) & (SPAN_BLK - 1), inner = last - sp - (sp != last);

	if ((from == 0) | (to == 0)) // the neighbour is in another span
		return false;
	if ((s->spans[sp] != span_entry(from, sp == last ? to : SPAN_BLK)) |
	    (s->spans[last] != span_entry(sp == last ? from : 0, to)) | !spans_are(s, sp + 1, inner, SPAN_ALL_FREE))
		return false;
	spans_fill(s, sp + 1, inner, SPAN_ALL_USED); // first: it reads the last one, too
	s->spans[sp] = s->spans[last] = SPAN_ALL_USED;
	slab_mixed_change(s, sp, last, slab_mixed_add_word);
	return true;
}

// The range is used as a whole, and so are its neighbours.
static inline bool slab_give_alone(struct slab *s, uint32_t start, uint32_t len)
{
	uint32_t sp = start >> SPAN_SHIFT, last = (start + len - 1) >> SPAN_SHIFT, from = start & (SPAN_BLK - 1);
	uint32_t to = (start + len) & (SPAN_BLK - 1), inner = last - sp - (sp != last);

	if ((from == 0) | (to == 0) | (s->spans[sp] != SPAN_ALL_USED) | (s->spans[last] != SPAN_ALL_USED))
		return false;
	if (inner > 0) {
		spans_fill(s, sp + 1, inner, SPAN_ALL_FREE);
		slab_mixed_change(s, sp + 1, last - 1, slab_mixed_remove_word);
	}
	s->spans[sp] = span_entry(from, sp == last ? to : SPAN_BLK);
	s->spans[last] = span_entry(sp == last ? from : 0, to);
	return true;
}

#endif
