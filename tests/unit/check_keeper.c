// SPDX-License-Identifier: MIT
// fs/keeper: wake when requests come close together, and only then; where requests come from, and only there; go to sleep by themselves and
// then use no time (K1); pause; end in either state.
#include <check.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "fs/duty.h"
#include "fs/keeper.h"
#include "run_suite.h"

#define POLL_US 5000u

static struct keepers all;
static unsigned first, second; // CPUs; the same one if there are not two
static struct keeper *k;       // of the first

static unsigned cpu_from(unsigned cpu, const cpu_set_t *set)
{
	while (cpu < CPU_SETSIZE && !CPU_ISSET(cpu, set))
		cpu++;
	return cpu;
}

static void start(void)
{
	cpu_set_t set;

	ck_assert_int_eq(sched_getaffinity(0, sizeof(set), &set), 0);
	first = cpu_from(0, &set);
	second = cpu_from(first + 1, &set);
	if (second == CPU_SETSIZE)
		second = first;
	ck_assert_int_eq(keepers_start(&all, &set, second + 1, POLL_US), 0);
	k = &all.of_cpu[first];
	ck_assert(k->there);
}

static void end(void) { keepers_end(&all); }

// Whoever must run on this machine first may take long about it.
static void wait_for_up(uint32_t up)
{
	for (int i = 0; i < 20000 && atomic_load(&k->up) != up; i++)
		usleep(1000);
	ck_assert_uint_eq(atomic_load(&k->up), up);
}

static void note_many(void)
{
	for (int i = 0; i < 200; i++)
		keepers_note(&all, first);
}

START_TEST(wakes_and_sleeps)
{
	for (int i = 0; i < 3; i++) {
		wait_for_up(0);
		note_many();
		wait_for_up(0);
	}
}
END_TEST

START_TEST(is_awake_while_requests_come)
{
	uint64_t end_ns = duty_now_ns() + 20u * 1000000000u;
	bool seen = false;

	while (!seen && duty_now_ns() < end_ns) {
		keepers_note(&all, first);
		seen = atomic_load(&k->up) == 1;
	}
	ck_assert(seen);
}
END_TEST

// The average of the gaps, not the last one, decides.
START_TEST(rare_requests_do_not_wake_it)
{
	for (int i = 0; i < 5; i++) {
		usleep(3 * POLL_US);
		keepers_note(&all, first);
		ck_assert_uint_eq(atomic_load(&k->up), 0);
	}
}
END_TEST

// K1
START_TEST(asleep_uses_no_time)
{
	struct timespec before, after, pause = { 0, 50000000 };
	clockid_t clock;

	note_many();
	wait_for_up(0);
	nanosleep(&pause, NULL); // from setting `up` to the system call
	ck_assert_int_eq(pthread_getcpuclockid(k->thread, &clock), 0);
	clock_gettime(clock, &before);
	nanosleep(&pause, NULL);
	clock_gettime(clock, &after);
	ck_assert_int_eq(before.tv_sec, after.tv_sec);
	ck_assert_int_eq(before.tv_nsec, after.tv_nsec);
}
END_TEST

// After the last request, however lately its CPU had one.
START_TEST(sleeps_when_requests_end)
{
	note_many();
	atomic_store(&k->last_ns, duty_now_ns() + 3600u * UINT64_C(1000000000));
	wait_for_up(0);
}
END_TEST

static atomic_bool hog_stops;

static void *hog(void *arg)
{
	cpu_set_t set;

	(void)arg;
	CPU_ZERO(&set);
	CPU_SET(first, &set);
	if (sched_setaffinity(0, sizeof(set), &set) == 0)
		while (!atomic_load(&hog_stops))
			continue;
	return NULL;
}

// Somebody else wants the first CPU, while requests come from the second one.
START_TEST(pauses_when_time_is_scarce)
{
	uint64_t end_ns = duty_now_ns() + 60u * UINT64_C(1000000000);
	pthread_t thread;

	if (second == first)
		return; // its requests would be why the keeper does not run
	ck_assert_int_eq(pthread_create(&thread, NULL, hog, NULL), 0);
	while (atomic_load(&all.not_before_ns) == 0 && duty_now_ns() < end_ns) {
		uint64_t before_ns = duty_now_ns() - 100000000u; // of use, but not now

		keepers_note(&all, second);
		atomic_store(&k->last_ns, before_ns);
	}
	atomic_store(&hog_stops, true);
	pthread_join(thread, NULL);
	ck_assert_uint_ne(atomic_load(&all.not_before_ns), 0);
}
END_TEST

START_TEST(a_pause_holds_for_all)
{
	atomic_store(&all.not_before_ns, duty_now_ns() + 3600u * UINT64_C(1000000000));
	note_many();
	ck_assert_uint_eq(atomic_load(&k->up), 0);
	atomic_store(&all.not_before_ns, 0);
	note_many();
	wait_for_up(0);
}
END_TEST

// Notes on the first CPU until the second one's `up` is that, at most for so long.
static bool second_is_seen(uint32_t up, uint64_t ns)
{
	uint64_t end_ns = duty_now_ns() + ns;
	bool seen = false;

	while (!seen && duty_now_ns() < end_ns) {
		keepers_note(&all, first);
		seen = atomic_load(&all.of_cpu[second].up) == up;
	}
	return seen;
}

// The CPUs that requests have come from lately stay awake together; the others sleep.
START_TEST(those_of_use_wake_together)
{
	if (second == first)
		return; // one CPU only: there is nobody else
	ck_assert(!second_is_seen(1, 50000000));
	keepers_note(&all, second);
	wait_for_up(0);
	ck_assert(second_is_seen(1, UINT64_C(20000000000)));
	atomic_store(&all.of_cpu[second].last_ns, 1); // long ago
	ck_assert(second_is_seen(0, UINT64_C(20000000000)));
	ck_assert(!second_is_seen(1, 50000000));
}
END_TEST

START_TEST(without_polling_there_are_none)
{
	cpu_set_t set;
	struct keepers none;

	CPU_ZERO(&set);
	CPU_SET(first, &set);
	ck_assert_int_eq(keepers_start(&none, &set, first + 1, 0), 0);
	keepers_note(&none, first);
	keepers_end(&none);
}
END_TEST

START_TEST(ends_while_awake)
{
	note_many();
	keepers_end(&all);
	start(); // for end()
}
END_TEST

int main(void)
{
	Suite *s = suite_create("keeper");
	TCase *tc = tcase_create("keeper");

	tcase_add_checked_fixture(tc, start, end);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, wakes_and_sleeps);
	tcase_add_test(tc, is_awake_while_requests_come);
	tcase_add_test(tc, rare_requests_do_not_wake_it);
	tcase_add_test(tc, asleep_uses_no_time);
	tcase_add_test(tc, sleeps_when_requests_end);
	tcase_add_test(tc, pauses_when_time_is_scarce);
	tcase_add_test(tc, a_pause_holds_for_all);
	tcase_add_test(tc, those_of_use_wake_together);
	tcase_add_test(tc, without_polling_there_are_none);
	tcase_add_test(tc, ends_while_awake);
	suite_add_tcase(s, tc);
	return run_suite(s);
}
