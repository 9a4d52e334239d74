// SPDX-License-Identifier: MIT
// Verifying the checksums of a file while it is in use, for the scrub of a mounted volume.
//
// As a read does: under the shared data lock from looking at the map to the last block, and under the store's lock only while the map is read.
// So what is read is held against the checksums that belong to it, whoever writes before or after. Unlike a read it goes on after a bad
// block, looks at written blocks beyond the end of the file, too, and leaves no trace: no access time, no reference.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/fs_internal.h"
#include "meta/extmap.h"

#define EXTENTS_MAX 64u // per piece

struct verify_piece {
	uint64_t off_blk, phys_blk, len_blk, at; // at: in the buffer and in crc
};

struct verifier {
	struct fs *fs;
	uint64_t ino;
	struct fs_verify *v;
	uint64_t n_blk; // planned
	unsigned n;
	struct verify_piece pieces[FS_VERIFY_BLK]; // no shorter than a block each
	uint32_t crc[FS_VERIFY_BLK];
	bool missing[FS_VERIFY_BLK]; // there is no checksum
};

// ---- the plan; store lock held ----

static int get_checksums(struct verifier *vf, const struct verify_piece *p)
{
	int r = csum_get(vf->fs->vol, p->phys_blk, p->len_blk, &vf->crc[p->at]);

	memset(&vf->missing[p->at], 0, p->len_blk * sizeof(vf->missing[0]));
	for (uint64_t i = 0; (r == -ENODATA || r == -EUCLEAN) && i < p->len_blk; i++) {
		int one = csum_get(vf->fs->vol, p->phys_blk + i, 1, &vf->crc[p->at + i]);

		vf->missing[p->at + i] = one != 0;
		if (one != 0 && one != -ENODATA && one != -EUCLEAN)
			return one;
	}
	return r == -ENODATA || r == -EUCLEAN ? 0 : r;
}

// As much of an extent as there is room for. What is deferred is a row of the database, or in memory: its pages have checksums of their own.
static int plan_extent(struct verifier *vf, const struct extent *ext, uint64_t *taken_blk)
{
	uint64_t len, take = min_u64(ext->len_blk, FS_VERIFY_BLK - vf->n_blk), at;
	bool pending;
	int r = 0;

	for (at = 0; r == 0 && at < take; at += len) {
		struct verify_piece p = { ext->off_blk + at, ext->phys_blk + at, 0, vf->n_blk };

		r = deferred_span(vf->fs->vol, p.phys_blk, take - at, &len, &pending);
		if (r != 0 || pending)
			continue;
		p.len_blk = len;
		r = get_checksums(vf, &p);
		vf->pieces[vf->n++] = p;
		vf->n_blk += len;
	}
	*taken_blk = take;
	return r;
}

// The next blocks from *at_blk on; moves it behind them. 1 if there may be more.
static int plan(struct verifier *vf, uint64_t *at_blk)
{
	struct extent ext[EXTENTS_MAX];
	struct inode_row row;
	unsigned n = 0;
	uint64_t taken = 0;
	int r = inode_get(vf->fs->st, vf->ino, &row);

	if (r != 0 || !S_ISREG(row.mode) || (row.flags & INODE_INLINE) != 0)
		return r == -ENOENT ? 0 : r; // it has gone, or has become small
	if (row.nlink == 0 && !inode_is_referenced(vf->fs, vf->ino))
		return 0; // about to go
	vf->v->skipped = (row.flags & INODE_NODATACOW) != 0;
	if (vf->v->skipped || *at_blk >= FILE_MAX_BLK)
		return 0;
	r = extmap_query(vf->fs->vol, vf->ino, *at_blk, FILE_MAX_BLK - *at_blk, ext, EXTENTS_MAX, &n);
	for (unsigned i = 0; r == 0 && i < n && vf->n_blk < FS_VERIFY_BLK; i++) {
		taken = ext[i].len_blk;
		if (!ext[i].unwritten)
			r = plan_extent(vf, &ext[i], &taken);
		*at_blk = ext[i].off_blk + taken;
	}
	return r != 0 ? r : n > 0;
}

// ---- the device ----

static int verify_piece(struct verifier *vf, const struct verify_piece *p)
{
	struct bdev *dev = vf->fs->vol->dev;
	uint8_t *buf = (uint8_t *)vf->v->buf + blk_to_bytes(p->at);
	bool readable = bdev_read(dev, buf, blk_to_bytes(p->len_blk), blk_to_bytes(p->phys_blk)) == 0;
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < p->len_blk; i++) {
		uint8_t *blk = buf + blk_to_bytes(i);
		bool good = readable || bdev_read(dev, blk, BLK_SIZE, blk_to_bytes(p->phys_blk + i)) == 0;

		if (!good || vf->missing[p->at + i] || csum_block(blk) != vf->crc[p->at + i])
			r = vf->v->damaged(vf->v->ctx, vf->ino, p->off_blk + i);
	}
	return r;
}

static int verify_locked(struct verifier *vf, uint64_t *at_blk)
{
	int more, r = 0;

	store_lock(vf->fs->st);
	more = plan(vf, at_blk);
	store_unlock(vf->fs->st);
	for (unsigned i = 0; more >= 0 && r == 0 && i < vf->n; i++)
		r = verify_piece(vf, &vf->pieces[i]);
	vf->v->read_blk = vf->n_blk;
	return r != 0 ? r : more;
}

int fs_verify(struct fs *fs, uint64_t ino, uint64_t *at_blk, struct fs_verify *v)
{
	struct verifier *vf = malloc(sizeof(*vf));
	struct inode *in = vf != NULL ? inode_pin(fs, ino) : NULL;
	int r = -ENOMEM;

	v->read_blk = 0;
	v->skipped = false;
	if (in != NULL) {
		vf->fs = fs;
		vf->ino = ino;
		vf->v = v;
		vf->n_blk = vf->n = 0;
		pthread_rwlock_rdlock(&in->lock);
		r = verify_locked(vf, at_blk);
		pthread_rwlock_unlock(&in->lock);
		inode_unpin(fs, in);
	}
	free(vf);
	return r;
}
