// SPDX-License-Identifier: MIT
// Crash states of a log. See states.h.
#include "states.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "util/attr.h"
#include "util/blk.h"
#include "workload.h"

#define SUBSET_MAX 6u       // requests of an epoch up to which all subsets are tried
#define TEAR_MAX 64u        // sectors up to which each border of a request is a tear; beyond it so many, evenly
#define OVERLAP_MAX 16u     // pairs of an epoch
#define MIXED_PER_ENTRY 6u
#define MIXED_PER_EPOCH 400u

static const char *const kind_names[STATE_N_KINDS] = { "prefix", "dropped", "torn", "sliced", "reordered", "duplicated", "mixed" };

static void *must(void *memory)
{
	VERIFY(memory != NULL);
	return memory;
}

const char *state_kind_name(enum state_kind kind) { return kind_names[kind]; }

void state_print(const struct state *state, char text[STATE_TEXT_MAX])
{
	snprintf(text, STATE_TEXT_MAX, "%s:%zu:%" PRIu64 ":%" PRIu64, kind_names[state->kind], state->n, state->a, state->b);
}

int state_parse(const char *text, struct state *state)
{
	for (unsigned kind = 0; kind < STATE_N_KINDS; kind++) {
		size_t len = strlen(kind_names[kind]);

		if (strncmp(text, kind_names[kind], len) == 0 &&
		    sscanf(text + len, ":%zu:%" SCNu64 ":%" SCNu64, &state->n, &state->a, &state->b) == 3) {
			state->kind = kind;
			return 0;
		}
	}
	return -EINVAL;
}

// ---- the log ----

static uint64_t sectors_of(const struct testdev_entry *e) { return (e->len_bytes + TESTDEV_SECTOR - 1) / TESTDEV_SECTOR; }

static bool overlap(const struct testdev_entry *a, const struct testdev_entry *b)
{
	return a->off_bytes < b->off_bytes + b->len_bytes && b->off_bytes < a->off_bytes + a->len_bytes;
}

static size_t epoch_start(struct bdev *dev, size_t n)
{
	while (n > 0 && testdev_log_at(dev, n - 1)->op != TESTDEV_FLUSH)
		n--;
	return n;
}

// ---- which ones ----

static void add(struct states *s, struct state state)
{
	if ((s->n_list & (s->n_list + 1)) == 0)
		s->list = must(reallocarray(s->list, 2 * s->n_list + 2, sizeof(*s->list)));
	s->list[s->n_list++] = state;
}

static void add_prefixes(struct states *s, size_t from)
{
	for (size_t n = from; n <= testdev_log_len(s->dev); n++)
		add(s, (struct state){ .kind = STATE_PREFIX, .n = n });
}

static void add_tears(struct states *s, size_t entry, size_t end)
{
	uint64_t len = sectors_of(testdev_log_at(s->dev, entry)), step = (len + TEAR_MAX - 1) / TEAR_MAX;

	for (uint64_t t = step; t < len; t += step) {
		add(s, (struct state){ .kind = STATE_TORN, .n = entry + 1, .a = entry, .b = t });
		add(s, (struct state){ .kind = STATE_TORN, .n = end, .a = entry, .b = t });
		add(s, (struct state){ .kind = STATE_TORN, .n = end, .a = entry, .b = len + t });
	}
}

static void add_slices(struct states *s, size_t first, size_t end)
{
	uint64_t longest = 0;

	for (size_t i = first; i < end; i++)
		longest = max_u64(longest, sectors_of(testdev_log_at(s->dev, i)));
	for (uint64_t t = 1; end > first + 1 && t < longest; t *= 2) // of a single request these are tears
		for (uint64_t side = 0; side < 2; side++)
			add(s, (struct state){ .kind = STATE_SLICED, .n = end, .a = t, .b = side });
}

static void add_overlaps(struct states *s, size_t first, size_t end)
{
	unsigned n = 0;

	for (size_t i = first; i < end; i++)
		for (size_t j = i + 1; j < end && n < OVERLAP_MAX; j++) {
			if (!overlap(testdev_log_at(s->dev, i), testdev_log_at(s->dev, j)))
				continue;
			add(s, (struct state){ .kind = STATE_REORDERED, .n = end, .a = i, .b = j });
			add(s, (struct state){ .kind = STATE_DUPLICATED, .n = end, .a = i, .b = 0 });
			n++;
		}
}

// The epoch [first, end): end is a flush, or the end of the log.
static void add_epoch(struct states *s, size_t first, size_t end, uint64_t *rnd)
{
	size_t len = end - first;

	s->n_epochs++;
	for (uint64_t mask = 0; len <= SUBSET_MAX && mask < 1ull << len; mask++)
		add(s, (struct state){ .kind = STATE_DROPPED, .n = end, .a = mask, .b = 1 });
	for (size_t i = first; i < end; i++) {
		if (len > SUBSET_MAX)
			add(s, (struct state){ .kind = STATE_DROPPED, .n = end, .a = i, .b = 0 });
		add_tears(s, i, end);
	}
	add_slices(s, first, end);
	add_overlaps(s, first, end);
	for (size_t i = 0; i < MIXED_PER_ENTRY * len && i < MIXED_PER_EPOCH; i++) // at any moment of the epoch
		add(s, (struct state){ .kind = STATE_MIXED, .n = first + 1 + rnd_below(rnd, len), .a = rnd_next(rnd) >> 32 });
}

// All epochs that end behind `from`.
static void add_epochs(struct states *s, size_t from, uint64_t *rnd)
{
	size_t first = 0, n = testdev_log_len(s->dev);

	for (size_t i = 0; i <= n; i++)
		if (i == n || testdev_log_at(s->dev, i)->op == TESTDEV_FLUSH) {
			if (i > first && i > from)
				add_epoch(s, first, i, rnd);
			first = i + 1;
		}
}

// Moves `want` of list[from … to) to its front, at random.
static void choose(struct states *s, size_t from, size_t to, size_t want, uint64_t *rnd)
{
	for (size_t i = from; i < to && i < from + want; i++) {
		size_t j = i + rnd_below(rnd, to - i);
		struct state swap = s->list[i];

		s->list[i] = s->list[j];
		s->list[j] = swap;
	}
}

static int by_rank(const void *a, const void *b)
{
	const struct state *x = a, *y = b;

	return x->rank != y->rank ? (x->rank < y->rank ? -1 : 1) : (int)x->kind - (int)y->kind;
}

// The kinds take turns, or there would be hardly anything but tears.
static void choose_by_kind(struct states *s, size_t from, uint64_t *rnd)
{
	uint32_t n[STATE_N_KINDS] = { 0 };

	choose(s, from, s->n_list, s->n_list - from, rnd);
	for (size_t i = from; i < s->n_list; i++)
		s->list[i].rank = n[s->list[i].kind]++ / (s->list[i].kind == STATE_MIXED ? 2 : 1); // it has two turns
	qsort(&s->list[from], s->n_list - from, sizeof(*s->list), by_rank);
}

static int by_n(const void *a, const void *b)
{
	const struct state *x = a, *y = b;

	return x->n != y->n ? (x->n < y->n ? -1 : 1) : (int)x->kind - (int)y->kind;
}

// Up to half of the choice is prefixes.
static void cut(struct states *s, size_t n_prefixes, size_t max, uint64_t *rnd)
{
	size_t prefixes = n_prefixes < max / 2 + 1 ? n_prefixes : max / 2 + 1, others = max - prefixes;

	if (s->n_list <= max)
		return;
	if (others > s->n_list - n_prefixes)
		others = s->n_list - n_prefixes;
	choose(s, 0, n_prefixes, prefixes, rnd);
	choose_by_kind(s, n_prefixes, rnd);
	memmove(&s->list[prefixes], &s->list[n_prefixes], others * sizeof(*s->list));
	s->n_list = prefixes + others;
}

// ---- digests ----

static uint64_t mix(size_t sector, uint64_t hash) { return XXH3_64bits_withSeed(&hash, sizeof(hash), sector); }

static uint64_t hash_of(const struct testdev_entry *e, uint64_t sector)
{
	if (e->op == TESTDEV_DISCARD)
		return TESTDEV_POISON;
	return XXH3_64bits((const uint8_t *)e->data + sector * TESTDEV_SECTOR, TESTDEV_SECTOR);
}

static int hash_device(struct states *s)
{
	uint8_t buf[65536];
	struct bdev *base;
	int err = testdev_crash_pieces(s->dev, 0, NULL, 0, &base);

	if (err != 0)
		return err;
	for (size_t at = 0; err == 0 && at < s->n_sectors; at += sizeof(buf) / TESTDEV_SECTOR) {
		size_t n = min_u64(sizeof(buf) / TESTDEV_SECTOR, s->n_sectors - at);

		err = bdev_read(base, buf, n * TESTDEV_SECTOR, at * TESTDEV_SECTOR);
		for (size_t i = 0; i < n; i++)
			s->durable[at + i] = XXH3_64bits(buf + i * TESTDEV_SECTOR, TESTDEV_SECTOR);
	}
	for (size_t i = 0; i < s->n_sectors; i++)
		s->digest ^= mix(i, s->durable[i]);
	bdev_close(base);
	return err;
}

// Lays a piece over the state under construction.
static void lay(struct states *s, const struct testdev_piece *p)
{
	const struct testdev_entry *e = testdev_log_at(s->dev, p->entry);
	size_t at = e->off_bytes / TESTDEV_SECTOR;

	for (uint64_t i = p->from_sector; i < p->to_sector && i < sectors_of(e); i++) {
		s->now[at + i] = hash_of(e, i);
		s->stamp[at + i] = s->generation;
	}
}

// The digest of what was laid, which becomes durable if `keep`. Touches each sector once: its stamp goes.
static uint64_t collect(struct states *s, const struct testdev_piece *pieces, size_t n, bool keep)
{
	uint64_t digest = s->digest;

	for (size_t p = 0; p < n; p++) {
		const struct testdev_entry *e = testdev_log_at(s->dev, pieces[p].entry);
		size_t first = e->off_bytes / TESTDEV_SECTOR;

		for (size_t i = first + pieces[p].from_sector; i < first + min_u64(pieces[p].to_sector, sectors_of(e)); i++) {
			if (s->stamp[i] != s->generation)
				continue;
			s->stamp[i] = 0;
			digest ^= mix(i, s->durable[i]) ^ mix(i, s->now[i]);
			if (keep)
				s->durable[i] = s->now[i];
		}
	}
	return digest;
}

static uint64_t digest_of(struct states *s, const struct testdev_piece *pieces, size_t n, bool keep)
{
	s->generation++;
	for (size_t i = 0; i < n; i++)
		lay(s, &pieces[i]);
	return collect(s, pieces, n, keep);
}

// Brings the hashes to the first n entries.
static int advance(struct states *s, size_t n)
{
	if (n < s->n_durable) {
		s->digest = s->n_durable = 0;
		return hash_device(s) != 0 ? -ENOMEM : advance(s, n);
	}
	for (; s->n_durable < n; s->n_durable++)
		s->digest = digest_of(s, &(struct testdev_piece){ s->n_durable, 0, UINT64_MAX }, 1, true);
	return 0;
}

// ---- making one ----

// A request of which sectors, or blocks, are missing here and there: devices cut large ones up.
static void sieve(size_t entry, uint64_t len, uint64_t *rnd, struct testdev_piece *p, size_t *n)
{
	uint64_t unit = rnd_below(rnd, 2) == 0 ? 1 : BLK_SIZE / TESTDEV_SECTOR, keep = 1 + rnd_below(rnd, 7);

	for (uint64_t at = 0; at < len; at += unit)
		if (rnd_below(rnd, 8) < keep)
			p[(*n)++] = (struct testdev_piece){ entry, at, at + unit };
}

static void random_pieces(struct bdev *dev, size_t first, const struct state *state, struct testdev_piece *p, size_t *n)
{
	uint64_t rnd = rnd_seeded(state->a);

	for (size_t i = first; i < state->n; i++) {
		uint64_t dice = rnd_below(&rnd, 20), len = sectors_of(testdev_log_at(dev, i)), at = rnd_below(&rnd, len + 1);
		bool alone = i == first && i + 1 == state->n; // there or not there are other states already

		if (dice < 4 && !alone)
			continue;
		if (dice <= 4 || dice > 15 || alone) {
			sieve(i, len, &rnd, p, n);
			continue;
		}
		p[(*n)++] = (struct testdev_piece){ i, dice == 5 ? at : 0, dice == 6 || dice == 7 ? at : UINT64_MAX };
		if (dice == 8)
			p[(*n)++] = (struct testdev_piece){ i, 0, at };
	}
	for (size_t i = *n; rnd_below(&rnd, 2) == 0 && i > 1; i--) { // a shuffle that may stop early
		size_t j = rnd_below(&rnd, i);
		struct testdev_piece swap = p[i - 1];

		p[i - 1] = p[j];
		p[j] = swap;
	}
}

static struct testdev_piece sliced_piece(size_t entry, const struct state *state)
{
	if (state->b == 0)
		return (struct testdev_piece){ entry, 0, state->a };
	return (struct testdev_piece){ entry, state->a, UINT64_MAX };
}

static struct testdev_piece torn_piece(struct bdev *dev, const struct state *state)
{
	uint64_t len = sectors_of(testdev_log_at(dev, state->a));

	if (state->b <= len)
		return (struct testdev_piece){ state->a, 0, state->b };
	return (struct testdev_piece){ state->a, state->b - len, UINT64_MAX };
}

// How many pieces a state can have: a request is cut into its sectors, or comes twice.
static size_t pieces_max(struct bdev *dev, size_t first, size_t n)
{
	size_t sum = 1;

	for (size_t i = first; i < n; i++)
		sum += 2 + sectors_of(testdev_log_at(dev, i));
	return sum;
}

static size_t pieces_of(struct bdev *dev, size_t first, const struct state *state, struct testdev_piece *p)
{
	size_t n = 0;

	if (state->kind == STATE_MIXED) {
		random_pieces(dev, first, state, p, &n);
		return n;
	}
	for (size_t i = first; i < state->n; i++) {
		if (state->kind == STATE_DROPPED && (state->b == 1 ? (state->a >> (i - first) & 1) == 0 : state->a == i))
			continue;
		if (state->kind == STATE_REORDERED && i == state->a)
			continue;
		if (state->kind == STATE_SLICED)
			p[n++] = sliced_piece(i, state);
		else
			p[n++] = state->kind == STATE_TORN && i == state->a ? torn_piece(dev, state) : (struct testdev_piece){ i, 0, UINT64_MAX };
		if (state->kind == STATE_REORDERED && i == state->b)
			p[n++] = (struct testdev_piece){ state->a, 0, UINT64_MAX };
	}
	if (state->kind == STATE_DUPLICATED)
		p[n++] = (struct testdev_piece){ state->a, 0, UINT64_MAX };
	return n;
}

static bool is_valid(const struct state *state, size_t first)
{
	bool names_entry = state->kind == STATE_TORN || state->kind == STATE_REORDERED || state->kind == STATE_DUPLICATED;

	return !names_entry || (state->a >= first && state->a < state->n);
}

int states_make(struct states *s, const struct state *state, uint64_t *digest, struct bdev **out)
{
	struct testdev_piece *pieces;
	size_t first, n;
	int err;

	if (state->n > testdev_log_len(s->dev))
		return -EINVAL;
	first = epoch_start(s->dev, state->n);
	if (!is_valid(state, first))
		return -EINVAL;
	err = advance(s, first);
	if (err != 0)
		return err;
	pieces = must(calloc(pieces_max(s->dev, first, state->n), sizeof(*pieces)));
	n = pieces_of(s->dev, first, state, pieces);
	*digest = digest_of(s, pieces, n, false);
	if (out != NULL)
		err = testdev_crash_pieces(s->dev, state->n, pieces, n, out);
	free(pieces);
	return err;
}

int states_init(struct states *s, struct bdev *dev, size_t from, size_t max, uint64_t seed)
{
	uint64_t rnd = rnd_seeded(seed);
	size_t n_prefixes;

	*s = (struct states){ .dev = dev, .n_sectors = dev->size_bytes / TESTDEV_SECTOR };
	s->durable = must(calloc(s->n_sectors, sizeof(*s->durable)));
	s->now = must(calloc(s->n_sectors, sizeof(*s->now)));
	s->stamp = must(calloc(s->n_sectors, sizeof(*s->stamp)));
	add_prefixes(s, from);
	n_prefixes = s->n_list;
	add_epochs(s, from, &rnd);
	cut(s, n_prefixes, max, &rnd);
	qsort(s->list, s->n_list, sizeof(*s->list), by_n);
	return hash_device(s);
}

int states_replay(struct states *s, size_t n, struct bdev **out)
{
	size_t first = epoch_start(s->dev, n);
	int err = testdev_crash_pieces(s->dev, first, NULL, 0, out);

	if (err != 0)
		return err;
	testdev_record(*out, true);
	for (size_t i = first; err == 0 && i < n; i++) {
		const struct testdev_entry *e = testdev_log_at(s->dev, i);

		err = e->op == TESTDEV_DISCARD ? bdev_discard(*out, e->off_bytes, e->len_bytes) :
		                                 bdev_write(*out, e->data, e->len_bytes, e->off_bytes);
	}
	if (err != 0)
		bdev_close(*out);
	return err;
}

void states_free(struct states *s)
{
	free(s->list);
	free(s->durable);
	free(s->now);
	free(s->stamp);
	*s = (struct states){ 0 };
}
