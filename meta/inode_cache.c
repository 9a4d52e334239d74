// SPDX-License-Identifier: MIT
// Rows of inode in memory. See inode_cache.h for the states and IC1–IC4.
//
// All places are made at once. Each is in one of three lists: unused, CLEAN (the least recently used first), or changed, which are DIRTY and NEW (the
// least recently changed first, so that new rows come to the table's end in order).
#include "meta/inode_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/queue.h>

#include "meta/rows_internal.h"
#include "util/keymap.h"

#define CHAIN_BITS 12u
#define N_PLACES 4096u
#define CHANGED_MAX (N_PLACES / 4)

enum state { UNUSED, CLEAN, DIRTY, NEW };

struct place {
	struct key_node node; // key: the inode's number
	TAILQ_ENTRY(place) in_list;
	enum state state;
	struct inode_row row;
};

TAILQ_HEAD(place_list, place);

struct inode_cache {
	struct store *st;
	struct keymap map;
	struct place_list unused, clean, changed;
	unsigned n_changed;
	struct place places[N_PLACES];
};

static bool is_changed(const struct place *p) { return p->state == DIRTY || p->state == NEW; }

static struct place_list *list_of(struct inode_cache *ic, enum state state)
{
	return state == UNUSED ? &ic->unused : state == CLEAN ? &ic->clean : &ic->changed;
}

static void move_to(struct inode_cache *ic, struct place *p, enum state state)
{
	TAILQ_REMOVE(list_of(ic, p->state), p, in_list);
	ic->n_changed -= is_changed(p);
	p->state = state;
	ic->n_changed += is_changed(p);
	TAILQ_INSERT_TAIL(list_of(ic, state), p, in_list);
}

int inode_cache_create(struct store *st, struct inode_cache **out)
{
	struct inode_cache *ic = calloc(1, sizeof(*ic));

	if (ic == NULL || keymap_init(&ic->map, CHAIN_BITS) != 0) {
		free(ic);
		return -ENOMEM;
	}
	ic->st = st;
	TAILQ_INIT(&ic->unused);
	TAILQ_INIT(&ic->clean);
	TAILQ_INIT(&ic->changed);
	for (unsigned i = 0; i < N_PLACES; i++)
		TAILQ_INSERT_TAIL(&ic->unused, &ic->places[i], in_list);
	*out = ic;
	return 0;
}

void inode_cache_destroy(struct inode_cache *ic)
{
	if (ic == NULL)
		return;
	keymap_destroy(&ic->map);
	free(ic);
}

static void forget(struct inode_cache *ic, struct place *p)
{
	keymap_remove(&ic->map, &p->node);
	move_to(ic, p, UNUSED);
}

// A place for a row that has none, in that state; NULL if all are taken by changed ones.
static struct place *take(struct inode_cache *ic, const struct inode_row *row, enum state state)
{
	struct place *p = TAILQ_FIRST(&ic->unused);

	if (p == NULL) {
		p = TAILQ_FIRST(&ic->clean);
		if (p == NULL)
			return NULL;
		forget(ic, p);
	}
	p->row = *row;
	keymap_add(&ic->map, row->ino, &p->node);
	move_to(ic, p, state);
	return p;
}

// ---- reading ----

bool inode_cache_get(struct inode_cache *ic, uint64_t ino, struct inode_row *row)
{
	struct place *p = ic != NULL ? keymap_find(&ic->map, ino) : NULL;

	if (p == NULL)
		return false;
	if (p->state == CLEAN)
		move_to(ic, p, CLEAN);
	*row = p->row;
	return true;
}

void inode_cache_remember(struct inode_cache *ic, const struct inode_row *row)
{
	if (ic != NULL && keymap_find(&ic->map, row->ino) == NULL)
		(void)take(ic, row, CLEAN);
}

// ---- changing ----

static int write_oldest(struct inode_cache *ic)
{
	struct place *p = TAILQ_FIRST(&ic->changed);
	int err = p->state == NEW ? inode_row_insert(ic->st, &p->row) : inode_row_update(ic->st, &p->row);

	if (err == 0) // otherwise the store has failed, and the cache is empty
		move_to(ic, p, CLEAN);
	return err;
}

static int keep_bound(struct inode_cache *ic) { return ic->n_changed > CHANGED_MAX ? write_oldest(ic) : 0; }

bool inode_cache_insert(struct inode_cache *ic, const struct inode_row *row, int *err)
{
	if (ic == NULL || keymap_find(&ic->map, row->ino) != NULL || take(ic, row, NEW) == NULL)
		return false; // the table will say that it has such a row
	*err = keep_bound(ic);
	return true;
}

bool inode_cache_update(struct inode_cache *ic, const struct inode_row *row, int *err)
{
	struct place *p = ic != NULL ? keymap_find(&ic->map, row->ino) : NULL;
	int64_t btime_ns;

	if (p == NULL)
		return false;
	btime_ns = p->row.btime_ns;
	p->row = *row;
	p->row.btime_ns = btime_ns;
	move_to(ic, p, p->state == NEW ? NEW : DIRTY);
	*err = keep_bound(ic);
	return true;
}

bool inode_cache_delete(struct inode_cache *ic, uint64_t ino)
{
	struct place *p = ic != NULL ? keymap_find(&ic->map, ino) : NULL;
	bool was_new = p != NULL && p->state == NEW;

	if (p != NULL)
		forget(ic, p);
	return was_new;
}

// ---- all of it ----

bool inode_cache_is_clean(const struct inode_cache *ic) { return ic == NULL || ic->n_changed == 0; }

int inode_cache_write(struct inode_cache *ic)
{
	int err = 0;

	while (err == 0 && !inode_cache_is_clean(ic))
		err = write_oldest(ic);
	return err;
}

void inode_cache_drop(struct inode_cache *ic)
{
	struct place *p;

	if (ic == NULL)
		return;
	while ((p = TAILQ_FIRST(&ic->changed)) != NULL || (p = TAILQ_FIRST(&ic->clean)) != NULL)
		forget(ic, p);
}

int inode_cache_flush(struct inode_cache *ic)
{
	int err = inode_cache_write(ic);

	inode_cache_drop(ic);
	return err;
}
