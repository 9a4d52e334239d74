// SPDX-License-Identifier: MIT
// Trim, at the level of the allocator: what is discarded is free, stays out of everybody's hands meanwhile, was freed since it was
// last discarded, and everything that was freed is discarded in the end. Against a model that knows the state of each block.
#include "alloctest.h"

#include <stdatomic.h>
#include <time.h>

#include "alloc/engine.h"

#define SPAN_BLK 256u // what the allocator remembers is by span of this size
#define MIN_BLK 16u
#define MAX_BLK 1000u
#define N_BLKS (6 * MS_BLK - 300)
#ifdef __SANITIZE_THREAD__
#define N_OPS 1500u
#define WORKER_OPS 3000u
#else
#define N_OPS 6000u
#define WORKER_OPS 8000u
#endif

enum state { FREE, TAKEN, OWNED, FREEING };

// Times are numbers of events; 0 is "never".
struct model {
	struct disk *d;
	struct alloc_trim walk;
	uint8_t *state;
	uint64_t *freed_at;                // of a block
	uint64_t *claimed_at;              // of a block: when the step of its last discard's claim began. What is freed later is another claim's
	uint64_t *dirtied_at;              // of a span: when something in it became free
	uint64_t now, epoch, rng, n_discards;
	uint64_t step_at, claim_at, claimed_blk;
	unsigned n_told;
	struct runlist runs;               // TAKEN or OWNED
};

static void told(void *ctx) { ((struct model *)ctx)->n_told++; }

static void model_init(struct model *m, const struct engine_ops *engine, uint64_t n_blks, uint64_t reserve_blk)
{
	*m = (struct model){ .d = disk_new(n_blks, MS_SHIFT), .rng = alloctest_seed(alloctest_env("SEED", 7)), .epoch = 1 };
	m->d->engine = engine;
	disk_mount(m->d, reserve_blk);
	m->state = calloc(n_blks, 1);
	m->freed_at = calloc(n_blks, sizeof(uint64_t));
	m->claimed_at = calloc(n_blks, sizeof(uint64_t));
	m->dirtied_at = calloc(n_blks / SPAN_BLK + 1, sizeof(uint64_t));
	alloc_trim_watch(m->d->a, told, m);
}

static void model_free(struct model *m)
{
	disk_check(m->d);
	disk_free(m->d);
	free(m->state);
	free(m->freed_at);
	free(m->claimed_at);
	free(m->dirtied_at);
	runlist_free(&m->runs);
}

static uint64_t rnd(struct model *m, uint64_t below) { return alloctest_rnd(&m->rng) % below; }

static void set_state(struct model *m, struct run r, enum state from, enum state to)
{
	m->now++;
	for (uint64_t blk = r.start_blk; blk < r.start_blk + r.len_blk; blk++) {
		ck_assert_uint_eq(m->state[blk], from);
		m->state[blk] = to;
		if (to == FREE)
			m->freed_at[blk] = m->dirtied_at[blk / SPAN_BLK] = m->now;
	}
}

// ---- operations ----

static void get(struct model *m, uint64_t want)
{
	struct runlist out = { 0 };
	struct alloc_req req = { .want_blk = want, .locality = (uint32_t)rnd(m, 4) };
	int err = alloc_get(m->d->a, NULL, &req, &out);

	ck_assert_msg(err == 0 || err == -ENOSPC, "%d", err);
	for (uint32_t i = 0; i < out.n; i++) {
		set_state(m, out.runs[i], FREE, TAKEN);
		ck_assert_int_eq(runlist_add(&m->runs, out.runs[i].start_blk, out.runs[i].len_blk), 0);
		if (rnd(m, 8) > 0) {
			set_state(m, out.runs[i], TAKEN, OWNED);
			disk_own(m->d, out.runs[i].start_blk, out.runs[i].len_blk);
		}
	}
	runlist_free(&out);
}

// The first part of a run that is in one state.
static void let_go(struct model *m, struct run r)
{
	uint8_t was = m->state[r.start_blk];
	uint64_t len = 1;

	while (len < r.len_blk && m->state[r.start_blk + len] == was)
		len++;
	r.len_blk = len;
	if (was == TAKEN) {
		set_state(m, r, TAKEN, FREE);
		ck_assert_int_eq(alloc_put(m->d->a, r.start_blk, r.len_blk), 0);
	} else {
		set_state(m, r, OWNED, FREEING);
		disk_disown(m->d, r.start_blk, r.len_blk, m->epoch);
	}
}

static void let_one_go(struct model *m)
{
	struct run *k, r;
	uint64_t len;

	if (m->runs.n == 0)
		return;
	k = &m->runs.runs[rnd(m, m->runs.n)];
	r = *k;
	for (len = 1; len < r.len_blk && m->state[r.start_blk + len] == m->state[r.start_blk]; len++)
		;
	r.len_blk = rnd(m, 3) == 0 ? 1 + rnd(m, len) : len;
	let_go(m, r);
	k->start_blk += r.len_blk;
	k->len_blk -= r.len_blk;
	if (k->len_blk == 0)
		*k = m->runs.runs[--m->runs.n];
}

static void release(struct model *m)
{
	for (uint64_t blk = 0; blk < m->d->n_blks; blk++)
		if (m->state[blk] == FREEING)
			set_state(m, (struct run){ blk, 1 }, FREEING, FREE);
	alloc_release(m->d->a, m->epoch++);
}

// ---- discards ----

static void note_claim(struct model *m)
{
	if (m->walk.claimed_blk != m->claimed_blk)
		m->claim_at = m->step_at;
	m->claimed_blk = m->walk.claimed_blk;
}

// The rules: free, long enough, and freed into since it was last claimed.
static int note_discard(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	struct model *m = ctx;

	m->n_discards++;
	ck_assert_uint_ge(len_blk, m->walk.min_blk);
	ck_assert_uint_le(len_blk, m->walk.max_blk);
	note_claim(m);
	for (uint64_t blk = start_blk; blk < start_blk + len_blk; blk++) {
		ck_assert_msg(m->state[blk] == FREE, "block %" PRIu64 " is discarded in state %d", blk, m->state[blk]);
		ck_assert_msg(m->walk.all || m->dirtied_at[blk / SPAN_BLK] > m->claimed_at[blk],
		              "block %" PRIu64 " is discarded twice", blk);
		m->claimed_at[blk] = m->claim_at;
	}
	return 0;
}

// And nobody can get at the blocks now.
static int discard(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	struct model *m = ctx;
	struct alloc *a = m->d->a;
	uint64_t free_blk = 0, counted = disk_free_blks(m->d);

	note_discard(m, start_blk, len_blk);
	for (uint64_t blk = 0; blk < m->d->n_blks; blk++)
		free_blk += m->state[blk] == FREE;
	ck_assert_uint_eq(counted, free_blk); // what is trimmed is free
	disk_refused(m->d, alloc_put(a, start_blk, len_blk));
	disk_refused(m->d, alloc_commit(a, start_blk + len_blk - 1, 1));
	disk_refused(m->d, alloc_free(a, start_blk, 1, m->epoch));
	for (unsigned i = 0; i < 20; i++) { // not a block of it is handed out
		uint32_t old_n = m->runs.n;

		if (disk_free_blks(m->d) < 16 * 300)
			break;
		get(m, 1 + rnd(m, 300));
		for (uint32_t r = old_n; r < m->runs.n; r++)
			ck_assert(m->runs.runs[r].start_blk >= start_blk + len_blk ||
			          m->runs.runs[r].start_blk + m->runs.runs[r].len_blk <= start_blk);
	}
	let_one_go(m);
	return 0;
}

static void begin_walk(struct model *m)
{
	m->walk = (struct alloc_trim){ .end_blk = UINT64_MAX, .min_blk = MIN_BLK, .max_blk = MAX_BLK };
	m->claimed_blk = 0;
}

static int step_with(struct model *m, alloc_discard_fn fn, uint64_t *done_blk)
{
	int err;

	m->step_at = m->now++;
	err = alloc_trim(m->d->a, &m->walk, fn, m, done_blk);
	note_claim(m); // a claim may be made in one step, and discarded in later ones
	return err;
}

static uint64_t step(struct model *m)
{
	uint64_t done_blk;
	int err;

	if (m->walk.next_blk == m->walk.end_blk)
		begin_walk(m);
	err = step_with(m, discard, &done_blk);
	ck_assert_msg(err == 0 || err == -EAGAIN, "%d", err);
	return done_blk;
}

// From the present place to the end of the volume. How many blocks.
static uint64_t walk(struct model *m, alloc_discard_fn fn)
{
	uint64_t sum = 0, done_blk;

	do {
		ck_assert_int_eq(step_with(m, fn, &done_blk), 0);
		sum += done_blk;
	} while (m->walk.next_blk < m->walk.end_blk);
	return sum;
}

static uint64_t walk_all(struct model *m)
{
	begin_walk(m);
	return walk(m, note_discard);
}

static void let_all_go(struct model *m)
{
	for (uint64_t blk = 0, len; blk < m->d->n_blks; blk += len) {
		for (len = 1; blk + len < m->d->n_blks && m->state[blk + len] == m->state[blk]; len++)
			;
		if (m->state[blk] == TAKEN || m->state[blk] == OWNED)
			let_go(m, (struct run){ blk, len });
	}
	m->runs.n = 0;
	release(m);
}

// ---- random work ----

static int nothing(void *ctx ATTR_UNUSED, uint64_t start ATTR_UNUSED, uint64_t len ATTR_UNUSED) { return 0; }

START_TEST(random_work)
{
	struct model m;
	uint64_t discarded = 0;

	model_init(&m, engines[_i], N_BLKS, 100);
	for (unsigned op = 0; op < N_OPS; op++) {
		switch (rnd(&m, 10)) {
		case 0: case 1: case 2: case 3:
			get(&m, rnd(&m, 4) == 0 ? 1 + rnd(&m, 2000) : 1 + rnd(&m, 40));
			break;
		case 4: case 5: case 6:
			let_one_go(&m);
			break;
		case 7:
			if (rnd(&m, 20) == 0)
				release(&m);
			break;
		default:
			discarded += step(&m);
		}
		if (op % 1000 == 0) {
			disk_check(m.d);
			alloc_shrink(m.d->a, 0);
		}
	}
	ck_assert_uint_gt(discarded, MAX_BLK);
	let_all_go(&m);
	ck_assert_int_eq(alloc_walk_free(m.d->a, nothing, NULL), 0); // all of them loaded
	walk(&m, note_discard); // the one that is going on
	walk_all(&m);
	for (uint64_t blk = 0; blk < N_BLKS; blk++) {
		ck_assert_uint_eq(m.state[blk], FREE);
		ck_assert_msg(m.freed_at[blk] <= m.claimed_at[blk], "block %" PRIu64 " was freed and not discarded", blk);
	}
	ck_assert_uint_eq(walk_all(&m), 0);
	model_free(&m);
}
END_TEST

// ---- single rules ----

// 3 metaslabs: the first is used and freed as a whole, so one span after the other is to be discarded, once.
START_TEST(each_freed_span_once)
{
	struct model m;

	model_init(&m, NULL, 3 * MS_BLK, 0);
	get(&m, MS_BLK);
	get(&m, MS_BLK);
	ck_assert_uint_eq(walk_all(&m), 0); // free from the start: nobody has used it
	ck_assert_uint_eq(m.n_told, 0);
	let_all_go(&m);
	ck_assert_uint_eq(m.n_told, 1);
	ck_assert_uint_ge(walk_all(&m), 2 * MS_BLK); // the rest of a span goes with it
	ck_assert_uint_eq(walk_all(&m), 0);
	alloc_release(m.d->a, m.epoch++);
	ck_assert_uint_eq(m.n_told, 1);
	m.walk = (struct alloc_trim){ .end_blk = UINT64_MAX, .min_blk = 1, .max_blk = UINT64_MAX, .all = true };
	m.n_discards = 0;
	ck_assert_uint_eq(walk(&m, note_discard), 3 * MS_BLK); // also what was never used
	ck_assert_uint_eq(m.n_discards, 9); // an eighth of the free space each
	model_free(&m);
}
END_TEST

// Short runs are passed over; when their neighbours are freed as well they go together.
START_TEST(short_runs_wait_for_their_neighbours)
{
	struct model m;
	struct run r;

	model_init(&m, NULL, 2 * MS_BLK, 0);
	get(&m, MS_BLK);
	ck_assert_uint_eq(m.runs.n, 1);
	r = m.runs.runs[0];
	if (m.state[r.start_blk] == TAKEN) {
		set_state(&m, r, TAKEN, OWNED);
		disk_own(m.d, r.start_blk, r.len_blk);
	}
	for (uint64_t blk = r.start_blk + 1; blk < r.start_blk + r.len_blk; blk += MIN_BLK)
		let_go(&m, (struct run){ blk, MIN_BLK - 1 });
	release(&m);
	ck_assert_uint_eq(walk_all(&m), 0);
	let_go(&m, (struct run){ r.start_blk + 1000 * MIN_BLK / 8, 1 });
	release(&m);
	ck_assert_uint_ge(walk_all(&m), MIN_BLK);
	ck_assert_uint_eq(walk_all(&m), 0);
	let_all_go(&m);
	ck_assert_uint_ge(walk_all(&m), r.len_blk);
	model_free(&m);
}
END_TEST

// A metaslab that nobody has loaded is loaded when much was freed in it, and goes again.
START_TEST(cold_metaslabs)
{
	struct model m;
	struct run r = { 3 * MS_BLK, 2 * MS_BLK };
	uint64_t done_blk;

	model_init(&m, NULL, 6 * MS_BLK, 0);
	alloc_destroy(m.d->a);
	memset(m.d->used + r.start_blk, 1, r.len_blk);
	memset(m.state + r.start_blk, OWNED, r.len_blk);
	disk_mount(m.d, 0);
	alloc_trim_watch(m.d->a, told, &m);
	let_go(&m, (struct run){ 3 * MS_BLK, MS_BLK });
	let_go(&m, (struct run){ 4 * MS_BLK, 3 * SPAN_BLK });
	release(&m);
	ck_assert_uint_eq(m.n_told, 1);
	ck_assert_uint_eq(walk_all(&m), MS_BLK); // 3 spans of the second one are not worth it
	ck_assert_uint_eq(m.d->n_loads, 1);
	ck_assert_uint_eq(disk_n_loaded(m.d), 0);
	disk_check(m.d);
	m.d->load_error = -EIO;
	let_go(&m, (struct run){ 4 * MS_BLK + 3 * SPAN_BLK, MS_BLK - 3 * SPAN_BLK });
	release(&m);
	begin_walk(&m);
	ck_assert_int_eq(step_with(&m, note_discard, &done_blk), -EIO);
	ck_assert_uint_eq(m.walk.next_blk, 5 * MS_BLK); // behind it
	m.d->load_error = 0;
	ck_assert_uint_eq(walk_all(&m), MS_BLK);
	get(&m, 10);
	ck_assert_uint_ge(disk_n_loaded(m.d), 1); // one that is in use stays
	model_free(&m);
}
END_TEST

// In a volume that is nearly full only a little is set apart, and nothing if an eighth is too little.
START_TEST(short_of_space)
{
	struct model m;
	uint64_t done_blk, at;

	model_init(&m, NULL, 2 * MS_BLK, 500);
	get(&m, 2 * MS_BLK - 500);
	ck_assert_uint_eq(disk_free_blks(m.d), 500); // the reserve
	while (disk_free_blks(m.d) < 500 + 8 * MIN_BLK - 1) {
		struct run *k = &m.runs.runs[0];

		let_go(&m, (struct run){ k->start_blk, 1 });
		k->start_blk++;
		k->len_blk--;
		release(&m);
	}
	begin_walk(&m);
	do {
		at = m.walk.next_blk;
		done_blk = 0;
	} while (step_with(&m, note_discard, &done_blk) == 0 && m.walk.next_blk < m.walk.end_blk);
	at = m.walk.next_blk;
	ck_assert_uint_lt(at, m.walk.end_blk);
	ck_assert_int_eq(step_with(&m, note_discard, &done_blk), -EAGAIN);
	ck_assert_uint_eq(m.walk.next_blk, at);
	ck_assert_uint_eq(m.n_discards, 0);
	disk_check(m.d);
	let_go(&m, (struct run){ m.runs.runs[0].start_blk, 1 });
	release(&m);
	ck_assert_int_eq(step_with(&m, note_discard, &done_blk), 0);
	ck_assert_uint_eq(done_blk, MIN_BLK);
	model_free(&m);
}
END_TEST

static int fail_discard(void *ctx ATTR_UNUSED, uint64_t start ATTR_UNUSED, uint64_t len ATTR_UNUSED) { return -EIO; }

START_TEST(a_failed_discard_loses_nothing)
{
	struct model m;
	uint64_t done_blk = 1, free_blk;

	model_init(&m, NULL, 2 * MS_BLK, 0);
	get(&m, 3000);
	let_all_go(&m);
	free_blk = disk_free_blks(m.d);
	begin_walk(&m);
	ck_assert_int_eq(step_with(&m, fail_discard, &done_blk), -EIO);
	ck_assert_uint_eq(done_blk, 0);
	ck_assert_uint_eq(disk_free_blks(m.d), free_blk);
	disk_check(m.d);
	get(&m, 2 * MS_BLK);
	ck_assert_uint_eq(disk_free_blks(m.d), 0);
	m.walk = (struct alloc_trim){ .end_blk = 5, .min_blk = 0, .max_blk = MAX_BLK };
	ck_assert_int_eq(step_with(&m, fail_discard, &done_blk), -EINVAL);
	model_free(&m);
}
END_TEST

// ---- with threads ----

struct scene {
	struct model m;
	atomic_int stage; // 1: a discard is under way; 2: it may end
	atomic_uint discards;
	unsigned flags;
	int err;
};

static void nap_ms(long ms)
{
	struct timespec t = { .tv_nsec = ms * 1000000 };

	nanosleep(&t, NULL);
}

static int slow_discard(void *ctx, uint64_t start_blk ATTR_UNUSED, uint64_t len_blk ATTR_UNUSED)
{
	struct scene *s = ctx;

	atomic_store(&s->stage, 1);
	while (atomic_load(&s->stage) == 1)
		nap_ms(1);
	nap_ms(30); // the other one is in alloc_get by now
	atomic_fetch_add(&s->discards, 1);
	return 0;
}

static void *trim_once(void *arg)
{
	struct scene *s = arg;
	uint64_t done_blk;

	begin_walk(&s->m);
	do {
		s->err = alloc_trim(s->m.d->a, &s->m.walk, slow_discard, s, &done_blk);
	} while (s->err == 0 && done_blk == 0);
	return NULL;
}

// All that is free can be had while a part of it is being discarded: in pieces, in one, or as much as there is.
START_TEST(space_that_is_trimmed_is_space)
{
	static const unsigned flags[] = { 0, ALLOC_CONTIG, ALLOC_PARTIAL };
	struct scene s = { .flags = flags[_i] };
	struct runlist out = { 0 };
	uint64_t want;
	pthread_t thread;

	model_init(&s.m, NULL, MS_BLK, 0);
	get(&s.m, 2000);
	let_all_go(&s.m);
	want = disk_free_blks(s.m.d);
	ck_assert_uint_eq(want, MS_BLK);
	ck_assert_int_eq(pthread_create(&thread, NULL, trim_once, &s), 0);
	while (atomic_load(&s.stage) == 0)
		nap_ms(1);
	ck_assert_uint_eq(disk_free_blks(s.m.d), want);
	atomic_store(&s.stage, 2);
	ck_assert_int_eq(disk_get(s.m.d, NULL, 0, want, s.flags, &out), 0);
	ck_assert_uint_eq(atomic_load(&s.discards), 1);
	ck_assert_uint_eq(runlist_blks(&out), want);
	pthread_join(thread, NULL);
	ck_assert_int_eq(s.err, 0);
	runlist_free(&out);
	model_free(&s.m);
}
END_TEST

#define N_WORKERS 3
#define N_KEPT 100u

struct shared {
	struct disk *d;
	_Atomic uint8_t *held; // 0 nobody, 1 a worker, 2 a trim
	atomic_uint_fast64_t epoch;
	atomic_bool stop;
	atomic_uint n_told;
	uint64_t discarded_blk;
	unsigned n_workers;
};

static void mark(struct shared *sh, uint64_t start_blk, uint64_t len_blk, uint8_t from, uint8_t to)
{
	for (uint64_t blk = start_blk; blk < start_blk + len_blk; blk++)
		if (atomic_exchange_explicit(&sh->held[blk], to, memory_order_relaxed) != from)
			ck_abort_msg("block %" PRIu64 " goes to %d and is not %d", blk, to, from);
}

static int mark_discard(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	mark(ctx, start_blk, len_blk, 0, 2);
	sched_yield();
	mark(ctx, start_blk, len_blk, 2, 0);
	return 0;
}

static void *trim_thread(void *arg)
{
	struct shared *sh = arg;
	struct alloc_trim t = { 0 };
	uint64_t done_blk;

	while (!atomic_load(&sh->stop)) {
		int err;

		if (t.next_blk == t.end_blk)
			t = (struct alloc_trim){ .end_blk = UINT64_MAX, .min_blk = MIN_BLK, .max_blk = MAX_BLK };
		err = alloc_trim(sh->d->a, &t, mark_discard, sh, &done_blk);
		ck_assert_msg(err == 0 || err == -EAGAIN, "%d", err);
		sh->discarded_blk += done_blk;
	}
	return NULL;
}

static void work_once(struct shared *sh, struct runlist *kept, uint64_t *rng)
{
	struct alloc_req req = { .want_blk = 1 + alloctest_rnd(rng) % 500, .locality = (uint32_t)(alloctest_rnd(rng) % 5) };
	struct runlist out = { 0 };

	if (kept->n < N_KEPT && alloc_get(sh->d->a, NULL, &req, &out) == 0) {
		for (uint32_t i = 0; i < out.n; i++) {
			mark(sh, out.runs[i].start_blk, out.runs[i].len_blk, 0, 1);
			disk_enter(sh->d);
			disk_own(sh->d, out.runs[i].start_blk, out.runs[i].len_blk);
			disk_leave(sh->d);
			ck_assert_int_eq(runlist_add(kept, out.runs[i].start_blk, out.runs[i].len_blk), 0);
		}
	}
	runlist_free(&out);
	if (kept->n > 0 && (kept->n >= N_KEPT || alloctest_rnd(rng) % 2 == 0)) {
		struct run *k = &kept->runs[alloctest_rnd(rng) % kept->n], r = *k;
		uint64_t epoch;

		*k = kept->runs[--kept->n];
		mark(sh, r.start_blk, r.len_blk, 1, 0);
		disk_enter(sh->d);
		epoch = atomic_fetch_add(&sh->epoch, 1);
		disk_disown(sh->d, r.start_blk, r.len_blk, epoch);
		disk_leave(sh->d);
		if (alloctest_rnd(rng) % 4 == 0)
			alloc_release(sh->d->a, epoch);
	}
}

static void *work_thread(void *arg)
{
	struct shared *sh = arg;
	struct runlist kept = { 0 };
	uint64_t rng = alloctest_seed(alloctest_env("SEED", 3) + (uintptr_t)&kept / 64);

	for (unsigned op = 0; op < WORKER_OPS; op++) {
		work_once(sh, &kept, &rng);
		if (op % 500 == 0)
			alloc_shrink(sh->d->a, 0);
	}
	runlist_free(&kept);
	return NULL;
}

static void note_told(void *ctx) { atomic_fetch_add(&((struct shared *)ctx)->n_told, 1); }

START_TEST(others_work_meanwhile)
{
	struct shared sh = { .d = disk_mounted(20 * MS_BLK) };
	pthread_t trimmer, workers[N_WORKERS];

	sh.held = calloc(sh.d->n_blks, 1);
	atomic_store(&sh.epoch, 1);
	alloc_trim_watch(sh.d->a, note_told, &sh);
	ck_assert_int_eq(pthread_create(&trimmer, NULL, trim_thread, &sh), 0);
	for (unsigned i = 0; i < N_WORKERS; i++)
		ck_assert_int_eq(pthread_create(&workers[i], NULL, work_thread, &sh), 0);
	for (unsigned i = 0; i < N_WORKERS; i++)
		pthread_join(workers[i], NULL);
	atomic_store(&sh.stop, true);
	pthread_join(trimmer, NULL);
	alloc_trim_watch(sh.d->a, NULL, NULL);
	ck_assert_uint_gt(atomic_load(&sh.n_told), 100);
	ck_assert_uint_gt(sh.discarded_blk, 1000);
	disk_check(sh.d);
	free((void *)sh.held);
	disk_free(sh.d);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("alloc_trim");
	TCase *tc = tcase_create("rules"), *random_tc = tcase_create("random"), *threads = tcase_create("threads");
	int n_engines = 0;

	while (engines[n_engines] != NULL)
		n_engines++;
	tcase_add_test(tc, each_freed_span_once);
	tcase_add_test(tc, short_runs_wait_for_their_neighbours);
	tcase_add_test(tc, cold_metaslabs);
	tcase_add_test(tc, short_of_space);
	tcase_add_test(tc, a_failed_discard_loses_nothing);
	tcase_add_loop_test(random_tc, random_work, 0, n_engines);
	tcase_set_timeout(random_tc, 120);
	tcase_add_loop_test(threads, space_that_is_trimmed_is_space, 0, 3);
	tcase_add_test(threads, others_work_meanwhile);
	tcase_set_timeout(threads, 120);
	suite_add_tcase(suite, tc);
	suite_add_tcase(suite, random_tc);
	suite_add_tcase(suite, threads);
	return alloctest_run("check_alloc_trim", suite);
}
