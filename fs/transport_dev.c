// SPDX-License-Identifier: MIT
// Requests over /dev/fuse: threads that each take the duty (duty.h), read a request, process it and reply.
//
// Threads are started when somebody has to take the duty over and nobody is parked, up to max_threads, and stay for as long as the
// mount: starting them again and again was measured at a third of the speed.
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fs/duty.h"
#include "fs/transport_internal.h"
#include "util/blk.h"

#define ROOM_AT 4096u // the data of a reply; the header of a request is smaller
#define BUF_BYTES (ROOM_AT + TRANSPORT_MAX_WRITE) // a request: its data and, in front of it, the largest header

struct dev;

struct worker {
	struct dev *dev;
	struct seat seat;
	pthread_t thread;
	char *buf; // BUF_BYTES, mapped
};

struct dev {
	struct transport *t;
	struct duty duty;
	pthread_mutex_t lock;
	// under lock:
	struct worker **workers; // max_threads of them
	unsigned n_workers;
	bool closed; // no thread is added any more
};

static void *worker_main(void *arg);

static struct worker *new_worker(struct dev *dev)
{
	struct worker *w = calloc(1, sizeof(*w));

	if (w == NULL)
		return NULL;
	w->dev = dev;
	w->buf = mmap(NULL, BUF_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (w->buf == MAP_FAILED) {
		free(w);
		return NULL;
	}
	w->seat.room = w->buf + ROOM_AT;
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
	struct dev *dev = ctx;
	struct worker *w;

	pthread_mutex_lock(&dev->lock);
	if (!dev->closed && dev->n_workers < dev->t->opts.max_threads && (w = new_worker(dev)) != NULL) {
		if (pthread_create(&w->thread, NULL, worker_main, w) == 0)
			dev->workers[dev->n_workers++] = w;
		else
			free_worker(w);
	}
	pthread_mutex_unlock(&dev->lock);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct duty *duty = &w->dev->duty;
	struct transport *t = w->dev->t;
	ssize_t n = 0;

	transport_take_seat(t, &w->seat);
	while (duty_take(duty) && (n = duty_read(duty, w->buf, BUF_BYTES)) > 0) {
		uint32_t opcode = ((const struct fuse_in_header *)w->buf)->opcode;
		uint64_t start_ns = duty_now_ns();

		duty_leave(duty, opcode);
		transport_process(t, &w->seat, w->buf, (size_t)n);
		duty_done(duty, opcode, start_ns);
	}
	if (!atomic_load(&t->stopping))
		transport_end_session(t, (int)n);
	return NULL;
}

// ---- life ----

static int dev_create(struct transport *t, void **self, struct errmsg *why)
{
	struct dev *dev = calloc(1, sizeof(*dev));
	int rc = -ENOMEM;

	if (dev == NULL)
		return -ENOMEM;
	dev->t = t;
	dev->workers = calloc(t->opts.max_threads, sizeof(dev->workers[0]));
	if (dev->workers != NULL)
		rc = fcntl(t->fd, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
	if (rc == 0)
		rc = duty_init(&dev->duty, t->fd, t->opts.poll_us, start_worker, dev);
	if (rc != 0) {
		errmsg_set(why, "/dev/fuse cannot be served");
		free(dev->workers);
		free(dev);
		return rc;
	}
	pthread_mutex_init(&dev->lock, NULL);
	*self = dev;
	return 0;
}

static int dev_start(void *self)
{
	struct dev *dev = self;
	unsigned n;

	start_worker(dev);
	pthread_mutex_lock(&dev->lock);
	n = dev->n_workers;
	pthread_mutex_unlock(&dev->lock);
	return n > 0 ? 0 : -EAGAIN;
}

static bool dev_serving(void *self, struct errmsg *why)
{
	(void)self;
	(void)why;
	return true;
}

static void dev_stand_by(void *self) { duty_stop_polling(&((struct dev *)self)->duty); }

static void dev_stop(void *self)
{
	struct dev *dev = self;

	pthread_mutex_lock(&dev->lock);
	dev->closed = true;
	pthread_mutex_unlock(&dev->lock);
	duty_stop(&dev->duty);
}

static void dev_join(void *self)
{
	struct dev *dev = self;

	for (unsigned i = 0; i < dev->n_workers; i++)
		transport_join(dev->workers[i]->thread);
}

static void dev_destroy(void *self)
{
	struct dev *dev = self;

	for (unsigned i = 0; i < dev->n_workers; i++)
		free_worker(dev->workers[i]);
	duty_destroy(&dev->duty);
	pthread_mutex_destroy(&dev->lock);
	free(dev->workers);
	free(dev);
}

const struct transport_ops transport_dev_ops = {
	.create = dev_create,
	.start = dev_start,
	.serving = dev_serving,
	.stand_by = dev_stand_by,
	.stop = dev_stop,
	.join = dev_join,
	.destroy = dev_destroy,
};
