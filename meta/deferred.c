// SPDX-License-Identifier: MIT
// Deferred writes. See deferred.h for the states and DW1–DW5.
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

#include "meta/deferred_rows.h"
#include "meta/store_internal.h"
#include "meta/volume.h"
#include "util/keymap.h"
#include "util/log.h"

#define CHAIN_BITS 12u
#define COPY_BATCH 64u
#define PAGES_PER_BLK 3u // of the database, that one row may dirty: its leaf, its overflow page, the free list
#define BATCH_SHIFT 10u  // a batch is at most one block in 2^10 of the volume's: its rows take space of the database
#define BATCH_MIN_BLK 16u

// LOOKED_UP: passive, the row tells.
enum state { OPEN, CLOSED, COPIED, SETTLED, LOOKED_UP, N_STATES };

struct deferred_blk {
	struct key_node node;   // key: the block
	TAILQ_ENTRY(deferred_blk) in_list;
	uint8_t *data;          // NULL: the device has it, or the row
	uint64_t txn, slot;     // of its row, if it has one
	enum state state;
	uint32_t crc;
	bool on_device;         // noted: written before the transaction closed
	bool has_row;           // as of the last close
	bool copying;
};

TAILQ_HEAD(blk_list, deferred_blk);

struct deferred {
	struct volume *vol;
	bool passive, loaded;
	struct keymap map;
	struct blk_list lists[N_STATES];
	struct slots slots;
	atomic_uint n_open;
	atomic_uint n_closed;
	unsigned n_settled;
	unsigned batch_blk;  // constant
	unsigned n_noted;    // in the open transaction
	bool flushes;        // the open transaction flushes its data
	bool rows;           // there may be rows, live or dead
	bool stuck;          // much is settled, but cannot be given up before something older has been copied
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
	d->batch_blk = (unsigned)max_u64(BATCH_MIN_BLK, min_u64(vol->files.sb.n_blks >> BATCH_SHIFT, DEFERRED_BATCH_MAX_BLK));
	for (int i = 0; i < N_STATES; i++)
		TAILQ_INIT(&d->lists[i]);
	*out = d;
	return 0;
}

static atomic_uint *counter(struct deferred *d, const struct deferred_blk *e)
{
	if (e->state == OPEN)
		return &d->n_open;
	return e->state == CLOSED ? &d->n_closed : NULL;
}

static void enter_list(struct deferred *d, struct deferred_blk *e, enum state state)
{
	e->state = state;
	TAILQ_INSERT_TAIL(&d->lists[state], e, in_list);
	d->n_settled += state == SETTLED;
	if (counter(d, e) != NULL)
		atomic_fetch_add(counter(d, e), 1);
}

static void leave_list(struct deferred *d, struct deferred_blk *e)
{
	TAILQ_REMOVE(&d->lists[e->state], e, in_list);
	d->n_settled -= e->state == SETTLED;
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

static void remove_all(struct deferred *d)
{
	for (int i = 0; i < N_STATES; i++)
		while (!TAILQ_EMPTY(&d->lists[i]))
			remove_entry(d, TAILQ_FIRST(&d->lists[i]));
}

void deferred_destroy(struct deferred *d)
{
	if (d == NULL)
		return;
	remove_all(d);
	keymap_destroy(&d->map);
	slots_free(&d->slots);
	free(d);
}

// ---- rows ----

static int set_row(struct deferred *d, struct deferred_blk *e, uint64_t txn)
{
	int err = e->has_row ? 0 : slots_take(&d->slots, &e->slot);

	if (err != 0) {
		store_fail(d->vol->store, err, "defer a write");
		return err;
	}
	e->txn = txn;
	e->has_row = d->rows = true;
	return deferred_row_set(d->vol->store, &(struct deferred_row){ e->slot, e->node.key, txn, e->crc }, e->data);
}

// The entry goes; its row, too, unless it is dead from this transaction on and worth keeping. Table csum gets the checksum now, at the latest.
static int give_up(struct deferred *d, struct deferred_blk *e, bool dead)
{
	int err = 0;

	if (e->has_row && !(dead && e->slot < 2 * d->batch_blk))
		err = deferred_row_delete(d->vol->store, e->slot);
	if (err != 0)
		return err;
	if (e->has_row && !d->passive)
		slots_give(&d->slots, e->slot);
	csum_settle(d->vol, e->node.key);
	remove_entry(d, e);
	return 0;
}

// Passive: which rows there are. Those that cannot be right are fsck's, and hide nothing.
static int load(struct deferred *d)
{
	struct deferred_row row;
	uint64_t from, slot = 0;
	int rc;

	if (d->loaded)
		return 0;
	remove_all(d); // of before a failure
	rc = deferred_rows_from(d->vol->store, &from);
	while (rc == 0 && (rc = deferred_row_next(d->vol->store, slot, from, &row, NULL)) != 0) {
		struct deferred_blk *e;

		if (rc < 0 && (rc != -EUCLEAN || row.slot > DEFERRED_SLOT_MAX))
			break;
		slot = row.slot + 1;
		if (rc < 0 || keymap_find(&d->map, row.phys_blk) != NULL) {
			rc = 0;
			continue;
		}
		e = calloc(1, sizeof(*e));
		rc = e != NULL ? 0 : -ENOMEM;
		if (e == NULL)
			break;
		e->slot = row.slot;
		e->has_row = true;
		enter_list(d, e, LOOKED_UP);
		keymap_add(&d->map, row.phys_blk, &e->node);
	}
	if (rc == -EUCLEAN && row.slot != DEFERRED_NO_SLOT)
		rc = 0; // a slot beyond all: the last row
	d->loaded = rc == 0;
	if (rc != 0)
		remove_all(d);
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
static void take(struct volume *vol, struct deferred_blk **list, uint64_t phys_blk, uint32_t crc, bool on_device)
{
	struct deferred *d = vol->deferred;
	struct deferred_blk *e = *list, *old = keymap_find(&d->map, phys_blk);

	store_assert_locked(vol->store);
	*list = deferred_next(e);
	if (old != NULL) {
		e->has_row = old->has_row;
		e->slot = old->slot;
		remove_entry(d, old);
	}
	keymap_add(&d->map, phys_blk, &e->node);
	e->crc = crc;
	e->on_device = on_device;
	enter_list(d, e, OPEN);
	txn_add_pages(vol, PAGES_PER_BLK);
}

int deferred_put(struct volume *vol, struct deferred_blk **list, uint64_t phys_blk, uint32_t crc)
{
	int err = csum_set_late(vol, phys_blk, crc);

	if (err == 0)
		take(vol, list, phys_blk, crc, false);
	return err;
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

void deferred_note(struct volume *vol, struct deferred_blk **list, uint64_t phys_blk, uint32_t crc)
{
	take(vol, list, phys_blk, crc, true);
	vol->deferred->n_noted++;
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
				err = give_up(d, e, false);
		}
	return err;
}

int deferred_cancel(struct volume *vol, uint64_t start_blk, uint64_t len_blk)
{
	struct deferred *d = vol->deferred;
	int err = 0;

	store_assert_locked(vol->store);
	if (d->passive)
		err = load(d);
	if (err != 0)
		return err;
	if (len_blk > d->map.n)
		return d->map.n > 0 ? cancel_by_list(d, start_blk, len_blk) : 0;
	for (uint64_t i = 0; err == 0 && i < len_blk; i++) {
		struct deferred_blk *e = keymap_find(&d->map, start_blk + i);

		if (e != NULL)
			err = give_up(d, e, false);
	}
	return err;
}

// ---- reading ----

static bool is_pending(const struct deferred *d, uint64_t phys_blk)
{
	const struct deferred_blk *e = keymap_find(&d->map, phys_blk);

	return e != NULL && (e->state == LOOKED_UP || (e->data != NULL && !e->on_device));
}

int deferred_span(struct volume *vol, uint64_t start_blk, uint64_t len_blk, uint64_t *span_blk, bool *pending)
{
	struct deferred *d = vol->deferred;
	int err = 0;

	store_assert_locked(vol->store);
	if (d->passive)
		err = load(d);
	if (err != 0)
		return err;
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
	struct deferred *d = vol->deferred;
	const struct deferred_blk *e;
	struct deferred_row row;
	int rc = d->passive ? load(d) : 0;

	store_assert_locked(vol->store);
	if (rc != 0)
		return rc;
	e = keymap_find(&d->map, phys_blk);
	if (e != NULL && e->state == LOOKED_UP) {
		rc = deferred_row_next(vol->store, e->slot, 0, &row, data);
		return rc == 1 && row.phys_blk == phys_blk ? 0 : (rc < 0 ? rc : -EUCLEAN);
	}
	if (e == NULL || e->data == NULL)
		return -ENOENT;
	memcpy(data, e->data, BLK_SIZE);
	return 0;
}

// ---- with the transaction ----

unsigned deferred_open_blk(struct deferred *d) { return atomic_load(&d->n_open); }

bool deferred_is_empty(const struct deferred *d) { return !d->rows; }

void deferred_rolled_back(struct deferred *d)
{
	if (d != NULL)
		d->passive = true; // whoever met the failure still has his hands on the entries: load() drops them
}

static void oldest_of(const struct blk_list *list, uint64_t *txn)
{
	struct deferred_blk *e;

	TAILQ_FOREACH(e, list, in_list)
		*txn = min_u64(*txn, e->txn);
}

// Everything SETTLED whose row is older than all that are still needed.
static int give_up_settled(struct deferred *d, uint64_t id)
{
	struct deferred_blk *e, *next;
	uint64_t from = id;
	int err = 0;

	oldest_of(&d->lists[CLOSED], &from);
	oldest_of(&d->lists[COPIED], &from);
	for (e = TAILQ_FIRST(&d->lists[SETTLED]); err == 0 && e != NULL; e = next) {
		next = TAILQ_NEXT(e, in_list);
		if (e->txn < from)
			err = give_up(d, e, true);
	}
	d->stuck = d->n_settled >= d->batch_blk;
	return err != 0 ? err : deferred_rows_set_from(d->vol->store, from);
}

int deferred_close(struct deferred *d, uint64_t id)
{
	struct deferred_blk *e;
	int err = 0;

	store_assert_locked(d->vol->store);
	if (d->n_settled >= d->batch_blk)
		err = give_up_settled(d, id);
	while (err == 0 && (e = TAILQ_FIRST(&d->lists[OPEN])) != NULL) {
		err = set_row(d, e, id);
		if (e->on_device) {
			free(e->data);
			e->data = NULL;
		}
		move_to(d, e, e->on_device ? COPIED : CLOSED);
	}
	d->n_noted = 0;
	d->flushes = false;
	return err;
}

int deferred_clear(struct deferred *d)
{
	struct deferred_blk *e;

	store_assert_locked(d->vol->store);
	VERIFY(d->map.n == d->n_settled);
	while ((e = TAILQ_FIRST(&d->lists[SETTLED])) != NULL) {
		csum_settle(d->vol, e->node.key);
		remove_entry(d, e);
	}
	slots_free(&d->slots);
	d->rows = false;
	return deferred_rows_clear(d->vol->store);
}

// A flush that began after the last copy, and after the last close, has succeeded.
static void settle(struct deferred *d)
{
	struct deferred_blk *e;
	unsigned before = d->n_settled;

	while ((e = TAILQ_FIRST(&d->lists[COPIED])) != NULL)
		move_to(d, e, SETTLED);
	if (d->n_settled > before)
		txn_add_pages(d->vol, d->n_settled - before); // pages of table csum, when they are given up
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
	bool stuck;

	store_lock(d->vol->store);
	settle(d);
	stuck = d->stuck;
	store_unlock(d->vol->store);
	return stuck || atomic_load(&d->n_closed) >= d->batch_blk ? deferred_copy(d) : 0;
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

static int recover_blk(struct volume *vol, const struct deferred_row *row, const void *data)
{
	struct deferred *d = vol->deferred;
	struct deferred_blk *e;
	int err;

	if (row->phys_blk >= vol->files.sb.n_blks || sysfiles_overlap(&vol->files, row->phys_blk, 1))
		return -EUCLEAN;
	if (row->txn >= txn_open_id(vol) || keymap_find(&d->map, row->phys_blk) != NULL)
		return -EUCLEAN;
	err = bdev_write(vol->dev, data, BLK_SIZE, blk_to_bytes(row->phys_blk));
	if (err == 0)
		err = csum_set_late(vol, row->phys_blk, row->crc);
	if (err == 0)
		err = slots_use(&d->slots, row->slot);
	if (err != 0)
		return err;
	e = calloc(1, sizeof(*e));
	if (e == NULL)
		return -ENOMEM;
	e->txn = row->txn;
	e->slot = row->slot;
	e->crc = row->crc;
	e->has_row = true;
	enter_list(d, e, COPIED);
	keymap_add(&d->map, row->phys_blk, &e->node);
	return 0;
}

static int recover_all(struct volume *vol)
{
	struct deferred_row row = { 0 };
	uint8_t data[BLK_SIZE];
	uint64_t from;
	int rc = deferred_rows_from(vol->store, &from);

	for (uint64_t slot = 0; rc == 0; slot = row.slot + 1) {
		rc = deferred_row_next(vol->store, slot, from, &row, data);
		if (rc != 1)
			break;
		rc = recover_blk(vol, &row, data);
	}
	return rc;
}

int deferred_recover(struct volume *vol)
{
	struct deferred *d = vol->deferred;
	int rc;

	if (d->passive)
		return 0;
	store_lock(vol->store);
	rc = deferred_rows_exist(vol->store);
	d->rows = rc == 1;
	if (rc == 1)
		rc = recover_all(vol);
	if (rc == 0 && d->map.n > 0) {
		msg_info("%s: finished %zu deferred writes", vol->dev->name, d->map.n);
		rc = bdev_flush(vol->dev);
	}
	if (rc == 0)
		settle(d);
	store_unlock(vol->store);
	return rc;
}
