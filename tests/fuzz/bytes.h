// SPDX-License-Identifier: MIT
// Reading an input: little-endian numbers, zeros behind its end.
#ifndef HYBRIDFS_TESTS_FUZZ_BYTES_H
#define HYBRIDFS_TESTS_FUZZ_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bytes {
	const uint8_t *data;
	size_t size, at;
};

static inline bool bytes_left(const struct bytes *b) { return b->at < b->size; }

static inline uint64_t bytes_take(struct bytes *b, unsigned n)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < n; i++)
		value |= (uint64_t)(bytes_left(b) ? b->data[b->at++] : 0) << (8 * i);
	return value;
}

#endif
