// SPDX-License-Identifier: MIT
// The persistent free map: per metaslab a log of runs that became used or free, in rows of table spacemap (design: ZFS's space maps).
//
// A row's blob is a sequence of entries, each two varints:
//     (zigzag(start - end of the previous entry) << 1 | used)   then   (len - 1)
// with block numbers relative to the metaslab and "end of the previous entry" 0 at first. A metaslab without rows is all free.
// Rows are applied in the order of seq (the transaction's number); within a row in order.
//
// P1  Applying an entry always changes every block of it: used entries over free blocks, free entries over used ones.
// P2  All entries lie inside the metaslab.
// P3  When a metaslab's rows grow beyond max(SPACEMAP_MIN_LOG, 2 × the condensed size), they are replaced by one row: the used runs.
// P4  metaslab.free_blk = blocks of the metaslab that the log says are free (system extents count as free here).
//
// Lock: the delta is guarded by the store's lock. Errors: negative errno; a log that breaks P1 or P2 is -EUCLEAN.
#ifndef HYBRIDFS_META_SPACEMAP_H
#define HYBRIDFS_META_SPACEMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attr.h"
#include "util/run.h"

#define SPACEMAP_MIN_LOG 4096u // bytes below which a log is not worth condensing

// ---- the blob ----

struct spacemap_buf { // a growing blob; zero-initialised is empty
	uint8_t *data;
	size_t len, cap;
	uint64_t prev_end;
};
int spacemap_put(struct spacemap_buf *buf, uint64_t rel_start, uint64_t len_blk, bool used) ATTR_MUST_USE;
void spacemap_buf_free(struct spacemap_buf *buf);

typedef int (*spacemap_entry_fn)(void *ctx, uint64_t rel_start, uint64_t len_blk, bool used);
// Calls fn for each entry. -EUCLEAN for bytes that are no blob of a metaslab of ms_blks blocks; else fn's first non-zero result.
int spacemap_decode(const void *blob, size_t len, uint64_t ms_blks, spacemap_entry_fn fn, void *ctx) ATTR_MUST_USE;

// ---- a bitmap of one metaslab, for condensing and checking ----

struct spacemap_bits {
	uint64_t n_blks, used_blk;
	uint64_t *words; // 1 = used
};
int spacemap_bits_init(struct spacemap_bits *bits, uint64_t n_blks) ATTR_MUST_USE; // all free
void spacemap_bits_free(struct spacemap_bits *bits);
int spacemap_bits_apply(struct spacemap_bits *bits, uint64_t rel_start, uint64_t len_blk, bool used) ATTR_MUST_USE; // -EUCLEAN: P1, P2
// The next run of used (or free) blocks at or after *rel_start; false when there is none.
bool spacemap_bits_next(const struct spacemap_bits *bits, bool used, uint64_t *rel_start, uint64_t *len_blk);

#endif
