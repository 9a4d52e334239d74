// SPDX-License-Identifier: MIT
// What is true after a fault: of the volume that is still open, and of the medium. All of it happens disarmed.
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/testdev.h"
#include "trial.h"
#include "util/blk.h"
#include "util/log.h"

int fsck_main(int argc, char **argv); // fsck/main.c under another name

bool fault_wrong(struct trial *trial, const char *fmt, ...)
{
	va_list args;

	if (trial->why[0] != '\0')
		return false;
	va_start(args, fmt);
	vsnprintf(trial->why, WHY_BYTES, fmt, args);
	va_end(args);
	return false;
}

// What may come out of an operation that was hit: the device's error, no memory, no thread, or the volume's being read-only.
bool fault_is_clean_errno(int err)
{
	switch (err) {
	case -EIO:
	case -EROFS:
		return true;
	case -ENOMEM: // registering a VFS fails only so
		return inject_state()->kind == FAULT_MEM || inject_state()->kind == FAULT_VFS;
	case -EAGAIN:
		return inject_state()->kind == FAULT_MEM;
	default:
		return false;
	}
}

static bool drop_all(ATTR_UNUSED void *ctx, ATTR_UNUSED size_t entry, ATTR_UNUSED uint64_t *from, ATTR_UNUSED uint64_t *to)
{
	return false;
}

struct bdev *fault_clone(struct bdev *dev, bool only_durable)
{
	struct bdev *copy = NULL;
	int err;

	inject_pause();
	if (only_durable)
		err = testdev_crash_state(dev, testdev_log_len(dev), drop_all, NULL, &copy);
	else
		err = testdev_clone(dev, &copy);
	VERIFY(err == 0);
	inject_dev(copy);
	inject_resume();
	return copy;
}

// The linker sends msg_open() here: fsck's messages go where this program's go.
void __real_msg_open(const char *prog, enum msg_sink sink, enum msg_level max);
void __wrap_msg_open(const char *prog, enum msg_sink sink, enum msg_level max);
void __wrap_msg_open(const char *prog, enum msg_sink sink, enum msg_level max)
{
	__real_msg_open(prog, inject_state()->verbose ? sink : MSG_TO_NOWHERE, max);
}

int fault_fsck(struct bdev *dev, const char *mode)
{
	char prog[] = "fsck.hybridfs", option[8], device[] = "device", *argv[] = { prog, option, device, NULL };
	bool read_only = dev->read_only;
	int status;

	snprintf(option, sizeof(option), "%s", mode);
	inject_state()->fsck_dev = dev;
	optind = 0; // glibc: from the start
	status = fsck_main(3, argv);
	dev->read_only = read_only;
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	return status;
}

int fault_open(struct trial *trial, struct bdev *dev, const struct scenario *sc)
{
	struct volume_opts opts = { .flags = sc->open_flags, .commit_interval_ms = 3600000 };
	struct fs_opts fs_opts = { .atime = FS_RELATIME, .discard = sc->discard, .trim_delay_ms = 1 };
	struct errmsg why = { "" };
	int err = volume_open(dev, &opts, &trial->vol, &why);

	if (err != 0) {
		trial->vol = NULL;
		if (why.text[0] == '\0')
			fault_wrong(trial, "volume_open: %s, without a word about it", strerror(-err));
		return err;
	}
	err = fs_create_context(trial->vol, &fs_opts, &trial->work.fs);
	if (err != 0) {
		volume_abandon(trial->vol);
		trial->vol = NULL;
	}
	return err;
}

// ---- trees ----

static bool tree_is_expected(const struct trial *trial, const char *tree)
{
	const struct op *op = trial->partial;

	for (unsigned i = trial->low; i <= trial->high; i++)
		if (strcmp(tree, trial->ref->tree[i].at) == 0)
			return true;
	return op != NULL && (tree_alike(tree, trial->ref->tree[trial->high].at, op->path, op->path2) ||
	                      tree_alike(tree, trial->ref->tree[trial->high - 1].at, op->path, op->path2));
}

static bool expect_tree(struct trial *trial, struct fs *fs, const char *where)
{
	struct text tree = { 0 };
	int err = tree_text(fs, &tree);
	bool ok = err == 0 && tree_is_expected(trial, tree.at);

	if (err != 0)
		fault_wrong(trial, "%s: reading the tree: %s after\n%s", where, strerror(-err), tree.at != NULL ? tree.at : "");
	else if (!ok)
		fault_wrong(trial, "%s: the tree is none of states %u to %u. Found:\n%swith state %u:\n%s", where, trial->low, trial->high,
		            tree.at, trial->high, trial->ref->tree[trial->high].at);
	text_free(&tree);
	return ok;
}

bool judge_device(struct trial *trial)
{
	unsigned n = atomic_load(&inject_state()->n_after_failure);

	return n == 0 || fault_wrong(trial, "%u writes or flushes reached the device after it had failed", n);
}

bool judge_live(struct trial *trial)
{
	bool failed = atomic_load(&inject_state()->failed_dev) == trial->dev;
	int answers[32], n;

	if (failed) {
		n = try_everything(trial->work.fs, answers, 32);
		for (int i = 0; i < n; i++)
			if (answers[i] != -EROFS && answers[i] != -EIO && !(i == n - 1 && answers[i] == 0))
				return fault_wrong(trial, "the device has failed, but change %d answers %d", i, answers[i]);
	}
	return expect_tree(trial, trial->work.fs, "the volume while it is open");
}

bool judge_image(struct trial *trial, struct bdev *image, const char *what)
{
	struct scenario plain = { .name = "mount" };
	struct trial mount = { .ref = trial->ref, .why = trial->why };
	int status = fault_fsck(image, "-n"), err;
	bool ok;

	if (status != 0)
		return fault_wrong(trial, "%s: fsck -n exits with %d", what, status);
	err = fault_open(&mount, image, &plain);
	if (err != 0)
		return fault_wrong(trial, "%s: does not mount: %s", what, strerror(-err));
	ok = expect_tree(trial, mount.work.fs, what);
	fs_destroy_context(mount.work.fs);
	err = volume_close(mount.vol);
	return err == 0 ? ok : fault_wrong(trial, "%s: closing after the mount: %s", what, strerror(-err));
}

bool judge_medium(struct trial *trial)
{
	static const char *const what[2] = { "the medium", "the medium without what was not flushed" };
	bool ok = true;

	for (int only_durable = 0; ok && only_durable < 2; only_durable++) {
		struct bdev *image = fault_clone(trial->dev, only_durable != 0);

		ok = judge_image(trial, image, what[only_durable]);
		inject_dev_free(image);
	}
	return ok;
}
