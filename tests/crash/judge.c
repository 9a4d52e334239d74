// SPDX-License-Identifier: MIT
// Crash states held against the contract. See judge.h.
#include "judge.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repair.h"

#define PASSIVE_EVERY 4u    // states that are also checked unmounted
#define RECOVERY_EVERY 60u  // states whose recovery is crashed again …
#define RECOVERY_STATES 10u // … so often; both by the digest, so that it does not matter when a state comes
#define SEEN_MIN 1024u

uint64_t counts_states(const struct counts *c)
{
	uint64_t sum = c->in_recovery + c->in_repair;

	for (unsigned i = 0; i < STATE_N_KINDS; i++)
		sum += c->by_kind[i];
	return sum;
}

// ---- contents that were looked at ----

struct seen { // open addressing; digest 0 is an empty place
	struct {
		uint64_t digest;
		size_t step; // up to which everything is there
	} *at;
	size_t n, cap;
};

static const size_t *seen_find(struct seen *s, uint64_t digest)
{
	for (size_t i = digest % (s->cap > 0 ? s->cap : 1); s->cap > 0 && s->at[i].digest != 0; i = (i + 1) % s->cap)
		if (s->at[i].digest == digest)
			return &s->at[i].step;
	return NULL;
}

static void seen_add(struct seen *s, uint64_t digest, size_t step)
{
	struct seen old = *s;
	size_t i;

	if (2 * s->n >= s->cap) {
		s->cap = old.cap == 0 ? SEEN_MIN : 2 * old.cap;
		s->at = calloc(s->cap, sizeof(*s->at));
		VERIFY(s->at != NULL);
		s->n = 0;
		for (i = 0; i < old.cap; i++)
			if (old.at[i].digest != 0)
				seen_add(s, old.at[i].digest, old.at[i].step);
		free(old.at);
	}
	for (i = digest % s->cap; s->at[i].digest != 0; i = (i + 1) % s->cap)
		continue;
	s->at[i].digest = digest;
	s->at[i].step = step;
	s->n++;
}

// ---- one state ----

struct crash { // the first of two
	const struct history *h;
	const struct look *first; // what the mount after it has shown
	bool for_good;            // because all of that was on the medium
	size_t promised;
};

// Where the device of a failure goes: a history that is not the same each time may not show it again, so that is saved by itself.
static const char *save_name(struct judge *j)
{
	if (j->save == NULL && j->varies) {
		snprintf(j->saved, sizeof(j->saved), "failed-%s.img", j->place->history);
		for (char *at = j->saved; *at != '\0'; at++)
			*at = *at == ':' ? '-' : *at;
	} else {
		snprintf(j->saved, sizeof(j->saved), "%s", j->save != NULL ? j->save : "");
	}
	return j->saved;
}

static void save_device(struct judge *j, struct bdev *dev)
{
	const char *name = save_name(j);
	FILE *file = name[0] != '\0' ? fopen(name, "wb") : NULL;
	uint8_t buf[65536];
	int err = 0;

	for (uint64_t off = 0; file != NULL && err == 0 && off < dev->size_bytes; off += sizeof(buf)) {
		err = bdev_read(dev, buf, sizeof(buf), off);
		if (err == 0 && fwrite(buf, sizeof(buf), 1, file) != 1)
			err = -EIO;
	}
	if (name[0] == '\0' || (file != NULL && fclose(file) == 0 && err == 0))
		return;
	fprintf(stderr, "%s: not saved\n", name);
	j->saved[0] = '\0';
}

static int broken(struct judge *j, struct bdev *saved, const char *what)
{
	if (j->why != what)
		snprintf(j->why, sizeof(j->why), "%s", what);
	save_device(j, saved);
	return -1;
}

static void enter(struct judge *j, char *place, const struct state *state)
{
	state_print(state, place);
	atomic_fetch_add(&j->place->progress, 1);
}

// Whether a list's state is asked for.
static bool wanted(const char *only, const struct state *state)
{
	char text[STATE_TEXT_MAX];

	state_print(state, text);
	return only == NULL || strcmp(only, text) == 0;
}

// What a second crash has left. Transactions behind the one that the first mount has found are that mount's own, which change no tree.
static int judge_inner(const struct crash *crash, struct bdev *dev, struct look *look)
{
	const struct look *first = crash->first;
	ssize_t match;
	int err = look_at(dev, false, look);

	if (err != 0)
		return err;
	if (crash->for_good && look->txn < first->txn) {
		snprintf(look->why, sizeof(look->why), "transaction %" PRIu64 " is gone, the mount before had found it; this is %" PRIu64,
		         first->txn, look->txn);
		return -1;
	}
	match = history_match(crash->h, look->txn < first->txn ? look->txn : first->txn, look->text, look->why, sizeof(look->why));
	if (match < 0)
		return -1;
	if (crash->for_good ? strcmp(look->text, first->text) == 0 : (size_t)match >= crash->promised)
		return 0;
	snprintf(look->why, sizeof(look->why), "the tree is that of step %zd '%s' (transaction %" PRIu64 "), %s", match,
	         crash->h->steps[match].what, look->txn,
	         crash->for_good ? "not the one that the mount before had shown" : "older than what had been reported durable");
	return -1;
}

// Crash states of the mount after a crash. `state` is recording.
static int judge_recovery(struct judge *j, struct bdev *state, const struct crash *crash)
{
	struct look *look = calloc(1, sizeof(*look));
	struct states s;
	int err = look_recover(state, j->why, sizeof(j->why));

	VERIFY(look != NULL);
	if (err != 0) {
		free(look);
		return broken(j, state, j->why);
	}
	err = states_init(&s, state, 0, j->only_inner != NULL ? SIZE_MAX : RECOVERY_STATES, j->seed);
	j->counts->recoveries++;
	for (size_t i = 0; err == 0 && i < s.n_list; i++) {
		struct bdev *dev, *kept;
		uint64_t digest;

		if (!wanted(j->only_inner, &s.list[i]))
			continue;
		enter(j, j->place->inner, &s.list[i]);
		VERIFY(states_make(&s, &s.list[i], &digest, &dev) == 0 && testdev_clone(dev, &kept) == 0);
		err = judge_inner(crash, dev, look);
		if (err != 0)
			err = broken(j, kept, look->why);
		j->counts->in_recovery++;
		look_free(look);
		bdev_close(dev);
		bdev_close(kept);
	}
	if (err == 0)
		j->place->inner[0] = '\0';
	states_free(&s);
	free(look);
	return err;
}

// The mount after this crash is crashed itself: after the death of the process, if all that it had sent is there, or after a power failure.
static int crash_again(struct judge *j, struct states *s, const struct history *h, const struct state *state, struct bdev *kept,
                       const struct look *look)
{
	bool process_only = state->kind == STATE_PREFIX;
	struct crash crash = { .h = h, .first = look, .for_good = !process_only, .promised = history_promised(h, state->n) };
	int err;

	if (!process_only) {
		testdev_record(kept, true);
		return judge_recovery(j, kept, &crash);
	}
	VERIFY(states_replay(s, state->n, &kept) == 0);
	err = judge_recovery(j, kept, &crash);
	bdev_close(kept);
	return err;
}

static int judge_state(struct judge *j, struct states *s, const struct history *h, const struct state *state, struct bdev *dev,
                       uint64_t digest, size_t *step)
{
	size_t promised = history_promised(h, state->n);
	bool passive = digest % PASSIVE_EVERY == 0 || j->only_state != NULL;
	struct look *look = calloc(1, sizeof(*look));
	struct bdev *kept;
	ssize_t match = -1;
	int err;

	VERIFY(look != NULL && testdev_clone(dev, &kept) == 0);
	err = look_at(dev, passive, look);
	if (err == 0)
		match = history_match(h, look->txn, look->text, look->why, sizeof(look->why));
	if (match >= 0 && (size_t)match < promised)
		snprintf(look->why, sizeof(look->why), "the tree is that of step %zd '%s', transaction %" PRIu64
		         ", but step %zu '%s', transaction %" PRIu64 ", had been reported durable", match, h->steps[match].what, look->txn,
		         promised, h->steps[promised].what, h->steps[promised].last);
	*step = match < 0 ? 0 : (size_t)match;
	if (err == 0 && (match < 0 || *step < promised))
		err = -1;
	j->counts->passive += passive;
	j->counts->by_kind[state->kind]++;
	if (err != 0)
		err = broken(j, kept, look->why);
	else if (j->only_state != NULL ? j->only_inner != NULL : digest / PASSIVE_EVERY % RECOVERY_EVERY == 0)
		err = crash_again(j, s, h, state, kept, look);
	look_free(look);
	free(look);
	bdev_close(kept);
	return err;
}

// ---- all states ----

static int judge_states(struct judge *j, const struct history *h, size_t max)
{
	struct states s;
	struct seen seen = { 0 };
	struct state only;
	int err = states_init(&s, h->dev, h->focus, max, j->seed);

	VERIFY(err == 0);
	j->counts->epochs += s.n_epochs;
	if (j->only_state != NULL) {
		if (state_parse(j->only_state, &only) != 0)
			return broken(j, h->dev, "no such state");
		s.list[0] = only;
		s.n_list = 1;
	}
	for (size_t i = 0; err == 0 && i < s.n_list; i++) {
		const struct state *state = &s.list[i];
		const size_t *known;
		uint64_t digest;
		size_t step;
		struct bdev *dev;

		enter(j, j->place->state, state);
		if (states_make(&s, state, &digest, NULL) != 0) {
			err = broken(j, h->dev, "no such state");
			break;
		}
		known = seen_find(&seen, digest);
		if (known != NULL && *known >= history_promised(h, state->n)) {
			j->counts->equal++;
			continue;
		}
		VERIFY(states_make(&s, state, &digest, &dev) == 0);
		err = judge_state(j, &s, h, state, dev, digest, &step);
		seen_add(&seen, digest, step);
		bdev_close(dev);
	}
	free(seen.at);
	states_free(&s);
	return err;
}

static int judge_repair(struct judge *j, uint64_t seed, size_t max)
{
	struct bdev *log, *dev, *kept;
	struct state only;
	struct states s;
	uint64_t digest;
	int err = repair_record(j->base, seed, &log, j->why, sizeof(j->why));

	if (err != 0)
		return -1;
	j->counts->repairs++;
	VERIFY(states_init(&s, log, 0, max, j->seed) == 0);
	j->counts->epochs += s.n_epochs;
	if (j->only_state != NULL && state_parse(j->only_state, &only) == 0) {
		s.list[0] = only;
		s.n_list = 1;
	}
	for (size_t i = 0; err == 0 && i < s.n_list; i++) {
		enter(j, j->place->state, &s.list[i]);
		if (states_make(&s, &s.list[i], &digest, &dev) != 0)
			err = broken(j, log, "no such state");
		if (err != 0)
			break;
		VERIFY(testdev_clone(dev, &kept) == 0);
		if (repair_check(dev, j->why, sizeof(j->why)) != 0)
			err = broken(j, kept, j->why);
		j->counts->in_repair++;
		bdev_close(dev);
		bdev_close(kept);
	}
	states_free(&s);
	bdev_close(log);
	return err;
}

int judge_history(struct judge *j, const char *name, size_t max)
{
	struct history h = { 0 };
	int err;

	snprintf(j->place->history, sizeof(j->place->history), "%s", name);
	j->place->state[0] = j->place->inner[0] = '\0';
	j->varies = false;
	if (strncmp(name, "repair:", 7) == 0)
		return judge_repair(j, strtoull(name + 7, NULL, 10), max);
	err = workload_run(name, j->base, &h);
	j->counts->histories++;
	j->counts->steps += h.n_steps;
	j->counts->refused += h.n_refused;
	j->counts->full += h.n_full;
	j->counts->checkpoints += h.checkpoints;
	j->counts->remounts += h.n_remounts;
	j->varies = h.varies;
	if (err != 0)
		snprintf(j->why, sizeof(j->why), "while it ran: %s (%s)", h.why, strerror(-err));
	if (j->print_log)
		history_print(&h);
	if (err == 0)
		err = judge_states(j, &h, max);
	history_free(&h);
	return err != 0 ? -1 : 0;
}
