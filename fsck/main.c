// SPDX-License-Identifier: MIT
// fsck.hybridfs: options, opening the volume, the summary and the exit status. fsck.h says how the check works.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fsck/control.h"
#include "fsck/fsck.h"
#include "fsck/mounted.h"
#include "fsck/sql.h"
#include "util/cmdline.h"
#include "util/log.h"

#define WAIT_MS 10000 // for a daemon that still writes after umount

static const struct cmdline_opt options[] = {
	{ 'n', "no", NULL, "answer no to everything; open the volume read-only" },
	{ 'p', "preen", NULL, "repair what is harmless without asking; a short check unless -f" },
	{ 'a', "auto", NULL, "the same as -p" },
	{ 'y', "yes", NULL, "answer yes to everything" },
	{ 'f', "force", NULL, "check everything even with -p; repair over another filesystem" },
	{ 's', "scrub", NULL, "check everything, then read all files and verify their checksums" },
	{ 'o', "online", NULL, "check a mounted volume, given by its mount point; nothing is repaired" },
	{ 'r', "rate", "MIB", "with --online --scrub: read at most so many MiB a second (default 50)" },
	{ 'v', "verbose", NULL, "print more, and the identifier of each problem" },
	{ 'C', "progress", "FD", "write progress to this descriptor; 0 draws a bar on the terminal" },
	CMDLINE_VERSION,
	CMDLINE_HELP,
	{ 0 },
};

static const struct cmdline cmdline = {
	.prog = "fsck.hybridfs",
	.operands = "DEVICE | --online MOUNTPOINT",
	.about = "Check a HybridFS volume and repair it. Asks before each repair unless -n, -p or -y is given.",
	.opts = options,
	.notes = "Exit status, added up: 0 no errors, 1 errors corrected, 4 errors left, 8 operational error, 16 usage,\n"
	         "32 cancelled.",
};

// The only way to reach a signal handler.
static volatile sig_atomic_t stop_wanted;

static void on_signal(int sig)
{
	(void)sig;
	stop_wanted = 1;
}

static void catch_signals(void)
{
	struct sigaction act = { .sa_handler = on_signal }; // no SA_RESTART: a question on the terminal ends

	sigaction(SIGINT, &act, NULL);
	sigaction(SIGTERM, &act, NULL);
	signal(SIGPIPE, SIG_IGN); // a reader of the progress that goes away
}

// ---- options ----

struct command { // what is not in struct fsck
	bool chosen; // a mode
	bool online;
	uint32_t rate_mib;
};

static int choose_mode(struct fsck *f, bool *chosen, enum fsck_mode mode)
{
	if (*chosen && f->mode != mode) {
		msg_error("only one of the options -n, -p (-a) and -y may be given");
		return -EINVAL;
	}
	*chosen = true;
	f->mode = mode;
	return 0;
}

static int choose_rate(struct command *cmd, const char *arg)
{
	char *end;
	long rate = strtol(arg, &end, 10);

	if (*arg == '\0' || *end != '\0' || rate < 1 || rate > (long)CONTROL_RATE_MAX_MIB) {
		msg_error("--rate '%s': not a number of MiB a second", arg);
		return -EINVAL;
	}
	cmd->rate_mib = (uint32_t)rate;
	return 0;
}

static int choose_progress(struct fsck *f, const char *arg)
{
	char *end;
	long fd = strtol(arg, &end, 10);

	if (*arg == '\0' || *end != '\0' || fd < 0 || fd > 1 << 20) {
		msg_error("-C '%s': not a file descriptor", arg);
		return -EINVAL;
	}
	if (fd == 0) {
		f->progress.kind = isatty(STDOUT_FILENO) ? PROGRESS_BAR : PROGRESS_OFF;
		return 0;
	}
	if (fcntl((int)fd, F_GETFD) < 0) {
		msg_error("-C %ld: this descriptor is not open", fd);
		return -EINVAL;
	}
	f->progress.kind = PROGRESS_LINES;
	f->progress.fd = (int)fd;
	return 0;
}

static int take_option(struct fsck *f, int letter, struct command *cmd)
{
	switch (letter) {
	case 'n':
		return choose_mode(f, &cmd->chosen, FSCK_NO);
	case 'p':
	case 'a':
		return choose_mode(f, &cmd->chosen, FSCK_PREEN);
	case 'y':
		return choose_mode(f, &cmd->chosen, FSCK_YES);
	case 'f':
		f->force = true;
		return 0;
	case 's':
		f->scrub = true;
		return 0;
	case 'o':
		cmd->online = true;
		return 0;
	case 'r':
		return choose_rate(cmd, optarg);
	case 'v':
		f->verbose = true;
		return 0;
	case 'C':
		return choose_progress(f, optarg);
	default:
		return -EINVAL; // getopt has said it
	}
}

// 0 = go on, 1 = done (help, version), negative errno.
static int parse_options(struct fsck *f, int argc, char **argv, struct command *cmd)
{
	int letter, err;

	while ((letter = cmdline_next(&cmdline, argc, argv)) != -1) {
		if (letter == 'h' || letter == 'V') {
			if (letter == 'h')
				cmdline_help(&cmdline, stdout);
			else
				cmdline_version(&cmdline);
			return 1;
		}
		err = take_option(f, letter, cmd);
		if (err != 0)
			return err;
	}
	if (optind + 1 != argc) {
		msg_error(optind == argc ? "no device or image file given" : "more than one device given");
		return -EINVAL;
	}
	f->device = argv[optind];
	if (cmd->online && (f->force || (cmd->chosen && f->mode != FSCK_NO))) {
		msg_error("--online repairs nothing: unmount the volume for -p, -y or -f");
		return -EINVAL;
	}
	if (cmd->rate_mib != 0 && !(cmd->online && f->scrub)) {
		msg_error("--rate is for --online --scrub");
		return -EINVAL;
	}
	return 0;
}

// ---- the work ----

static int open_device(struct fsck *f)
{
	int err = bdev_open_file(f->device, f->mode == FSCK_NO ? BDEV_READ_ONLY : 0, WAIT_MS, &f->dev, &f->why);

	if (err != 0 || f->mode == FSCK_NO || !f->dev->read_only)
		return err;
	errmsg_set(&f->why, "%s may only be read: use -n to check without repairing", f->device);
	return -EROFS;
}

// A volume whose database does not open has errors: it is written anew, or they stay. That is an answer, not a failure of fsck.
static int open_volume(struct fsck *f, bool *opened)
{
	char *advice, text[sizeof(f->why.text)];
	int err = fsck_open(f);

	*opened = err == 0;
	if (err != -EUCLEAN)
		return err;
	advice = strstr(f->why.text, "; run fsck");
	if (advice != NULL)
		*advice = '\0';
	memcpy(text, f->why.text, sizeof(text));
	f->why.text[0] = '\0';
	if (!PROBLEM(f, FP_DB_OPEN, .text = text))
		return 0;
	err = salvage(f, opened);
	return err == 0 && *opened ? fsck_open(f) : err;
}

// Problems that stay leave a mark: the next -p makes a full check again. A full check without leftovers takes it away.
static int update_mark(struct fsck *f)
{
	int64_t marked = 0, mark = f->n_left > 0 ? 1 : 0;
	int err;

	if (!fsck_repairs(f) || f->db_damaged || (mark == 0 && fsck_stopping(f)))
		return 0;
	err = fsck_begin(f);
	if (err != 0)
		return err;
	err = store_config_get(f->vol->store, "errors", &marked);
	if (err == -ENOENT)
		err = 0;
	if (err == 0 && marked != mark) {
		f->changes++;
		err = store_config_set(f->vol->store, "errors", mark);
	}
	if (err == 0)
		return fsck_end(f);
	store_unlock(f->vol->store);
	return err;
}

static int check_volume(struct fsck *f, bool *quick)
{
	int err = fsck_read_last_txn(f);

	*quick = err == 0 && f->mode == FSCK_PREEN && !f->force && !f->scrub && f->n_left == 0 && fsck_looks_clean(f);
	if (err != 0 || *quick)
		return err;
	err = fsck_check(f);
	f->n_inodes = f->inodes.n;
	f->used_blk = f->owned.claimed_blk;
	if (err == 0)
		err = update_mark(f);
	return err == 0 && f->scrub && !f->db_damaged && !fsck_stopping(f) ? scrub(f) : err;
}

static int close_volume(struct fsck *f, int err)
{
	int close_err;

	if (f->vol == NULL)
		return err;
	if (err != 0) {
		volume_abandon(f->vol);
		return err;
	}
	close_err = volume_close(f->vol);
	if (close_err != 0 && f->why.text[0] == '\0')
		errmsg_set(&f->why, "%s: %s", f->device, strerror(-close_err));
	return close_err;
}

static int run(struct fsck *f)
{
	bool opened = false, quick = false, complete;
	int err = open_device(f);

	if (err == 0)
		err = phase_superblock(f);
	if (err == 0 && !fsck_stopping(f))
		err = open_volume(f, &opened);
	if (err == 0 && opened)
		err = check_volume(f, &quick);
	err = close_volume(f, err);
	complete = err == 0 && opened && !fsck_stopping(f) && !f->db_damaged;
	if (complete)
		fsck_print_summary(f, quick);
	fsck_free(f);
	bdev_close(f->dev);
	return err;
}

static int run_offline(struct fsck *f)
{
	int err = run(f);

	fflush(stdout);
	if (err != 0)
		msg_error("%s", f->why.text[0] != '\0' ? f->why.text : strerror(-err));
	if (stop_wanted)
		msg_warn("cancelled: repairs that were finished are on the device");
	return fsck_exit_status(f, err);
}

static int run_online(struct fsck *f, uint32_t rate_mib)
{
	unsigned status = EXIT_CLEAN;
	int err = mounted_check(f, rate_mib, &status);

	if (f->why.text[0] != '\0')
		msg_error("%s", f->why.text);
	if (stop_wanted)
		msg_warn("cancelled");
	return (int)status | (err != 0 ? EXIT_OPERATIONAL : 0) | (stop_wanted ? EXIT_CANCELLED : 0);
}

int main(int argc, char **argv)
{
	struct fsck *f = calloc(1, sizeof(*f));
	struct command cmd = { 0 };
	int err, status;

	msg_open(cmdline.prog, MSG_TO_STDERR, MSG_WARN);
	if (f == NULL) {
		msg_error("%s", strerror(ENOMEM));
		return EXIT_OPERATIONAL;
	}
	f->mode = FSCK_ASK;
	f->stop = &stop_wanted;
	err = parse_options(f, argc, argv, &cmd);
	if (err != 0) {
		if (err < 0)
			cmdline_hint(&cmdline);
		free(f);
		return err == 1 ? EXIT_CLEAN : EXIT_USAGE;
	}
	if (!cmd.online && f->mode == FSCK_ASK && (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))) {
		msg_error("there is no terminal to ask on: use -n, -p or -y");
		free(f);
		return EXIT_OPERATIONAL;
	}
	catch_signals();
	status = cmd.online ? run_online(f, cmd.rate_mib) : run_offline(f);
	free(f);
	return status;
}
