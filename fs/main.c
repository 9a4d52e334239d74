// SPDX-License-Identifier: MIT
// hybridfs: mounts a HybridFS volume through FUSE.
#include <stdio.h>

#include "fs/daemon.h"
#include "fs/options.h"
#include "util/log.h"

int main(int argc, char **argv)
{
	struct options opts;
	struct errmsg why = { "out of memory" };

	if (options_parse(argc, argv, &opts, &why) != 0) {
		fprintf(stderr, "hybridfs: %s\n", why.text);
		return MOUNT_USAGE;
	}
	switch (opts.action) {
	case OPTIONS_HELP:
		options_help(stdout);
		return MOUNT_OK;
	case OPTIONS_VERSION:
		printf("hybridfs %s\n", PACKAGE_VERSION);
		return MOUNT_OK;
	case OPTIONS_MOUNT:
		break;
	}
	msg_open("hybridfs", opts.foreground ? MSG_TO_STDERR : MSG_TO_SYSLOG, opts.debug ? MSG_DEBUG : MSG_INFO);
	return daemon_run(&opts);
}
