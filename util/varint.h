// SPDX-License-Identifier: MIT
// LEB128: 7 bits a byte, low bits first, the high bit says that more follow. At most 10 bytes.
#ifndef HYBRIDFS_UTIL_VARINT_H
#define HYBRIDFS_UTIL_VARINT_H

#include <stddef.h>
#include <stdint.h>

#define VARINT_MAX_LEN 10

// Bytes that v takes.
static inline size_t varint_len(uint64_t v)
{
	return (size_t)(63 - __builtin_clzll(v | 1)) / 7 + 1;
}

// Writes v at buf, which has room for VARINT_MAX_LEN; returns the bytes used.
static inline size_t varint_put(uint8_t *buf, uint64_t v)
{
	size_t n = 0;

	while (v >= 0x80) {
		buf[n++] = (uint8_t)(v | 0x80);
		v >>= 7;
	}
	buf[n++] = (uint8_t)v;
	return n;
}

// Reads from [buf, buf + len); returns the bytes used, or 0 if cut short or over 64 bits. One and two bytes, nearly all that there are
// in a fragmented space map, come before the loop.
static inline size_t varint_get(const uint8_t *buf, size_t len, uint64_t *v)
{
	uint64_t out = 0;

	if (len >= 1 && buf[0] < 0x80) {
		*v = buf[0];
		return 1;
	}
	if (len >= 2 && buf[1] < 0x80) {
		*v = (buf[0] & 0x7fu) | (uint64_t)buf[1] << 7;
		return 2;
	}
	for (size_t n = 0; n < len && n < VARINT_MAX_LEN; n++) {
		uint64_t bits = buf[n] & 0x7f;

		if (n == 9 && bits > 1)
			return 0;
		out |= bits << (7 * n);
		if ((buf[n] & 0x80) == 0) {
			*v = out;
			return n + 1;
		}
	}
	return 0;
}

#endif
