// SPDX-License-Identifier: MIT
// The naive reference of an arena: a byte per block and no index at all. What an engine (alloc/engine.h) answers is held
// against what is seen by looking at the bytes. Nothing here is fast and nothing is clever: that is its worth.
//
// Units: blocks, relative to the arena. Ranges are (start, len). A run never crosses the border of a part.
#ifndef HYBRIDFS_TESTS_NAIVE_MAP_H
#define HYBRIDFS_TESTS_NAIVE_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include "alloc/engine.h"

enum naive_state { NAIVE_USED, NAIVE_FREE };

struct naive_map {
	uint32_t n_blk, part_shift, n_parts;
	uint32_t n_free;  // counted along
	uint8_t *blk;     // an enum naive_state each
	bool *open;       // per part
};

void naive_init(struct naive_map *m, uint32_t n_blk, uint32_t part_shift); // nothing open
void naive_free(struct naive_map *m);

static inline uint32_t naive_part_start(const struct naive_map *m, uint32_t part) { return part << m->part_shift; }
uint32_t naive_part_len(const struct naive_map *m, uint32_t part);

void naive_open(struct naive_map *m, uint32_t part, const uint64_t *free_bits);
void naive_close(struct naive_map *m, uint32_t part);
// The range changes its state. Each of its blocks must be in the other one: false if one is not (nothing more is done then).
bool naive_set(struct naive_map *m, uint32_t start, uint32_t len, enum naive_state to);

// Blocks of the same state around blk, within its part; len 0: blk is in the other state.
struct mrun naive_around(const struct naive_map *m, uint32_t blk, enum naive_state state);
struct mrun naive_next_run(const struct naive_map *m, uint32_t from); // the first free run that ends behind `from`
// First block of this state at or behind `from`, or n_blk.
uint32_t naive_next(const struct naive_map *m, uint32_t from, enum naive_state state);
bool naive_any_free(const struct naive_map *m, uint32_t start, uint32_t len);
struct mrun naive_longest(const struct naive_map *m);
bool naive_has_run(const struct naive_map *m, uint32_t len); // a free run of at least len blocks

#endif
