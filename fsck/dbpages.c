// SPDX-License-Identifier: MIT
#include "fsck/dbpages.h"
#include "util/array.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_HEADER_BYTES 32u
#define FRAME_HEADER_BYTES 24u
#define FRAME_BYTES (FRAME_HEADER_BYTES + PAGE_BYTES)
#define LOG_MAGIC 0x377f0682u // with the lowest bit: checksums of big-endian words

// ---- the log ----

struct log {
	bool big_endian;
	uint8_t salt[8];
	uint32_t sum[2];
};

static uint32_t word_at(const struct log *log, const uint8_t *b)
{
	uint32_t be = be32_at(b);

	return log->big_endian ? be : __builtin_bswap32(be);
}

// The chain of checksums over more bytes, a multiple of 8.
static void add_sum(struct log *log, const uint8_t *b, size_t n)
{
	for (size_t i = 0; i < n; i += 8) {
		log->sum[0] += word_at(log, b + i) + log->sum[1];
		log->sum[1] += word_at(log, b + i + 4) + log->sum[0];
	}
}

static bool sum_is(const struct log *log, const uint8_t *b)
{
	return log->sum[0] == be32_at(b) && log->sum[1] == be32_at(b + 4);
}

static bool begin_log(struct log *log, const uint8_t header[LOG_HEADER_BYTES])
{
	uint32_t magic = be32_at(header);

	*log = (struct log){ .big_endian = (magic & 1) != 0 };
	if ((magic & ~1u) != LOG_MAGIC || be32_at(header + 8) != PAGE_BYTES)
		return false;
	memcpy(log->salt, header + 16, sizeof(log->salt));
	add_sum(log, header, 24);
	return sum_is(log, header + 24);
}

// Whether the frame carries on the log.
static bool take_frame(struct log *log, const uint8_t *frame)
{
	if (be32_at(frame) == 0 || memcmp(frame + 8, log->salt, sizeof(log->salt)) != 0)
		return false;
	add_sum(log, frame, 8);
	add_sum(log, frame + FRAME_HEADER_BYTES, PAGE_BYTES);
	return sum_is(log, frame + 16);
}

struct pending { // frames since the last commit
	uint32_t *page;
	size_t n, cap;
};

static int pending_add(struct pending *p, uint32_t page)
{
	uint32_t *more = array_more(p->page, p->n, &p->cap, sizeof(*more));

	if (more == NULL)
		return -ENOMEM;
	p->page = more;
	p->page[p->n++] = page;
	return 0;
}

// `max_page`: pages that the database file has room for. *committed: the size of the database after the last commit, 0 if there is none.
static int read_log(struct dbpages *p, uint32_t max_page, uint32_t *committed)
{
	uint64_t cap = sysfile_capacity_bytes(p->files, SYSFILE_WAL), off = LOG_HEADER_BYTES;
	uint8_t *frame = malloc(FRAME_BYTES);
	struct pending pending = { 0 };
	uint32_t n_frames = 0, first = 0;
	struct log log;
	int err = frame == NULL ? -ENOMEM : sysfile_read(p->files, SYSFILE_WAL, frame, LOG_HEADER_BYTES, 0);

	*committed = 0;
	if (err != 0 || !begin_log(&log, frame))
		goto out;
	for (; off + FRAME_BYTES <= cap; off += FRAME_BYTES, n_frames++) {
		uint32_t commit;

		err = sysfile_read(p->files, SYSFILE_WAL, frame, FRAME_BYTES, off);
		if (err != 0 || !take_frame(&log, frame))
			break;
		err = pending_add(&pending, be32_at(frame));
		if (err != 0)
			break;
		commit = be32_at(frame + 4);
		if (commit == 0)
			continue;
		for (size_t i = 0; i < pending.n; i++)
			if (pending.page[i] <= max_page)
				p->frame[pending.page[i]] = first + (uint32_t)i + 1;
		first += (uint32_t)pending.n;
		pending.n = 0;
		*committed = commit;
	}
out:
	free(pending.page);
	free(frame);
	return err == -EIO ? 0 : err; // the rest of the log cannot be read: then it ends here
}

// ---- the interface ----

static bool header_is_ok(const uint8_t *page)
{
	return memcmp(page, "SQLite format 3", 16) == 0 && be16_at(page + 16) == PAGE_BYTES && page[DBPAGE_RESERVED_AT] == DBPAGE_RESERVED;
}

// As SQLite decides. What the log's commits say of the size can be the size of the file, which is that of its extents here.
static bool size_is_valid(const uint8_t *page) { return memcmp(page + 24, page + 92, 4) == 0; }

int dbpages_open(struct sysfiles *files, struct dbpages *out)
{
	uint64_t cap = sysfile_capacity_bytes(files, SYSFILE_DB) / PAGE_BYTES;
	uint32_t max = (uint32_t)min_u64(cap, UINT32_MAX - 1), committed = 0, size = 0;
	uint8_t page[PAGE_BYTES];
	int err;

	*out = (struct dbpages){ .files = files, .n_pages = max, .frame = calloc((size_t)max + 1, sizeof(uint32_t)) };
	if (out->frame == NULL)
		return -ENOMEM;
	err = read_log(out, max, &committed);
	if (err == 0 && dbpages_read(out, 1, page) == 0) {
		out->header_ok = header_is_ok(page);
		size = out->header_ok && size_is_valid(page) ? be32_at(page + 28) : 0;
	}
	if (size == 0)
		size = committed;
	if (size != 0 && size <= max)
		out->n_pages = size;
	if (err != 0)
		dbpages_close(out);
	return err;
}

void dbpages_close(struct dbpages *p)
{
	free(p->frame);
	*p = (struct dbpages){ 0 };
}

int dbpages_read(const struct dbpages *p, uint32_t page, uint8_t buf[PAGE_BYTES])
{
	if (page == 0 || page > p->n_pages)
		return -EINVAL;
	if (p->frame[page] == 0)
		return sysfile_read(p->files, SYSFILE_DB, buf, PAGE_BYTES, (uint64_t)(page - 1) * PAGE_BYTES);
	return sysfile_read(p->files, SYSFILE_WAL, buf, PAGE_BYTES,
	                    LOG_HEADER_BYTES + (uint64_t)(p->frame[page] - 1) * FRAME_BYTES + FRAME_HEADER_BYTES);
}
