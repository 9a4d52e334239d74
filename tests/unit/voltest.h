// SPDX-License-Identifier: MIT
// What tests over a whole volume share: a fresh one in memory, opening it, and pulling the plug.
#ifndef HYBRIDFS_TESTS_VOLTEST_H
#define HYBRIDFS_TESTS_VOLTEST_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "block/testdev.h"
#include "meta/volume.h"
#include "util/log.h"

static inline struct bdev *vt_format(uint64_t size_bytes)
{
	struct volume_params params = { .label = "test" };
	struct errmsg why = { "" };
	struct bdev *dev;

	ck_assert_int_eq(testdev_create(size_bytes, &dev), 0);
	ck_assert_msg(volume_format(dev, &params, &why) == 0, "format: %s", why.text);
	return dev;
}

static inline struct volume *vt_open_flags(struct bdev *dev, unsigned flags)
{
	// An hour: tests commit when they want to.
	struct volume_opts opts = { .flags = flags, .commit_interval_ms = 3600000 };
	struct errmsg why = { "" };
	struct volume *vol = NULL;

	ck_assert_msg(volume_open(dev, &opts, &vol, &why) == 0, "open: %s", why.text);
	return vol;
}

static inline struct volume *vt_open(struct bdev *dev) { return vt_open_flags(dev, 0); }

// A seed from $SEED or a fixed one; printed, so that a failure can be run again.
static inline unsigned vt_seed(unsigned fixed)
{
	const char *text = getenv("SEED");
	unsigned seed = text != NULL ? (unsigned)strtoul(text, NULL, 10) : fixed;

	printf("seed %u (SEED=%u runs it again)\n", seed, seed);
	return seed;
}

static inline unsigned vt_rand(unsigned *state) // xorshift
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

#endif
