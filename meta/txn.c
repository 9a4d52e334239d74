// SPDX-License-Identifier: MIT
// The transaction manager: see txn.h for the states and the invariants T1–T5.
//
// Who commits: whoever needs durability and finds nobody at it becomes the leader and carries one transaction through closing and
// flushing; all others that wait for it, or for a later one, sleep. So n concurrent fsyncs cost two commits at most: the one that is
// under way and one for all that came meanwhile.
//
// Where the flushes go (T2): a transaction with new file data on the device needs one flush before its log frames are written and one
// after; a transaction without data, or whose data is little and goes with it as rows (deferred.h), needs only the second.
//
// The log: it lives in the WAL system file and is checkpointed into the database when it has filled half of it. The checkpoint runs in the
// background beside open transactions and copies all that is committed; the log can start anew only when nothing is left to copy, so
// the next commit copies the little that came since, with the gate closed (`restart`), and the one after it begins at the file's start.
#include "meta/txn.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "meta/freemap.h"
#include "meta/room.h"
#include "meta/store.h"
#include "meta/volume.h"
#include "util/blk.h"
#include "util/log.h"

#define SHRINK_EVERY 64u // transactions between looks at the allocator's memory: dropping metaslabs may take the streams' windows, too

#define PAGES_PER_HANDLE 4u // of the database, that an operation may dirty; large values count by their size

struct txn_mgr {
	pthread_mutex_t lock;
	pthread_cond_t gate_cv;    // the gate opened
	pthread_cond_t drained_cv; // the last handle left
	pthread_cond_t durable_cv; // durable_id or committing changed
	pthread_cond_t thread_cv;  // the background thread has something to do
	// Guarded by lock:
	uint64_t open_id;          // the open transaction
	uint64_t closed_id;        // the last one whose COMMIT is in the log (in memory)
	uint64_t durable_id;
	unsigned handles;          // joined to the open one
	unsigned ops;              // handles that have ever joined it
	uint64_t large_bytes_at_begin; // store_large_bytes() then
	bool gate_closed;          // nobody may join
	bool in_commit;            // COMMIT … seal: what is committed and what is sealed differ
	bool committing;           // there is a leader
	bool stop, kicked;
	bool emptying;             // at the end: rows of finished deferred writes are worth a transaction
	bool soft_kicked;          // for being half full; once in each transaction
	struct txn_stats stats;
	struct room room;          // as of the last COMMIT
	// Written inside handles:
	atomic_bool data_written;
	atomic_uint_fast64_t added_pages; // txn_add_pages() since it was opened
	// Guarded by the store's lock:
	struct freemap *freemap;
	uint64_t changes_at_begin;
	int64_t written_next_ino, written_inodes; // config as of the last close; -1: not known
	// The leader's:
	bool restart_wanted;       // atomic access under lock
	pthread_mutex_t ckpt_lock; // one checkpoint at a time
	unsigned interval_ms;
	pthread_t thread;
};

void txn_failed(struct volume *vol, int err, const char *what)
{
	int none = 0;

	if (atomic_compare_exchange_strong(&vol->failed, &none, err))
		msg_error("%s: %s failed (%s): the volume is read-only from now on; what was committed is safe", vol->dev->name,
		          what, strerror(-err));
}

// ---- how much the open transaction holds ----

// Pages that the open transaction may have dirtied. Lock held.
static uint64_t txn_pages(struct volume *vol)
{
	const struct txn_mgr *m = vol->txn;

	return (uint64_t)m->ops * PAGES_PER_HANDLE + atomic_load(&m->added_pages) +
	       bytes_to_blk_up(store_large_bytes(vol->store) - m->large_bytes_at_begin);
}

// ---- closing and flushing ----

static void open_gate(struct txn_mgr *m)
{
	m->gate_closed = false;
	pthread_cond_broadcast(&m->gate_cv);
}

struct closing {
	uint64_t id;
	bool changed, data_written, restart;
	struct wal_segment *seg;
	struct room room;
};

static int write_if_changed(struct store *st, const char *key, int64_t value, int64_t *written)
{
	int err = value != *written ? store_config_set(st, key, value) : 0;

	*written = value;
	return err;
}

// The number of the transaction stands in its deferred rows; if it has none, in config.
static int write_number(struct volume *vol, uint64_t id, unsigned rows)
{
	return rows == 0 ? store_config_set(vol->store, "txn", (int64_t)id) : 0;
}

// CLOSING, the part under the store's lock. On success the next transaction is open unless c->restart.
static int close_in_store(struct volume *vol, struct closing *c)
{
	struct txn_mgr *m = vol->txn;
	struct store *st = vol->store;
	unsigned rows = deferred_open_blk(vol->deferred);
	int damage = DAMAGE_SEEN, err = 0;

	if (!atomic_compare_exchange_strong(&vol->damage, &damage, DAMAGE_MARKED))
		damage = DAMAGE_NONE; // or marked already
	c->changed = store_changes(st) != m->changes_at_begin || !freemap_is_clean(m->freemap) ||
	             !store_rows_are_written(st) || !csums_is_clean(vol->csums) || rows > 0 ||
	             (m->emptying && !deferred_is_empty(vol->deferred)) || damage != DAMAGE_NONE;
	if (!c->changed)
		return 0;
	if (damage != DAMAGE_NONE)
		err = store_config_set(st, "errors", 1);
	if (err == 0)
		err = freemap_write(m->freemap, c->id);
	if (err == 0)
		err = m->emptying ? deferred_clear(vol->deferred) : deferred_close(vol->deferred, c->id);
	if (err == 0)
		err = csums_write(vol->csums);
	if (err == 0)
		err = store_write_rows(st);
	if (err == 0)
		err = write_number(vol, c->id, rows);
	if (err == 0)
		err = write_if_changed(st, "next_ino", (int64_t)atomic_load(&vol->next_ino), &m->written_next_ino);
	if (err == 0)
		err = write_if_changed(st, "inodes", store_n_inodes(st), &m->written_inodes);
	if (err != 0) {
		store_fail(st, err, "closing a transaction");
		return err;
	}
	err = store_commit(st);
	c->seg = dbvfs_wal_seal(vol->vfs);
	if (err == 0)
		err = room_measure(vol, &c->room);
	c->restart |= err == 0 && room_wants_restart(vol, &c->room);
	if (err == 0 && !c->restart) {
		err = store_begin(st);
		m->changes_at_begin = store_changes(st);
	}
	return err;
}

// OPEN → CLOSING → FLUSHING. Called by the leader, lock held.
static int close_txn(struct volume *vol, struct closing *c)
{
	struct txn_mgr *m = vol->txn;
	int err;

	m->gate_closed = true;
	while (m->handles > 0)
		pthread_cond_wait(&m->drained_cv, &m->lock);
	*c = (struct closing){ .id = m->open_id, .restart = m->restart_wanted };
	c->data_written = atomic_exchange(&m->data_written, false);
	m->in_commit = true;
	pthread_mutex_unlock(&m->lock);

	store_lock(vol->store);
	err = close_in_store(vol, c);
	store_unlock(vol->store);

	pthread_mutex_lock(&m->lock);
	m->in_commit = false;
	m->closed_id = c->id;
	m->open_id = c->id + 1;
	m->ops = 0;
	atomic_store(&m->added_pages, 0);
	m->large_bytes_at_begin = store_large_bytes(vol->store);
	m->soft_kicked = false;
	if (!c->changed) {
		c->restart = false;
		m->durable_id = c->id; // nothing to write: as durable as the one before
	} else {
		m->room = c->room;
	}
	if (err != 0 || !c->restart)
		open_gate(m);
	return err;
}

// FLUSHING → DURABLE: data, barrier, log, barrier. No lock held.
static int flush_txn(struct volume *vol, struct closing *c)
{
	unsigned flushes = 1;
	int err = 0;

	if (atomic_load(&vol->failed) != 0)
		return -EROFS;
	if (c->data_written) {
		err = bdev_flush(vol->dev);
		flushes++;
	}
	if (err == 0 && c->seg != NULL)
		err = dbvfs_wal_write(vol->vfs, c->seg);
	if (err == 0)
		err = bdev_flush(vol->dev);
	if (err != 0) {
		txn_failed(vol, err, "writing a transaction");
		return err;
	}
	if (vol->alloc != NULL) {
		alloc_release(vol->alloc, c->id);
		if (c->id % SHRINK_EVERY == 0)
			alloc_shrink(vol->alloc, vol->alloc_bytes_max);
	}
	pthread_mutex_lock(&vol->txn->lock);
	vol->txn->durable_id = c->id;
	vol->txn->stats.commits++;
	vol->txn->stats.flushes += flushes;
	vol->txn->stats.wal_bytes += c->seg != NULL ? wal_segment_bytes(c->seg) : 0;
	pthread_cond_broadcast(&vol->txn->durable_cv);
	pthread_mutex_unlock(&vol->txn->lock);
	return 0;
}

static int checkpoint(struct volume *vol)
{
	struct txn_mgr *m = vol->txn;
	int rc;

	pthread_mutex_lock(&m->ckpt_lock);
	rc = store_checkpoint(vol->store);
	pthread_mutex_unlock(&m->ckpt_lock);
	if (rc < 0)
		txn_failed(vol, rc, "checkpoint");
	return rc;
}

// With the gate closed and the transaction durable: copies what is left of the log, so that it starts anew, and opens the next.
static int restart_log(struct volume *vol)
{
	struct txn_mgr *m = vol->txn;
	int rc, err;

	rc = checkpoint(vol);
	store_lock(vol->store);
	err = store_begin(vol->store);
	m->changes_at_begin = store_changes(vol->store);
	store_unlock(vol->store);
	pthread_mutex_lock(&m->lock);
	m->restart_wanted = rc > 0; // something was in its way: once more
	if (rc == 0)
		m->room.log_blk = 0;
	room_measure_capacity(vol, &m->room); // the checkpoint may have grown the database
	m->stats.checkpoints++;
	open_gate(m);
	pthread_mutex_unlock(&m->lock);
	return rc < 0 ? rc : err;
}

// One transaction from open to durable. The caller is the leader (m->committing is its); no lock held.
static int commit_one(struct volume *vol)
{
	struct txn_mgr *m = vol->txn;
	struct closing c;
	int err;

	pthread_mutex_lock(&m->lock);
	err = close_txn(vol, &c);
	pthread_mutex_unlock(&m->lock);
	if (!c.changed && err == 0)
		return 0;
	if (err == 0)
		err = flush_txn(vol, &c);
	if (err == 0) {
		dbvfs_wal_done(vol->vfs, c.seg); // after a failure it goes on serving reads
		err = deferred_durable(vol->deferred);
	}
	if (c.restart) {
		if (err == 0) {
			err = restart_log(vol);
		} else {
			pthread_mutex_lock(&m->lock);
			open_gate(m);
			pthread_mutex_unlock(&m->lock);
		}
	}
	if (err == 0)
		err = room_grow_database(vol, c.room.total_blk);
	if (err != 0) {
		txn_failed(vol, err, "commit");
		return err;
	}
	pthread_mutex_lock(&m->lock);
	room_measure_capacity(vol, &m->room);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

// Deferred writes go to their places. The caller is the leader.
static int copy_deferred(struct volume *vol)
{
	int err = deferred_copy(vol->deferred);

	if (err != 0)
		txn_failed(vol, err, "writing deferred blocks to their places");
	return err;
}

static bool log_is_long(struct volume *vol)
{
	return dbvfs_wal_end_bytes(vol->vfs) > sysfile_capacity_bytes(&vol->files, SYSFILE_WAL) / 2;
}

// Lock held; returns with it held. There is no leader: becomes it for one piece of work. A failure stands in vol->failed.
static void lead(struct volume *vol, int (*work)(struct volume *vol))
{
	struct txn_mgr *m = vol->txn;

	m->committing = true;
	pthread_mutex_unlock(&m->lock);
	(void)work(vol);
	pthread_mutex_lock(&m->lock);
	m->committing = false;
	pthread_cond_broadcast(&m->durable_cv);
}

// Lock held; returns with it held. Becomes the leader, or waits until the present one has done one.
static void lead_or_wait(struct volume *vol)
{
	struct txn_mgr *m = vol->txn;

	if (m->committing) {
		pthread_cond_wait(&m->durable_cv, &m->lock);
		return;
	}
	lead(vol, commit_one);
	if (log_is_long(vol) && !m->restart_wanted) {
		m->kicked = true; // for a checkpoint
		pthread_cond_signal(&m->thread_cv);
	}
}

// ---- the interface ----

// Whether the open transaction is full for another handle. Asks for a commit when it is half full. Lock held.
static bool is_full(struct volume *vol)
{
	struct txn_mgr *m = vol->txn;
	uint64_t pages = txn_pages(vol) + PAGES_PER_HANDLE, max = room_max(vol, &m->room);
	unsigned deferred_blk = deferred_open_blk(vol->deferred);

	if (!m->soft_kicked &&
	    ((max >= ROOM_TIGHT && pages > max / 2) || deferred_blk > DEFERRED_TXN_MAX_BLK / 2)) {
		m->soft_kicked = m->kicked = true;
		pthread_cond_signal(&m->thread_cv);
	}
	return m->ops > 0 && (pages > max || deferred_blk > DEFERRED_TXN_MAX_BLK);
}

int txn_begin(struct volume *vol, enum txn_kind kind, uint64_t *id)
{
	struct txn_mgr *m = vol->txn;
	int err = 0;

	if (m == NULL)
		return -EROFS;
	pthread_mutex_lock(&m->lock);
	for (;;) {
		if (bdev_failed(vol->dev))
			txn_failed(vol, -EIO, "writing to the device"); // file data, outside of a commit
		if (atomic_load(&vol->failed) != 0)
			err = volume_refusal(vol);
		else if (m->gate_closed)
			pthread_cond_wait(&m->gate_cv, &m->lock);
		else if (is_full(vol))
			lead_or_wait(vol);
		else if (kind == TXN_FREE || room_for_growth(vol, &m->room, txn_pages(vol)))
			break;
		else if (m->ops > 0)
			lead_or_wait(vol); // a commit may bring room: measure again
		else
			err = -ENOSPC;
		if (err != 0) {
			pthread_mutex_unlock(&m->lock);
			return err;
		}
	}
	m->handles++;
	m->ops++;
	*id = m->open_id;
	pthread_mutex_unlock(&m->lock);
	return 0;
}

void txn_end(struct volume *vol)
{
	struct txn_mgr *m = vol->txn;

	pthread_mutex_lock(&m->lock);
	ASSERT(m->handles > 0);
	if (--m->handles == 0 && m->gate_closed)
		pthread_cond_signal(&m->drained_cv);
	pthread_mutex_unlock(&m->lock);
}

void txn_data_written(struct volume *vol) { atomic_store(&vol->txn->data_written, true); }

bool txn_has_data(struct volume *vol) { return vol->txn != NULL && atomic_load(&vol->txn->data_written); }

void txn_add_pages(struct volume *vol, unsigned n) { atomic_fetch_add(&vol->txn->added_pages, n); }

int txn_wait_durable(struct volume *vol, uint64_t id)
{
	struct txn_mgr *m = vol->txn;
	int err;

	if (m == NULL)
		return 0;
	pthread_mutex_lock(&m->lock);
	if (id > m->open_id)
		id = m->open_id;
	while (m->durable_id < id && atomic_load(&vol->failed) == 0)
		lead_or_wait(vol);
	err = m->durable_id >= id ? 0 : -EIO;
	pthread_mutex_unlock(&m->lock);
	return err;
}

int txn_commit(struct volume *vol) { return txn_wait_durable(vol, txn_open_id(vol)); }

uint64_t txn_open_id(struct volume *vol)
{
	uint64_t id;

	if (vol->txn == NULL)
		return 0;
	pthread_mutex_lock(&vol->txn->lock);
	id = vol->txn->open_id;
	pthread_mutex_unlock(&vol->txn->lock);
	return id;
}

uint64_t txn_durable_id(struct volume *vol)
{
	uint64_t id;

	if (vol->txn == NULL)
		return 0;
	pthread_mutex_lock(&vol->txn->lock);
	id = vol->txn->durable_id;
	pthread_mutex_unlock(&vol->txn->lock);
	return id;
}

void txn_get_stats(struct volume *vol, struct txn_stats *out)
{
	pthread_mutex_lock(&vol->txn->lock);
	*out = vol->txn->stats;
	pthread_mutex_unlock(&vol->txn->lock);
}

int txn_log_run(struct volume *vol, uint64_t start_blk, uint64_t len_blk, bool used)
{
	store_assert_locked(vol->store);
	return freemap_log(vol->txn->freemap, start_blk, len_blk, used);
}

struct freemap *txn_freemap(struct volume *vol) { return vol->txn->freemap; }

// D3: everything that is committed must be durable before a page of it goes to the database. The leader itself comes here from
// restart_log(), when it is; the background thread may come while a leader is between COMMIT and durable.
int txn_wal_sync(struct volume *vol)
{
	struct txn_mgr *m = vol->txn;
	uint64_t id;
	int err;

	pthread_mutex_lock(&m->lock);
	while (m->in_commit)
		pthread_cond_wait(&m->durable_cv, &m->lock);
	id = m->closed_id;
	while (m->durable_id < id && atomic_load(&vol->failed) == 0)
		pthread_cond_wait(&m->durable_cv, &m->lock);
	err = m->durable_id >= id ? 0 : -EIO;
	pthread_mutex_unlock(&m->lock);
	return err;
}

// ---- the background thread ----

static void wait_for_work(struct txn_mgr *m)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += m->interval_ms / 1000;
	until.tv_nsec += (long)(m->interval_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	while (!m->stop && !m->kicked && pthread_cond_timedwait(&m->thread_cv, &m->lock, &until) == 0)
		;
	m->kicked = false;
}

static void *background(void *arg)
{
	struct volume *vol = arg;
	struct txn_mgr *m = vol->txn;
	uint64_t id;

	pthread_mutex_lock(&m->lock);
	for (;;) {
		wait_for_work(m);
		if (m->stop)
			break;
		id = m->open_id;
		while (m->durable_id < id && atomic_load(&vol->failed) == 0)
			lead_or_wait(vol);
		if (!m->committing && deferred_wants_copy(vol->deferred) && atomic_load(&vol->failed) == 0)
			lead(vol, copy_deferred);
		if (atomic_load(&vol->failed) != 0)
			continue;
		if (log_is_long(vol) && !m->restart_wanted) {
			pthread_mutex_unlock(&m->lock);
			(void)checkpoint(vol);
			pthread_mutex_lock(&m->lock);
			m->restart_wanted = true;
		}
	}
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

// ---- start and stop ----

static void init_cond_monotonic(pthread_cond_t *cv)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cv, &attr);
	pthread_condattr_destroy(&attr);
}

int txn_init(struct volume *vol, uint64_t last_id, unsigned commit_interval_ms)
{
	struct txn_mgr *m = calloc(1, sizeof(*m));
	int err;

	if (m == NULL)
		return -ENOMEM;
	pthread_mutex_init(&m->lock, NULL);
	pthread_mutex_init(&m->ckpt_lock, NULL);
	pthread_cond_init(&m->gate_cv, NULL);
	pthread_cond_init(&m->drained_cv, NULL);
	pthread_cond_init(&m->durable_cv, NULL);
	init_cond_monotonic(&m->thread_cv);
	m->open_id = last_id + 1;
	m->written_next_ino = m->written_inodes = -1;
	m->closed_id = m->durable_id = last_id;
	m->interval_ms = commit_interval_ms;
	err = freemap_create(vol, &m->freemap);
	if (err != 0) {
		free(m);
		return err;
	}
	vol->txn = m;
	return 0;
}

int txn_start(struct volume *vol)
{
	struct txn_mgr *m = vol->txn;
	int err;

	store_lock(vol->store);
	err = room_measure(vol, &m->room);
	if (err == 0)
		err = store_begin(vol->store);
	m->changes_at_begin = store_changes(vol->store);
	store_unlock(vol->store);
	if (err == 0)
		err = room_grow_database(vol, m->room.total_blk);
	if (err != 0)
		return err;
	room_measure_capacity(vol, &m->room);
	return -pthread_create(&m->thread, NULL, background, vol);
}

void txn_halt(struct volume *vol)
{
	struct txn_mgr *m = vol->txn;

	pthread_mutex_lock(&m->lock);
	m->stop = true;
	pthread_cond_signal(&m->thread_cv);
	pthread_mutex_unlock(&m->lock);
	if (m->thread != 0)
		pthread_join(m->thread, NULL);
	m->thread = 0;
}

// What was deferred is in its place since the last commit: the rows go, so that the next mount has nothing to do.
static int empty_deferred(struct volume *vol)
{
	int err;

	if (deferred_is_empty(vol->deferred) || atomic_load(&vol->failed) != 0)
		return 0;
	err = copy_deferred(vol);
	if (err == 0)
		err = bdev_flush(vol->dev);
	if (err == 0)
		err = deferred_durable(vol->deferred);
	vol->txn->emptying = true;
	return err != 0 ? err : txn_commit(vol);
}

int txn_stop(struct volume *vol)
{
	int err;

	txn_halt(vol);
	err = txn_commit(vol);
	if (err == 0)
		err = empty_deferred(vol);
	if (err == 0)
		err = atomic_load(&vol->failed);
	if (err != 0)
		return err;
	store_lock(vol->store);
	err = store_rollback(vol->store); // the empty open transaction
	store_unlock(vol->store);
	if (err == 0)
		err = store_truncate_wal(vol->store);
	return err != 0 ? err : bdev_flush(vol->dev);
}

void txn_destroy(struct volume *vol)
{
	struct txn_mgr *m = vol->txn;

	if (m == NULL)
		return;
	freemap_destroy(m->freemap);
	pthread_mutex_destroy(&m->lock);
	pthread_mutex_destroy(&m->ckpt_lock);
	pthread_cond_destroy(&m->gate_cv);
	pthread_cond_destroy(&m->drained_cv);
	pthread_cond_destroy(&m->durable_cv);
	pthread_cond_destroy(&m->thread_cv);
	free(m);
	vol->txn = NULL;
}
