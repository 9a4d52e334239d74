// SPDX-License-Identifier: MIT
// The two doors between memory and the device: all file data that is read passes through one function, all that is written
// through the other. Whoever verifies, counts or transforms data does it here.
#include <errno.h>
#include <string.h>

#include "fs/fs_internal.h"
#include "util/log.h"

int fs_data_read(struct fs *fs, uint64_t ino, uint64_t off, uint64_t dev_off_bytes, void *buf, size_t len)
{
	int r;

	r = bdev_read(fs->vol->dev, buf, len, dev_off_bytes);
	if (r == 0)
		return 0;
	msg_error("inode %llu: reading %zu bytes at offset %llu (block %llu of the volume) failed: %s", (unsigned long long)ino, len,
	          (unsigned long long)off, (unsigned long long)(dev_off_bytes >> BLK_SHIFT), strerrordesc_np(-r));
	return r == -EINVAL ? -EUCLEAN : r; // the extent lies outside the device
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
