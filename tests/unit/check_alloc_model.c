// SPDX-License-Identifier: MIT
// The whole allocator against a naive map of states: random sequences of everything that alloc/alloc.h offers, on volumes of
// many shapes, with each engine. The reference is a byte per block and knows nothing of arenas, windows or pools, so what is
// compared is what the contract promises: which blocks may be handed out, when -ENOSPC is true, which calls must be
// refused, and that all counts and the list of free runs are those of the reference.
//
// Ten million operations in all in a plain build. A failure names the volume's seed: SEED=n runs that volume only, OPS=n
// changes the operations of each volume.
#include "alloctest.h"

#include "alloc/engine.h"

#if defined(__SANITIZE_THREAD__)
#define N_VOLUMES 5
#define OPS_PER_VOLUME 20000u
#elif defined(__SANITIZE_ADDRESS__)
#define N_VOLUMES 25
#define OPS_PER_VOLUME 40000u
#else
#define N_VOLUMES 50
#define OPS_PER_VOLUME 200000u
#endif

#define N_STREAMS 12
#define LONG_BLK 256u // what longest() of an engine promises begins here

enum state { FREE, TAKEN, OWNED, FREEING };

struct freeing {
	struct run r;
	uint64_t epoch;
};

struct ms_count {
	uint64_t taken_blk, owned_blk;
};

// Blocks are counted from the start of the disk's byte map here (disk->base_blk); metaslabs too.
struct model {
	struct disk *d;
	uint64_t n_blks, base_blk;
	uint64_t seed, op, rng;
	uint64_t reserve_blk;
	uint32_t n_ms, first_ms;
	uint8_t *state;            // an enum state per block
	struct ms_count *count;    // per metaslab
	uint64_t n_free, n_freeing, epoch;
	struct freeing *freeing;   // what awaits its epoch
	size_t n_runs, cap_runs;
	struct alloc_stream streams[N_STREAMS];
	uint64_t stream_end[N_STREAMS]; // behind the last block each has got, of the volume
	struct runlist out;
};

// Not ck_assert_msg: that writes to a file each time, which is half of the run time.
#define EXPECT(m, cond, fmt, ...)                                                                                        \
	do {                                                                                                             \
		if (!(cond))                                                                                             \
			ck_abort_msg("volume SEED=%" PRIu64 ", operation %" PRIu64 ": " fmt ": not " #cond, (m)->seed,   \
			             (m)->op, __VA_ARGS__);                                                              \
	} while (0)

static uint64_t rnd(struct model *m, uint64_t below) { return alloctest_rnd(&m->rng) % below; }

// ---- the reference ----

static void count_move(struct model *m, uint64_t blk, uint64_t len, enum state s, int sign)
{
	uint64_t end = blk + len, next;

	for (; blk < end; blk = next) {
		struct ms_count *c = &m->count[blk >> m->d->ms_shift];
		uint64_t delta;

		next = min_u64(end, ((blk >> m->d->ms_shift) + 1) << m->d->ms_shift);
		delta = sign > 0 ? next - blk : -(next - blk); // modulo 2^64
		if (s == FREE)
			m->n_free += delta;
		else if (s == FREEING)
			m->n_freeing += delta;
		else if (s == TAKEN)
			c->taken_blk += delta;
		else
			c->owned_blk += delta;
	}
}

static void move(struct model *m, struct run r, enum state from, enum state to)
{
	uint8_t *state = m->state + r.start_blk;

	for (uint64_t i = 0; i < r.len_blk; i++)
		EXPECT(m, state[i] == from, "block %" PRIu64 " is in state %u, not %u", r.start_blk + i, state[i],
		       from);
	memset(state, to, r.len_blk);
	count_move(m, r.start_blk, r.len_blk, from, -1);
	count_move(m, r.start_blk, r.len_blk, to, 1);
	if (to == OWNED || from == OWNED)
		memset(m->d->used + r.start_blk, to == OWNED, r.len_blk);
}

// The blocks of one state around the first of this state at or behind `from`; at most `most`. len 0: there is none.
static struct run extent(const struct model *m, uint64_t from, enum state s, uint64_t most)
{
	const uint8_t *at = memchr(m->state + from, s, m->n_blks - from);
	struct run r = { 0, 0 };

	if (at == NULL)
		return r;
	r.start_blk = (uint64_t)(at - m->state);
	while (r.start_blk > 0 && r.len_blk < most / 2 && m->state[r.start_blk - 1] == s) {
		r.start_blk--;
		r.len_blk++;
	}
	while (r.len_blk < most && r.start_blk + r.len_blk < m->n_blks && m->state[r.start_blk + r.len_blk] == s)
		r.len_blk++;
	return r;
}

// No free run crosses the border of a metaslab.
static uint64_t longest_free(const struct model *m, uint64_t blk, uint64_t end)
{
	uint64_t best = 0, stop, border;

	while (blk < end) {
		const uint8_t *at = memchr(m->state + blk, FREE, end - blk);

		if (at == NULL)
			break;
		blk = stop = (uint64_t)(at - m->state);
		border = min_u64(end, ((blk >> m->d->ms_shift) + 1) << m->d->ms_shift);
		while (stop < border && m->state[stop] == FREE)
			stop++;
		best = max_u64(best, stop - blk);
		blk = stop;
	}
	return best;
}

static uint64_t longest_anywhere(const struct model *m) { return longest_free(m, 0, m->n_blks); }

// ---- operations ----

static uint64_t random_size(struct model *m)
{
	unsigned kind = (unsigned)rnd(m, 64);

	if (kind < 36)
		return 1 + rnd(m, 4);
	if (kind < 52)
		return 1 + rnd(m, 40);
	if (kind < 60)
		return 1 + rnd(m, 300);
	return kind < 63 ? 1 + rnd(m, 1500) : 1 + rnd(m, m->n_blks);
}

static void check_enospc(struct model *m, const struct alloc_req *req, uint64_t usable)
{
	uint64_t least = req->flags & ALLOC_PARTIAL ? 1 : req->want_blk;

	if (usable >= least && req->flags & ALLOC_CONTIG)
		usable = longest_anywhere(m);
	EXPECT(m, usable < least, "-ENOSPC for %" PRIu64 " blocks, flags %u, of %" PRIu64, req->want_blk, req->flags, usable);
}

static void check_got(struct model *m, const struct alloc_req *req, uint64_t usable)
{
	uint64_t got = runlist_blks(&m->out), most = min_u64(req->want_blk, usable), least = most, longest;
	bool contig = req->flags & ALLOC_CONTIG, partial = req->flags & ALLOC_PARTIAL;

	if (contig && partial && got < most) {
		longest = longest_anywhere(m);
		least = min_u64(most, longest < LONG_BLK ? 1 : longest - longest / 8);
	} else if (!partial) {
		least = most = req->want_blk;
	}
	EXPECT(m, got >= least && got <= most, "%" PRIu64 " blocks for %" PRIu64 ", flags %u, usable %" PRIu64, got,
	       req->want_blk, req->flags, usable);
	EXPECT(m, m->out.n == 1 || (!contig && m->out.n > 1), "%u runs, flags %u", m->out.n, req->flags);
}

static void pick_goal(struct model *m, struct alloc_req *req, const uint64_t *stream_end)
{
	unsigned kind = (unsigned)rnd(m, 16);

	if (kind < 3)
		req->goal_blk = m->base_blk + rnd(m, m->n_blks);
	else if (kind == 3)
		req->goal_blk = m->d->n_blks + rnd(m, 1ull << 40); // outside: no goal
	else if (kind < 8 && stream_end != NULL)
		req->goal_blk = *stream_end + (kind == 4) * rnd(m, 30); // 0: the stream knows; else exactly or a bit further
}

static void op_get(struct model *m)
{
	struct alloc_req req = { .want_blk = random_size(m), .locality = (uint32_t)rnd(m, 20) };
	unsigned i = (unsigned)rnd(m, 3 * N_STREAMS), kind = (unsigned)rnd(m, 64);
	struct alloc_stream *s = i < N_STREAMS ? &m->streams[i] : NULL;
	uint64_t kept, usable;
	int err;

	req.flags = (kind < 8 ? ALLOC_CONTIG : 0) | (kind >= 6 && kind < 14 ? ALLOC_PARTIAL : 0) |
	            (kind % 4 == 0 ? ALLOC_USE_RESERVE : 0);
	kept = req.flags & ALLOC_USE_RESERVE ? 0 : m->reserve_blk;
	usable = m->n_free > kept ? m->n_free - kept : 0;
	pick_goal(m, &req, s != NULL ? &m->stream_end[i] : NULL);
	runlist_clear(&m->out);
	err = alloc_get(m->d->a, s, &req, &m->out);
	if (err != 0) {
		EXPECT(m, m->out.n == 0, "error %d, and %u runs", err, m->out.n);
		if (err == -EIO && m->d->load_error == -EIO)
			return;
		EXPECT(m, err == -ENOSPC, "alloc_get: error %d", err);
		check_enospc(m, &req, usable);
		return;
	}
	check_got(m, &req, usable);
	if (s != NULL)
		m->stream_end[i] = m->out.runs[m->out.n - 1].start_blk + m->out.runs[m->out.n - 1].len_blk;
	for (uint32_t k = 0; k < m->out.n; k++) {
		struct run r = m->out.runs[k];

		EXPECT(m, r.start_blk >= m->base_blk && r.start_blk + r.len_blk <= m->d->n_blks, "run at %" PRIu64, r.start_blk);
		r.start_blk -= m->base_blk;
		move(m, r, FREE, TAKEN);
	}
}

// A piece of the blocks in one state: all that lie together, or some of them. It may cross metaslabs and need not be
// what one request has got.
static struct run random_piece(struct model *m, enum state s, uint64_t most)
{
	struct run r = extent(m, rnd(m, m->n_blks), s, most);
	uint64_t len, skip;

	if (r.len_blk > 1 && rnd(m, 3) == 0) {
		len = 1 + rnd(m, r.len_blk);
		skip = rnd(m, r.len_blk - len + 1);
		r = (struct run){ r.start_blk + skip, len };
	}
	return r;
}

static void op_commit(struct model *m)
{
	struct run r = random_piece(m, TAKEN, 4000);

	if (r.len_blk == 0)
		return;
	EXPECT(m, alloc_commit(m->d->a, m->base_blk + r.start_blk, r.len_blk) == 0, "block %" PRIu64, r.start_blk);
	move(m, r, TAKEN, OWNED);
}

static void op_put(struct model *m)
{
	struct run r = random_piece(m, TAKEN, random_size(m) * 2);

	if (r.len_blk == 0)
		return;
	EXPECT(m, alloc_put(m->d->a, m->base_blk + r.start_blk, r.len_blk) == 0, "block %" PRIu64, r.start_blk);
	move(m, r, TAKEN, FREE);
}

static void op_free(struct model *m)
{
	struct run r = random_piece(m, OWNED, random_size(m) * 2);

	if (r.len_blk == 0)
		return;
	EXPECT(m, alloc_free(m->d->a, m->base_blk + r.start_blk, r.len_blk, m->epoch) == 0, "block %" PRIu64, r.start_blk);
	move(m, r, OWNED, FREEING);
	if (m->n_runs == m->cap_runs) {
		m->cap_runs = m->cap_runs * 2 + 64;
		m->freeing = reallocarray(m->freeing, m->cap_runs, sizeof(*m->freeing));
	}
	m->freeing[m->n_runs++] = (struct freeing){ r, m->epoch };
}

// Everything up to one of the last epochs has become durable.
static void op_release(struct model *m)
{
	uint64_t durable = m->epoch - rnd(m, 3);
	size_t kept = 0;

	alloc_release(m->d->a, durable);
	for (size_t i = 0; i < m->n_runs; i++) {
		if (m->freeing[i].epoch <= durable)
			move(m, m->freeing[i].r, FREEING, FREE);
		else
			m->freeing[kept++] = m->freeing[i];
	}
	m->n_runs = kept;
	m->epoch++;
}

// ---- what must be refused ----

enum change { PUT, COMMIT, FREE_IT };

// A metaslab with a known free run is certainly loaded; of one that is not loaded only FREEING and the counts are known.
static bool known_loaded(const struct model *m, uint64_t blk)
{
	return alloc_largest_run(m->d->a, m->first_ms + (uint32_t)(blk >> m->d->ms_shift)) > 0;
}

static bool must_refuse(const struct model *m, enum change change, uint64_t start, uint64_t len)
{
	uint64_t next, end = start + len;

	for (uint64_t blk = start; blk < end; blk = next) {
		const struct ms_count *c = &m->count[blk >> m->d->ms_shift];

		next = min_u64(end, ((blk >> m->d->ms_shift) + 1) << m->d->ms_shift);
		if (memchr(m->state + blk, FREEING, next - blk) != NULL)
			return true;
		if (next - blk > (change == FREE_IT ? c->owned_blk : c->taken_blk))
			return true;
		if (memchr(m->state + blk, FREE, next - blk) != NULL && known_loaded(m, blk))
			return true;
	}
	return false;
}

static int try_change(struct model *m, enum change change, uint64_t start, uint64_t len)
{
	switch (change) {
	case PUT:
		return alloc_put(m->d->a, start, len);
	case COMMIT:
		return alloc_commit(m->d->a, start, len);
	default:
		return alloc_free(m->d->a, start, len, m->epoch);
	}
}

static void check_counts(struct model *m)
{
	uint64_t free_blk, freeing_blk;

	alloc_get_free(m->d->a, &free_blk, &freeing_blk);
	EXPECT(m, free_blk == m->n_free, "%" PRIu64 " blocks free, the model has %" PRIu64, free_blk, m->n_free);
	EXPECT(m, freeing_blk == m->n_freeing, "%" PRIu64 " freeing, the model has %" PRIu64, freeing_blk, m->n_freeing);
}

// A range of the volume that is partly or wholly outside, or has no length or too much of it.
static struct run range_outside(struct model *m)
{
	uint64_t end = m->d->n_blks;

	switch (rnd(m, 3)) {
	case 0:
		return (struct run){ end - rnd(m, min_u64(m->n_blks, 5)), 5 + rnd(m, 1ull << 62) };
	case 1:
		return (struct run){ rnd(m, 2) ? UINT64_MAX - rnd(m, 9) : end + rnd(m, 9), 1 + rnd(m, 20) };
	default:
		return (struct run){ m->base_blk + rnd(m, m->n_blks), rnd(m, 2) ? 0 : UINT64_MAX - rnd(m, 9) };
	}
}

// Outside, or a piece of one state with a bit more on one side or both, if the model says that it must be refused.
static void op_bad(struct model *m)
{
	enum change change = (enum change)rnd(m, 3);
	struct run r = extent(m, rnd(m, m->n_blks), (enum state)rnd(m, 4), 1 + rnd(m, 40));
	uint64_t grow = rnd(m, 8);

	if (rnd(m, 3) == 0) {
		r = range_outside(m);
	} else {
		if (rnd(m, 2) && r.start_blk >= grow)
			r = (struct run){ r.start_blk - grow, r.len_blk + grow };
		r.len_blk = min_u64(r.len_blk + rnd(m, 8), m->n_blks - r.start_blk);
		if (r.len_blk > 0 && !must_refuse(m, change, r.start_blk, r.len_blk))
			return;
		r.start_blk += m->base_blk;
	}
	EXPECT(m, try_change(m, change, r.start_blk, r.len_blk) == -EINVAL, "change %d of [%" PRIu64 " +%" PRIu64 ")", change,
	       r.start_blk, r.len_blk);
	check_counts(m);
}

// ---- loading, unloading, checking ----

static void commit_all(struct model *m)
{
	struct run r;

	for (uint64_t blk = 0; blk < m->n_blks; blk = r.start_blk + r.len_blk) {
		r = extent(m, blk, TAKEN, m->n_blks);
		if (r.len_blk == 0)
			break;
		EXPECT(m, alloc_commit(m->d->a, m->base_blk + r.start_blk, r.len_blk) == 0, "block %" PRIu64, r.start_blk);
		move(m, r, TAKEN, OWNED);
	}
}

// Everything TAKEN is committed, so that all metaslabs can go; the next requests load them again.
static void op_unload(struct model *m)
{
	if (rnd(m, 2) == 0) {
		alloc_shrink(m->d->a, rnd(m, 1 << 20)); // what is not TAKEN may go
		return;
	}
	commit_all(m);
	alloc_shrink(m->d->a, 0);
	EXPECT(m, disk_n_loaded(m->d) == 0, "%u still loaded", disk_n_loaded(m->d));
}

// The source cannot be read for a while: requests fail or are served from what is loaded, and nothing is lost.
static void op_load_error(struct model *m)
{
	m->d->load_error = -EIO;
	for (unsigned i = 0; i < 5; i++)
		op_get(m);
	m->d->load_error = 0;
	check_counts(m);
}

struct walk {
	struct model *m;
	uint64_t at; // all before it has been compared
};

static int walk_run(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	struct walk *w = ctx;
	const uint8_t *state = w->m->state;

	start_blk -= w->m->base_blk;
	EXPECT(w->m, start_blk >= w->at && start_blk + len_blk <= w->m->n_blks, "run at %" PRIu64, start_blk);
	EXPECT(w->m, memchr(state + w->at, FREE, start_blk - w->at) == NULL, "free blocks before %" PRIu64, start_blk);
	for (uint64_t i = 0; i < len_blk; i++)
		if (state[start_blk + i] != FREE)
			return -EUCLEAN;
	w->at = start_blk + len_blk;
	return 0;
}

// Each free run, and with everything loaded and nothing held back: the longest run of each metaslab.
static void compare_all(struct model *m)
{
	struct walk w = { m, 0 };

	EXPECT(m, alloc_walk_free(m->d->a, walk_run, &w) == 0, "after %" PRIu64, w.at);
	EXPECT(m, memchr(m->state + w.at, FREE, m->n_blks - w.at) == NULL, "free blocks behind %" PRIu64, w.at);
	for (uint32_t i = 0; i < m->n_ms; i++) {
		uint64_t start = (uint64_t)i << m->d->ms_shift, end = min_u64(start + (1ull << m->d->ms_shift), m->n_blks);
		uint64_t got = alloc_largest_run(m->d->a, m->first_ms + i), want = longest_free(m, start, end);

		EXPECT(m, got == want || got == 0, "longest run of metaslab %u: %" PRIu64 ", in truth %" PRIu64, i, got, want);
	}
}

static void check_all(struct model *m)
{
	struct errmsg why = { "" };
	struct alloc_stats st;

	check_counts(m);
	alloc_get_stats(m->d->a, &st);
	ck_assert_uint_eq(st.free_blk, m->n_free);
	ck_assert_uint_eq(st.freeing_blk, m->n_freeing);
	ck_assert_uint_eq(st.total_blk, m->d->n_blks);
	ck_assert_uint_eq(st.n_metaslabs, m->first_ms + m->n_ms);
	EXPECT(m, alloc_check(m->d->a, &why) == 0, "%s", why.text);
}

static void end_stream(struct model *m, unsigned i)
{
	alloc_stream_end(&m->streams[i]);
	if (rnd(m, 2)) {
		alloc_stream_init(&m->streams[i]);
		m->stream_end[i] = 0;
	}
}

// As at unmount: what is TAKEN was never named and is free; what is FREEING is free.
static void op_remount(struct model *m)
{
	struct run r;

	for (unsigned i = 0; i < N_STREAMS; i++) {
		alloc_stream_end(&m->streams[i]);
		alloc_stream_init(&m->streams[i]);
		m->stream_end[i] = 0;
	}
	alloc_destroy(m->d->a);
	for (size_t i = 0; i < m->n_runs; i++)
		move(m, m->freeing[i].r, FREEING, FREE);
	m->n_runs = 0;
	while ((r = extent(m, 0, TAKEN, m->n_blks)).len_blk > 0)
		move(m, r, TAKEN, FREE);
	disk_mount(m->d, m->reserve_blk);
	check_all(m);
}

static void step(struct model *m)
{
	// Now filling, now emptying, so that full, half full and nearly empty are all met.
	unsigned get_share = m->op / 8000 % 2 ? 25 : 45, kind = (unsigned)rnd(m, 100);
	uint64_t n = m->n_blks, rare = rnd(m, 10000 + n);

	if (kind < get_share)
		op_get(m);
	else if (kind < 65)
		op_free(m);
	else if (kind < 90)
		op_commit(m);
	else if (kind < 96)
		op_put(m);
	else
		op_bad(m);
	if (rnd(m, 300) == 0)
		op_release(m);
	if (rnd(m, 200) == 0)
		end_stream(m, (unsigned)rnd(m, N_STREAMS));
	if (rare < 5)
		op_unload(m);
	else if (rare < 7)
		op_load_error(m);
	else if (rare < 10)
		compare_all(m);
	else if (rare == 10)
		op_remount(m);
	if (m->op % (1000 + n / 10 + m->first_ms * 25) == 0)
		check_all(m);
}

// ---- volumes ----

static const struct engine_ops *pick_engine(uint64_t n)
{
	unsigned n_engines = 0;

	while (engines[n_engines] != NULL)
		n_engines++;
	return n % 3 != 2 ? NULL : engines[n / 3 % n_engines]; // mostly the default one
}

static struct disk *pick_disk(struct model *m)
{
	static const uint32_t shifts[] = { MS_SHIFT, MS_SHIFT, MS_SHIFT + 1, MS_SHIFT + 2, MS_SHIFT + 4 };
	uint32_t shift = shifts[rnd(m, ARRAY_LEN(shifts))];

	switch (rnd(m, 7)) {
	case 0:
		return disk_new(1 + rnd(m, 5000), shift);
	case 1:
		return disk_new(100000 + rnd(m, 200000), shift);
	case 2:
		return disk_new_large((2 + rnd(m, 2)) * (1u << LARGE_MS_SHIFT) + rnd(m, 60000));
	default:
		return disk_new(4096 * (1 + rnd(m, 10)) + rnd(m, 2) * rnd(m, 4096), shift);
	}
}

// What a volume has on it at the start: nothing, or something of everything.
static void fill_disk(struct model *m)
{
	unsigned kind = (unsigned)rnd(m, 4);
	uint64_t len;

	if (kind == 0)
		return;
	for (uint64_t blk = rnd(m, 50); blk < m->n_blks; blk += len + 1 + rnd(m, kind == 1 ? 500 : 3)) {
		len = min_u64(1 + rnd(m, kind == 3 ? 2 : 60), m->n_blks - blk);
		move(m, (struct run){ blk, len }, FREE, OWNED);
	}
}

static void run_volume(uint64_t seed, uint64_t n_ops)
{
	struct model m = { .seed = seed, .rng = alloctest_seed(seed), .epoch = 3 };
	uint64_t n_blks;

	m.d = pick_disk(&m);
	m.d->engine = pick_engine(seed);
	m.base_blk = m.d->base_blk;
	m.n_blks = n_blks = m.d->n_blks - m.base_blk;
	m.first_ms = (uint32_t)(m.base_blk >> m.d->ms_shift);
	m.n_ms = (uint32_t)((n_blks + (1ull << m.d->ms_shift) - 1) >> m.d->ms_shift);
	m.state = calloc(n_blks, 1);
	m.count = calloc(m.n_ms, sizeof(*m.count));
	m.n_free = n_blks;
	m.reserve_blk = rnd(&m, 2) ? 0 : rnd(&m, n_blks / 8 + 1);
	fill_disk(&m);
	disk_mount(m.d, m.reserve_blk);
	for (unsigned i = 0; i < N_STREAMS; i++)
		alloc_stream_init(&m.streams[i]);
	for (m.op = 0; m.op < n_ops; m.op++)
		step(&m);
	check_all(&m);
	compare_all(&m);
	for (unsigned i = 0; i < N_STREAMS; i++)
		alloc_stream_end(&m.streams[i]);
	check_all(&m);
	disk_free(m.d);
	runlist_free(&m.out);
	free(m.freeing);
	free(m.state);
	free(m.count);
}

START_TEST(agrees_with_the_model)
{
	uint64_t seed = alloctest_env("SEED", 0), n_ops = alloctest_env("OPS", OPS_PER_VOLUME);

	if (_i == 0) {
		printf("check_alloc_model: %d volumes, SEED=1 and on, OPS=%" PRIu64 " each\n", N_VOLUMES, n_ops);
		fflush(stdout);
	}
	if (seed == 0)
		run_volume((uint64_t)_i + 1, n_ops);
	else if (_i == 0)
		run_volume(seed, n_ops);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("check_alloc_model");
	TCase *model = tcase_create("model");

	tcase_set_timeout(model, 300);
	tcase_add_loop_test(model, agrees_with_the_model, 0, N_VOLUMES);
	suite_add_tcase(suite, model);
	return alloctest_run("check_alloc_model", suite);
}
