// SPDX-License-Identifier: MIT
// The prepared tree, the table of operations, and the histories made of them. See workload.h.
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "history.h"
#include "util/attr.h"

#define FILE_MODE (S_IFREG | 0644)
#define GROWS_EVERY 12u // operations of a growing history
#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO FALLOC_FL_ZERO_RANGE
#define ZERO_KEEP (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)

// The operations of one kind, from what their members mean there.
#define MKNOD(nm, p, m, dev) { .kind = OP_MKNOD, .name = nm, .path = p, .arg = m, .len = dev }
#define MKDIR(nm, p) { .kind = OP_MKDIR, .name = nm, .path = p, .arg = 0755 }
#define PATH(k, nm, p) { .kind = k, .name = nm, .path = p }
#define PATHS(k, nm, p, t, flags) { .kind = k, .name = nm, .path = p, .to = t, .arg = flags }
#define TMPFILE(nm, p, t, l, s) { .kind = OP_TMPFILE, .name = nm, .path = p, .to = t, .arg = 0600, .len = l, .seed = s }
#define TRUNC(nm, p, size) { .kind = OP_TRUNCATE, .name = nm, .path = p, .len = size }
#define WRITE(nm, p, o, l, s) { .kind = OP_WRITE, .name = nm, .path = p, .off = o, .len = l, .seed = s }
#define APPEND(nm, p, l, s) { .kind = OP_APPEND, .name = nm, .path = p, .len = l, .seed = s }
#define ALLOC(nm, p, m, o, l) { .kind = OP_FALLOCATE, .name = nm, .path = p, .arg = m, .off = o, .len = l }
#define COPY(nm, p, t, o, l, to_off) { .kind = OP_COPY, .name = nm, .path = p, .to = t, .off = o, .len = l, .arg = to_off }
#define ATTR(k, nm, p, a) { .kind = k, .name = nm, .path = p, .arg = a }
#define XATTR(nm, p, t, l, s) { .kind = OP_SETXATTR, .name = nm, .path = p, .to = t, .len = l, .seed = s }

// f: five blocks, the last one in part. big: more than 64 KiB. small: inline. pre: blocks that were never written.
static const struct op prepare[] = {
	MKDIR("prepare", "/a"), MKDIR("prepare", "/b"), MKDIR("prepare", "/a/sub"), MKDIR("prepare", "/a/dir2"),
	MKNOD("prepare", "/a/f", FILE_MODE, 0), WRITE("prepare", "/a/f", 0, 20000, 1),
	MKNOD("prepare", "/a/big", FILE_MODE, 0), WRITE("prepare", "/a/big", 0, 200000, 2),
	MKNOD("prepare", "/a/small", FILE_MODE, 0), WRITE("prepare", "/a/small", 0, 300, 3),
	MKNOD("prepare", "/a/empty", FILE_MODE, 0),
	MKNOD("prepare", "/a/sub/x", FILE_MODE, 0), WRITE("prepare", "/a/sub/x", 0, 5000, 4),
	PATHS(OP_SYMLINK, "prepare", "/a/ln", "a/target/somewhere", 0),
	MKNOD("prepare", "/b/f", FILE_MODE, 0), WRITE("prepare", "/b/f", 0, 9000, 5),
	MKNOD("prepare", "/b/s", FILE_MODE, 0), WRITE("prepare", "/b/s", 0, 6000, 6),
	PATHS(OP_LINK, "prepare", "/b/f", "/a/hard", 0),
	MKNOD("prepare", "/a/sparse", FILE_MODE, 0), WRITE("prepare", "/a/sparse", 65536, 8192, 7),
	MKNOD("prepare", "/a/pre", FILE_MODE, 0), WRITE("prepare", "/a/pre", 0, 4096, 8),
	ALLOC("prepare", "/a/pre", FALLOC_FL_KEEP_SIZE, 0, 131072),
	XATTR("prepare", "/a/f", "user.one", 20, 9), XATTR("prepare", "/a/f", "user.two", 1000, 10), XATTR("prepare", "/a", "user.dir", 5, 11),
};

// What a single operation can be.
static const struct op ops[] = {
	MKNOD("create", "/a/new", FILE_MODE, 0),
	MKNOD("create-existing", "/a/f", FILE_MODE, 0),
	MKDIR("mkdir", "/a/newdir"),
	PATH(OP_RMDIR, "rmdir", "/a/dir2"),
	PATH(OP_RMDIR, "rmdir-not-empty", "/a/sub"),
	MKNOD("mkfifo", "/a/fifo", S_IFIFO | 0600, 0),
	MKNOD("mknod-char", "/a/chr", S_IFCHR | 0600, 259), // makedev(1, 3)
	PATHS(OP_SYMLINK, "symlink", "/a/newln", "../b/f", 0),
	PATHS(OP_LINK, "link", "/a/f", "/a/newlink", 0),
	PATHS(OP_LINK, "link-elsewhere", "/a/f", "/b/newlink", 0),
	PATH(OP_UNLINK, "unlink", "/a/f"),
	PATH(OP_UNLINK, "unlink-big", "/a/big"),
	PATH(OP_UNLINK, "unlink-inline", "/a/small"),
	PATH(OP_UNLINK, "unlink-hard", "/a/hard"),
	PATH(OP_UNLINK, "unlink-symlink", "/a/ln"),
	PATHS(OP_RENAME, "rename", "/a/f", "/a/f9", 0),
	PATHS(OP_RENAME, "rename-elsewhere", "/a/f", "/b/f9", 0),
	PATHS(OP_RENAME, "rename-over-file", "/a/f", "/b/s", 0),
	PATHS(OP_RENAME, "rename-over-big", "/a/small", "/a/big", 0),
	PATHS(OP_RENAME, "rename-over-hard", "/a/f", "/a/hard", 0),
	PATHS(OP_RENAME, "rename-over-itself", "/b/f", "/a/hard", 0),
	PATHS(OP_RENAME, "rename-empty-over", "/a/empty", "/a/f", 0),
	PATHS(OP_RENAME, "rename-dir", "/a/sub", "/a/sub9", 0),
	PATHS(OP_RENAME, "rename-dir-elsewhere", "/a/sub", "/b/sub", 0),
	PATHS(OP_RENAME, "rename-dir-over", "/a/sub", "/a/dir2", 0),
	PATHS(OP_RENAME, "exchange", "/a/f", "/b/f", RENAME_EXCHANGE),
	PATHS(OP_RENAME, "exchange-dir", "/a/sub", "/b/f", RENAME_EXCHANGE),
	PATHS(OP_RENAME, "noreplace", "/a/f", "/b/f9", RENAME_NOREPLACE),
	PATHS(OP_RENAME, "noreplace-existing", "/a/f", "/b/f", RENAME_NOREPLACE),
	PATHS(OP_RENAME, "whiteout", "/a/f", "/a/f9", RENAME_WHITEOUT),
	PATHS(OP_RENAME, "whiteout-elsewhere-over", "/a/f", "/b/s", RENAME_WHITEOUT),
	PATHS(OP_RENAME, "whiteout-dir", "/a/sub", "/b/sub", RENAME_WHITEOUT),
	TMPFILE("tmpfile", "/a/new", "", 20000, 54),
	TMPFILE("tmpfile-inline", "/a/new", "", 100, 55),
	TMPFILE("tmpfile-big", "/a/new", "", 200000, 56),
	TMPFILE("tmpfile-existing", "/a/f", "", 20000, 57),
	TMPFILE("tmpfile-nameless", "/a/new", "no name", 20000, 58),
	TRUNC("truncate-to-0", "/a/f", 0),
	TRUNC("truncate-to-100", "/a/f", 100),
	TRUNC("truncate-inside", "/a/f", 5000),
	TRUNC("truncate-at-block", "/a/f", 8192),
	TRUNC("truncate-same", "/a/f", 20000),
	TRUNC("truncate-same-pre", "/a/pre", 4096),
	TRUNC("truncate-up", "/a/f", 30000),
	TRUNC("truncate-big", "/a/big", 4097),
	TRUNC("truncate-inline-down", "/a/small", 100),
	TRUNC("truncate-inline-to-0", "/a/small", 0),
	TRUNC("truncate-inline-up", "/a/small", 1000),
	TRUNC("truncate-inline-to-blocks", "/a/small", 5000),
	APPEND("append-4k", "/a/f", 4096, 20),
	APPEND("append-100", "/a/f", 100, 21),
	APPEND("append-unaligned", "/a/f", 9001, 22),
	APPEND("append-64k", "/a/big", 65536, 23),
	APPEND("append-inline", "/a/small", 100, 24),
	APPEND("append-inline-to-blocks", "/a/small", 3000, 25),
	APPEND("append-empty", "/a/empty", 10, 26),
	APPEND("append-empty-to-blocks", "/a/empty", 70000, 27),
	WRITE("write-100", "/a/f", 50, 100, 30),
	WRITE("write-100-over-border", "/a/f", 4050, 100, 31),
	WRITE("write-block", "/a/f", 4096, 4096, 32),
	WRITE("write-2-blocks", "/a/f", 3000, 3000, 33),
	WRITE("write-aligned", "/a/f", 4096, 8192, 34), // as O_DIRECT does
	WRITE("write-all", "/a/f", 0, 20000, 35),
	WRITE("write-last-block", "/a/f", 16384, 3616, 36),
	WRITE("write-over-end", "/a/f", 18000, 10000, 37),
	WRITE("write-60k", "/a/big", 4096, 61440, 38),
	WRITE("write-64k", "/a/big", 8192, 65536, 39),
	WRITE("write-64k-unaligned", "/a/big", 5003, 65536, 40),
	WRITE("write-128k", "/a/big", 4096, 131072, 41),
	WRITE("write-big-over-end", "/a/big", 190000, 40000, 42),
	WRITE("write-behind-end", "/a/f", 40000, 100, 43),
	WRITE("write-hole", "/a/sparse", 4096, 8192, 44),
	WRITE("write-hole-part", "/a/sparse", 60000, 8000, 45),
	WRITE("write-unwritten", "/a/pre", 8192, 5000, 46),
	WRITE("write-inline", "/a/small", 10, 100, 47),
	WRITE("write-inline-to-blocks", "/a/small", 4000, 100, 48),
	WRITE("write-hard", "/a/hard", 100, 5000, 49),
	ALLOC("fallocate", "/a/f", 0, 0, 65536),
	ALLOC("fallocate-keep", "/a/f", FALLOC_FL_KEEP_SIZE, 20000, 40000),
	ALLOC("fallocate-inline", "/a/small", 0, 0, 10000),
	ALLOC("fallocate-sparse", "/a/sparse", 0, 0, 65536),
	ALLOC("punch", "/a/f", PUNCH, 4096, 8192),
	ALLOC("punch-unaligned", "/a/f", PUNCH, 1000, 9000),
	ALLOC("punch-within", "/a/f", PUNCH, 5000, 100),
	ALLOC("punch-all", "/a/big", PUNCH, 0, 200000),
	ALLOC("punch-inline", "/a/small", PUNCH, 10, 50),
	ALLOC("zero-range", "/a/f", ZERO, 4096, 8192),
	ALLOC("zero-range-unaligned", "/a/f", ZERO, 1000, 9000),
	ALLOC("zero-range-over-end", "/a/f", ZERO, 18000, 10000),
	ALLOC("zero-range-keep", "/a/f", ZERO_KEEP, 18000, 10000),
	ATTR(OP_CHMOD, "chmod", "/a/f", 0600),
	ATTR(OP_CHMOD, "chmod-dir", "/a", 0700),
	ATTR(OP_CHOWN, "chown", "/a/f", 12),
	ATTR(OP_UTIMENS, "utimens", "/a/f", 1000000),
	ATTR(OP_UTIMENS, "utimens-dir", "/a", 2000000),
	XATTR("setxattr", "/a/f", "user.new", 30, 50),
	XATTR("setxattr-replace", "/a/f", "user.one", 40, 51),
	XATTR("setxattr-large", "/a/f", "user.large", 3900, 52),
	XATTR("setxattr-dir", "/a", "user.dir", 8, 53),
	PATHS(OP_REMOVEXATTR, "removexattr", "/a/f", "user.two", 0),
	COPY("copy-range", "/a/f", "/a/empty", 0, 20000, 0),
	COPY("copy-range-inside", "/a/big", "/a/f", 10000, 8192, 4096),
	COPY("copy-range-inline", "/a/small", "/b/s", 0, 300, 5900),
};

// How it is made durable: nothing, one of these, and which file.
static const struct persist {
	const char *name;
	enum op_kind kind; // OP_FSYNC (fdatasync is the same call of the filesystem) or OP_SYNC
	enum { ON_NOTHING, ON_ALL, ON_FILE, ON_PARENT, ON_SIBLING } on;
} persists[] = {
	{ "none", OP_SYNC, ON_NOTHING },
	{ "sync", OP_SYNC, ON_ALL },
	{ "fsync-file", OP_FSYNC, ON_FILE },
	{ "fsync-parent", OP_FSYNC, ON_PARENT },
	{ "fsync-sibling", OP_FSYNC, ON_SIBLING },
};

// The small operation after it.
static const struct op afters[] = {
	APPEND("after-append", "/b/s", 100, 60),
	WRITE("after-overwrite", "/b/s", 1000, 200, 61),
	PATHS(OP_RENAME, "after-rename", "/a/sub/x", "/b/x9", 0),
	WRITE("after-same-file", "/a/f", 4200, 300, 62),
	MKNOD("after-create", "/a/sub/y", FILE_MODE, 0),
	PATH(OP_UNLINK, "after-unlink", "/b/s"),
};

static const struct op sync_all = { .kind = OP_SYNC, .name = "sync" };

const struct op *workload_prepare(unsigned i) { return i < ARRAY_LEN(prepare) ? &prepare[i] : NULL; }
unsigned workload_n_ops(void) { return ARRAY_LEN(ops); }
const struct op *workload_op(unsigned i) { return &ops[i]; }
unsigned workload_n_persists(void) { return ARRAY_LEN(persists); }
const char *workload_persist_name(unsigned i) { return persists[i].name; }

// ---- short histories ----

static int persist(struct history *h, const struct op *op, const struct persist *p)
{
	// After a rename the file is where it was moved to.
	const char *path = op->kind == OP_RENAME ? op->to : op->path;
	struct op sync = { .kind = p->kind, .name = p->name };

	switch (p->on) {
	case ON_NOTHING:
		return 0;
	case ON_ALL:
		break;
	case ON_FILE:
		snprintf(sync.path, sizeof(sync.path), "%s", path);
		break;
	case ON_PARENT:
		snprintf(sync.path, sizeof(sync.path), "%.*s", (int)(strrchr(path, '/') - path), path);
		break;
	case ON_SIBLING:
		snprintf(sync.path, sizeof(sync.path), "%s", "/b/s");
		break;
	}
	return history_do(h, &sync);
}

static int run_ace(struct history *h, unsigned op, unsigned p)
{
	int err = history_do(h, &ops[op]);

	if (err == 0)
		err = persist(h, &ops[op], &persists[p]);
	if (err == 0)
		err = history_do(h, &afters[(op + p) % ARRAY_LEN(afters)]);
	// Where nothing was asked for, the timer comes in the end.
	if (err == 0 && persists[p].on == ON_NOTHING)
		err = history_do(h, &sync_all);
	return err;
}

static int run_two(struct history *h, uint64_t seed)
{
	uint64_t rnd = rnd_seeded(seed);
	int err = 0;

	for (unsigned i = 0; err == 0 && i < 2; i++) {
		const struct op *op = &ops[rnd_below(&rnd, ARRAY_LEN(ops))];

		err = history_do(h, op);
		if (err == 0)
			err = persist(h, op, &persists[rnd_below(&rnd, ARRAY_LEN(persists))]);
	}
	if (err == 0 && rnd_below(&rnd, 2) == 0)
		err = history_do(h, &sync_all);
	return err;
}

// ---- long histories ----

struct mix { // how a long history is mixed, by its seed
	const struct model *model;
	uint64_t rnd;
	unsigned n_ops, commit_every;
	uint64_t len_max; // of a write
	bool fill;        // writes until the volume is full, several times
	bool discard;
	bool beside;      // commits run beside the operations
	bool grow;        // attributes that take space
	unsigned names, data; // shares of operations, in percent
	uint64_t value_max;   // of an attribute
};

enum wanted { WANT_FREE, WANT_ANY, WANT_FILE };

static bool path_fits(const struct model *m, const char *path, enum wanted wanted)
{
	const char *name;
	int node = model_find(m, path);

	if (wanted == WANT_FREE)
		return node < 0 && model_parent(m, path, &name) >= 0;
	return node >= 0 && (wanted == WANT_ANY || S_ISREG(m->nodes[node].mode));
}

// A path at which there is what is wanted; mostly.
static void random_path(struct mix *x, enum wanted wanted, char *path, size_t cap)
{
	static const char *const dirs[] = { "/a", "/b", "/a/sub", "/b/d0", "/b/d0/d1" };

	static const char *const prepared[] = { "/a/f", "/a/big", "/a/small", "/a/pre", "/a/sparse", "/b/f", "/b/s" };

	for (unsigned tries = 0; tries < 40; tries++) {
		if (rnd_below(&x->rnd, 4) == 0)
			snprintf(path, cap, "%s", prepared[rnd_below(&x->rnd, ARRAY_LEN(prepared))]);
		else
			snprintf(path, cap, "%s/%c%u", dirs[rnd_below(&x->rnd, ARRAY_LEN(dirs))], "ffggd"[rnd_below(&x->rnd, 5)],
			         (unsigned)rnd_below(&x->rnd, 4));
		if (path_fits(x->model, path, wanted))
			return;
	}
}

static void random_name_op(struct mix *x, struct op *op)
{
	static const enum op_kind kinds[] = { OP_MKNOD, OP_MKNOD, OP_MKNOD, OP_MKDIR, OP_RMDIR, OP_SYMLINK, OP_LINK,
		                              OP_UNLINK, OP_UNLINK, OP_RENAME, OP_RENAME, OP_TMPFILE };
	static const unsigned flags[] = { 0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT };

	op->kind = kinds[rnd_below(&x->rnd, ARRAY_LEN(kinds))];
	random_path(x, rnd_below(&x->rnd, 3) == 0 ? WANT_ANY : WANT_FREE, op->to, sizeof(op->to));
	if (op->kind == OP_MKNOD || op->kind == OP_MKDIR || op->kind == OP_SYMLINK || op->kind == OP_TMPFILE)
		random_path(x, WANT_FREE, op->path, sizeof(op->path));
	if (op->kind == OP_LINK)
		random_path(x, WANT_FILE, op->path, sizeof(op->path));
	if (op->kind == OP_MKNOD)
		op->arg = FILE_MODE;
	else if (op->kind == OP_MKDIR)
		op->arg = 0755;
	else if (op->kind == OP_RENAME)
		op->arg = flags[rnd_below(&x->rnd, ARRAY_LEN(flags))];
	if (op->kind == OP_TMPFILE) {
		op->to[0] = rnd_below(&x->rnd, 4) == 0 ? 'n' : '\0';
		op->arg = 0600;
		op->len = 1 + rnd_below(&x->rnd, 100000);
		op->seed = (unsigned)rnd_next(&x->rnd);
	}
}

static void random_data_op(struct mix *x, struct op *op)
{
	static const enum op_kind kinds[] = { OP_WRITE, OP_WRITE, OP_WRITE, OP_WRITE, OP_APPEND, OP_APPEND, OP_TRUNCATE, OP_FALLOCATE,
		                              OP_FALLOCATE, OP_COPY };
	static const unsigned modes[] = { 0, FALLOC_FL_KEEP_SIZE, PUNCH, PUNCH, ZERO, ZERO_KEEP };
	unsigned shift = 1 + (unsigned)rnd_below(&x->rnd, 17);

	op->kind = kinds[rnd_below(&x->rnd, ARRAY_LEN(kinds))];
	op->off = rnd_below(&x->rnd, rnd_below(&x->rnd, 4) == 0 ? 300000 : 30000);
	op->len = 1 + rnd_below(&x->rnd, 1ull << shift);
	if (rnd_below(&x->rnd, 3) == 0) {
		op->off &= ~4095ull;
		op->len = (op->len + 4095) & ~4095ull;
	}
	if (x->fill && op->kind == OP_APPEND)
		op->len = x->len_max / 2 + rnd_below(&x->rnd, x->len_max / 2);
	op->seed = (unsigned)rnd_next(&x->rnd);
	random_path(x, WANT_FILE, op->to, sizeof(op->to));
	if (op->kind == OP_FALLOCATE)
		op->arg = modes[rnd_below(&x->rnd, ARRAY_LEN(modes))];
	else if (op->kind == OP_COPY)
		op->arg = (unsigned)rnd_below(&x->rnd, 50000);
}

static void random_attr_op(struct mix *x, struct op *op)
{
	static const enum op_kind kinds[] = { OP_CHMOD, OP_CHOWN, OP_UTIMENS, OP_SETXATTR, OP_SETXATTR, OP_REMOVEXATTR };

	op->kind = kinds[rnd_below(&x->rnd, ARRAY_LEN(kinds))];
	if (x->grow)
		op->kind = OP_SETXATTR;
	op->arg = (unsigned)rnd_below(&x->rnd, 0777);
	op->len = rnd_below(&x->rnd, x->value_max);
	op->seed = (unsigned)rnd_next(&x->rnd);
	if (op->kind == OP_SETXATTR || op->kind == OP_REMOVEXATTR)
		snprintf(op->to, sizeof(op->to), "user.%u", (unsigned)rnd_below(&x->rnd, 4));
}

static void random_op(struct mix *x, struct op *op)
{
	uint64_t dice = rnd_below(&x->rnd, 100);

	*op = (struct op){ .name = "random" };
	random_path(x, dice < 40 ? WANT_ANY : WANT_FILE, op->path, sizeof(op->path));
	if (rnd_below(&x->rnd, x->commit_every) == 0) {
		op->kind = x->beside && rnd_below(&x->rnd, 4) > 0 ? OP_SYNC_BESIDE : rnd_below(&x->rnd, 2) == 0 ? OP_SYNC : OP_FSYNC;
		op->name = "random-sync";
	} else if (dice < x->names) {
		random_name_op(x, op);
	} else if (dice < x->names + x->data) {
		random_data_op(x, op);
	} else {
		random_attr_op(x, op);
	}
}

static void choose_mix(struct mix *x, uint64_t seed)
{
	*x = (struct mix){ .rnd = rnd_seeded(seed ^ 0x6c6f6e67), .fill = seed % 3 == 0, .discard = seed % 4 == 1, .beside = seed % 5 >= 3 };
	x->n_ops = 200 + (unsigned)rnd_below(&x->rnd, 400);
	x->commit_every = 3 + (unsigned)rnd_below(&x->rnd, 12);
	x->len_max = 600000;
	x->names = x->fill ? 20 : 40;
	x->data = 90 - x->names;
	x->value_max = 2000;
}

static void choose_growing_mix(struct mix *x, uint64_t seed)
{
	*x = (struct mix){ .rnd = rnd_seeded(seed ^ 0x67726f77), .n_ops = 40, .commit_every = 5, .grow = true, .names = 15, .data = 15,
		            .value_max = 60000 };
}

static int run_long(struct history *h, struct mix *x)
{
	struct op op;
	int err = 0;

	for (unsigned i = 0; err == 0 && i < x->n_ops; i++) {
		random_op(x, &op);
		if (x->grow && i % GROWS_EVERY == GROWS_EVERY - 1)
			op = (struct op){ .kind = OP_GROW_DATABASE, .name = "grow", .len = 8 };
		err = history_do(h, &op);
		if (err == 0 && i % 64 == 63)
			err = history_compare(h);
	}
	return err;
}

// ---- the log ----

// Attributes of a random size on one of the prepared files: a transaction of a few pages, or of many.
static int large_op(struct history *h, uint64_t *rnd, uint64_t value_max)
{
	static const char *const paths[] = { "/a/f", "/a/big", "/b/s", "/a/sub/x", "/a" };
	struct op op = { .kind = OP_SETXATTR, .name = "large", .len = 1 + rnd_below(rnd, value_max), .seed = (unsigned)rnd_next(rnd) };

	snprintf(op.path, sizeof(op.path), "%s", paths[rnd_below(rnd, ARRAY_LEN(paths))]);
	snprintf(op.to, sizeof(op.to), "user.%u", (unsigned)rnd_below(rnd, 2));
	return history_do(h, &op);
}

static int small_op(struct history *h, uint64_t *rnd)
{
	return history_do(h, &afters[rnd_below(rnd, ARRAY_LEN(afters))]);
}

// A transaction in the log, of few pages or many.
static int log_step(struct history *h, uint64_t *rnd, bool large)
{
	int err = large ? large_op(h, rnd, 60000) : small_op(h, rnd);

	return err == 0 ? history_do(h, &sync_all) : err;
}

// Until the log has started anew.
static int fill_log(struct history *h, uint64_t *rnd)
{
	uint64_t before = history_checkpoints(h);
	int err = 0;

	for (unsigned i = 0; err == 0 && i < 60 && history_checkpoints(h) == before; i++)
		err = log_step(h, rnd, i > 0);
	return err;
}

// Another mount. With `dies` the process before it ends at a flush of its unmount, half of the time at the first one: then its last
// transaction is in the host's cache only, and with nothing older in the log to hide what a crash takes of it.
static int next_mount(struct history *h, uint64_t *rnd, bool dies)
{
	struct op remount = { .kind = OP_REMOUNT, .name = "remount" };
	int err = 0;

	if (!dies || rnd_below(rnd, 2) == 0)
		err = history_do(h, &remount);
	if (err == 0 && dies)
		err = rnd_below(rnd, 2) == 0 ? small_op(h, rnd) : large_op(h, rnd, 20000);
	if (dies)
		remount.arg = rnd_below(rnd, 2) == 0 ? 1 : 2 + (unsigned)rnd_below(rnd, 5);
	return err == 0 && dies ? history_do(h, &remount) : err;
}

// The present log begins with a small transaction, and the next one with a large one: what of it is lost at its beginning uncovers whole old ones.
static int run_log(struct history *h, uint64_t seed)
{
	enum { ANEW, DIES, BESIDE, TWICE } event = seed % 4;
	uint64_t rnd = rnd_seeded(seed ^ 0x6c6f67);
	struct op beside = { .kind = OP_CHECKPOINT_BESIDE, .name = "checkpoint-beside" };
	int err = 0;

	for (unsigned i = 0; err == 0 && event != ANEW && i < 2 + rnd_below(&rnd, 3); i++)
		err = log_step(h, &rnd, i > 0);
	if (err == 0 && event == ANEW)
		err = fill_log(h, &rnd);
	history_focus(h);
	for (unsigned i = 0; err == 0 && i < 4; i++) {
		for (unsigned mounts = event == DIES ? 1 : event == TWICE ? 2 : 0; err == 0 && mounts > 0; mounts--)
			err = next_mount(h, &rnd, mounts == 1);
		if (err == 0)
			err = large_op(h, &rnd, i % 2 == 0 ? 60000 : 3000);
		if (err == 0 && rnd_below(&rnd, 2) == 0)
			err = small_op(h, &rnd);
		if (err == 0)
			err = history_do(h, event == BESIDE ? &beside : &sync_all);
	}
	return err;
}

// ---- by name ----

static int find_ace(const char *name, unsigned *op, unsigned *p)
{
	const char *colon = strchr(name, ':');

	for (*op = 0; colon != NULL && *op < ARRAY_LEN(ops); (*op)++)
		if (strlen(ops[*op].name) == (size_t)(colon - name) && memcmp(ops[*op].name, name, (size_t)(colon - name)) == 0)
			for (*p = 0; *p < ARRAY_LEN(persists); (*p)++)
				if (strcmp(persists[*p].name, colon + 1) == 0)
					return 0;
	return -EINVAL;
}

int workload_run(const char *name, const struct base *base, struct history *h)
{
	bool ace = strncmp(name, "ace:", 4) == 0, two = strncmp(name, "two:", 4) == 0, is_long = strncmp(name, "long:", 5) == 0,
	     grow = strncmp(name, "grow:", 5) == 0, is_log = strncmp(name, "log:", 4) == 0;
	uint64_t seed = two || is_long || grow || is_log ? strtoull(strchr(name, ':') + 1, NULL, 10) : 0;
	unsigned op = 0, p = 0;
	struct mix mix;
	int err;

	if (ace ? find_ace(name + 4, &op, &p) != 0 : !two && !is_long && !grow && !is_log)
		return -EINVAL;
	if (grow)
		choose_growing_mix(&mix, seed);
	else
		choose_mix(&mix, seed);
	mix.model = &h->model;
	err = history_begin(h, base, mix.discard && is_long);
	if (err == 0)
		err = ace ? run_ace(h, op, p) : two ? run_two(h, seed) : is_log ? run_log(h, seed) : run_long(h, &mix);
	if (err == 0)
		err = history_compare(h);
	history_stop(h);
	return err;
}
