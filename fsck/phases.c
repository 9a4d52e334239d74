// SPDX-License-Identifier: MIT
// The phases in their order, and the short look that -p takes at a volume without known errors.
//
// The order: superblocks (without them there is no database), the database (without it there are no rows), inodes and
// their blocks, the free map (which follows from the blocks), what belongs to the blocks and what must be copied (which needs free space),
// names (which need the inodes), the tree (which needs the names), counts (which need the tree). Each leaves behind what the
// next ones rely on.
//
// A database that turns out to be damaged, in phase 2 or when a later one meets it, is written anew, and everything begins again.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "meta/deferred_rows.h"
#include "meta/rows.h"
#include "util/attr.h"
#include "util/log.h"

struct phase {
	const char *what;
	int (*run)(struct fsck *f);
};

// Phase 1, the superblocks, has run by then: main.c needs it to open the volume.
static const struct phase phases[] = {
	{ "database", phase_database },
	{ "inodes", phase_inodes },
	{ "free space", phase_space },
	{ "data", phase_data },
	{ "names", phase_names },
	{ "tree", phase_tree },
	{ "counts", phase_counts },
};

static int run_phase(struct fsck *f, size_t i)
{
	int err;

	progress_phase(f, (unsigned)i + 2, ARRAY_LEN(phases) + 1, phases[i].what);
	if (f->verbose) {
		progress_hide(f);
		fprintf(fsck_out(f), "%s: phase %zu: %s\n", f->device, i + 2, phases[i].what);
	}
	err = fsck_begin(f);
	if (err != 0)
		return err;
	err = phases[i].run(f);
	if (err == 0)
		return fsck_end(f);
	if (f->locked)
		store_unlock(f->vol->store);
	f->locked = false;
	return err; // the caller abandons the volume: what was not committed is dropped
}

static int run_phases(struct fsck *f)
{
	int err = blockmap_init(&f->owned, f->sb.n_blks, f->sb.ms_shift);

	if (err == 0)
		err = blockmap_init(&f->summed, f->sb.n_blks, f->sb.ms_shift);
	for (size_t i = 0; err == 0 && i < ARRAY_LEN(phases) && !fsck_stopping(f) && !f->db_damaged; i++)
		err = run_phase(f, i);
	progress_hide(f);
	return err;
}

// What SQLite's check has not seen: a page that cannot be read after all.
static int ask_for_rebuild(struct fsck *f, int err)
{
	char text[sizeof(f->why.text)];

	if (err != -EUCLEAN || f->rebuilt)
		return err;
	memcpy(text, f->why.text, sizeof(text));
	f->why.text[0] = '\0';
	f->db_damaged = true;
	f->rebuild = PROBLEM(f, FP_DB_INTEGRITY, .text = text[0] != '\0' ? text : strerror(-err));
	return 0;
}

int fsck_check(struct fsck *f)
{
	bool done = false;
	int err = ask_for_rebuild(f, run_phases(f));

	if (err != 0 || !f->rebuild || f->rebuilt)
		return err;
	if (f->vol != NULL)
		volume_abandon(f->vol); // nothing of it is worth a write
	f->vol = NULL;
	fsck_free(f);
	err = salvage(f, &done);
	if (err != 0 || !done)
		return err;
	f->db_damaged = false;
	err = fsck_open(f);
	return err != 0 ? err : run_phases(f);
}

void fsck_free(struct fsck *f)
{
	inotab_free(&f->inodes);
	dirtab_free(&f->dirs);
	blockmap_free(&f->owned);
	blockmap_free(&f->summed);
	shared_free(&f->shared);
	f->n_deferred = f->lost_found = 0;
	f->has_space = false;
}

int fsck_read_last_txn(struct fsck *f)
{
	int err;

	store_lock(f->vol->store);
	err = deferred_rows_last_txn(f->vol->store, &f->last_txn);
	store_unlock(f->vol->store);
	return err == -ENOENT || err == -EUCLEAN ? 0 : err; // phase 2 says so
}

bool fsck_report_copies(struct fsck *f, const struct sb_scan *scan)
{
	bool rewrite = false;

	for (int i = 0; i < SB_COPIES; i++) {
		if (scan->state[i] == SB_COPY_BAD || scan->state[i] == SB_COPY_UNREADABLE)
			rewrite |= PROBLEM(f, FP_SB_COPY, .is = i + 1);
		if (scan->state[i] == SB_COPY_STALE && f->mode != FSCK_NO)
			rewrite = true;
	}
	return rewrite;
}

// ---- what came out ----

static uint64_t system_blks(const struct fsck *f)
{
	uint64_t sum = SB_COPIES * SB_BLKS;

	for (int id = 0; id < SYSFILE_N; id++)
		for (uint32_t i = 0; i < f->sb.sysfile[id].n_extents; i++)
			sum += f->sb.sysfile[id].extents[i].len_blk;
	return sum;
}

void fsck_print_summary(const struct fsck *f, bool quick)
{
	FILE *out = fsck_out(f);

	fprintf(out, "%s: %s%llu files, %llu/%llu blocks\n", f->device, quick ? "clean, " : "", (unsigned long long)f->n_inodes,
	        (unsigned long long)(f->used_blk + system_blks(f)), (unsigned long long)f->sb.n_blks);
	if (f->n_fixed > 0)
		fprintf(out, "%s: %llu problems repaired\n", f->device, (unsigned long long)f->n_fixed);
	if (f->n_damaged > 0)
		fprintf(out, "%s: %llu files are damaged\n", f->device, (unsigned long long)f->n_damaged);
	if (f->n_left > f->n_damaged)
		fprintf(out, "%s: %llu problems left: %s\n", f->device, (unsigned long long)(f->n_left - f->n_damaged),
		        f->online ? "unmount the volume and run fsck.hybridfs" : "the volume needs to be repaired");
}

int fsck_exit_status(const struct fsck *f, int err)
{
	int status = EXIT_CLEAN;

	if (f->n_fixed > 0)
		status |= EXIT_CORRECTED;
	if (f->n_left > 0)
		status |= EXIT_LEFT;
	if (err != 0)
		status |= EXIT_OPERATIONAL;
	if (*f->stop != 0)
		status |= EXIT_CANCELLED;
	return status;
}

// ---- the short look ----

// The counters of all metaslabs: at most 4096 rows.
static bool counters_look_clean(struct fsck *f, uint64_t *free_blk)
{
	uint64_t n_blks = f->sb.n_blks, ms_blks = 1ull << f->sb.ms_shift;
	struct cursor c;
	bool clean = true;
	int err = cursor_open(f, &c, "SELECT ms, free_blk FROM metaslab ORDER BY ms", 0, 0);

	*free_blk = n_blks;
	while (err == 0 && c.have && clean) {
		uint64_t ms = (uint64_t)c.key, free = (uint64_t)cursor_int(&c, 1), size = 0;

		clean = ms < sb_n_metaslabs(&f->sb);
		if (clean)
			size = ms_blks < n_blks - ms * ms_blks ? ms_blks : n_blks - ms * ms_blks;
		clean = clean && free <= size;
		*free_blk -= clean ? size - free : 0;
		err = cursor_next(f, &c);
	}
	cursor_close(&c);
	return err == 0 && clean;
}

static bool root_looks_clean(struct fsck *f)
{
	struct inode_row root;

	return inode_get(f->vol->store, ROOT_INO, &root) == 0 && S_ISDIR(root.mode) && root.nlink >= 2;
}

bool fsck_looks_clean(struct fsck *f)
{
	struct store *st = f->vol->store;
	int64_t errors = 0, next = 0;
	uint64_t free_blk, last_txn, last_ino;
	bool clean;

	store_lock(st);
	if (store_config_get(st, "errors", &errors) != 0)
		errors = 0;
	clean = errors == 0 && store_config_get(st, "next_ino", &next) == 0 && next > (int64_t)ROOT_INO;
	clean = clean && inode_last(st, &last_ino) == 0 && last_ino < (uint64_t)next;
	clean = clean && deferred_rows_last_txn(st, &last_txn) == 0 && deferred_rows_check_from(st, last_txn) == 0;
	clean = clean && root_looks_clean(f) && counters_look_clean(f, &free_blk);
	if (clean) {
		f->n_inodes = (uint64_t)store_n_inodes(st);
		f->used_blk = f->sb.n_blks - free_blk;
	}
	store_unlock(st);
	return clean;
}
