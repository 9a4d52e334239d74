// SPDX-License-Identifier: MIT
// A device that fails by plan, around a device in memory; and the device that fsck opens.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/testdev.h"
#include "inject.h"

// The operations of the device in memory, which all of them share.
static const struct bdev_ops **below(void)
{
	static const struct bdev_ops *ops;

	return &ops;
}

// A device that has failed must be left alone: block/bdev.h.
static bool strike_change(struct bdev *dev, enum fault_kind kind, void *caller)
{
	struct injector *inj = inject_state();

	if (atomic_load(&inj->failed_dev) == dev)
		atomic_fetch_add(&inj->n_after_failure, 1);
	if (!inject_strike(kind, caller))
		return false;
	atomic_store(&inj->failed_dev, dev);
	return true;
}

static int dev_readv(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes)
{
	int rc = -EIO;

	if (!inject_strike(FAULT_READ, __builtin_return_address(0))) {
		inject_pause();
		rc = (*below())->readv(dev, iov, n_iov, off_bytes);
		inject_resume();
	}
	return rc;
}

static int dev_writev(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes)
{
	int rc = -EIO;

	if (!strike_change(dev, FAULT_WRITE, __builtin_return_address(0))) {
		inject_pause();
		rc = (*below())->writev(dev, iov, n_iov, off_bytes);
		inject_resume();
	}
	return rc;
}

static int dev_flush(struct bdev *dev)
{
	int rc = -EIO;

	if (!strike_change(dev, FAULT_FLUSH, __builtin_return_address(0))) {
		inject_pause();
		rc = (*below())->flush(dev);
		inject_resume();
	}
	return rc;
}

static int dev_discard(struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes)
{
	int rc = -EIO;

	if (!inject_strike(FAULT_DISCARD, __builtin_return_address(0))) {
		inject_pause();
		rc = (*below())->discard(dev, off_bytes, len_bytes);
		inject_resume();
	}
	return rc;
}

// bdev_close() frees the name that it has seen before this.
static void dev_close(struct bdev *dev)
{
	inject_pause();
	dev->name = strdup("device");
	inject_resume();
}

static const struct bdev_ops failing_ops = {
	.kind = "memory",
	.readv = dev_readv,
	.writev = dev_writev,
	.flush = dev_flush,
	.discard = dev_discard,
	.close = dev_close,
};

void inject_dev(struct bdev *dev)
{
	*below() = dev->ops;
	dev->ops = &failing_ops;
}

void inject_dev_free(struct bdev *dev)
{
	dev->ops = *below();
	bdev_close(dev);
}

// The linker sends all calls of bdev_open_file() here (--wrap).
int __wrap_bdev_open_file(const char *path, unsigned flags, unsigned wait_ms, struct bdev **out, struct errmsg *why);
int __wrap_bdev_open_file(ATTR_UNUSED const char *path, unsigned flags, ATTR_UNUSED unsigned wait_ms, struct bdev **out,
                          ATTR_UNUSED struct errmsg *why)
{
	*out = inject_state()->fsck_dev;
	(*out)->read_only = (flags & BDEV_READ_ONLY) != 0;
	return 0;
}
