// SPDX-License-Identifier: MIT
// Every statement that the daemon runs, in one place. Prepared once when the volume is opened.
#include "meta/store_internal.h"

#define INODE_COLUMNS \
	"i.ino, i.parent, i.mode, i.nlink, i.uid, i.gid, i.rdev, i.flags, i.size, i.blocks, i.atime, i.mtime, i.ctime, i.btime"
#define EXTENT_COLUMNS "off, phys, len, flags"

const char *const store_sql[STMT_N] = {
	[STMT_BEGIN] = "BEGIN IMMEDIATE",
	[STMT_BEGIN_READ] = "BEGIN",
	[STMT_COMMIT] = "COMMIT",
	[STMT_ROLLBACK] = "ROLLBACK",
	[STMT_PAGE_COUNT] = "PRAGMA page_count",
	[STMT_FREELIST_COUNT] = "PRAGMA freelist_count",

	[STMT_CONFIG_GET] = "SELECT value FROM config WHERE key = ?1",
	[STMT_CONFIG_SET] = "INSERT OR REPLACE INTO config(key, value) VALUES(?1, ?2)",

	[STMT_INODE_GET] = "SELECT " INODE_COLUMNS " FROM inode i WHERE i.ino = ?1",
	[STMT_INODE_LAST] = "SELECT max(ino) FROM inode",
	[STMT_INODE_INSERT] = "INSERT INTO inode(ino, parent, mode, nlink, uid, gid, rdev, flags, size, blocks, atime, mtime,"
	                      " ctime, btime) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
	[STMT_INODE_UPDATE] = "UPDATE inode SET parent = ?2, mode = ?3, nlink = ?4, uid = ?5, gid = ?6, rdev = ?7, flags = ?8,"
	                      " size = ?9, blocks = ?10, atime = ?11, mtime = ?12, ctime = ?13 WHERE ino = ?1",
	[STMT_INODE_DELETE] = "DELETE FROM inode WHERE ino = ?1",

	[STMT_DIRENT_FIND] = "SELECT cookie, ino, type, name FROM dirent WHERE parent = ?1 AND cookie >= ?2 AND cookie < ?3"
	                     " AND name = ?4",
	[STMT_DIRENT_PROBE] = "SELECT cookie, name FROM dirent WHERE parent = ?1 AND cookie >= ?2 AND cookie < ?3 ORDER BY cookie",
	[STMT_DIRENT_INSERT] = "INSERT INTO dirent(parent, cookie, ino, type, name) VALUES(?1, ?2, ?3, ?4, ?5)",
	[STMT_DIRENT_DELETE] = "DELETE FROM dirent WHERE parent = ?1 AND cookie = ?2",
	[STMT_DIRENT_REPOINT] = "UPDATE dirent SET ino = ?3, type = ?4 WHERE parent = ?1 AND cookie = ?2",
	[STMT_DIRENT_SCAN] = "SELECT cookie, ino, type, name FROM dirent WHERE parent = ?1 AND cookie > ?2 ORDER BY cookie",
	[STMT_DIRENT_SCAN_PLUS] = "SELECT d.cookie, d.ino, d.type, d.name, " INODE_COLUMNS
	                          " FROM dirent d LEFT JOIN inode i ON i.ino = d.ino"
	                          " WHERE d.parent = ?1 AND d.cookie > ?2 ORDER BY d.cookie",
	[STMT_DIRENT_ANY] = "SELECT 1 FROM dirent WHERE parent = ?1 LIMIT 1",

	[STMT_INLINE_GET] = "SELECT data FROM inline WHERE ino = ?1",
	[STMT_INLINE_SET] = "INSERT OR REPLACE INTO inline(ino, data) VALUES(?1, ?2)",
	[STMT_INLINE_DELETE] = "DELETE FROM inline WHERE ino = ?1",

	[STMT_XATTR_GET] = "SELECT value FROM xattr WHERE ino = ?1 AND name = ?2",
	[STMT_XATTR_SET] = "INSERT OR REPLACE INTO xattr(ino, name, value) VALUES(?1, ?2, ?3)",
	[STMT_XATTR_REMOVE] = "DELETE FROM xattr WHERE ino = ?1 AND name = ?2",
	[STMT_XATTR_LIST] = "SELECT name FROM xattr WHERE ino = ?1 ORDER BY name",
	[STMT_XATTR_DELETE_ALL] = "DELETE FROM xattr WHERE ino = ?1",

	[STMT_EXTENT_AT_OR_BEFORE] = "SELECT " EXTENT_COLUMNS " FROM extent WHERE ino = ?1 AND off <= ?2"
	                             " ORDER BY off DESC LIMIT 1",
	[STMT_EXTENT_AFTER] = "SELECT " EXTENT_COLUMNS " FROM extent WHERE ino = ?1 AND off > ?2 ORDER BY off",
	[STMT_EXTENT_BACKWARDS] = "SELECT " EXTENT_COLUMNS " FROM extent WHERE ino = ?1 AND off < ?2 ORDER BY off DESC",
	[STMT_EXTENT_INSERT] = "INSERT INTO extent(ino, off, phys, len, flags) VALUES(?1, ?2, ?3, ?4, ?5)",
	[STMT_EXTENT_RESIZE] = "UPDATE extent SET len = ?3 WHERE ino = ?1 AND off = ?2",
	[STMT_EXTENT_DELETE] = "DELETE FROM extent WHERE ino = ?1 AND off = ?2",

	[STMT_ORPHAN_ADD] = "INSERT OR IGNORE INTO orphan(ino) VALUES(?1)",
	[STMT_ORPHAN_REMOVE] = "DELETE FROM orphan WHERE ino = ?1",
	[STMT_ORPHAN_HAS] = "SELECT 1 FROM orphan WHERE ino = ?1",
	[STMT_ORPHAN_LIST] = "SELECT ino FROM orphan WHERE ino > ?1 ORDER BY ino LIMIT ?2",

	[STMT_METASLAB_LIST] = "SELECT ms, free_blk FROM metaslab ORDER BY ms",
	[STMT_METASLAB_GET] = "SELECT free_blk, log_bytes, base_bytes FROM metaslab WHERE ms = ?1",
	[STMT_METASLAB_SET] = "INSERT OR REPLACE INTO metaslab(ms, free_blk, largest_blk, log_bytes, base_bytes)"
	                      " VALUES(?1, ?2, ?3, ?4, ?5)",
	[STMT_SPACEMAP_ROWS] = "SELECT runs FROM spacemap WHERE ms = ?1 ORDER BY seq",
	// length() does not read the overflow pages of a long one.
	[STMT_SPACEMAP_LAST] = "SELECT seq, CASE WHEN length(runs) <= ?2 THEN runs END FROM spacemap WHERE ms = ?1"
	                       " ORDER BY seq DESC LIMIT 1",
	[STMT_SPACEMAP_INSERT] = "INSERT INTO spacemap(ms, seq, runs) VALUES(?1, ?2, ?3)",
	[STMT_SPACEMAP_REWRITE] = "UPDATE spacemap SET runs = ?3 WHERE ms = ?1 AND seq = ?2",
	[STMT_SPACEMAP_DELETE] = "DELETE FROM spacemap WHERE ms = ?1",

	[STMT_CSUM_GET] = "SELECT crc FROM csum WHERE chunk = ?1",
	[STMT_CSUM_SET] = "INSERT INTO csum(chunk, crc) VALUES(?1, ?2) ON CONFLICT(chunk) DO UPDATE SET crc = excluded.crc",
	[STMT_CSUM_DELETE] = "DELETE FROM csum WHERE chunk BETWEEN ?1 AND ?2",

	[STMT_DEFERRED_NEXT] = "SELECT slot, phys, txn, crc, data FROM deferred"
	                       " WHERE slot >= ?1 AND txn >= ?2 ORDER BY slot LIMIT 1",
	[STMT_DEFERRED_LAST_TXN] = "SELECT max(txn) FROM deferred WHERE txn BETWEEN 0 AND ?1",
	[STMT_DEFERRED_ANY] = "SELECT 1 FROM deferred LIMIT 1",
	// SQLite overwrites a row in place only when it has looked at the old one. The last condition makes it do so, however it was built.
	[STMT_DEFERRED_UPDATE] = "UPDATE deferred SET phys = ?2, txn = ?3, crc = ?4, pad = ?5, data = ?6 WHERE slot = ?1 AND txn IS NOT NULL",
	[STMT_DEFERRED_INSERT] = "INSERT INTO deferred(slot, phys, txn, crc, pad, data) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
	[STMT_DEFERRED_DELETE] = "DELETE FROM deferred WHERE slot = ?1",
	[STMT_DEFERRED_CLEAR] = "DELETE FROM deferred",
};
