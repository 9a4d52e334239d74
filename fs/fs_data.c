// SPDX-License-Identifier: MIT
// The doors between memory and the device: all file data that is read is verified here, and all that is written passes through here.
#include <errno.h>
#include <string.h>

#include "fs/fs_internal.h"
#include "util/log.h"

int fs_data_no_checksum(uint64_t ino, uint64_t off_blk, uint64_t phys_blk)
{
	msg_error("inode %llu: the checksum of the block at offset %llu (block %llu of the volume) is missing; run fsck.hybridfs",
	          (unsigned long long)ino, (unsigned long long)blk_to_bytes(off_blk), (unsigned long long)phys_blk);
	return -EIO;
}

static int mismatch(uint64_t ino, uint64_t off_blk, uint64_t phys_blk, uint32_t expected, uint32_t found)
{
	msg_error("inode %llu: the block at offset %llu (block %llu of the volume) is damaged: its checksum should be %08x and is %08x",
	          (unsigned long long)ino, (unsigned long long)blk_to_bytes(off_blk), (unsigned long long)phys_blk, expected, found);
	return -EIO;
}

static int verify(uint64_t ino, uint64_t off_blk, uint64_t phys_blk, const struct iovec *iov, int n_iov, const uint32_t *crc,
                  uint64_t *n_good)
{
	uint64_t blk = 0;

	for (int i = 0; i < n_iov; i++) {
		for (size_t at = 0; at < iov[i].iov_len; at += BLK_SIZE, blk++) {
			uint32_t found = csum_block((const uint8_t *)iov[i].iov_base + at);

			*n_good = blk;
			if (found != crc[blk])
				return mismatch(ino, off_blk + blk, phys_blk + blk, crc[blk], found);
		}
	}
	*n_good = blk;
	return 0;
}

int fs_data_read(struct fs *fs, uint64_t ino, uint64_t off_blk, uint64_t phys_blk, const struct iovec *iov, int n_iov, const uint32_t *crc,
                 uint64_t *n_good)
{
	int r;

	*n_good = 0;
	r = bdev_readv(fs->vol->dev, iov, n_iov, blk_to_bytes(phys_blk));
	if (r == 0 && crc != NULL)
		return verify(ino, off_blk, phys_blk, iov, n_iov, crc, n_good);
	for (int i = 0; r == 0 && i < n_iov; i++)
		*n_good += iov[i].iov_len / BLK_SIZE;
	if (r == 0)
		return 0;
	msg_error("inode %llu: reading at offset %llu (block %llu of the volume) failed: %s", (unsigned long long)ino,
	          (unsigned long long)blk_to_bytes(off_blk), (unsigned long long)phys_blk, strerrordesc_np(-r));
	return r == -EINVAL ? -EUCLEAN : r; // the extent lies outside the device
}

int fs_data_read_blk(struct fs *fs, const struct inode_row *row, uint64_t off_blk, uint64_t phys_blk, void *data)
{
	bool summed = (row->flags & INODE_NODATACOW) == 0, pending;
	uint64_t span_blk, n_good;
	uint32_t crc;
	int r;

	store_lock(fs->st);
	r = deferred_span(fs->vol, phys_blk, 1, &span_blk, &pending);
	if (r == 0 && pending)
		r = deferred_read(fs->vol, phys_blk, data);
	else if (r == 0 && summed)
		r = csum_get(fs->vol, phys_blk, 1, &crc);
	store_unlock(fs->st);
	if (r == -ENODATA)
		return fs_data_no_checksum(row->ino, off_blk, phys_blk);
	if (r != 0 || pending)
		return r;
	return fs_data_read(fs, row->ino, off_blk, phys_blk, &(struct iovec){ data, BLK_SIZE }, 1, summed ? &crc : NULL, &n_good);
}

int fs_data_write(struct fs *fs, uint64_t ino, uint64_t off_blk, const struct iovec *iov, int n_iov, uint64_t phys_blk)
{
	int r;

	r = bdev_writev(fs->vol->dev, iov, n_iov, blk_to_bytes(phys_blk));
	if (r == 0)
		return 0;
	msg_error("inode %llu: writing at offset %llu (block %llu of the volume) failed: %s", (unsigned long long)ino,
	          (unsigned long long)blk_to_bytes(off_blk), (unsigned long long)phys_blk, strerrordesc_np(-r));
	return r == -EINVAL ? -EUCLEAN : r;
}
