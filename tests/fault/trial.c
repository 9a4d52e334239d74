// SPDX-License-Identifier: MIT
// One run of a scenario: the armed part. See trial.h for what is held against what.
#include "trial.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

#include "block/testdev.h"
#include "util/blk.h"

#define VOLUME_BYTES (24ull << 20)

static void rearm(void) { atomic_store(&inject_state()->armed, true); }
static bool has_fired(void) { return atomic_load(&inject_state()->fired); }

static bool is_failed(const struct trial *trial)
{
	return bdev_failed(trial->dev) || (trial->vol != NULL && atomic_load(&trial->vol->failed) != 0);
}

// R1 of anything that has failed.
static bool expect_error(struct trial *trial, const char *what, int err)
{
	if (!has_fired())
		return fault_wrong(trial, "%s: %s, without a fault", what, strerror(-err));
	if (!fault_is_clean_errno(err))
		return fault_wrong(trial, "%s: %d (%s) is not an answer to this fault", what, err, strerror(-err));
	return true;
}

// ---- operations ----

static int do_step(struct trial *trial, unsigned at)
{
	const struct step *step = &trial->ref->step[at];

	trial->work.round = step->round;
	trial->work.digest = 0;
	return step->op->run(&trial->work, step->op);
}

static bool note_tree(struct trial *trial, unsigned i)
{
	bool armed = atomic_load(&inject_state()->armed);
	int err;

	if (trial->make == NULL)
		return true;
	inject_disarm();
	err = tree_text(trial->work.fs, &trial->make->tree[i]);
	if (armed)
		rearm();
	return err == 0 || fault_wrong(trial, "reading the tree: %s", strerror(-err));
}

static bool note_success(struct trial *trial, unsigned at)
{
	const struct op *op = trial->ref->step[at].op;

	if (trial->make != NULL)
		trial->make->digest[at] = trial->work.digest;
	else if (trial->work.digest != trial->ref->digest[at])
		return fault_wrong(trial, "step %u (%s %s) read something else than it should", at, op->name, op->path);
	if ((op->flags & OP_DURABLE) != 0)
		trial->low = at + 1;
	return note_tree(trial, at + 1);
}

// R2: the volume goes on. Everything is as before, or done; then it works.
static bool try_again(struct trial *trial, unsigned at)
{
	const struct op *op = trial->ref->step[at].op;
	unsigned low = trial->low;
	struct text tree = { 0 };
	int err;
	bool done;

	inject_disarm();
	trial->low = at;
	trial->high = at + 1;
	trial->partial = (op->flags & OP_PARTIAL) != 0 ? op : NULL;
	if (!judge_live(trial))
		return false;
	err = tree_text(trial->work.fs, &tree);
	done = err == 0 && (op->flags & (OP_READS | OP_DURABLE)) == 0 && strcmp(tree.at, trial->ref->tree[at + 1].at) == 0 &&
	       strcmp(tree.at, trial->ref->tree[at].at) != 0;
	text_free(&tree);
	trial->low = low;
	if (done)
		return true;
	err = do_step(trial, at);
	if (err != 0)
		return fault_wrong(trial, "step %u (%s %s) failed once, and again without a fault: %s", at, op->name, op->path,
		                   strerror(-err));
	return note_success(trial, at);
}

// True when all steps were done. False when the volume has failed, the fault stays, or something is wrong.
static bool do_steps(struct trial *trial)
{
	for (; trial->at < trial->ref->n_steps; trial->at++) {
		const struct op *op = trial->ref->step[trial->at].op;
		char what[128];
		int err = do_step(trial, trial->at);

		trial->high = trial->at + 1;
		if (err == 0) {
			if (!note_success(trial, trial->at))
				return false;
			continue;
		}
		snprintf(what, sizeof(what), "step %u (%s %s)", trial->at, op->name, op->path != NULL ? op->path : "");
		if (!expect_error(trial, what, err))
			return false;
		trial->partial = (op->flags & OP_PARTIAL) != 0 ? op : NULL;
		if (inject_state()->persistent || is_failed(trial))
			return false;
		if (!try_again(trial, trial->at))
			return false;
	}
	trial->partial = NULL;
	return true;
}

// ---- a session ----

static void pull_the_plug(struct trial *trial)
{
	struct bdev *dev = trial->dev;

	// The volume is taken down only to free its memory: nothing that it writes now counts.
	trial->dev = fault_clone(dev, false);
	inject_pause();
	testdev_record(trial->dev, true);
	inject_resume();
	fs_destroy_context(trial->work.fs);
	volume_abandon(trial->vol);
	trial->vol = NULL;
	inject_dev_free(dev);
}

// The state that fell behind is the medium's as it was, and what a power loss makes of it: both before the volume goes.
static bool judge_and_unplug(struct trial *trial)
{
	bool ok = judge_live(trial) && judge_device(trial) && judge_medium(trial);

	op_release(&trial->work, NULL);
	pull_the_plug(trial);
	return ok;
}

static bool close_session(struct trial *trial)
{
	int err;

	op_release(&trial->work, NULL);
	fs_destroy_context(trial->work.fs);
	err = volume_close(trial->vol);
	trial->vol = NULL;
	inject_disarm();
	if (err != 0 && !expect_error(trial, "closing the volume", err))
		return false;
	if (err == 0)
		trial->low = trial->ref->n_steps;
	trial->high = trial->ref->n_steps;
	return judge_device(trial) && judge_medium(trial);
}

static bool run_session(struct trial *trial)
{
	int answers[32], err;
	bool complete;

	rearm();
	err = fault_open(trial, trial->dev, trial->ref->sc);
	if (err != 0) {
		inject_disarm();
		return trial->why[0] == '\0' && expect_error(trial, "opening the volume", err) && judge_device(trial) && judge_medium(trial);
	}
	if (!note_tree(trial, 0))
		return false;
	complete = do_steps(trial);
	if (complete && !trial->ref->sc->unplug)
		return close_session(trial);
	if (!complete && trial->why[0] == '\0' && inject_state()->persistent)
		(void)try_everything(trial->work.fs, answers, 32);
	inject_disarm();
	if (trial->why[0] == '\0')
		return judge_and_unplug(trial);
	op_release(&trial->work, NULL);
	pull_the_plug(trial);
	return false;
}

// ---- format and fsck ----

// Either there is no volume, or a good one; and formatting again works.
static bool run_format(struct trial *trial)
{
	struct volume_params params = { .label = "fault", .discard = true };
	struct errmsg why = { "" };
	struct trial probe = { .ref = trial->ref, .why = trial->why };
	struct scenario plain = { .name = "mount" };
	struct bdev *again;
	int err, err2;
	bool ok = true;

	rearm();
	err = volume_format(trial->dev, &params, &why);
	inject_disarm();
	if (err == 0)
		return judge_device(trial) && (trial->make != NULL || judge_medium(trial));
	if (!expect_error(trial, "format", err) || !judge_device(trial))
		return false;
	if (why.text[0] == '\0')
		return fault_wrong(trial, "format: %s, without a word about it", strerror(-err));
	again = fault_clone(trial->dev, false);
	err = fault_open(&probe, again, &plain);
	if (err == 0) { // superblock copies may be missing
		fs_destroy_context(probe.work.fs);
		err2 = volume_close(probe.vol);
		ok = (err2 == 0 && fault_fsck(again, "-y") <= 1 && fault_fsck(again, "-n") == 0) ||
		     fault_wrong(trial, "half a format mounts but is no good volume");
	} else if (err != -EUCLEAN && err != -EINVAL && err != -EMEDIUMTYPE) {
		ok = fault_wrong(trial, "opening half a format: %s", strerror(-err));
	}
	if (ok && (volume_format(again, &params, &why) != 0 || fault_fsck(again, "-n") != 0))
		ok = fault_wrong(trial, "formatting again: %s", why.text);
	inject_dev_free(again);
	return ok;
}

static bool make_damage(struct trial *trial, struct bdev *dev, const char *sql)
{
	struct volume_opts opts = { .flags = VOLUME_NO_ALLOC };
	struct errmsg why = { "" };
	uint64_t id;
	int rc = volume_open(dev, &opts, &trial->vol, &why);

	if (rc == 0)
		rc = txn_begin(trial->vol, TXN_FREE, &id);
	if (rc != 0)
		return fault_wrong(trial, "damage: %s", why.text);
	store_lock(trial->vol->store);
	if (sqlite3_exec(store_db(trial->vol->store), sql, NULL, NULL, NULL) != SQLITE_OK)
		fault_wrong(trial, "damage: %s", sqlite3_errmsg(store_db(trial->vol->store)));
	store_unlock(trial->vol->store);
	txn_end(trial->vol);
	rc = volume_close(trial->vol);
	trial->vol = NULL;
	return rc == 0 && trial->why[0] == '\0';
}

// R6. fsck(8): 4 = errors left, 8 = could not be carried out. What cannot be read is an error of the volume, if one likes; being
// out of memory is not.
static bool is_fsck_answer(int status)
{
	enum fault_kind kind = inject_state()->kind;
	int may = kind == FAULT_READ || kind == FAULT_VFS ? 4 | 8 : 8;

	return has_fired() && (status & may) != 0 && status < 16;
}

static bool run_fsck(struct trial *trial)
{
	const struct scenario *sc = trial->ref->sc;
	uint64_t n_written = atomic_load(&trial->dev->n_writes);
	int status, second;
	bool ok = true;

	rearm();
	status = fault_fsck(trial->dev, sc->fsck_mode);
	inject_disarm();
	if (status != sc->fsck_status && !is_fsck_answer(status))
		return fault_wrong(trial, "fsck %s exits with %d", sc->fsck_mode, status);
	if (strcmp(sc->fsck_mode, "-n") == 0)
		return atomic_load(&trial->dev->n_writes) == n_written || fault_wrong(trial, "fsck -n has written");
	if (!judge_device(trial))
		return false;
	for (int only_durable = 0; ok && only_durable < 2; only_durable++) {
		struct bdev *image = fault_clone(trial->dev, only_durable != 0);

		second = status == sc->fsck_status ? 0 : fault_fsck(image, "-y");
		ok = second <= 1 ? judge_image(trial, image, "after the repair") :
		                   fault_wrong(trial, "the second fsck -y exits with %d", second);
		inject_dev_free(image);
	}
	return ok;
}

// ---- all kinds ----

static void run_begin(struct trial *trial, const struct reference *ref, char *why)
{
	*trial = (struct trial){ .ref = ref, .why = why };
	why[0] = '\0';
	trial->dev = fault_clone(ref->start, false);
	inject_pause();
	testdev_record(trial->dev, true);
	inject_resume();
}

static bool run_armed_part(struct trial *trial)
{
	switch (trial->ref->sc->kind) {
	case RUN_FORMAT:
		return run_format(trial);
	case RUN_SESSION:
		return run_session(trial);
	case RUN_FSCK:
		return run_fsck(trial);
	}
	return false;
}

// Blocks of memory that nobody will free. The harness keeps nothing beyond a case.
static long n_lost(uint64_t live_before)
{
#ifdef __SANITIZE_ADDRESS__
	(void)live_before;
	return __lsan_do_recoverable_leak_check();
#else
	return (long)(atomic_load(&inject_state()->live) - live_before);
#endif
}

bool run_case(const struct reference *ref, char *why)
{
	uint64_t live = atomic_load(&inject_state()->live);
	struct trial trial;
	long lost;
	bool ok;

	inject_state()->base = __builtin_return_address(0);
	run_begin(&trial, ref, why);
	ok = run_armed_part(&trial);
	inject_disarm();
	inject_dev_free(trial.dev);
	lost = ok ? n_lost(live) : 0;
	if (lost != 0)
		ok = fault_wrong(&trial, "%ld blocks of memory were not freed", lost);
	return ok;
}

static void flatten(struct reference *ref)
{
	for (const struct op *op = ref->sc->ops; op != NULL && op->name != NULL; op++)
		for (unsigned i = 0; i < (op->times > 0 ? op->times : 1); i++) {
			VERIFY(ref->n_steps < STEPS_MAX);
			ref->step[ref->n_steps++] = (struct step){ op, i };
		}
}

// The tree of a scenario without steps: what is mounted at its end.
static bool note_end(struct trial *trial, struct bdev *dev)
{
	struct scenario plain = { .name = "mount" };
	struct bdev *copy = fault_clone(dev, false);
	int err = fault_open(trial, copy, &plain);
	bool ok = err == 0 || fault_wrong(trial, "mounting the reference: %s", strerror(-err));

	if (ok) {
		ok = note_tree(trial, 0);
		fs_destroy_context(trial->work.fs);
		volume_abandon(trial->vol);
	}
	inject_dev_free(copy);
	return ok;
}

// What a repair leads to.
static bool note_repaired(struct trial *trial, struct bdev *damaged)
{
	struct bdev *image = fault_clone(damaged, false);
	int status = fault_fsck(image, "-y");
	bool ok = status == trial->ref->sc->fsck_status || fault_wrong(trial, "fsck -y exits with %d, without a fault", status);

	ok = ok && note_end(trial, image);
	inject_dev_free(image);
	return ok;
}

bool run_reference(const struct scenario *sc, struct bdev *start, struct reference *ref, struct bdev **next, char *why)
{
	struct trial trial;
	bool ok;

	*ref = (struct reference){ .sc = sc };
	why[0] = '\0';
	flatten(ref);
	if (start != NULL)
		ref->start = fault_clone(start, false);
	else
		VERIFY(testdev_create(VOLUME_BYTES, &ref->start) == 0);
	if (start == NULL)
		inject_dev(ref->start);
	run_begin(&trial, ref, why);
	trial.make = ref;
	ok = sc->damage == NULL || make_damage(&trial, ref->start, sc->damage);
	if (ok && sc->damage != NULL) {
		inject_dev_free(trial.dev);
		run_begin(&trial, ref, why);
		trial.make = ref;
	}
	ok = ok && (sc->kind != RUN_FSCK || note_repaired(&trial, ref->start)) && run_armed_part(&trial);
	if (ok && sc->kind == RUN_FORMAT)
		ok = note_end(&trial, trial.dev);
	*next = fault_clone(trial.dev, false);
	inject_dev_free(trial.dev);
	return ok;
}
