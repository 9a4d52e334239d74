// SPDX-License-Identifier: MIT
// A fuzz target is one function that reads arbitrary bytes as something that may stand on a stranger's device. It stops
// the process (VERIFY, a sanitizer) when the code under test is wrong about them; being refused is right for most
// bytes.
//
// libFuzzer calls it (clang), or fuzz_main.c does (any compiler). `data` has exactly `size` bytes: reading one more is
// found by ASan.
#ifndef HYBRIDFS_TESTS_FUZZ_H
#define HYBRIDFS_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

// VERIFY, aloud: the targets send the messages of the code under test nowhere.
#define REQUIRE(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #cond); \
			abort(); \
		} \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size); // the name is libFuzzer's; returns 0

#endif
