// SPDX-License-Identifier: MIT
// mkfs.hybridfs: makes a volume on a block device or in an image file. See mkfs.h for the order of work.
//
// Exit status: 0 made (or, with -n, could be made), 1 anything else.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uuid.h>

#include "block/superblock.h"
#include "meta/volume.h"
#include "mkfs/mkfs.h"
#include "mkfs/populate.h"
#include "util/blk.h"
#include "util/cmdline.h"
#include "util/log.h"
#include "util/size.h"

static const struct cmdline_opt options[] = {
	{ 'L', "label", "LABEL", "name of the volume, up to 63 bytes" },
	{ 'U', "uuid", "UUID", "identity of the volume [random]" },
	{ 's', "size", "SIZE", "size of the volume, 20G for example; creates the image if there is none" },
	{ 'd', "rootdir", "DIR", "fill the volume with a copy of this directory" },
	{ 'f', "force", NULL, "overwrite another filesystem or partition table; resize an existing image" },
	{ 'K', "nodiscard", NULL, "do not discard (trim, punch out) the old blocks first" },
	{ 'n', "dry-run", NULL, "say what would be made, write nothing" },
	{ 'q', "quiet", NULL, "print errors only" },
	{ 'v', "verbose", NULL, "print more" },
	CMDLINE_VERSION,
	CMDLINE_HELP,
	{ 0 },
};

static const struct cmdline cmdline = {
	.prog = "mkfs.hybridfs",
	.operands = "DEVICE",
	.about = "Make a HybridFS volume on a block device or in an image file.",
	.opts = options,
	.notes = "SIZE takes K, M, G, T, P (powers of 1024). Mount the volume with: hybridfs DEVICE MOUNTPOINT",
};

// ---- signals ----

// The only way to reach a signal handler.
static volatile sig_atomic_t stop_wanted;

static void on_signal(int sig)
{
	(void)sig;
	stop_wanted = 1;
}

static void catch_signals(void)
{
	struct sigaction act = { .sa_handler = on_signal };

	sigaction(SIGINT, &act, NULL);
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGHUP, &act, NULL);
}

// ---- options ----

static int bad_value(const char *what, const char *value, const char *hint)
{
	msg_error("%s '%s': %s", what, value, hint);
	return -EINVAL;
}

static int take_option(struct mkfs_config *cfg, int letter, char *arg)
{
	switch (letter) {
	case 'L':
		if (strlen(arg) > SB_LABEL_MAX)
			return bad_value("label", arg, "at most 63 bytes");
		cfg->label = arg;
		return 0;
	case 'U':
		return uuid_parse(arg, cfg->uuid) == 0 ? 0 : bad_value("UUID", arg, "not a UUID");
	case 's':
		if (size_parse(arg, &cfg->size_bytes) != 0)
			return bad_value("size", arg, "not a size; for example 512M or 20G");
		return cfg->size_bytes >= SB_MIN_VOLUME_BYTES ? 0 : bad_value("size", arg, "at least 8M");
	case 'd':
		cfg->dir = arg;
		return 0;
	case 'f':
		cfg->force = true;
		return 0;
	case 'K':
		cfg->keep_blocks = true;
		return 0;
	case 'n':
		cfg->dry_run = true;
		return 0;
	case 'q':
		cfg->quiet = true;
		return 0;
	case 'v':
		cfg->verbose = true;
		return 0;
	default:
		return -EINVAL; // getopt has said it
	}
}

// 0 = go on, 1 = done (help, version), negative errno.
static int parse_options(struct mkfs_config *cfg, int argc, char **argv)
{
	int letter, rc;

	while ((letter = cmdline_next(&cmdline, argc, argv)) != -1) {
		if (letter == 'h' || letter == 'V') {
			if (letter == 'h')
				cmdline_help(&cmdline, stdout);
			else
				cmdline_version(&cmdline);
			return 1;
		}
		rc = take_option(cfg, letter, optarg);
		if (rc != 0)
			return rc;
	}
	if (optind + 1 != argc) {
		msg_error(optind == argc ? "no device or image file given" : "more than one device given");
		return -EINVAL;
	}
	cfg->device = argv[optind];
	return 0;
}

// Before anything is touched: a missing source should not cost the user what is on the target.
static int check_source(const struct mkfs_config *cfg, struct errmsg *why)
{
	struct stat st;
	int err = 0;

	if (cfg->dir == NULL)
		return 0;
	if (stat(cfg->dir, &st) != 0)
		err = errno;
	else if (!S_ISDIR(st.st_mode))
		err = ENOTDIR;
	else if (access(cfg->dir, R_OK | X_OK) != 0)
		err = errno;
	if (err != 0)
		errmsg_set(why, "%s: %s", cfg->dir, strerror(err));
	return -err;
}

// ---- the work ----

static void print_summary(const struct mkfs_config *cfg, const struct superblock *sb)
{
	char size[SIZE_TEXT_LEN], ms_size[SIZE_TEXT_LEN], reserve[SIZE_TEXT_LEN], uuid[UUID_STR_LEN];
	uint64_t reserve_blk = volume_reserve_blk(sb->n_blks);

	uuid_unparse(cfg->uuid, uuid);
	printf("%s: %s HybridFS volume%s\n", cfg->device, size_format(blk_to_bytes(sb->n_blks), size),
	       cfg->dry_run ? " (dry run: nothing was written)" : "");
	printf("  label      %s\n", cfg->label != NULL ? cfg->label : "(none)");
	printf("  UUID       %s\n", uuid);
	printf("  blocks     %llu of 4 KiB\n", (unsigned long long)sb->n_blks);
	printf("  metaslabs  %u of %s\n", sb_n_metaslabs(sb), size_format(blk_to_bytes(1ull << sb->ms_shift), ms_size));
	printf("  reserve    %llu blocks (%s) for metadata\n", (unsigned long long)reserve_blk,
	       size_format(blk_to_bytes(reserve_blk), reserve));
}

static int fill(const struct mkfs_config *cfg, struct target *t, struct errmsg *why)
{
	static const struct volume_opts opts = { 0 };
	struct volume *vol;
	int rc;

	if (cfg->dir == NULL)
		return 0;
	rc = volume_open(t->dev, &opts, &vol, why);
	if (rc != 0)
		return rc;
	rc = populate(cfg, vol, why);
	if (rc != 0) {
		volume_abandon(vol);
		return rc;
	}
	rc = volume_close(vol);
	if (rc != 0)
		errmsg_set(why, "%s: the volume cannot be written: %s", cfg->device, strerror(-rc));
	return rc;
}

static int make_volume(const struct mkfs_config *cfg, struct target *t, struct errmsg *why)
{
	struct volume_params params = {
		.label = cfg->label,
		.uuid = cfg->uuid,
		.size_bytes = t->volume_bytes,
		.root_uid = getuid(),
		.root_gid = getgid(),
		.discard = !cfg->keep_blocks && !t->was_blank,
	};
	int rc = target_wipe(cfg, t, why);

	if (rc == 0)
		rc = volume_format(t->dev, &params, why);
	if (rc == 0)
		rc = fill(cfg, t, why);
	if (rc == 0 && stop_wanted) {
		errmsg_set(why, "interrupted");
		rc = -EINTR;
	}
	if (rc != 0)
		target_fail(cfg, t);
	return rc;
}

static int run(const struct mkfs_config *cfg, struct errmsg *why)
{
	struct superblock *sb = calloc(1, sizeof(*sb));
	struct target target;
	int rc;

	if (sb == NULL) {
		errmsg_set(why, "%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	rc = check_source(cfg, why);
	if (rc == 0)
		rc = target_open(cfg, &target, why);
	if (rc != 0)
		goto out;
	rc = sb_geometry(target.volume_bytes, sb, why);
	if (rc != 0 && target.created)
		target_fail(cfg, &target);
	if (rc == 0 && !cfg->dry_run)
		rc = make_volume(cfg, &target, why);
	target_close(&target);
	if (rc == 0 && !cfg->quiet)
		print_summary(cfg, sb);
out:
	free(sb);
	return rc;
}

int main(int argc, char **argv)
{
	struct mkfs_config cfg = { .stop = &stop_wanted };
	struct errmsg why = { .text = "failed" };
	int rc;

	msg_open(cmdline.prog, MSG_TO_STDERR, MSG_WARN);
	uuid_generate_random(cfg.uuid);
	rc = parse_options(&cfg, argc, argv);
	if (rc == 1)
		return 0;
	if (rc != 0) {
		cmdline_hint(&cmdline);
		return 1;
	}
	msg_open(cmdline.prog, MSG_TO_STDERR, cfg.verbose ? MSG_INFO : MSG_WARN);
	catch_signals();
	rc = run(&cfg, &why);
	if (rc != 0)
		msg_error("%s", why.text);
	return rc == 0 ? 0 : 1;
}
