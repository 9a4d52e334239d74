// SPDX-License-Identifier: MIT
// The SQLite VFS over the system files. Two files exist in it, DBVFS_FILE and its WAL; every other name is refused, so that
// nothing of a volume can ever land in the host's filesystem.
//
// Sizes. SQLite learns how large the database is from its header (or from the log), and needs the file's size only as an upper
// bound, so a database on a device is as large as its extents; it is empty only while mkfs makes it (`fresh`). The log is
// empty when it has no valid magic; otherwise it is as large as its extents or what memory holds: recovery reads up to there, but
// stops at the first frame that does not carry on the chain of checksums.
//
// A read-only device is opened as if it could be written, since SQLite has to run recovery to see what the log holds. All of
// recovery goes to the wal-index in memory. Whatever would reach the device answers SQLITE_READONLY.
#include "meta/dbvfs.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "meta/dbpage.h"
#include "meta/dbvfs_shm.h"
#include "meta/wal_log.h"
#include "util/blk.h"
#include "util/log.h"

#define WAL_FILE DBVFS_FILE "-wal"
#define DB_GROW_MIN_BYTES (1ull << 20)

struct dbvfs {
	sqlite3_vfs base; // pAppData points here
	char name[32];
	sqlite3_vfs *os;  // for time, sleep and randomness
	struct sysfiles *files;
	struct dbvfs_hooks hooks;
	struct wal_log log;
	struct dbvfs_shm shm;
	bool fresh;
	atomic_uint_fast64_t fresh_size; // of the database while fresh: the highest end written
	atomic_int last_errno;
};

struct dbvfs_file {
	sqlite3_file base;
	struct dbvfs *vfs;
	struct dbvfs_conn conn;
	int persist_wal;
};

static struct dbvfs *vfs_of(sqlite3_vfs *base) { return base->pAppData; }
static struct dbvfs *file_vfs(sqlite3_file *base) { return ((struct dbvfs_file *)base)->vfs; }
static struct dbvfs_conn *file_conn(sqlite3_file *base) { return &((struct dbvfs_file *)base)->conn; }

// The one place where the device's errors become SQLite's. `ioerr` is the code for a plain I/O error of this operation.
static int result(struct dbvfs *vfs, int err, int ioerr)
{
	if (err >= 0)
		return SQLITE_OK;
	atomic_store(&vfs->last_errno, err);
	switch (err) {
	case -EUCLEAN:
		return SQLITE_CORRUPT;
	case -ENOSPC:
	case -EFBIG:
		return SQLITE_FULL;
	case -ENOMEM:
		return SQLITE_IOERR_NOMEM;
	case -EROFS: // also what a device says that has failed before: that one is an I/O error
		return vfs->files->dev->read_only ? SQLITE_READONLY : ioerr;
	default:
		return ioerr;
	}
}

// ---- the database file ----

static uint64_t db_size(struct dbvfs *vfs)
{
	return vfs->fresh ? atomic_load(&vfs->fresh_size) : sysfile_capacity_bytes(vfs->files, SYSFILE_DB);
}

// Makes the extents reach to `end`: geometrically while there is room, else by what is needed.
static int db_reserve(struct dbvfs *vfs, uint64_t end)
{
	uint64_t cap = sysfile_capacity_bytes(vfs->files, SYSFILE_DB), need_blk, ahead_blk;
	int err;

	if (end <= cap)
		return 0;
	need_blk = bytes_to_blk_up(end - cap);
	ahead_blk = max_u64(need_blk, bytes_to_blk_up(max_u64(cap / 8, DB_GROW_MIN_BYTES)));
	err = sysfile_grow(vfs->files, SYSFILE_DB, ahead_blk);
	if ((err == -ENOSPC || err == -EFBIG) && ahead_blk > need_blk)
		err = sysfile_grow(vfs->files, SYSFILE_DB, need_blk);
	return err;
}

static void note_fresh_end(struct dbvfs *vfs, uint64_t end)
{
	uint_fast64_t old = atomic_load(&vfs->fresh_size);

	while (old < end && !atomic_compare_exchange_weak(&vfs->fresh_size, &old, end))
		;
}

static uint32_t page_number(sqlite3_int64 off) { return (uint32_t)((uint64_t)off / BLK_SIZE + 1); }

static bool is_page(int len, sqlite3_int64 off) { return len == (int)BLK_SIZE && off % BLK_SIZE == 0; }

static int check_page(struct dbvfs *vfs, const void *page, sqlite3_int64 off)
{
	if (dbpage_is_sound(page, page_number(off)))
		return SQLITE_OK;
	msg_error("%s: page %u of the database is damaged: its checksum does not fit", vfs->files->dev->name, page_number(off));
	return result(vfs, -EUCLEAN, SQLITE_IOERR_READ);
}

static int db_read(sqlite3_file *base, void *buf, int len, sqlite3_int64 off)
{
	struct dbvfs *vfs = file_vfs(base);
	uint64_t size = db_size(vfs);
	size_t inside = (uint64_t)off < size ? min_u64((uint64_t)len, size - (uint64_t)off) : 0;
	int err = sysfile_read(vfs->files, SYSFILE_DB, buf, inside, (uint64_t)off);

	if (err < 0)
		return result(vfs, err, SQLITE_IOERR_READ);
	memset((char *)buf + inside, 0, (size_t)len - inside);
	if (inside < (size_t)len)
		return SQLITE_IOERR_SHORT_READ;
	return is_page(len, off) ? check_page(vfs, buf, off) : SQLITE_OK; // SQLite reads the header, and then page 1 as a whole
}

static int db_write(sqlite3_file *base, const void *buf, int len, sqlite3_int64 off)
{
	struct dbvfs *vfs = file_vfs(base);
	uint64_t end = (uint64_t)off + (uint64_t)len;
	uint8_t page[BLK_SIZE];
	int err;

	// Only whole pages are ever written, by a checkpoint or as the first of a new database.
	if (!is_page(len, off) || (off == 0 && ((const uint8_t *)buf)[DBPAGE_RESERVED_AT] != DBPAGE_RESERVED))
		return result(vfs, -EUCLEAN, SQLITE_IOERR_WRITE);
	memcpy(page, buf, BLK_SIZE);
	dbpage_seal(page, page_number(off));
	err = db_reserve(vfs, end);
	if (err == 0)
		err = sysfile_write(vfs->files, SYSFILE_DB, page, BLK_SIZE, (uint64_t)off);
	if (err == 0)
		note_fresh_end(vfs, end);
	return result(vfs, err, SQLITE_IOERR_WRITE);
}

// A checkpoint ends with this, and the size may be larger than what was written: pages at the end can be free ones.
static int db_truncate(sqlite3_file *base, sqlite3_int64 size)
{
	struct dbvfs *vfs = file_vfs(base);
	int err = db_reserve(vfs, (uint64_t)size);

	if (err == 0)
		atomic_store(&vfs->fresh_size, (uint64_t)size);
	return result(vfs, err, SQLITE_IOERR_TRUNCATE);
}

static int db_sync(sqlite3_file *base, ATTR_UNUSED int flags)
{
	struct dbvfs *vfs = file_vfs(base);

	return result(vfs, bdev_flush(vfs->files->dev), SQLITE_IOERR_FSYNC); // D4
}

static int db_file_size(sqlite3_file *base, sqlite3_int64 *size)
{
	*size = (sqlite3_int64)db_size(file_vfs(base));
	return SQLITE_OK;
}

static int db_close(sqlite3_file *base)
{
	struct dbvfs *vfs = file_vfs(base);

	dbvfs_shm_unmap(&vfs->shm, file_conn(base));
	dbvfs_file_unlock(&vfs->shm, file_conn(base), SQLITE_LOCK_NONE);
	return SQLITE_OK;
}

static int db_lock(sqlite3_file *base, int level)
{
	return dbvfs_file_lock(&file_vfs(base)->shm, file_conn(base), level);
}

static int db_unlock(sqlite3_file *base, int level)
{
	dbvfs_file_unlock(&file_vfs(base)->shm, file_conn(base), level);
	return SQLITE_OK;
}

static int db_check_reserved(sqlite3_file *base, int *reserved)
{
	*reserved = dbvfs_file_is_reserved(&file_vfs(base)->shm);
	return SQLITE_OK;
}

static int db_file_control(sqlite3_file *base, int op, void *arg)
{
	struct dbvfs_file *file = (struct dbvfs_file *)base;
	struct dbvfs *vfs = file->vfs;
	int *value = arg;

	switch (op) {
	case SQLITE_FCNTL_PERSIST_WAL: // negative asks
		if (*value >= 0)
			file->persist_wal = *value != 0;
		*value = file->persist_wal;
		return SQLITE_OK;
	case SQLITE_FCNTL_POWERSAFE_OVERWRITE: // a fact here, not a setting
		*value = 1;
		return SQLITE_OK;
	case SQLITE_FCNTL_SIZE_HINT:
		return result(vfs, db_reserve(vfs, *(uint64_t *)arg), SQLITE_IOERR_TRUNCATE);
	case SQLITE_FCNTL_HAS_MOVED:
		*value = 0;
		return SQLITE_OK;
	case SQLITE_FCNTL_LAST_ERRNO:
		*value = -atomic_load(&vfs->last_errno);
		return SQLITE_OK;
	case SQLITE_FCNTL_VFSNAME:
		*(char **)arg = sqlite3_mprintf("%s", vfs->name);
		return SQLITE_OK;
	default:
		return SQLITE_NOTFOUND;
	}
}

static int db_shm_map(sqlite3_file *base, int region, int region_bytes, int extend, void volatile **out)
{
	return dbvfs_shm_map(&file_vfs(base)->shm, file_conn(base), region, region_bytes, extend != 0, out);
}

static int db_shm_lock(sqlite3_file *base, int first, int n, int flags)
{
	return dbvfs_shm_lock(&file_vfs(base)->shm, file_conn(base), first, n, flags);
}

static void db_shm_barrier(sqlite3_file *base) { dbvfs_shm_barrier(&file_vfs(base)->shm); }

static int db_shm_unmap(sqlite3_file *base, ATTR_UNUSED int delete_it)
{
	dbvfs_shm_unmap(&file_vfs(base)->shm, file_conn(base));
	return SQLITE_OK;
}

// ---- the log ----

static int log_read(sqlite3_file *base, void *buf, int len, sqlite3_int64 off)
{
	struct dbvfs *vfs = file_vfs(base);
	size_t missing;
	int err = wal_log_read(&vfs->log, buf, (size_t)len, (uint64_t)off, &missing);

	if (err < 0)
		return result(vfs, err, SQLITE_IOERR_READ);
	return missing == 0 ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

static int log_write(sqlite3_file *base, const void *buf, int len, sqlite3_int64 off)
{
	struct dbvfs *vfs = file_vfs(base);

	return result(vfs, wal_log_write(&vfs->log, buf, (size_t)len, (uint64_t)off), SQLITE_IOERR_WRITE);
}

// To nothing, it is the end of the log. To any other size (PRAGMA journal_size_limit) it is about space that is ours anyway.
static int log_truncate(sqlite3_file *base, sqlite3_int64 size)
{
	struct dbvfs *vfs = file_vfs(base);

	return size > 0 ? SQLITE_OK : result(vfs, wal_log_invalidate(&vfs->log), SQLITE_IOERR_TRUNCATE);
}

static int log_sync(sqlite3_file *base, ATTR_UNUSED int flags)
{
	struct dbvfs *vfs = file_vfs(base);

	return result(vfs, vfs->hooks.wal_sync(vfs->hooks.ctx), SQLITE_IOERR_FSYNC); // D3
}

static int log_file_size(sqlite3_file *base, sqlite3_int64 *size)
{
	*size = (sqlite3_int64)wal_log_size(&file_vfs(base)->log);
	return SQLITE_OK;
}

static int log_close(ATTR_UNUSED sqlite3_file *base) { return SQLITE_OK; }
static int log_lock(ATTR_UNUSED sqlite3_file *base, ATTR_UNUSED int level) { return SQLITE_OK; }

static int log_check_reserved(ATTR_UNUSED sqlite3_file *base, int *reserved)
{
	*reserved = 0;
	return SQLITE_OK;
}

static int log_file_control(ATTR_UNUSED sqlite3_file *base, ATTR_UNUSED int op, ATTR_UNUSED void *arg)
{
	return SQLITE_NOTFOUND;
}

// ---- both ----

static int sector_size(ATTR_UNUSED sqlite3_file *base) { return BLK_SIZE; }

// POWERSAFE_OVERWRITE: a write changes no byte outside its own range, at a power loss neither (sectors tear at their borders;
// what shares a sector is written again as it was). SEQUENTIAL matters to the log only, and there it is kept where it counts: a
// new log's header is on stable storage before its frames are sent (wal_log.h, W4). Nothing else is claimed.
static int device_characteristics(ATTR_UNUSED sqlite3_file *base)
{
	return SQLITE_IOCAP_POWERSAFE_OVERWRITE | SQLITE_IOCAP_SEQUENTIAL;
}

static const sqlite3_io_methods db_methods = {
	.iVersion = 2,
	.xClose = db_close,
	.xRead = db_read,
	.xWrite = db_write,
	.xTruncate = db_truncate,
	.xSync = db_sync,
	.xFileSize = db_file_size,
	.xLock = db_lock,
	.xUnlock = db_unlock,
	.xCheckReservedLock = db_check_reserved,
	.xFileControl = db_file_control,
	.xSectorSize = sector_size,
	.xDeviceCharacteristics = device_characteristics,
	.xShmMap = db_shm_map,
	.xShmLock = db_shm_lock,
	.xShmBarrier = db_shm_barrier,
	.xShmUnmap = db_shm_unmap,
};

static const sqlite3_io_methods log_methods = {
	.iVersion = 1,
	.xClose = log_close,
	.xRead = log_read,
	.xWrite = log_write,
	.xTruncate = log_truncate,
	.xSync = log_sync,
	.xFileSize = log_file_size,
	.xLock = log_lock,
	.xUnlock = log_lock,
	.xCheckReservedLock = log_check_reserved,
	.xFileControl = log_file_control,
	.xSectorSize = sector_size,
	.xDeviceCharacteristics = device_characteristics,
};

// ---- the VFS ----

static int vfs_open(sqlite3_vfs *base, const char *path, sqlite3_file *out, int flags, int *out_flags)
{
	struct dbvfs_file *file = (struct dbvfs_file *)out;

	*file = (struct dbvfs_file){ .vfs = vfs_of(base) };
	if (path != NULL && (flags & SQLITE_OPEN_MAIN_DB) && strcmp(path, DBVFS_FILE) == 0)
		file->base.pMethods = &db_methods;
	else if (path != NULL && (flags & SQLITE_OPEN_WAL) && strcmp(path, WAL_FILE) == 0)
		file->base.pMethods = &log_methods;
	else
		return SQLITE_CANTOPEN;
	if (out_flags != NULL)
		*out_flags = flags;
	return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *base, const char *path, ATTR_UNUSED int sync_dir)
{
	struct dbvfs *vfs = vfs_of(base);

	if (strcmp(path, WAL_FILE) != 0)
		return SQLITE_IOERR_DELETE_NOENT;
	return result(vfs, wal_log_invalidate(&vfs->log), SQLITE_IOERR_DELETE);
}

// A log beside an empty database does not exist: SQLite would delete it, and a new volume has nothing that could be in it.
static int vfs_access(sqlite3_vfs *base, const char *path, ATTR_UNUSED int flags, int *yes)
{
	struct dbvfs *vfs = vfs_of(base);

	if (strcmp(path, DBVFS_FILE) == 0)
		*yes = db_size(vfs) > 0;
	else
		*yes = strcmp(path, WAL_FILE) == 0 && db_size(vfs) > 0 && wal_log_exists(&vfs->log);
	return SQLITE_OK;
}

static int vfs_full_pathname(ATTR_UNUSED sqlite3_vfs *base, const char *path, int n_out, char *out)
{
	int len = snprintf(out, (size_t)n_out, "%s", path);

	return len < n_out ? SQLITE_OK : SQLITE_CANTOPEN;
}

static void *vfs_dl_open(ATTR_UNUSED sqlite3_vfs *base, ATTR_UNUSED const char *path) { return NULL; }

static void vfs_dl_error(ATTR_UNUSED sqlite3_vfs *base, int n_out, char *out)
{
	snprintf(out, (size_t)n_out, "a volume loads no extensions");
}

static int vfs_randomness(sqlite3_vfs *base, int n_out, char *out)
{
	sqlite3_vfs *os = vfs_of(base)->os;

	return os->xRandomness(os, n_out, out);
}

static int vfs_sleep(sqlite3_vfs *base, int us)
{
	sqlite3_vfs *os = vfs_of(base)->os;

	return os->xSleep(os, us);
}

static int vfs_current_time(sqlite3_vfs *base, double *julian_day)
{
	sqlite3_vfs *os = vfs_of(base)->os;

	return os->xCurrentTime(os, julian_day);
}

static int vfs_current_time_ms(sqlite3_vfs *base, sqlite3_int64 *julian_ms)
{
	sqlite3_vfs *os = vfs_of(base)->os;

	return os->xCurrentTimeInt64(os, julian_ms);
}

static int vfs_last_error(sqlite3_vfs *base, ATTR_UNUSED int n_out, ATTR_UNUSED char *out)
{
	return -atomic_load(&vfs_of(base)->last_errno);
}

static const sqlite3_vfs vfs_template = {
	.iVersion = 2,
	.szOsFile = sizeof(struct dbvfs_file),
	.mxPathname = 64,
	.xOpen = vfs_open,
	.xDelete = vfs_delete,
	.xAccess = vfs_access,
	.xFullPathname = vfs_full_pathname,
	.xDlOpen = vfs_dl_open,
	.xDlError = vfs_dl_error,
	.xRandomness = vfs_randomness,
	.xSleep = vfs_sleep,
	.xCurrentTime = vfs_current_time,
	.xGetLastError = vfs_last_error,
	.xCurrentTimeInt64 = vfs_current_time_ms,
};

static int register_vfs(struct dbvfs *vfs)
{
	vfs->os = sqlite3_vfs_find(NULL);
	if (vfs->os == NULL || vfs->os->iVersion < 2)
		return -ENOTSUP;
	vfs->base = vfs_template;
	vfs->base.pAppData = vfs;
	snprintf(vfs->name, sizeof(vfs->name), "hybridfs-%p", (void *)vfs); // nobody else lives at this address
	vfs->base.zName = vfs->name;
	return sqlite3_vfs_register(&vfs->base, 0) == SQLITE_OK ? 0 : -ENOMEM;
}

static int init_parts(struct dbvfs *vfs, struct sysfiles *files, bool fresh)
{
	int err = wal_log_init(&vfs->log, files, fresh);

	if (err < 0)
		return err;
	err = dbvfs_shm_init(&vfs->shm);
	if (err < 0)
		wal_log_destroy(&vfs->log);
	return err;
}

static void destroy_parts(struct dbvfs *vfs)
{
	dbvfs_shm_destroy(&vfs->shm);
	wal_log_destroy(&vfs->log);
}

int dbvfs_create(struct sysfiles *files, const struct dbvfs_hooks *hooks, bool fresh, struct dbvfs **out)
{
	struct dbvfs *vfs = calloc(1, sizeof(*vfs));
	int err;

	if (vfs == NULL)
		return -ENOMEM;
	vfs->files = files;
	vfs->hooks = *hooks;
	vfs->fresh = fresh;
	err = init_parts(vfs, files, fresh);
	if (err == 0) {
		err = register_vfs(vfs);
		if (err < 0)
			destroy_parts(vfs);
	}
	if (err < 0)
		free(vfs);
	else
		*out = vfs;
	return err;
}

void dbvfs_destroy(struct dbvfs *vfs)
{
	if (vfs == NULL)
		return;
	sqlite3_vfs_unregister(&vfs->base);
	destroy_parts(vfs);
	free(vfs);
}

const char *dbvfs_name(const struct dbvfs *vfs) { return vfs->name; }

struct wal_segment *dbvfs_wal_seal(struct dbvfs *vfs) { return wal_log_seal(&vfs->log); }

uint64_t wal_segment_bytes(const struct wal_segment *seg)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < seg->n_spans; i++)
		sum += seg->spans[i].end - seg->spans[i].start;
	return sum;
}

int dbvfs_wal_write(struct dbvfs *vfs, struct wal_segment *seg)
{
	int err = wal_log_put(&vfs->log, seg);

	if (err < 0)
		atomic_store(&vfs->last_errno, err);
	return err;
}

void dbvfs_wal_done(struct dbvfs *vfs, struct wal_segment *seg) { wal_log_drop(&vfs->log, seg); }

// Until SQLite has written something itself, only the wal-index knows how much of the log recovery accepted.
uint64_t dbvfs_wal_end_bytes(struct dbvfs *vfs)
{
	uint64_t end;

	return wal_log_end(&vfs->log, &end) ? end : dbvfs_shm_log_end(&vfs->shm);
}

int dbvfs_last_errno(struct dbvfs *vfs) { return atomic_load(&vfs->last_errno); }
