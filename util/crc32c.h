// SPDX-License-Identifier: MIT
// CRC-32C (Castagnoli), as in iSCSI, ext4 and btrfs: initial value ~0, result inverted.
// Computed by ISA-L, which uses the CPU's crc32 and pclmulqdq instructions.
#ifndef HYBRIDFS_UTIL_CRC32C_H
#define HYBRIDFS_UTIL_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(const void *buf, size_t len_bytes); // len below 2^31

#endif
