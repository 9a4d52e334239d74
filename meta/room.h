// SPDX-License-Identifier: MIT
// Room for metadata: how much a transaction may hold, so that all of it finds its place.
//
// Whatever is committed has to go somewhere: its pages into the log now, into the database at the next checkpoint. Nobody can be told by
// then that there is no space, so space is counted before an operation joins a transaction.
//
// Units: blocks, which are pages of the database. Lock: none of its own; a struct room is its owner's (txn.c).
#ifndef HYBRIDFS_META_ROOM_H
#define HYBRIDFS_META_ROOM_H

#include <stdbool.h>
#include <stdint.h>

#include "util/attr.h"

struct volume;

#define ROOM_TIGHT 1024u // a transaction that may hold less than this is short of space

struct room {
	uint64_t used_blk, total_blk; // of the database: without and with its free list
	uint64_t log_blk;             // how far the log is filled
	uint64_t db_cap_blk, log_cap_blk;
	uint64_t extents_left;        // of the system file that has fewer of them
};

int room_measure(struct volume *vol, struct room *room) ATTR_MUST_USE; // all of it; store lock held
void room_measure_capacity(struct volume *vol, struct room *room);     // the parts that a growth of a system file changes

// Pages that the open transaction may dirty.
uint64_t room_max(struct volume *vol, const struct room *room);

// Whether the database can grow by what an operation may need and by `pages` more, without the reserve.
bool room_for_growth(struct volume *vol, const struct room *room, uint64_t pages);

// Where space is short, each transaction is opened with half of the log before it at least: whether the log should start anew at once.
bool room_wants_restart(struct volume *vol, const struct room *room);

// Keeps the database's file ahead of the database. Outside every lock. Missing space is no error: room_for_growth() tells those who need it.
int room_grow_database(struct volume *vol, uint64_t total_blk) ATTR_MUST_USE;

#endif
