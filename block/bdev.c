// SPDX-License-Identifier: MIT
// What is the same for every backing device: the one place where a request is checked, counted, and where the
// first failure stops the line. Backends below see only requests that they must carry out.
//
// Why a failed write is never retried, and a failed flush least of all: the kernel reports a write-back error once,
// marks the pages clean and drops them. A second fdatasync(2) would answer 0 for data that is gone.
#include "block/bdev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/log.h"

#define WRITE_ALIGN_BYTES 512u

static int check_range(const struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes)
{
	if (len_bytes > dev->size_bytes || off_bytes > dev->size_bytes - len_bytes)
		return -EINVAL;
	return 0;
}

// For everything that changes the medium.
static int check_change(struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes)
{
	if (check_range(dev, off_bytes, len_bytes) != 0 || (off_bytes | len_bytes) % WRITE_ALIGN_BYTES != 0)
		return -EINVAL;
	if (dev->read_only || bdev_failed(dev))
		return -EROFS;
	return 0;
}

static int sum_iov(const struct iovec *iov, int n_iov, uint64_t *sum_bytes)
{
	*sum_bytes = 0;
	if (n_iov < 0)
		return -EINVAL;
	for (int i = 0; i < n_iov; i++)
		if (__builtin_add_overflow(*sum_bytes, iov[i].iov_len, sum_bytes))
			return -EINVAL;
	return 0;
}

// Several threads may fail at the same time: only the first one speaks.
static void stop_the_line(struct bdev *dev, const char *what, uint64_t len_bytes, uint64_t off_bytes, int err)
{
	if (atomic_exchange(&dev->failed, true))
		return;
	if (len_bytes > 0)
		msg_error("%s: %s of %llu bytes at byte %llu failed: %s; nothing more is written to it", dev->name, what,
		          (unsigned long long)len_bytes, (unsigned long long)off_bytes, strerror(-err));
	else
		msg_error("%s: %s failed: %s; nothing more is written to it", dev->name, what, strerror(-err));
}

int bdev_readv(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes)
{
	uint64_t len_bytes;
	int rc = sum_iov(iov, n_iov, &len_bytes);

	if (rc == 0)
		rc = check_range(dev, off_bytes, len_bytes);
	if (rc != 0 || len_bytes == 0)
		return rc;
	atomic_fetch_add(&dev->n_reads, 1);
	atomic_fetch_add(&dev->read_bytes, len_bytes);
	return dev->ops->readv(dev, iov, n_iov, off_bytes);
}

int bdev_writev(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes)
{
	uint64_t len_bytes;
	int rc = sum_iov(iov, n_iov, &len_bytes);

	if (rc == 0)
		rc = check_change(dev, off_bytes, len_bytes);
	if (rc != 0 || len_bytes == 0)
		return rc;
	atomic_fetch_add(&dev->n_writes, 1);
	atomic_fetch_add(&dev->written_bytes, len_bytes);
	rc = dev->ops->writev(dev, iov, n_iov, off_bytes);
	if (rc < 0)
		stop_the_line(dev, "write", len_bytes, off_bytes, rc);
	return rc;
}

int bdev_read(struct bdev *dev, void *buf, size_t len_bytes, uint64_t off_bytes)
{
	struct iovec iov = { buf, len_bytes };

	return bdev_readv(dev, &iov, 1, off_bytes);
}

int bdev_write(struct bdev *dev, const void *buf, size_t len_bytes, uint64_t off_bytes)
{
	struct iovec iov = { (void *)buf, len_bytes };

	return bdev_writev(dev, &iov, 1, off_bytes);
}

int bdev_flush(struct bdev *dev)
{
	int rc = check_change(dev, 0, 0);

	if (rc != 0)
		return rc;
	atomic_fetch_add(&dev->n_flushes, 1);
	rc = dev->ops->flush(dev);
	if (rc < 0)
		stop_the_line(dev, "flush", 0, 0, rc);
	return rc;
}

// A failed discard loses nothing that anybody wants, so it does not stop the line.
int bdev_discard(struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes)
{
	int rc = check_change(dev, off_bytes, len_bytes);

	if (rc != 0)
		return rc;
	if (!dev->can_discard)
		return -EOPNOTSUPP;
	return len_bytes == 0 ? 0 : dev->ops->discard(dev, off_bytes, len_bytes);
}

void bdev_fill_holes(struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes)
{
	if (dev->ops->fill_holes != NULL && check_change(dev, off_bytes, len_bytes) == 0)
		dev->ops->fill_holes(dev, off_bytes, len_bytes);
}

void bdev_close(struct bdev *dev)
{
	char *name;

	if (dev == NULL)
		return;
	name = dev->name;
	dev->ops->close(dev);
	free(name);
}
