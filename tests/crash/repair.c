// SPDX-License-Identifier: MIT
// Crashes of a repair. See repair.h.
#include "repair.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "look.h"

#define IS_DIR "mode & 61440 = 16384 AND ino <> 1"
#define IS_FILE "mode & 61440 = 32768"

static const char *const damages[] = {
	"UPDATE inode SET nlink = nlink + 3 WHERE " IS_FILE,
	"UPDATE inode SET nlink = 0 WHERE ino = (SELECT max(ino) FROM inode WHERE " IS_FILE ")",
	"UPDATE inode SET blocks = blocks + 9 WHERE " IS_FILE,
	"UPDATE inode SET size = -1 WHERE ino = (SELECT min(ino) FROM extent)",
	"UPDATE inode SET mode = 0 WHERE ino = (SELECT max(ino) FROM inode)",
	"UPDATE inode SET parent = 1 WHERE " IS_DIR,
	"DELETE FROM inode WHERE ino = (SELECT min(ino) FROM extent)",
	"DELETE FROM inode WHERE ino = (SELECT min(ino) FROM inode WHERE " IS_DIR ")",
	"DELETE FROM dirent WHERE ino = (SELECT max(ino) FROM dirent)",
	"DELETE FROM dirent WHERE ino IN (SELECT ino FROM inode WHERE " IS_DIR ")",
	"DELETE FROM dirent",
	"DELETE FROM inline",
	"DELETE FROM extent WHERE ino = (SELECT max(ino) FROM extent)",
	"UPDATE extent SET phys = (SELECT min(phys) FROM extent) WHERE ino = (SELECT max(ino) FROM extent)",
	"UPDATE extent SET phys = 3",
	"DELETE FROM spacemap",
	"DELETE FROM metaslab",
	"UPDATE metaslab SET free_blk = free_blk - 5",
	"INSERT OR REPLACE INTO xattr (ino, name, value) VALUES (987654, x'757365722e78', x'01')",
};

static int damage(struct volume *vol, uint64_t seed, char *why, size_t why_cap)
{
	uint64_t rnd = rnd_seeded(seed), n = 1 + rnd_below(&rnd, 3), txn;
	int err = txn_begin(vol, TXN_FREE, &txn);

	if (err != 0)
		return err;
	store_lock(vol->store);
	for (uint64_t i = 0; err == 0 && i < n; i++) {
		// The first one by turns, so that a few seeds have all.
		const char *sql = damages[i == 0 ? seed % ARRAY_LEN(damages) : rnd_below(&rnd, ARRAY_LEN(damages))];

		if (sqlite3_exec(store_db(vol->store), sql, NULL, NULL, NULL) != SQLITE_OK) {
			snprintf(why, why_cap, "%s: %s", sql, sqlite3_errmsg(store_db(vol->store)));
			err = -EINVAL;
		}
	}
	store_unlock(vol->store);
	txn_end(vol);
	return err;
}

static int make_damaged(struct bdev *dev, uint64_t seed, char *why, size_t why_cap)
{
	struct volume_opts opts = { .flags = VOLUME_NO_ALLOC, .commit_interval_ms = 3600000, .cache_bytes = HISTORY_CACHE_BYTES };
	struct errmsg text = { "" };
	struct volume *vol;
	int err, close_err;

	err = volume_open(dev, &opts, &vol, &text);
	if (err != 0) {
		snprintf(why, why_cap, "%s", text.text);
		return err;
	}
	err = damage(vol, seed, why, why_cap);
	close_err = volume_close(vol);
	return err != 0 ? err : close_err;
}

int repair_record(const struct base *base, uint64_t seed, struct bdev **out, char *why, size_t why_cap)
{
	uint64_t fixed = 0, left = 0;
	struct bdev *dev;
	int err;

	clock_reset();
	snprintf(why, why_cap, "damaging the volume");
	err = testdev_clone(base->dev, &dev);
	if (err != 0)
		return err;
	err = make_damaged(dev, seed, why, why_cap);
	testdev_record(dev, true);
	if (err == 0)
		err = look_fsck(dev, true, &fixed, &left, why, why_cap);
	testdev_record(dev, false);
	if (err == 0 && (left > 0 || fixed == 0)) {
		snprintf(why, why_cap, "fsck has repaired %" PRIu64 " problems and left %" PRIu64, fixed, left);
		err = -EUCLEAN;
	}
	if (err == 0)
		*out = dev;
	else
		bdev_close(dev);
	return err;
}

// Contents are not read: what was damaged may have been a file's only copy.
int repair_check(struct bdev *state, char *why, size_t why_cap)
{
	uint64_t fixed, left;
	int err = look_fsck(state, true, &fixed, &left, why, why_cap);

	if (err == 0 && left > 0) {
		snprintf(why, why_cap, "the second fsck leaves %" PRIu64 " problems", left);
		err = -EUCLEAN;
	}
	if (err == 0)
		err = look_recover(state, why, why_cap);
	if (err == 0)
		err = look_fsck(state, false, &fixed, &left, why, why_cap);
	if (err == 0 && left > 0) {
		snprintf(why, why_cap, "fsck finds %" PRIu64 " problems after the second fsck and a mount", left);
		err = -EUCLEAN;
	}
	return err;
}
