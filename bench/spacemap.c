// SPDX-License-Identifier: MIT
// bench/spacemap: what the persistent free map costs: loading a metaslab of 1 GiB, and writing down what a transaction changed in it.
//
// The metaslab is cut into slots of equal size. Each has one used block (its anchor) and is free otherwise, so there are as many free
// runs as slots. A change moves an anchor by one block: a run becomes free, another one used, and the number of runs stays.
//
// load_*    the time until a metaslab of 100,000 free runs can be used, from the database's page cache:
//           condensed: one row, the used runs in order.  log: 1.6 times as long by random changes, 100 in a transaction (steady changes
//           like these bring it to 1.75 at most; P3 allows 2).  tiny: the same, with one moved anchor in each transaction.
//           *_map is freemap_load() alone, *_all the first alloc_get(), which builds the allocator's indexes as well.
// commit_*  one freemap_write() of N changed runs (median), with 100,000 free runs in the metaslab and with 100 (nearly empty), and the
//           bytes that whole transactions wrote to the log on the device for each changed run. With 1000 and 10,000 runs that includes
//           condensing; the commits of 1 and 10 are too few for one to come among them when the metaslab is fragmented.
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "block/bdev.h"
#include "meta/freemap.h"
#include "meta/spacemap.h"
#include "meta/volume.h"

#define MS 100u                 // in the middle, where no system file is
#define MS_BLKS (1u << 18)      // 1 GiB
#define VOLUME_BYTES (200ull << 30) // cut into metaslabs of 1 GiB
#define MAX_COMMITS 1000u

struct opts {
	const char *dir;
	unsigned rounds; // of each load
	bool json;
};

struct scene {
	char path[4096];
	struct bdev *dev;
	struct volume *vol;
	uint64_t base_blk;
	uint32_t n_slots;
	uint8_t *anchor;    // by slot: 0 or 1, the block in the slot that is used
	uint32_t moving;    // slot whose anchor is free just now; n_slots = none
	uint64_t rng;
	uint64_t load_ns;   // of the last freemap_load()
};

static void must(int err, const char *what)
{
	errno = -err;
	if (err != 0)
		bench_die("%s", what);
}

// ---- the volume and its one metaslab ----

static uint64_t slot_start(const struct scene *s, uint32_t slot)
{
	return s->base_blk + (uint64_t)slot * MS_BLKS / s->n_slots;
}

static uint64_t slot_blks(const struct scene *s, uint32_t slot) { return slot_start(s, slot + 1) - slot_start(s, slot); }

static void open_volume(struct scene *s, bool fresh)
{
	struct volume_opts opts = { .flags = VOLUME_NO_ALLOC, .commit_interval_ms = 3600000 };
	struct errmsg why = { "" };
	int err = 0;

	if (fresh)
		err = volume_format(s->dev, &(struct volume_params){ .label = "bench" }, &why);
	if (err == 0)
		err = volume_open(s->dev, &opts, &s->vol, &why);
	if (err != 0) {
		errno = 0;
		bench_die("%s", why.text);
	}
	if (s->vol->files.sb.ms_shift != 18) {
		errno = 0;
		bench_die("metaslabs of 2^%u blocks instead of 2^18", (unsigned)s->vol->files.sb.ms_shift);
	}
	s->base_blk = (uint64_t)MS << 18;
}

// All anchors in one transaction, by address: the condensed form.
static void set_anchors(struct scene *s)
{
	uint64_t id;

	must(txn_begin(s->vol, TXN_FREE, &id), "begin");
	store_lock(s->vol->store);
	for (uint32_t i = 0; i < s->n_slots; i++)
		must(txn_log_run(s->vol, slot_start(s, i), 1, true), "log");
	store_unlock(s->vol->store);
	txn_end(s->vol);
	must(txn_commit(s->vol), "commit");
}

static void scene_open(struct scene *s, const struct opts *opts, uint32_t n_slots)
{
	struct errmsg why = { "" };
	int fd;

	*s = (struct scene){ .n_slots = n_slots, .moving = n_slots, .rng = 88172645463325252ull };
	snprintf(s->path, sizeof(s->path), "%s/bench-spacemap-XXXXXX", opts->dir);
	fd = mkstemp(s->path);
	if (fd < 0)
		bench_die("%s", s->path);
	close(fd);
	if (bdev_create_file(s->path, VOLUME_BYTES, true, &s->dev, &why) != 0) {
		unlink(s->path);
		errno = 0;
		bench_die("%s", why.text);
	}
	unlink(s->path); // it goes away with this process
	open_volume(s, true);
	s->anchor = calloc(n_slots, sizeof(s->anchor[0]));
	if (s->anchor == NULL)
		bench_die("memory");
	set_anchors(s);
}

static void scene_close(struct scene *s)
{
	volume_abandon(s->vol);
	bdev_close(s->dev);
	free(s->anchor);
}

// The next change: an anchor becomes free, or, the time after, used one block further or back.
static void change_one_run(struct scene *s)
{
	uint32_t slot = s->moving;

	if (slot == s->n_slots) {
		do
			slot = (uint32_t)(bench_random(&s->rng) % s->n_slots);
		while (slot_blks(s, slot) < 3); // its last block stays free: anchors of two slots never touch
		must(txn_log_run(s->vol, slot_start(s, slot) + s->anchor[slot], 1, false), "log");
		s->moving = slot;
		return;
	}
	s->anchor[slot] ^= 1;
	must(txn_log_run(s->vol, slot_start(s, slot) + s->anchor[slot], 1, true), "log");
	s->moving = s->n_slots;
}

// A transaction of n changed runs. Returns how long writing them took.
static double commit_changes(struct scene *s, uint32_t n)
{
	double start_s, took_s;
	uint64_t id;

	must(txn_begin(s->vol, TXN_FREE, &id), "begin");
	store_lock(s->vol->store);
	for (uint32_t i = 0; i < n; i++)
		change_one_run(s);
	start_s = bench_now_s();
	must(freemap_write(txn_freemap(s->vol), id), "write the space map");
	took_s = bench_now_s() - start_s;
	store_unlock(s->vol->store);
	txn_end(s->vol);
	must(txn_commit(s->vol), "commit");
	return took_s;
}

// log_bytes of the metaslab.
static uint64_t log_bytes(struct scene *s)
{
	sqlite3_stmt *stmt = NULL;
	uint64_t bytes = 0;

	store_lock(s->vol->store);
	if (sqlite3_prepare_v2(store_db(s->vol->store), "SELECT log_bytes FROM metaslab WHERE ms = ?1", -1, &stmt, NULL) == SQLITE_OK &&
	    sqlite3_bind_int(stmt, 1, MS) == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW)
		bytes = (uint64_t)sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	store_unlock(s->vol->store);
	return bytes;
}

// Random changes until the log has 1.6 times the bytes that it has now.
static void grow_log(struct scene *s, uint32_t changes)
{
	uint64_t before = log_bytes(s), limit = before + before * 3 / 5, now = before;

	while (now >= before && now < limit) {
		before = now;
		commit_changes(s, changes);
		now = log_bytes(s);
	}
	if (s->moving != s->n_slots)
		commit_changes(s, 1);
}

// ---- loading ----

static void source_enter(void *ctx) { store_lock(((struct scene *)ctx)->vol->store); }
static void source_leave(void *ctx) { store_unlock(((struct scene *)ctx)->vol->store); }

static int source_load(void *ctx, uint32_t ms, struct alloc_loader *loader)
{
	struct scene *s = ctx;
	double start_s = bench_now_s();
	int err = freemap_load(txn_freemap(s->vol), ms, loader);

	s->load_ns = (uint64_t)((bench_now_s() - start_s) * 1e9);
	return err;
}

static const struct alloc_source source = { .enter = source_enter, .leave = source_leave, .load = source_load };

// A new allocator over the volume, of which only our metaslab has something free. Returns how long its first allocation took.
static double first_alloc(struct scene *s, uint64_t *free_blk)
{
	struct alloc_config cfg = {
		.n_blks = s->vol->files.sb.n_blks,
		.ms_shift = s->vol->files.sb.ms_shift,
		.ms_free_blk = free_blk,
		.source = &source,
		.source_ctx = s,
	};
	struct alloc_req req = { .want_blk = 1 };
	struct runlist got = { 0 };
	struct alloc *a;
	double start_s, took_s;

	must(alloc_create(&cfg, &a), "allocator");
	start_s = bench_now_s();
	must(alloc_get(a, NULL, &req, &got), "allocate");
	took_s = bench_now_s() - start_s;
	must(alloc_put(a, got.runs[0].start_blk, got.runs[0].len_blk), "give back");
	runlist_free(&got);
	alloc_destroy(a);
	return took_s;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, unsigned n)
{
	qsort(values, n, sizeof(values[0]), by_value);
	return values[n / 2];
}

static void add_us(struct bench_report *report, const char *name, double seconds)
{
	bench_add(report, &(struct bench_result){ .name = name, .unit = "us", .value = seconds * 1e6, .seconds = seconds });
}

static void measure_load(struct scene *s, const struct opts *opts, struct bench_report *report, const char *map, const char *all)
{
	uint64_t *free_blk = calloc(sb_n_metaslabs(&s->vol->files.sb), sizeof(*free_blk));
	double map_s[MAX_COMMITS], all_s[MAX_COMMITS];

	if (free_blk == NULL)
		bench_die("memory");
	free_blk[MS] = MS_BLKS - s->n_slots;
	for (unsigned i = 0; i < opts->rounds; i++) {
		all_s[i] = first_alloc(s, free_blk);
		map_s[i] = (double)s->load_ns / 1e9;
	}
	add_us(report, map, median(map_s, opts->rounds));
	add_us(report, all, median(all_s, opts->rounds));
	free(free_blk);
}

static void measure_loads(const struct opts *opts, struct bench_report *report)
{
	struct scene s;

	scene_open(&s, opts, 100000);
	measure_load(&s, opts, report, "load_condensed_map", "load_condensed_all");
	grow_log(&s, 100);
	measure_load(&s, opts, report, "load_log_map", "load_log_all");
	scene_close(&s);
	scene_open(&s, opts, 100000);
	grow_log(&s, 2);
	measure_load(&s, opts, report, "load_tiny_map", "load_tiny_all");
	scene_close(&s);
}

// ---- committing ----

static void measure_commit(struct scene *s, struct bench_report *report, uint32_t changes, unsigned commits, const char *time,
                           const char *bytes)
{
	double took_s[MAX_COMMITS];
	struct txn_stats before, after;
	double total = (double)changes * commits;

	txn_get_stats(s->vol, &before);
	for (unsigned i = 0; i < commits; i++)
		took_s[i] = commit_changes(s, changes);
	txn_get_stats(s->vol, &after);
	add_us(report, time, median(took_s, commits));
	bench_add(report, &(struct bench_result){ .name = bytes, .unit = "B", .value = (double)(after.wal_bytes - before.wal_bytes) / total });
}

static void measure_commits(const struct opts *opts, struct bench_report *report)
{
	struct scene s;

	scene_open(&s, opts, 100);
	measure_commit(&s, report, 1, 400, "commit_empty_1", "bytes_empty_1");
	measure_commit(&s, report, 10, 400, "commit_empty_10", "bytes_empty_10");
	measure_commit(&s, report, 1000, 200, "commit_empty_1000", "bytes_empty_1000");
	measure_commit(&s, report, 10000, 50, "commit_empty_10000", "bytes_empty_10000");
	scene_close(&s);
	scene_open(&s, opts, 100000);
	measure_commit(&s, report, 1, 400, "commit_100k_1", "bytes_100k_1");
	measure_commit(&s, report, 10, 400, "commit_100k_10", "bytes_100k_10");
	measure_commit(&s, report, 1000, 200, "commit_100k_1000", "bytes_100k_1000");
	measure_commit(&s, report, 10000, 50, "commit_100k_10000", "bytes_100k_10000");
	scene_close(&s);
}

static const char usage[] =
	"Usage: spacemap [options]\n"
	"Measures loading a metaslab of 1 GiB with 100,000 free runs, and writing down its changes.\n"
	"  --dir DIR      where a sparse image is made meanwhile ($TMPDIR or /tmp)\n"
	"  --rounds N     loads, of which the median counts (21)\n"
	"  --json         print JSON\n"
	"  -h, --help     this text\n";

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "dir", required_argument, NULL, 'd' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct bench_report report = { .program = "spacemap" };
	struct opts opts = { .dir = getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp", .rounds = 21 };
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'd': opts.dir = optarg; break;
		case 'r': opts.rounds = (unsigned)bench_parse_number("rounds", optarg); break;
		case 'j': opts.json = true; break;
		case 'h': fputs(usage, stdout); return 0;
		default: fputs(usage, stderr); return 2;
		}
	}
	errno = 0;
	if (optind != argc) {
		fputs(usage, stderr);
		return 2;
	}
	if (opts.rounds == 0 || opts.rounds > MAX_COMMITS)
		bench_die("at least one round, at most %u", MAX_COMMITS);
	measure_loads(&opts, &report);
	measure_commits(&opts, &report);
	bench_print(&report, opts.json);
	return 0;
}
