// SPDX-License-Identifier: MIT
// The write-behind log: memory on top, the WAL system file below.
//
// SQLite writes a log almost always by appending: a frame header of 24 bytes, a page, and so on. One growing span takes all
// of it. What makes it a little harder: a transaction that spilled its cache goes back and rewrites frames and checksums of
// its own; after a rollback the same offsets are written again; after a checkpoint the log begins again at 0. All of these are
// "the later write counts", so a write that does not fit the newest span that it meets simply opens a new one (W2), and reads
// go from the newest span to the oldest.
#include "meta/wal_log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/blk.h"

#define SPAN_FIRST_BYTES (64u << 10)
#define NO_SECTOR UINT64_MAX

static uint64_t sector_down(uint64_t off) { return off & ~(uint64_t)(WAL_SECTOR - 1); }
static uint64_t sector_up(uint64_t off) { return sector_down(off + WAL_SECTOR - 1); }

// SQLite's file format, "The WAL File": a big-endian magic whose last bit tells the byte order of the checksums.
static bool header_has_magic(const uint8_t *header)
{
	return header[0] == 0x37 && header[1] == 0x7f && header[2] == 0x06 && (header[3] & 0xfe) == 0x82;
}

// ---- spans and segments ----

static uint8_t *span_at(const struct wal_span *span, uint64_t off)
{
	return span->sectors + (off - sector_down(span->start));
}

// Room up to `end`.
static int span_reserve(struct wal_span *span, uint64_t end)
{
	size_t need = sector_up(end) - sector_down(span->start);
	size_t cap = max_u64(max_u64(need, 2 * span->cap_bytes), SPAN_FIRST_BYTES);
	uint8_t *bigger;

	if (need <= span->cap_bytes)
		return 0;
	bigger = realloc(span->sectors, cap);
	if (bigger == NULL)
		return -ENOMEM;
	span->sectors = bigger;
	span->cap_bytes = cap;
	return 0;
}

static int segment_add_span(struct wal_segment *seg, uint64_t start, struct wal_span **out)
{
	uint32_t cap = seg->cap_spans == 0 ? 4 : 2 * seg->cap_spans;
	struct wal_span *bigger;

	if (seg->n_spans == seg->cap_spans) {
		bigger = reallocarray(seg->spans, cap, sizeof(*bigger));
		if (bigger == NULL)
			return -ENOMEM;
		seg->spans = bigger;
		seg->cap_spans = cap;
	}
	*out = &seg->spans[seg->n_spans++];
	**out = (struct wal_span){ .start = start, .end = start };
	return 0;
}

static void segment_clear(struct wal_segment *seg)
{
	for (uint32_t i = 0; i < seg->n_spans; i++)
		free(seg->spans[i].sectors);
	seg->n_spans = 0;
}

static void segment_free(struct wal_segment *seg)
{
	segment_clear(seg);
	free(seg->spans);
	free(seg);
}

// The span that takes a write of [off, end): the newest one that meets it, provided the write begins inside it or at its end.
// What it grows over then belongs to older spans only, which it hides.
static struct wal_span *span_for_write(const struct wal_segment *seg, uint64_t off, uint64_t end)
{
	for (uint32_t i = seg->n_spans; i > 0; i--) {
		struct wal_span *span = &seg->spans[i - 1];

		if (off >= span->start && off <= span->end)
			return span;
		if (off < span->end && end > span->start)
			return NULL;
	}
	return NULL;
}

// ---- reading ----

// From the newest span to the oldest, through all segments.
struct span_cursor {
	const struct wal_segment *seg;
	uint32_t left; // spans of seg not visited
};

static struct span_cursor cursor_first(const struct wal_log *log)
{
	return (struct span_cursor){ log->newest, log->newest != NULL ? log->newest->n_spans : 0 };
}

static const struct wal_span *cursor_next(struct span_cursor *cur)
{
	while (cur->seg != NULL) {
		if (cur->left > 0 && !cur->seg->dead)
			return &cur->seg->spans[--cur->left];
		cur->seg = cur->seg->older;
		cur->left = cur->seg != NULL ? cur->seg->n_spans : 0;
	}
	return NULL;
}

static bool in_memory(const struct wal_log *log, uint64_t off, size_t len)
{
	struct span_cursor cur = cursor_first(log);
	const struct wal_span *span;

	while ((span = cursor_next(&cur)) != NULL)
		if (off < span->end && off + len > span->start)
			return true;
	return false;
}

static int read_device(struct wal_log *log, uint8_t *buf, uint64_t off, size_t len)
{
	uint64_t cap = sysfile_capacity_bytes(log->files, SYSFILE_WAL);
	size_t inside = off < cap ? min_u64(len, cap - off) : 0;

	memset(buf + inside, 0, len - inside);
	return sysfile_read(log->files, SYSFILE_WAL, buf, inside, off);
}

// Takes what the spans from the cursor on have, and the rest from the device. Depth: the spans that meet the range.
static int read_below(struct wal_log *log, struct span_cursor cur, uint8_t *buf, uint64_t off, size_t len)
{
	const struct wal_span *span;
	uint64_t from, to;
	int err = 0;

	do {
		span = cursor_next(&cur);
		if (span == NULL)
			return read_device(log, buf, off, len);
		from = max_u64(off, span->start);
		to = min_u64(off + len, span->end);
	} while (from >= to);

	memcpy(buf + (from - off), span_at(span, from), to - from);
	if (from > off)
		err = read_below(log, cur, buf, off, from - off);
	if (err == 0 && to < off + len)
		err = read_below(log, cur, buf + (to - off), to, off + len - to);
	return err;
}

static uint64_t size_locked(struct wal_log *log)
{
	return log->valid ? max_u64(sysfile_capacity_bytes(log->files, SYSFILE_WAL), log->end) : 0;
}

// The device is read without the lock when memory has nothing of the range: bytes that a reader may ask for reached the device
// before their segment left memory, and are not overwritten while somebody reads at that point of the log.
int wal_log_read(struct wal_log *log, void *buf, size_t len, uint64_t off, size_t *missing)
{
	uint64_t size;
	bool memory;
	int err = 0;

	pthread_mutex_lock(&log->lock);
	size = size_locked(log);
	*missing = len - (off < size ? min_u64(len, size - off) : 0);
	len -= *missing;
	memset((uint8_t *)buf + len, 0, *missing);
	memory = in_memory(log, off, len);
	if (memory)
		err = read_below(log, cursor_first(log), buf, off, len);
	pthread_mutex_unlock(&log->lock);
	if (!memory)
		err = read_device(log, buf, off, len);
	return err;
}

// ---- writing to memory ----

static int open_segment(struct wal_log *log)
{
	struct wal_segment *seg;

	if (log->gathering)
		return 0;
	seg = calloc(1, sizeof(*seg));
	if (seg == NULL)
		return -ENOMEM;
	seg->older = log->newest;
	log->newest = seg;
	log->gathering = true;
	return 0;
}

static int write_locked(struct wal_log *log, const void *buf, size_t len, uint64_t off)
{
	struct wal_span *span;
	int err = open_segment(log);

	if (err < 0)
		return err;
	if (off == 0 && len >= WAL_HEADER_BYTES) { // W3
		segment_clear(log->newest);
		log->valid = header_has_magic(buf);
		log->end = 0;
	}
	span = span_for_write(log->newest, off, off + len);
	if (span == NULL)
		err = segment_add_span(log->newest, off, &span);
	if (err == 0)
		err = span_reserve(span, off + len);
	if (err < 0)
		return err;
	memcpy(span_at(span, off), buf, len);
	span->end = max_u64(span->end, off + len);
	log->end = max_u64(log->end, off + len);
	log->written = true;
	return 0;
}

int wal_log_write(struct wal_log *log, const void *buf, size_t len, uint64_t off)
{
	int err;

	if (log->files->dev->read_only)
		return -EROFS;
	pthread_mutex_lock(&log->lock);
	err = write_locked(log, buf, len, off);
	pthread_mutex_unlock(&log->lock);
	return err;
}

struct wal_segment *wal_log_seal(struct wal_log *log)
{
	struct wal_segment *seg = NULL;

	pthread_mutex_lock(&log->lock);
	if (log->gathering && log->newest->n_spans > 0) {
		seg = log->newest;
		log->gathering = false;
	}
	pthread_mutex_unlock(&log->lock);
	return seg;
}

void wal_log_drop(struct wal_log *log, struct wal_segment *seg)
{
	struct wal_segment **link;

	if (seg == NULL)
		return;
	pthread_mutex_lock(&log->lock);
	for (link = &log->newest; *link != seg; link = &(*link)->older)
		VERIFY(*link != NULL);
	*link = seg->older;
	pthread_mutex_unlock(&log->lock);
	segment_free(seg);
}

bool wal_log_exists(struct wal_log *log)
{
	bool valid;

	pthread_mutex_lock(&log->lock);
	valid = log->valid;
	pthread_mutex_unlock(&log->lock);
	return valid;
}

uint64_t wal_log_size(struct wal_log *log)
{
	uint64_t size;

	pthread_mutex_lock(&log->lock);
	size = size_locked(log);
	pthread_mutex_unlock(&log->lock);
	return size;
}

bool wal_log_end(struct wal_log *log, uint64_t *end)
{
	bool known;

	pthread_mutex_lock(&log->lock);
	known = log->written || !log->valid;
	*end = log->valid ? log->end : 0;
	pthread_mutex_unlock(&log->lock);
	return known;
}

// ---- the device; dev_lock held ----

static int grow_for(struct wal_log *log, const struct wal_segment *seg)
{
	uint64_t cap = sysfile_capacity_bytes(log->files, SYSFILE_WAL), end = 0, need_blk, ahead_blk;
	int err;

	for (uint32_t i = 0; i < seg->n_spans; i++)
		end = max_u64(end, sector_up(seg->spans[i].end));
	if (end <= cap)
		return 0;
	need_blk = bytes_to_blk_up(end - cap);
	ahead_blk = max_u64(need_blk, bytes_to_blk_down(cap / 2));
	err = sysfile_grow(log->files, SYSFILE_WAL, ahead_blk);
	if ((err == -ENOSPC || err == -EFBIG) && ahead_blk > need_blk)
		err = sysfile_grow(log->files, SYSFILE_WAL, need_blk);
	return err;
}

// What the device has in the sector at `off`, without reading it where that is known.
static int load_sector(struct wal_log *log, uint64_t off, uint8_t *sector)
{
	if (off == log->tail_off) {
		memcpy(sector, log->tail, WAL_SECTOR);
		return 0;
	}
	if (off >= log->dev_end) {
		memset(sector, 0, WAL_SECTOR);
		return 0;
	}
	return sysfile_read(log->files, SYSFILE_WAL, sector, WAL_SECTOR, off);
}

// Completes the first and the last sector of the span around its own bytes, which readers may be copying meanwhile.
static int fill_edges(struct wal_log *log, struct wal_span *span)
{
	uint64_t first = sector_down(span->start), last = sector_down(span->end);
	uint8_t sector[WAL_SECTOR];
	int err = 0;

	if (span->start > first) {
		err = load_sector(log, first, sector);
		if (err == 0)
			memcpy(span->sectors, sector, span->start - first);
	}
	if (err == 0 && span->end > last) {
		err = load_sector(log, last, sector);
		if (err == 0)
			memcpy(span_at(span, span->end), sector + (span->end - last), last + WAL_SECTOR - span->end);
	}
	return err;
}

// Where the span is to be written to: behind its end zeros up to the border of a block, if the device holds nothing there. A host reads
// a block of which it does not have the rest in its cache before it takes a part of it (30 us).
static int pad_to_block(struct wal_log *log, struct wal_span *span, uint64_t *to)
{
	uint64_t end = sector_up(span->end), upto = blk_to_bytes(bytes_to_blk_up(end));
	int err = 0;

	*to = end;
	if (end < log->dev_end || upto == end)
		return 0;
	pthread_mutex_lock(&log->lock); // readers
	err = span_reserve(span, upto);
	pthread_mutex_unlock(&log->lock);
	if (err < 0)
		return err;
	memset(span_at(span, end), 0, upto - end);
	*to = upto;
	return 0;
}

// W4. True if the span's first sector has to be on stable storage before the rest of it is sent.
static bool begin_generation(struct wal_log *log, const struct wal_span *span)
{
	bool had_other = log->dev_has_header;

	if (span->start > 0 || span->end < WAL_HEADER_BYTES)
		return false;
	if (had_other && memcmp(log->dev_header, span->sectors, WAL_HEADER_BYTES) == 0)
		return false;
	memcpy(log->dev_header, span->sectors, WAL_HEADER_BYTES);
	log->dev_has_header = true;
	log->dev_end = 0;
	log->tail_off = NO_SECTOR;
	return had_other;
}

static int put_span(struct wal_log *log, struct wal_span *span)
{
	bool header_first = begin_generation(log, span);
	uint64_t from = sector_down(span->start), end = sector_up(span->end), to;
	int err = fill_edges(log, span);

	if (err == 0)
		err = pad_to_block(log, span, &to);
	if (err == 0 && header_first) {
		err = sysfile_write(log->files, SYSFILE_WAL, span->sectors, WAL_SECTOR, 0);
		if (err == 0)
			err = bdev_flush(log->files->dev);
		from = WAL_SECTOR;
	}
	if (err == 0)
		err = sysfile_write(log->files, SYSFILE_WAL, span_at(span, from), to - from, from);
	if (err < 0)
		return err;
	log->dev_end = max_u64(log->dev_end, end);
	log->tail_off = end - WAL_SECTOR;
	memcpy(log->tail, span_at(span, log->tail_off), WAL_SECTOR);
	return 0;
}

int wal_log_put(struct wal_log *log, struct wal_segment *seg)
{
	int err = 0;

	pthread_mutex_lock(&log->dev_lock);
	if (!seg->dead) {
		err = grow_for(log, seg);
		for (uint32_t i = 0; err == 0 && i < seg->n_spans; i++)
			err = put_span(log, &seg->spans[i]);
	}
	pthread_mutex_unlock(&log->dev_lock);
	return err;
}

static int erase_header(struct wal_log *log)
{
	static const uint8_t zeros[WAL_SECTOR];
	int err = sysfile_write(log->files, SYSFILE_WAL, zeros, sizeof(zeros), 0);

	if (err == 0)
		err = bdev_flush(log->files->dev); // W4 counts on it
	return err;
}

static void forget_memory(struct wal_log *log)
{
	pthread_mutex_lock(&log->lock);
	if (log->gathering)
		segment_clear(log->newest);
	for (struct wal_segment *seg = log->newest; seg != NULL; seg = seg->older)
		seg->dead = !(log->gathering && seg == log->newest);
	log->valid = log->written = false;
	log->end = 0;
	pthread_mutex_unlock(&log->lock);
}

int wal_log_invalidate(struct wal_log *log)
{
	int err = 0;

	pthread_mutex_lock(&log->dev_lock);
	if (log->dev_has_header)
		err = erase_header(log);
	if (err == 0) {
		log->dev_has_header = false;
		log->dev_end = 0;
		log->tail_off = NO_SECTOR;
		forget_memory(log);
	}
	pthread_mutex_unlock(&log->dev_lock);
	return err;
}

// ---- opening ----

// What is read may be in the device's cache only: the process before was killed between its write and its flush. Frames that recovery
// believes in must not get lost after a checkpoint has begun to copy them into the database; and if the header was just erased, the old one
// may still be on the medium, in front of which the next log's frames must not be sent (W4). Hence the flush, in both cases.
static int look_at_device(struct wal_log *log, uint64_t cap)
{
	int err = sysfile_read(log->files, SYSFILE_WAL, log->dev_header, WAL_HEADER_BYTES, 0);

	if (err < 0)
		return err;
	log->valid = log->dev_has_header = header_has_magic(log->dev_header);
	if (log->valid)
		log->dev_end = cap;
	return log->files->dev->read_only ? 0 : bdev_flush(log->files->dev);
}

int wal_log_init(struct wal_log *log, struct sysfiles *files, bool fresh)
{
	uint64_t cap = sysfile_capacity_bytes(files, SYSFILE_WAL);
	int err;

	*log = (struct wal_log){ .files = files, .tail_off = NO_SECTOR };
	if (cap >= WAL_SECTOR) {
		err = fresh ? erase_header(log) : look_at_device(log, cap);
		if (err < 0)
			return err;
	}
	err = -pthread_mutex_init(&log->lock, NULL);
	if (err < 0)
		return err;
	err = -pthread_mutex_init(&log->dev_lock, NULL);
	if (err < 0)
		pthread_mutex_destroy(&log->lock);
	return err;
}

void wal_log_destroy(struct wal_log *log)
{
	while (log->newest != NULL) {
		struct wal_segment *seg = log->newest;

		log->newest = seg->older;
		segment_free(seg);
	}
	pthread_mutex_destroy(&log->dev_lock);
	pthread_mutex_destroy(&log->lock);
}
