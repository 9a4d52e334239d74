// SPDX-License-Identifier: MIT
// The middle tier: spans of 1 MiB (256 blocks) and what is free in them.
//
// Most spans hold large extents, or parts of them, and have at most two borders between free and used: these are written down
// in the 4 bytes of the span's entry. Where small extents lie together there are more: such a span is a slab, with a
// map of 256 bits. A span becomes a slab when a change needs a third border, and stops being one when it is all free or all
// used again. No change needs memory: the maps' pages are reserved when the part is opened, and cost nothing until touched.
//
// So a TiB of large extents is 4 MiB of entries, of which the caches hold a good part; only one full of small
// files has its 32 MiB of bits.
//
// Ends of runs: within a span by its entry or bits; beyond, the set `mixed` of the spans that are not all free tells in at
// one step for 64 MiB or 4 GiB where a stretch of free spans ends.
#include "alloc/hybrid.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "util/attr.h"
#include "util/blk.h"

#define PAGE_BYTES ((size_t)4096)
#define PAGE_SPANS ((uint32_t)PAGE_BYTES / (SPAN_BLK / 8)) // spans whose bits share a page

enum { KIND_FREE, KIND_USED, KIND_BITS };

#define ALL_USED 0u
#define ALL_FREE make_entry(KIND_FREE, 0, SPAN_BLK)

static inline uint32_t make_entry(uint32_t kind, uint32_t a, uint32_t b) { return kind << 30 | b << 16 | a; }
static inline uint32_t entry_kind(uint32_t entry) { return entry >> 30; }
static inline uint32_t entry_a(uint32_t entry) { return (uint16_t)entry; }
static inline uint32_t entry_b(uint32_t entry) { return entry >> 16 & 0x3fff; }
static inline uint32_t make_free(uint32_t a, uint32_t b) { return a < b ? make_entry(KIND_FREE, a, b) : ALL_USED; }

// Everything but [a, b).
static inline uint32_t make_used(uint32_t a, uint32_t b)
{
	if (a == 0)
		return make_free(b, SPAN_BLK);
	if (b == SPAN_BLK)
		return make_free(0, a);
	return make_entry(KIND_USED, a, b);
}

static uint64_t *words_of(const struct slab *s, uint32_t sp) { return s->bits + (size_t)sp * SPAN_WORDS; }

// ---- the set of mixed spans ----

static inline void mixed_add_word(struct slab *s, uint32_t w, uint64_t mask)
{
	uint64_t old = s->mixed[w];

	s->mixed[w] = old | mask;
	if (old == 0)
		s->mixed_up[w / 64] |= 1ull << (w % 64);
}

static inline void mixed_remove_word(struct slab *s, uint32_t w, uint64_t mask)
{
	uint64_t new = s->mixed[w] & ~mask;

	s->mixed[w] = new;
	if (new == 0)
		s->mixed_up[w / 64] &= ~(1ull << (w % 64));
}

static inline void mixed_add(struct slab *s, uint32_t sp) { mixed_add_word(s, sp / 64, 1ull << (sp % 64)); }
static inline void mixed_remove(struct slab *s, uint32_t sp) { mixed_remove_word(s, sp / 64, 1ull << (sp % 64)); }

// [first, last], mostly in one word.
static inline void mixed_change(struct slab *s, uint32_t first, uint32_t last, void (*word)(struct slab *, uint32_t, uint64_t))
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
static inline uint32_t mixed_next(const struct slab *s, uint32_t from, uint32_t end)
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
static inline uint32_t mixed_before(const struct slab *s, uint32_t from, uint32_t floor)
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

// After something in the span became free, and after something became used.
static inline void set_freer(struct slab *s, uint32_t sp, uint32_t entry)
{
	s->spans[sp] = entry;
	if (entry == ALL_FREE)
		mixed_remove(s, sp);
}

static inline void set_fuller(struct slab *s, uint32_t sp, uint32_t entry)
{
	s->spans[sp] = entry;
	mixed_add(s, sp);
}

// ---- one span ----

// Free blocks from the span's beginning on.
static inline uint32_t prefix(const struct slab *s, uint32_t sp)
{
	uint32_t entry = s->spans[sp];

	switch (entry_kind(entry)) {
	case KIND_FREE:
		return entry_a(entry) == 0 ? entry_b(entry) : 0;
	case KIND_USED:
		return entry_a(entry);
	default:
		return bits_next_clear(words_of(s, sp), 0, SPAN_BLK);
	}
}

inline uint32_t slab_suffix(const struct slab *s, uint32_t sp)
{
	uint32_t entry = s->spans[sp];

	switch (entry_kind(entry)) {
	case KIND_FREE:
		return entry_b(entry) == SPAN_BLK ? SPAN_BLK - entry_a(entry) : 0;
	case KIND_USED:
		return SPAN_BLK - entry_b(entry);
	default:
		return SPAN_BLK - bits_set_back_to(words_of(s, sp), SPAN_BLK, 0);
	}
}

// The lowest p such that [p, off) of the span is free; off > 0.
static inline uint32_t left_in(const struct slab *s, uint32_t sp, uint32_t off)
{
	uint32_t entry = s->spans[sp], a = entry_a(entry), b = entry_b(entry);

	switch (entry_kind(entry)) {
	case KIND_FREE:
		return off > a && off <= b ? a : off;
	case KIND_USED:
		return off <= a ? 0 : off > b ? b : off;
	default:
		return bits_set_back_to(words_of(s, sp), off, 0);
	}
}

// The highest p such that [off, p) of the span is free.
static inline uint32_t right_in(const struct slab *s, uint32_t sp, uint32_t off)
{
	uint32_t entry = s->spans[sp], a = entry_a(entry), b = entry_b(entry);

	switch (entry_kind(entry)) {
	case KIND_FREE:
		return off >= a && off < b ? b : off;
	case KIND_USED:
		return off < a ? a : off >= b ? SPAN_BLK : off;
	default:
		return bits_next_clear(words_of(s, sp), off, SPAN_BLK);
	}
}

static void to_bits(struct slab *s, uint32_t sp)
{
	uint32_t entry = s->spans[sp], a = entry_a(entry), b = entry_b(entry);
	uint64_t *words = words_of(s, sp);
	bool used = entry_kind(entry) == KIND_USED;

	for (uint32_t w = 0; w < SPAN_WORDS; w++)
		words[w] = used ? ~0ull : 0;
	if (used)
		bits_clear(words, a, b - a);
	else if (a < b)
		bits_set(words, a, b - a);
	if (!s->bit_page_used[sp / PAGE_SPANS]) {
		s->bit_page_used[sp / PAGE_SPANS] = 1;
		atomic_fetch_add_explicit(&s->bytes, PAGE_BYTES, memory_order_relaxed);
	}
	s->spans[sp] = make_entry(KIND_BITS, 0, 0);
}

// The rare cases of the next function: a used hole is filled or made smaller, or a third border comes into being.
static void free_in_mixed(struct slab *s, uint32_t sp, uint32_t from, uint32_t to)
{
	uint32_t entry = s->spans[sp], a = entry_a(entry), b = entry_b(entry);
	uint64_t *words;

	if (entry_kind(entry) == KIND_FREE && ((a == 0 && to == SPAN_BLK) || (from == 0 && b == SPAN_BLK))) {
		set_freer(s, sp, make_used(min_u32(b, to), max_u32(from, a)));
		return;
	}
	if (entry_kind(entry) == KIND_USED && (from == a || to == b)) {
		if (from == a && to == b)
			set_freer(s, sp, ALL_FREE);
		else
			set_freer(s, sp, from == a ? make_used(to, b) : make_used(a, from));
		return;
	}
	if (entry_kind(entry) != KIND_BITS)
		to_bits(s, sp);
	words = words_of(s, sp);
	bits_set(words, from, to - from);
	if ((words[0] & words[1] & words[2] & words[3]) == ~0ull)
		set_freer(s, sp, ALL_FREE);
}

// [from, to) of the span, which is used, becomes free. Which neighbours are free is anybody's guess, so no branch
// depends on it.
static inline void free_in(struct slab *s, uint32_t sp, uint32_t from, uint32_t to)
{
	uint32_t entry = s->spans[sp], a = entry_a(entry), b = entry_b(entry);
	bool was_used = entry == ALL_USED;

	if ((entry_kind(entry) == KIND_FREE) & (was_used | (to == a) | (from == b)))
		set_freer(s, sp, make_entry(KIND_FREE, was_used ? from : min_u32(from, a), max_u32(to, b)));
	else
		free_in_mixed(s, sp, from, to);
}

static void use_in_mixed(struct slab *s, uint32_t sp, uint32_t from, uint32_t to)
{
	uint32_t entry = s->spans[sp], a = entry_a(entry), b = entry_b(entry);
	uint64_t *words;

	if (entry == ALL_FREE) {
		set_fuller(s, sp, make_used(from, to));
		return;
	}
	if (entry_kind(entry) == KIND_USED && (to == a || from == b)) {
		set_fuller(s, sp, make_used(min_u32(from, a), max_u32(to, b)));
		return;
	}
	if (entry_kind(entry) != KIND_BITS)
		to_bits(s, sp);
	words = words_of(s, sp);
	bits_clear(words, from, to - from);
	if ((words[0] | words[1] | words[2] | words[3]) == 0)
		set_fuller(s, sp, ALL_USED);
}

// [from, to) of the span, which is free, becomes used.
static inline void use_in(struct slab *s, uint32_t sp, uint32_t from, uint32_t to)
{
	uint32_t entry = s->spans[sp], a = entry_a(entry), b = entry_b(entry);

	if ((entry_kind(entry) == KIND_FREE) & ((from == a) | (to == b)))
		set_fuller(s, sp, make_free(from == a ? to : a, from == a ? b : from));
	else
		use_in_mixed(s, sp, from, to);
}

// ---- ranges ----

// The first and the last span are looked at, those between them are simply written.
void slab_set_free(struct slab *s, uint32_t start, uint32_t len)
{
	uint32_t sp = start >> SPAN_SHIFT, from = start & (SPAN_BLK - 1), last = (start + len - 1) >> SPAN_SHIFT;

	if (sp == last) {
		free_in(s, sp, from, from + len);
		return;
	}
	free_in(s, sp, from, SPAN_BLK);
	free_in(s, last, 0, ((start + len - 1) & (SPAN_BLK - 1)) + 1);
	if (sp + 1 == last)
		return;
	mixed_change(s, sp + 1, last - 1, mixed_remove_word);
	while (++sp < last)
		s->spans[sp] = ALL_FREE;
}

void slab_set_used(struct slab *s, uint32_t start, uint32_t len)
{
	uint32_t sp = start >> SPAN_SHIFT, from = start & (SPAN_BLK - 1), last = (start + len - 1) >> SPAN_SHIFT;

	if (sp == last) {
		use_in(s, sp, from, from + len);
		return;
	}
	use_in(s, sp, from, SPAN_BLK);
	use_in(s, last, 0, ((start + len - 1) & (SPAN_BLK - 1)) + 1);
	if (sp + 1 == last)
		return;
	mixed_change(s, sp + 1, last - 1, mixed_add_word);
	while (++sp < last)
		s->spans[sp] = ALL_USED;
}

static inline uint32_t part_of(const struct slab *s, uint32_t sp) { return sp >> s->part_shift << s->part_shift; }

static inline uint32_t part_end(const struct slab *s, uint32_t sp)
{
	return min_u32(part_of(s, sp) + (1u << s->part_shift), s->n_spans);
}

uint32_t slab_left_edge(const struct slab *s, uint32_t blk)
{
	uint32_t sp = blk >> SPAN_SHIFT, off = blk & (SPAN_BLK - 1), first;

	if (off > 0) {
		off = left_in(s, sp, off);
		if (off > 0)
			return sp * SPAN_BLK + off;
	}
	first = part_of(s, sp);
	if (sp == first)
		return blk & ~(SPAN_BLK - 1);
	sp = mixed_before(s, sp, first);
	return sp * SPAN_BLK - (sp == first ? 0 : slab_suffix(s, sp - 1));
}

// Where the stretch of free blocks ends that reaches up to the beginning of span sp.
static inline uint32_t edge_from(const struct slab *s, uint32_t sp, uint32_t end)
{
	if (sp == end)
		return sp * SPAN_BLK;
	sp = mixed_next(s, sp, end);
	return sp * SPAN_BLK + (sp == end ? 0 : prefix(s, sp));
}

uint32_t slab_right_edge(const struct slab *s, uint32_t blk)
{
	uint32_t sp = blk >> SPAN_SHIFT, off = right_in(s, sp, blk & (SPAN_BLK - 1));

	return off < SPAN_BLK ? sp * SPAN_BLK + off : edge_from(s, sp + 1, part_end(s, sp));
}

uint32_t slab_run_end(const struct slab *s, uint32_t start)
{
	uint32_t sp = start >> SPAN_SHIFT, off = start & (SPAN_BLK - 1), entry = s->spans[sp];

	if (off == 0) {
		if (sp != part_of(s, sp) && slab_suffix(s, sp - 1) > 0)
			return start;
	} else if (entry_kind(entry) == KIND_FREE) {
		if (off != entry_a(entry))
			return start;
	} else if (slab_is_free(s, start - 1)) {
		return start;
	}
	return slab_right_edge(s, start);
}

// First free block of the span at or after off, or SPAN_BLK.
static inline uint32_t next_free_in(const struct slab *s, uint32_t sp, uint32_t off)
{
	uint32_t entry = s->spans[sp], a = entry_a(entry), b = entry_b(entry);

	switch (entry_kind(entry)) {
	case KIND_FREE:
		return off >= b ? SPAN_BLK : max_u32(off, a);
	case KIND_USED:
		return off < a || off >= b ? off : b;
	default:
		return bits_next_set(words_of(s, sp), off, SPAN_BLK);
	}
}

uint32_t slab_next_free(const struct slab *s, uint32_t from, uint32_t end)
{
	while (from < end) {
		uint32_t sp = from >> SPAN_SHIFT, off = next_free_in(s, sp, from & (SPAN_BLK - 1));

		if (off < SPAN_BLK)
			return sp * SPAN_BLK + off;
		from = (sp + 1) * SPAN_BLK;
	}
	return end;
}

static inline bool any_free_in(const struct slab *s, uint32_t sp, uint32_t from, uint32_t to)
{
	uint32_t entry = s->spans[sp];

	if (entry_kind(entry) == KIND_FREE)
		return (from < entry_b(entry)) & (entry_a(entry) < to);
	return next_free_in(s, sp, from) < to;
}

bool slab_any_free(const struct slab *s, uint32_t start, uint32_t len)
{
	uint32_t sp = start >> SPAN_SHIFT, from = start & (SPAN_BLK - 1), last = (start + len - 1) >> SPAN_SHIFT;
	uint32_t any;

	if (sp == last)
		return any_free_in(s, sp, from, from + len);
	any = any_free_in(s, sp, from, SPAN_BLK) | any_free_in(s, last, 0, ((start + len - 1) & (SPAN_BLK - 1)) + 1);
	while (++sp < last)
		any |= s->spans[sp];
	return any != 0;
}

// ---- opening and closing ----

static void set_from_words(struct slab *s, uint32_t sp, const uint64_t *words)
{
	uint32_t a = bits_next_set(words, 0, SPAN_BLK), b = bits_next_clear(words, a, SPAN_BLK);
	uint32_t next = bits_next_set(words, b, SPAN_BLK);

	if (next == SPAN_BLK) {
		set_freer(s, sp, make_free(a, b));
	} else if (a == 0 && bits_next_clear(words, next, SPAN_BLK) == SPAN_BLK) {
		set_freer(s, sp, make_used(b, next));
	} else {
		to_bits(s, sp);
		for (uint32_t w = 0; w < SPAN_WORDS; w++)
			words_of(s, sp)[w] = words[w];
	}
}

void slab_open(struct slab *s, uint32_t start, uint32_t len, const uint64_t *free_bits)
{
	uint32_t first = start >> SPAN_SHIFT, n_words = (len + 63) / 64;

	for (uint32_t i = 0; i < (len + SPAN_BLK - 1) / SPAN_BLK; i++) {
		uint64_t words[SPAN_WORDS] = { 0 };

		for (uint32_t w = 0; w < SPAN_WORDS && i * SPAN_WORDS + w < n_words; w++)
			words[w] = free_bits[i * SPAN_WORDS + w];
		mixed_add(s, first + i);
		set_from_words(s, first + i, words);
	}
	atomic_fetch_add_explicit(&s->bytes, len / SPAN_BLK * sizeof(s->spans[0]), memory_order_relaxed);
}

// Gives whole pages of [start, start + len) bytes of an array back; what is read there later is 0.
static void drop_pages(void *array, size_t start, size_t len)
{
	size_t from = (start + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1), to = (start + len) & ~(PAGE_BYTES - 1);

	if (from < to)
		madvise((char *)array + from, to - from, MADV_DONTNEED);
}

void slab_close(struct slab *s, uint32_t start, uint32_t len)
{
	uint32_t first = start >> SPAN_SHIFT, n = (len + SPAN_BLK - 1) / SPAN_BLK;
	size_t bytes = len / SPAN_BLK * sizeof(s->spans[0]);

	for (uint32_t i = 0; i < n; i++)
		s->spans[first + i] = ALL_USED;
	for (uint32_t page = (first + PAGE_SPANS - 1) / PAGE_SPANS; page < (first + n) / PAGE_SPANS; page++) {
		bytes += s->bit_page_used[page] ? PAGE_BYTES : 0;
		s->bit_page_used[page] = 0;
	}
	drop_pages(s->spans, first * sizeof(s->spans[0]), n * sizeof(s->spans[0]));
	drop_pages(s->bits, (size_t)first * (SPAN_BLK / 8), (size_t)n * (SPAN_BLK / 8));
	atomic_fetch_sub_explicit(&s->bytes, bytes, memory_order_relaxed);
}

static void *get_pages(size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

static void drop(void *at, size_t bytes)
{
	if (at != NULL)
		munmap(at, bytes);
}

int slab_init(struct slab *s, uint32_t n_blk, uint32_t part_shift_blk)
{
	s->n_spans = (n_blk - 1) / SPAN_BLK + 1;
	s->part_shift = part_shift_blk - SPAN_SHIFT;
	s->spans = get_pages(s->n_spans * sizeof(s->spans[0]));
	s->bits = get_pages((size_t)s->n_spans * (SPAN_BLK / 8));
	s->mixed = get_pages(s->n_spans / 8 + 8);
	s->mixed_up = calloc(s->n_spans / 4096 + 1, sizeof(s->mixed_up[0]));
	s->bit_page_used = calloc(s->n_spans / PAGE_SPANS + 1, 1);
	if (s->spans != NULL && s->bits != NULL && s->mixed != NULL && s->mixed_up != NULL && s->bit_page_used != NULL)
		return 0;
	slab_free(s);
	return -ENOMEM;
}

void slab_free(struct slab *s)
{
	drop(s->spans, s->n_spans * sizeof(s->spans[0]));
	drop(s->bits, (size_t)s->n_spans * (SPAN_BLK / 8));
	drop(s->mixed, s->n_spans / 8 + 8);
	free(s->mixed_up);
	free(s->bit_page_used);
}

// ---- checking ----

static bool entry_holds(const struct slab *s, uint32_t sp)
{
	uint32_t entry = s->spans[sp], a = entry_a(entry), b = entry_b(entry);

	switch (entry_kind(entry)) {
	case KIND_FREE:
		return entry == ALL_USED || (a < b && b <= SPAN_BLK);
	case KIND_USED:
		return a > 0 && a < b && b < SPAN_BLK;
	case KIND_BITS:
		return s->bit_page_used[sp / PAGE_SPANS] && bits_next_set(words_of(s, sp), 0, SPAN_BLK) < SPAN_BLK &&
		       bits_next_clear(words_of(s, sp), 0, SPAN_BLK) < SPAN_BLK;
	default:
		return false;
	}
}

bool slab_holds(const struct slab *s, uint32_t start, uint32_t len)
{
	uint32_t first = start >> SPAN_SHIFT, last = (start + len - 1) >> SPAN_SHIFT, tail = len & (SPAN_BLK - 1);

	for (uint32_t sp = first; sp <= last; sp++) {
		if (!entry_holds(s, sp) || bits_test(s->mixed, sp) != (s->spans[sp] != ALL_FREE))
			return false;
		if (bits_test(s->mixed_up, sp / 64) != (s->mixed[sp / 64] != 0))
			return false;
	}
	return tail == 0 || next_free_in(s, last, tail) == SPAN_BLK; // none beyond the end
}
