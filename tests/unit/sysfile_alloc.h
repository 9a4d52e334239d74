// SPDX-License-Identifier: MIT
// For tests: a superblock that names two system files, and an allocator over a volume on which nothing else lies.
#ifndef HYBRIDFS_TESTS_SYSFILE_ALLOC_H
#define HYBRIDFS_TESTS_SYSFILE_ALLOC_H

#include <check.h>
#include <stdlib.h>

#include "alloc/alloc.h"
#include "block/superblock.h"
#include "meta/sysfile.h"

static inline void make_superblock(struct bdev *dev, uint64_t db_blk, uint64_t wal_blk, struct superblock *sb)
{
	*sb = (struct superblock){ .version = SB_FORMAT_VERSION };
	ck_assert_int_eq(sb_geometry(dev->size_bytes, sb, NULL), 0);
	// Two pieces each, in an order and at places that a wrong mapping would notice.
	sb->sysfile[SYSFILE_DB].n_extents = 2;
	sb->sysfile[SYSFILE_DB].extents[0] = (struct run){ 3000, 3 };
	sb->sysfile[SYSFILE_DB].extents[1] = (struct run){ 600, db_blk - 3 };
	sb->sysfile[SYSFILE_WAL].n_extents = 2;
	sb->sysfile[SYSFILE_WAL].extents[0] = (struct run){ 4000, 2 };
	sb->sysfile[SYSFILE_WAL].extents[1] = (struct run){ 4100, wal_blk - 2 };
	ck_assert_int_eq(sb_write(dev, sb), 0);
}

struct sysfile_alloc_source { // outlives the allocator
	struct alloc_source ops;
	struct sysfiles *files;
};

static inline void sysfile_alloc_nop(void *ctx) { (void)ctx; }

static inline int sysfile_alloc_mark(void *loader, uint64_t start_blk, uint64_t len_blk)
{
	return alloc_loader_mark(loader, start_blk, len_blk, true);
}

static inline void sysfile_alloc_range(struct sysfiles *files, uint32_t ms, uint64_t *start_blk, uint64_t *len_blk)
{
	*start_blk = (uint64_t)ms << files->sb.ms_shift;
	*len_blk = 1ull << files->sb.ms_shift;
	if (*start_blk + *len_blk > files->sb.n_blks)
		*len_blk = files->sb.n_blks - *start_blk;
}

static inline int sysfile_alloc_load(void *ctx, uint32_t ms, struct alloc_loader *loader)
{
	struct sysfile_alloc_source *source = ctx;
	uint64_t start_blk, len_blk;

	sysfile_alloc_range(source->files, ms, &start_blk, &len_blk);
	return sysfiles_mark(source->files, start_blk, len_blk, sysfile_alloc_mark, loader);
}

static inline int sysfile_alloc_subtract(void *free_blk, uint64_t start_blk, uint64_t len_blk)
{
	(void)start_blk;
	*(uint64_t *)free_blk -= len_blk;
	return 0;
}

static inline struct alloc *sysfile_alloc_create(struct sysfile_alloc_source *source, struct sysfiles *files)
{
	uint32_t n_ms = sb_n_metaslabs(&files->sb);
	uint64_t *free_blk = calloc(n_ms, sizeof(*free_blk));
	struct alloc_config cfg = { .n_blks = files->sb.n_blks, .ms_shift = files->sb.ms_shift, .ms_free_blk = free_blk };
	struct alloc *alloc;

	*source = (struct sysfile_alloc_source){
		.ops = { sysfile_alloc_nop, sysfile_alloc_nop, sysfile_alloc_load },
		.files = files,
	};
	cfg.source = &source->ops;
	cfg.source_ctx = source;
	ck_assert_ptr_nonnull(free_blk);
	for (uint32_t ms = 0; ms < n_ms; ms++) {
		uint64_t start_blk;

		sysfile_alloc_range(files, ms, &start_blk, &free_blk[ms]);
		ck_assert_int_eq(sysfiles_mark(files, start_blk, free_blk[ms], sysfile_alloc_subtract, &free_blk[ms]), 0);
	}
	ck_assert_int_eq(alloc_create(&cfg, &alloc), 0);
	free(free_blk);
	return alloc;
}

static inline uint64_t sysfile_alloc_free(struct alloc *alloc)
{
	struct alloc_stats stats;

	alloc_get_stats(alloc, &stats);
	return stats.free_blk;
}

#endif
