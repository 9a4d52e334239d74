// SPDX-License-Identifier: MIT
// Rows of xattr: extended attributes by full name.
#include <errno.h>
#include <string.h>
#include <sys/xattr.h>

#include "meta/rows.h"
#include "meta/store_internal.h"

static void bind_key(sqlite3_stmt *stmt, uint64_t ino, const char *name)
{
	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	sqlite3_bind_blob(stmt, 2, name, (int)strlen(name), SQLITE_STATIC);
}

int xattr_get(struct store *st, uint64_t ino, const char *name, void *buf, size_t cap, size_t *len)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_XATTR_GET);
	int rc;

	bind_key(stmt, ino, name);
	rc = stmt_row(st, stmt, "read attribute");
	if (rc == 1) {
		const void *data = sqlite3_column_blob(stmt, 0);

		*len = (size_t)sqlite3_column_bytes(stmt, 0);
		rc = 0;
		if (cap > 0 && *len > cap)
			rc = -ERANGE;
		else if (cap > 0 && *len > 0)
			memcpy(buf, data, *len);
	} else if (rc == 0) {
		rc = -ENODATA;
	}
	stmt_done(stmt);
	sqlite3_bind_null(stmt, 2);
	return rc;
}

int xattr_set(struct store *st, uint64_t ino, const char *name, const void *value, size_t len, int flags)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_XATTR_SET);
	size_t old_len;
	int err;

	if (flags != 0) {
		err = xattr_get(st, ino, name, NULL, 0, &old_len);
		if (err == 0 && (flags & XATTR_CREATE) != 0)
			return -EEXIST;
		if (err != 0 && (err != -ENODATA || (flags & XATTR_REPLACE) != 0))
			return err;
	}
	bind_key(stmt, ino, name);
	sqlite3_bind_blob(stmt, 3, len > 0 ? value : "", (int)len, SQLITE_STATIC);
	atomic_fetch_add(&st->large_bytes, len);
	err = stmt_write(st, stmt, "write attribute", NULL);
	sqlite3_clear_bindings(stmt);
	return err;
}

int xattr_remove(struct store *st, uint64_t ino, const char *name)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_XATTR_REMOVE);
	int err, changed = 0;

	bind_key(stmt, ino, name);
	err = stmt_write(st, stmt, "remove attribute", &changed);
	sqlite3_bind_null(stmt, 2);
	return err == 0 && changed == 0 ? -ENODATA : err;
}

int xattr_list(struct store *st, uint64_t ino, char *buf, size_t cap, size_t *len)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_XATTR_LIST);
	size_t used = 0;
	int rc;

	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	while ((rc = stmt_row(st, stmt, "list attributes")) == 1) {
		const void *name = sqlite3_column_blob(stmt, 0);
		size_t n = (size_t)sqlite3_column_bytes(stmt, 0);

		if (name == NULL || n == 0 || n > XATTR_NAME_MAX_BYTES || memchr(name, '\0', n) != NULL) {
			rc = -EUCLEAN;
			break;
		}
		if (cap > 0 && used + n + 1 > cap) {
			rc = -ERANGE;
			break;
		}
		if (cap > 0) {
			memcpy(buf + used, name, n);
			buf[used + n] = '\0';
		}
		used += n + 1;
	}
	stmt_done(stmt);
	*len = used;
	return rc;
}

int xattr_delete_all(struct store *st, uint64_t ino)
{
	sqlite3_stmt *stmt = store_stmt(st, STMT_XATTR_DELETE_ALL);

	sqlite3_bind_int64(stmt, 1, (int64_t)ino);
	return stmt_write(st, stmt, "delete attributes", NULL);
}
