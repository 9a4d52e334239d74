// SPDX-License-Identifier: MIT
// A mounted tree as text: one line for each name, with everything about it that a program can see but times. Two trees are
// alike when their texts are equal, and the lines say where they differ. Left out is TREE_PROBE and what is in it: that is
// where tests try things whose outcome is open.
#ifndef HYBRIDFS_TESTS_FAULT_TREE_H
#define HYBRIDFS_TESTS_FAULT_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/fs.h"

#define TREE_PROBE "/probe"

struct text {
	char *at; // NUL-terminated once something was added; owned
	size_t len, cap;
};

void text_add(struct text *text, const char *fmt, ...) ATTR_PRINTF(2, 3);
void text_free(struct text *text);

// Every file is read to its end, every attribute fetched. The first error ends it.
int tree_text(struct fs *fs, struct text *out) ATTR_MUST_USE;

// Equal but for the lines of these paths (NULL: none).
bool tree_alike(const char *a, const char *b, const char *but, const char *but_too);

uint64_t tree_hash(uint64_t hash, const void *bytes, size_t len);

#endif
