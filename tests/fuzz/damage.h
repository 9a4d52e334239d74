// SPDX-License-Identifier: MIT
// What an input of fuzz_database means: a list of changes of the prepared volume. Each begins with a byte that says
// which (its remainder by the number of kinds), so that any bytes are a list; numbers are little-endian; what is
// missing at the end is zeros.
//
//     S table(1) column(1) row(2) value             a column of a row
//     C table(1) column(1) row(2) value             a copy of a row, with that column
//     X table(1) row(2)                             a row less
//     B table(1) row(2) at(2) byte(1)               a byte in a blob
//     H which(1)                                    one of a list of hostile statements
//     D part(1) at(3) n(1) byte…                    bytes: of the database file (0), the log (1), newest pages (2, 3)
//     P from(2) to(2)                               a page of the database over another
//     K copies(1) at(2) n(1) byte…                  bytes of superblocks, with a right checksum
//
// A value is a kind and what belongs to it: see damage.c. SQL comes first, through the volume's own transactions with
// SQLite's checks off; then the bytes, in their order. What D and P change has right checksums (image.h), unless the
// top three bits of `part` and `to` are all set.
#ifndef HYBRIDFS_TESTS_FUZZ_DAMAGE_H
#define HYBRIDFS_TESTS_FUZZ_DAMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "block/bdev.h"

#define DAMAGE_MAX 24u // changes of one input; the rest of it is left unread

void damage_apply(struct bdev *dev, const uint8_t *data, size_t size);

#endif
