// SPDX-License-Identifier: MIT
// The persistent free map: per metaslab a log of runs that became used or free, in rows of table spacemap (design: ZFS's space maps).
//
// A row's blob is a sequence of entries, each two varints:
//     (zigzag(start - end of the previous entry) << 1 | used)   then   (len - 1)
// with block numbers relative to the metaslab and "end of the previous entry" 0 at first. A metaslab without rows is all free.
// Rows are applied in the order of seq (the transaction that began the row, P5); within a row in order.
//
// The condensed form of a map is the one blob that names its used runs, each once and whole, by address.
//
// P1  Applying an entry always changes every block of it: used entries over free blocks, free entries over used ones.
// P2  All entries lie inside the metaslab.
// P3  After each transaction, the rows of a metaslab that it changed are together no longer than max(SPACEMAP_MIN_LOG, 2 × the
//     condensed form of the map as it is then).
// P4  metaslab.free_blk = blocks of the metaslab that the log says are free (system extents count as free here).
// P5  Two rows that follow each other are together longer than SPACEMAP_ROW_BYTES. So a log of n bytes has at most
//     2n / SPACEMAP_ROW_BYTES + 1 rows, however small the transactions were.
//
// How P3 is kept without knowing the map: condensed forms differ little when maps differ little. One entry makes it shorter by
// spacemap_entry_loss() at most. So from the length at some time (metaslab.base_bytes) and the entries since then follows a lower bound for
// the length now. Only when the log is longer than twice that bound, it is read and the length measured; and only when the log is longer
// than 7/4 of the measured length, it is replaced by the condensed form. What is left as it is has then a quarter of the condensed form to
// go, which takes 1/72 as many entries as it has bytes at least in a metaslab of 1 GiB: so both the reading and the writing are paid
// for by the entries that caused them. (ZFS counts the segments of the tree it has in memory. Here the metaslab may not be loaded.)
//
// Lock: the delta is guarded by the store's lock. Errors: negative errno; a log that breaks P1 or P2 is -EUCLEAN.
#ifndef HYBRIDFS_META_SPACEMAP_H
#define HYBRIDFS_META_SPACEMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attr.h"
#include "util/run.h"

#define SPACEMAP_MIN_LOG 4096u  // bytes below which a log is not worth condensing
#define SPACEMAP_ROW_BYTES 960u // what fits into a leaf of the B-tree (a quarter of a page) without overflow pages

// ---- the blob ----

struct spacemap_buf { // a growing blob; zero-initialised is empty
	uint8_t *data;
	size_t len, cap;
	uint64_t prev_end;
};
int spacemap_put(struct spacemap_buf *buf, uint64_t rel_start, uint64_t len_blk, bool used) ATTR_MUST_USE;
void spacemap_buf_clear(struct spacemap_buf *buf); // keeps the memory
void spacemap_buf_free(struct spacemap_buf *buf);

// Appends the entries of a blob of a metaslab of ms_blks blocks. 0, -ENOMEM, -EUCLEAN.
int spacemap_append(struct spacemap_buf *buf, const void *blob, size_t len, uint64_t ms_blks) ATTR_MUST_USE;

// Bytes by which an entry of len_blk blocks can make the condensed form shorter, at most.
uint64_t spacemap_entry_loss(uint64_t len_blk, uint64_t ms_blks);

typedef int (*spacemap_entry_fn)(void *ctx, uint64_t rel_start, uint64_t len_blk, bool used);
// Calls fn for each entry. -EUCLEAN for bytes that are no blob of a metaslab of ms_blks blocks; else fn's first non-zero result.
int spacemap_decode(const void *blob, size_t len, uint64_t ms_blks, spacemap_entry_fn fn, void *ctx) ATTR_MUST_USE;

// ---- a bitmap of one metaslab, for loading, condensing and checking ----

struct spacemap_bits {
	uint64_t n_blks, used_blk;
	uint64_t *words; // 1 = used; bits beyond n_blks are 0
};
int spacemap_bits_init(struct spacemap_bits *bits, uint64_t n_blks) ATTR_MUST_USE; // all free
void spacemap_bits_free(struct spacemap_bits *bits);
int spacemap_bits_apply(struct spacemap_bits *bits, uint64_t rel_start, uint64_t len_blk, bool used) ATTR_MUST_USE; // -EUCLEAN: P1, P2
// Applies a whole blob, like decode with apply but several times as fast. After -EUCLEAN the bits are between two entries or inside one.
int spacemap_bits_replay(struct spacemap_bits *bits, const void *blob, size_t len) ATTR_MUST_USE;
// The next run of used (or free) blocks at or after *rel_start; false when there is none.
bool spacemap_bits_next(const struct spacemap_bits *bits, bool used, uint64_t *rel_start, uint64_t *len_blk);
// Appends the condensed form to an empty buffer.
int spacemap_bits_condense(const struct spacemap_bits *bits, struct spacemap_buf *buf) ATTR_MUST_USE;

#endif
