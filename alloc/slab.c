// SPDX-License-Identifier: MIT
// The rare cases of slab.h: spans with bits, opening and closing parts, checking.
#include "alloc/slab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "util/attr.h"
#include "util/blk.h"

#define PAGE_BYTES ((size_t)4096)
#define PAGE_SPANS ((uint32_t)PAGE_BYTES / (SPAN_BLK / 8)) // spans whose bits share a page

static void to_bits(struct slab *s, uint32_t sp)
{
	struct span span = span_look(s, sp);
	uint64_t *words = span_words(s, sp);
	bool used = span.kind == KIND_USED;

	for (uint32_t w = 0; w < SPAN_WORDS; w++)
		words[w] = used ? ~0ull : 0;
	if (used)
		bits_clear(words, span.a, span.b - span.a);
	else if (span.a < span.b)
		bits_set(words, span.a, span.b - span.a);
	if (!s->bit_page_used[sp / PAGE_SPANS]) {
		s->bit_page_used[sp / PAGE_SPANS] = 1;
		atomic_fetch_add_explicit(&s->bytes, PAGE_BYTES, memory_order_relaxed);
	}
	s->spans[sp] = SPAN_BITS;
}

// The rare cases of the next function: a used hole is filled or made smaller, or a third border comes into being.
void slab_free_in_mixed(struct slab *s, uint32_t sp, uint32_t from, uint32_t to)
{
	struct span span = span_look(s, sp);
	uint64_t *words;

	if (span.kind == KIND_FREE && ((span.a == 0 && to == SPAN_BLK) || (from == 0 && span.b == SPAN_BLK))) {
		span_set_freer(s, sp, span_make_used(min_u32(span.b, to), max_u32(from, span.a)));
		return;
	}
	if (span.kind == KIND_USED && (from == span.a || to == span.b)) {
		if (from == span.a && to == span.b)
			span_set_freer(s, sp, SPAN_ALL_FREE);
		else
			span_set_freer(s, sp, from == span.a ? span_make_used(to, span.b) : span_make_used(span.a, from));
		return;
	}
	if (span.kind != KIND_BITS)
		to_bits(s, sp);
	words = span_words(s, sp);
	bits_set(words, from, to - from);
	if ((words[0] & words[1] & words[2] & words[3]) == ~0ull)
		span_set_freer(s, sp, SPAN_ALL_FREE);
}

void slab_use_in_mixed(struct slab *s, uint32_t sp, uint32_t from, uint32_t to)
{
	struct span span = span_look(s, sp);
	uint64_t *words;

	if (s->spans[sp] == SPAN_ALL_FREE) {
		s->spans[sp] = span_make_used(from, to);
		return;
	}
	if (span.kind == KIND_USED && (to == span.a || from == span.b)) {
		s->spans[sp] = span_make_used(min_u32(from, span.a), max_u32(to, span.b));
		return;
	}
	if (span.kind != KIND_BITS)
		to_bits(s, sp);
	words = span_words(s, sp);
	bits_clear(words, from, to - from);
	if ((words[0] | words[1] | words[2] | words[3]) == 0)
		s->spans[sp] = SPAN_ALL_USED;
}

// ---- looking ----

uint32_t slab_next_free(const struct slab *s, uint32_t from, uint32_t end)
{
	uint32_t off = from & (SPAN_BLK - 1);

	if (from >= end)
		return end;
	// By spans: behind the last one of the largest arena there is no block number.
	for (uint32_t sp = from >> SPAN_SHIFT; sp <= (end - 1) >> SPAN_SHIFT; sp++, off = 0) {
		off = span_next_free(s, sp, off);
		if (off < SPAN_BLK)
			return sp * SPAN_BLK + off;
	}
	return end;
}

// ---- opening and closing ----

static void set_from_words(struct slab *s, uint32_t sp, const uint64_t *words)
{
	uint32_t a = bits_next_set(words, 0, SPAN_BLK), b = bits_next_clear(words, a, SPAN_BLK);
	uint32_t next = bits_next_set(words, b, SPAN_BLK);

	if (next == SPAN_BLK) {
		span_set_freer(s, sp, span_make_free(a, b));
	} else if (a == 0 && bits_next_clear(words, next, SPAN_BLK) == SPAN_BLK) {
		span_set_freer(s, sp, span_make_used(b, next));
	} else {
		to_bits(s, sp);
		for (uint32_t w = 0; w < SPAN_WORDS; w++)
			span_words(s, sp)[w] = words[w];
	}
}

static void open_span(struct slab *s, uint32_t sp, const uint64_t *words)
{
	if ((words[0] & words[1] & words[2] & words[3]) == ~0ull) {
		span_set_freer(s, sp, SPAN_ALL_FREE);
	} else {
		slab_mixed_add(s, sp);
		set_from_words(s, sp, words);
	}
}

void slab_open(struct slab *s, uint32_t start, uint32_t len, const uint64_t *free_bits)
{
	uint32_t first = start >> SPAN_SHIFT, n = len / SPAN_BLK, n_words = (len + 63) / 64 - n * SPAN_WORDS;
	uint64_t rest[SPAN_WORDS] = { 0 };

	for (uint32_t i = 0; i < n; i++)
		open_span(s, first + i, free_bits + i * SPAN_WORDS);
	if (n_words > 0) {
		memcpy(rest, free_bits + n * SPAN_WORDS, n_words * sizeof(rest[0]));
		open_span(s, first + n, rest);
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
		s->spans[first + i] = SPAN_ALL_USED;
	for (uint32_t page = (first + PAGE_SPANS - 1) / PAGE_SPANS; page < (first + n) / PAGE_SPANS; page++) {
		bytes += s->bit_page_used[page] ? PAGE_BYTES : 0;
		s->bit_page_used[page] = 0;
	}
	drop_pages(s->spans, first * sizeof(s->spans[0]), n * sizeof(s->spans[0]));
	drop_pages(s->bits, (size_t)first * (SPAN_BLK / 8), (size_t)n * (SPAN_BLK / 8));
	atomic_fetch_sub_explicit(&s->bytes, bytes, memory_order_relaxed);
}

// Room for what spans_are() and spans_fill() touch and leave as it is.
static size_t spans_bytes(const struct slab *s) { return (s->n_spans + 5) * sizeof(s->spans[0]); }

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
	s->part_mask = (1u << (part_shift_blk - SPAN_SHIFT)) - 1;
	s->spans = get_pages(spans_bytes(s));
	s->bits = get_pages((size_t)s->n_spans * (SPAN_BLK / 8));
	s->mixed = get_pages(s->n_spans / 8 + 9);
	s->mixed_up = calloc(s->n_spans / 4096 + 1, sizeof(s->mixed_up[0]));
	s->bit_page_used = calloc(s->n_spans / PAGE_SPANS + 1, 1);
	if (s->spans == NULL || s->bits == NULL || s->mixed == NULL || s->mixed_up == NULL || s->bit_page_used == NULL) {
		slab_free(s);
		return -ENOMEM;
	}
	slab_mixed_add(s, s->n_spans);
	return 0;
}

void slab_free(struct slab *s)
{
	drop(s->spans, spans_bytes(s));
	drop(s->bits, (size_t)s->n_spans * (SPAN_BLK / 8));
	drop(s->mixed, s->n_spans / 8 + 9);
	free(s->mixed_up);
	free(s->bit_page_used);
}

// ---- checking ----

// Every other entry is right by itself.
static bool entry_holds(const struct slab *s, uint32_t sp)
{
	if (s->spans[sp] == SPAN_ALL_USED || span_look(s, sp).kind != KIND_BITS)
		return true;
	return s->spans[sp] == SPAN_BITS && s->bit_page_used[sp / PAGE_SPANS] &&
	       bits_next_set(span_words(s, sp), 0, SPAN_BLK) < SPAN_BLK &&
	       bits_next_clear(span_words(s, sp), 0, SPAN_BLK) < SPAN_BLK;
}

bool slab_holds(const struct slab *s, uint32_t start, uint32_t len)
{
	uint32_t first = start >> SPAN_SHIFT, last = (start + len - 1) >> SPAN_SHIFT, tail = len & (SPAN_BLK - 1);

	for (uint32_t sp = first; sp <= last; sp++) {
		if (!entry_holds(s, sp) || bits_test(s->mixed, sp) != (s->spans[sp] != SPAN_ALL_FREE))
			return false;
		if (bits_test(s->mixed_up, sp / 64) != (s->mixed[sp / 64] != 0))
			return false;
	}
	return tail == 0 || span_next_free(s, last, tail) == SPAN_BLK; // none beyond the end
}
