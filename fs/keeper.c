// SPDX-License-Identifier: MIT
#include "fs/keeper.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/duty.h"
#include "util/blk.h"

#define SPINS 64 // between two looks at the clock: about 2 µs
#define SCARCE_NS 1000000u // between two looks: somebody else had the CPU
#define PAUSE_MIN_NS UINT64_C(50000000)
#define PAUSE_MAX_NS UINT64_C(3200000000)
#define GOOD_NS 50000000u  // of spinning, after which the next pause is a short one again

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
	__asm__ volatile("yield");
#endif
}

static void wait_while_down(struct keeper *k) { syscall(SYS_futex, &k->up, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0); }

static void wake(struct keeper *k)
{
	atomic_store(&k->up, 1);
	syscall(SYS_futex, &k->up, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static bool wanted(struct keeper *k, uint64_t now_ns)
{
	return !atomic_load(&k->stopping) && now_ns < atomic_load(&k->last_ns) + k->poll_ns && now_ns >= atomic_load(&k->all->not_before_ns);
}

static void pause_all(struct keeper *k, uint64_t now_ns)
{
	uint64_t pause_ns = atomic_load(&k->all->pause_ns);

	atomic_store(&k->all->not_before_ns, now_ns + pause_ns);
	atomic_store(&k->all->pause_ns, min_u64(2 * pause_ns, PAUSE_MAX_NS));
	k->good_ns = 0;
}

static void spin(struct keeper *k)
{
	uint64_t last_ns = duty_now_ns(), now_ns = last_ns;

	while (wanted(k, now_ns)) {
		for (int i = 0; i < SPINS; i++)
			relax();
		now_ns = duty_now_ns();
		if (now_ns - last_ns > SCARCE_NS)
			pause_all(k, now_ns);
		else if ((k->good_ns += now_ns - last_ns) > GOOD_NS)
			atomic_store(&k->all->pause_ns, PAUSE_MIN_NS);
		last_ns = now_ns;
	}
}

// K2
static bool step_behind_everybody(unsigned cpu)
{
	const struct sched_param param = { 0 };
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setscheduler(0, SCHED_IDLE, &param) == 0 && sched_setaffinity(0, sizeof(set), &set) == 0;
}

static void *keeper_main(void *arg)
{
	struct keeper *k = arg;

	if (!step_behind_everybody(k->cpu)) {
		atomic_store(&k->up, 1); // nobody tries to wake it
		return NULL;
	}
	while (!atomic_load(&k->stopping)) {
		if (atomic_load(&k->up) == 0) {
			wait_while_down(k);
			continue;
		}
		spin(k);
		atomic_store(&k->up, 0);
		if (wanted(k, duty_now_ns())) // a request came just now, and saw us up
			atomic_store(&k->up, 1);
	}
	return NULL;
}

void keeper_note(struct keeper *k)
{
	uint64_t now_ns = duty_now_ns(), last_ns = atomic_exchange(&k->last_ns, now_ns);
	uint64_t gap_ns = now_ns > last_ns ? min_u64(now_ns - last_ns, 10 * k->poll_ns) : 0;

	// Two threads at once may lose one of two gaps.
	gap_ns = (7 * atomic_load_explicit(&k->gap_ns, memory_order_relaxed) + gap_ns) / 8;
	atomic_store_explicit(&k->gap_ns, gap_ns, memory_order_relaxed);
	if (gap_ns < k->poll_ns && atomic_load(&k->up) == 0 && now_ns >= atomic_load(&k->all->not_before_ns))
		wake(k);
}

void keepers_init(struct keepers *all) { *all = (struct keepers){ .pause_ns = PAUSE_MIN_NS }; }

int keeper_start(struct keeper *k, struct keepers *all, unsigned cpu, unsigned poll_us)
{
	uint64_t poll_ns = poll_us * UINT64_C(1000);

	*k = (struct keeper){ .all = all, .cpu = cpu, .poll_ns = poll_ns, .gap_ns = 10 * poll_ns };
	return -pthread_create(&k->thread, NULL, keeper_main, k);
}

void keeper_end(struct keeper *k)
{
	atomic_store(&k->stopping, true);
	wake(k);
	pthread_join(k->thread, NULL);
}
