// SPDX-License-Identifier: MIT
// A front of the recording device. See front.h.
#include "front.h"

#include <errno.h>

static struct front *front_of(struct bdev *dev) { return (struct front *)dev; }

static int front_readv(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes)
{
	return bdev_readv(front_of(dev)->below, iov, n_iov, off_bytes);
}

static int front_writev(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes)
{
	return bdev_writev(front_of(dev)->below, iov, n_iov, off_bytes);
}

// bdev.c sends nothing to a device that has failed once: so the process is dead after this.
static int front_flush(struct bdev *dev)
{
	struct front *f = front_of(dev);

	if (atomic_exchange(&f->armed, false))
		f->at_flush(f->ctx);
	if (atomic_load(&f->flushes_left) >= 0 && atomic_fetch_sub(&f->flushes_left, 1) == 0)
		return -EIO;
	return bdev_flush(f->below);
}

static int front_discard(struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes)
{
	return bdev_discard(front_of(dev)->below, off_bytes, len_bytes);
}

static void front_close(ATTR_UNUSED struct bdev *dev) {}

static const struct bdev_ops front_ops = {
	.kind = "front",
	.readv = front_readv,
	.writev = front_writev,
	.flush = front_flush,
	.discard = front_discard,
	.close = front_close,
};

void front_init(struct front *f, struct bdev *below)
{
	*f = (struct front){ .below = below, .flushes_left = -1 };
	f->dev.ops = &front_ops;
	f->dev.name = below->name;
	f->dev.size_bytes = below->size_bytes;
	f->dev.can_discard = below->can_discard;
}

void front_arm(struct front *f, void (*at_flush)(void *ctx), void *ctx)
{
	f->at_flush = at_flush;
	f->ctx = ctx;
	atomic_store(&f->armed, true);
}

bool front_disarm(struct front *f) { return !atomic_exchange(&f->armed, false); }

void front_die_after(struct front *f, int flushes) { atomic_store(&f->flushes_left, flushes); }

void front_revive(struct front *f)
{
	atomic_store(&f->flushes_left, -1);
	atomic_store(&f->dev.failed, false);
}
