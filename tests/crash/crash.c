// SPDX-License-Identifier: MIT
// What is left after a crash: runs workloads on the whole stack in process, on a device in memory that records, and looks at what a crash at
// any moment may leave (judge.h says what must be true of it, states.h what "may leave" is, workload.h what is done).
//
//     crash                                    the size for `make check`: 20,000 states
//     crash --states=1000000 --jobs=2          a long run: more states of each history, and more histories
//     crash --history=NAME [--state=STATE [--inner=STATE]]   one history, one state of it, one state of the mount after it
//
// A failure prints the last form; that of a history that varies a little from run to run (history.h) also saves the device. The order is fixed: all histories of one operation first, each with its share of the states, then
// two operations, long ones and repairs in turns, with new seeds until there are enough.
//
// The work is done by child processes: one that dies or hangs is a failure like any other.
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "judge.h"
#include "util/cmdline.h"
#include "util/log.h"

#define VOLUME_BYTES (8u << 20)
#define JOBS_MAX 64u
#define STUCK_S 120
#define CYCLE 10u // of histories after the short ones: six of two operations, one of the log, a growing one, a long one, a repair
#define TWO_STATES 40u
#define GROW_STATES 60u
#define LOG_STATES 100u
#define LONG_STATES 200u
#define REPAIR_STATES 16u
#ifdef __SANITIZE_ADDRESS__ // five times as slow: it looks for errors of memory, in every kind of history; all states are the plain build's
#define STATES 3000
#define SHARE_MIN 2u
#define CYCLES_MIN 3u
#else
#define STATES 20000
#define SHARE_MIN 10u
#define CYCLES_MIN 20u // one for each kind of damage
#endif

static const struct cmdline_opt options[] = {
	{ 's', "states", "N", "crash states to look at, about (default 20000; 3000 with a sanitizer)" },
	{ 'S', "seed", "N", "for everything that is random (default 1)" },
	{ 'j', "jobs", "N", "processes (default 1)" },
	{ 'H', "history", "NAME", "only this history: ace:OP:PERSIST, two:SEED, grow:SEED, log:SEED, long:SEED, repair:SEED" },
	{ 'C', "state", "STATE", "only this state of it, as a failure prints it" },
	{ 'I', "inner", "STATE", "only this state of the mount after that" },
	{ 'o', "save", "FILE", "write the device of a failure to a file (by itself to failed-*.img if the history varies)" },
	{ 'L', "log", NULL, "print operations and requests of the history" },
	{ 'v', "verbose", NULL, "print the messages of the filesystem and of fsck" },
	{ 'l', "list", NULL, "print the names of the histories of one operation" },
	CMDLINE_HELP,
	{ 0 },
};

static const struct cmdline cmdline = {
	.prog = "crash",
	.operands = "",
	.about = "Crash a HybridFS volume at every moment and see what is left.",
	.opts = options,
	.notes = "Exit status: 0 every state is as it must be, 1 one is not, 2 usage.",
};

struct settings {
	uint64_t states, seed;
	unsigned jobs;
	const char *history, *state, *inner, *save;
	bool verbose, list, log;
};

struct shared {
	struct counts counts;
	struct place places[JOBS_MAX];
	atomic_bool stop;
};

static int parse(int argc, char **argv, struct settings *set)
{
	int letter;

	*set = (struct settings){ .states = STATES, .seed = 1, .jobs = 1 };
	while ((letter = cmdline_next(&cmdline, argc, argv)) != -1) {
		switch (letter) {
		case 's': set->states = strtoull(optarg, NULL, 0); break;
		case 'S': set->seed = strtoull(optarg, NULL, 0); break;
		case 'j': set->jobs = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'H': set->history = optarg; break;
		case 'C': set->state = optarg; break;
		case 'I': set->inner = optarg; break;
		case 'o': set->save = optarg; break;
		case 'L': set->log = set->verbose = true; break;
		case 'v': set->verbose = true; break;
		case 'l': set->list = true; break;
		case 'h': cmdline_help(&cmdline, stdout); exit(0);
		default: return -EINVAL;
		}
	}
	return optind == argc && set->states > 0 && set->jobs > 0 && set->jobs <= JOBS_MAX ? 0 : -EINVAL;
}

// ---- the histories in their order ----

static unsigned n_ace(void) { return workload_n_ops() * workload_n_persists(); }

// Name and share of states of history i.
static size_t history_at(const struct settings *set, uint64_t i, char name[64])
{
	unsigned persists = workload_n_persists();
	uint64_t cycle, share = set->states / 2 / n_ace();

	if (i < n_ace()) {
		snprintf(name, 64, "ace:%s:%s", workload_op((unsigned)i / persists)->name, workload_persist_name((unsigned)i % persists));
		return share < SHARE_MIN ? SHARE_MIN : (size_t)share;
	}
	i -= n_ace();
	cycle = i / CYCLE;
	if (i % CYCLE == CYCLE - 1) {
		snprintf(name, 64, "repair:%" PRIu64, cycle);
		return REPAIR_STATES;
	}
	if (i % CYCLE == CYCLE - 2) {
		snprintf(name, 64, "long:%" PRIu64, set->seed * 1000000 + cycle);
		return LONG_STATES;
	}
	if (i % CYCLE == CYCLE - 3) {
		snprintf(name, 64, "grow:%" PRIu64, set->seed * 1000000 + cycle);
		return GROW_STATES;
	}
	if (i % CYCLE == CYCLE - 4) {
		snprintf(name, 64, "log:%" PRIu64, set->seed * 1000000 + cycle);
		return LOG_STATES;
	}
	snprintf(name, 64, "two:%" PRIu64, set->seed * 1000000 + i);
	return TWO_STATES;
}

// ---- a child ----

static void report(const struct settings *set, const struct place *place, const char *why, const char *saved, FILE *out)
{
	fprintf(out, "FAILED: history %s", place->history);
	if (place->state[0] != '\0')
		fprintf(out, ", crash %s", place->state);
	if (place->inner[0] != '\0')
		fprintf(out, ", and in the mount after it %s", place->inner);
	fprintf(out, "\n  %s\nagain: crash -v --seed=%" PRIu64 " --history=%s", why, set->seed, place->history);
	if (place->state[0] != '\0')
		fprintf(out, " --state=%s", place->state);
	if (place->inner[0] != '\0')
		fprintf(out, " --inner=%s", place->inner);
	fprintf(out, "\n");
	if (saved[0] != '\0')
		fprintf(out, "the device as the crash has left it: %s (fsck.hybridfs -n shows the same)\n", saved);
	fflush(out);
}

// Once, before anything else uses SQLite or threads.
static void prepare_process(const struct settings *set)
{
	mallopt(M_ARENA_MAX, 1);          // each mount has threads of its own
	mallopt(M_MMAP_THRESHOLD, 64 << 20);
	mallopt(M_TRIM_THRESHOLD, 512 << 20);
	sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0); // a lock for each allocation otherwise
	msg_open("crash", set->verbose ? MSG_TO_STDERR : MSG_TO_NOWHERE, MSG_DEBUG);
}

static int work(const struct settings *set, struct shared *sh, unsigned job)
{
	struct judge *j = calloc(1, sizeof(*j));
	struct base base;
	FILE *out = fdopen(dup(STDOUT_FILENO), "w"); // fsck prints what it finds, which is much when it repairs
	char name[64];
	int err;

	VERIFY(j != NULL && out != NULL && (set->verbose || freopen("/dev/null", "w", stdout) != NULL));
	prepare_process(set);
	*j = (struct judge){ .counts = &sh->counts, .place = &sh->places[job], .base = &base, .seed = set->seed, .only_state = set->state,
		             .only_inner = set->inner, .save = set->save, .print_log = set->log };
	err = base_create(VOLUME_BYTES, &base, j->why, sizeof(j->why));
	if (err != 0) {
		report(set, j->place, j->why, j->saved, out);
		return 1;
	}
	if (set->history != NULL)
		err = judge_history(j, set->history, SIZE_MAX);
	for (uint64_t i = job; set->history == NULL && err == 0 && !sh->stop; i += set->jobs) {
		size_t max = history_at(set, i, name);

		if (i >= n_ace() + CYCLES_MIN * CYCLE && counts_states(&sh->counts) >= set->states)
			break;
		err = judge_history(j, name, max);
	}
	fflush(stdout);
	if (err != 0)
		report(set, j->place, j->why, j->saved, out);
	sh->stop = sh->stop || err != 0;
	base_free(&base);
	free(j);
	fclose(out);
	return err != 0;
}

// ---- the parent ----

// Ends with the child, or ends the child when it does not go on.
static int watch(const struct settings *set, struct place *place, pid_t pid)
{
	uint64_t progress = 0;
	unsigned still_ms = 0;
	char why[64];
	int status;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
		still_ms = place->progress == progress ? still_ms + 20 : 0;
		progress = place->progress;
		if (still_ms >= STUCK_S * 1000) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			snprintf(why, sizeof(why), "nothing for %d seconds", STUCK_S);
			report(set, place, why, "", stdout);
			return 1;
		}
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) <= 1)
		return WEXITSTATUS(status);
	snprintf(why, sizeof(why), "the process died (status %#x)", (unsigned)status);
	report(set, place, why, "", stdout);
	return 1;
}

static int run_jobs(const struct settings *set, struct shared *sh)
{
	pid_t pids[JOBS_MAX];
	int failed = 0;

	fflush(stdout);
	for (unsigned job = 0; job < set->jobs; job++) {
		pids[job] = fork();
		if (pids[job] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			_exit(work(set, sh, job));
		}
		if (pids[job] < 0) {
			perror("fork");
			return 1;
		}
	}
	for (unsigned job = 0; job < set->jobs; job++)
		if (watch(set, &sh->places[job], pids[job]) != 0) {
			sh->stop = true;
			failed = 1;
		}
	return failed;
}

static void print_counts(struct counts *c, double seconds)
{
	printf("%" PRIu64 " histories, %" PRIu64 " operations (%" PRIu64 " refused, %" PRIu64 " of them for lack of space), %" PRIu64
	       " restarts of the log, %" PRIu64 " mounts in between, %" PRIu64 " flush epochs\n", (uint64_t)c->histories, (uint64_t)c->steps, (uint64_t)c->refused,
	       (uint64_t)c->full, (uint64_t)c->checkpoints, (uint64_t)c->remounts, (uint64_t)c->epochs);
	printf("%" PRIu64 " crash states:", counts_states(c));
	for (unsigned i = 0; i < STATE_N_KINDS; i++)
		printf(" %s %" PRIu64 ",", state_kind_name(i), (uint64_t)c->by_kind[i]);
	printf(" in %" PRIu64 " recoveries %" PRIu64 ", in %" PRIu64 " repairs %" PRIu64 "\n", (uint64_t)c->recoveries,
	       (uint64_t)c->in_recovery, (uint64_t)c->repairs, (uint64_t)c->in_repair);
	printf("%" PRIu64 " of them also under fsck -n before the mount; %" PRIu64 " more were equal to one of these; %.1f s\n",
	       (uint64_t)c->passive, (uint64_t)c->equal, seconds);
}

static void print_list(void)
{
	for (unsigned i = 0; i < workload_n_ops(); i++)
		for (unsigned p = 0; p < workload_n_persists(); p++)
			printf("ace:%s:%s\n", workload_op(i)->name, workload_persist_name(p));
}

static double now_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	struct settings set;
	struct shared *sh;
	double start = now_s();
	int failed;

	if (parse(argc, argv, &set) != 0) {
		cmdline_hint(&cmdline);
		return 2;
	}
	if (set.list) {
		print_list();
		return 0;
	}
	if (set.history != NULL)
		set.jobs = 1;
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sh == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	printf("seed %" PRIu64 "\n", set.seed);
	failed = run_jobs(&set, sh);
	print_counts(&sh->counts, now_s() - start);
	munmap(sh, sizeof(*sh));
	return failed;
}
