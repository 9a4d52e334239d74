// SPDX-License-Identifier: MIT
// Lets each request of each scenario fail in its turn, once and for good, and judges what comes of it (trial.h). Each case is a process
// of its own, so that a crash, an assertion or a hang is one case's result and not the end of the test.
//
// Which n: all of them, 1, 2, 3 … until a run passes clean, as long as there are at most EACH_MAX requests of a kind in a scenario
// (--all: without this bound). Behind it, one for each call site that has not been failed so far. At the end every call site
// that the scenarios have reached must have been failed.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "trial.h"
#include "util/attr.h"
#include "util/blk.h"
#include "util/log.h"

#ifdef __SANITIZE_ADDRESS__ // slow: each call site, transient
#define EACH_MAX 0u
#define DEFAULT_MODE 0
#else
#define EACH_MAX 25u
#define DEFAULT_MODE (-1)
#endif
#define CASE_SECONDS 60u
#define SITE_TRIES 8
#define FAILURES_SHOWN 20u

struct outcome { // shared with the case's process
	char why[WHY_BYTES];
	bool fired;
};

struct tally {
	uint64_t runs, failures;
};

struct driver {
	const char *only_scenario;
	int only_kind, only_mode; // -1 = all
	uint64_t only_n, only_site;
	uint64_t each_max;
	uint64_t mem_each_max;
	bool list_sites, verbose;
	FILE *out; // the test's own; what fsck prints goes nowhere
	struct outcome *outcome;
	struct tally tally[FAULT_KINDS];
	uint64_t failures;
	struct reference ref;     // of the present scenario
	uint64_t count[FAULT_KINDS];
};

static const char *mode_option(bool persistent) { return persistent ? "--persistent" : "--once"; }

// ---- one case ----

static void ATTR_NORETURN case_process(struct driver *d, enum fault_kind kind, uint64_t n, uint64_t site, bool persistent)
{
	bool ok;

	alarm(CASE_SECONDS);
	inject_arm(kind, n, site, persistent);
	inject_disarm(); // the run arms it where it begins
	ok = run_case(&d->ref, d->outcome->why);
	d->outcome->fired = atomic_load(&inject_state()->fired);
	_exit(ok ? 0 : 1);
}

static void describe_end(struct driver *d, int status)
{
	char *why = d->outcome->why;

	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
		snprintf(why, WHY_BYTES, "did not end within %u seconds", CASE_SECONDS);
	else if (WIFSIGNALED(status))
		snprintf(why, WHY_BYTES, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else if (why[0] == '\0')
		snprintf(why, WHY_BYTES, "ended with %d", WEXITSTATUS(status));
}

static void report(struct driver *d, enum fault_kind kind, uint64_t n, uint64_t site, bool persistent)
{
	char which[64];

	d->tally[kind].failures++;
	if (d->failures++ >= FAILURES_SHOWN)
		return;
	if (n != 0)
		snprintf(which, sizeof(which), "--n %llu", (unsigned long long)n);
	else
		snprintf(which, sizeof(which), "--site %llx", (unsigned long long)site);
	fprintf(d->out, "FAILED: %s: %s %llu, %s: %s\n  again: fault --scenario %s --kind %s %s %s\n", d->ref.sc->name, inject_kind_name(kind),
	       (unsigned long long)n, persistent ? "persistent" : "transient", d->outcome->why, d->ref.sc->name,
	       inject_kind_name(kind), which, mode_option(persistent));
	fflush(d->out);
}

// Whether the fault happened.
static bool do_case(struct driver *d, enum fault_kind kind, uint64_t n, uint64_t site, bool persistent)
{
	int status = 0;
	pid_t pid;

	*d->outcome = (struct outcome){ 0 };
	fflush(d->out);
	pid = fork();
	if (pid == 0)
		case_process(d, kind, n, site, persistent);
	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		perror("fault: fork");
		exit(2);
	}
	d->tally[kind].runs++;
	if (status != 0) {
		describe_end(d, status);
		report(d, kind, n, site, persistent);
	}
	return d->outcome->fired || status != 0;
}

// ---- all cases of a scenario ----

static struct site *site_of(enum fault_kind kind, uint64_t n)
{
	uint32_t at = n <= SEQ_MAX ? inject_state()->seq[kind][n - 1] : 0;

	return at != 0 ? &inject_state()->sites[at - 1] : NULL;
}

// Threads take turns differently each time, so the n-th request may have been another one than in the reference. What comes up once
// and then not again, a meeting of two threads, is told but does not count.
static void fail_missed_sites(struct driver *d, enum fault_kind kind, bool persistent)
{
	struct injector *inj = inject_state();

	for (uint32_t at = 0; at < SITES_MAX; at++) {
		struct site *site = &inj->sites[at];

		if (!atomic_load(&site->reached) || atomic_load(&site->kind) != (int)kind || atomic_load(&site->scenario) != inj->scenario)
			continue;
		for (int i = 0; i < SITE_TRIES && !atomic_load(&site->struck[persistent]); i++)
			(void)do_case(d, kind, 0, atomic_load(&site->hash), persistent);
		if ((persistent || d->only_mode == 0) && !atomic_load(&site->failed)) {
			atomic_store(&site->reached, false);
			fprintf(d->out, "not reached again: ");
			inject_print_site(d->out, site);
		}
	}
}

static void fail_each(struct driver *d, enum fault_kind kind, bool persistent)
{
	uint64_t each_max = kind == FAULT_MEM ? d->mem_each_max : d->each_max;

	for (uint64_t n = 1;; n++) {
		struct site *site = n <= d->count[kind] ? site_of(kind, n) : NULL;

		if (n > each_max && n > d->count[kind])
			break;
		if (n > each_max && site != NULL && atomic_load(&site->struck[persistent]))
			continue;
		if (!do_case(d, kind, n, 0, persistent) && n > d->count[kind])
			break; // clean, to the end
	}
	fail_missed_sites(d, kind, persistent);
}

static void do_scenario(struct driver *d)
{
	for (int kind = 0; kind < FAULT_KINDS; kind++) {
		if (d->only_kind >= 0 && kind != d->only_kind)
			continue;
		for (int mode = 0; mode < 2; mode++) {
			if (d->only_mode >= 0 && mode != d->only_mode)
				continue;
			if (d->only_n != 0 || d->only_site != 0)
				fprintf(d->out, "%s\n", do_case(d, kind, d->only_n, d->only_site, mode != 0) ? "the fault happened" :
				                                                                       "the fault did not happen");
			else
				fail_each(d, kind, mode != 0);
		}
	}
}

// A run without faults that notes every request; after one that has made whatever is made once in a process.
static bool count_requests(struct driver *d, char *why)
{
	struct injector *inj = inject_state();

	(void)run_case(&d->ref, why);
	for (int kind = 0; kind < FAULT_KINDS; kind++)
		memset(inj->seq[kind], 0, min_u64(d->count[kind], SEQ_MAX) * sizeof(*inj->seq[kind]));
	inject_record();
	inject_disarm();
	if (!run_case(&d->ref, why))
		return false;
	for (int kind = 0; kind < FAULT_KINDS; kind++)
		d->count[kind] = atomic_load(&inj->count[kind]);
	inject_arm(FAULT_READ, 0, 0, false);
	inject_disarm();
	return true;
}

static void free_reference(struct reference *ref)
{
	for (unsigned i = 0; i <= ref->n_steps; i++)
		text_free(&ref->tree[i]);
	inject_dev_free(ref->start);
}

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static bool do_all(struct driver *d)
{
	struct bdev *start = NULL, *next;
	char why[WHY_BYTES];

	for (unsigned i = 0; i < n_scenarios; i++) {
		const struct scenario *sc = &scenarios[i];
		double begin = now_s();
		bool ok;

		inject_state()->scenario = (int)i;
		ok = run_reference(sc, start, &d->ref, &next, why);

		if (ok && (d->only_scenario == NULL || strcmp(d->only_scenario, sc->name) == 0)) {
			ok = count_requests(d, why);
			if (ok)
				do_scenario(d);
			fprintf(d->out, "%-10s", sc->name);
			for (int kind = 0; kind < FAULT_KINDS; kind++)
				fprintf(d->out, " %s %llu", inject_kind_name(kind), (unsigned long long)d->count[kind]);
			fprintf(d->out, " requests, %.1f s\n", now_s() - begin);
		}
		free_reference(&d->ref);
		if (start != NULL)
			inject_dev_free(start);
		start = next;
		if (!ok) {
			fprintf(d->out, "FAILED: %s without a fault: %s\n", sc->name, why);
			break;
		}
		if (i + 1 == n_scenarios) {
			inject_dev_free(start);
			return true;
		}
	}
	inject_dev_free(start);
	return false;
}

// ---- the end ----

// Whether every call site was failed.
static bool print_counts(const struct driver *d)
{
	uint64_t reached[FAULT_KINDS] = { 0 }, failed[FAULT_KINDS] = { 0 }, runs = 0;
	struct injector *inj = inject_state();
	bool all = true;

	for (uint32_t i = 0; i < SITES_MAX; i++) {
		struct site *site = &inj->sites[i];
		int kind = atomic_load(&site->kind);

		if (!atomic_load(&site->reached) || (d->only_kind >= 0 && kind != d->only_kind))
			continue;
		reached[kind]++;
		failed[kind] += atomic_load(&site->failed);
		if (d->list_sites || !atomic_load(&site->failed)) {
			fprintf(d->out, "%s", atomic_load(&site->failed) ? "site " : "site never failed: ");
			inject_print_site(d->out, site);
		}
	}
	fprintf(d->out, "%-8s %10s %10s %10s %10s\n", "kind", "sites", "failed", "runs", "wrong");
	for (int kind = 0; kind < FAULT_KINDS; kind++) {
		fprintf(d->out, "%-8s %10llu %10llu %10llu %10llu\n", inject_kind_name(kind), (unsigned long long)reached[kind],
		       (unsigned long long)failed[kind], (unsigned long long)d->tally[kind].runs,
		       (unsigned long long)d->tally[kind].failures);
		all = all && failed[kind] == reached[kind];
		runs += d->tally[kind].runs;
	}
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
	fprintf(d->out, "skipped: mem, since the sanitizer takes memory for itself\n");
#endif
	fprintf(d->out, "%llu runs, %llu wrong\n", (unsigned long long)runs, (unsigned long long)d->failures);
	return all;
}

static int usage(void)
{
	fprintf(stderr, "Usage: fault [--all] [--each N] [--mem-each N] [--sites] [--scenario NAME] [--kind KIND] [--once | --persistent]\n"
	                "             [--n N | --site HASH]\n"
	                "  --all       every request, however many there are\n"
	                "  --each N    every request up to the N-th of a scenario (%u), then one of each call site\n"
	                "  --mem-each N  the same for memory (0)\n"
	                "  --sites     list the call sites\n"
	                "  --verbose   let the volume and fsck speak\n", EACH_MAX);
	return 2;
}

static bool parse_kind(const char *name, int *kind)
{
	for (*kind = 0; *kind < FAULT_KINDS; ++*kind)
		if (strcmp(name, inject_kind_name((enum fault_kind)*kind)) == 0)
			return true;
	return false;
}

static bool parse(struct driver *d, int argc, char **argv)
{
	static const struct option options[] = {
		{ "all", no_argument, NULL, 'a' }, { "each", required_argument, NULL, 'e' }, { "mem-each", required_argument, NULL, 'm' },
		{ "sites", no_argument, NULL, 'l' }, { "scenario", required_argument, NULL, 's' }, { "kind", required_argument, NULL, 'k' },
		{ "once", no_argument, NULL, 'o' }, { "persistent", no_argument, NULL, 'p' }, { "n", required_argument, NULL, 'n' },
		{ "site", required_argument, NULL, 'i' }, { "verbose", no_argument, NULL, 'v' }, { 0 },
	};
	int letter;

	while ((letter = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (letter) {
		case 'a':
			d->each_max = d->mem_each_max = UINT64_MAX;
			d->only_mode = -1;
			break;
		case 'e':
			d->each_max = strtoull(optarg, NULL, 0);
			break;
		case 'm':
			d->mem_each_max = strtoull(optarg, NULL, 0);
			break;
		case 'l':
			d->list_sites = true;
			break;
		case 'v':
			d->verbose = true;
			break;
		case 's':
			d->only_scenario = optarg;
			break;
		case 'k':
			if (!parse_kind(optarg, &d->only_kind))
				return false;
			break;
		case 'o':
		case 'p':
			d->only_mode = letter == 'p';
			break;
		case 'n':
			d->only_n = strtoull(optarg, NULL, 0);
			break;
		case 'i':
			d->only_site = strtoull(optarg, NULL, 16);
			break;
		default:
			return false;
		}
	}
	return optind == argc;
}

// Standard output as it was; from here on what is printed to stdout is of no interest.
static FILE *keep_stdout(void)
{
	int out = dup(STDOUT_FILENO), null = open("/dev/null", O_WRONLY);
	FILE *file;

	if (out < 0 || null < 0 || (file = fdopen(out, "w")) == NULL)
		return NULL;
	dup2(null, STDOUT_FILENO);
	close(null);
	return file;
}

int main(int argc, char **argv)
{
	struct driver d = { .only_kind = -1, .only_mode = DEFAULT_MODE, .each_max = EACH_MAX };
	bool ok;

	if (!parse(&d, argc, argv))
		return usage();
	inject_state()->verbose = d.verbose;
	msg_open("fault", MSG_TO_STDERR, MSG_DEBUG);
	d.outcome = mmap(NULL, sizeof(*d.outcome), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	d.out = keep_stdout();
	if (d.outcome == MAP_FAILED || d.out == NULL || inject_init() != 0) {
		perror("fault");
		return 2;
	}
	ok = do_all(&d);
	if (ok && d.only_n == 0 && d.only_site == 0)
		ok = print_counts(&d) && ok;
	fclose(d.out);
	return ok && d.failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
