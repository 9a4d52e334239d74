// SPDX-License-Identifier: MIT
// Counting room for metadata. See room.h.
#include "meta/room.h"

#include <errno.h>

#include "meta/store.h"
#include "meta/volume.h"
#include "util/blk.h"

#define TXN_PAGES_MAX 65536u
#define PLENTY_BLK (1u << 21) // free space that does not run out while one transaction is open
#define ROOM_LOW_BLK 128      // room below which nothing grows
// The database's capacity is kept ahead of its size by an eighth of it, within these bounds, as long as there is free space; more than
// ROOM_LOW_BLK, so that the last free block can still be written. On a full volume the reserve keeps it this much ahead:
#define DB_SLACK_MIN_BLK 256u
#define DB_SLACK_MAX_BLK 2048u
#define DB_SLACK_FULL_BLK 64u

// Free blocks above the reserve, those included that a transaction under way will give back. Negative: the reserve is in use.
static int64_t free_above_reserve(struct volume *vol)
{
	uint64_t free_blk, freeing_blk;

	alloc_get_free(vol->alloc, &free_blk, &freeing_blk);
	return (int64_t)(free_blk + freeing_blk) - (int64_t)volume_reserve_blk(vol->files.sb.n_blks);
}

// A free run may be one block long, so a system file with few extents left may grow by few blocks.
static int64_t growable(const struct room *room, int64_t blks)
{
	int64_t left = (int64_t)room->extents_left;

	return left < SB_MAX_EXTENTS / 2 && left < blks ? left : blks;
}

void room_measure_capacity(struct volume *vol, struct room *room)
{
	room->db_cap_blk = bytes_to_blk_down(sysfile_capacity_bytes(&vol->files, SYSFILE_DB));
	room->log_cap_blk = bytes_to_blk_down(sysfile_capacity_bytes(&vol->files, SYSFILE_WAL));
	room->extents_left = sysfiles_extents_left(&vol->files);
}

int room_measure(struct volume *vol, struct room *room)
{
	room_measure_capacity(vol, room);
	room->log_blk = bytes_to_blk_up(dbvfs_wal_end_bytes(vol->vfs));
	return store_page_counts(vol->store, &room->used_blk, &room->total_blk);
}

// The log has the place without growing, and the database has it or finds it in the reserve. With plenty of free space both may grow.
uint64_t room_max(struct volume *vol, const struct room *room)
{
	uint64_t reserve_blk = volume_reserve_blk(vol->files.sb.n_blks), free_blk, freeing_blk;
	int64_t db, log = (int64_t)room->log_cap_blk - (int64_t)room->log_blk;

	if (vol->alloc == NULL)
		return TXN_PAGES_MAX; // fsck: only its own care keeps it small
	alloc_get_free(vol->alloc, &free_blk, &freeing_blk);
	if (free_blk > reserve_blk + PLENTY_BLK && room->extents_left > SB_MAX_EXTENTS / 2)
		return TXN_PAGES_MAX;
	db = (int64_t)room->db_cap_blk - (int64_t)room->total_blk + growable(room, (int64_t)min_u64(free_blk, reserve_blk));
	if (db <= 0 || log <= 0)
		return 0;
	return min_u64(min_u64((uint64_t)db, (uint64_t)log), TXN_PAGES_MAX);
}

bool room_for_growth(struct volume *vol, const struct room *room, uint64_t pages)
{
	int64_t slack = (int64_t)room->db_cap_blk - (int64_t)room->used_blk;

	if (vol->alloc == NULL)
		return true;
	return slack + growable(room, free_above_reserve(vol)) >= ROOM_LOW_BLK + (int64_t)pages;
}

bool room_wants_restart(struct volume *vol, const struct room *room)
{
	return room->log_blk > room->log_cap_blk / 2 && room_max(vol, room) < ROOM_TIGHT;
}

int room_grow_database(struct volume *vol, uint64_t total_blk)
{
	uint64_t cap_blk = bytes_to_blk_down(sysfile_capacity_bytes(&vol->files, SYSFILE_DB));
	uint64_t slack = max_u64(DB_SLACK_MIN_BLK, min_u64(total_blk / 8, DB_SLACK_MAX_BLK));
	int err;

	if (vol->alloc == NULL)
		return 0;
	if (free_above_reserve(vol) < (int64_t)(2 * slack))
		slack = DB_SLACK_FULL_BLK;
	if (cap_blk >= total_blk + slack)
		return 0;
	err = sysfile_grow(&vol->files, SYSFILE_DB, max_u64(total_blk + slack - cap_blk, slack));
	if ((err == -ENOSPC || err == -EFBIG) && cap_blk < total_blk)
		err = sysfile_grow(&vol->files, SYSFILE_DB, total_blk - cap_blk);
	return err == -ENOSPC || err == -EFBIG ? 0 : err;
}
