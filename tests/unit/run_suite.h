// SPDX-License-Identifier: MIT
// The end of a test program's main(): runs the suite, and says how it went as automake wants it. CK_VERBOSITY decides how much is printed.
#ifndef HYBRIDFS_TESTS_RUN_SUITE_H
#define HYBRIDFS_TESTS_RUN_SUITE_H

#include <check.h>
#include <stdlib.h>

static inline int run_suite(Suite *suite) // takes it
{
	SRunner *runner = srunner_create(suite);
	int failed;

	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
