// SPDX-License-Identifier: MIT
#include "fs/keeper.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/duty.h"
#include "util/blk.h"

#define SPINS 64 // between two looks at the clock: about 2 µs
#define SCARCE_NS 1000000u // between two looks: the CPU was somebody's, and without a request for half of it, somebody else's
#define RECENT_NS UINT64_C(1000000000)
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

// Requests have come from its CPU not long ago.
static bool is_of_use(struct keeper *k, uint64_t now_ns)
{
	uint64_t last_ns = atomic_load(&k->last_ns);

	return last_ns != 0 && now_ns < last_ns + RECENT_NS;
}

static bool wanted(struct keeper *k, uint64_t now_ns)
{
	struct keepers *all = k->all;

	return !atomic_load(&all->stopping) && now_ns < atomic_load(&all->last_ns) + all->poll_ns &&
	       now_ns >= atomic_load(&all->not_before_ns) && is_of_use(k, now_ns);
}

static void pause_all(struct keeper *k, uint64_t now_ns)
{
	atomic_store(&k->all->not_before_ns, now_ns + k->pause_ns);
	k->pause_ns = min_u64(2 * k->pause_ns, PAUSE_MAX_NS);
	k->good_ns = 0;
}

static void spin(struct keeper *k)
{
	uint64_t last_ns = duty_now_ns(), now_ns = last_ns;

	while (wanted(k, now_ns)) {
		for (int i = 0; i < SPINS; i++)
			relax();
		now_ns = duty_now_ns();
		if (now_ns - last_ns > SCARCE_NS) {
			if (now_ns > atomic_load(&k->last_ns) + SCARCE_NS / 2)
				pause_all(k, now_ns);
		} else if ((k->good_ns += now_ns - last_ns) > GOOD_NS) {
			k->pause_ns = PAUSE_MIN_NS;
		}
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
	while (!atomic_load(&k->all->stopping)) {
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

static void wake_those_of_use(struct keepers *all, uint64_t now_ns)
{
	for (unsigned i = 0; i < all->n; i++) {
		struct keeper *k = &all->of_cpu[i];

		if (k->there && atomic_load(&k->up) == 0 && is_of_use(k, now_ns))
			wake(k);
	}
}

void keepers_note(struct keepers *all, unsigned cpu)
{
	uint64_t now_ns, last_ns, gap_ns;

	if (all->n == 0)
		return;
	now_ns = duty_now_ns();
	last_ns = atomic_exchange(&all->last_ns, now_ns);
	atomic_store(&all->of_cpu[cpu].last_ns, now_ns);
	gap_ns = now_ns > last_ns ? min_u64(now_ns - last_ns, 10 * all->poll_ns) : 0;

	// Two threads at once may lose one of two gaps.
	gap_ns = (7 * atomic_load_explicit(&all->gap_ns, memory_order_relaxed) + gap_ns) / 8;
	atomic_store_explicit(&all->gap_ns, gap_ns, memory_order_relaxed);
	if (gap_ns < all->poll_ns && atomic_load(&all->of_cpu[cpu].up) == 0 && now_ns >= atomic_load(&all->not_before_ns))
		wake_those_of_use(all, now_ns);
}

int keepers_start(struct keepers *all, const cpu_set_t *cpus, unsigned n_cpus, unsigned poll_us)
{
	uint64_t poll_ns = poll_us * UINT64_C(1000);

	*all = (struct keepers){ .poll_ns = poll_ns, .gap_ns = 10 * poll_ns };
	if (poll_us == 0)
		return 0;
	all->of_cpu = calloc(n_cpus, sizeof(*all->of_cpu));
	if (all->of_cpu == NULL)
		return -ENOMEM;
	all->n = n_cpus;
	for (unsigned cpu = 0; cpu < n_cpus; cpu++) {
		struct keeper *k = &all->of_cpu[cpu];

		k->all = all;
		k->cpu = cpu;
		k->pause_ns = PAUSE_MIN_NS;
		k->there = CPU_ISSET(cpu, cpus) && pthread_create(&k->thread, NULL, keeper_main, k) == 0;
		if (!k->there)
			atomic_store(&k->up, 1); // nobody tries to wake it
	}
	return 0;
}

void keepers_end(struct keepers *all)
{
	atomic_store(&all->stopping, true);
	for (unsigned i = 0; i < all->n; i++) // all at once: on a busy CPU it takes long until one gets there
		if (all->of_cpu[i].there)
			wake(&all->of_cpu[i]);
	for (unsigned i = 0; i < all->n; i++)
		if (all->of_cpu[i].there)
			pthread_join(all->of_cpu[i].thread, NULL);
	free(all->of_cpu);
	all->of_cpu = NULL;
	all->n = 0;
}
