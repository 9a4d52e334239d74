// SPDX-License-Identifier: MIT
// fs/request_stats: what counts as which kind and size, requests that are cut short or of unknown kinds, and the lines in the log.
#include <check.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/request_stats.h"
#include "run_suite.h"
#include "util/log.h"

static struct request_stats stats;

static void start(void) { memset(&stats, 0, sizeof(stats)); }

static struct request_kind transfer(uint32_t opcode, uint32_t bytes)
{
	struct {
		struct fuse_in_header in;
		union {
			struct fuse_read_in read;
			struct fuse_write_in write;
		};
	} req = { .in = { .opcode = opcode } };

	if (opcode == FUSE_READ)
		req.read.size = bytes;
	else
		req.write.size = bytes;
	return request_kind_of(&req, sizeof(req));
}

static uint64_t of_size(enum request_transfer way, unsigned class) { return atomic_load(&stats.transfers[way].of_size[class]); }

START_TEST(sizes_have_classes)
{
	static const uint32_t bytes[] = { 1, 4096, 4097, 8192, 8193, 1 << 20, (1 << 20) + 1, UINT32_MAX };
	static const uint64_t expected[REQUEST_SIZES] = { 2, 2, 1, 0, 0, 0, 0, 0, 1, 2 };
	uint64_t sum = 0;

	for (size_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++) {
		request_stats_count(&stats, transfer(FUSE_WRITE, bytes[i]), 10);
		sum += bytes[i];
	}
	for (unsigned class = 0; class < REQUEST_SIZES; class++)
		ck_assert_uint_eq(of_size(REQUEST_WRITE, class), expected[class]);
	ck_assert_uint_eq(atomic_load(&stats.transfers[REQUEST_WRITE].bytes), sum);
	ck_assert_uint_eq(atomic_load(&stats.transfers[REQUEST_READ].bytes), 0);
	ck_assert_uint_eq(atomic_load(&stats.kinds[FUSE_WRITE].n), 8);
	ck_assert_uint_eq(atomic_load(&stats.kinds[FUSE_WRITE].ns), 80);
	request_stats_count(&stats, transfer(FUSE_READ, 4096), 0);
	ck_assert_uint_eq(of_size(REQUEST_READ, 0), 1);
}
END_TEST

START_TEST(short_and_unknown_requests)
{
	struct fuse_in_header *in = calloc(1, sizeof(*in)); // a sanitizer sees what is read behind it

	ck_assert_ptr_nonnull(in);
	in->opcode = FUSE_WRITE;
	ck_assert_uint_eq(request_kind_of(in, sizeof(*in)).bytes, 0);
	in->opcode = FUSE_READ;
	ck_assert_uint_eq(request_kind_of(in, sizeof(*in)).bytes, 0);
	in->opcode = 4096; // CUSE_INIT
	request_stats_count(&stats, request_kind_of(in, sizeof(*in)), 1);
	in->opcode = UINT32_MAX;
	request_stats_count(&stats, request_kind_of(in, sizeof(*in)), 1);
	ck_assert_uint_eq(atomic_load(&stats.kinds[REQUEST_KINDS - 1].n), 2);
	free(in);
}
END_TEST

// Every kind, with the longest numbers: each is in a line of its own words, and no line is cut.
START_TEST(the_longest_lines)
{
	char *text;
	size_t len;
	FILE *file = tmpfile();
	int err_fd = dup(STDERR_FILENO), kinds = 0, lines = 0;

	ck_assert(file != NULL && err_fd >= 0);
	for (unsigned i = 0; i < REQUEST_KINDS; i++) {
		atomic_store(&stats.kinds[i].n, UINT64_MAX / REQUEST_KINDS);
		atomic_store(&stats.kinds[i].ns, UINT64_MAX);
	}
	for (int way = 0; way < REQUEST_TRANSFERS; way++) {
		atomic_store(&stats.transfers[way].bytes, UINT64_MAX);
		for (unsigned class = 0; class < REQUEST_SIZES; class++)
			atomic_store(&stats.transfers[way].of_size[class], UINT64_MAX);
	}
	ck_assert_int_ge(dup2(fileno(file), STDERR_FILENO), 0);
	msg_open("test", MSG_TO_STDERR, MSG_INFO);
	request_stats_log(&stats);
	dup2(err_fd, STDERR_FILENO);
	rewind(file);
	text = malloc(1 << 16);
	ck_assert_ptr_nonnull(text);
	len = fread(text, 1, (1 << 16) - 1, file);
	text[len] = '\0';
	for (const char *at = text; (at = strstr(at, " us")) != NULL; at++)
		kinds++;
	for (const char *at = text; (at = strchr(at, '\n')) != NULL; at++)
		lines++;
	ck_assert_int_eq(kinds, (int)REQUEST_KINDS);
	ck_assert_int_gt(lines, 2);
	ck_assert_ptr_nonnull(strstr(text, "up to 2048 KiB)"));
	ck_assert_ptr_nonnull(strstr(text, " in all\n"));
	free(text);
	fclose(file);
	close(err_fd);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("request_stats");
	TCase *tc = tcase_create("request_stats");

	tcase_add_checked_fixture(tc, start, NULL);
	tcase_add_test(tc, sizes_have_classes);
	tcase_add_test(tc, short_and_unknown_requests);
	tcase_add_test(tc, the_longest_lines);
	suite_add_tcase(s, tc);
	return run_suite(s);
}
