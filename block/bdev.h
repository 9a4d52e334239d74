// SPDX-License-Identifier: MIT
// The backing device: an image file, a block device, or a test device in memory, behind one vtable.
//
// Owner:   whoever opened it; bdev_close() ends it. A bdev outlives everything built on it.
// Lock:    none needed: read, write, flush and discard may run in parallel from any thread.
// Units:   bytes; offsets and lengths of writes are multiples of 512 or better of BLK_SIZE, reads are free.
// Errors:  0 or a negative errno. A short transfer inside the device is -EIO, never a short count. A request outside
//          the device or a misaligned write is -EINVAL; write, flush and discard on a read-only device are -EROFS.
//
// Errors stop the line: after the first failed write or flush the device takes no further write and no further
// flush: these answer -EROFS without touching the medium (a failed flush has lost data that a retry would
// pretend to have saved). Reads go on. bdev_failed() tells. The failure itself is logged here, once.
//
// B1  A write that returned 0 is durable once a flush that began after it returned 0. Not before.
// B2  Nothing outside [0, size_bytes) is ever touched.
#ifndef HYBRIDFS_BLOCK_BDEV_H
#define HYBRIDFS_BLOCK_BDEV_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "util/attr.h"
#include "util/errmsg.h"

struct bdev;

// What a backend provides. Called only through the functions below, which have checked the range, the read-only
// state and the failed state already. Each transfers everything or returns a negative errno.
struct bdev_ops {
	const char *kind; // "file", "block device", "memory"
	int (*readv)(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes);
	int (*writev)(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes);
	int (*flush)(struct bdev *dev);
	int (*discard)(struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes); // content undefined after it
	void (*fill_holes)(struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes); // or NULL
	void (*close)(struct bdev *dev); // frees the backend; the name is freed by bdev_close()
};

// Backends embed this as their first member.
struct bdev {
	const struct bdev_ops *ops;
	char *name;          // as the user wrote it; for messages. Owned.
	uint64_t size_bytes; // rounded down to BLK_SIZE
	bool read_only;      // the medium, or the caller's wish
	bool can_discard;
	atomic_bool failed;             // sticky, see above
	atomic_uint_fast64_t n_reads, n_writes, n_flushes; // requests sent to the medium
	atomic_uint_fast64_t read_bytes, written_bytes;
};

int bdev_read(struct bdev *dev, void *buf, size_t len_bytes, uint64_t off_bytes) ATTR_MUST_USE;
int bdev_readv(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes) ATTR_MUST_USE;
int bdev_write(struct bdev *dev, const void *buf, size_t len_bytes, uint64_t off_bytes) ATTR_MUST_USE;
int bdev_writev(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes) ATTR_MUST_USE;
int bdev_flush(struct bdev *dev) ATTR_MUST_USE;
int bdev_discard(struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes) ATTR_MUST_USE; // -EOPNOTSUPP if it cannot
// From now on as after a failure, but nothing has failed and nothing is logged: for whoever wants no more to be written.
static inline void bdev_stop(struct bdev *dev) { atomic_store(&dev->failed, true); }
// Where the range is a hole of an image file, the host gives it blocks now: the content stays zeros. A flush that follows a write into
// a hole makes the host commit its own metadata, too (100 us instead of 60). Only a matter of speed: what does not work is left out.
void bdev_fill_holes(struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes);
static inline bool bdev_failed(struct bdev *dev) { return atomic_load(&dev->failed); }
void bdev_close(struct bdev *dev); // does not flush; NULL is allowed

// ---- image files and block devices (bdev_file.c) ----

enum bdev_open_flags {
	BDEV_READ_ONLY = 1 << 0, // open for reading only; without it a read-only medium makes read_only true by itself
	BDEV_NO_LOCK = 1 << 1,   // do not lock (only for looking at a superblock of a device in use)
};

// Opens and locks: image files by flock(2) (exclusive for writing, shared for reading), block devices by O_EXCL and
// flock. If another process holds it: waits up to wait_ms for it to go (a daemon that still writes after umount),
// then -EBUSY, and `why` names the holder (pid and program when /proc tells) and the mount point if it has one.
// A holder that has the device mounted (in /proc/self/mountinfo) is not waited for.
int bdev_open_file(const char *path, unsigned flags, unsigned wait_ms, struct bdev **out,
                   struct errmsg *why) ATTR_MUST_USE;

// Creates (or, with `replace`, truncates) a sparse image of size_bytes, then opens it as above. -EEXIST.
int bdev_create_file(const char *path, uint64_t size_bytes, bool replace, struct bdev **out,
                     struct errmsg *why) ATTR_MUST_USE;

#endif
