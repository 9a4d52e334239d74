// SPDX-License-Identifier: MIT
// The form of our tables' rows, for whoever reads them from pages (btree.h): meta/schema.c in another notation.
#ifndef HYBRIDFS_FSCK_TABLES_H
#define HYBRIDFS_FSCK_TABLES_H

#include "fsck/btree.h"

enum { T_CONFIG, T_INODE, T_DIRENT, T_EXTENT, T_CSUM, T_INLINE, T_XATTR, T_ORPHAN, T_DEFERRED, T_METASLAB, T_SPACEMAP, T_N };

extern const struct table table_forms[T_N];
const struct table *table_form(const char *name); // NULL: not one of ours

#endif
