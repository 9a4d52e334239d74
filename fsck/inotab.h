// SPDX-License-Identifier: MIT
// What fsck remembers about every inode (16 bytes each) and about every directory (56 bytes more).
//
// Both arrays are filled in the order of inode numbers and stay sorted: numbers are never reused, and an inode that fsck
// creates has a higher number than all others. Pointers into them are good until the next addition. Single-threaded.
#ifndef HYBRIDFS_FSCK_INOTAB_H
#define HYBRIDFS_FSCK_INOTAB_H

#include <stddef.h>
#include <stdint.h>

#include "util/attr.h"

enum ino_flags {
	INO_ORPHAN = 1 << 0,  // has a row in table orphan
	INO_DELETED = 1 << 1, // link count 0
};

struct ino_info {
	uint64_t ino;
	uint32_t refs; // entries that name it
	uint8_t type;  // DT_*
	uint8_t flags; // ino_flags
	uint16_t nlink; // of its row, up to NLINK_IN_ROW, which stands for any other number
};

#define NLINK_IN_ROW UINT16_MAX

struct inotab {
	struct ino_info *v;
	size_t n, cap;
};

enum dir_state { DIR_UNSEEN, DIR_ON_PATH, DIR_CONNECTED, DIR_GIVEN_UP };

struct dir_info {
	uint64_t ino;
	uint64_t parent;       // column of its row, as size is
	int64_t size;
	uint64_t named_in;     // the directory that has the entry which counts; 0 = none
	uint64_t cookie;       // of that entry
	uint32_t n_entries, n_subdirs;
	enum dir_state state;
};

struct dirtab {
	struct dir_info *v;
	size_t n, cap;
};

int inotab_add(struct inotab *tab, const struct ino_info *info) ATTR_MUST_USE; // ascending; 0 or -ENOMEM
struct ino_info *inotab_find(const struct inotab *tab, uint64_t ino);          // NULL = no such inode
int dirtab_add(struct dirtab *tab, const struct dir_info *info) ATTR_MUST_USE;
struct dir_info *dirtab_find(const struct dirtab *tab, uint64_t ino);
void inotab_free(struct inotab *tab);
void dirtab_free(struct dirtab *tab);

#endif
