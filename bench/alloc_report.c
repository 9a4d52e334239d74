// SPDX-License-Identifier: MIT
// The numbers of a run by name. One table says what there is: JSON, the help and the table for people follow it.
#include <math.h>
#include <string.h>

#include "bench/alloc_bench.h"
#include "util/attr.h"
#include "util/blk.h"

struct metric {
	const char *name;
	size_t offset; // of a double in struct result
	int decimals;
	const char *about;
};

#define METRIC(field, decimals, about) { #field, offsetof(struct result, field), decimals, about }

static const struct metric metrics[] = {
	METRIC(alloc_per_s, 0, "allocations per second of CPU time (w2, age: null, see ops_per_s)"),
	METRIC(free_per_s, 0, "the same, giving back"),
	METRIC(ops_per_s, 0, "both, per second of CPU time (of all threads together)"),
	METRIC(alloc_per_s_wall, 0, "by the wall clock"),
	METRIC(free_per_s_wall, 0, "by the wall clock"),
	METRIC(ops_per_s_wall, 0, "by the wall clock (w2: from the first thread's start to the last one's end)"),
	METRIC(alloc_per_s_net, 0, "without bench_alloc_ns each"),
	METRIC(free_per_s_net, 0, "without bench_free_ns each"),
	METRIC(ops_per_s_net, 0, "without bench_ns_per_op each"),
	METRIC(alloc_per_s_aged, 0, "without the first filling"),
	METRIC(bench_alloc_ns, 2, "what the benchmark itself costs: the dry pass"),
	METRIC(bench_free_ns, 2, "the same, giving back"),
	METRIC(bench_ns_per_op, 2, "the same, both"),
	METRIC(utilisation_first, 4, "% of the volume in use at the end of the first filling"),
	METRIC(utilisation_contiguous_min, 4, "the least of the aged rounds (all but the first), one extent per request"),
	METRIC(utilisation_split_min, 4, "the same when requests may be split"),
	METRIC(utilisation_mean, 4, "mean of the aged rounds"),
	METRIC(utilisation_end, 4, "of the last round"),
	METRIC(utilisation_last_block, 4, "w1 split: after single blocks were taken until the first failure"),
	METRIC(extents_per_alloc, 4, "1 = never split"),
	METRIC(free_extents, 0, "free runs at the end (w1: after the last giving back)"),
	METRIC(free_mean_kib, 1, "their mean length"),
	METRIC(free_share_1m, 2, "% of the free space in runs of 1 MiB and more"),
	METRIC(ceph_score, 4, "Ceph's fragmentation score: 0 = one run, 1 = single blocks"),
	METRIC(p50_ns, 0, "time of one allocation: w4 each one, otherwise every 64th; clock_ns is subtracted"),
	METRIC(p90_ns, 0, "90% took no longer"),
	METRIC(p99_ns, 0, "99% took no longer"),
	METRIC(p999_ns, 0, "99.9% took no longer"),
	METRIC(p9999_ns, 0, "99.99% took no longer"),
	METRIC(max_ns, 0, "interrupts included"),
	METRIC(bench_max_ns, 0, "the longest of the dry pass: what the machine adds"),
	METRIC(clock_ns, 1, "what reading the clock twice takes"),
	METRIC(disturbed, 0, "allocations left out of these because the kernel ran another program meanwhile"),
	METRIC(rss_bytes, 0, "growth of resident memory since before alloc_create, without the benchmark's tables"),
	METRIC(memory_bytes, 0, "what the allocator says that it uses"),
	METRIC(metaslabs, 0, "of the volume"),
	METRIC(metaslabs_loaded, 0, "of these, at the end of filling"),
	METRIC(allocs, 0, "allocations that succeeded"),
	METRIC(frees, 0, "allocations given back"),
	METRIC(failed, 0, "requests that failed"),
	METRIC(rounds, 0, "aged rounds"),
	METRIC(ops_per_thread, 0, "w2"),
	METRIC(cpu_seconds, 3, "measured phases"),
	METRIC(wall_seconds, 3, "measured phases"),
};

static double value_of(const struct result *r, const struct metric *m)
{
	double value;

	memcpy(&value, (const char *)r + m->offset, sizeof(value));
	return value;
}

void result_init(struct result *r, const struct plan *plan)
{
	double nothing = NAN;

	r->plan = *plan;
	for (size_t i = 0; i < ARRAY_LEN(metrics); i++)
		memcpy((char *)r + metrics[i].offset, &nothing, sizeof(nothing));
	r->n_moments = 0;
	r->cell_blk = 0;
}

const char *engine_name(const struct engine_ops *engine) { return engine == NULL ? "none" : engine->name; }

const char *workload_name(enum workload workload)
{
	static const char *const names[N_WORKLOADS] = { "w1", "w2", "w3", "w4", "edge", "age", "sparse" };

	return names[workload];
}

static const char *mode_name(const struct plan *plan) { return plan->contig ? "contig" : "split"; }

// ---- JSON ----

static void print_json_result(const struct result *r)
{
	const struct plan *plan = &r->plan;

	printf("{\"engine\": \"%s\", \"workload\": \"%s\", \"mode\": \"%s\", \"cycle\": %s, \"threads\": %u",
	       engine_name(plan->engine), workload_name(plan->workload), mode_name(plan), plan->cycle ? "true" : "false",
	       plan->threads);
	printf(", \"size_bytes\": %llu, \"ms_shift\": %u, \"seed\": %llu", (unsigned long long)plan->n_blks << BLK_SHIFT,
	       plan->ms_shift, (unsigned long long)plan->seed);
	for (size_t i = 0; i < ARRAY_LEN(metrics); i++) {
		double value = value_of(r, &metrics[i]);

		printf(", \"%s\": ", metrics[i].name);
		if (isfinite(value))
			printf("%.*f", metrics[i].decimals, value);
		else
			printf("null");
	}
	printf("}");
}

static void print_json(const struct result *results, unsigned n)
{
	printf("{\"program\": \"alloc\", \"results\": [\n");
	for (unsigned i = 0; i < n; i++) {
		print_json_result(&results[i]);
		printf("%s\n", i + 1 < n ? "," : "");
	}
	printf("]}\n");
}

// ---- table ----

static void print_number(double value, int width, int decimals)
{
	if (isfinite(value))
		printf(" %*.*f", width, decimals, value);
	else
		printf(" %*s", width, "-");
}

static void print_row(const struct result *r)
{
	const struct plan *plan = &r->plan;

	printf("%-8s %-4s %-6s %4u", engine_name(plan->engine), workload_name(plan->workload), mode_name(plan), plan->threads);
	print_number(r->alloc_per_s / 1e6, 7, 2);
	print_number(r->free_per_s / 1e6, 7, 2);
	print_number(r->ops_per_s / 1e6, 7, 2);
	print_number(r->ops_per_s_wall / 1e6, 7, 2);
	print_number(r->bench_ns_per_op, 6, 1);
	print_number(plan->contig ? r->utilisation_contiguous_min : r->utilisation_split_min, 8, 3);
	print_number(r->utilisation_mean, 8, 3);
	print_number(r->extents_per_alloc, 7, 4);
	print_number(r->free_extents, 9, 0);
	print_number(r->free_mean_kib, 9, 0);
	print_number(r->free_share_1m, 6, 1);
	print_number(r->ceph_score, 6, 3);
	print_number(r->p50_ns, 6, 0);
	print_number(r->p99_ns, 7, 0);
	print_number(r->p999_ns, 7, 0);
	print_number(r->max_ns, 9, 0);
	print_number(r->rss_bytes / 1e6, 6, 1);
	print_number(r->memory_bytes / 1e6, 6, 1);
	printf("\n");
}

static void print_table(const struct result *results, unsigned n)
{
	printf("%-8s %-4s %-6s %4s %7s %7s %7s %7s %6s %8s %8s %7s %9s %9s %6s %6s %6s %7s %7s %9s %6s %6s\n", "engine", "work",
	       "mode", "thr", "Malloc", "Mfree", "Mops", "Mops/w", "own ns", "min %", "mean %", "extents", "free runs",
	       "mean KiB", ">=1M %", "score", "p50", "p99", "p99.9", "max ns", "rss MB", "mem MB");
	for (unsigned i = 0; i < n; i++)
		print_row(&results[i]);
	printf("Malloc, Mfree, Mops: millions per CPU second; Mops/w: per second of wall clock; own ns: the benchmark's share of "
	       "an operation.\n");
}

void print_results(const struct result *results, unsigned n, bool json)
{
	if (json)
		print_json(results, n);
	else
		print_table(results, n);
}

void print_metrics_help(FILE *out)
{
	fprintf(out, "Numbers (--json; null where one does not apply):\n");
	for (size_t i = 0; i < ARRAY_LEN(metrics); i++)
		fprintf(out, "  %-27s %s\n", metrics[i].name, metrics[i].about);
}
