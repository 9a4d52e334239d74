// SPDX-License-Identifier: MIT
// A change of a file's data: prepared outside of every transaction, made real inside one.
//
//   change_load      the inode's row, its inline data, which blocks the range has now
//   change_map …     more ranges; change_edge composes blocks that are only partly replaced
//   change_alloc     chooses how each block is written; new blocks for what may not be overwritten (F2); may wait for space, may
//                    shorten the change
//   change_begin     writes the blocks to the device, joins the transaction, locks the store, reads the row again
//     … the caller changes c->row and the map beyond what the change does by itself …
//   change_end       map, row, unlock, leave. With an error: everything that was taken goes back
//
// Between change_load and change_begin anything may end it: change_drop(). change_begin answers -EAGAIN when blocks were to be
// overwritten in place because they were new in the open transaction, and this transaction has been closed meanwhile: the
// caller starts anew. That happens at most once in a row, since then nothing of this inode is new in the open transaction.
//
// How a block is written:
//   new        into another block, allocated for it: holes, and large overwrites.
//   deferred   in place, but later (meta/deferred.h): up to DEFERRED_WRITE_MAX_BLK blocks that exist already.
//   fresh      in place: allocated in the open transaction, no durable state names it.
//   unwritten  in place: the durable state either does not name it or calls it unwritten, so it reads zeros whatever it holds. (True because
//              written blocks never become unwritten: ZERO_RANGE gives them away and takes others.)
//   raw        in place: the file is INODE_NODATACOW. A crash may leave any mixture of old and new.
// All but the last have checksums (CS1 in meta/csum.h).
//
// Lock: the inode's data lock, exclusive, from load to end. The struct is large (about 25 KiB) and lives on the stack.
#ifndef HYBRIDFS_FS_CHANGE_H
#define HYBRIDFS_FS_CHANGE_H

#include "fs/fs_internal.h"
#include "meta/extmap.h"

#define CHANGE_MAX_BLK 257u // 1 MiB at any byte offset
#define CHANGE_MAX_SEGS (CHANGE_MAX_BLK + 3)
#define CHANGE_MAX_EDGES 3u // head, tail, and block 0 of a file that stops being inline

enum seg_kind { SEG_NEW, SEG_DEFERRED, SEG_FRESH, SEG_UNWRITTEN, SEG_RAW };

struct seg { // blocks to be written, one run on the device
	uint64_t off_blk, phys_blk, len_blk;
	uint64_t old_blk; // SEG_NEW: what is mapped there now, 0 = nothing (block 0 of the volume is a superblock: no file has it)
	enum seg_kind kind;
	bool taken;       // SEG_NEW: phys_blk is ours and not yet in the map
};

enum change_space {
	CHANGE_PLAIN,   // free space above the reserve, and half of the reserve if as many blocks come back
	CHANGE_RESERVE, // all of it: the change is part of a deletion
};

struct change {
	struct fs *fs;
	struct inode *in;
	struct inode_row row, was; // was: as the store has it, from change_begin on
	uint64_t txn;           // from change_begin on
	const uint8_t *buf;     // new bytes of [off, end); NULL = none, edges only
	uint64_t off, end;
	uint64_t goal_blk;      // where the first new block would be best
	bool convert;           // inline → blocks
	unsigned n_segs, n_edges;
	struct seg segs[CHANGE_MAX_SEGS]; // in file order
	uint32_t crc[CHANGE_MAX_SEGS];    // of all their blocks, in the same order
	struct deferred_blk *put, *note;  // buffers for blocks of SEG_DEFERRED, and for all others if they go with the transaction
	struct change_edge {
		uint64_t blk;
		uint8_t data[BLK_SIZE];
	} edges[CHANGE_MAX_EDGES];
	uint8_t inline_data[INLINE_MAX_BYTES];
};

// Row and inline data; if the file has extents, also the map of [off_blk, off_blk + len_blk). Regular files only.
int change_load(struct change *c, struct fs *fs, struct inode *in, uint64_t off_blk, uint64_t len_blk) ATTR_MUST_USE;

// An inline file gets blocks: block 0 if it holds data, and [off_blk, off_blk + len_blk).
int change_convert(struct change *c, uint64_t off_blk, uint64_t len_blk) ATTR_MUST_USE;

// The bytes [from, to) of one block become zeros. Nothing to do, and no segment, if they read as zeros already.
int change_zero(struct change *c, uint64_t from, uint64_t to) ATTR_MUST_USE;

// Composes a block from what it holds now (zeros beyond the size, F1) and c->buf.
int change_edge(struct change *c, uint64_t blk) ATTR_MUST_USE;

// -ENOSPC only if not even the first block can be had; otherwise c->end says how far it goes.
int change_alloc(struct change *c, enum change_space space) ATTR_MUST_USE;

// Whether the file has all these blocks already: such a change goes on when the volume is full.
bool change_only_replaces(const struct change *c);

int change_begin(struct change *c, enum txn_kind kind) ATTR_MUST_USE; // after an error nothing is left to undo
int change_apply(struct change *c) ATTR_MUST_USE;  // the map and c->row.blocks_blk, flags
int change_end(struct change *c, int err) ATTR_MUST_USE; // writes the row if err == 0; returns the first error
void change_drop(struct change *c);                // gives back what was taken

#endif
