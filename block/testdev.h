// SPDX-License-Identifier: MIT
// A device in memory for tests: sparse, recording, failing, and able to show itself as it would be after a crash.
//
// Every write and flush is appended to a log. From the log any crash state can be made: the first k entries as
// they are, minus writes dropped from the last flush epochs, with some torn at 512-byte sectors.
//
// Lock: its own mutex; any thread. testdev_* functions other than create are meant for a quiescent device.
#ifndef HYBRIDFS_BLOCK_TESTDEV_H
#define HYBRIDFS_BLOCK_TESTDEV_H

#include "block/bdev.h"

#define TESTDEV_SECTOR 512u

enum testdev_op { TESTDEV_READ, TESTDEV_WRITE, TESTDEV_FLUSH, TESTDEV_DISCARD, TESTDEV_N_OPS };

#define TESTDEV_POISON 0xDD // what discarded sectors read as

// A new device of zeros. 0 or -ENOMEM. Memory follows what is written (zeros over zeros need none), also for a device of many TiB.
int testdev_create(uint64_t size_bytes, struct bdev **out) ATTR_MUST_USE;
// An independent copy of the present content (without log and faults): "pull the plug and look".
int testdev_clone(struct bdev *dev, struct bdev **out) ATTR_MUST_USE;

// --- recording ---
// What a fault let fail is not in the log: a failed write left the medium as it was, a failed flush made nothing durable.
struct testdev_entry {
	enum testdev_op op; // TESTDEV_WRITE, TESTDEV_FLUSH or TESTDEV_DISCARD
	uint64_t off_bytes, len_bytes;
	const void *data; // of a write; owned by the log
};
// Off by default; switching on empties the log and remembers the content as the base; switching off keeps the log.
void testdev_record(struct bdev *dev, bool on);
size_t testdev_log_len(struct bdev *dev);
const struct testdev_entry *testdev_log_at(struct bdev *dev, size_t i);

// The device after a crash when n entries of the log had been sent. Entries before the last flush among these n are
// all there. Of the ones after it, entry i survives only if keep == NULL or keep(ctx, i, &from, &to) returns
// true, and then only its sectors [from, to) (preset to all of it). Kept entries are applied in order.
typedef bool (*testdev_keep_fn)(void *ctx, size_t entry, uint64_t *from_sector, uint64_t *to_sector);
int testdev_crash_state(struct bdev *dev, size_t n, testdev_keep_fn keep, void *ctx,
                        struct bdev **out) ATTR_MUST_USE;

// The same for requests in any order and number: after the entries before the last flush, the pieces are applied as they stand, each a
// part of one of the entries after it. So writes overtake each other, come twice, or not at all.
struct testdev_piece {
	size_t entry;
	uint64_t from_sector, to_sector; // to_sector may lie beyond the entry's end
};
int testdev_crash_pieces(struct bdev *dev, size_t n, const struct testdev_piece *pieces, size_t n_pieces,
                         struct bdev **out) ATTR_MUST_USE;

// --- faults ---
// The nth call of op from now on (1 = the next) fails with err (EIO or -EIO); with `persistent` all later ones too.
// nth 0 clears. One fault of each op at a time; calls that bdev.c has refused already do not count.
void testdev_fail(struct bdev *dev, enum testdev_op op, uint64_t nth, int err, bool persistent);
uint64_t testdev_count(struct bdev *dev, enum testdev_op op); // calls so far, since testdev_fail() was last called
bool testdev_fault_fired(struct bdev *dev);                      // likewise

#endif
