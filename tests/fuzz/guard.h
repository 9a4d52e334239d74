// SPDX-License-Identifier: MIT
// A device that stops the process when something is written where it must not be.
//
// Around another device. It knows from the superblock where the system files and the superblocks' copies lie, and from
// the one who writes what is being written: sb_write() and sysfile_write() are entered through the linker's --wrap.
// Everything else is file data.
//
// G1  File data and discards stay inside the volume and never touch a copy of the superblock or a system file.
// G2  A system file never touches a copy of the superblock.
//
// Lock: its own; any thread.
#ifndef HYBRIDFS_TESTS_FUZZ_GUARD_H
#define HYBRIDFS_TESTS_FUZZ_GUARD_H

#include "block/bdev.h"

// Takes `inner` over. What stands on it may be anything; as long as it has no valid superblock nothing is forbidden.
struct bdev *guard_create(struct bdev *inner);

#endif
