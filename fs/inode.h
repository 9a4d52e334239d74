// SPDX-License-Identifier: MIT
// Inodes in memory: what the database cannot know about a file in use, and nothing else. Attributes are not here: they are in their
// rows (meta/rows.h), which may be remembered below, so nothing here could be wrong about them.
//
// Life: an object exists as long as the kernel holds references (nlookup) or an operation is at work on it (pins). It is found by
// number in a hash table of shards. When the last of both goes, the object goes; if the inode has lost its last name by
// then (orphan), its number is handed to the reaper.
//
// Locks: a shard's mutex guards its chains and, of each inode in them, nlookup, pins, orphan and namable. The inode's rwlock is the data
// lock: reads of the file share it, changes of its data and size have it alone; it guards ws. Order: data lock → transaction handle →
// store lock → shard, list and reaper mutexes, which are leaves.
//
// I1  orphan is set only while the inode's row has nlink 0; no reference comes by name then. nlink rises again only while namable is set
//     too: for a file that never had a name, by a caller who holds a reference, so the reaper has not got it yet.
// I2  last_txn >= the number of the last transaction that changed the inode (for a directory also: a name in it).
// I3  Every block in ws->fresh was allocated in, or was unwritten until, transaction ws->fresh_txn.
#ifndef HYBRIDFS_FS_INODE_H
#define HYBRIDFS_FS_INODE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "alloc/alloc.h"
#include "util/attr.h"
#include "util/run.h"

struct fs;

#define INODE_FRESH_MAX 16u // runs remembered; forgetting one costs a copy, never correctness
#define INODE_SHARDS 64u

// What a file being written needs; ended when nobody has written for a while (reaper.c).
struct inode_wstate {
	struct alloc_stream stream;
	uint64_t fresh_txn; // see I3; of no use once another transaction is open
	struct run fresh[INODE_FRESH_MAX];
	unsigned n_fresh, oldest; // `oldest` is replaced when the list is full
	int64_t used_s;           // monotonic time of the last use; changed with list_lock and the data lock held
	uint64_t ino;
	struct inode_wstate *newer, *older;
};

struct inode {
	uint64_t ino;
	struct inode *next; // in its chain
	uint64_t nlookup;
	uint32_t pins;
	uint32_t locality; // the directory through which it was found, for the allocator; 0 = unknown
	atomic_uint_fast64_t last_txn;
	struct inode_wstate *ws; // NULL until blocks are written
	pthread_rwlock_t lock;
	bool orphan;
	bool namable; // made without a name, and may still get one: see I1
	bool no_caps; // known to have no security.capability; guarded by the store's lock once the inode is known
};

struct inode_shard {
	pthread_mutex_t lock;
	struct inode **chains; // n_chains, a power of two
	uint32_t n_chains, n;
};

struct inode_table {
	struct inode_shard shards[INODE_SHARDS];
	pthread_mutex_t list_lock;
	struct inode_wstate *newest, *idlest; // all write states, by their last use
};

int inode_table_init(struct inode_table *table) ATTR_MUST_USE;
void inode_table_destroy(struct fs *fs); // frees all objects, referenced or not, and ends their streams

// The object of an inode, made if need be (existing: only if there is one); NULL without memory. Paired with inode_unpin().
struct inode *inode_pin(struct fs *fs, uint64_t ino) ATTR_MUST_USE;
struct inode *inode_pin_existing(struct fs *fs, uint64_t ino) ATTR_MUST_USE;
void inode_unpin(struct fs *fs, struct inode *in);

// References of the kernel. Adding one happens under the store's lock, with the name or the row in sight: see I1.
int inode_ref(struct fs *fs, uint64_t ino, uint64_t parent) ATTR_MUST_USE;
int inode_ref_new(struct fs *fs, uint64_t ino, uint64_t parent) ATTR_MUST_USE; // of a number that nobody has seen yet: it has no attributes
void inode_unref(struct fs *fs, uint64_t ino, uint64_t n);
bool inode_is_referenced(struct fs *fs, uint64_t ino);
// The numbers of all inodes of a shard that the kernel refers to now; the caller frees *inos.
int inode_list_referenced(struct fs *fs, unsigned shard, uint64_t **inos, size_t *n) ATTR_MUST_USE;

// Transaction `txn` changes the inode; called before the handle is given back.
void inode_touch(struct fs *fs, uint64_t ino, uint64_t txn);

// The inode has lost its last name: the reaper gets it now, or when the last reference goes.
void inode_set_orphan(struct fs *fs, uint64_t ino);
// An inode was made without a name and may still get one (on), or it has got it. Store lock held, referenced.
void inode_set_namable(struct fs *fs, uint64_t ino, bool on);
bool inode_is_namable(struct fs *fs, uint64_t ino);

// The data lock, exclusive, with what an interrupted truncate has left behind cleaned up first. On error it is not held.
int inode_lock_change(struct fs *fs, struct inode *in) ATTR_MUST_USE;

// The write state, made if need be; NULL without memory (writing works without it). Data lock held exclusively.
struct inode_wstate *inode_wstate(struct fs *fs, struct inode *in);
void inode_end_wstate(struct fs *fs, struct inode *in);
// Up to `max` inodes whose write state was last used before `before_s`; returns how many.
unsigned inode_idle_writers(struct fs *fs, int64_t before_s, uint64_t *inos, unsigned max);

// Fresh blocks: see I3. fresh_span: how many of the len blocks from start on are alike, and whether they are fresh in `txn`.
void wstate_add_fresh(struct inode_wstate *ws, uint64_t txn, uint64_t start_blk, uint64_t len_blk);
uint64_t wstate_fresh_span(const struct inode_wstate *ws, uint64_t txn, uint64_t start_blk, uint64_t len_blk, bool *fresh);

int64_t inode_clock_s(void); // monotonic seconds, coarse

#endif
