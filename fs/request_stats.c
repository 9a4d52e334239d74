// SPDX-License-Identifier: MIT
#include "fs/request_stats.h"

#include <linux/fuse.h>
#include <stdarg.h>
#include <stdio.h>

#include "util/attr.h"
#include "util/blk.h"
#include "util/log.h"

#define LINE_BYTES 900u // the log cuts longer ones
#define KIND_BYTES 450u // the longest that one kind makes

static const char *const names[] = {
	[FUSE_LOOKUP] = "LOOKUP", [FUSE_FORGET] = "FORGET", [FUSE_GETATTR] = "GETATTR", [FUSE_SETATTR] = "SETATTR",
	[FUSE_READLINK] = "READLINK", [FUSE_SYMLINK] = "SYMLINK", [FUSE_MKNOD] = "MKNOD", [FUSE_MKDIR] = "MKDIR",
	[FUSE_UNLINK] = "UNLINK", [FUSE_RMDIR] = "RMDIR", [FUSE_RENAME] = "RENAME", [FUSE_LINK] = "LINK", [FUSE_OPEN] = "OPEN",
	[FUSE_READ] = "READ", [FUSE_WRITE] = "WRITE", [FUSE_STATFS] = "STATFS", [FUSE_RELEASE] = "RELEASE", [FUSE_FSYNC] = "FSYNC",
	[FUSE_SETXATTR] = "SETXATTR", [FUSE_GETXATTR] = "GETXATTR", [FUSE_LISTXATTR] = "LISTXATTR",
	[FUSE_REMOVEXATTR] = "REMOVEXATTR", [FUSE_FLUSH] = "FLUSH", [FUSE_INIT] = "INIT", [FUSE_OPENDIR] = "OPENDIR",
	[FUSE_READDIR] = "READDIR", [FUSE_RELEASEDIR] = "RELEASEDIR", [FUSE_FSYNCDIR] = "FSYNCDIR", [FUSE_GETLK] = "GETLK",
	[FUSE_SETLK] = "SETLK", [FUSE_SETLKW] = "SETLKW", [FUSE_ACCESS] = "ACCESS", [FUSE_CREATE] = "CREATE",
	[FUSE_INTERRUPT] = "INTERRUPT", [FUSE_BMAP] = "BMAP", [FUSE_DESTROY] = "DESTROY", [FUSE_IOCTL] = "IOCTL", [FUSE_POLL] = "POLL",
	[FUSE_NOTIFY_REPLY] = "NOTIFY_REPLY", [FUSE_BATCH_FORGET] = "BATCH_FORGET", [FUSE_FALLOCATE] = "FALLOCATE",
	[FUSE_READDIRPLUS] = "READDIRPLUS", [FUSE_RENAME2] = "RENAME2", [FUSE_LSEEK] = "LSEEK",
	[FUSE_COPY_FILE_RANGE] = "COPY_FILE_RANGE", [49] = "REMOVEMAPPING", [50] = "SYNCFS", [51] = "TMPFILE", [52] = "STATX",
};

struct request_kind request_kind_of(const void *req, size_t len)
{
	const struct fuse_in_header *in = req;
	const struct fuse_read_in *read_in = (const void *)(in + 1);
	const struct fuse_write_in *write_in = (const void *)(in + 1);
	struct request_kind kind = { .opcode = in->opcode };

	if (in->opcode == FUSE_READ && len >= sizeof(*in) + sizeof(*read_in))
		kind.bytes = read_in->size;
	else if (in->opcode == FUSE_WRITE && len >= sizeof(*in) + sizeof(*write_in))
		kind.bytes = write_in->size;
	return kind;
}

static unsigned size_class(uint32_t bytes)
{
	unsigned class = 0;

	while (class < REQUEST_SIZES - 1 && bytes > (uint64_t)BLK_SIZE << class)
		class++;
	return class;
}

static void add(atomic_uint_fast64_t *number, uint64_t by) { atomic_fetch_add_explicit(number, by, memory_order_relaxed); }

static uint64_t get(atomic_uint_fast64_t *number) { return atomic_load_explicit(number, memory_order_relaxed); }

void request_stats_count(struct request_stats *s, struct request_kind kind, uint64_t ns)
{
	unsigned i = (unsigned)min_u64(kind.opcode, REQUEST_KINDS - 1);

	add(&s->kinds[i].n, 1);
	add(&s->kinds[i].ns, ns);
	if (kind.bytes > 0) {
		enum request_transfer way = kind.opcode == FUSE_READ ? REQUEST_READ : REQUEST_WRITE;

		add(&s->transfers[way].bytes, kind.bytes);
		add(&s->transfers[way].of_size[size_class(kind.bytes)], 1);
	}
}

// What has been written of a line of text; what does not fit is left out.
struct line {
	char text[LINE_BYTES];
	size_t used;
};

ATTR_PRINTF(2, 3) static void append(struct line *l, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(l->text + l->used, sizeof(l->text) - l->used, fmt, args);
	va_end(args);
	if (n > 0)
		l->used = min_u64(l->used + (size_t)n, sizeof(l->text) - 1);
}

static void append_sizes(struct line *l, struct request_stats *s, enum request_transfer way)
{
	const char *before = " (", *after = "";

	append(l, ", %llu KiB", (unsigned long long)get(&s->transfers[way].bytes) >> 10);
	for (unsigned i = 0; i < REQUEST_SIZES; i++) {
		uint64_t n = get(&s->transfers[way].of_size[i]);

		if (n > 0) {
			append(l, "%s%llu up to %u KiB", before, (unsigned long long)n, 4u << i);
			before = ", ";
			after = ")";
		}
	}
	append(l, "%s", after);
}

static void append_kind(struct line *l, struct request_stats *s, unsigned i)
{
	uint64_t n = get(&s->kinds[i].n);

	if (i < ARRAY_LEN(names) && names[i] != NULL)
		append(l, "%s%s ", l->used > 0 ? "; " : "", names[i]);
	else
		append(l, "%sopcode-%u ", l->used > 0 ? "; " : "", i);
	append(l, "%llu of %.1f us", (unsigned long long)n, (double)get(&s->kinds[i].ns) / 1000 / (double)n);
	if (i == FUSE_READ || i == FUSE_WRITE)
		append_sizes(l, s, i == FUSE_READ ? REQUEST_READ : REQUEST_WRITE);
}

void request_stats_log(struct request_stats *s)
{
	struct line l = { .used = 0 };
	uint64_t total = 0;

	for (unsigned i = 0; i < REQUEST_KINDS; i++) {
		if (get(&s->kinds[i].n) > 0) {
			total += get(&s->kinds[i].n);
			append_kind(&l, s, i);
		}
		if (l.used > LINE_BYTES - KIND_BYTES || (i == REQUEST_KINDS - 1 && l.used > 0)) {
			msg_info("requests: %s", l.text);
			l.used = 0;
		}
	}
	msg_info("requests: %llu in all", (unsigned long long)total);
}
