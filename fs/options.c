// SPDX-License-Identifier: MIT
// Parsing the command line. Mount options are one table: a name, and what it does.
//
// What mount(8) and fstab put there for themselves (noauto, _netdev, x-systemd.…) must be accepted and means nothing here. Anything
// unknown is refused: a misspelt "noexec" that is ignored is a security problem.
#include "fs/options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COMMIT_MAX_S 3600
#define POLL_AUTO_US 200
#define POLL_MAX_US 10000

enum opt_kind {
	OPT_IGNORE,      // for mount(8) itself, or what we do in any case
	OPT_KERNEL,      // handed on to the mount
	OPT_RO, OPT_RW,
	OPT_NOATIME, OPT_RELATIME, OPT_STRICTATIME,
	OPT_DIRATIME, OPT_NODIRATIME,
	OPT_ACL, OPT_NOACL,
	OPT_ALLOW_OTHER,
	OPT_WRITEBACK,
	OPT_COMMIT,
	OPT_DISCARD, OPT_NODISCARD, OPT_NODATACOW,
	OPT_POLL, OPT_TRANSPORT,
	OPT_ALLOC,
	OPT_REMOUNT,
	OPT_NORECOVERY,
};

struct opt {
	const char *name; // ends with '=' if a value must follow; with '*' if anything may
	enum opt_kind kind;
};

static const struct opt opt_table[] = {
	{ "ro", OPT_RO },
	{ "rw", OPT_RW },
	{ "norecovery", OPT_NORECOVERY },
	{ "noatime", OPT_NOATIME },
	{ "relatime", OPT_RELATIME },
	{ "strictatime", OPT_STRICTATIME },
	{ "diratime", OPT_DIRATIME },
	{ "nodiratime", OPT_NODIRATIME },
	{ "acl", OPT_ACL },
	{ "noacl", OPT_NOACL },
	{ "allow_other", OPT_ALLOW_OTHER },
	{ "writeback", OPT_WRITEBACK },
	{ "commit=", OPT_COMMIT },
	{ "discard", OPT_DISCARD },
	{ "nodiscard", OPT_NODISCARD },
	{ "nodatacow", OPT_NODATACOW },
	{ "poll=", OPT_POLL },
	{ "transport=", OPT_TRANSPORT },
	{ "alloc=", OPT_ALLOC },
	{ "remount", OPT_REMOUNT },
	{ "suid", OPT_KERNEL },
	{ "nosuid", OPT_KERNEL },
	{ "dev", OPT_KERNEL },
	{ "nodev", OPT_KERNEL },
	{ "exec", OPT_KERNEL },
	{ "noexec", OPT_KERNEL },
	{ "sync", OPT_KERNEL },
	{ "async", OPT_KERNEL },
	{ "_netdev", OPT_IGNORE },
	{ "atime", OPT_IGNORE },
	{ "auto", OPT_IGNORE },
	{ "comment=", OPT_IGNORE },
	{ "default_permissions", OPT_IGNORE },
	{ "defaults", OPT_IGNORE },
	{ "fsname=", OPT_IGNORE },
	{ "group", OPT_IGNORE },
	{ "lazytime", OPT_IGNORE },
	{ "loop*", OPT_IGNORE },
	{ "noauto", OPT_IGNORE },
	{ "nofail", OPT_IGNORE },
	{ "nolazytime", OPT_IGNORE },
	{ "nouser", OPT_IGNORE },
	{ "owner", OPT_IGNORE },
	{ "subtype=", OPT_IGNORE },
	{ "user", OPT_IGNORE },
	{ "user=", OPT_IGNORE },
	{ "users", OPT_IGNORE },
	{ "x-*", OPT_IGNORE },
	{ "X-*", OPT_IGNORE },
};

static bool opt_matches(const struct opt *opt, const char *word)
{
	size_t len = strlen(opt->name);

	switch (opt->name[len - 1]) {
	case '=':
		return strncmp(word, opt->name, len) == 0;
	case '*':
		return strncmp(word, opt->name, len - 1) == 0;
	default:
		return strcmp(word, opt->name) == 0;
	}
}

static int add_kernel(struct options *o, const char *word)
{
	size_t used = strlen(o->kernel);
	int n = snprintf(o->kernel + used, sizeof(o->kernel) - used, "%s%s", used > 0 ? "," : "", word);

	return n >= 0 && (size_t)n < sizeof(o->kernel) - used ? 0 : -EINVAL;
}

static bool parse_number(const char *text, unsigned min, unsigned max, unsigned *out)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || *end != '\0' || errno != 0 || n < min || n > max)
		return false;
	*out = (unsigned)n;
	return true;
}

static int parse_commit(struct options *o, const char *text, struct errmsg *why)
{
	if (parse_number(text, 1, COMMIT_MAX_S, &o->commit_s))
		return 0;
	errmsg_set(why, "commit=%s: give a number of seconds from 1 to %d", text, COMMIT_MAX_S);
	return -EINVAL;
}

static int parse_poll(struct options *o, const char *text, struct errmsg *why)
{
	o->poll_us = POLL_AUTO_US;
	if (strcmp(text, "off") == 0)
		o->poll_us = 0;
	else if (strcmp(text, "auto") != 0 && !parse_number(text, 0, POLL_MAX_US, &o->poll_us)) {
		errmsg_set(why, "poll=%s: give auto, off, or a number of microseconds up to %d", text, POLL_MAX_US);
		return -EINVAL;
	}
	return 0;
}

static int parse_transport(struct options *o, const char *text, struct errmsg *why)
{
	static const char *const names[] = {
		[TRANSPORT_AUTO] = "auto",
		[TRANSPORT_URING] = "uring",
		[TRANSPORT_DEV] = "dev",
	};

	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		if (strcmp(text, names[i]) == 0) {
			o->transport = (enum transport_kind)i;
			return 0;
		}
	}
	errmsg_set(why, "transport=%s: give auto, uring or dev", text);
	return -EINVAL;
}

static int parse_alloc(struct options *o, const char *text, struct errmsg *why)
{
	char names[128] = "";

	o->engine = engine_by_name(text);
	if (o->engine != NULL)
		return 0;
	for (unsigned i = 0; engines[i] != NULL; i++) {
		size_t used = strlen(names);

		snprintf(names + used, sizeof(names) - used, "%s%s", i > 0 ? ", " : "", engines[i]->name);
	}
	errmsg_set(why, "alloc=%s: give one of %s", text, names);
	return -EINVAL;
}

static int apply_opt(struct options *o, const struct opt *opt, const char *word, struct errmsg *why)
{
	switch (opt->kind) {
	case OPT_IGNORE:
		return 0;
	case OPT_KERNEL:
		if (add_kernel(o, word) == 0)
			return 0;
		errmsg_set(why, "too many mount options");
		return -EINVAL;
	case OPT_RO:
	case OPT_RW:
		o->read_only = opt->kind == OPT_RO;
		return 0;
	case OPT_NORECOVERY:
		o->norecovery = true;
		return 0;
	case OPT_NOATIME:
		o->atime = FS_NOATIME;
		return 0;
	case OPT_RELATIME:
		o->atime = FS_RELATIME;
		return 0;
	case OPT_STRICTATIME:
		o->atime = FS_STRICTATIME;
		return 0;
	case OPT_DIRATIME:
	case OPT_NODIRATIME:
		o->nodiratime = opt->kind == OPT_NODIRATIME;
		return 0;
	case OPT_ACL:
	case OPT_NOACL:
		o->noacl = opt->kind == OPT_NOACL;
		return 0;
	case OPT_ALLOW_OTHER:
		o->allow_other = true;
		return 0;
	case OPT_WRITEBACK:
		o->writeback = true;
		return 0;
	case OPT_DISCARD:
	case OPT_NODISCARD:
		o->discard = opt->kind == OPT_DISCARD;
		return 0;
	case OPT_NODATACOW:
		o->nodatacow = true;
		return 0;
	case OPT_COMMIT:
		return parse_commit(o, strchr(word, '=') + 1, why);
	case OPT_POLL:
		return parse_poll(o, strchr(word, '=') + 1, why);
	case OPT_TRANSPORT:
		return parse_transport(o, strchr(word, '=') + 1, why);
	case OPT_ALLOC:
		return parse_alloc(o, strchr(word, '=') + 1, why);
	case OPT_REMOUNT:
		errmsg_set(why, "the daemon's options cannot change while it runs: unmount and mount again "
		           "(for the kernel's own options: mount -i -o remount,…)");
		return -EINVAL;
	}
	return -EINVAL;
}

// `list` is cut in place, as getopt's users may do with their argv.
static int parse_mount_options(struct options *o, char *list, struct errmsg *why)
{
	char *save = NULL;
	size_t i;
	int rc;

	for (char *word = strtok_r(list, ",", &save); word != NULL; word = strtok_r(NULL, ",", &save)) {
		for (i = 0; i < ARRAY_LEN(opt_table) && !opt_matches(&opt_table[i], word); i++)
			;
		if (i == ARRAY_LEN(opt_table)) {
			if (o->sloppy)
				continue;
			errmsg_set(why, "unknown mount option '%s': see hybridfs --help", word);
			return -EINVAL;
		}
		rc = apply_opt(o, &opt_table[i], word, why);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static bool called_as_helper(const char *argv0)
{
	const char *slash = strrchr(argv0, '/');

	return strncmp(slash != NULL ? slash + 1 : argv0, "mount.", 6) == 0;
}

static int operands(int argc, char **argv, struct options *o, struct errmsg *why)
{
	if (argc - optind != 2) {
		errmsg_set(why, "%s: see hybridfs --help",
		           argc - optind < 2 ? "a device and a mount point are needed"
		                             : "too many arguments: one device and one mount point are needed");
		return -EINVAL;
	}
	o->device = argv[optind];
	o->mountpoint = argv[optind + 1];
	return 0;
}

static const struct option long_options[] = {
	{ "debug", no_argument, NULL, 'd' },
	{ "foreground", no_argument, NULL, 'f' },
	{ "help", no_argument, NULL, 'h' },
	{ "options", required_argument, NULL, 'o' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

// What mount(8) hands to a helper beyond our own options. False: not one of these.
static bool helper_option(struct options *o, int c)
{
	switch (c) {
	case 'f':
		o->fake = true;
		return true;
	case 's':
		o->sloppy = true;
		return true;
	case 'N':
		o->ns = optarg;
		return true;
	case 'n': // there is no mtab to keep
	case 'v':
	case 't':
		return true;
	default:
		return false;
	}
}

// False: unknown.
static bool own_option(struct options *o, int c)
{
	switch (c) {
	case 'd':
		o->debug = true;
		o->foreground = true;
		return true;
	case 'f':
		o->foreground = true;
		return true;
	case 'h':
		o->action = OPTIONS_HELP;
		return true;
	case 'V':
		o->action = OPTIONS_VERSION;
		return true;
	default:
		return false;
	}
}

static int parse_switches(int argc, char **argv, struct options *o, char **list, struct errmsg *why)
{
	const char *accepted = o->helper ? ":sfnvhVN:o:t:" : ":dfhVo:";
	char *joined;
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, accepted, long_options, NULL)) != -1) {
		if (c == 'o') { // several -o are one list; parsed at the end, when -s is known
			if (asprintf(&joined, "%s%s%s", *list != NULL ? *list : "", *list != NULL ? "," : "", optarg) < 0)
				return -ENOMEM;
			free(*list);
			*list = joined;
		} else if (c == ':') {
			errmsg_set(why, "option %s needs a value: see hybridfs --help", argv[optind - 1]);
			return -EINVAL;
		} else if (!(o->helper && helper_option(o, c)) && !own_option(o, c)) {
			errmsg_set(why, "unknown option %s: see hybridfs --help", argv[optind - 1]);
			return -EINVAL;
		}
	}
	return 0;
}

int options_parse(int argc, char **argv, struct options *out, struct errmsg *why)
{
	char *list = NULL;
	int rc;

	*out = (struct options){ .action = OPTIONS_MOUNT, .atime = FS_RELATIME, .discard = true, .poll_us = POLL_AUTO_US,
	                         .helper = called_as_helper(argv[0]) };
	rc = parse_switches(argc, argv, out, &list, why);
	if (rc == 0 && out->action == OPTIONS_MOUNT) {
		rc = operands(argc, argv, out, why);
		if (rc == 0 && list != NULL)
			rc = parse_mount_options(out, list, why);
		if (rc == 0 && out->norecovery && !out->read_only) {
			errmsg_set(why, "norecovery needs ro");
			rc = -EINVAL;
		}
	}
	free(list);
	return rc;
}

void options_help(FILE *to)
{
	fputs("Usage: hybridfs [options] DEVICE MOUNTPOINT\n"
	      "\n"
	      "Mounts the HybridFS volume in DEVICE, a block device or an image file, on the\n"
	      "directory MOUNTPOINT. Returns when the mount serves. umount(8) ends it.\n"
	      "\n"
	      "  -o, --options LIST   mount options, separated by commas\n"
	      "  -f, --foreground     stay in the foreground, messages go to stderr\n"
	      "  -d, --debug          as -f, and show every request\n"
	      "  -V, --version        show the version\n"
	      "  -h, --help           show this help\n"
	      "\n"
	      "Mount options:\n"
	      "  ro rw                read only; read and write (default)\n"
	      "  norecovery           accepted with ro, which never writes to the device\n"
	      "  commit=SECONDS       longest time until a change is on the device without\n"
	      "                       fsync (default 5)\n"
	      "  transport=NAME       the way of requests from the kernel: uring (FUSE over\n"
	      "                       io_uring), dev (/dev/fuse), or auto (default): uring\n"
	      "                       where the kernel offers it\n"
	      "  poll=MICROSECONDS    how long the daemon stays awake for the next request,\n"
	      "                       while they keep coming; auto (default, 200) or off\n"
	      "  alloc=NAME           how free space is chosen: hybrid (default), or for\n"
	      "                       comparison df, cf, ndf, avl, stupid or bitmap\n"
	      "  discard nodiscard    tell the device in the background which blocks were\n"
	      "                       freed, if it can take that (default discard)\n"
	      "  nodatacow            new files are overwritten in place, without checksums\n"
	      "                       (as chattr +C): faster for some databases, not safe\n"
	      "                       against crashes and not against damage\n"
	      "  relatime noatime strictatime\n"
	      "                       when reading a file updates its access time\n"
	      "                       (default relatime)\n"
	      "  diratime nodiratime\n"
	      "                       whether reading a directory does (default diratime)\n"
	      "  acl noacl            whether access control lists are there (default acl)\n"
	      "  writeback            let the kernel collect small writes (faster; they\n"
	      "                       reach the volume later)\n"
	      "  allow_other          let other users in (always on when root mounts)\n"
	      "  suid nosuid dev nodev exec noexec sync async\n"
	      "                       as for any filesystem, see mount(8)\n"
	      "  defaults auto noauto nofail user users nouser owner group _netdev loop\n"
	      "  atime lazytime nolazytime default_permissions fsname= subtype= comment= x-*\n"
	      "                       accepted, no effect here\n"
	      "\n"
	      "Exit status: 0 mounted, 1 wrong usage, 2 system error, 4 internal error,\n"
	      "8 interrupted, 32 mount failed. Full documentation: man 8 hybridfs\n",
	      to);
}
