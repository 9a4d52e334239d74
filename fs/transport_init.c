// SPDX-License-Identifier: MIT
// The INIT exchange, as far as libfuse does not do it: flags that 3.14 does not know, and getting the rings ready.
//
// This is the place for such a flag: one line in init_extras[]. Linux takes a flag only if it has offered it, so each is masked with what
// came in the request. Flags that libfuse knows belong into op_init() in fuse_ops.c.
#include <linux/fuse.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "fs/transport_internal.h"
#include "util/blk.h"
#include "util/log.h"

#ifndef FUSE_OVER_IO_URING
#define FUSE_OVER_IO_URING (UINT64_C(1) << 41)
#endif

// Both words of flags as one number. Those of the second word count only with FUSE_INIT_EXT.
static const uint64_t init_extras[] = {
	FUSE_PARALLEL_DIROPS,    // lookups and readdirs of one directory at the same time
	FUSE_HANDLE_KILLPRIV_V2, // writes need no request for security.capability first; see transport_handles_killpriv()
};

// ---- what the kernel offers ----

#ifdef HAVE_LIBURING
static void prepare_rings(struct transport *t)
{
	void *rings;

	if (t->opts.kind == TRANSPORT_DEV) {
		errmsg_set(&t->why_not, "not wanted");
		return;
	}
	if ((t->init_offered & FUSE_OVER_IO_URING) == 0) {
		errmsg_set(&t->why_not, "the kernel does not offer it (Linux 6.14 does, with Y in /sys/module/fuse/parameters/enable_uring)");
		return;
	}
	t->rings.ops = &transport_uring_ops;
	if (t->rings.ops->create(t, &rings, &t->why_not) != 0) {
		msg_info("no FUSE over io_uring: %s; going on over /dev/fuse", t->why_not.text);
		return;
	}
	atomic_store(&t->rings.self, rings);
	if (atomic_load(&t->stopping)) // whoever has set it may not have seen the rings
		t->rings.ops->stop(rings);
}
#else
static void prepare_rings(struct transport *t) { errmsg_set(&t->why_not, "this program was built without liburing"); }
#endif

void transport_init_request(struct transport *t, const struct fuse_in_header *in, size_t len)
{
	struct fuse_init_in init = { 0 };

	if (len < sizeof(*in) + offsetof(struct fuse_init_in, flags2) || t->init_unique != 0)
		return;
	memcpy(&init, in + 1, min_u64(len - sizeof(*in), sizeof(init)));
	t->init_unique = in->unique;
	t->init_offered = init.flags;
	if ((init.flags & FUSE_INIT_EXT) != 0)
		t->init_offered |= (uint64_t)init.flags2 << 32;
	prepare_rings(t);
}

// ---- what we answer ----

static void add_flags(struct transport *t, struct fuse_init_out *init)
{
	uint64_t extra = atomic_load(&t->rings.self) != NULL ? FUSE_OVER_IO_URING : 0;

	for (size_t i = 0; i < ARRAY_LEN(init_extras); i++)
		extra |= init_extras[i];
	extra &= t->init_offered;
	if (extra >> 32 != 0)
		extra |= FUSE_INIT_EXT;
	init->flags |= (uint32_t)extra;
	init->flags2 |= (uint32_t)(extra >> 32);
}

ssize_t transport_init_reply(struct transport *t, struct iovec *iov, int n_iov)
{
	struct fuse_init_out init = { 0 };
	struct iovec fixed[2] = { iov[0], { &init, sizeof(init) } };
	void *rings = atomic_load(&t->rings.self);
	ssize_t n;

	if (n_iov != 2 || iov[1].iov_len != sizeof(init)) { // not the answer that we know; as it is, it asks for no rings
		errmsg_set(&t->why_not, "the answer to INIT has an unknown form");
		atomic_store(&t->init_answered, true);
		if (rings != NULL)
			t->rings.ops->stop(rings);
		return writev(t->fd, iov, n_iov);
	}
	memcpy(&init, iov[1].iov_base, sizeof(init));
	add_flags(t, &init);
	atomic_store(&t->killpriv, (init.flags & FUSE_HANDLE_KILLPRIV_V2) != 0); // before the first WRITE can come
	atomic_store(&t->init_answered, true);
	n = writev(t->fd, fixed, 2);
	if (rings == NULL)
		return n;
	if (n < 0 || t->rings.ops->start(rings) != 0) // the session has ended
		t->rings.ops->stop(rings);
	return n;
}
