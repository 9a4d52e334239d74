// SPDX-License-Identifier: MIT
// Requests over /dev/fuse: threads that each take the duty (duty.h), read a request, process it and reply.
//
// Threads are started when somebody has to take the duty over and nobody is parked, up to max_threads, and stay for as long as the
// mount: starting them again and again was measured at a third of the speed.
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FUSE_USE_VERSION 35
#include <fuse3/fuse_lowlevel.h>

#include "fs/duty.h"
#include "fs/transport.h"
#include "util/blk.h"
#include "util/log.h"

#define BUF_BYTES (TRANSPORT_MAX_WRITE + 4096u) // the data and, in front of it, the largest header
#define WAKE_SIGNAL SIGUSR1 // caught by a handler that does nothing: only a caught signal interrupts read(2)
#define WAKE_INTERVAL_NS 10000000L

#define OP_STATX 52u // FUSE_STATX, since Linux 6.6

// Flags of INIT that libfuse 3.14 does not put into its reply. Linux sets them only if it knows them.
#define INIT_FLAGS_ADDED (FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV_V2)

struct worker {
	struct transport *t;
	pthread_t thread;
	char *buf; // BUF_BYTES, mapped
};

struct transport {
	struct fuse_session *se;
	struct transport_opts opts;
	int fd;       // the session's
	int ended_fd; // eventfd: readable when the session has ended
	// written before the mount serves anything:
	uint64_t init_unique;
	uint32_t init_offered; // flags
	atomic_bool killpriv;

	struct duty duty;
	bool has_duty;
	atomic_bool stopping;

	pthread_mutex_t lock;
	// under lock:
	struct worker **workers; // max_threads of them
	unsigned n_workers;
	int err;       // the first that ended the session
};

// ---- between libfuse and the kernel ----

static ssize_t io_read(int fd, void *buf, size_t len, void *userdata)
{
	(void)userdata; // our own threads read; libfuse wants the function to exist
	return read(fd, buf, len);
}

// Adds what libfuse leaves out to its answer to INIT, as far as the kernel has offered it.
static ssize_t write_init_reply(struct transport *t, int fd, struct iovec *iov, int n_iov)
{
	struct fuse_init_out init;
	struct iovec fixed[2] = { iov[0], { &init, iov[1].iov_len } };

	memset(&init, 0, sizeof(init));
	memcpy(&init, iov[1].iov_base, min_u64(iov[1].iov_len, sizeof(init)));
	init.flags |= t->init_offered & INIT_FLAGS_ADDED;
	if (n_iov != 2 || iov[1].iov_len > sizeof(init))
		return writev(fd, iov, n_iov); // not the reply that we know
	atomic_store(&t->killpriv, (init.flags & FUSE_HANDLE_KILLPRIV_V2) != 0); // before the first WRITE can come
	return writev(fd, fixed, 2);
}

static ssize_t io_writev(int fd, struct iovec *iov, int n_iov, void *userdata)
{
	struct transport *t = *(struct transport **)userdata; // R2
	const struct fuse_out_header *out = iov[0].iov_base;

	if (t->init_unique != 0 && out->unique == t->init_unique && out->error == 0 && n_iov > 1)
		return write_init_reply(t, fd, iov, n_iov);
	return writev(fd, iov, n_iov);
}

// Looks at a request before libfuse parses it.
static void prepare_request(struct transport *t, char *buf, size_t len)
{
	struct fuse_in_header *in = (struct fuse_in_header *)buf;
	struct fuse_create_in *create_in = (struct fuse_create_in *)(buf + sizeof(*in));
	struct fuse_write_in *write_in = (struct fuse_write_in *)(buf + sizeof(*in));
	const struct fuse_init_in *init = (const struct fuse_init_in *)(buf + sizeof(*in));

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
	} else if (in->opcode == FUSE_INIT && len >= sizeof(*in) + offsetof(struct fuse_init_in, flags2)) {
		t->init_unique = in->unique;
		t->init_offered = init->flags;
	}
}

// ---- threads ----

static void *worker_main(void *arg);

static struct worker *new_worker(struct transport *t)
{
	struct worker *w = calloc(1, sizeof(*w));

	if (w == NULL)
		return NULL;
	w->t = t;
	w->buf = mmap(NULL, BUF_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (w->buf == MAP_FAILED) {
		free(w);
		return NULL;
	}
	return w;
}

static void free_worker(struct worker *w)
{
	munmap(w->buf, BUF_BYTES);
	free(w);
}

// A thread that cannot be had is no error: the present ones go on.
static void start_worker(void *ctx)
{
	struct transport *t = ctx;
	struct worker *w;

	pthread_mutex_lock(&t->lock);
	if (!atomic_load(&t->stopping) && t->n_workers < t->opts.max_threads && (w = new_worker(t)) != NULL) {
		if (pthread_create(&w->thread, NULL, worker_main, w) == 0)
			t->workers[t->n_workers++] = w;
		else
			free_worker(w);
	}
	pthread_mutex_unlock(&t->lock);
}

static void end_session(struct transport *t, int err)
{
	uint64_t one = 1;

	if (err != 0)
		msg_error("reading /dev/fuse: %s", strerror(-err));
	pthread_mutex_lock(&t->lock);
	if (t->err == 0)
		t->err = err;
	atomic_store(&t->stopping, true);
	pthread_mutex_unlock(&t->lock);
	duty_stop(&t->duty);
	if (write(t->ended_fd, &one, sizeof(one)) < 0) // only a full counter refuses, and then it is readable
		return;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct transport *t = w->t;
	ssize_t n = 0;

	while (duty_take(&t->duty) && (n = duty_read(&t->duty, w->buf, BUF_BYTES)) > 0) {
		uint32_t opcode = ((const struct fuse_in_header *)w->buf)->opcode;
		uint64_t start_ns = duty_now_ns();

		duty_leave(&t->duty, opcode);
		prepare_request(t, w->buf, (size_t)n);
		fuse_session_process_buf(t->se, &(struct fuse_buf){ .size = (size_t)n, .mem = w->buf });
		duty_done(&t->duty, opcode, start_ns);
	}
	if (!atomic_load(&t->stopping))
		end_session(t, (int)n);
	return NULL;
}

// ---- life ----

static void free_transport(struct transport *t)
{
	if (t->has_duty)
		duty_destroy(&t->duty);
	if (t->ended_fd >= 0)
		close(t->ended_fd);
	pthread_mutex_destroy(&t->lock);
	free(t->workers);
	free(t);
}

static void on_wake(int sig) { (void)sig; }

int transport_create(struct fuse_session *se, const struct transport_opts *opts, struct transport **out)
{
	static const struct fuse_custom_io io = { .read = io_read, .writev = io_writev };
	const struct sigaction wake = { .sa_handler = on_wake };
	struct transport *t = calloc(1, sizeof(*t));
	int rc;

	if (t == NULL)
		return -ENOMEM;
	t->se = se;
	t->opts = *opts;
	t->fd = fuse_session_fd(se);
	pthread_mutex_init(&t->lock, NULL);
	t->workers = calloc(opts->max_threads, sizeof(t->workers[0]));
	t->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = t->workers == NULL ? -ENOMEM : t->ended_fd < 0 ? -EMFILE : 0;
	if (rc == 0 && sigaction(WAKE_SIGNAL, &wake, NULL) < 0)
		rc = -errno;
	if (rc == 0 && fcntl(t->fd, F_SETFL, O_NONBLOCK) < 0)
		rc = -errno;
	if (rc == 0) {
		rc = duty_init(&t->duty, t->fd, opts->poll_us, start_worker, t);
		t->has_duty = rc == 0;
	}
	if (rc == 0)
		rc = fuse_session_custom_io(se, &io, t->fd);
	if (rc != 0) {
		free_transport(t);
		return rc;
	}
	*out = t;
	return 0;
}

int transport_start(struct transport *t)
{
	unsigned n;

	start_worker(t);
	pthread_mutex_lock(&t->lock);
	n = t->n_workers;
	pthread_mutex_unlock(&t->lock);
	return n > 0 ? 0 : -EAGAIN;
}

int transport_ended_fd(const struct transport *t) { return t->ended_fd; }
bool transport_handles_killpriv(const struct transport *t) { return atomic_load(&t->killpriv); }

void transport_stop(struct transport *t)
{
	pthread_mutex_lock(&t->lock); // from here on no thread is added
	atomic_store(&t->stopping, true);
	pthread_mutex_unlock(&t->lock);
	duty_stop(&t->duty);
}

// A thread that sleeps in read(2) wakes for a signal. One that is just about to sleep misses it, so it is sent until the thread is gone.
static void join_worker(struct worker *w)
{
	struct timespec until;

	do {
		pthread_kill(w->thread, WAKE_SIGNAL);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += WAKE_INTERVAL_NS;
		if (until.tv_nsec >= 1000000000L) {
			until.tv_nsec -= 1000000000L;
			until.tv_sec++;
		}
	} while (pthread_timedjoin_np(w->thread, NULL, &until) == ETIMEDOUT);
}

int transport_destroy(struct transport *t)
{
	int err;

	if (t == NULL)
		return 0;
	transport_stop(t);
	for (unsigned i = 0; i < t->n_workers; i++) {
		join_worker(t->workers[i]);
		free_worker(t->workers[i]);
	}
	err = t->err;
	free_transport(t);
	return err;
}
