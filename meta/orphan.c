// SPDX-License-Identifier: MIT
// Orphans: deleting inodes without a name and finishing long truncates, piece by piece. See orphan.h.
#include "meta/orphan.h"

#include <errno.h>
#include <stdbool.h>

#include "meta/extmap.h"
#include "meta/rows.h"
#include "meta/store_internal.h"
#include "meta/volume.h"
#include "util/blk.h"

int orphan_add(struct volume *vol, uint64_t ino)
{
	sqlite3_stmt *stmt = store_stmt(vol->store, STMT_ORPHAN_ADD);

	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	return stmt_write(vol->store, stmt, "add orphan", NULL);
}

int orphan_remove(struct volume *vol, uint64_t ino)
{
	sqlite3_stmt *stmt = store_stmt(vol->store, STMT_ORPHAN_REMOVE);

	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	return stmt_write(vol->store, stmt, "remove orphan", NULL);
}

static int orphan_has(struct volume *vol, uint64_t ino)
{
	sqlite3_stmt *stmt = store_stmt(vol->store, STMT_ORPHAN_HAS);
	int rc;

	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	rc = stmt_row(vol->store, stmt, "look up orphan");
	stmt_done(stmt);
	return rc;
}

// The last piece: no extent is left that should go.
static int finish_row(struct volume *vol, struct inode_row *row)
{
	int err = 0;

	if (row->nlink > 0) {
		err = inode_update(vol->store, row);
	} else {
		if ((row->flags & INODE_INLINE) != 0)
			err = inline_delete(vol->store, row->ino);
		if (err == 0)
			err = xattr_delete_all(vol->store, row->ino);
		if (err == 0)
			err = inode_delete(vol->store, row->ino);
	}
	return err != 0 ? err : orphan_remove(vol, row->ino);
}

// One piece; the handle is joined and the store locked. *more: call again.
static int finish_piece(struct volume *vol, uint64_t ino, bool *more)
{
	struct inode_row row;
	uint64_t keep_blk, removed = 0;
	int rc;

	*more = false;
	rc = orphan_has(vol, ino);
	if (rc <= 0)
		return rc;
	rc = inode_get(vol->store, ino, &row);
	if (rc == -ENOENT)
		return orphan_remove(vol, ino);
	if (rc != 0)
		return rc;
	keep_blk = row.nlink == 0 ? 0 : bytes_to_blk_up(row.size_bytes);
	if ((row.flags & INODE_INLINE) == 0)
		rc = extmap_remove(vol, ino, keep_blk, FILE_MAX_BYTES / BLK_SIZE - keep_blk, ORPHAN_PIECE_ROWS, more, &removed);
	if (rc != 0)
		return rc;
	row.blocks_blk -= min_u64(removed, row.blocks_blk);
	return *more ? inode_update(vol->store, &row) : finish_row(vol, &row);
}

int orphan_finish(struct volume *vol, uint64_t ino)
{
	bool more;
	uint64_t id;
	int err;

	do {
		err = txn_begin(vol, TXN_FREE, &id);
		if (err != 0)
			return err;
		store_lock(vol->store);
		err = finish_piece(vol, ino, &more);
		store_unlock(vol->store);
		txn_end(vol);
	} while (err == 0 && more);
	return err;
}

int orphan_list(struct volume *vol, uint64_t after, uint64_t *inos, unsigned max, unsigned *n)
{
	sqlite3_stmt *stmt = store_stmt(vol->store, STMT_ORPHAN_LIST);
	int rc;

	*n = 0;
	sqlite3_bind_int64(stmt, 1, (int64_t)after);
	sqlite3_bind_int64(stmt, 2, max);
	while ((rc = stmt_row(vol->store, stmt, "list orphans")) == 1 && *n < max)
		inos[(*n)++] = (uint64_t)sqlite3_column_int64(stmt, 0);
	stmt_done(stmt);
	return rc < 0 ? rc : 0;
}
