// SPDX-License-Identifier: MIT
// What the two ways to the kernel (transport.h) share, and the vtable that each of them fills.
//
// Life, the same for both:
//
//   create ---> start ---> stop ---> join ---> destroy
//
// A way's threads may call the other way until both have been joined. transport.c does this for /dev/fuse with the mount, and for the rings in the middle of the INIT exchange (transport_init.c):
//
//   INIT arrives on /dev/fuse, the kernel offers rings ---> create: threads, rings, buffers; the kernel knows nothing yet
//   libfuse has made the answer, the flag is added      ---> the answer is written
//                                                       ---> start: the rings are registered with the kernel
//
// If create fails, the flag is not set and nothing has happened. If registering fails, the kernel itself goes back to /dev/fuse.
#ifndef HYBRIDFS_FS_TRANSPORT_INTERNAL_H
#define HYBRIDFS_FS_TRANSPORT_INTERNAL_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "fs/request_stats.h"
#include "fs/transport.h"
#include "util/errmsg.h"

#define TRANSPORT_WAKE_SIGNAL SIGUSR1 // R3

struct fuse_in_header;

struct transport_ops {
	// Gets ready everything that can fail. On an error nothing remains, and `why` says what was missing.
	int (*create)(struct transport *t, void **self, struct errmsg *why);
	// Requests may come. From here on threads find out by themselves that the session has ended.
	int (*start)(void *self);
	// Whether requests come on this way, and why not. Waits until that is certain: started and decided, or stopped.
	bool (*serving)(void *self, struct errmsg *why);
	// Another way carries the requests now, and few come on this one: no more polling. NULL: it has none.
	void (*stand_by)(void *self);
	// t->stopping is set and no thread may be added.
	void (*stop)(void *self);
	// After stop: waits until all threads have ended.
	void (*join)(void *self);
	void (*destroy)(void *self);
};

extern const struct transport_ops transport_dev_ops;
extern const struct transport_ops transport_uring_ops; // only with HAVE_LIBURING

struct way {
	const struct transport_ops *ops;
	_Atomic(void *) self; // NULL: not there. The rings come while others may look, or may be stopping
};

// Where a thread of a transport sits while it processes a request. Its thread-specific value under t->seat_key.
struct seat {
	char *room;      // for the data of a reply to a READ: TRANSPORT_MAX_WRITE bytes
	uint64_t unique; // of the request that is being processed, if it has to be answered with `reply`; else 0
	// As writev(2) on /dev/fuse: a reply as libfuse has made it. NULL: /dev/fuse it is.
	ssize_t (*reply)(struct seat *s, const struct iovec *iov, int n_iov);
};

struct transport {
	struct fuse_session *se;
	struct transport_opts opts;
	int fd;       // the session's
	int ended_fd; // eventfd: readable when the session has ended
	pthread_key_t seat_key;
	struct way dev, rings;
	struct request_stats requests;

	// Of the INIT exchange, by the one thread that answers it; other threads serve nothing before:
	uint64_t init_unique;
	uint64_t init_offered; // flags of the kernel, both words
	struct errmsg why_not; // there are no rings
	atomic_bool killpriv;
	atomic_bool init_answered; // set just before; hands the above over

	atomic_bool stopping;
	pthread_mutex_t lock;
	// under lock:
	int err; // the first that ended the session
};

// ---- transport.c ----

// Hands a request to libfuse. The calling thread sits at `s`, which it has announced with transport_take_seat().
void transport_process(struct transport *t, struct seat *s, char *req, size_t len);
void transport_take_seat(struct transport *t, struct seat *s);

// The rings carry the requests from now on. May be said more than once.
void transport_rings_serve(struct transport *t);

// err: 0 if the kernel has ended the session.
void transport_end_session(struct transport *t, int err);

// Waits until the thread has ended. It may sleep in a system call, now or soon, that only a signal ends.
void transport_join(pthread_t thread);

// ---- transport_init.c ----

// Before libfuse parses an INIT: learns what the kernel offers, and gets the rings ready.
void transport_init_request(struct transport *t, const struct fuse_in_header *in, size_t len);
// Writes libfuse's answer to INIT with what it lacks, and starts the rings. As writev(2).
ssize_t transport_init_reply(struct transport *t, struct iovec *iov, int n_iov);

#endif
