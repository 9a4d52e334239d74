// SPDX-License-Identifier: MIT
// Runs a fuzz target without libFuzzer: over each file that is named, and then over random mutations of these.
//
//     fuzz_TARGET [--runs N] [--seed N] FILE...
//
// The seed is printed first: with it and the same files, a run that has killed the process comes again. An input that
// takes longer than TIMEOUT_S kills it, too.
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"
#include "util/attr.h"

#define INPUT_MAX 4096u
#define TIMEOUT_S 30 // ten seconds of work on a machine that does other things, too

struct input {
	uint8_t *data;
	size_t size;
};

static uint64_t next_random(uint64_t *state) // xorshift
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

// In memory of just that size, so that reading too far is seen.
static void run(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size > 0 ? size : 1);

	VERIFY(copy != NULL);
	memcpy(copy, data, size);
	alarm(TIMEOUT_S);
	LLVMFuzzerTestOneInput(copy, size);
	alarm(0);
	free(copy);
}

static int read_input(const char *path, struct input *in)
{
	FILE *file = fopen(path, "rb");

	if (file == NULL) {
		perror(path);
		return -1;
	}
	in->data = malloc(INPUT_MAX);
	VERIFY(in->data != NULL);
	in->size = fread(in->data, 1, INPUT_MAX, file);
	fclose(file);
	return 0;
}

// One small change: a byte set, a bit turned over, bytes taken out, or a piece of another input put in. Returns the new
// size.
static size_t mutate(uint8_t *data, size_t size, const struct input *other, uint64_t *rng)
{
	size_t at = size > 0 ? next_random(rng) % size : 0, n;

	switch (next_random(rng) % 5) {
	case 0:
		if (size > 0)
			data[at] = (uint8_t)next_random(rng);
		return size;
	case 1:
		if (size > 0)
			data[at] ^= (uint8_t)(1u << next_random(rng) % 8);
		return size;
	case 2:
		n = size > at ? 1 + next_random(rng) % (size - at) : 0;
		n = n > 8 ? n % 8 : n;
		memmove(data + at, data + at + n, size - at - n);
		return size - n;
	case 3:
		return next_random(rng) % 4 == 0 ? at : size;
	default:
		n = other->size > 0 ? 1 + next_random(rng) % other->size : 0;
		n = n > 16 ? n % 16 : n;
		if (size + n > INPUT_MAX)
			return size;
		memmove(data + at + n, data + at, size - at);
		memcpy(data + at, other->data + next_random(rng) % (other->size - n + 1), n);
		return size + n;
	}
}

static void run_mutations(const struct input *inputs, size_t n_inputs, uint64_t runs, uint64_t seed)
{
	uint8_t data[INPUT_MAX];
	uint64_t rng = seed;

	for (uint64_t i = 0; i < runs; i++) {
		const struct input *from = &inputs[next_random(&rng) % n_inputs];
		size_t size = from->size;

		memcpy(data, from->data, size);
		for (uint64_t k = next_random(&rng) % 4; k < 4; k++)
			size = mutate(data, size, &inputs[next_random(&rng) % n_inputs], &rng);
		run(data, size);
	}
}

static const char usage[] = "Usage: %s [--runs N] [--seed N] FILE...\n";

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "runs", required_argument, NULL, 'r' },
		{ "seed", required_argument, NULL, 's' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	uint64_t runs = 20000, seed = (uint64_t)time(NULL);
	struct input *inputs;
	size_t n_inputs = 0;
	int c, failed = 0;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'r': runs = strtoull(optarg, NULL, 10); break;
		case 's': seed = strtoull(optarg, NULL, 10); break;
		case 'h': printf(usage, argv[0]); return 0;
		default: fprintf(stderr, usage, argv[0]); return 2;
		}
	}
	if (optind == argc || seed == 0) {
		fprintf(stderr, usage, argv[0]);
		return 2;
	}
	inputs = calloc((size_t)(argc - optind), sizeof(*inputs));
	VERIFY(inputs != NULL);
	for (int i = optind; i < argc && failed == 0; i++) {
		failed = read_input(argv[i], &inputs[n_inputs]);
		if (failed == 0) {
			run(inputs[n_inputs].data, inputs[n_inputs].size);
			n_inputs++;
		}
	}
	if (failed == 0) {
		printf("%zu files; %llu mutations of them, --seed %llu\n", n_inputs, (unsigned long long)runs, (unsigned long long)seed);
		fflush(stdout); // the process may not live to its end
		run_mutations(inputs, n_inputs, runs, seed);
	}
	for (size_t i = 0; i < n_inputs; i++)
		free(inputs[i].data);
	free(inputs);
	return failed != 0;
}
