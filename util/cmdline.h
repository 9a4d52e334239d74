// SPDX-License-Identifier: MIT
// Command lines as data: one table per program gives getopt_long(3) its strings and --help its text, so that the two
// cannot disagree.
//
// Every table has the rows CMDLINE_HELP and CMDLINE_VERSION; the program acts on them as on any other letter.
#ifndef HYBRIDFS_UTIL_CMDLINE_H
#define HYBRIDFS_UTIL_CMDLINE_H

#include <stdio.h>

#define CMDLINE_MAX_OPTS 32

struct cmdline_opt {
	char letter;      // what cmdline_next() returns; 0 ends the table
	const char *name; // long name, or NULL
	const char *arg;  // name of the argument in the help, or NULL if it takes none
	const char *help; // one line
};

struct cmdline {
	const char *prog;
	const char *operands; // "DEVICE"
	const char *about;    // one line below the usage line
	const struct cmdline_opt *opts;
	const char *notes;    // below the options; may be NULL
};

#define CMDLINE_HELP { 'h', "help", NULL, "show this text and end" }
#define CMDLINE_VERSION { 'V', "version", NULL, "show the version and end" }

// The letter of the next option (its argument is in optarg), -1 after the last, '?' for an unknown one or a missing
// argument, about which getopt has printed a line.
int cmdline_next(const struct cmdline *cl, int argc, char **argv);

void cmdline_help(const struct cmdline *cl, FILE *out);
void cmdline_version(const struct cmdline *cl);

// "Try 'prog --help'." to stderr, after an error on the command line.
void cmdline_hint(const struct cmdline *cl);

#endif
