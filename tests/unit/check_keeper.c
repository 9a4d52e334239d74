// SPDX-License-Identifier: MIT
// fs/keeper: wakes when requests come close together, and only then; goes to sleep by itself and then uses no time (K1); pauses; ends in
// either state.
#include <check.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "fs/duty.h"
#include "fs/keeper.h"

#define POLL_US 5000u

static struct keepers all;
static struct keeper k;

static unsigned first_cpu(void)
{
	cpu_set_t set;
	unsigned cpu = 0;

	ck_assert_int_eq(sched_getaffinity(0, sizeof(set), &set), 0);
	while (!CPU_ISSET(cpu, &set))
		cpu++;
	return cpu;
}

static void start(void)
{
	keepers_init(&all);
	ck_assert_int_eq(keeper_start(&k, &all, first_cpu(), POLL_US), 0);
}

static void end(void) { keeper_end(&k); }

// Whoever must run on this machine first may take long about it.
static void wait_for_up(uint32_t up)
{
	for (int i = 0; i < 20000 && atomic_load(&k.up) != up; i++)
		usleep(1000);
	ck_assert_uint_eq(atomic_load(&k.up), up);
}

static void note_many(void)
{
	for (int i = 0; i < 200; i++)
		keeper_note(&k);
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
		keeper_note(&k);
		seen = atomic_load(&k.up) == 1;
	}
	ck_assert(seen);
}
END_TEST

// The average of the gaps, not the last one, decides.
START_TEST(rare_requests_do_not_wake_it)
{
	for (int i = 0; i < 5; i++) {
		usleep(3 * POLL_US);
		keeper_note(&k);
		ck_assert_uint_eq(atomic_load(&k.up), 0);
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
	ck_assert_int_eq(pthread_getcpuclockid(k.thread, &clock), 0);
	clock_gettime(clock, &before);
	nanosleep(&pause, NULL);
	clock_gettime(clock, &after);
	ck_assert_int_eq(before.tv_sec, after.tv_sec);
	ck_assert_int_eq(before.tv_nsec, after.tv_nsec);
}
END_TEST

START_TEST(a_pause_holds_for_all)
{
	atomic_store(&all.not_before_ns, duty_now_ns() + 3600u * UINT64_C(1000000000));
	note_many();
	ck_assert_uint_eq(atomic_load(&k.up), 0);
	atomic_store(&all.not_before_ns, 0);
	note_many();
	wait_for_up(0);
}
END_TEST

START_TEST(ends_while_awake)
{
	note_many();
	keeper_end(&k);
	start(); // for end()
}
END_TEST

int main(void)
{
	Suite *s = suite_create("keeper");
	TCase *tc = tcase_create("keeper");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(tc, start, end);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, wakes_and_sleeps);
	tcase_add_test(tc, is_awake_while_requests_come);
	tcase_add_test(tc, rare_requests_do_not_wake_it);
	tcase_add_test(tc, asleep_uses_no_time);
	tcase_add_test(tc, a_pause_holds_for_all);
	tcase_add_test(tc, ends_while_awake);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
