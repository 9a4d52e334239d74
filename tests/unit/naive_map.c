// SPDX-License-Identifier: MIT
// The naive reference of an arena, see naive_map.h. Every question is answered by a search through the bytes, so each costs
// up to n_blk steps; memchr and memrchr keep that bearable for arenas of a million blocks.
#include "naive_map.h"

#include <stdlib.h>
#include <string.h>

void naive_init(struct naive_map *m, uint32_t n_blk, uint32_t part_shift)
{
	uint32_t n_parts = (uint32_t)(((uint64_t)n_blk + (1u << part_shift) - 1) >> part_shift);

	*m = (struct naive_map){ .n_blk = n_blk, .part_shift = part_shift, .n_parts = n_parts };
	m->blk = calloc(n_blk, 1);
	m->open = calloc(n_parts, sizeof(*m->open));
}

void naive_free(struct naive_map *m)
{
	free(m->blk);
	free(m->open);
	*m = (struct naive_map){ 0 };
}

static uint32_t part_end(const struct naive_map *m, uint32_t part)
{
	uint64_t end = ((uint64_t)part + 1) << m->part_shift;

	return end < m->n_blk ? (uint32_t)end : m->n_blk;
}

uint32_t naive_part_len(const struct naive_map *m, uint32_t part)
{
	return part_end(m, part) - naive_part_start(m, part);
}

void naive_open(struct naive_map *m, uint32_t part, const uint64_t *free_bits)
{
	uint32_t start = naive_part_start(m, part), len = naive_part_len(m, part);

	for (uint32_t i = 0; i < len; i++) {
		m->blk[start + i] = free_bits[i / 64] >> (i % 64) & 1 ? NAIVE_FREE : NAIVE_USED;
		m->n_free += m->blk[start + i];
	}
	m->open[part] = true;
}

void naive_close(struct naive_map *m, uint32_t part)
{
	uint32_t start = naive_part_start(m, part), len = naive_part_len(m, part);

	for (uint32_t i = 0; i < len; i++)
		m->n_free -= m->blk[start + i];
	memset(m->blk + start, NAIVE_USED, len);
	m->open[part] = false;
}

bool naive_set(struct naive_map *m, uint32_t start, uint32_t len, enum naive_state to)
{
	if (memchr(m->blk + start, to, len) != NULL)
		return false;
	memset(m->blk + start, to, len);
	m->n_free = to == NAIVE_FREE ? m->n_free + len : m->n_free - len;
	return true;
}

static uint32_t next_in(const struct naive_map *m, uint32_t from, uint32_t end, enum naive_state state)
{
	const uint8_t *at = memchr(m->blk + from, state, end - from);

	return at != NULL ? (uint32_t)(at - m->blk) : end;
}

uint32_t naive_next(const struct naive_map *m, uint32_t from, enum naive_state state)
{
	return next_in(m, from, m->n_blk, state);
}

struct mrun naive_around(const struct naive_map *m, uint32_t blk, enum naive_state state)
{
	uint32_t part = blk >> m->part_shift, first = naive_part_start(m, part), start;
	enum naive_state other = state == NAIVE_FREE ? NAIVE_USED : NAIVE_FREE;
	const uint8_t *before;

	if (m->blk[blk] != state)
		return (struct mrun){ 0, 0 };
	before = memrchr(m->blk + first, other, blk - first);
	start = before != NULL ? (uint32_t)(before - m->blk) + 1 : first;
	return (struct mrun){ start, next_in(m, blk, part_end(m, part), other) - start };
}

struct mrun naive_next_run(const struct naive_map *m, uint32_t from)
{
	uint32_t blk = from < m->n_blk ? naive_next(m, from, NAIVE_FREE) : m->n_blk;

	return blk < m->n_blk ? naive_around(m, blk, NAIVE_FREE) : (struct mrun){ 0, 0 };
}

bool naive_any_free(const struct naive_map *m, uint32_t start, uint32_t len)
{
	return memchr(m->blk + start, NAIVE_FREE, len) != NULL;
}

// The longest run; the search ends at the first one of `enough` blocks.
static struct mrun longest_until(const struct naive_map *m, uint32_t enough)
{
	struct mrun best = { 0, 0 }, run = naive_next_run(m, 0);

	for (; run.len > 0 && best.len < enough; run = naive_next_run(m, mrun_end(run)))
		if (run.len > best.len)
			best = run;
	return best;
}

struct mrun naive_longest(const struct naive_map *m) { return longest_until(m, UINT32_MAX); }

bool naive_has_run(const struct naive_map *m, uint32_t len) { return longest_until(m, len).len >= len; }
