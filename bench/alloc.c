// SPDX-License-Identifier: MIT
// bench/alloc: the allocator and the engines that can stand in for it, measured in one run.
//
// Each engine × workload × mode is a process of its own, one after the other: resident memory, the heap and the caches of one say
// nothing about the next. Results come back through shared memory.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/alloc_bench.h"
#include "block/superblock.h"
#include "util/blk.h"
#include "util/cmdline.h"

#define MAX_ENGINES 16u
#define ONE_METASLAB_SHIFT_MAX 30u // larger volumes have several
#define TIB (1ull << 40)
#define GIB (1ull << 30)
#define PIB (1ull << 50)

struct options {
	const struct engine_ops *engines[MAX_ENGINES]; // NULL in the list: none
	unsigned n_engines;
	bool workloads[N_WORKLOADS];
	bool split, contig; // neither: what is usual for the workload
	bool cycle, json, quick;
	unsigned threads;
	uint64_t size_bytes, ms_shift, rounds, ops, seed; // 0: the default
	uint64_t used_percent;
	const char *plot_dir;
};

static const struct cmdline_opt option_table[] = {
	{ 'e', "engine", "NAME,...", "engines (hybrid), all of them, or none: no allocator, the benchmark alone" },
	{ 'w', "workload", "NAME,...", "w1, w2, w3, w4, edge, age, sparse, or all (all)" },
	{ 't', "threads", "N", "threads of w2 (1); the others have one" },
	{ 'S', "split", NULL, "a request may be served in several extents (default; w1: both)" },
	{ 'C', "contig", NULL, "one extent per request, or it fails" },
	{ 's', "size", "SIZE", "volume (w1, w2: 1T; sparse: 1P; else 100G)" },
	{ 'm', "ms-shift", "N", "a metaslab has 2^N blocks (hybrid: as mkfs does; others: one metaslab, up to 2^30)" },
	{ 'r', "rounds", "N", "aged rounds (w1: until 10 volumes are written; w3, edge: 20; w4, age: 100)" },
	{ 'o', "ops", "N", "operations of all threads in w2 (2000000), allocations in edge (1000000)" },
	{ 'u', "used", "PERCENT", "of the volume in sparse (1)" },
	{ 'x', "seed", "N", "of the random numbers (1)" },
	{ 'y', "cycle", NULL, "the whole life: get, commit, free, and a release every 1000 frees" },
	{ 'p', "plot", "DIR", "write pictures (SVG) to DIR" },
	{ 'q', "quick", NULL, "a sixteenth of the volume, a tenth of the operations" },
	{ 'j', "json", NULL, "print JSON" },
	CMDLINE_HELP,
	CMDLINE_VERSION,
	{ 0 },
};

static const char help_notes[] =
	"Workloads:\n"
	"  w1   stress: sizes of 512 B to 4 MiB, uniform, rounded up to blocks. Fill to the first failure, give back\n"
	"       a random 30-50%, again, until ten times the volume is written (at most 200 rounds)\n"
	"  w2   basic: the same sizes; 70% allocate, 30% give back a random one; a failure becomes a giving back\n"
	"  w3   small: 60% 4 KiB, 20% 8-32 KiB, 15% 64-256 KiB, 5% 1-4 MiB; filled to 95%, 20 rounds of giving back\n"
	"       a random 20% and filling up\n"
	"  w4   full: w3 filled to 99.9%; the time of each single allocation beyond 99%\n"
	"  edge the end of w3 filled to 99.9% and kept there: what is free are crumbs, a large request gets many pieces\n"
	"  age  files of log-normal sizes up to 64 MiB come and go by age at 80% until ten times the volume is written\n"
	"  sparse  extents of 4 MiB in a part of a vast volume; a random half goes and comes back: for the memory\n"
	"\n"
	"Rates are per second of CPU time unless they say wall. Each workload runs dry first, with no allocator behind\n"
	"it: what the benchmark itself costs is reported beside the raw numbers, and the net numbers are without it.\n"
	"After each workload the allocator's own check must pass, and everything must come back.\n"
	"\n"
	"Pictures: utilisation, fragmentation and extents per allocation over the volume written (w1, w3, age), latency\n"
	"percentiles per workload, a map of the free space by address per run.\n";

static const struct cmdline cmdline = {
	.prog = "alloc",
	.operands = "",
	.about = "Measures the allocator: speed, space, fragmentation, latency, memory.",
	.opts = option_table,
	.notes = help_notes,
};

// ---- options ----

static void add_engine(struct options *o, const struct engine_ops *engine)
{
	errno = 0;
	if (o->n_engines == MAX_ENGINES)
		bench_die("--engine: at most %u", MAX_ENGINES);
	o->engines[o->n_engines++] = engine;
}

static void parse_engines(struct options *o, char *list)
{
	char *rest = NULL;

	for (char *name = strtok_r(list, ",", &rest); name != NULL; name = strtok_r(NULL, ",", &rest)) {
		const struct engine_ops *engine = engine_by_name(name);

		if (strcmp(name, "all") == 0) {
			for (unsigned i = 0; engines[i] != NULL; i++)
				add_engine(o, engines[i]);
		} else if (engine != NULL || strcmp(name, "none") == 0) {
			add_engine(o, engine);
		} else {
			errno = 0;
			bench_die("--engine: there is no '%s'; see --help", name);
		}
	}
}

static void parse_workloads(struct options *o, char *list)
{
	char *rest = NULL;

	for (char *name = strtok_r(list, ",", &rest); name != NULL; name = strtok_r(NULL, ",", &rest)) {
		bool found = false;

		for (unsigned w = 0; w < N_WORKLOADS; w++) {
			if (strcmp(name, "all") != 0 && strcmp(name, workload_name(w)) != 0)
				continue;
			o->workloads[w] = found = true;
		}
		errno = 0;
		if (!found)
			bench_die("--workload: there is no '%s'; see --help", name);
	}
}

static uint64_t parse_in_range(const char *option, uint64_t min, uint64_t max)
{
	uint64_t n = bench_parse_number(option, optarg);

	errno = 0;
	if (n < min || n > max)
		bench_die("--%s: from %llu to %llu", option, (unsigned long long)min, (unsigned long long)max);
	return n;
}

static uint64_t parse_percent(const char *option)
{
	size_t len = strlen(optarg);

	if (len > 1 && optarg[len - 1] == '%')
		optarg[len - 1] = '\0';
	return parse_in_range(option, 1, 100);
}

static void print_help(void)
{
	cmdline_help(&cmdline, stdout);
	printf("Engines:\n");
	for (unsigned i = 0; engines[i] != NULL; i++)
		printf("  %-8s %s\n", engines[i]->name, engines[i]->about);
	printf("\n");
	print_metrics_help(stdout);
}

// False: the program ends here, with *status.
static bool parse_options(struct options *o, int argc, char **argv, int *status)
{
	int c;

	while ((c = cmdline_next(&cmdline, argc, argv)) != -1) {
		switch (c) {
		case 'e': parse_engines(o, optarg); break;
		case 'w': parse_workloads(o, optarg); break;
		case 't': o->threads = (unsigned)parse_in_range("threads", 1, BENCH_MAX_THREADS); break;
		case 'S': o->split = true; break;
		case 'C': o->contig = true; break;
		case 's': o->size_bytes = parse_in_range("size", SB_MIN_VOLUME_BYTES, LIVE_MAX_START << BLK_SHIFT); break;
		case 'm': o->ms_shift = parse_in_range("ms-shift", SB_MS_SHIFT_MIN, ONE_METASLAB_SHIFT_MAX); break;
		case 'r': o->rounds = parse_in_range("rounds", 1, HISTORY_MAX - 1); break;
		case 'o': o->ops = parse_in_range("ops", BENCH_MAX_THREADS, 1u << 30); break;
		case 'u': o->used_percent = parse_percent("used"); break;
		case 'x': o->seed = parse_in_range("seed", 1, INT64_MAX); break;
		case 'y': o->cycle = true; break;
		case 'p': o->plot_dir = optarg; break;
		case 'q': o->quick = true; break;
		case 'j': o->json = true; break;
		case 'h': print_help(); *status = 0; return false;
		case 'V': cmdline_version(&cmdline); *status = 0; return false;
		default: cmdline_hint(&cmdline); *status = 2; return false;
		}
	}
	if (optind != argc) {
		fprintf(stderr, "%s: no operands, please\n", cmdline.prog);
		cmdline_hint(&cmdline);
		*status = 2;
		return false;
	}
	return true;
}

static void set_defaults(struct options *o)
{
	bool any = false;

	if (o->n_engines == 0)
		add_engine(o, engines[0]);
	for (unsigned w = 0; w < N_WORKLOADS; w++)
		any |= o->workloads[w];
	for (unsigned w = 0; w < N_WORKLOADS && !any; w++)
		o->workloads[w] = true;
}

// ---- plans ----

// The hybrid engine, and every one on a vast volume, gets the metaslabs that mkfs would make; the others one for all, as in the
// programs that they come from.
static uint32_t usual_ms_shift(bool as_mkfs, uint64_t n_blks)
{
	struct superblock sb;
	struct errmsg why;
	uint32_t shift = SB_MS_SHIFT_MIN;

	if (as_mkfs) {
		errno = 0;
		if (sb_geometry(blk_to_bytes(n_blks), &sb, &why) != 0)
			bench_die("--size: %s", why.text);
		return sb.ms_shift;
	}
	while (shift < ONE_METASLAB_SHIFT_MAX && n_blks > 1ull << shift)
		shift++;
	return shift;
}

static struct plan make_plan(const struct options *o, const struct engine_ops *engine, enum workload workload, bool contig)
{
	bool uniform = workload == WORK_W1 || workload == WORK_W2;
	uint64_t usual_bytes = uniform ? TIB : workload == WORK_SPARSE ? PIB : 100 * GIB;
	uint64_t size_bytes = usual_bytes / (o->quick ? 16 : 1);
	uint64_t ops = (workload == WORK_W2 ? 2000000 : 1000000) / (o->quick ? 10 : 1);
	struct plan plan = {
		.engine = engine,
		.workload = workload,
		.contig = contig,
		.cycle = o->cycle,
		.threads = workload == WORK_W2 ? o->threads : 1,
		.n_blks = bytes_to_blk_down(o->size_bytes != 0 ? o->size_bytes : size_bytes),
		.rounds = o->rounds,
		.used_percent = o->used_percent,
		.ops = o->ops != 0 ? o->ops : ops,
		.seed = o->seed,
	};

	plan.ms_shift = o->ms_shift != 0 ? (uint32_t)o->ms_shift : usual_ms_shift(engine == engines[0] || workload == WORK_SPARSE, plan.n_blks);
	return plan;
}

static unsigned make_plans(const struct options *o, struct plan *plans)
{
	unsigned n = 0;

	for (enum workload w = 0; w < N_WORKLOADS; w++) {
		bool both = w == WORK_W1 && !o->split && !o->contig;

		for (unsigned e = 0; e < o->n_engines && o->workloads[w]; e++) {
			if (o->contig || both)
				plans[n++] = make_plan(o, o->engines[e], w, true);
			if (!o->contig || o->split)
				plans[n++] = make_plan(o, o->engines[e], w, false);
		}
	}
	return n;
}

// ---- running them ----

static void run_in_child(const struct plan *plan, const struct clock *clock, struct result *out)
{
	pid_t pid;
	int status;

	if (isatty(STDERR_FILENO))
		fprintf(stderr, "%s %s %s ...\n", engine_name(plan->engine), workload_name(plan->workload),
		        plan->contig ? "contig" : "split");
	fflush(NULL);
	pid = fork();
	if (pid < 0)
		bench_die("fork");
	if (pid == 0) {
		run_plan(plan, clock, out);
		exit(0);
	}
	if (waitpid(pid, &status, 0) < 0)
		bench_die("waitpid");
	errno = 0;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		bench_die("%s, %s: failed with status %#x", engine_name(plan->engine), workload_name(plan->workload),
		          (unsigned)status);
}

int main(int argc, char **argv)
{
	struct plan plans[2 * MAX_ENGINES * N_WORKLOADS];
	struct options o = { .threads = 1, .seed = 1, .used_percent = 1 };
	struct clock clock;
	struct result *results;
	int status;
	unsigned n;

	if (!parse_options(&o, argc, argv, &status))
		return status;
	set_defaults(&o);
	n = make_plans(&o, plans);
	results = mmap(NULL, n * sizeof(*results), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (results == MAP_FAILED)
		bench_die("memory");
	if (o.plot_dir != NULL && mkdir(o.plot_dir, 0777) < 0 && errno != EEXIST)
		bench_die("--plot: %s", o.plot_dir);
	clock_calibrate(&clock);
	for (unsigned i = 0; i < n; i++) {
		result_init(&results[i], &plans[i]);
		run_in_child(&plans[i], &clock, &results[i]);
	}
	print_results(results, n, o.json);
	if (o.plot_dir != NULL)
		plot_results(o.plot_dir, results, n);
	munmap(results, n * sizeof(*results));
	return 0;
}
