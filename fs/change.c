// SPDX-License-Identifier: MIT
// Changing the data of a file: which blocks are written where, and how the map follows. See change.h for the steps.
#include "fs/change.h"

#include <errno.h>
#include <string.h>

#define QUERY_BATCH 32u
#define OVERTAKING_MIN_BLK 16u // 64 KiB: smaller writes are somebody's random access
#define SUMMED_KINDS (FLUSHED_KINDS | 1u << SEG_DEFERRED)
#define FLUSHED_KINDS (1u << SEG_NEW | 1u << SEG_FRESH | 1u << SEG_UNWRITTEN)
#define OVERTAKEN_MAX 16u      // writes of the same length, one for each thread of the daemon

// ---- what is there now ----

static bool continues(const struct seg *a, const struct seg *b)
{
	if (a->kind != b->kind || a->off_blk + a->len_blk != b->off_blk || (a->old_blk == 0) != (b->old_blk == 0))
		return false;
	if (a->old_blk != 0 && a->old_blk + a->len_blk != b->old_blk)
		return false;
	return a->kind == SEG_NEW || a->phys_blk + a->len_blk == b->phys_blk;
}

static void add_seg(struct change *c, const struct seg *seg)
{
	struct seg *last = c->n_segs > 0 ? &c->segs[c->n_segs - 1] : NULL;

	if (last != NULL && continues(last, seg)) {
		last->len_blk += seg->len_blk;
		return;
	}
	VERIFY(c->n_segs < CHANGE_MAX_SEGS);
	c->segs[c->n_segs++] = *seg;
}

static void add_hole(struct change *c, uint64_t off_blk, uint64_t len_blk)
{
	if (len_blk > 0)
		add_seg(c, &(struct seg){ .off_blk = off_blk, .len_blk = len_blk, .kind = SEG_NEW });
}

// A written extent: its fresh parts stay where they are; for the others change_alloc chooses.
static void add_written(struct change *c, const struct extent *ext)
{
	uint64_t open_id = c->in->ws != NULL ? txn_open_id(c->fs->vol) : 0;
	uint64_t done = 0, span;
	bool fresh;

	for (; done < ext->len_blk; done += span) {
		uint64_t phys_blk = ext->phys_blk + done;

		span = wstate_fresh_span(c->in->ws, open_id, phys_blk, ext->len_blk - done, &fresh);
		add_seg(c, &(struct seg){
			.off_blk = ext->off_blk + done,
			.phys_blk = fresh ? phys_blk : 0,
			.old_blk = fresh ? 0 : phys_blk,
			.len_blk = span,
			.kind = fresh ? SEG_FRESH : SEG_NEW,
		});
	}
}

// Adds segments for [first, first + n) as the map is now. Store lock held.
static int map_locked(struct change *c, uint64_t first, uint64_t n)
{
	uint64_t at = first, end = first + n;
	struct extent ext[QUERY_BATCH];
	unsigned n_ext;
	int r;

	do {
		r = extmap_query(c->fs->vol, c->in->ino, at, end - at, ext, QUERY_BATCH, &n_ext);
		if (r != 0)
			return r;
		for (unsigned i = 0; i < n_ext; i++) {
			const struct extent *e = &ext[i];

			add_hole(c, at, e->off_blk - at);
			at = e->off_blk + e->len_blk;
			if (e->unwritten) {
				add_seg(c, &(struct seg){ .off_blk = e->off_blk, .phys_blk = e->phys_blk, .len_blk = e->len_blk,
				                          .kind = SEG_UNWRITTEN });
				continue;
			}
			add_written(c, e);
		}
	} while (n_ext == QUERY_BATCH && at < end);
	add_hole(c, at, end - at);
	return 0;
}

// The device block behind the one that holds file block blk - 1: a good place for what follows. If that one is missing it may
// be on its way: the kernel sends several writes at once, and they arrive in any order. So a short hole in front of a long
// write keeps its place on the device too. Store lock held.
static int find_goal(struct change *c, uint64_t blk, uint64_t len_blk)
{
	struct extent ext;
	uint64_t end;
	int r = extmap_before(c->fs->vol, c->in->ino, blk, &ext);

	c->goal_blk = 0;
	if (r != 0)
		return r == -ENOENT ? 0 : r;
	end = ext.off_blk + ext.len_blk;
	if (blk <= end || (len_blk >= OVERTAKING_MIN_BLK && blk - end <= OVERTAKEN_MAX * len_blk))
		c->goal_blk = ext.phys_blk + (blk - ext.off_blk);
	return 0;
}

bool change_only_replaces(const struct change *c)
{
	for (unsigned i = 0; i < c->n_segs; i++)
		if (c->segs[i].kind == SEG_NEW && c->segs[i].old_blk == 0)
			return false;
	return true;
}

// What overwrites blocks that a durable state names stays where it is, if it is little or the file wants it so.
static bool overwrites_in_place(const struct change *c)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < c->n_segs; i++)
		n += c->segs[i].old_blk != 0 ? c->segs[i].len_blk : 0;
	return n <= DEFERRED_WRITE_MAX_BLK || (c->row.flags & INODE_NODATACOW) != 0;
}

static int load_inline(struct change *c)
{
	size_t len;
	int r;

	if (c->row.size_bytes == 0)
		return 0; // an empty file has no row in table inline
	r = inline_get(c->fs->st, c->in->ino, c->inline_data, sizeof(c->inline_data), &len);
	return r == -ENOENT || (r == 0 && len != c->row.size_bytes) ? -EUCLEAN : r;
}

int change_load(struct change *c, struct fs *fs, struct inode *in, uint64_t off_blk, uint64_t len_blk)
{
	int r;

	c->fs = fs;
	c->in = in;
	c->buf = NULL;
	c->off = c->end = 0;
	c->goal_blk = 0;
	c->convert = false;
	c->n_segs = c->n_edges = 0;
	c->put = c->note = NULL;
	r = fs->vol->read_only ? -EROFS : volume_refusal(fs->vol);
	if (r != 0)
		return r;
	store_lock(fs->st);
	r = inode_get(fs->st, in->ino, &c->row);
	if (r == 0)
		r = fs_check_regular(&c->row);
	if (r == 0 && (c->row.flags & INODE_INLINE) != 0)
		r = load_inline(c);
	else if (r == 0 && len_blk > 0) {
		r = map_locked(c, off_blk, len_blk);
		if (r == 0 && !(change_only_replaces(c) && overwrites_in_place(c)))
			r = find_goal(c, off_blk, len_blk);
	}
	store_unlock(fs->st);
	return r;
}

int change_convert(struct change *c, uint64_t off_blk, uint64_t len_blk)
{
	c->convert = true;
	if (c->row.size_bytes > 0 && (off_blk > 0 || len_blk == 0)) {
		add_hole(c, 0, 1);
		add_hole(c, off_blk, len_blk);
		return change_edge(c, 0);
	}
	add_hole(c, off_blk, len_blk);
	return 0;
}

// ---- blocks that are composed ----

// Where the content of a block is now; 0 = it reads as zeros.
static uint64_t old_phys(const struct change *c, uint64_t blk)
{
	for (unsigned i = 0; i < c->n_segs; i++) {
		const struct seg *seg = &c->segs[i];
		uint64_t at = seg->kind == SEG_FRESH ? seg->phys_blk : seg->old_blk;

		if (blk >= seg->off_blk && blk - seg->off_blk < seg->len_blk)
			return at != 0 ? at + (blk - seg->off_blk) : 0;
	}
	return 0;
}

int change_edge(struct change *c, uint64_t blk)
{
	uint64_t base = blk_to_bytes(blk);
	uint64_t valid = c->row.size_bytes > base ? min_u64(c->row.size_bytes - base, BLK_SIZE) : 0;
	uint64_t from = c->buf != NULL ? max_u64(c->off, base) : 0;
	uint64_t to = c->buf != NULL ? min_u64(c->end, base + BLK_SIZE) : 0;
	uint8_t *data = c->edges[c->n_edges].data;
	int r = 0;

	ASSERT(c->n_edges < CHANGE_MAX_EDGES);
	memset(data, 0, BLK_SIZE);
	if (c->row.flags & INODE_INLINE)
		memcpy(data, c->inline_data, blk == 0 ? valid : 0);
	else if (valid > 0 && old_phys(c, blk) != 0 && !(from == base && to >= base + valid))
		r = fs_data_read_blk(c->fs, &c->row, blk, old_phys(c, blk), data);
	if (r != 0)
		return r;
	memset(data + valid, 0, BLK_SIZE - valid);
	if (from < to)
		memcpy(data + (from - base), c->buf + (from - c->off), to - from);
	c->edges[c->n_edges++].blk = blk;
	return 0;
}

int change_zero(struct change *c, uint64_t from, uint64_t to)
{
	uint64_t blk = bytes_to_blk_down(from);
	struct extent ext;
	unsigned n;
	int r;

	store_lock(c->fs->st);
	r = extmap_query(c->fs->vol, c->in->ino, blk, 1, &ext, 1, &n);
	store_unlock(c->fs->st);
	if (r != 0 || n == 0 || ext.unwritten)
		return r;
	add_written(c, &ext);
	r = change_edge(c, blk);
	if (r == 0)
		memset(c->edges[c->n_edges - 1].data + (from - blk_to_bytes(blk)), 0, to - from);
	return r;
}

// ---- how blocks are written ----

static uint64_t count_blks(const struct change *c, unsigned kinds)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < c->n_segs; i++)
		n += (kinds >> c->segs[i].kind & 1) != 0 ? c->segs[i].len_blk : 0;
	return n;
}

static void choose_kinds(struct change *c)
{
	bool raw = (c->row.flags & INODE_NODATACOW) != 0;

	if (!overwrites_in_place(c))
		return;
	for (unsigned i = 0; i < c->n_segs; i++) {
		struct seg *seg = &c->segs[i];

		if (seg->old_blk == 0)
			continue;
		seg->kind = raw ? SEG_RAW : SEG_DEFERRED;
		seg->phys_blk = seg->old_blk;
	}
}

// Overwriting existing blocks gives as many back when the transaction is durable, so it may borrow from the reserve, as long
// as half of it stays for the metadata.
static bool may_borrow(const struct change *c, uint64_t want)
{
	struct alloc_stats stats;

	if (!change_only_replaces(c))
		return false;
	alloc_get_stats(c->fs->vol->alloc, &stats);
	return stats.free_blk >= want + stats.reserve_blk / 2;
}

static int get_blocks(struct change *c, enum change_space space, uint64_t want, struct runlist *out)
{
	struct inode_wstate *ws = inode_wstate(c->fs, c->in);
	struct alloc_stream *stream = ws != NULL ? &ws->stream : NULL;
	struct alloc *a = c->fs->vol->alloc;
	struct alloc_req req = { .goal_blk = c->goal_blk, .want_blk = want, .locality = c->in->locality };
	int r;

	r = alloc_get(a, stream, &req, out);
	if (r == -ENOSPC && fs_reclaim(c->fs))
		r = alloc_get(a, stream, &req, out);
	if (r == -ENOSPC && (space == CHANGE_RESERVE || may_borrow(c, want))) {
		req.flags = ALLOC_USE_RESERVE;
		r = alloc_get(a, stream, &req, out);
	}
	if (r == -ENOSPC && c->buf != NULL) { // a write may be short, everything else is all or nothing
		req.flags = ALLOC_PARTIAL;
		r = alloc_get(a, stream, &req, out);
	}
	return r;
}

static void cut_at(struct change *c, unsigned i, uint64_t blk)
{
	c->n_segs = i;
	if (c->end > blk_to_bytes(blk))
		c->end = blk_to_bytes(blk);
}

// Hands the runs to the segments in file order. A segment that needs several runs is split; when the runs end, so does the change.
static void hand_out(struct change *c, const struct runlist *runs)
{
	uint32_t next = 0;
	uint64_t used = 0; // of runs[next]

	for (unsigned i = 0; i < c->n_segs; i++) {
		struct seg *seg = &c->segs[i];
		uint64_t have;

		if (seg->kind != SEG_NEW)
			continue;
		if (next == runs->n) {
			cut_at(c, i, seg->off_blk);
			return;
		}
		have = runs->runs[next].len_blk - used;
		if (have < seg->len_blk) {
			VERIFY(c->n_segs < CHANGE_MAX_SEGS);
			memmove(seg + 2, seg + 1, (c->n_segs - i - 1) * sizeof(*seg));
			c->n_segs++;
			seg[1] = *seg;
			seg[1].off_blk += have;
			seg[1].old_blk += seg->old_blk != 0 ? have : 0;
			seg[1].len_blk -= have;
			seg->len_blk = have;
		}
		seg->phys_blk = runs->runs[next].start_blk + used;
		seg->taken = true;
		used += seg->len_blk;
		if (used == runs->runs[next].len_blk) {
			next++;
			used = 0;
		}
	}
}

// There are no blocks for what is overwritten: as much of it as may stay in its place does, and the change ends there.
static void defer_start(struct change *c)
{
	uint64_t left = DEFERRED_WRITE_MAX_BLK;

	for (unsigned i = 0; i < c->n_segs; i++) {
		struct seg *seg = &c->segs[i];

		if (seg->kind != SEG_NEW || seg->old_blk == 0)
			continue;
		if (seg->len_blk > left) {
			cut_at(c, left > 0 ? i + 1 : i, seg->off_blk + left);
			seg->len_blk = left;
		}
		seg->kind = SEG_DEFERRED;
		seg->phys_blk = seg->old_blk;
		left -= seg->len_blk;
	}
}

int change_alloc(struct change *c, enum change_space space)
{
	struct runlist runs = { 0 };
	uint64_t want;
	int r;

	choose_kinds(c);
	want = count_blks(c, 1u << SEG_NEW);
	if (want == 0)
		return 0;
	r = get_blocks(c, space, want, &runs);
	if (r == -ENOSPC && c->buf != NULL && (c->segs[0].kind != SEG_NEW || c->segs[0].old_blk != 0)) {
		defer_start(c);
		r = 0; // the runs are none: it ends at the first hole at the latest
	}
	if (r == 0)
		hand_out(c, &runs);
	runlist_free(&runs);
	return r;
}

void change_drop(struct change *c)
{
	for (unsigned i = 0; i < c->n_segs; i++) {
		struct seg *seg = &c->segs[i];

		if (seg->taken && alloc_put(c->fs->vol->alloc, seg->phys_blk, seg->len_blk) == 0)
			seg->taken = false;
	}
	c->n_segs = 0;
	deferred_unreserve(c->put);
	deferred_unreserve(c->note);
	c->put = c->note = NULL;
}

// ---- writing ----

static const struct change_edge *edge_at_or_after(const struct change *c, uint64_t blk)
{
	const struct change_edge *best = NULL;

	for (unsigned i = 0; i < c->n_edges; i++)
		if (c->edges[i].blk >= blk && (best == NULL || c->edges[i].blk < best->blk))
			best = &c->edges[i];
	return best;
}

// The new content of a block: composed, or the caller's.
static const uint8_t *blk_data(const struct change *c, uint64_t blk)
{
	const struct change_edge *edge = edge_at_or_after(c, blk);

	return edge != NULL && edge->blk == blk ? edge->data : c->buf + (blk_to_bytes(blk) - c->off);
}

// One run on the device: composed blocks from the edges, all others straight from the caller's buffer.
static int write_run(struct change *c, uint64_t off_blk, uint64_t phys_blk, uint64_t len_blk)
{
	struct iovec iov[2 * CHANGE_MAX_EDGES + 1];
	uint64_t at = off_blk, end = off_blk + len_blk;
	int n = 0;

	while (at < end) {
		const struct change_edge *edge = edge_at_or_after(c, at);
		uint64_t upto = edge != NULL ? min_u64(edge->blk, end) : end;

		if (upto == at)
			upto++;
		iov[n++] = (struct iovec){ (void *)blk_data(c, at), blk_to_bytes(upto - at) };
		at = upto;
	}
	return fs_data_write(c->fs, c->in->ino, off_blk, iov, n, phys_blk);
}

static int write_all(struct change *c)
{
	uint64_t off, phys, len;
	unsigned i = 0;
	int r = 0;

	while (r == 0 && i < c->n_segs) {
		if (c->segs[i].kind == SEG_DEFERRED) {
			i++;
			continue;
		}
		off = c->segs[i].off_blk;
		phys = c->segs[i].phys_blk;
		len = c->segs[i].len_blk;
		for (i++; i < c->n_segs && c->segs[i].kind != SEG_DEFERRED && c->segs[i].off_blk == off + len &&
		          c->segs[i].phys_blk == phys + len; i++)
			len += c->segs[i].len_blk;
		r = write_run(c, off, phys, len);
	}
	return r;
}

// ---- what goes with the transaction: checksums, and blocks ----

// Calls fn for each block of segments of these kinds, in order; `i` counts the blocks of all segments.
typedef void (*each_blk_fn)(struct change *c, unsigned i, uint64_t blk, uint64_t phys_blk, void *ctx);

static void each_blk(struct change *c, unsigned kinds, each_blk_fn fn, void *ctx)
{
	unsigned i = 0;

	for (unsigned s = 0; s < c->n_segs; s++) {
		const struct seg *seg = &c->segs[s];

		for (uint64_t b = 0; b < seg->len_blk; b++, i++)
			if ((kinds >> seg->kind & 1) != 0)
				fn(c, i, seg->off_blk + b, seg->phys_blk + b, ctx);
	}
}

static void sum_blk(struct change *c, unsigned i, uint64_t blk, uint64_t phys_blk, void *ctx)
{
	(void)phys_blk;
	(void)ctx;
	c->crc[i] = csum_block(blk_data(c, blk));
}

// *ctx: the next entry with an empty buffer
static void fill_blk(struct change *c, unsigned i, uint64_t blk, uint64_t phys_blk, void *ctx)
{
	struct deferred_blk **at = ctx;

	(void)i;
	(void)phys_blk;
	memcpy(deferred_buf(*at), blk_data(c, blk), BLK_SIZE);
	*at = deferred_next(*at);
}

static int reserve(struct change *c, unsigned kinds, struct deferred_blk **list)
{
	struct deferred_blk *at;
	int r = deferred_reserve((unsigned)count_blks(c, kinds), list);

	at = *list;
	if (r == 0)
		each_blk(c, kinds, fill_blk, &at);
	return r;
}

// Everything that takes time or memory, before the store is locked. Data of a transaction with little of it goes into the log, too.
static int prepare(struct change *c)
{
	int r = 0;

	if (c->n_segs == 0 || (c->row.flags & INODE_NODATACOW) != 0)
		return 0;
	each_blk(c, SUMMED_KINDS, sum_blk, NULL);
	if (count_blks(c, 1u << SEG_DEFERRED) > 0)
		r = reserve(c, 1u << SEG_DEFERRED, &c->put);
	if (r == 0 && count_blks(c, FLUSHED_KINDS) <= DEFERRED_NOTE_MAX_BLK && !txn_has_data(c->fs->vol))
		r = reserve(c, FLUSHED_KINDS, &c->note);
	return r;
}

static void put_blk(struct change *c, unsigned i, uint64_t blk, uint64_t phys_blk, void *ctx)
{
	int *err = ctx;

	(void)blk;
	if (*err == 0)
		*err = deferred_put(c->fs->vol, &c->put, phys_blk, c->crc[i]);
}

static void note_blk(struct change *c, unsigned i, uint64_t blk, uint64_t phys_blk, void *ctx)
{
	(void)blk;
	(void)ctx;
	deferred_note(c->fs->vol, &c->note, phys_blk, c->crc[i]);
}

// What was written to the device goes with the transaction, or the transaction flushes it. Store lock held.
static void account_data(struct change *c)
{
	unsigned n = (unsigned)count_blks(c, FLUSHED_KINDS);

	if (n == 0) // raw blocks: whoever waits for the transaction waits for its last flush, and that is enough
		return;
	if (c->note == NULL)
		n = DEFERRED_NOTE_MAX_BLK + 1;
	if (deferred_may_note(c->fs->vol, n))
		each_blk(c, FLUSHED_KINDS, note_blk, NULL);
}

static bool has_fresh(const struct change *c)
{
	for (unsigned i = 0; i < c->n_segs; i++)
		if (c->segs[i].kind == SEG_FRESH)
			return true;
	return false;
}

int change_begin(struct change *c, enum txn_kind kind)
{
	bool in_handle = has_fresh(c); // otherwise nobody has to wait for this I/O to close the transaction
	int r = prepare(c);

	if (r == 0 && !in_handle)
		r = write_all(c);
	if (r == 0)
		r = fs_join(c->fs, kind, &c->txn);
	if (r != 0)
		goto out;
	if (in_handle)
		r = c->in->ws->fresh_txn == c->txn ? write_all(c) : -EAGAIN;
	if (r == 0) {
		store_lock(c->fs->st);
		// Everything but data, size and map may have changed since it was loaded.
		r = inode_get(c->fs->st, c->in->ino, &c->row);
		c->was = c->row;
		if (r == 0)
			return 0;
		store_unlock(c->fs->st);
	}
	txn_end(c->fs->vol);
out:
	change_drop(c);
	return r;
}

// `crc`: of the segment's blocks.
static int apply_seg(struct change *c, struct seg *seg, const uint32_t *crc)
{
	struct volume *vol = c->fs->vol;
	struct extent ext = { seg->off_blk, seg->phys_blk, seg->len_blk, false };
	uint64_t removed = 0;
	bool more;
	int r = 0;

	if (seg->kind == SEG_UNWRITTEN)
		r = extmap_set_unwritten(vol, c->in->ino, seg->off_blk, seg->len_blk, false);
	if (seg->kind == SEG_NEW && seg->old_blk != 0)
		r = extmap_remove(vol, c->in->ino, seg->off_blk, seg->len_blk, 0, &more, &removed);
	if (seg->kind == SEG_NEW && r == 0) {
		r = extmap_insert(vol, c->in->ino, &ext);
		seg->taken = r != 0;
	}
	if (r == 0 && (FLUSHED_KINDS >> seg->kind & 1) != 0 && (c->row.flags & INODE_NODATACOW) == 0)
		r = csum_set(vol, seg->phys_blk, seg->len_blk, crc);
	if (r != 0 || seg->kind != SEG_NEW)
		return r;
	c->row.blocks_blk -= min_u64(removed, c->row.blocks_blk);
	c->row.blocks_blk += seg->len_blk;
	return 0;
}

int change_apply(struct change *c)
{
	const uint32_t *crc = c->crc;
	int r = 0;

	if (c->convert) {
		if (c->row.size_bytes > 0)
			r = inline_delete(c->fs->st, c->in->ino);
		c->row.flags &= ~(uint32_t)INODE_INLINE;
	}
	for (unsigned i = 0; r == 0 && i < c->n_segs; crc += c->segs[i++].len_blk)
		r = apply_seg(c, &c->segs[i], crc);
	if (r == 0)
		each_blk(c, 1u << SEG_DEFERRED, put_blk, &r);
	if (r == 0)
		account_data(c);
	return r;
}

// What this change has written may be overwritten in place until the transaction closes.
static void remember_fresh(struct change *c)
{
	struct inode_wstate *ws = inode_wstate(c->fs, c->in);

	for (unsigned i = 0; ws != NULL && i < c->n_segs; i++)
		if (c->segs[i].kind == SEG_NEW || c->segs[i].kind == SEG_UNWRITTEN)
			wstate_add_fresh(ws, c->txn, c->segs[i].phys_blk, c->segs[i].len_blk);
}

// Raw blocks leave no other trace, and an fsync of a transaction that has changed nothing would flush nothing.
static bool row_has_changed(const struct change *c)
{
	return memcmp(&c->row, &c->was, sizeof(c->row)) != 0 || count_blks(c, 1u << SEG_RAW) > 0;
}

int change_end(struct change *c, int err)
{
	if (err == 0 && row_has_changed(c))
		err = inode_update(c->fs->st, &c->row);
	store_unlock(c->fs->st);
	if (err == 0)
		remember_fresh(c);
	inode_touch(c->fs, c->in->ino, c->txn);
	txn_end(c->fs->vol);
	if (err != 0)
		change_drop(c);
	deferred_unreserve(c->note);
	c->note = NULL;
	return err;
}
