// SPDX-License-Identifier: MIT
// The part of the transport that both ways share: between libfuse and whoever carries its replies, and the life of the whole.
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define FUSE_USE_VERSION 35
#include <fuse3/fuse_lowlevel.h>

#include "fs/duty.h"
#include "fs/transport_internal.h"
#include "util/log.h"

#define WAKE_INTERVAL_NS 10000000L
#define OP_STATX 52u // FUSE_STATX, since Linux 6.6

// ---- between libfuse and the kernel ----

static ssize_t io_read(int fd, void *buf, size_t len, void *userdata)
{
	(void)userdata; // our own threads read; libfuse wants the function to exist
	return read(fd, buf, len);
}

static ssize_t io_writev(int fd, struct iovec *iov, int n_iov, void *userdata)
{
	struct transport *t = *(struct transport **)userdata; // R2
	const struct fuse_out_header *out = iov[0].iov_base;
	struct seat *s = pthread_getspecific(t->seat_key);

	if (out->unique == 0) // not a reply: a notification
		return writev(fd, iov, n_iov);
	if (s != NULL && s->reply != NULL && out->unique == s->unique)
		return s->reply(s, iov, n_iov);
	if (out->unique == t->init_unique && out->error == 0)
		return transport_init_reply(t, iov, n_iov);
	return writev(fd, iov, n_iov);
}

void transport_take_seat(struct transport *t, struct seat *s)
{
	if (pthread_setspecific(t->seat_key, s) != 0)
		transport_end_session(t, -ENOMEM); // glibc has place for the first 32 keys without allocating
}

// Puts a request into a form that libfuse parses and hands on.
static void adapt(struct transport *t, char *req, size_t len)
{
	struct fuse_in_header *in = (struct fuse_in_header *)req;
	struct fuse_create_in *create_in = (struct fuse_create_in *)(req + sizeof(*in));
	struct fuse_write_in *write_in = (struct fuse_write_in *)(req + sizeof(*in));

	if (in->opcode == FUSE_WRITE && len >= sizeof(*in) + sizeof(*write_in)) {
		bool kill = transport_handles_killpriv(t) && (write_in->write_flags & FUSE_WRITE_KILL_SUIDGID) != 0;

		write_in->fh = kill ? TRANSPORT_FH_KILL_SUIDGID : 0; // R4
	} else if ((in->opcode == FUSE_CREATE || in->opcode == FUSE_TMPFILE) && len >= sizeof(*in) + sizeof(*create_in)) {
		create_in->flags &= ~(uint32_t)TRANSPORT_FLAG_NAMELESS;
		if (in->opcode == FUSE_TMPFILE)
			create_in->flags |= TRANSPORT_FLAG_NAMELESS; // R5
		in->opcode = FUSE_CREATE;
	} else if (in->opcode == OP_STATX) {
		in->opcode = FUSE_BMAP; // R6
	} else if (in->opcode == FUSE_INIT) {
		transport_init_request(t, in, len);
	}
}

void transport_process(struct transport *t, struct seat *s, char *req, size_t len)
{
	struct request_kind kind = request_kind_of(req, len);
	uint64_t begin_ns = duty_now_ns();

	adapt(t, req, len);
	s->unique = ((const struct fuse_in_header *)req)->unique;
	fuse_session_process_buf(t->se, &(struct fuse_buf){ .size = len, .mem = req });
	s->unique = 0;
	request_stats_count(&t->requests, kind, duty_now_ns() - begin_ns);
}

void transport_log_requests(struct transport *t) { request_stats_log(&t->requests); }

void *transport_read_room(struct transport *t, size_t size)
{
	const struct seat *s = pthread_getspecific(t->seat_key);

	return s != NULL && size <= TRANSPORT_MAX_WRITE ? s->room : NULL;
}

void transport_rings_serve(struct transport *t)
{
	if (t->dev.ops->stand_by != NULL)
		t->dev.ops->stand_by(atomic_load(&t->dev.self));
}

// ---- life ----

void transport_end_session(struct transport *t, int err)
{
	uint64_t one = 1;

	if (err != 0)
		msg_error("serving the kernel's requests: %s", strerror(-err));
	pthread_mutex_lock(&t->lock);
	if (t->err == 0)
		t->err = err;
	pthread_mutex_unlock(&t->lock);
	transport_stop(t);
	if (write(t->ended_fd, &one, sizeof(one)) < 0) // only a full counter refuses, and then it is readable
		return;
}

// A thread that is just about to sleep misses a signal, so it is sent until the thread is gone.
void transport_join(pthread_t thread)
{
	struct timespec until;

	do {
		pthread_kill(thread, TRANSPORT_WAKE_SIGNAL);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += WAKE_INTERVAL_NS;
		if (until.tv_nsec >= 1000000000L) {
			until.tv_nsec -= 1000000000L;
			until.tv_sec++;
		}
	} while (pthread_timedjoin_np(thread, NULL, &until) == ETIMEDOUT);
}

// One may be missing: transport_create() has not come so far, or the kernel has no rings.
static void join_way(struct way *way)
{
	void *self = atomic_load(&way->self);

	if (self != NULL)
		way->ops->join(self);
}

static void destroy_way(struct way *way)
{
	void *self = atomic_load(&way->self);

	if (self != NULL)
		way->ops->destroy(self);
}

static void stop_way(struct way *way)
{
	void *self = atomic_load(&way->self);

	if (self != NULL)
		way->ops->stop(self);
}

// Answers the error that ended the session, or 0.
static int free_transport(struct transport *t)
{
	int err;

	transport_stop(t);
	join_way(&t->dev); // first: it may be at INIT, getting the rings ready
	join_way(&t->rings);
	destroy_way(&t->dev);
	destroy_way(&t->rings);
	err = t->err;
	if (t->ended_fd >= 0)
		close(t->ended_fd);
	pthread_mutex_destroy(&t->lock);
	pthread_key_delete(t->seat_key);
	free(t);
	return err;
}

static void on_wake(int sig) { (void)sig; }

static int prepare(struct transport *t)
{
	static const struct fuse_custom_io io = { .read = io_read, .writev = io_writev };
	const struct sigaction wake = { .sa_handler = on_wake }; // only a caught signal interrupts a system call
	void *dev;
	int rc;

	t->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (t->ended_fd < 0 || sigaction(TRANSPORT_WAKE_SIGNAL, &wake, NULL) < 0)
		return -errno;
	rc = t->dev.ops->create(t, &dev, &t->why_not);
	if (rc != 0)
		return rc;
	atomic_store(&t->dev.self, dev);
	return fuse_session_custom_io(t->se, &io, t->fd);
}

int transport_create(struct fuse_session *se, const struct transport_opts *opts, struct transport **out)
{
	struct transport *t = calloc(1, sizeof(*t));
	int rc;

	if (t == NULL)
		return -ENOMEM;
	t->se = se;
	t->opts = *opts;
	t->fd = fuse_session_fd(se);
	t->ended_fd = -1;
	t->dev.ops = &transport_dev_ops;
	rc = -pthread_key_create(&t->seat_key, NULL);
	if (rc != 0) {
		free(t);
		return rc;
	}
	pthread_mutex_init(&t->lock, NULL);
	rc = prepare(t);
	if (rc != 0) {
		free_transport(t);
		return rc;
	}
	*out = t;
	return 0;
}

int transport_start(struct transport *t) { return t->dev.ops->start(atomic_load(&t->dev.self)); }
int transport_ended_fd(const struct transport *t) { return t->ended_fd; }
bool transport_handles_killpriv(const struct transport *t) { return atomic_load(&t->killpriv); }

bool transport_over_uring(struct transport *t)
{
	void *rings = atomic_load(&t->rings.self);

	return atomic_load(&t->init_answered) && rings != NULL && t->rings.ops->serving(rings, &t->why_not);
}

const char *transport_why_not_uring(struct transport *t) { return t->why_not.text; }

void transport_stop(struct transport *t)
{
	atomic_store(&t->stopping, true);
	stop_way(&t->dev);
	stop_way(&t->rings);
}

int transport_destroy(struct transport *t) { return t != NULL ? free_transport(t) : 0; }
