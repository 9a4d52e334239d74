// SPDX-License-Identifier: MIT
#include "meta/schema.h"

const char schema_sql[] =
	"CREATE TABLE config(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"

	// Times are nanoseconds since the epoch. parent is 0 for everything but directories.
	"CREATE TABLE inode(ino INTEGER PRIMARY KEY, parent INTEGER NOT NULL, mode INTEGER NOT NULL,"
	" nlink INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, rdev INTEGER NOT NULL,"
	" flags INTEGER NOT NULL, size INTEGER NOT NULL, blocks INTEGER NOT NULL, atime INTEGER NOT NULL,"
	" mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, btime INTEGER NOT NULL);"

	// One B-tree serves lookup and readdir: the cookie is a keyed hash of the name.
	"CREATE TABLE dirent(parent INTEGER NOT NULL, cookie INTEGER NOT NULL, ino INTEGER NOT NULL,"
	" type INTEGER NOT NULL, name BLOB NOT NULL, PRIMARY KEY(parent, cookie)) WITHOUT ROWID;"

	// off, phys and len in blocks; flags: 1 = unwritten.
	"CREATE TABLE extent(ino INTEGER NOT NULL, off INTEGER NOT NULL, phys INTEGER NOT NULL,"
	" len INTEGER NOT NULL, flags INTEGER NOT NULL, PRIMARY KEY(ino, off)) WITHOUT ROWID;"

	"CREATE TABLE inline(ino INTEGER PRIMARY KEY, data BLOB NOT NULL);"

	"CREATE TABLE xattr(ino INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL,"
	" PRIMARY KEY(ino, name)) WITHOUT ROWID;"

	"CREATE TABLE orphan(ino INTEGER PRIMARY KEY);"

	// Checksums of file data, those of a chunk of blocks in a row.
	"CREATE TABLE csum(chunk INTEGER PRIMARY KEY, crc BLOB NOT NULL);"

	// Blocks that are still to be written to their places.
	// (Equally long rows, so that one takes the place of another.)
	"CREATE TABLE deferred(slot INTEGER PRIMARY KEY, phys INTEGER NOT NULL, txn INTEGER NOT NULL,"
	" crc INTEGER NOT NULL, pad BLOB NOT NULL, data BLOB NOT NULL);"

	// A metaslab without a row is all free.
	"CREATE TABLE metaslab(ms INTEGER PRIMARY KEY, free_blk INTEGER NOT NULL, largest_blk INTEGER NOT NULL,"
	" log_bytes INTEGER NOT NULL, base_bytes INTEGER NOT NULL);"

	"CREATE TABLE spacemap(ms INTEGER NOT NULL, seq INTEGER NOT NULL, runs BLOB NOT NULL,"
	" PRIMARY KEY(ms, seq)) WITHOUT ROWID;";
