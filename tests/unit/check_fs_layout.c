// SPDX-License-Identifier: MIT
// Where the filesystem puts files, from a write of the kernel to the rows of the extent table:
//
//      one by one        each file is one extent
//      streams at once   two or four files that grow together: extents of 4 MiB and more on average, in whatever order the
//                        kernel sends their writes
//      small files       of one directory lie together, whatever is written in other directories meanwhile
//
// On a fresh volume, and on one that is 80% full after files of all sizes came and went. Files are zeros, which cost no memory on the
// test device. The figures are printed. Those of the aged volume are asserted with a margin: they are no promise.
// SEED=n runs other sizes and orders.
#include "fs/fs_internal.h"
#include "fstest.h"

#define GIB (1ull << 30)
#define WRITE_BYTES (128 * KIB) // what the kernel sends without a larger request from the program
#define COMMIT_BYTES (64 * MIB) // written between two transactions

static const uint8_t zeros[WRITE_BYTES];

struct layout {
	struct ft t;
	unsigned seed;
	uint64_t uncommitted;
};

static uint64_t rnd(struct layout *l, uint64_t below)
{
	return ((uint64_t)vt_rand(&l->seed) << 16 ^ vt_rand(&l->seed)) % below;
}

static void begin(struct layout *l, uint64_t size_bytes)
{
	const char *seed = getenv("SEED");

	*l = (struct layout){ .seed = seed != NULL ? (unsigned)strtoul(seed, NULL, 10) : 20240711 };
	ft_new(&l->t, size_bytes);
}

// In loops: each assertion of Check writes to a file.
static void write_some(struct layout *l, uint64_t ino, uint64_t off, uint64_t len)
{
	size_t done;
	int r = fs_write(l->t.fs, ino, zeros, len, off, 0, &done);

	if (r != 0 || done != len)
		ck_abort_msg("write %llu at %llu: %d", (unsigned long long)len, (unsigned long long)off, r);
	l->uncommitted += len;
	if (l->uncommitted < COMMIT_BYTES)
		return;
	l->uncommitted = 0;
	if (fs_sync(l->t.fs) != 0)
		ck_abort_msg("sync");
}

static uint64_t new_file(struct layout *l, uint64_t dir, const char *prefix, unsigned n)
{
	char name[32];

	snprintf(name, sizeof(name), "%s%u", prefix, n);
	return ft_create(&l->t, dir, name);
}

static uint64_t new_dir(struct layout *l, const char *prefix, unsigned n)
{
	char name[32];

	snprintf(name, sizeof(name), "%s-dir%u", prefix, n);
	return ft_mkdir(&l->t, ROOT_INO, name);
}

static void write_file(struct layout *l, uint64_t ino, uint64_t bytes)
{
	for (uint64_t off = 0; off < bytes; off += WRITE_BYTES)
		write_some(l, ino, off, min_u64(bytes - off, WRITE_BYTES));
}

// The statement may name an inode once.
static int64_t sql(struct layout *l, const char *fmt, unsigned long long ino)
{
	char text[512];

	snprintf(text, sizeof(text), fmt, ino);
	return ft_locked_sql(&l->t, text);
}

// ---- one by one ----

// Into ten directories in turn. Returns extents in all; *most: of one file.
static int64_t one_by_one(struct layout *l, unsigned n, uint64_t max_mib, int64_t *most)
{
	int64_t sum = 0, now;
	uint64_t dirs[10], ino;

	*most = 0;
	for (unsigned i = 0; i < ARRAY_LEN(dirs); i++)
		dirs[i] = new_dir(l, "one-by-one", i);
	for (unsigned i = 0; i < n; i++) {
		ino = new_file(l, dirs[i % ARRAY_LEN(dirs)], "file", i);
		write_file(l, ino, MIB + rnd(l, (max_mib - 1) * MIB));
		now = sql(l, "SELECT count(*) FROM extent WHERE ino = %llu", ino);
		sum += now;
		*most = now > *most ? now : *most;
	}
	return sum;
}

static void fresh_one_by_one(uint64_t gib)
{
	struct layout l;
	int64_t sum, most;

	begin(&l, gib * GIB);
	sum = one_by_one(&l, 200, 20, &most);
	printf("%llu GiB: 200 files of 1 to 20 MiB one by one: %lld extents\n", (unsigned long long)gib, (long long)sum);
	ck_assert_int_eq(most, 1);
	ft_end(&l.t);
}

START_TEST(files_one_by_one)
{
	fresh_one_by_one(8);
	fresh_one_by_one(1024);
}
END_TEST

// ---- streams ----

// BURSTS: up to 4 MiB of a file, then the next one, as the kernel writes back its cache. OVERTAKING: the same, but one of eight
// writes arrives after the one behind it, as when several threads take requests from the kernel.
enum order { IN_TURN, BY_CHANCE, BURSTS, OVERTAKING, N_ORDERS };

static const char *const order_names[N_ORDERS] = { "in turn", "by chance", "in bursts", "overtaking each other" };

struct stream {
	uint64_t ino, off;
};

static void write_next(struct layout *l, struct stream *s, enum order order)
{
	bool overtaken = order == OVERTAKING && rnd(l, 8) == 0;

	if (overtaken)
		write_some(l, s->ino, s->off + WRITE_BYTES, WRITE_BYTES);
	write_some(l, s->ino, s->off, WRITE_BYTES);
	s->off += overtaken ? 2 * WRITE_BYTES : WRITE_BYTES;
}

// Files stream0 … Their average extent in MiB.
static double streams(struct layout *l, unsigned n, uint64_t each_bytes, enum order order)
{
	struct stream s[4] = { { 0 } };
	unsigned n_left = n;
	int64_t extents = 0;
	uint64_t sum = 0;

	for (unsigned i = 0; i < n; i++)
		s[i].ino = new_file(l, ROOT_INO, "stream", i);
	for (unsigned turn = 0; n_left > 0; turn++) {
		struct stream *now = &s[order == BY_CHANCE ? rnd(l, n) : turn % n];
		unsigned burst = order >= BURSTS ? 1 + (unsigned)rnd(l, 32) : 1;

		for (; burst > 0 && now->off < each_bytes; burst--) {
			write_next(l, now, order);
			n_left -= now->off >= each_bytes;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		extents += sql(l, "SELECT count(*) FROM extent WHERE ino = %llu", s[i].ino);
		sum += s[i].off;
	}
	return (double)sum / MIB / (double)extents;
}

static void delete_streams(struct layout *l, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		char name[32];
		uint64_t ino;

		snprintf(name, sizeof(name), "stream%u", i);
		ck_assert_int_eq(ft_lookup(&l->t, ROOT_INO, name, &ino), 0);
		ck_assert_int_eq(fs_unlink(l->t.fs, ROOT_INO, name), 0);
		fs_forget(l->t.fs, ino, 2);
	}
	reaper_drain(l->t.fs);
	ck_assert_int_eq(fs_sync(l->t.fs), 0);
}

// Each kind of streams on a volume of its own, or in turn on this one.
static void all_streams(struct layout *aged, uint64_t gib, uint64_t each_bytes, double least_mib)
{
	struct layout fresh, *l = aged != NULL ? aged : &fresh;
	double mib;

	for (unsigned n = 2; n <= 4; n += 2) {
		for (enum order order = 0; order < N_ORDERS; order++) {
			if (aged == NULL)
				begin(l, gib * GIB);
			mib = streams(l, n, each_bytes, order);
			printf("%s%llu GiB: %u streams of %llu MiB, %s: extents of %.2f MiB\n", aged != NULL ? "aged, " : "",
			       (unsigned long long)gib, n, (unsigned long long)(each_bytes / MIB), order_names[order], mib);
			ck_assert_msg(mib >= least_mib, "%.2f MiB instead of %.2f", mib, least_mib);
			if (aged != NULL)
				delete_streams(l, n);
			else
				ft_end(&l->t);
		}
	}
}

START_TEST(streams_at_once)
{
	all_streams(NULL, 8, 512 * MIB, 4);
	all_streams(NULL, 1024, 512 * MIB, 4);
}
END_TEST

// ---- small files ----

#define EXTENTS_OF_DIR " FROM extent WHERE ino IN (SELECT ino FROM dirent WHERE parent = %llu)"

struct cluster { // where the files of a directory lie
	int64_t blks, extents;
	int64_t span; // blocks from the first to behind the last
	int64_t near; // extents within 4 MiB of the file before, in the order of writing
};

// 1000 files of 3 to 32 KiB, alternately in two directories.
static void small_files(struct layout *l, const char *what, struct cluster *c)
{
	uint64_t dirs[2];

	for (unsigned d = 0; d < 2; d++)
		dirs[d] = new_dir(l, "small", d);
	for (unsigned i = 0; i < 1000; i++)
		write_file(l, new_file(l, dirs[i % 2], "small", i), 3 * KIB + rnd(l, 29 * KIB));
	for (unsigned d = 0; d < 2; d++) {
		c[d].blks = sql(l, "SELECT sum(len)" EXTENTS_OF_DIR, dirs[d]);
		c[d].extents = sql(l, "SELECT count(*)" EXTENTS_OF_DIR, dirs[d]);
		c[d].span = sql(l, "SELECT max(phys + len) - min(phys)" EXTENTS_OF_DIR, dirs[d]);
		c[d].near = sql(l, "SELECT count(*) FROM (SELECT phys - lag(phys + len) OVER (ORDER BY ino, off) AS gap" EXTENTS_OF_DIR
		                   ") WHERE abs(gap) <= 1024", dirs[d]);
		printf("%s: directory %u of small files: %lld blocks in %lld extents, from first to last %lld; %lld near the one before\n",
		       what, d, (long long)c[d].blks, (long long)c[d].extents, (long long)c[d].span, (long long)c[d].near);
	}
}

static void fresh_small(uint64_t gib, const char *what)
{
	struct cluster c[2];
	struct layout l;

	begin(&l, gib * GIB);
	small_files(&l, what, c);
	for (unsigned d = 0; d < 2; d++) {
		ck_assert_int_eq(c[d].extents, 500);
		ck_assert_int_le(c[d].span, 3 * c[d].blks);
		ck_assert_int_ge(c[d].near, 490);
	}
	ft_end(&l.t);
}

START_TEST(small_files_of_two_directories)
{
	fresh_small(8, "8 GiB");
	fresh_small(1024, "1 TiB");
}
END_TEST

// ---- aged ----

#define AGED_GIB 8u
#define AGED_DIRS 40u
#define AGED_FILES_MAX 65536u
#define AGED_ROUNDS 6u

struct aged {
	struct layout l;
	uint64_t dirs[AGED_DIRS];
	struct {
		unsigned number, dir;
	} files[AGED_FILES_MAX];
	unsigned n_files, number;
};

// Two of three up to 64 KiB, most of the others up to 1 MiB, one of twenty up to 20 MiB.
static uint64_t mixed_size(struct layout *l)
{
	uint64_t kind = rnd(l, 60);

	if (kind < 40)
		return 3 * KIB + rnd(l, 61 * KIB);
	return kind < 57 ? 64 * KIB + rnd(l, 960 * KIB) : MIB + rnd(l, 19 * MIB);
}

static double used_share(struct layout *l)
{
	struct volume_space space;

	volume_get_space(l->t.vol, &space);
	return 1 - (double)space.free_blk / (double)space.total_blk;
}

static void fill_to(struct aged *g, double share)
{
	while (used_share(&g->l) < share && g->n_files < AGED_FILES_MAX) {
		unsigned dir = (unsigned)rnd(&g->l, AGED_DIRS);
		uint64_t ino = new_file(&g->l, g->dirs[dir], "file", g->number);

		write_file(&g->l, ino, mixed_size(&g->l));
		fs_forget(g->l.t.fs, ino, 1);
		g->files[g->n_files].number = g->number++;
		g->files[g->n_files++].dir = dir;
	}
}

static void delete_share(struct aged *g, double share)
{
	for (unsigned n = (unsigned)(share * g->n_files); n > 0; n--) {
		unsigned i = (unsigned)rnd(&g->l, g->n_files);
		char name[32];

		snprintf(name, sizeof(name), "file%u", g->files[i].number);
		if (fs_unlink(g->l.t.fs, g->dirs[g->files[i].dir], name) != 0)
			ck_abort_msg("unlink %s", name);
		g->files[i] = g->files[--g->n_files];
	}
	reaper_drain(g->l.t.fs);
	ck_assert_int_eq(fs_sync(g->l.t.fs), 0);
}

static struct aged *age(void)
{
	struct aged *g = calloc(1, sizeof(*g));

	begin(&g->l, AGED_GIB * GIB);
	for (unsigned i = 0; i < AGED_DIRS; i++)
		g->dirs[i] = new_dir(&g->l, "aged", i);
	fill_to(g, 0.8);
	for (unsigned round = 0; round < AGED_ROUNDS; round++) {
		delete_share(g, 0.3);
		fill_to(g, 0.8);
	}
	return g;
}

struct free_space {
	uint64_t runs, blks, mib_blk, large_blk; // of these in runs from 1 and 4 MiB on
};

static int add_free(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	struct free_space *f = ctx;

	(void)start_blk;
	f->runs++;
	f->blks += len_blk;
	f->mib_blk += len_blk >= 256 ? len_blk : 0;
	f->large_blk += len_blk >= 1024 ? len_blk : 0;
	return 0;
}

static void look_at_free_space(struct layout *l)
{
	struct free_space f = { 0 };
	double mib;

	ck_assert_int_eq(alloc_walk_free(l->t.vol->alloc, add_free, &f), 0);
	mib = 100 * (double)f.mib_blk / (double)f.blks;
	printf("aged: %.1f%% full, %llu free runs of %.2f MiB, %.1f%% of the free space in runs from 1 MiB on, %.1f%% from 4 MiB on\n",
	       100 * used_share(l), (unsigned long long)f.runs, (double)f.blks / (double)f.runs / 256, mib,
	       100 * (double)f.large_blk / (double)f.blks);
	ck_assert_msg(mib >= 90, "free space in runs from 1 MiB on: %.1f%%", mib);
}

START_TEST(aged_volume)
{
	struct aged *g = age();
	int64_t extents = sql(&g->l, "SELECT count(*) FROM extent", 0), most;
	struct cluster c[2];

	printf("aged: %u files in %lld extents\n", g->n_files, (long long)extents);
	ck_assert_int_le(extents, g->n_files * 2);
	look_at_free_space(&g->l);
	extents = one_by_one(&g->l, 20, 20, &most);
	printf("aged: 20 files of 1 to 20 MiB one by one: %lld extents, %lld at most\n", (long long)extents, (long long)most);
	ck_assert_int_le(extents, 200);
	small_files(&g->l, "aged", c);
	for (unsigned d = 0; d < 2; d++) {
		ck_assert_int_le(c[d].extents, 510);
		ck_assert_int_ge(c[d].near, 250);
	}
	all_streams(&g->l, AGED_GIB, 128 * MIB, 1);
	ft_end(&g->l.t);
	free(g);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("fs_layout");
	TCase *tc = tcase_create("layout");

	setvbuf(stdout, NULL, _IOLBF, 0); // what a failed test has printed shall be seen
	tcase_set_timeout(tc, 300);
	tcase_add_test(tc, files_one_by_one);
	tcase_add_test(tc, streams_at_once);
	tcase_add_test(tc, small_files_of_two_directories);
	tcase_add_test(tc, aged_volume);
	suite_add_tcase(s, tc);
	return ft_main(s);
}
