// SPDX-License-Identifier: MIT
// --scrub: reads every written block of every file and holds it against its checksum. A deferred write counts for more than what is on the
// device.
//
// Extents are gathered in batches of BATCH_EXTENTS, and each batch is read in the order of the device, in runs of up to 1 MiB with small
// gaps read over. So memory is bounded (32 MiB for a batch, 32 bytes for each damaged range up to a million), and a volume
// of fewer extents than a batch is read from its beginning to its end once.
//
// Damaged content is nobody's to repair: reading it goes on to give an I/O error. The files are named, by one walk through all entries for
// all of them.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fsck/blocks.h"
#include "fsck/fsck.h"
#include "fsck/sql.h"
#include "meta/csum.h"
#include "meta/rows.h"

#define BATCH_EXTENTS (1u << 20)
#define GAP_BLK 16u        // what reading on costs less than beginning anew
#define RANGES_MAX (1u << 20)
#define RANGES_SHOWN 8u
#define PATH_BYTES 6000u

struct piece { // of a file
	uint64_t ino, off_blk, phys_blk, len_blk;
};

struct pieces {
	struct piece *v;
	size_t n, cap;
};

struct name {
	uint64_t ino, parent, cookie;
};

struct scrubber {
	struct fsck *f;
	struct blocks b;
	struct pieces batch, damaged;
	struct name *names;   // of damaged files
	size_t n_names, cap_names, next_name;
	uint64_t done_blk, damaged_blk, skipped_files, last_skipped;
};

static int add_piece(struct pieces *list, const struct piece *p)
{
	if (list->n == list->cap) {
		size_t cap = list->cap == 0 ? 1024 : list->cap * 2;
		struct piece *bigger = reallocarray(list->v, cap, sizeof(*bigger));

		if (bigger == NULL)
			return -ENOMEM;
		list->v = bigger;
		list->cap = cap;
	}
	list->v[list->n++] = *p;
	return 0;
}

// ---- reading ----

static int by_place(const void *a, const void *b)
{
	uint64_t x = ((const struct piece *)a)->phys_blk, y = ((const struct piece *)b)->phys_blk;

	return (x > y) - (x < y);
}

static int by_file(const void *a, const void *b)
{
	const struct piece *x = a, *y = b;

	if (x->ino != y->ino)
		return x->ino > y->ino ? 1 : -1;
	return (x->off_blk > y->off_blk) - (x->off_blk < y->off_blk);
}

static int note_damage(struct scrubber *s, const struct piece *p, uint64_t i)
{
	struct piece *last = s->damaged.n > 0 ? &s->damaged.v[s->damaged.n - 1] : NULL;

	s->damaged_blk++;
	if (last != NULL && last->ino == p->ino && last->off_blk + last->len_blk == p->off_blk + i) {
		last->len_blk++;
		return 0;
	}
	if (s->damaged.n == RANGES_MAX)
		return 0; // counted, and not named
	return add_piece(&s->damaged, &(struct piece){ p->ino, p->off_blk + i, p->phys_blk + i, 1 });
}

// The blocks of a piece that are in the buffer, which holds the volume from start_blk on.
static int verify(struct scrubber *s, const struct piece *p, uint64_t start_blk, uint64_t end_blk)
{
	uint64_t from = max_u64(p->phys_blk, start_blk), to = min_u64(p->phys_blk + p->len_blk, end_blk);
	int err = 0;

	for (uint64_t blk = from; err == 0 && blk < to; blk++) {
		uint64_t i = blk - start_blk;

		if (blocks_bit(s->b.unreadable, i) || blocks_bit(s->b.no_crc, i) || csum_block(blocks_at(&s->b, i)) != s->b.crc[i])
			err = note_damage(s, p, blk - p->phys_blk);
	}
	s->done_blk += to > from ? to - from : 0;
	return err;
}

// Where a run from start_blk on ends that covers pieces from `first` on.
static uint64_t run_end(const struct pieces *batch, size_t first, uint64_t start_blk)
{
	uint64_t end = start_blk;

	for (size_t i = first; i < batch->n; i++) {
		const struct piece *p = &batch->v[i];

		if (p->phys_blk > end + GAP_BLK || p->phys_blk >= start_blk + BLOCKS_MAX)
			break;
		end = max_u64(end, min_u64(p->phys_blk + p->len_blk, start_blk + BLOCKS_MAX));
	}
	return end;
}

static int read_batch(struct scrubber *s)
{
	const struct pieces *batch = &s->batch;
	uint64_t at = 0; // everything before it has been read
	size_t first = 0;
	int err = 0;

	qsort(batch->v, batch->n, sizeof(batch->v[0]), by_place);
	while (err == 0 && first < batch->n && !fsck_stopping(s->f)) {
		uint64_t start = max_u64(batch->v[first].phys_blk, at), end = run_end(batch, first, start);

		err = blocks_read(s->f, &s->b, start, end - start);
		if (err == 0)
			err = blocks_get_crc(s->f, &s->b, start, end - start);
		for (size_t i = first; err == 0 && i < batch->n && batch->v[i].phys_blk < end; i++)
			err = verify(s, &batch->v[i], start, end);
		at = end;
		while (first < batch->n && batch->v[first].phys_blk + batch->v[first].len_blk <= at)
			first++;
		progress_at(s->f, s->done_blk);
	}
	s->batch.n = 0;
	return err;
}

// ---- which extents ----

#define SELECT_EXTENTS \
	"SELECT e.ino, e.off, e.phys, e.len, e.flags, i.flags FROM extent e CROSS JOIN inode i ON i.ino = e.ino ORDER BY e.ino, e.off"

// What the phases have left alone may be anything.
static bool take_extent(struct scrubber *s, const struct cursor *c, struct piece *p)
{
	int64_t off = cursor_int(c, 1), phys = cursor_int(c, 2), len = cursor_int(c, 3), n_blks = (int64_t)s->f->sb.n_blks;

	if ((cursor_int(c, 4) & 1) != 0 || off < 0 || phys < 0 || len <= 0 || len > n_blks || phys > n_blks - len)
		return false;
	if ((cursor_int(c, 5) & INODE_NODATACOW) != 0) {
		s->skipped_files += s->last_skipped != (uint64_t)c->key;
		s->last_skipped = (uint64_t)c->key;
		return false;
	}
	*p = (struct piece){ (uint64_t)c->key, (uint64_t)off, (uint64_t)phys, (uint64_t)len };
	return true;
}

static int read_all(struct scrubber *s)
{
	struct cursor c;
	struct piece p;
	int err = cursor_open(s->f, &c, SELECT_EXTENTS, 0, 0);

	progress_range(s->f, s->f->summed.claimed_blk);
	while (err == 0 && c.have && !fsck_stopping(s->f)) {
		if (take_extent(s, &c, &p))
			err = add_piece(&s->batch, &p);
		if (err == 0 && s->batch.n == BATCH_EXTENTS)
			err = read_batch(s);
		if (err == 0)
			err = cursor_next(s->f, &c);
	}
	cursor_close(&c);
	return err != 0 ? err : read_batch(s);
}

// ---- names ----

static bool is_hit(const struct scrubber *s, uint64_t ino)
{
	size_t lo = 0, hi = s->damaged.n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (s->damaged.v[mid].ino < ino)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < s->damaged.n && s->damaged.v[lo].ino == ino;
}

static int add_name(struct scrubber *s, const struct name *name)
{
	if (s->n_names == s->cap_names) {
		size_t cap = s->cap_names == 0 ? 64 : s->cap_names * 2;
		struct name *bigger = reallocarray(s->names, cap, sizeof(*bigger));

		if (bigger == NULL)
			return -ENOMEM;
		s->names = bigger;
		s->cap_names = cap;
	}
	s->names[s->n_names++] = *name;
	return 0;
}

static int by_ino(const void *a, const void *b)
{
	uint64_t x = ((const struct name *)a)->ino, y = ((const struct name *)b)->ino;

	return (x > y) - (x < y);
}

static int find_names(struct scrubber *s)
{
	struct cursor c;
	int err = cursor_open(s->f, &c, "SELECT ino, parent, cookie FROM dirent", 0, 0);

	while (err == 0 && c.have) {
		struct name name = { (uint64_t)c.key, (uint64_t)cursor_int(&c, 1), (uint64_t)cursor_int(&c, 2) };

		if (is_hit(s, name.ino))
			err = add_name(s, &name);
		if (err == 0)
			err = cursor_next(s->f, &c);
	}
	cursor_close(&c);
	if (s->n_names > 0)
		qsort(s->names, s->n_names, sizeof(s->names[0]), by_ino);
	return err;
}

// Puts "/name" before what stands at *at. False: no room, or no such entry.
static bool prepend(struct fsck *f, uint64_t parent, uint64_t cookie, const char *buf, char **at)
{
	char name[ESCAPED_NAME_LEN];
	struct cursor c;
	size_t len = 0;

	if (cursor_open(f, &c, "SELECT cookie, name FROM dirent WHERE parent = ?1 AND cookie = ?2", (int64_t)parent,
	                (int64_t)cookie) == 0 && c.have) {
		escape_name(sqlite3_column_blob(c.stmt, 1), sqlite3_column_bytes(c.stmt, 1), name);
		len = strlen(name);
	}
	cursor_close(&c);
	if (len == 0 || (size_t)(*at - buf) < len + 1)
		return false;
	*at -= len;
	memcpy(*at, name, len);
	*--*at = '/';
	return true;
}

// The path of an entry, in buf. As much of it as is known.
static const char *path_of(struct fsck *f, const struct name *name, char buf[PATH_BYTES])
{
	char *at = buf + PATH_BYTES - 1;
	uint64_t parent = name->parent;
	bool more;

	*at = '\0';
	more = prepend(f, name->parent, name->cookie, buf, &at);
	while (more && parent != ROOT_INO) {
		const struct dir_info *dir = dirtab_find(&f->dirs, parent);

		more = dir != NULL && dir->named_in != 0 && prepend(f, dir->named_in, dir->cookie, buf, &at);
		parent = more ? dir->named_in : 0;
	}
	return at;
}

// "bytes 0 to 4095, 8192 to 12287" of the ranges [first, end).
static void describe(const struct scrubber *s, size_t first, size_t end, char *buf, size_t cap)
{
	size_t n = (size_t)snprintf(buf, cap, "damaged in bytes ");

	for (size_t i = first; i < end && i < first + RANGES_SHOWN; i++) {
		const struct piece *p = &s->damaged.v[i];

		n += (size_t)snprintf(buf + n, cap - n, "%s%llu to %llu", i == first ? "" : ", ",
		                      (unsigned long long)blk_to_bytes(p->off_blk),
		                      (unsigned long long)blk_to_bytes(p->off_blk + p->len_blk) - 1);
	}
	if (end - first > RANGES_SHOWN)
		snprintf(buf + n, cap - n, " and %zu more ranges", end - first - RANGES_SHOWN);
}

static void report_file(struct scrubber *s, size_t first, size_t end)
{
	uint64_t ino = s->damaged.v[first].ino;
	char path[PATH_BYTES], text[1024];
	bool said = false;

	describe(s, first, end, text, sizeof(text));
	for (; s->next_name < s->n_names && s->names[s->next_name].ino <= ino; s->next_name++) { // both in the order of ino
		const struct name *name = &s->names[s->next_name];

		if (!said)
			(void)PROBLEM(s->f, FP_FILE_DAMAGED, .ino = ino, .name = path_of(s->f, name, path), .text = text);
		else
			problem_note(s->f, "inode %llu is also %s", (unsigned long long)ino, path_of(s->f, name, path));
		said = true;
	}
	if (!said)
		(void)PROBLEM(s->f, FP_FILE_DAMAGED, .ino = ino, .name = "which has no name", .text = text);
	s->f->n_damaged++;
}

static int report(struct scrubber *s)
{
	int err = 0;

	if (s->damaged.n > 0) {
		qsort(s->damaged.v, s->damaged.n, sizeof(s->damaged.v[0]), by_file);
		err = find_names(s);
	}
	for (size_t i = 0, end; err == 0 && i < s->damaged.n; i = end) {
		for (end = i; end < s->damaged.n && s->damaged.v[end].ino == s->damaged.v[i].ino; end++)
			;
		report_file(s, i, end);
	}
	problem_note(s->f, "scrub: %llu blocks read, %llu damaged; %llu files without checksums left out", (unsigned long long)s->done_blk,
	             (unsigned long long)s->damaged_blk, (unsigned long long)s->skipped_files);
	if (s->damaged_blk > 0)
		problem_note(s->f, "reading damaged bytes gives an I/O error: restore these files from a backup, or delete them");
	return err;
}

int scrub(struct fsck *f)
{
	struct scrubber s = { .f = f };
	int err = fsck_begin(f);

	if (err != 0)
		return err;
	progress_phase(f, f->progress.n_passes, f->progress.n_passes, "scrub");
	err = blocks_init(&s.b);
	if (err == 0)
		err = read_all(&s);
	progress_hide(f);
	if (err == 0 && !fsck_stopping(f))
		err = report(&s);
	blocks_free(&s.b);
	free(s.batch.v);
	free(s.damaged.v);
	free(s.names);
	if (err == 0)
		return fsck_end(f);
	store_unlock(f->vol->store);
	return err;
}
