// SPDX-License-Identifier: MIT
// The superblock: what must be known before the database can be opened, above all where the database and its
// write-ahead log lie.
//
// Three copies: at SB_OFF_FIRST, SB_OFF_SECOND and in the last SB_SIZE bytes of the volume. The newest valid one (highest
// generation, right crc32c) wins. sb_write() writes the first, flushes, then writes the others: at every moment at
// least one valid copy is on stable storage, and once sb_write() returned the new generation wins after any crash.
//
// Lock: the caller serialises sb_write() (the volume's sysfile lock). Errors: negative errno; -EUCLEAN = damaged.
//
// S1  Extents of the system files lie inside the volume, outside the superblock copies, and do not overlap.
// S2  The volume's size is at most the device's size, and at most SB_MAX_METASLABS metaslabs.
#ifndef HYBRIDFS_BLOCK_SUPERBLOCK_H
#define HYBRIDFS_BLOCK_SUPERBLOCK_H

#include <stdint.h>

#include "block/bdev.h"
#include "util/run.h"

#define SB_SIZE 16384u
#define SB_BLKS (SB_SIZE / 4096u)
#define SB_OFF_FIRST 0u
#define SB_OFF_SECOND (1u << 20)
#define SB_COPIES 3
#define SB_LABEL_MAX 63       // bytes, without the terminating NUL
#define SB_MAX_EXTENTS 480    // of each system file
#define SB_FORMAT_VERSION 3u
#define SB_MIN_VOLUME_BYTES (8ull << 20)
#define SB_MS_SHIFT_MIN 12u   // blocks: 16 MiB
#define SB_MS_SHIFT_MAX 26u   // blocks: 256 GiB
#define SB_MAX_METASLABS 4096u

enum sysfile_id { SYSFILE_DB, SYSFILE_WAL, SYSFILE_N };

// Feature words as in ext2: an unknown compatible bit is ignored, an unknown ro_compatible bit allows reading only, an
// unknown incompatible bit refuses the mount. None is defined yet.
#define SB_COMPAT_KNOWN 0ull
#define SB_RO_COMPAT_KNOWN 0ull
#define SB_INCOMPAT_KNOWN 0ull

struct superblock {
	uint64_t generation;
	uint32_t version;
	uint64_t compat, ro_compat, incompat;
	uint8_t uuid[16];
	char label[SB_LABEL_MAX + 1];
	uint64_t n_blks;         // of the volume
	uint32_t ms_shift;       // a metaslab is 2^ms_shift blocks; the last one may be shorter
	int64_t created_ns;      // since the epoch
	struct {
		uint32_t n_extents;
		struct run extents[SB_MAX_EXTENTS]; // in file order
	} sysfile[SYSFILE_N];
};

enum sb_copy_state { SB_COPY_VALID, SB_COPY_STALE, SB_COPY_BAD, SB_COPY_UNREADABLE };

struct sb_scan {
	enum sb_copy_state state[SB_COPIES];
	uint64_t generation[SB_COPIES]; // where the copy could be decoded
	// Nothing of ours stands there. No crash does that to the first copy: something else wrote over the start of the
	// device, perhaps another filesystem, which a mount of this volume would damage.
	bool no_magic[SB_COPIES];
};

// Reads all copies and gives the newest valid one; the last copy is looked for at the end of the device and, when another
// copy says that the volume is smaller, at the end of the volume. It counts only if it lies where its own volume ends
// and has the UUID of the copies in front (an earlier, larger volume leaves such a copy behind). `scan` may be NULL.
// -EINVAL: no HybridFS at all; -EUCLEAN: there was one, no copy is valid, or the device is smaller than the volume;
// -ENOTSUP: version or incompatible feature; what the device said if no copy could be read. `why` names the device
// and says what to do. `sb` and `scan` are filled in as far as known in every case.
int sb_read(struct bdev *dev, struct superblock *sb, struct sb_scan *scan, struct errmsg *why) ATTR_MUST_USE;

// Increments sb->generation and writes as described above (flush included after the last copy). What sb_read() would
// refuse is not written: -EINVAL, and -EOVERFLOW after 2^63 generations. After another error the generation on the
// device is the old or the new one, and the device has failed.
int sb_write(struct bdev *dev, struct superblock *sb) ATTR_MUST_USE;

// Geometry for a new volume: n_blks and ms_shift from the size (about 200 metaslabs of a power of two between 16 MiB
// and 16 GiB; at most 4096, for which they may grow to 256 GiB). -EINVAL below SB_MIN_VOLUME_BYTES.
int sb_geometry(uint64_t size_bytes, struct superblock *sb, struct errmsg *why) ATTR_MUST_USE;

// The three fixed runs that hold the copies of a volume of n_blks.
void sb_fixed_runs(uint64_t n_blks, struct run out[SB_COPIES]);

static inline uint32_t sb_n_metaslabs(const struct superblock *sb)
{
	return (uint32_t)((sb->n_blks + (1ull << sb->ms_shift) - 1) >> sb->ms_shift);
}

// Encode and decode one copy; buf has SB_SIZE bytes. sb_decode validates everything that one copy can tell: 0, -EINVAL
// (no magic), -EUCLEAN, -ENOTSUP (then only generation, version, feature words and UUID are set).
void sb_encode(const struct superblock *sb, void *buf);
int sb_decode(const void *buf, struct superblock *sb, struct errmsg *why) ATTR_MUST_USE;

#endif
