// SPDX-License-Identifier: MIT
// The volume that the inputs of fuzz_database change: small, with every kind of file, as a crash has left it.
#ifndef HYBRIDFS_TESTS_FUZZ_PREPARED_H
#define HYBRIDFS_TESTS_FUZZ_PREPARED_H

#include "block/bdev.h"

#define PREPARED_BYTES (8ull << 20)

// A device with it, the caller's: inline files, extents, unwritten ones, holes, raw files, attributes, links of both
// kinds, special files, a directory of many; orphans; rows of table deferred; frames in the log that the database has
// not got. Byte for byte the same each time with the same SQLite: clock and random numbers stand still while it is
// made.
struct bdev *prepared_create(void);

#endif
