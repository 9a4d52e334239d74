// SPDX-License-Identifier: MIT
#include "fs/duty.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "util/blk.h"

#define SLOW_NS 60000u          // a kind of request that takes longer on average is handed over before: about twice a wake-up
#define STOLEN_NS 1000000u      // away from the CPU for this long while polling: somebody else had it
#define BACKOFF_MIN_NS 50000000u   // no polling for so long after that; twice as long each time …
#define BACKOFF_MAX_NS 3200000000u
#define GOOD_POLLS 512u         // … until so many polls in a row have found a request
#define WATCHDOG_NS 1000000L    // its period
#define WATCHDOG_IDLE 100u      // periods without a request after which it sleeps

uint64_t duty_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint32_t kind_index(uint32_t kind) { return kind < DUTY_N_KINDS ? kind : DUTY_N_KINDS - 1; }

// ---- the duty passes on ----

// Lock held.
static void call_another(struct duty *d)
{
	if (d->n_parked > 0)
		pthread_cond_signal(&d->parked_cv);
	else
		d->more(d->ctx);
}

bool duty_take(struct duty *d)
{
	bool got;

	pthread_mutex_lock(&d->lock);
	while (d->taken && !atomic_load(&d->stopping)) {
		d->n_parked++;
		pthread_cond_wait(&d->parked_cv, &d->lock);
		d->n_parked--;
	}
	got = !atomic_load(&d->stopping);
	if (got)
		d->taken = true;
	pthread_mutex_unlock(&d->lock);
	return got;
}

void duty_leave(struct duty *d, uint32_t kind)
{
	bool slow = atomic_load_explicit(&d->service_ns[kind_index(kind)], memory_order_relaxed) > SLOW_NS;

	pthread_mutex_lock(&d->lock);
	d->taken = false;
	d->n_left++;
	if (slow)
		call_another(d);
	if (!d->watching) {
		d->watching = true;
		pthread_cond_signal(&d->watchdog_cv);
	}
	pthread_mutex_unlock(&d->lock);
}

void duty_done(struct duty *d, uint32_t kind, uint64_t since_ns)
{
	_Atomic uint32_t *at = &d->service_ns[kind_index(kind)];
	uint64_t old = atomic_load_explicit(at, memory_order_relaxed);
	uint64_t ns = min_u64(duty_now_ns() - since_ns, 100 * SLOW_NS);

	atomic_store_explicit(at, (uint32_t)((7 * old + ns) / 8), memory_order_relaxed);
}

// Y1. Up while requests come; sleeps when there have been none for a while.
static void *watchdog_main(void *arg)
{
	const struct timespec period = { 0, WATCHDOG_NS };
	struct duty *d = arg;
	uint64_t seen = 0;
	unsigned idle = 0;

	pthread_mutex_lock(&d->lock);
	while (!atomic_load(&d->stopping)) {
		if (!d->watching) {
			pthread_cond_wait(&d->watchdog_cv, &d->lock);
			idle = 0;
			continue;
		}
		if (!d->taken && d->n_left == seen)
			call_another(d); // the one who had it is busy for a whole period
		idle = d->n_left == seen ? idle + 1 : 0;
		seen = d->n_left;
		d->watching = idle < WATCHDOG_IDLE || !d->taken;
		pthread_mutex_unlock(&d->lock);
		nanosleep(&period, NULL);
		pthread_mutex_lock(&d->lock);
	}
	pthread_mutex_unlock(&d->lock);
	return NULL;
}

// ---- waiting at the device ----

// A length, 0 (session ended), or a negative errno; -EAGAIN: nothing there.
static ssize_t try_read(struct duty *d, void *buf, size_t cap)
{
	ssize_t n;

	do
		n = read(d->fd, buf, cap);
	while (n < 0 && (errno == EINTR || errno == ENOENT)); // ENOENT: that request was interrupted before we had it
	if (n >= 0)
		return n;
	if (errno == ENODEV || errno == ECONNABORTED)
		return 0; // unmounted, or aborted through /sys/fs/fuse/connections; the second one if that came while we were getting a request
	return -errno;
}

static void back_off(struct duty *d, uint64_t now_ns)
{
	d->no_poll_until_ns = now_ns + d->backoff_ns;
	d->backoff_ns = min_u64(2 * d->backoff_ns, BACKOFF_MAX_NS);
	d->good_polls = 0;
}

// Reads again and again, for at most poll_ns.
static ssize_t poll_read(struct duty *d, void *buf, size_t cap, uint64_t start_ns, uint64_t poll_ns)
{
	uint64_t last_ns = start_ns, now_ns;
	ssize_t n;

	for (;;) {
		sched_yield(); // whoever else is runnable on this CPU goes first
		n = try_read(d, buf, cap);
		now_ns = duty_now_ns();
		if (now_ns - last_ns > STOLEN_NS) {
			back_off(d, now_ns);
			return n;
		}
		if (n != -EAGAIN) {
			if (++d->good_polls >= GOOD_POLLS)
				d->backoff_ns = BACKOFF_MIN_NS;
			return n;
		}
		if (now_ns - start_ns > poll_ns || atomic_load_explicit(&d->stopping, memory_order_relaxed))
			return n;
		last_ns = now_ns;
	}
}

static ssize_t sleep_read(struct duty *d, void *buf, size_t cap)
{
	struct pollfd pfd = { .fd = d->fd, .events = POLLIN };
	ssize_t n;

	for (;;) {
		if (atomic_load(&d->stopping))
			return 0;
		if (poll(&pfd, 1, -1) < 0 && errno != EINTR)
			return -errno;
		n = try_read(d, buf, cap);
		if (n != -EAGAIN)
			return n;
	}
}

ssize_t duty_read(struct duty *d, void *buf, size_t cap)
{
	uint64_t start_ns = duty_now_ns(), poll_ns = atomic_load_explicit(&d->poll_ns, memory_order_relaxed);
	ssize_t n = try_read(d, buf, cap);

	if (n == -EAGAIN && d->gap_ns < poll_ns && start_ns >= d->no_poll_until_ns)
		n = poll_read(d, buf, cap, start_ns, poll_ns);
	if (n == -EAGAIN)
		n = sleep_read(d, buf, cap);
	d->gap_ns = (7 * d->gap_ns + min_u64(duty_now_ns() - start_ns, 10 * poll_ns)) / 8;
	return n;
}

// ---- life ----

int duty_init(struct duty *d, int fd, unsigned poll_us, void (*more)(void *ctx), void *ctx)
{
	int rc;

	*d = (struct duty){ .fd = fd, .poll_ns = poll_us * UINT64_C(1000), .more = more, .ctx = ctx };
	d->gap_ns = 10 * (poll_us * UINT64_C(1000));
	d->backoff_ns = BACKOFF_MIN_NS;
	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->parked_cv, NULL);
	pthread_cond_init(&d->watchdog_cv, NULL);
	rc = pthread_create(&d->watchdog, NULL, watchdog_main, d);
	if (rc != 0) {
		pthread_mutex_destroy(&d->lock);
		pthread_cond_destroy(&d->parked_cv);
		pthread_cond_destroy(&d->watchdog_cv);
	}
	return -rc;
}

void duty_stop_polling(struct duty *d) { atomic_store_explicit(&d->poll_ns, 0, memory_order_relaxed); }

void duty_stop(struct duty *d)
{
	pthread_mutex_lock(&d->lock);
	atomic_store(&d->stopping, true);
	pthread_cond_broadcast(&d->parked_cv);
	pthread_cond_broadcast(&d->watchdog_cv);
	pthread_mutex_unlock(&d->lock);
}

void duty_destroy(struct duty *d)
{
	duty_stop(d);
	pthread_join(d->watchdog, NULL);
	pthread_mutex_destroy(&d->lock);
	pthread_cond_destroy(&d->parked_cv);
	pthread_cond_destroy(&d->watchdog_cv);
}
