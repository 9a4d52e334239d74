// SPDX-License-Identifier: MIT
// fs/duty: every request is processed once, whoever reads it; a request that blocks does not keep the others waiting (Y1). A
// sequenced-packet socket stands for /dev/fuse: each packet is one request, its first byte the kind.
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "fs/duty.h"
#include "run_suite.h"

#define MAX_THREADS 4
#define N_REQUESTS 3000

enum kind { BRIEF = 1, BLOCKS = 2 };

static struct fixture {
	struct duty duty;
	int kernel, daemon; // the two ends
	pthread_mutex_t lock;
	pthread_t threads[MAX_THREADS];
	unsigned n_threads;
	atomic_uint done[3]; // by kind
	sem_t release;       // lets one BLOCKS go on
} f;

static _Thread_local int read_errno; // what reading fails with, if not 0

ssize_t __real_read(int fd, void *buf, size_t len);
ssize_t __wrap_read(int fd, void *buf, size_t len);
ssize_t __wrap_read(int fd, void *buf, size_t len)
{
	if (read_errno == 0)
		return __real_read(fd, buf, len);
	errno = read_errno;
	return -1;
}

static void *worker(void *arg)
{
	uint8_t kind;

	(void)arg;
	while (duty_take(&f.duty) && duty_read(&f.duty, &kind, 1) == 1) {
		uint64_t start_ns = duty_now_ns();

		duty_leave(&f.duty, kind);
		if (kind == BLOCKS)
			sem_wait(&f.release);
		atomic_fetch_add(&f.done[kind], 1);
		duty_done(&f.duty, kind, start_ns);
	}
	duty_stop(&f.duty); // the end of the session, for all
	return NULL;
}

static void start_thread(void *ctx)
{
	(void)ctx;
	pthread_mutex_lock(&f.lock);
	if (f.n_threads < MAX_THREADS && pthread_create(&f.threads[f.n_threads], NULL, worker, NULL) == 0)
		f.n_threads++;
	pthread_mutex_unlock(&f.lock);
}

static void start(unsigned poll_us)
{
	int ends[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
	f.kernel = ends[0];
	f.daemon = ends[1];
	ck_assert_int_eq(fcntl(f.daemon, F_SETFL, O_NONBLOCK), 0);
	pthread_mutex_init(&f.lock, NULL);
	sem_init(&f.release, 0, 0);
	ck_assert_int_eq(duty_init(&f.duty, f.daemon, poll_us, start_thread, NULL), 0);
	start_thread(NULL);
}

static void stop(void)
{
	close(f.kernel); // reading answers 0 from here on
	for (unsigned i = 0; i < f.n_threads; i++)
		pthread_join(f.threads[i], NULL);
	duty_destroy(&f.duty);
	close(f.daemon);
}

static void request(enum kind kind)
{
	uint8_t byte = (uint8_t)kind;

	ck_assert_int_eq(send(f.kernel, &byte, 1, 0), 1);
}

// However long it takes: the test's own time limit is what ends a hang.
static void wait_until_done(enum kind kind, unsigned n)
{
	const struct timespec pause = { 0, 100000 };

	while (atomic_load(&f.done[kind]) < n)
		nanosleep(&pause, NULL);
}

START_TEST(each_request_is_processed_once)
{
	start(_i == 0 ? 0 : 200); // asleep between requests, or polling
	for (unsigned i = 1; i <= N_REQUESTS; i++) {
		request(BRIEF);
		if (i % 3 == 0)
			wait_until_done(BRIEF, i);
	}
	wait_until_done(BRIEF, N_REQUESTS);
	stop();
	ck_assert_uint_eq(atomic_load(&f.done[BRIEF]), N_REQUESTS);
}
END_TEST

// Nothing is known yet of the kind that blocks, so nobody is called before it: only the watchdog can.
START_TEST(a_request_that_blocks_keeps_nobody_waiting)
{
	start(200);
	for (unsigned i = 1; i < MAX_THREADS; i++) {
		request(BLOCKS);
		request(BRIEF);
		wait_until_done(BRIEF, i);
		ck_assert_uint_eq(atomic_load(&f.done[BLOCKS]), 0);
	}
	for (unsigned i = 1; i < MAX_THREADS; i++)
		sem_post(&f.release);
	wait_until_done(BLOCKS, MAX_THREADS - 1);
	stop();
	ck_assert_uint_eq(f.n_threads, MAX_THREADS);
}
END_TEST

// The session has ended, also in the middle of getting a request; anything else is an error.
START_TEST(ends_of_the_session)
{
	static const struct {
		int read_errno, result;
	} cases[] = { { ENODEV, 0 }, { ECONNABORTED, 0 }, { EIO, -EIO } };
	uint8_t byte;
	int rc;

	ck_assert_int_eq(duty_init(&f.duty, -1, 0, start_thread, NULL), 0);
	ck_assert(duty_take(&f.duty));
	read_errno = cases[_i].read_errno;
	rc = (int)duty_read(&f.duty, &byte, 1);
	read_errno = 0;
	ck_assert_int_eq(rc, cases[_i].result);
	duty_stop(&f.duty);
	duty_destroy(&f.duty);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("duty");
	TCase *tc = tcase_create("duty");

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, each_request_is_processed_once, 0, 2);
	tcase_add_test(tc, a_request_that_blocks_keeps_nobody_waiting);
	tcase_add_loop_test(tc, ends_of_the_session, 0, 3);
	suite_add_tcase(s, tc);
	return run_suite(s);
}
