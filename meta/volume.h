// SPDX-License-Identifier: MIT
// A volume: device + superblock + system files + store + allocator + transactions, opened and closed as one.
//
// Opening recovers by itself: SQLite replays the committed part of the WAL, and deferred writes are finished. Cost: the WAL's length and
// the deferred writes (both bounded), one row per touched metaslab; nothing grows with the device.
#ifndef HYBRIDFS_META_VOLUME_H
#define HYBRIDFS_META_VOLUME_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "alloc/alloc.h"
#include "block/bdev.h"
#include "block/superblock.h"
#include "meta/csum.h"
#include "meta/dbvfs.h"
#include "meta/deferred.h"
#include "meta/store.h"
#include "meta/sysfile.h"
#include "meta/txn.h"

enum volume_damage { DAMAGE_NONE, DAMAGE_SEEN, DAMAGE_MARKED };

struct volume {
	struct bdev *dev;      // not owned: the caller opened it and closes it after volume_close()
	struct sysfiles files; // with the superblock
	struct dbvfs *vfs;
	struct store *store;
	struct csums *csums;       // the store's lock guards these two
	struct deferred *deferred;
	struct alloc *alloc;   // NULL if opened with VOLUME_NO_ALLOC
	size_t alloc_bytes_max; // see volume_opts
	struct txn_mgr *txn;   // NULL if read-only
	bool read_only;
	struct volume *live;   // of which this is a snapshot; NULL = a volume of its own. The VFS is that one's, then
	bool recovered;        // the WAL held committed transactions at open
	uint64_t ro_free_blk;  // free blocks, counted once, where there is no allocator
	atomic_uint_fast64_t next_ino; // persisted at each commit
	atomic_int failed;     // 0, or the negative errno that stopped the line (T5)
	atomic_bool shut_down; // volume_shut_down(); `failed` is set then, too
	atomic_int damage;     // enum volume_damage
};

struct volume_params { // for a new volume
	const char *label;        // NULL = none
	const uint8_t *uuid;      // 16 bytes; NULL = random
	uint64_t size_bytes;      // 0 = the device's size
	uint32_t root_uid, root_gid;
	bool discard;             // discard the whole device first
};

enum volume_open_flags {
	VOLUME_READ_ONLY = 1 << 0, // nothing is written, not even a checkpoint
	VOLUME_NO_ALLOC = 1 << 1,  // fsck: no allocator (the space map may be wrong)
};

struct volume_opts {
	unsigned flags;
	unsigned commit_interval_ms; // 0 = 5000
	size_t cache_bytes;          // SQLite's page cache; 0 = 32 MiB
	size_t alloc_bytes_max;      // memory of the allocator beyond which cold metaslabs are dropped; 0 = 64 MiB, enough for a TiB in any state
	const struct engine_ops *engine; // of the allocator, see alloc/engine.h; NULL = the default one. Nothing of it is on the device
};

// Writes an empty volume: system files, database with its schema and the root directory, superblocks last (so that an interrupted
// mkfs leaves no volume). 0 or negative errno with `why`.
int volume_format(struct bdev *dev, const struct volume_params *params, struct errmsg *why) ATTR_MUST_USE;

int volume_open(struct bdev *dev, const struct volume_opts *opts, struct volume **out, struct errmsg *why) ATTR_MUST_USE;

// Commits, empties the WAL into the database, frees everything. The first error, if any; the volume is gone in every case.
int volume_close(struct volume *vol);

// Stops the volume for good, as a power cut would: nothing reaches the device any more, every operation that asks the database is -EIO. With `commit`
// all that was done before the call is made durable first; its error is returned, and the volume stops all the same. Closing it afterwards
// succeeds and writes nothing. Any thread, with no handle joined and no lock held.
int volume_shut_down(struct volume *vol, bool commit) ATTR_MUST_USE;
static inline bool volume_is_shut_down(struct volume *vol) { return atomic_load(&vol->shut_down); }
// What an operation that would change something is answered: 0, or -EROFS after a failure, -EIO after volume_shut_down().
static inline int volume_refusal(struct volume *vol)
{
	return atomic_load(&vol->failed) == 0 ? 0 : volume_is_shut_down(vol) ? -EIO : -EROFS;
}

// A snapshot: a read-only volume beside a mounted one, with all of its metadata as of one commit. (Blocks of files are what they are now: they
// are freed and written anew by whoever uses `live`.) Its deferred writes are passive. One at a time: -EBUSY.
//
// As long as it is open the log of `live` cannot start anew. When the log has become too long for that (see snapshot_log_max()), commits of `live`
// wait until it is closed, and all reads of it answer -EINTR: store_is_revoked() tells. So it is read without a pause, by one thread, which
// waits for nothing that `live` does.
//
// Cost: opening is a few milliseconds, and no lock of `live` is held meanwhile, or later, but for copying. Close it before `live`.
int volume_snapshot_open(struct volume *live, struct volume **out, struct errmsg *why) ATTR_MUST_USE;
void volume_snapshot_close(struct volume *snapshot);
bool volume_snapshot_would_last(struct volume *live); // whether the log has become short enough to begin; it does by itself

// Frees memory without writing anything: what a crash leaves behind (tests), or after a failure.
void volume_abandon(struct volume *vol);

// Blocks for df: total, free (with what waits for its transaction), and what an ordinary user may have of these (free - reserve).
struct volume_space {
	uint64_t total_blk, free_blk, avail_blk;
	uint64_t inodes_used, inodes_free; // free: estimated from the space
};
void volume_get_space(struct volume *vol, struct volume_space *out);

// The volume's name, up to SB_LABEL_MAX bytes. A new one is durable when the function returns. -EINVAL: too long.
void volume_get_label(struct volume *vol, char label[SB_LABEL_MAX + 1]);
int volume_set_label(struct volume *vol, const char *label) ATTR_MUST_USE;

// Something on the device contradicts itself (-EUCLEAN): the next commit marks the volume, and the next fsck -p checks it all.
void volume_note_damage(struct volume *vol);

static inline uint64_t volume_new_ino(struct volume *vol) { return atomic_fetch_add(&vol->next_ino, 1); }
uint64_t volume_reserve_blk(uint64_t n_blks); // how many blocks are kept back for metadata

#endif
