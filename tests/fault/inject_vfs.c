// SPDX-License-Identifier: MIT
// SQLite's files that fail by plan. When a volume registers its VFS (the linker sends sqlite3_vfs_register() here), the methods
// in its structure are replaced by ones that ask first; files that it opens get tables of methods that do the same.
//
// Not failed, since their callers have no way to hear of it and the real ones cannot fail: closing, unlocking, the barrier,
// and the giving of time, sleep and randomness.
#include <sqlite3.h>
#include <string.h>

#include "inject.h"

struct vfs_below {
	sqlite3_vfs vfs;            // all volumes have the same methods
	const sqlite3_io_methods *db, *log; // as they come from xOpen: with and without shared memory
};

static struct vfs_below *below(void)
{
	static struct vfs_below one;

	return &one;
}

static const sqlite3_io_methods *real(sqlite3_file *file);
#define STRIKE() inject_strike(FAULT_VFS, __builtin_return_address(0))

static int file_close(sqlite3_file *file) { return real(file)->xClose(file); }

static int file_read(sqlite3_file *file, void *buf, int len, sqlite3_int64 off)
{
	return STRIKE() ? SQLITE_IOERR_READ : real(file)->xRead(file, buf, len, off);
}

static int file_write(sqlite3_file *file, const void *buf, int len, sqlite3_int64 off)
{
	return STRIKE() ? SQLITE_IOERR_WRITE : real(file)->xWrite(file, buf, len, off);
}

static int file_truncate(sqlite3_file *file, sqlite3_int64 size)
{
	return STRIKE() ? SQLITE_IOERR_TRUNCATE : real(file)->xTruncate(file, size);
}

static int file_sync(sqlite3_file *file, int flags) { return STRIKE() ? SQLITE_IOERR_FSYNC : real(file)->xSync(file, flags); }

static int file_size(sqlite3_file *file, sqlite3_int64 *size)
{
	return STRIKE() ? SQLITE_IOERR_FSTAT : real(file)->xFileSize(file, size);
}

static int file_lock(sqlite3_file *file, int level) { return STRIKE() ? SQLITE_IOERR_LOCK : real(file)->xLock(file, level); }
static int file_unlock(sqlite3_file *file, int level) { return real(file)->xUnlock(file, level); }

static int file_check_reserved(sqlite3_file *file, int *yes)
{
	return STRIKE() ? SQLITE_IOERR_CHECKRESERVEDLOCK : real(file)->xCheckReservedLock(file, yes);
}

static int file_control(sqlite3_file *file, int op, void *arg)
{
	return STRIKE() ? SQLITE_IOERR : real(file)->xFileControl(file, op, arg);
}

static int file_sector(sqlite3_file *file) { return real(file)->xSectorSize(file); }
static int file_characteristics(sqlite3_file *file) { return real(file)->xDeviceCharacteristics(file); }

static int file_shm_map(sqlite3_file *file, int region, int bytes, int extend, void volatile **out)
{
	return STRIKE() ? SQLITE_IOERR_SHMMAP : real(file)->xShmMap(file, region, bytes, extend, out);
}

static int file_shm_lock(sqlite3_file *file, int first, int n, int flags)
{
	if ((flags & SQLITE_SHM_LOCK) != 0 && STRIKE())
		return SQLITE_IOERR_SHMLOCK;
	return real(file)->xShmLock(file, first, n, flags);
}

static void file_shm_barrier(sqlite3_file *file) { real(file)->xShmBarrier(file); }
static int file_shm_unmap(sqlite3_file *file, int delete_it) { return real(file)->xShmUnmap(file, delete_it); }

#define METHODS(version) \
	.iVersion = version, .xClose = file_close, .xRead = file_read, .xWrite = file_write, .xTruncate = file_truncate, \
	.xSync = file_sync, .xFileSize = file_size, .xLock = file_lock, .xUnlock = file_unlock, \
	.xCheckReservedLock = file_check_reserved, .xFileControl = file_control, .xSectorSize = file_sector, \
	.xDeviceCharacteristics = file_characteristics

static const sqlite3_io_methods db_methods = {
	METHODS(2),
	.xShmMap = file_shm_map, .xShmLock = file_shm_lock, .xShmBarrier = file_shm_barrier, .xShmUnmap = file_shm_unmap,
};
static const sqlite3_io_methods log_methods = { METHODS(1) };

static const sqlite3_io_methods *real(sqlite3_file *file) { return file->pMethods == &db_methods ? below()->db : below()->log; }

static int vfs_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *file, int flags, int *out_flags)
{
	int rc;

	if (STRIKE()) {
		file->pMethods = NULL;
		return SQLITE_CANTOPEN;
	}
	rc = below()->vfs.xOpen(vfs, path, file, flags, out_flags);
	if (rc == SQLITE_OK && file->pMethods->iVersion >= 2) {
		below()->db = file->pMethods;
		file->pMethods = &db_methods;
	} else if (rc == SQLITE_OK) {
		below()->log = file->pMethods;
		file->pMethods = &log_methods;
	}
	return rc;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *path, int sync_dir)
{
	return STRIKE() ? SQLITE_IOERR_DELETE : below()->vfs.xDelete(vfs, path, sync_dir);
}

static int vfs_access(sqlite3_vfs *vfs, const char *path, int flags, int *yes)
{
	return STRIKE() ? SQLITE_IOERR_ACCESS : below()->vfs.xAccess(vfs, path, flags, yes);
}

static int vfs_full_pathname(sqlite3_vfs *vfs, const char *path, int n_out, char *out)
{
	return STRIKE() ? SQLITE_CANTOPEN_FULLPATH : below()->vfs.xFullPathname(vfs, path, n_out, out);
}

int __real_sqlite3_vfs_register(sqlite3_vfs *vfs, int make_default);
int __wrap_sqlite3_vfs_register(sqlite3_vfs *vfs, int make_default);
int __wrap_sqlite3_vfs_register(sqlite3_vfs *vfs, int make_default)
{
	if (STRIKE())
		return SQLITE_NOMEM;
	below()->vfs = *vfs;
	vfs->xOpen = vfs_open;
	vfs->xDelete = vfs_delete;
	vfs->xAccess = vfs_access;
	vfs->xFullPathname = vfs_full_pathname;
	return __real_sqlite3_vfs_register(vfs, make_default);
}
