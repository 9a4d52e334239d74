// SPDX-License-Identifier: MIT
// Everything that can be wrong with a volume: one code, one text and one repair each.
//
// Every phase tells what it found by problem_found(), and makes the repair if the answer is true. So there is one place
// that prints, asks, counts and decides, and a list (problem.c) of all that fsck knows. tests/fsck has a damaged volume for
// each code and fails when one is missing.
//
// To add a problem: a code here, a row in problem.c, PROBLEM(…) in a phase, a line in tests/fsck/cases.
#ifndef HYBRIDFS_FSCK_PROBLEM_H
#define HYBRIDFS_FSCK_PROBLEM_H

#include <stdbool.h>
#include <stdint.h>

#include "util/attr.h"

struct fsck;

enum problem_code {
	FP_SB_COPY,
	FP_DB_OPEN,
	FP_DB_INTEGRITY,
	FP_TXN_NUMBER,
	FP_DEFERRED_FROM,
	FP_ROW_TYPE,
	FP_ROOT_MISSING,
	FP_INODE_NUMBER,
	FP_INODE_MODE,
	FP_INODE_FIELD,
	FP_INODE_FLAGS,
	FP_INODE_SIZE,
	FP_INODE_BLOCKS,
	FP_SYMLINK_TARGET,
	FP_SYMLINK_SIZE,
	FP_INLINE_UNMARKED,
	FP_INLINE_MISSING,
	FP_INLINE_STRAY,
	FP_INLINE_SIZE,
	FP_EXTENT_STRAY,
	FP_EXTENT_RANGE,
	FP_EXTENT_SYSTEM,
	FP_EXTENT_OVERLAP,
	FP_EXTENT_FLAGS,
	FP_EXTENT_PAST_END,
	FP_BLOCKS_SHARED,
	FP_XATTR_BAD,
	FP_ACL_BAD,
	FP_ACL_MODE,
	FP_ACL_FLAGS,
	FP_ROW_DANGLING,
	FP_NEXT_INO,
	FP_INODE_COUNT,
	FP_SPACEMAP_BAD,
	FP_SPACEMAP_SEQ,
	FP_BLOCKS_LOST,
	FP_BLOCKS_FREE,
	FP_METASLAB_COUNT,
	FP_METASLAB_STRAY,
	FP_CSUM_CHUNK,
	FP_CSUM_SIZE,
	FP_CSUM_MISSING,
	FP_DEFERRED_ROW,
	FP_DEFERRED_PLACE,
	FP_DEFERRED_SIZE,
	FP_DEFERRED_CRC,
	FP_DIRENT_PARENT,
	FP_DIRENT_NAME,
	FP_DIRENT_COOKIE,
	FP_DIRENT_DUPLICATE,
	FP_DIRENT_TARGET,
	FP_DIRENT_TYPE,
	FP_DIR_HARDLINK,
	FP_DIR_PARENT,
	FP_DIR_LOOP,
	FP_DIR_UNCONNECTED,
	FP_UNCONNECTED,
	FP_ORPHAN_MISSING,
	FP_LINK_COUNT,
	FP_DIR_SIZE,
	FP_FILE_DAMAGED,
	FP_N
};

// What a text may speak of: "{ino}" in it stands for the member ino, and so on. A text names only what its caller sets.
struct fact {
	uint64_t ino, parent;
	uint64_t off, start, len; // blocks
	int64_t is, should;
	const char *name; // printable (escape_name)
	const char *text;
};

// Prints the problem; true if it is to be repaired now. With -p a problem that is not harmless to repair makes fsck stop.
bool problem_found(struct fsck *f, enum problem_code code, const struct fact *fact);
#define PROBLEM(f, code, ...) problem_found((f), (code), &(struct fact){ __VA_ARGS__ })

// Prints a line about something that fsck does or cannot do.
void problem_note(struct fsck *f, const char *fmt, ...) ATTR_PRINTF(2, 3);

// Makes any bytes printable, as "a\012b"; returns buf.
#define ESCAPED_NAME_LEN (255 * 4 + 1)
const char *escape_name(const void *name, int len, char buf[ESCAPED_NAME_LEN]);

#endif
