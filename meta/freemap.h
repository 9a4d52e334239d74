// SPDX-License-Identifier: MIT
// The space map in the store: what a transaction changed (the delta), its rows, counters and condensing, and loading a metaslab.
//
// A delta gathers the runs that the open transaction made used or free, per metaslab, in order. When the transaction closes, each
// touched metaslab gets a new spacemap row, or a longer last one, and a new metaslab row; so the cost of a commit follows what changed.
// Condensing (P3) is paid for by earlier changes: each changed run pays for a bounded number of bytes read and written.
//
// Lock: the store's lock is held for everything here. Errors: negative errno, -EUCLEAN for a map that contradicts itself.
#ifndef HYBRIDFS_META_FREEMAP_H
#define HYBRIDFS_META_FREEMAP_H

#include "alloc/alloc.h"
#include "meta/spacemap.h"
#include "meta/store.h"

struct volume;
struct freemap;

int freemap_create(struct volume *vol, struct freemap **out) ATTR_MUST_USE;
void freemap_destroy(struct freemap *fm);

int freemap_log(struct freemap *fm, uint64_t start_blk, uint64_t len_blk, bool used) ATTR_MUST_USE;
bool freemap_is_clean(const struct freemap *fm); // nothing logged since the last write

// Writes the delta as rows of transaction seq and empties it. Condenses logs that have grown too long (P3). Once for each seq.
int freemap_write(struct freemap *fm, uint64_t seq) ATTR_MUST_USE;

// The metaslab as it stands in the open transaction: rows, then delta. The caller frees the bits.
int freemap_read_bits(struct freemap *fm, uint32_t ms, struct spacemap_bits *bits) ATTR_MUST_USE;

// alloc_source.load(): as above, and the system files and superblock copies are used too.
int freemap_load(struct freemap *fm, uint32_t ms, struct alloc_loader *loader) ATTR_MUST_USE;

// Free blocks of each metaslab (system extents taken off), for alloc_create(). `free_blk` has sb_n_metaslabs() elements.
int freemap_count_free(struct volume *vol, uint64_t *free_blk) ATTR_MUST_USE;

// Blocks of a metaslab: 2^ms_shift, fewer in the last one.
uint64_t freemap_ms_blks(const struct volume *vol, uint32_t ms);

#endif
