// SPDX-License-Identifier: MIT
#include "util/cmdline.h"

#include <getopt.h>
#include <string.h>

#include "util/attr.h"

#define HELP_COLUMN 26

int cmdline_next(const struct cmdline *cl, int argc, char **argv)
{
	char letters[2 * CMDLINE_MAX_OPTS + 1];
	struct option longs[CMDLINE_MAX_OPTS + 1];
	size_t n_letters = 0, n_longs = 0;

	for (const struct cmdline_opt *o = cl->opts; o->letter != 0; o++) {
		ASSERT(n_longs < CMDLINE_MAX_OPTS);
		letters[n_letters++] = o->letter;
		if (o->arg != NULL)
			letters[n_letters++] = ':';
		if (o->name != NULL)
			longs[n_longs++] = (struct option){ o->name, o->arg != NULL ? required_argument : no_argument,
			                                    NULL, o->letter };
	}
	letters[n_letters] = '\0';
	longs[n_longs] = (struct option){ 0 };
	return getopt_long(argc, argv, letters, longs, NULL);
}

void cmdline_help(const struct cmdline *cl, FILE *out)
{
	fprintf(out, "Usage: %s [OPTIONS] %s\n%s\n\n", cl->prog, cl->operands, cl->about);
	for (const struct cmdline_opt *o = cl->opts; o->letter != 0; o++) {
		int used = fprintf(out, "  -%c", o->letter);

		if (o->name != NULL)
			used += fprintf(out, ", --%s", o->name);
		if (o->arg != NULL)
			used += fprintf(out, "%c%s", o->name != NULL ? '=' : ' ', o->arg);
		fprintf(out, "%*s%s\n", used < HELP_COLUMN ? HELP_COLUMN - used : 1, "", o->help);
	}
	if (cl->notes != NULL)
		fprintf(out, "\n%s\n", cl->notes);
}

void cmdline_version(const struct cmdline *cl) { printf("%s (HybridFS) %s\n", cl->prog, PACKAGE_VERSION); }

void cmdline_hint(const struct cmdline *cl) { fprintf(stderr, "Try '%s --help'.\n", cl->prog); }
