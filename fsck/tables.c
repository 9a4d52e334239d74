// SPDX-License-Identifier: MIT
#include "fsck/tables.h"

#include <string.h>

#include "meta/csum.h"
#include "meta/rows.h"

// csum before inline: the form of its rows says more.
const struct table table_forms[T_N] = {
	[T_CONFIG] = { .name = "config", .columns = "ti", .blob_max = 64 },
	[T_INODE] = { .name = "inode", .columns = "kiiiiiiiiiiiii" },
	[T_DIRENT] = { .name = "dirent", .columns = "iiiib", .blob_max = NAME_MAX_BYTES },
	[T_EXTENT] = { .name = "extent", .columns = "iiiii" },
	[T_CSUM] = { .name = "csum", .columns = "kb", .blob_max = CSUM_ROW_BYTES },
	[T_INLINE] = { .name = "inline", .columns = "kb", .blob_max = SYMLINK_MAX_BYTES, .exact = true },
	[T_XATTR] = { .name = "xattr", .columns = "ibb", .blob_max = XATTR_VALUE_MAX_BYTES, .exact = true },
	[T_ORPHAN] = { .name = "orphan", .columns = "k" },
	[T_DEFERRED] = { .name = "deferred", .columns = "kiiibb", .blob_max = BLK_SIZE },
	[T_METASLAB] = { .name = "metaslab", .columns = "kiiii" },
	[T_SPACEMAP] = { .name = "spacemap", .columns = "iib", .blob_max = 1u << 24 },
};

const struct table *table_form(const char *name)
{
	for (int i = 0; i < T_N; i++)
		if (strcmp(table_forms[i].name, name) == 0)
			return &table_forms[i];
	return NULL;
}
