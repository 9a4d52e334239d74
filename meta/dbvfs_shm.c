// SPDX-License-Identifier: MIT
// The wal-index in heap memory, its lock slots, and the levels of the database file's lock.
#include "meta/dbvfs_shm.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

int dbvfs_shm_init(struct dbvfs_shm *shm)
{
	*shm = (struct dbvfs_shm){ 0 };
	return -pthread_mutex_init(&shm->lock, NULL);
}

static void free_regions(struct dbvfs_shm *shm)
{
	for (int i = 0; i < shm->n_regions; i++)
		free(shm->regions[i]);
	free(shm->regions);
	shm->regions = NULL;
	shm->n_regions = 0;
}

void dbvfs_shm_destroy(struct dbvfs_shm *shm)
{
	free_regions(shm);
	pthread_mutex_destroy(&shm->lock);
}

// ---- wal-index ----

static int add_region(struct dbvfs_shm *shm)
{
	void **bigger = reallocarray(shm->regions, (size_t)shm->n_regions + 1, sizeof(*bigger));
	void *memory;

	if (bigger == NULL)
		return SQLITE_IOERR_NOMEM;
	shm->regions = bigger;
	memory = calloc(1, (size_t)shm->region_bytes);
	if (memory == NULL)
		return SQLITE_IOERR_NOMEM;
	shm->regions[shm->n_regions++] = memory;
	return SQLITE_OK;
}

int dbvfs_shm_map(struct dbvfs_shm *shm, struct dbvfs_conn *conn, int region, int region_bytes, bool extend,
                  void volatile **out)
{
	int rc = SQLITE_OK;

	pthread_mutex_lock(&shm->lock);
	if (!conn->mapped) {
		conn->mapped = true;
		shm->n_mapped++;
	}
	if (shm->n_regions == 0)
		shm->region_bytes = region_bytes;
	VERIFY(region_bytes == shm->region_bytes); // a constant of SQLite
	while (extend && rc == SQLITE_OK && shm->n_regions <= region)
		rc = add_region(shm);
	*out = region < shm->n_regions ? shm->regions[region] : NULL;
	pthread_mutex_unlock(&shm->lock);
	return rc;
}

static int lock_shared(struct dbvfs_shm *shm, struct dbvfs_conn *conn, int slot)
{
	if (conn->slots_shared & 1u << slot)
		return SQLITE_OK;
	if (shm->slot_exclusive[slot])
		return SQLITE_BUSY;
	shm->slot_shared[slot]++;
	conn->slots_shared |= 1u << slot;
	return SQLITE_OK;
}

// The slots, documented with the WAL format: one for writers, checkpointers and recovery each, then the readers' marks, of which
// the first stands for "reads the database file only".
enum { SLOT_CHECKPOINT = 1, SLOT_FIRST_MARK = 4 };

static bool is_restart(int first, int end) { return first == SLOT_FIRST_MARK && end == SQLITE_SHM_NLOCK; }

// All of them or none. Checkpoint against restart: see the header.
static int lock_exclusive(struct dbvfs_shm *shm, struct dbvfs_conn *conn, int first, int end)
{
	const bool checkpoint = first <= SLOT_CHECKPOINT && end > SLOT_CHECKPOINT, restart = is_restart(first, end);

	if (checkpoint && shm->restarter != NULL && shm->restarter != conn)
		return SQLITE_BUSY;
	if (restart && shm->checkpointer != NULL && shm->checkpointer != conn)
		return SQLITE_BUSY;
	for (int slot = first; slot < end; slot++)
		if ((conn->slots_exclusive & 1u << slot) == 0 && (shm->slot_exclusive[slot] || shm->slot_shared[slot] > 0))
			return SQLITE_BUSY;
	for (int slot = first; slot < end; slot++) {
		shm->slot_exclusive[slot] = true;
		conn->slots_exclusive |= 1u << slot;
	}
	if (checkpoint)
		shm->checkpointer = conn;
	if (restart)
		shm->restarter = conn;
	return SQLITE_OK;
}

static void unlock_slot(struct dbvfs_shm *shm, struct dbvfs_conn *conn, int slot)
{
	if (conn->slots_shared & 1u << slot)
		shm->slot_shared[slot]--;
	if (conn->slots_exclusive & 1u << slot)
		shm->slot_exclusive[slot] = false;
	if (slot == SLOT_CHECKPOINT && shm->checkpointer == conn)
		shm->checkpointer = NULL;
	if (slot == SLOT_FIRST_MARK && shm->restarter == conn)
		shm->restarter = NULL;
	conn->slots_shared &= ~(1u << slot);
	conn->slots_exclusive &= ~(1u << slot);
}

int dbvfs_shm_lock(struct dbvfs_shm *shm, struct dbvfs_conn *conn, int first, int n, int flags)
{
	int rc = SQLITE_OK;

	pthread_mutex_lock(&shm->lock);
	if (flags & SQLITE_SHM_UNLOCK) {
		for (int slot = first; slot < first + n; slot++)
			unlock_slot(shm, conn, slot);
	} else if (flags & SQLITE_SHM_SHARED) {
		rc = lock_shared(shm, conn, first); // SQLite asks for one at a time
	} else {
		rc = lock_exclusive(shm, conn, first, first + n);
	}
	pthread_mutex_unlock(&shm->lock);
	return rc;
}

// SQLite reads and writes the wal-index's header without a lock, twice, with this between the two.
void dbvfs_shm_barrier(struct dbvfs_shm *shm)
{
	atomic_thread_fence(memory_order_seq_cst);
	pthread_mutex_lock(&shm->lock);
	pthread_mutex_unlock(&shm->lock);
}

void dbvfs_shm_unmap(struct dbvfs_shm *shm, struct dbvfs_conn *conn)
{
	pthread_mutex_lock(&shm->lock);
	for (int slot = 0; slot < SQLITE_SHM_NLOCK; slot++)
		unlock_slot(shm, conn, slot);
	if (conn->mapped) {
		conn->mapped = false;
		if (--shm->n_mapped == 0)
			free_regions(shm);
	}
	pthread_mutex_unlock(&shm->lock);
}

// The header of the wal-index, in the machine's byte order, is documented with the WAL format: page size at 14 (65536 is
// kept as 1), number of valid frames at 16.
uint64_t dbvfs_shm_log_end(struct dbvfs_shm *shm)
{
	enum { HEADER_BYTES = 32, FRAME_HEADER_BYTES = 24, OFF_PAGE_SIZE = 14, OFF_FRAMES = 16 };
	uint32_t frames = 0, page_bytes = 0;

	pthread_mutex_lock(&shm->lock);
	if (shm->n_regions > 0) {
		const uint8_t *header = shm->regions[0];

		frames = __atomic_load_n((const uint32_t *)(header + OFF_FRAMES), __ATOMIC_RELAXED);
		page_bytes = __atomic_load_n((const uint16_t *)(header + OFF_PAGE_SIZE), __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&shm->lock);
	if (page_bytes == 1)
		page_bytes = 65536;
	return frames == 0 ? 0 : HEADER_BYTES + (uint64_t)frames * (FRAME_HEADER_BYTES + page_bytes);
}

// ---- the database file's lock ----
//
// In WAL mode every connection holds SHARED while it is open, and the one that closes last finds out by getting EXCLUSIVE.
// The other levels are used while the database is created, before it is in WAL mode.

static int lock_file_locked(struct dbvfs_shm *shm, struct dbvfs_conn *conn, int level)
{
	if (conn->file_level >= level)
		return SQLITE_OK;
	if (shm->pending != NULL && shm->pending != conn)
		return SQLITE_BUSY;
	if (level == SQLITE_LOCK_SHARED) {
		shm->n_shared++;
		conn->file_level = level;
		return SQLITE_OK;
	}
	if (shm->reserved != NULL && shm->reserved != conn)
		return SQLITE_BUSY;
	if (level == SQLITE_LOCK_RESERVED) {
		shm->reserved = conn;
		conn->file_level = level;
		return SQLITE_OK;
	}
	if (shm->n_shared > 1) {
		// A writer keeps new readers out while it waits. Somebody who only asks whether it is the last one does not.
		if (conn->file_level >= SQLITE_LOCK_RESERVED) {
			shm->pending = conn;
			conn->file_level = SQLITE_LOCK_PENDING;
		}
		return SQLITE_BUSY;
	}
	shm->pending = conn;
	conn->file_level = SQLITE_LOCK_EXCLUSIVE;
	return SQLITE_OK;
}

int dbvfs_file_lock(struct dbvfs_shm *shm, struct dbvfs_conn *conn, int level)
{
	int rc;

	pthread_mutex_lock(&shm->lock);
	rc = lock_file_locked(shm, conn, level);
	pthread_mutex_unlock(&shm->lock);
	return rc;
}

void dbvfs_file_unlock(struct dbvfs_shm *shm, struct dbvfs_conn *conn, int level)
{
	pthread_mutex_lock(&shm->lock);
	if (conn->file_level > level && conn->file_level > SQLITE_LOCK_SHARED) {
		if (shm->reserved == conn)
			shm->reserved = NULL;
		if (shm->pending == conn)
			shm->pending = NULL;
		conn->file_level = SQLITE_LOCK_SHARED;
	}
	if (conn->file_level > level) {
		shm->n_shared--;
		conn->file_level = SQLITE_LOCK_NONE;
	}
	pthread_mutex_unlock(&shm->lock);
}

bool dbvfs_file_is_reserved(struct dbvfs_shm *shm)
{
	bool reserved;

	pthread_mutex_lock(&shm->lock);
	reserved = shm->reserved != NULL || shm->pending != NULL;
	pthread_mutex_unlock(&shm->lock);
	return reserved;
}
