// SPDX-License-Identifier: MIT
// Opening and closing a volume, and making a new one. See volume.h.
#include "meta/volume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <uuid/uuid.h>

#include "meta/deferred_rows.h"
#include "meta/freemap.h"
#include "meta/rows.h"
#include "util/blk.h"
#include "util/log.h"

#define ALLOC_BYTES_MAX (64u << 20)
#define COMMIT_INTERVAL_MS 5000
#define CACHE_BYTES (32u << 20)
#define FORMAT_CACHE_BYTES (1u << 20)
#define SNAPSHOT_CACHE_BYTES (8u << 20)

uint64_t volume_reserve_blk(uint64_t n_blks)
{
	return min_u64(max_u64(n_blks / 64, 256), 8192); // 1/64 of the volume, 1 to 32 MiB
}

// ---- the pieces that both opening and formatting build ----

static int wal_sync(void *ctx)
{
	struct volume *vol = ctx;

	return vol->txn != NULL ? txn_wal_sync(vol) : bdev_flush(vol->dev);
}

static void store_failed(void *ctx, int err, const char *what)
{
	struct volume *vol = ctx;

	csums_rolled_back(vol->csums);
	deferred_rolled_back(vol->deferred);
	txn_failed(vol, err, what);
}

static void volume_free(struct volume *vol)
{
	// The store first: it may still want its files. The allocator's source is the transaction manager's free map.
	if (vol->txn != NULL)
		txn_halt(vol);
	store_close(vol->store);
	if (vol->vfs != NULL && vol->live == NULL)
		dbvfs_destroy(vol->vfs);
	alloc_destroy(vol->alloc);
	deferred_destroy(vol->deferred);
	csums_destroy(vol->csums);
	txn_destroy(vol);
	sysfiles_destroy(&vol->files);
	free(vol);
}

static int volume_make(struct bdev *dev, const struct superblock *sb, bool fresh, struct volume **out)
{
	struct volume *vol = calloc(1, sizeof(*vol));
	struct dbvfs_hooks hooks = { .wal_sync = wal_sync, .ctx = vol };
	int err;

	if (vol == NULL)
		return -ENOMEM;
	vol->dev = dev;
	err = sysfiles_init(&vol->files, dev, sb);
	if (err != 0) {
		free(vol);
		return err;
	}
	err = dbvfs_create(&vol->files, &hooks, fresh, &vol->vfs);
	if (err != 0) {
		volume_free(vol);
		return err;
	}
	*out = vol;
	return 0;
}

// ---- opening ----

static void source_enter(void *ctx) { store_lock(((struct volume *)ctx)->store); }
static void source_leave(void *ctx) { store_unlock(((struct volume *)ctx)->store); }
static int source_load(void *ctx, uint32_t ms, struct alloc_loader *loader)
{
	return freemap_load(txn_freemap(ctx), ms, loader);
}

static const struct alloc_source alloc_source = {
	.enter = source_enter,
	.leave = source_leave,
	.load = source_load,
};

// What fsck needs: it must get in where a mount may not, and puts right what is missing.
static int read_numbers(struct volume *vol, uint64_t *last_id)
{
	int64_t next_ino = 0;
	int err;

	store_lock(vol->store);
	err = deferred_rows_last_txn(vol->store, last_id);
	if (err == 0 || err == -ENOENT || err == -EUCLEAN)
		err = store_config_get(vol->store, "next_ino", &next_ino);
	store_unlock(vol->store);
	atomic_store(&vol->next_ino, next_ino > (int64_t)ROOT_INO ? (uint64_t)next_ino : ROOT_INO + 1);
	return err == -ENOENT ? 0 : err;
}

// What every mount needs to know from the database: numbers, free counts, and that there is a root.
static int read_state(struct volume *vol, uint64_t *free_blk, uint64_t *last_id, struct errmsg *why)
{
	int64_t next_ino = 0;
	struct inode_row root;
	uint64_t last_ino = 0;
	int err;

	store_lock(vol->store);
	err = deferred_rows_last_txn(vol->store, last_id);
	if (err == 0)
		err = deferred_rows_check_from(vol->store, *last_id);
	if (err == 0)
		err = store_config_get(vol->store, "next_ino", &next_ino);
	if (err == 0)
		err = inode_last(vol->store, &last_ino);
	if (err == 0 && (next_ino <= (int64_t)ROOT_INO || last_ino >= INT64_MAX))
		err = -EUCLEAN;
	if (err == 0)
		err = inode_get(vol->store, ROOT_INO, &root);
	if (err == 0 && !S_ISDIR(root.mode))
		err = -EUCLEAN;
	if (err == 0)
		err = freemap_count_free(vol, free_blk);
	store_unlock(vol->store);
	if (err != 0)
		errmsg_set(why, "the database inside the volume is damaged; run fsck.hybridfs");
	// Never a number that is taken: a new inode that is gone before its transaction closes would take the other one's rows along.
	atomic_store(&vol->next_ino, max_u64((uint64_t)next_ino, last_ino + 1));
	return err == -ENOENT ? -EUCLEAN : err;
}

static int open_allocator(struct volume *vol, const struct volume_opts *opts, const uint64_t *free_blk)
{
	struct alloc_config cfg = {
		.n_blks = vol->files.sb.n_blks,
		.ms_shift = vol->files.sb.ms_shift,
		.reserve_blk = volume_reserve_blk(vol->files.sb.n_blks),
		.ms_free_blk = free_blk,
		.source = &alloc_source,
		.source_ctx = vol,
		.engine = opts->engine,
	};
	int err = alloc_create(&cfg, &vol->alloc);

	vol->alloc_bytes_max = opts->alloc_bytes_max != 0 ? opts->alloc_bytes_max : ALLOC_BYTES_MAX;
	if (err == 0)
		vol->files.alloc = vol->alloc;
	return err;
}

static int open_store(struct volume *vol, const struct volume_opts *opts, struct errmsg *why)
{
	struct store_config cfg = {
		.vfs = vol->vfs,
		.read_only = vol->read_only,
		.cache_inodes = !vol->read_only && (opts->flags & VOLUME_NO_ALLOC) == 0,
		.cache_bytes = opts->cache_bytes != 0 ? opts->cache_bytes : CACHE_BYTES,
		.on_failure = store_failed,
		.ctx = vol,
	};

	return store_open(&cfg, &vol->store, why);
}

static int recover_deferred(struct volume *vol, struct errmsg *why)
{
	int err = deferred_recover(vol);

	if (err == -EUCLEAN)
		errmsg_set(why, "a deferred write is damaged; run fsck.hybridfs");
	return err;
}

static int open_inside(struct volume *vol, const struct volume_opts *opts, struct errmsg *why)
{
	uint32_t n_ms = sb_n_metaslabs(&vol->files.sb);
	uint64_t *free_blk, last_id;
	int err;

	err = open_store(vol, opts, why);
	if (err != 0)
		return err;
	if (!vol->read_only)
		vol->recovered = store_recovered_frames(vol->store) > 0;
	err = csums_create(vol, &vol->csums);
	if (err == 0)
		err = deferred_create(vol, vol->read_only || (opts->flags & VOLUME_NO_ALLOC) != 0, &vol->deferred);
	if (err != 0)
		return err;
	free_blk = calloc(n_ms, sizeof(*free_blk));
	if (free_blk == NULL)
		return -ENOMEM;
	if ((opts->flags & VOLUME_NO_ALLOC) != 0)
		err = read_numbers(vol, &last_id);
	else
		err = read_state(vol, free_blk, &last_id, why);
	for (uint32_t ms = 0; ms < n_ms; ms++)
		vol->ro_free_blk += free_blk[ms];
	if (err == 0 && !vol->read_only) {
		err = txn_init(vol, last_id, opts->commit_interval_ms != 0 ? opts->commit_interval_ms : COMMIT_INTERVAL_MS);
		if (err == 0 && (opts->flags & VOLUME_NO_ALLOC) == 0)
			err = open_allocator(vol, opts, free_blk);
		if (err == 0)
			err = recover_deferred(vol, why);
		if (err == 0)
			err = txn_start(vol);
	}
	free(free_blk);
	return err;
}

int volume_open(struct bdev *dev, const struct volume_opts *opts, struct volume **out, struct errmsg *why)
{
	struct superblock *sb = malloc(sizeof(*sb)); // too large for a thread's stack to be taken lightly
	struct volume *vol = NULL;
	struct sb_scan scan;
	bool read_only = (opts->flags & VOLUME_READ_ONLY) != 0 || dev->read_only;
	int err;

	errmsg_set(why, "%s", "");
	if (sb == NULL) {
		errmsg_set(why, "cannot open the volume: %s", strerror(ENOMEM));
		return -ENOMEM;
	}
	err = sb_read(dev, sb, &scan, why);
	if (err == 0 && scan.no_magic[0] && !read_only && (opts->flags & VOLUME_NO_ALLOC) == 0) {
		errmsg_set(why, "%s: the first superblock has been overwritten, perhaps by another filesystem; if it has not, "
		           "fsck.hybridfs restores it", dev->name);
		err = -EUCLEAN;
	}
	if (err == 0 && (sb->ro_compat & ~SB_RO_COMPAT_KNOWN) != 0 && !read_only) {
		msg_warn("%s: written by a newer version with features unknown here: mounting read-only", dev->name);
		read_only = true;
	}
	if (err == 0)
		err = volume_make(dev, sb, false, &vol);
	free(sb);
	if (err != 0 && why != NULL && why->text[0] == '\0')
		errmsg_set(why, "cannot open the volume: %s", strerror(-err));
	if (err != 0)
		return err;
	vol->read_only = read_only;
	errmsg_set(why, "%s", "");
	err = open_inside(vol, opts, why);
	if (err != 0) {
		if (why != NULL && why->text[0] == '\0')
			errmsg_set(why, "cannot open the volume: %s", strerror(-err));
		volume_free(vol);
		return err;
	}
	*out = vol;
	return 0;
}

int volume_close(struct volume *vol)
{
	int err = vol->txn != NULL ? txn_stop(vol) : 0;

	if (volume_is_shut_down(vol))
		err = 0; // it has ended as it was wanted
	if (err != 0)
		txn_failed(vol, err, "closing");
	volume_free(vol);
	return err;
}

// `failed` before the device refuses: whoever finds a refusing device would report a failure of it.
int volume_shut_down(struct volume *vol, bool commit)
{
	int none = 0, err = commit && vol->txn != NULL ? txn_commit(vol) : 0;

	if (atomic_exchange(&vol->shut_down, true))
		return err;
	msg_warn("%s: shut down on request%s: everything is an error from now on, until it is mounted again", vol->dev->name,
	         commit ? "" : ", without writing what was not durable");
	atomic_compare_exchange_strong(&vol->failed, &none, -EIO);
	bdev_stop(vol->dev);
	store_lock(vol->store);
	store_shut(vol->store);
	store_unlock(vol->store);
	return err;
}

// ---- snapshots ----

static uint64_t new_log_blk(uint64_t n_blks) { return min_u64(max_u64(n_blks / 64, 256), 16384); } // 1 to 64 MiB

// How long the log may become beside a snapshot. The log's file never shrinks, and where space is short it may not grow at all: so three quarters
// of it, or, where there is plenty of space, twice what mkfs gives.
static uint64_t snapshot_log_max(struct volume *live)
{
	uint64_t max = sysfile_capacity_bytes(&live->files, SYSFILE_WAL) / 4 * 3, fresh_blk = new_log_blk(live->files.sb.n_blks);
	struct volume_space space;

	volume_get_space(live, &space);
	return space.avail_blk >= 16 * fresh_blk ? max_u64(max, blk_to_bytes(2 * fresh_blk)) : max;
}

// What the system files own, copied before the database's moment is fixed: they never shrink, so none of these blocks can belong to a file then.
// (Copied later, they may have grown into blocks that a file still owned at that moment.)
static int copy_files(struct volume *live, struct volume *snap)
{
	struct superblock *sb = malloc(sizeof(*sb));
	int err;

	if (sb == NULL)
		return -ENOMEM;
	pthread_rwlock_rdlock(&live->files.map_lock);
	*sb = live->files.sb;
	pthread_rwlock_unlock(&live->files.map_lock);
	err = sysfiles_init(&snap->files, live->dev, sb);
	free(sb);
	return err;
}

static int snapshot_inside(struct volume *live, struct volume *snap, struct errmsg *why)
{
	struct store_config cfg = {
		.vfs = live->vfs,
		.read_only = true,
		.cache_bytes = SNAPSHOT_CACHE_BYTES,
		.live = live->store,
		.log_max_bytes = snapshot_log_max(live),
	};
	uint64_t last_id;
	int err = store_open(&cfg, &snap->store, why);

	if (err == 0)
		err = csums_create(snap, &snap->csums);
	if (err == 0)
		err = deferred_create(snap, true, &snap->deferred);
	return err == 0 ? read_numbers(snap, &last_id) : err;
}

int volume_snapshot_open(struct volume *live, struct volume **out, struct errmsg *why)
{
	struct volume *snap = calloc(1, sizeof(*snap));
	int err = snap != NULL ? copy_files(live, snap) : -ENOMEM;

	errmsg_set(why, "%s", "");
	if (err != 0) {
		free(snap);
		return err;
	}
	snap->dev = live->dev;
	snap->live = live;
	snap->vfs = live->vfs;
	snap->read_only = true;
	err = snapshot_inside(live, snap, why);
	if (err != 0)
		volume_free(snap);
	else
		*out = snap;
	return err;
}

bool volume_snapshot_would_last(struct volume *live)
{
	return dbvfs_wal_end_bytes(live->vfs) <= snapshot_log_max(live) / 3 * 2;
}

void volume_snapshot_close(struct volume *snapshot) { volume_free(snapshot); }

void volume_note_damage(struct volume *vol)
{
	int none = DAMAGE_NONE;

	if (atomic_compare_exchange_strong(&vol->damage, &none, DAMAGE_SEEN))
		msg_error("%s: the volume is damaged; run fsck.hybridfs on it", vol->dev->name);
}

void volume_abandon(struct volume *vol) { volume_free(vol); }

void volume_get_space(struct volume *vol, struct volume_space *out)
{
	struct alloc_stats st = { .free_blk = vol->ro_free_blk, .reserve_blk = volume_reserve_blk(vol->files.sb.n_blks) };

	if (vol->alloc != NULL)
		alloc_get_stats(vol->alloc, &st);
	out->total_blk = vol->files.sb.n_blks;
	out->free_blk = st.free_blk + st.freeing_blk;
	out->avail_blk = out->free_blk > st.reserve_blk ? out->free_blk - st.reserve_blk : 0;
	out->inodes_free = out->avail_blk * 4; // an inode with its name takes about a kilobyte at most
	store_lock(vol->store);
	out->inodes_used = (uint64_t)store_n_inodes(vol->store);
	store_unlock(vol->store);
}

void volume_get_label(struct volume *vol, char label[SB_LABEL_MAX + 1])
{
	pthread_rwlock_rdlock(&vol->files.map_lock);
	memcpy(label, vol->files.sb.label, SB_LABEL_MAX + 1);
	pthread_rwlock_unlock(&vol->files.map_lock);
}

int volume_set_label(struct volume *vol, const char *label)
{
	int err = vol->read_only ? -EROFS : volume_refusal(vol);

	return err == 0 ? sysfiles_set_label(&vol->files, label) : err;
}

// ---- formatting ----

// System files of a new volume: the database in what lies between the first two superblock copies, the WAL behind the second one, and
// more room for the database behind that.
static void lay_out(struct superblock *sb)
{
	uint64_t second = SB_OFF_SECOND / BLK_SIZE;
	uint64_t wal_start = second + SB_BLKS;
	uint64_t wal_blk = new_log_blk(sb->n_blks);
	uint64_t more_blk = min_u64(sb->n_blks / 256, 4096);                 // up to 16 MiB

	sb->sysfile[SYSFILE_DB].extents[0] = (struct run){ SB_BLKS, second - SB_BLKS };
	sb->sysfile[SYSFILE_DB].extents[1] = (struct run){ wal_start + wal_blk, more_blk };
	sb->sysfile[SYSFILE_DB].n_extents = 2;
	sb->sysfile[SYSFILE_WAL].extents[0] = (struct run){ wal_start, wal_blk };
	sb->sysfile[SYSFILE_WAL].n_extents = 1;
}

// Whatever was there must not be taken for a volume while this one is half made.
static int wipe(struct bdev *dev, const struct superblock *sb)
{
	static const char zeros[SB_SIZE];
	struct run fixed[SB_COPIES];
	uint64_t last = dev->size_bytes - SB_SIZE;
	int err = 0;

	sb_fixed_runs(sb->n_blks, fixed);
	for (int i = 0; err == 0 && i < SB_COPIES; i++)
		err = bdev_write(dev, zeros, SB_SIZE, blk_to_bytes(fixed[i].start_blk));
	if (err == 0)
		err = bdev_write(dev, zeros, SB_SIZE, last);
	if (err == 0)
		err = bdev_write(dev, zeros, SB_SIZE, blk_to_bytes(sb->sysfile[SYSFILE_WAL].extents[0].start_blk));
	for (uint32_t i = 0; err == 0 && i < sb->sysfile[SYSFILE_WAL].n_extents; i++) {
		const struct run *ext = &sb->sysfile[SYSFILE_WAL].extents[i];

		bdev_fill_holes(dev, blk_to_bytes(ext->start_blk), blk_to_bytes(ext->len_blk));
	}
	return err != 0 ? err : bdev_flush(dev);
}

static int write_first_rows(struct volume *vol, const struct volume_params *params, int64_t now_ns)
{
	struct inode_row root = {
		.ino = ROOT_INO, .parent = ROOT_INO, .mode = S_IFDIR | 0755, .nlink = 2,
		.uid = params->root_uid, .gid = params->root_gid,
		.atime_ns = now_ns, .mtime_ns = now_ns, .ctime_ns = now_ns, .btime_ns = now_ns,
	};
	int64_t key;
	int err;

	if (getrandom(&key, sizeof(key), 0) != sizeof(key))
		return -errno;
	store_lock(vol->store);
	err = store_begin(vol->store);
	if (err == 0)
		err = inode_insert(vol->store, &root);
	if (err == 0)
		err = store_config_set(vol->store, "hash_key", key);
	if (err == 0)
		err = store_config_set(vol->store, "next_ino", ROOT_INO + 1);
	if (err == 0)
		err = store_config_set(vol->store, "inodes", 1);
	if (err == 0)
		err = store_config_set(vol->store, "txn", 1);
	if (err == 0)
		err = store_commit(vol->store);
	store_unlock(vol->store);
	return err;
}

// The log that gathered in memory goes to the device, and from there into the database.
static int settle(struct volume *vol)
{
	struct wal_segment *seg = dbvfs_wal_seal(vol->vfs);
	int err = 0;

	if (seg != NULL) {
		err = dbvfs_wal_write(vol->vfs, seg);
		dbvfs_wal_done(vol->vfs, seg);
	}
	if (err == 0)
		err = bdev_flush(vol->dev);
	if (err == 0)
		err = store_truncate_wal(vol->store);
	return err != 0 ? err : bdev_flush(vol->dev);
}

static int format_inside(struct volume *vol, const struct volume_params *params, struct superblock *sb, struct errmsg *why)
{
	struct store_config cfg = {
		.vfs = vol->vfs,
		.create = true,
		.cache_bytes = FORMAT_CACHE_BYTES,
		.on_failure = store_failed,
		.ctx = vol,
	};
	int err;

	err = store_open(&cfg, &vol->store, why);
	if (err == 0)
		err = write_first_rows(vol, params, sb->created_ns);
	if (err == 0)
		err = settle(vol);
	return err != 0 ? err : sb_write(vol->dev, sb); // last: from here on it is a volume
}

static int new_superblock(struct bdev *dev, const struct volume_params *params, struct superblock *sb, struct errmsg *why)
{
	uint64_t size = params->size_bytes != 0 ? params->size_bytes : dev->size_bytes;
	struct timespec now;
	int err;

	memset(sb, 0, sizeof(*sb));
	if (size > dev->size_bytes) {
		errmsg_set(why, "the device is smaller than the wanted size");
		return -EINVAL;
	}
	err = sb_geometry(size, sb, why);
	if (err != 0)
		return err;
	if (params->label != NULL && strlen(params->label) > SB_LABEL_MAX) {
		errmsg_set(why, "a label has at most %d bytes", SB_LABEL_MAX);
		return -EINVAL;
	}
	snprintf(sb->label, sizeof(sb->label), "%s", params->label != NULL ? params->label : "");
	if (params->uuid != NULL)
		memcpy(sb->uuid, params->uuid, sizeof(sb->uuid));
	else
		uuid_generate(sb->uuid);
	clock_gettime(CLOCK_REALTIME, &now);
	sb->created_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
	sb->version = SB_FORMAT_VERSION;
	lay_out(sb);
	return 0;
}

int volume_format(struct bdev *dev, const struct volume_params *params, struct errmsg *why)
{
	struct superblock *sb = malloc(sizeof(*sb));
	struct volume *vol = NULL;
	int err;

	errmsg_set(why, "%s", "");
	if (sb == NULL) {
		errmsg_set(why, "cannot write the volume: %s", strerror(ENOMEM));
		return -ENOMEM;
	}
	err = new_superblock(dev, params, sb, why);
	if (err != 0)
		goto out;
	if (params->discard && dev->can_discard)
		err = bdev_discard(dev, 0, blk_to_bytes(sb->n_blks));
	if (err == -EOPNOTSUPP)
		err = 0; // it was only a hint
	if (err == 0)
		err = wipe(dev, sb);
	if (err == 0)
		err = volume_make(dev, sb, true, &vol);
	if (err == 0)
		err = format_inside(vol, params, sb, why);
	if (vol != NULL)
		volume_free(vol);
out:
	if (err != 0 && why != NULL && why->text[0] == '\0')
		errmsg_set(why, "cannot write the volume: %s", strerror(-err));
	free(sb);
	return err;
}
