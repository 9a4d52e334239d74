// SPDX-License-Identifier: MIT
// Rows of dirent: names in directories, ordered by cookie.
//
// The cookie is a keyed 63-bit hash of the name. Two names with one hash are so rare (a million names: 5 in 10^8) that they need
// not be fast, but they must be right: a name may stand at its hash or up to DIRENT_PROBES - 1 behind it, and a lookup always
// looks at this whole range, so that deleting one of the colliding names never hides another. Readdir wants cookies that are
// unique in the directory and never change, which the primary key guarantees.
#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "meta/inode_cache.h"
#include "meta/rows.h"
#include "meta/rows_internal.h"
#include "meta/store_internal.h"
#include "util/log.h"

uint64_t dirent_hash(uint64_t key, const char *name, size_t len)
{
	uint64_t h = XXH3_64bits_withSeed(name, len, key) >> 1;

	if (h < DIRENT_COOKIE_MIN)
		h += DIRENT_COOKIE_MIN;
	if (h > INT64_MAX - DIRENT_PROBES)
		h = INT64_MAX - DIRENT_PROBES;
	return h;
}

// Columns 0 to 3: cookie, ino, type, name.
static int dirent_from_columns(sqlite3_stmt *stmt, uint64_t parent, struct dirent_row *row)
{
	const void *name = sqlite3_column_blob(stmt, 3);
	int len = sqlite3_column_bytes(stmt, 3);

	row->cookie = (uint64_t)sqlite3_column_int64(stmt, 0);
	row->ino = (uint64_t)sqlite3_column_int64(stmt, 1);
	row->type = (uint8_t)sqlite3_column_int(stmt, 2);
	if (name == NULL || len < 1 || len > (int)NAME_MAX_BYTES || memchr(name, '/', (size_t)len) != NULL ||
	    memchr(name, '\0', (size_t)len) != NULL || row->cookie < DIRENT_COOKIE_MIN || row->ino == 0) {
		msg_error("directory %llu: entry %llu is damaged; run fsck.hybridfs", (unsigned long long)parent,
		          (unsigned long long)row->cookie);
		return -EUCLEAN;
	}
	row->name_len = (uint8_t)len;
	memcpy(row->name, name, (size_t)len);
	row->name[len] = '\0';
	return 0;
}

int dirent_find(struct store *st, uint64_t parent, const char *name, size_t len, struct dirent_row *row)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_DIRENT_FIND);
	uint64_t h = dirent_hash(st->hash_key, name, len);
	int rc;

	sqlite3_bind_int64(stmt, 1, (int64_t)parent);
	sqlite3_bind_int64(stmt, 2, (int64_t)h);
	sqlite3_bind_int64(stmt, 3, (int64_t)(h + DIRENT_PROBES));
	sqlite3_bind_blob(stmt, 4, name, (int)len, SQLITE_STATIC);
	rc = stmt_row(st, stmt, "look up name");
	if (rc == 1)
		rc = dirent_from_columns(stmt, parent, row);
	else if (rc == 0)
		rc = -ENOENT;
	stmt_done(stmt);
	sqlite3_bind_null(stmt, 4);
	return rc;
}

// The first free cookie for the name, or -EEXIST.
static int probe(struct store *st, uint64_t parent, const char *name, size_t len, uint64_t *cookie)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_DIRENT_PROBE);
	uint64_t h = dirent_hash(st->hash_key, name, len), place = h;
	int rc;

	sqlite3_bind_int64(stmt, 1, (int64_t)parent);
	sqlite3_bind_int64(stmt, 2, (int64_t)h);
	sqlite3_bind_int64(stmt, 3, (int64_t)(h + DIRENT_PROBES));
	while ((rc = stmt_row(st, stmt, "find a place for a name")) == 1) {
		if (sqlite3_column_bytes(stmt, 1) == (int)len && memcmp(sqlite3_column_blob(stmt, 1), name, len) == 0) {
			rc = -EEXIST;
			break;
		}
		place += (uint64_t)sqlite3_column_int64(stmt, 0) == place;
	}
	stmt_done(stmt);
	if (rc == 0 && place >= h + DIRENT_PROBES)
		rc = -ENOSPC;
	*cookie = place;
	return rc;
}

int dirent_insert(struct store *st, uint64_t parent, const char *name, size_t len, uint64_t ino, uint8_t type)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_DIRENT_INSERT);
	uint64_t cookie;
	int err;

	err = probe(st, parent, name, len, &cookie);
	if (err != 0)
		return err;
	sqlite3_bind_int64(stmt, 1, (int64_t)parent);
	sqlite3_bind_int64(stmt, 2, (int64_t)cookie);
	sqlite3_bind_int64(stmt, 3, (int64_t)ino);
	sqlite3_bind_int(stmt, 4, type);
	sqlite3_bind_blob(stmt, 5, name, (int)len, SQLITE_STATIC);
	err = stmt_write(st, stmt, "add name", NULL);
	sqlite3_bind_null(stmt, 5);
	return err;
}

int dirent_delete(struct store *st, uint64_t parent, uint64_t cookie)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_DIRENT_DELETE);

	sqlite3_bind_int64(stmt, 1, (int64_t)parent);
	sqlite3_bind_int64(stmt, 2, (int64_t)cookie);
	return stmt_write(st, stmt, "delete name", NULL);
}

int dirent_repoint(struct store *st, uint64_t parent, uint64_t cookie, uint64_t ino, uint8_t type)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_DIRENT_REPOINT);

	sqlite3_bind_int64(stmt, 1, (int64_t)parent);
	sqlite3_bind_int64(stmt, 2, (int64_t)cookie);
	sqlite3_bind_int64(stmt, 3, (int64_t)ino);
	sqlite3_bind_int(stmt, 4, type);
	return stmt_write(st, stmt, "change name", NULL);
}

int dirent_scan(struct store *st, uint64_t parent, uint64_t after, bool want_inode, dirent_fn fn, void *ctx)
{
	sqlite3_stmt *stmt = store_stmt(st, want_inode ? STMT_DIRENT_SCAN_PLUS : STMT_DIRENT_SCAN);
	struct dirent_row row;
	struct inode_row inode;
	int rc;

	if (after > INT64_MAX)
		return 0;
	sqlite3_bind_int64(stmt, 1, (int64_t)parent);
	sqlite3_bind_int64(stmt, 2, (int64_t)after);
	while ((rc = stmt_row(st, stmt, "read directory")) == 1) {
		rc = dirent_from_columns(stmt, parent, &row);
		if (rc == 0 && row.cookie <= after)
			rc = -EUCLEAN; // a damaged tree is out of order: who goes on from there never comes to an end
		after = row.cookie;
		if (rc == 0 && want_inode && !inode_cache_get(st->inodes, row.ino, &inode)) {
			if (sqlite3_column_type(stmt, 4) == SQLITE_NULL)
				continue; // a name without an inode is for fsck
			rc = inode_from_columns(stmt, 4, &inode);
		}
		if (rc == 0)
			rc = fn(ctx, &row, want_inode ? &inode : NULL);
		if (rc != 0)
			break;
	}
	stmt_done(stmt);
	return rc < 0 ? rc : 0;
}

int dirent_is_empty(struct store *st, uint64_t parent, bool *empty)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_DIRENT_ANY);
	int rc;

	sqlite3_bind_int64(stmt, 1, (int64_t)parent);
	rc = stmt_row(st, stmt, "look into directory");
	stmt_done(stmt);
	*empty = rc == 0;
	return rc < 0 ? rc : 0;
}
