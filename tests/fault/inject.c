// SPDX-License-Identifier: MIT
// The plan, the counting and the call sites. See inject.h.
#include "inject.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define WARM_THREADS 8
#define MAX_FRAMES (SITE_FRAMES + 6) // the injector's own stand first

static _Thread_local unsigned paused;

INJECT_EARLY struct injector *inject_state(void)
{
	static struct injector one;

	return &one;
}

const char *inject_kind_name(enum fault_kind kind)
{
	static const char *const names[FAULT_KINDS] = { "read", "write", "flush", "discard", "mem", "vfs" };

	return names[kind];
}

static void *map_zeros(size_t bytes, int flags)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

static void *wait_there(void *barrier)
{
	pthread_barrier_wait(barrier);
	return NULL;
}

// libc keeps the stacks of threads that have ended, and a block of memory with each. Once it has as many as it wants, the count of
// blocks tells of leaks only.
static int fill_stack_cache(void)
{
	pthread_t thread[WARM_THREADS];
	pthread_barrier_t barrier;
	int err = 0;

	pthread_barrier_init(&barrier, NULL, WARM_THREADS);
	for (int i = 0; err == 0 && i < WARM_THREADS; i++)
		err = -pthread_create(&thread[i], NULL, wait_there, &barrier);
	for (int i = 0; err == 0 && i < WARM_THREADS; i++)
		err = -pthread_join(thread[i], NULL);
	pthread_barrier_destroy(&barrier);
	return err;
}

int inject_init(void)
{
	struct injector *inj = inject_state();
	void *frames[MAX_FRAMES];

	inj->sites = map_zeros(SITES_MAX * sizeof(*inj->sites), MAP_SHARED);
	for (int kind = 0; kind < FAULT_KINDS; kind++) {
		inj->seq[kind] = map_zeros(SEQ_MAX * sizeof(*inj->seq[kind]), MAP_PRIVATE);
		if (inj->seq[kind] == NULL)
			return -ENOMEM;
	}
	(void)backtrace(frames, MAX_FRAMES); // the first call loads a library
	return inj->sites != NULL ? fill_stack_cache() : -ENOMEM;
}

static void arm(struct injector *inj)
{
	for (int kind = 0; kind < FAULT_KINDS; kind++)
		atomic_store(&inj->count[kind], 0);
	atomic_store(&inj->fired, false);
	atomic_store(&inj->broken, false);
	atomic_store(&inj->failed_dev, NULL);
	atomic_store(&inj->n_after_failure, 0);
	atomic_store(&inj->armed, true);
}

void inject_arm(enum fault_kind kind, uint64_t nth, uint64_t site, bool persistent)
{
	struct injector *inj = inject_state();

	inj->kind = kind;
	inj->nth = nth;
	inj->site = site;
	inj->persistent = persistent;
	inj->recording = false;
	arm(inj);
}

void inject_record(void)
{
	struct injector *inj = inject_state();

	inject_arm(FAULT_READ, 0, 0, false);
	inj->recording = true;
}

void inject_disarm(void) { atomic_store(&inject_state()->armed, false); }
void inject_pause(void) { paused++; }
void inject_resume(void) { paused--; }

// ---- sites ----

static uint64_t mix(uint64_t hash, uint64_t value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
	return hash ^ hash >> 29;
}

// The slot of a hash, taken if need be.
static struct site *find_slot(uint64_t hash)
{
	struct injector *inj = inject_state();

	for (uint32_t i = 0; i < SITES_MAX; i++) {
		struct site *site = &inj->sites[(hash + i) % SITES_MAX];
		uint_fast64_t none = 0;

		if (atomic_load(&site->hash) == hash || atomic_compare_exchange_strong(&site->hash, &none, hash) || none == hash)
			return site;
	}
	return NULL;
}

// Addresses of one process and its forks: they mean nothing elsewhere, so a site on a command line is good for one build
// without address space randomisation; the number of the request is the rule.
static struct site *site_here(enum fault_kind kind, void *caller)
{
	void *frames[MAX_FRAMES];
	int n = backtrace(frames, MAX_FRAMES), first = 0;
	uint64_t hash = mix(0, (uint64_t)kind + 1);
	struct site *site;

	while (first < n && frames[first] != caller)
		first++;
	if (first == n)
		first = 0;
	n = n - first < SITE_FRAMES ? n - first : SITE_FRAMES;
	for (int i = 0; i < n; i++)
		if (frames[first + i] == inject_state()->base)
			n = i; // what is above is the harness
	for (int i = 0; i < n; i++)
		hash = mix(hash, (uint64_t)(uintptr_t)frames[first + i]);
	site = find_slot(hash | 1);
	if (site == NULL)
		return NULL;
	for (int i = 0; i < n; i++)
		site->frame[i] = frames[first + i];
	atomic_store(&site->kind, kind);
	if (!atomic_exchange(&site->reached, true))
		atomic_store(&site->scenario, inject_state()->scenario);
	return site;
}

struct site *inject_site(uint64_t hash)
{
	struct site *site = find_slot(hash);

	return site != NULL && atomic_load(&site->reached) ? site : NULL;
}

// Static functions have no name at run time: addr2line tells them from the address in the file.
void inject_print_site(FILE *out, const struct site *site)
{
	Dl_info info;

	fprintf(out, "%s %016llx", inject_kind_name((enum fault_kind)atomic_load(&site->kind)),
	       (unsigned long long)atomic_load(&site->hash));
	for (int i = 0; i < SITE_FRAMES && site->frame[i] != NULL; i++) {
		if (dladdr(site->frame[i], &info) == 0) {
			fprintf(out, " %p", site->frame[i]);
			continue;
		}
		fprintf(out, " %s(%s+0x%lx)", info.dli_sname != NULL ? info.dli_sname : "?",
		       strrchr(info.dli_fname, '/') != NULL ? strrchr(info.dli_fname, '/') + 1 : info.dli_fname,
		       (unsigned long)((uintptr_t)site->frame[i] - (uintptr_t)info.dli_fbase - 1));
	}
	fprintf(out, "\n");
}

// ---- strikes ----

static void record(struct injector *inj, enum fault_kind kind, uint64_t n, void *caller)
{
	struct site *site = site_here(kind, caller);

	if (site != NULL && n <= SEQ_MAX)
		inj->seq[kind][n - 1] = (uint32_t)(site - inj->sites) + 1;
}

static bool hit(struct injector *inj, enum fault_kind kind, uint64_t n, void *caller)
{
	bool first = false;
	struct site *site;

	if (inj->nth != 0) {
		first = n == inj->nth;
		if (!first && !atomic_load(&inj->broken))
			return false;
		site = site_here(kind, caller);
	} else {
		if (inj->site == 0 || (atomic_load(&inj->fired) && !inj->persistent))
			return false;
		site = site_here(kind, caller);
		first = site != NULL && atomic_load(&site->hash) == inj->site && !atomic_exchange(&inj->fired, true);
		if (!first && !atomic_load(&inj->broken))
			return false;
	}
	if (first) {
		atomic_store(&inj->fired, true);
		atomic_store(&inj->broken, inj->persistent);
	}
	if (site != NULL) {
		atomic_store(&site->failed, true);
		if (first)
			atomic_store(&site->struck[inj->persistent], true);
	}
	return true;
}

INJECT_EARLY bool inject_strike(enum fault_kind kind, void *caller)
{
	struct injector *inj = inject_state();
	uint64_t n;
	bool fails = false;

	if (paused > 0 || !atomic_load_explicit(&inj->armed, memory_order_relaxed))
		return false;
	paused++; // looking at the stack may need memory
	n = atomic_fetch_add(&inj->count[kind], 1) + 1;
	if (inj->recording)
		record(inj, kind, n, caller);
	else if (kind == inj->kind)
		fails = hit(inj, kind, n, caller);
	paused--;
	return fails;
}
