// SPDX-License-Identifier: MIT
// Little-endian integers as they stand on the device. The wrapper structs keep an on-disk number from being
// used without conversion.
#ifndef HYBRIDFS_UTIL_ENDIAN_H
#define HYBRIDFS_UTIL_ENDIAN_H

#include <endian.h>
#include <stdint.h>

typedef struct { uint16_t v; } le16;
typedef struct { uint32_t v; } le32;
typedef struct { uint64_t v; } le64;

static inline le16 to_le16(uint16_t x) { return (le16){ htole16(x) }; }
static inline le32 to_le32(uint32_t x) { return (le32){ htole32(x) }; }
static inline le64 to_le64(uint64_t x) { return (le64){ htole64(x) }; }
static inline uint16_t from_le16(le16 x) { return le16toh(x.v); }
static inline uint32_t from_le32(le32 x) { return le32toh(x.v); }
static inline uint64_t from_le64(le64 x) { return le64toh(x.v); }

#endif
