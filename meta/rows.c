// SPDX-License-Identifier: MIT
// Rows of inode and inline.
#include "meta/rows.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "meta/inode_cache.h"
#include "meta/rows_internal.h"
#include "meta/store_internal.h"
#include "util/blk.h"
#include "util/log.h"

static bool type_is_known(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		return true;
	default:
		return false;
	}
}

static bool row_is_sane(const struct inode_row *row)
{
	if (row->ino == 0 || !type_is_known(row->mode) || (row->mode >> 16) != 0)
		return false;
	if (row->blocks_blk > FILE_MAX_BYTES / BLK_SIZE || row->size_bytes > FILE_MAX_BYTES)
		return false;
	if ((row->flags & INODE_INLINE) == 0)
		return true;
	return row->blocks_blk == 0 &&
	       ((S_ISREG(row->mode) && row->size_bytes <= INLINE_MAX_BYTES) ||
	        (S_ISLNK(row->mode) && row->size_bytes <= SYMLINK_MAX_BYTES));
}

int inode_from_columns(sqlite3_stmt *stmt, int first, struct inode_row *row)
{
	row->ino = (uint64_t)sqlite3_column_int64(stmt, first);
	row->parent = (uint64_t)sqlite3_column_int64(stmt, first + 1);
	row->mode = (uint32_t)sqlite3_column_int64(stmt, first + 2);
	row->nlink = (uint32_t)sqlite3_column_int64(stmt, first + 3);
	row->uid = (uint32_t)sqlite3_column_int64(stmt, first + 4);
	row->gid = (uint32_t)sqlite3_column_int64(stmt, first + 5);
	row->rdev = (uint32_t)sqlite3_column_int64(stmt, first + 6);
	row->flags = (uint32_t)sqlite3_column_int64(stmt, first + 7);
	row->size_bytes = (uint64_t)sqlite3_column_int64(stmt, first + 8);
	row->blocks_blk = (uint64_t)sqlite3_column_int64(stmt, first + 9);
	row->atime_ns = sqlite3_column_int64(stmt, first + 10);
	row->mtime_ns = sqlite3_column_int64(stmt, first + 11);
	row->ctime_ns = sqlite3_column_int64(stmt, first + 12);
	row->btime_ns = sqlite3_column_int64(stmt, first + 13);
	if (row_is_sane(row))
		return 0;
	msg_error("inode %llu is damaged (mode %o, flags %x, size %llu, blocks %llu); run fsck.hybridfs",
	          (unsigned long long)row->ino, row->mode, row->flags, (unsigned long long)row->size_bytes,
	          (unsigned long long)row->blocks_blk);
	return -EUCLEAN;
}

int inode_get(struct store *st, uint64_t ino, struct inode_row *row)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_INODE_GET);
	int rc;

	store_assert_locked(st);
	if (inode_cache_get(st->inodes, ino, row))
		return 0;
	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	rc = stmt_row(st, stmt, "read inode");
	if (rc == 1)
		rc = inode_from_columns(stmt, 0, row);
	else if (rc == 0)
		rc = -ENOENT;
	stmt_done(stmt);
	if (rc == 0)
		inode_cache_remember(st->inodes, row);
	return rc;
}

int inode_last(struct store *st, uint64_t *ino)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_INODE_LAST);
	int rc = stmt_row(st, stmt, "read inode numbers");

	*ino = rc == 1 ? (uint64_t)sqlite3_column_int64(stmt, 0) : 0;
	stmt_done(stmt);
	return rc < 0 ? rc : 0;
}

// Parameters 1 to 13, which insert and update have in common.
static void bind_inode(sqlite3_stmt *stmt, const struct inode_row *row)
{
	sqlite3_bind_int64(stmt, 1, (int64_t)row->ino);
	sqlite3_bind_int64(stmt, 2, (int64_t)row->parent);
	sqlite3_bind_int64(stmt, 3, row->mode);
	sqlite3_bind_int64(stmt, 4, row->nlink);
	sqlite3_bind_int64(stmt, 5, row->uid);
	sqlite3_bind_int64(stmt, 6, row->gid);
	sqlite3_bind_int64(stmt, 7, row->rdev);
	sqlite3_bind_int64(stmt, 8, row->flags);
	sqlite3_bind_int64(stmt, 9, (int64_t)row->size_bytes);
	sqlite3_bind_int64(stmt, 10, (int64_t)row->blocks_blk);
	sqlite3_bind_int64(stmt, 11, row->atime_ns);
	sqlite3_bind_int64(stmt, 12, row->mtime_ns);
	sqlite3_bind_int64(stmt, 13, row->ctime_ns);
}

int inode_row_insert(struct store *st, const struct inode_row *row)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_INODE_INSERT);

	bind_inode(stmt, row);
	sqlite3_bind_int64(stmt, 14, row->btime_ns);
	return stmt_write(st, stmt, "add inode", NULL);
}

int inode_row_update(struct store *st, const struct inode_row *row)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_INODE_UPDATE);

	bind_inode(stmt, row);
	return stmt_write(st, stmt, "change inode", NULL);
}

int inode_insert(struct store *st, const struct inode_row *row)
{
	int err = store_may_write(st);

	if (err == 0 && !inode_cache_insert(st->inodes, row, &err))
		err = inode_row_insert(st, row);
	st->n_inodes += err == 0;
	return err;
}

int inode_update(struct store *st, const struct inode_row *row)
{
	int err = store_may_write(st);

	if (err == 0 && !inode_cache_update(st->inodes, row, &err))
		err = inode_row_update(st, row);
	return err;
}

int inode_delete(struct store *st, uint64_t ino)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_INODE_DELETE);
	int err = store_may_write(st), changed = 1;

	if (err == 0 && !inode_cache_delete(st->inodes, ino)) {
		sqlite3_bind_int64(stmt, 1, (int64_t)ino);
		err = stmt_write(st, stmt, "delete inode", &changed);
	}
	st->n_inodes -= err == 0 ? changed : 0;
	return err;
}

// ---- inline data ----

int inline_get(struct store *st, uint64_t ino, void *buf, size_t cap, size_t *len)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_INLINE_GET);
	int rc;

	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	rc = stmt_row(st, stmt, "read inline data");
	if (rc == 1) {
		const void *data = sqlite3_column_blob(stmt, 0);
		size_t n = (size_t)sqlite3_column_bytes(stmt, 0);

		rc = n > cap ? -EUCLEAN : 0;
		if (rc == 0 && n > 0)
			memcpy(buf, data, n);
		*len = n;
	} else if (rc == 0) {
		rc = -ENOENT;
	}
	stmt_done(stmt);
	return rc;
}

int inline_set(struct store *st, uint64_t ino, const void *buf, size_t len)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_INLINE_SET);
	int err;

	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	sqlite3_bind_blob(stmt, 2, len > 0 ? buf : "", (int)len, SQLITE_STATIC);
	err = stmt_write(st, stmt, "write inline data", NULL);
	sqlite3_bind_null(stmt, 2);
	return err;
}

int inline_delete(struct store *st, uint64_t ino)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_INLINE_DELETE);

	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	return stmt_write(st, stmt, "delete inline data", NULL);
}
