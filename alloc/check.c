// SPDX-License-Identifier: MIT
// alloc_check: everything that the allocator believes, computed again the slow way from the bitmaps.
#include "alloc/alloc_internal.h"

#include <errno.h>
#include <stdlib.h>

#define FAIL(why, ms, ...) (errmsg_set(why, __VA_ARGS__), errmsg_prefix(why, "metaslab at %llu", \
	(unsigned long long)(ms)->first_abs), -EUCLEAN)

// A3: walks all free runs and holds the longest of each span against the index.
static int check_spans(const struct metaslab *ms, struct errmsg *why)
{
	const struct buddy *map = ms->map;
	uint32_t end = map->n_spans * SPAN_BLK, start, stop, sp;
	uint32_t *longest = calloc(map->n_spans, sizeof(*longest));
	int err = 0;

	if (longest == NULL)
		return -ENOMEM;
	for (start = bits_next_set(map->bits, 0, end); start < end; start = bits_next_set(map->bits, stop, end)) {
		stop = bits_next_clear(map->bits, start, end);
		sp = start / SPAN_BLK;
		longest[sp] = max_u32(longest[sp], stop - start);
		if (stop > map->n_blk)
			err = FAIL(why, ms, "a block beyond the end is free");
		if (map->spans[sp].len > 0 && map->spans[sp].off == start % SPAN_BLK &&
		    map->spans[sp].len != stop - start)
			err = FAIL(why, ms, "A3: run at %u has %u blocks, the index says %u", start, stop - start,
			           map->spans[sp].len);
	}
	for (sp = 0; sp < map->n_spans && err == 0; sp++) {
		uint32_t at = sp * SPAN_BLK + map->spans[sp].off;

		if (map->spans[sp].len != longest[sp])
			err = FAIL(why, ms, "A3: the longest run of span %u has %u blocks, the index says %u", sp,
			           longest[sp], map->spans[sp].len);
		else if (longest[sp] > 0 && (!bits_test(map->bits, at) || (at > 0 && bits_test(map->bits, at - 1))))
			err = FAIL(why, ms, "A3: no run starts at %u", at);
		else if (bits_test(map->starts.level[0], sp) != (longest[sp] > 0))
			err = FAIL(why, ms, "A3: span %u is wrong in the set of starts", sp);
	}
	free(longest);
	return err;
}

// A3, the other way round: the lists hold each span that has a run once, in the right bin.
static int check_bins(const struct metaslab *ms, struct errmsg *why)
{
	const struct buddy *map = ms->map;
	uint32_t in_lists = 0, in_index = 0;

	for (uint32_t bin = 0; bin < N_BINS; bin++) {
		uint32_t prev = NIL;

		if (bits_test(map->bins.level[0], bin) != (map->head[bin] != NIL))
			return FAIL(why, ms, "A3: bin %u is wrong in the set of bins", bin);
		for (uint32_t sp = map->head[bin]; sp != NIL; prev = sp, sp = map->spans[sp].next) {
			if (map->spans[sp].prev != prev || bin_of(map->spans[sp].len) != bin ||
			    ++in_lists > map->n_spans)
				return FAIL(why, ms, "A3: span %u is wrong in the list of bin %u", sp, bin);
		}
	}
	for (uint32_t sp = 0; sp < map->n_spans; sp++)
		in_index += map->spans[sp].len > 0;
	if (in_index != in_lists)
		return FAIL(why, ms, "A3: %u spans have runs, %u are in lists", in_index, in_lists);
	if (!bitset_summaries_hold(&map->starts) || !bitset_summaries_hold(&map->bins))
		return FAIL(why, ms, "A3: a summary of a set is wrong");
	if (atomic_load(&ms->top_bin) != buddy_top_bin(map))
		return FAIL(why, ms, "the highest bin is %u, the hint says %u", buddy_top_bin(map),
		            (unsigned)atomic_load(&ms->top_bin));
	return 0;
}

static bool all_in_limbo(const struct metaslab *ms, uint32_t start, uint32_t len)
{
	for (uint32_t blk = start; blk < start + len; blk++)
		if (!limbo_any(&ms->limbo, blk, 1))
			return false;
	return true;
}

static int check_held(const struct metaslab *ms, struct errmsg *why)
{
	uint64_t sum = 0;

	for (const struct alloc_stream *s = ms->holders; s != NULL; s = s->next) {
		if (s->window.len_blk == 0 || s->window.start_blk < ms->first_abs ||
		    s->window.start_blk + s->window.len_blk > ms->first_abs + ms->n_blk ||
		    !all_in_limbo(ms, ms_rel(ms, s->window.start_blk), (uint32_t)s->window.len_blk))
			return FAIL(why, ms, "a window at %llu is wrong", (unsigned long long)s->window.start_blk);
		sum += s->window.len_blk;
	}
	for (uint32_t i = 0; i < N_WORDS; i++) {
		if (ms->words[i].len > 0 && !all_in_limbo(ms, ms->words[i].start, ms->words[i].len))
			return FAIL(why, ms, "the word at %u is wrong", ms->words[i].start);
		sum += ms->words[i].len;
	}
	if (sum != ms->held_blk)
		return FAIL(why, ms, "windows and words have %llu blocks, the count says %u",
		            (unsigned long long)sum, ms->held_blk);
	return 0;
}

static int check_limbo(const struct metaslab *ms, struct errmsg *why)
{
	uint64_t sum = 0;

	for (const struct batch *b = ms->batches; b != NULL; b = b->next) {
		for (uint32_t i = 0; i < b->n; i++) {
			if (!all_in_limbo(ms, b->runs[i].start, b->runs[i].len))
				return FAIL(why, ms, "A1: the run at %u is FREEING but not in limbo", b->runs[i].start);
			sum += b->runs[i].len;
		}
		if (b->n > 0 && !ms->pending)
			return FAIL(why, ms, "runs are FREEING but nobody would release them");
	}
	if (sum != ms->freeing_blk)
		return FAIL(why, ms, "%llu blocks are FREEING, the count says %u", (unsigned long long)sum,
		            ms->freeing_blk);
	if (limbo_count(&ms->limbo) != ms->freeing_blk + ms->held_blk)
		return FAIL(why, ms, "A1: %u blocks are in limbo, %u FREEING and %u held", limbo_count(&ms->limbo),
		            ms->freeing_blk, ms->held_blk);
	for (uint32_t c = 0; ms->map != NULL && ms->limbo.chunks != NULL && c < ms->limbo.n_chunks; c++)
		for (uint32_t w = 0; ms->limbo.chunks[c] != NULL && w < LIMBO_CHUNK_BLK / 64; w++)
			if (ms->limbo.chunks[c]->bits[w] != 0 &&
			    (ms->limbo.chunks[c]->bits[w] & ms->map->bits[c * (LIMBO_CHUNK_BLK / 64) + w]) != 0)
				return FAIL(why, ms, "A1: a block is free and in limbo");
	return 0;
}

static int check_counts(const struct metaslab *ms, struct errmsg *why)
{
	uint32_t free_blk = atomic_load(&ms->free_blk);

	if (ms->map != NULL && buddy_count_free(ms->map) + ms->held_blk != free_blk)
		return FAIL(why, ms, "A2: %u blocks are free and %u held, the count says %u", buddy_count_free(ms->map),
		            ms->held_blk, free_blk);
	if ((uint64_t)free_blk + ms->freeing_blk + ms->taken_blk > ms->n_blk)
		return FAIL(why, ms, "A4: %u free, %u FREEING and %u TAKEN are more than %u blocks", free_blk,
		            ms->freeing_blk, ms->taken_blk, ms->n_blk);
	if (ms->map == NULL && (ms->taken_blk > 0 || ms->held_blk > 0))
		return FAIL(why, ms, "A4: TAKEN or held blocks, but it is not loaded");
	return 0;
}

static int check_metaslab(const struct metaslab *ms, struct errmsg *why)
{
	int err = check_counts(ms, why);

	if (err == 0)
		err = check_limbo(ms, why);
	if (err == 0 && ms->map != NULL)
		err = check_held(ms, why);
	if (err == 0 && ms->map != NULL)
		err = check_spans(ms, why);
	if (err == 0 && ms->map != NULL)
		err = check_bins(ms, why);
	return err;
}

int alloc_check(struct alloc *a, struct errmsg *why)
{
	uint64_t free_blk = 0, freeing_blk = 0;
	int err = 0;

	for (uint32_t i = 0; i < a->n_ms && err == 0; i++) {
		pthread_mutex_lock(&a->ms[i].lock);
		err = check_metaslab(&a->ms[i], why);
		free_blk += atomic_load(&a->ms[i].free_blk);
		freeing_blk += a->ms[i].freeing_blk;
		pthread_mutex_unlock(&a->ms[i].lock);
	}
	if (err == 0 && (free_blk != (uint64_t)atomic_load(&a->free_blk) ||
	                 freeing_blk != (uint64_t)atomic_load(&a->freeing_blk))) {
		errmsg_set(why, "A2: metaslabs have %llu free and %llu FREEING blocks, the volume's counts differ",
		           (unsigned long long)free_blk, (unsigned long long)freeing_blk);
		err = -EUCLEAN;
	}
	return err;
}
