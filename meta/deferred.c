// SPDX-License-Identifier: MIT
// Deferred writes. See deferred.h for the states and DW1–DW4.
//
// Every entry is in the table by its block and in the list of its state. Which transaction it is of needs no remembering: OPEN ones are of the
// open one, and whenever the committer settles or copies, all that is CLOSED is durable. While an entry is copied the store is not
// locked: it may be overwritten or cancelled meanwhile, and then its buffer belongs to whoever copies (copying).
#include "meta/deferred.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "meta/store_internal.h"
#include "meta/volume.h"
#include "util/keymap.h"
#include "util/log.h"

#define CHAIN_BITS 12u
#define COPY_BATCH 64u
#define PAGES_PER_BLK 3u // of the database, that one row may dirty: its leaf, its overflow page, its removal

enum state { OPEN, CLOSED, COPIED, SETTLED, N_STATES };

struct deferred_blk {
	struct key_node node;   // key: the block
	TAILQ_ENTRY(deferred_blk) in_list;
	uint8_t *data;          // NULL: the device has it
	enum state state;
	bool on_device;         // noted: written before the transaction closed
	bool has_row;           // as of the last close
	bool copying;
};

TAILQ_HEAD(blk_list, deferred_blk);

struct deferred {
	struct volume *vol;
	bool passive;
	struct keymap map;
	struct blk_list lists[N_STATES];
	atomic_uint n_open;
	atomic_uint n_closed; // without those that are on the device
	unsigned n_noted;    // in the open transaction
	bool flushes;        // the open transaction flushes its data
};

int deferred_create(struct volume *vol, bool passive, struct deferred **out)
{
	struct deferred *d = calloc(1, sizeof(*d));

	if (d == NULL || keymap_init(&d->map, CHAIN_BITS) != 0) {
		free(d);
		return -ENOMEM;
	}
	d->vol = vol;
	d->passive = passive;
	for (int i = 0; i < N_STATES; i++)
		TAILQ_INIT(&d->lists[i]);
	*out = d;
	return 0;
}

static atomic_uint *counter(struct deferred *d, const struct deferred_blk *e)
{
	if (e->state == OPEN)
		return &d->n_open;
	return e->state == CLOSED && !e->on_device ? &d->n_closed : NULL;
}

static void enter_list(struct deferred *d, struct deferred_blk *e, enum state state)
{
	e->state = state;
	TAILQ_INSERT_TAIL(&d->lists[state], e, in_list);
	if (counter(d, e) != NULL)
		atomic_fetch_add(counter(d, e), 1);
}

static void leave_list(struct deferred *d, struct deferred_blk *e)
{
	TAILQ_REMOVE(&d->lists[e->state], e, in_list);
	if (counter(d, e) != NULL)
		atomic_fetch_sub(counter(d, e), 1);
}

static void move_to(struct deferred *d, struct deferred_blk *e, enum state state)
{
	leave_list(d, e);
	enter_list(d, e, state);
}

static void free_blk(struct deferred_blk *e)
{
	if (!e->copying)
		free(e->data);
	free(e);
}

static void remove_entry(struct deferred *d, struct deferred_blk *e)
{
	keymap_remove(&d->map, &e->node);
	leave_list(d, e);
	if (e->state == OPEN && e->on_device)
		d->n_noted--;
	free_blk(e);
}

void deferred_destroy(struct deferred *d)
{
	if (d == NULL)
		return;
	for (int i = 0; i < N_STATES; i++)
		while (!TAILQ_EMPTY(&d->lists[i]))
			remove_entry(d, TAILQ_FIRST(&d->lists[i]));
	keymap_destroy(&d->map);
	free(d);
}

// ---- rows ----

static int set_row(struct deferred *d, struct deferred_blk *e)
{
	sqlite3_stmt *stmt = store_stmt(d->vol->store, STMT_DEFERRED_SET);

	sqlite3_bind_int64(stmt, 1, (int64_t)e->node.key);
	sqlite3_bind_blob(stmt, 2, e->data, BLK_SIZE, SQLITE_STATIC);
	e->has_row = true;
	return stmt_write(d->vol->store, stmt, "defer a write", NULL);
}

static int delete_rows(struct deferred *d, uint64_t start_blk, uint64_t len_blk)
{
	sqlite3_stmt *stmt = store_stmt(d->vol->store, STMT_DEFERRED_DELETE);

	sqlite3_bind_int64(stmt, 1, (int64_t)start_blk);
	sqlite3_bind_int64(stmt, 2, (int64_t)(start_blk + len_blk - 1));
	return stmt_write(d->vol->store, stmt, "end deferred writes", NULL);
}

// The first row at or behind `at_blk`: 1, 0 (none) or negative errno. `data` may be NULL.
static int next_row(struct volume *vol, uint64_t at_blk, uint64_t *phys_blk, void *data)
{
	sqlite3_stmt *stmt = store_stmt(vol->store, STMT_DEFERRED_NEXT);
	int rc;

	sqlite3_bind_int64(stmt, 1, (int64_t)at_blk);
	rc = stmt_row(vol->store, stmt, "read deferred writes");
	if (rc == 1) {
		*phys_blk = (uint64_t)sqlite3_column_int64(stmt, 0);
		if (sqlite3_column_type(stmt, 1) != SQLITE_BLOB || sqlite3_column_bytes(stmt, 1) != (int)BLK_SIZE)
			rc = -EUCLEAN;
		else if (data != NULL)
			memcpy(data, sqlite3_column_blob(stmt, 1), BLK_SIZE);
	}
	stmt_done(stmt);
	return rc;
}

// ---- entries ----

int deferred_reserve(unsigned n, struct deferred_blk **list)
{
	*list = NULL;
	while (n-- > 0) {
		struct deferred_blk *e = calloc(1, sizeof(*e));

		if (e == NULL || (e->data = malloc(BLK_SIZE)) == NULL) {
			free(e);
			deferred_unreserve(*list);
			*list = NULL;
			return -ENOMEM;
		}
		e->node.next = (struct key_node *)*list;
		*list = e;
	}
	return 0;
}

void deferred_unreserve(struct deferred_blk *list)
{
	while (list != NULL) {
		struct deferred_blk *next = (struct deferred_blk *)list->node.next;

		free_blk(list);
		list = next;
	}
}

struct deferred_blk *deferred_next(struct deferred_blk *e) { return (struct deferred_blk *)e->node.next; }

void *deferred_buf(struct deferred_blk *e) { return e->data; }

// The list's first entry becomes the block's, in the open transaction.
static void take(struct volume *vol, struct deferred_blk **list, uint64_t phys_blk, bool on_device)
{
	struct deferred *d = vol->deferred;
	struct deferred_blk *e = *list, *old = keymap_find(&d->map, phys_blk);

	store_assert_locked(vol->store);
	*list = deferred_next(e);
	if (old != NULL) {
		e->has_row = old->has_row;
		remove_entry(d, old);
	}
	keymap_add(&d->map, phys_blk, &e->node);
	e->on_device = on_device;
	enter_list(d, e, OPEN);
}

void deferred_put(struct volume *vol, struct deferred_blk **list, uint64_t phys_blk)
{
	take(vol, list, phys_blk, false);
	txn_add_pages(vol, PAGES_PER_BLK);
}

// The open transaction turns to flushing its data: what was noted in it needs no row any more.
static void drop_noted(struct deferred *d)
{
	struct deferred_blk *e, *next;

	for (e = TAILQ_FIRST(&d->lists[OPEN]); d->n_noted > 0 && e != NULL; e = next) {
		next = TAILQ_NEXT(e, in_list);
		if (e->on_device && !e->has_row)
			remove_entry(d, e);
	}
}

bool deferred_may_note(struct volume *vol, unsigned n)
{
	struct deferred *d = vol->deferred;

	store_assert_locked(vol->store);
	if (!d->flushes && d->n_noted + n <= DEFERRED_NOTE_MAX_BLK)
		return true;
	d->flushes = true;
	drop_noted(d);
	txn_data_written(vol);
	return false;
}

void deferred_note(struct volume *vol, struct deferred_blk **list, uint64_t phys_blk)
{
	take(vol, list, phys_blk, true);
	vol->deferred->n_noted++;
	txn_add_pages(vol, PAGES_PER_BLK);
}

static int cancel_one(struct deferred *d, struct deferred_blk *e)
{
	int err = e->has_row ? delete_rows(d, e->node.key, 1) : 0;

	if (err == 0)
		remove_entry(d, e);
	return err;
}

// The blocks are more than the entries.
static int cancel_by_list(struct deferred *d, uint64_t start_blk, uint64_t len_blk)
{
	struct deferred_blk *e, *next;
	int err = 0;

	for (int i = 0; i < N_STATES; i++)
		for (e = TAILQ_FIRST(&d->lists[i]); err == 0 && e != NULL; e = next) {
			next = TAILQ_NEXT(e, in_list);
			if (e->node.key >= start_blk && e->node.key - start_blk < len_blk)
				err = cancel_one(d, e);
		}
	return err;
}

int deferred_cancel(struct volume *vol, uint64_t start_blk, uint64_t len_blk)
{
	struct deferred *d = vol->deferred;
	int err = 0;

	store_assert_locked(vol->store);
	if (d->passive)
		return delete_rows(d, start_blk, len_blk);
	if (len_blk > d->map.n)
		return d->map.n > 0 ? cancel_by_list(d, start_blk, len_blk) : 0;
	for (uint64_t i = 0; err == 0 && i < len_blk; i++) {
		struct deferred_blk *e = keymap_find(&d->map, start_blk + i);

		if (e != NULL)
			err = cancel_one(d, e);
	}
	return err;
}

// ---- reading ----

static int passive_span(struct volume *vol, uint64_t start_blk, uint64_t len_blk, uint64_t *span_blk, bool *pending)
{
	uint64_t phys;
	int rc = next_row(vol, start_blk, &phys, NULL);

	*pending = rc == 1 && phys == start_blk;
	*span_blk = *pending ? 1 : len_blk;
	if (rc == 1 && !*pending)
		*span_blk = min_u64(len_blk, phys - start_blk);
	return rc < 0 ? rc : 0;
}

static bool is_pending(const struct deferred *d, uint64_t phys_blk)
{
	const struct deferred_blk *e = keymap_find(&d->map, phys_blk);

	return e != NULL && e->data != NULL && !e->on_device;
}

int deferred_span(struct volume *vol, uint64_t start_blk, uint64_t len_blk, uint64_t *span_blk, bool *pending)
{
	const struct deferred *d = vol->deferred;

	store_assert_locked(vol->store);
	if (d->passive)
		return passive_span(vol, start_blk, len_blk, span_blk, pending);
	*span_blk = len_blk;
	*pending = false;
	if (d->map.n == 0)
		return 0;
	*pending = is_pending(d, start_blk);
	for (*span_blk = 1; *span_blk < len_blk && is_pending(d, start_blk + *span_blk) == *pending; ++*span_blk)
		;
	return 0;
}

int deferred_read(struct volume *vol, uint64_t phys_blk, void *data)
{
	const struct deferred *d = vol->deferred;
	const struct deferred_blk *e;
	uint64_t found;
	int rc;

	store_assert_locked(vol->store);
	if (d->passive) {
		rc = next_row(vol, phys_blk, &found, data);
		return rc == 1 && found == phys_blk ? 0 : (rc < 0 ? rc : -ENOENT);
	}
	e = keymap_find(&d->map, phys_blk);
	if (e == NULL || e->data == NULL)
		return -ENOENT;
	memcpy(data, e->data, BLK_SIZE);
	return 0;
}

// ---- with the transaction ----

unsigned deferred_open_blk(struct deferred *d) { return atomic_load(&d->n_open); }

bool deferred_is_empty(const struct deferred *d) { return d->map.n == 0; }

void deferred_rolled_back(struct deferred *d)
{
	if (d != NULL)
		d->passive = true;
}

int deferred_close(struct deferred *d)
{
	struct deferred_blk *e;
	int err = 0;

	store_assert_locked(d->vol->store);
	while (err == 0 && (e = TAILQ_FIRST(&d->lists[SETTLED])) != NULL)
		err = cancel_one(d, e);
	while (err == 0 && (e = TAILQ_FIRST(&d->lists[OPEN])) != NULL) {
		err = set_row(d, e);
		if (e->on_device) {
			free(e->data);
			e->data = NULL;
		}
		move_to(d, e, CLOSED);
	}
	d->n_noted = 0;
	d->flushes = false;
	return err;
}

// A flush that began after the last copy, and after the last close, has succeeded.
static void settle(struct deferred *d)
{
	struct deferred_blk *e, *next;

	while ((e = TAILQ_FIRST(&d->lists[COPIED])) != NULL)
		move_to(d, e, SETTLED);
	for (e = TAILQ_FIRST(&d->lists[CLOSED]); e != NULL; e = next) {
		next = TAILQ_NEXT(e, in_list);
		if (e->on_device)
			move_to(d, e, SETTLED);
	}
}

struct copy {
	uint64_t phys_blk;
	uint8_t *data;
};

static int by_place(const void *a, const void *b)
{
	uint64_t x = ((const struct copy *)a)->phys_blk, y = ((const struct copy *)b)->phys_blk;

	return x < y ? -1 : x > y;
}

static unsigned begin_copies(struct deferred *d, struct copy *copies)
{
	struct deferred_blk *e;
	unsigned n = 0;

	TAILQ_FOREACH(e, &d->lists[CLOSED], in_list) {
		if (n == COPY_BATCH)
			break;
		e->copying = true;
		copies[n++] = (struct copy){ e->node.key, e->data };
	}
	return n;
}

static int write_copies(struct deferred *d, const struct copy *copies, unsigned n)
{
	struct iovec iov[COPY_BATCH];
	unsigned from, to;
	int err = 0;

	for (from = 0; err == 0 && from < n; from = to) {
		for (to = from; to < n && copies[to].phys_blk == copies[from].phys_blk + (to - from); to++)
			iov[to - from] = (struct iovec){ copies[to].data, BLK_SIZE };
		err = bdev_writev(d->vol->dev, iov, (int)(to - from), blk_to_bytes(copies[from].phys_blk));
	}
	return err;
}

// Entries that were overwritten or cancelled meanwhile have left their buffers behind.
static void end_copies(struct deferred *d, const struct copy *copies, unsigned n, bool written)
{
	for (unsigned i = 0; i < n; i++) {
		struct deferred_blk *e = keymap_find(&d->map, copies[i].phys_blk);
		bool is_its = e != NULL && e->data == copies[i].data;

		if (is_its)
			e->copying = false;
		if (is_its && !written)
			continue; // readers still need it
		if (is_its) {
			e->data = NULL;
			move_to(d, e, COPIED);
		}
		free(copies[i].data);
	}
}

bool deferred_wants_copy(struct deferred *d) { return atomic_load(&d->n_closed) > 0; }

int deferred_durable(struct deferred *d)
{
	store_lock(d->vol->store);
	settle(d);
	store_unlock(d->vol->store);
	return atomic_load(&d->n_closed) >= DEFERRED_COPY_BLK ? deferred_copy(d) : 0;
}

int deferred_copy(struct deferred *d)
{
	struct store *st = d->vol->store;
	struct copy copies[COPY_BATCH];
	unsigned n;
	int err = 0;

	store_lock(st);
	while (err == 0 && (n = begin_copies(d, copies)) > 0) {
		store_unlock(st);
		qsort(copies, n, sizeof(copies[0]), by_place);
		err = write_copies(d, copies, n);
		store_lock(st);
		end_copies(d, copies, n, err == 0);
	}
	store_unlock(st);
	return err;
}

// ---- recovery ----

static int recover_blk(struct volume *vol, uint64_t phys_blk, const void *data)
{
	struct deferred_blk *e;
	int err;

	if (phys_blk >= vol->files.sb.n_blks || sysfiles_overlap(&vol->files, phys_blk, 1))
		return -EUCLEAN;
	err = bdev_write(vol->dev, data, BLK_SIZE, blk_to_bytes(phys_blk));
	if (err != 0)
		return err;
	e = calloc(1, sizeof(*e));
	if (e == NULL)
		return -ENOMEM;
	e->has_row = true;
	enter_list(vol->deferred, e, COPIED);
	keymap_add(&vol->deferred->map, phys_blk, &e->node);
	return 0;
}

int deferred_recover(struct volume *vol)
{
	struct deferred *d = vol->deferred;
	uint64_t at_blk = 0, phys_blk;
	uint8_t data[BLK_SIZE];
	int rc = 0;

	if (d->passive)
		return 0;
	store_lock(vol->store);
	while ((rc = next_row(vol, at_blk, &phys_blk, data)) == 1) {
		rc = recover_blk(vol, phys_blk, data);
		if (rc != 0)
			break;
		at_blk = phys_blk + 1;
	}
	if (rc == 0 && !deferred_is_empty(d)) {
		msg_info("%s: finished %zu deferred writes", vol->dev->name, d->map.n);
		rc = bdev_flush(vol->dev);
	}
	if (rc == 0)
		settle(d);
	store_unlock(vol->store);
	return rc;
}
