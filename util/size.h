// SPDX-License-Identifier: MIT
// Sizes as people write them: "20G" = 20 × 2^30. Suffixes K M G T P, optionally followed by "iB" or "B".
#ifndef HYBRIDFS_UTIL_SIZE_H
#define HYBRIDFS_UTIL_SIZE_H

#include <stdint.h>

#include "util/attr.h"

// 0, -EINVAL (not a size) or -ERANGE (does not fit in 63 bits).
int size_parse(const char *text, uint64_t *bytes) ATTR_MUST_USE;

#define SIZE_TEXT_LEN 24
// "1.5 GiB"; returns buf.
const char *size_format(uint64_t bytes, char buf[SIZE_TEXT_LEN]);

#endif
