// SPDX-License-Identifier: MIT
// A one-line explanation that travels beside a negative errno to whoever shows it to a person.
// Optional everywhere: a NULL errmsg is accepted and ignored.
#ifndef HYBRIDFS_UTIL_ERRMSG_H
#define HYBRIDFS_UTIL_ERRMSG_H

#include "util/attr.h"

struct errmsg {
	char text[512];
};

// Stores the formatted text, replacing what was there. Truncates silently.
void errmsg_set(struct errmsg *why, const char *fmt, ...) ATTR_PRINTF(2, 3);

// Puts "prefix: " in front of what is there.
void errmsg_prefix(struct errmsg *why, const char *fmt, ...) ATTR_PRINTF(2, 3);

#endif
