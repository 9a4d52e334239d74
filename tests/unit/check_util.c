// SPDX-License-Identifier: MIT
// util/: each promise of its headers.
#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#endif

#include "run_suite.h"
#include "util/blk.h"
#include "util/crc32c.h"
#include "util/endian.h"
#include "util/errmsg.h"
#include "util/log.h"
#include "util/run.h"
#include "util/size.h"
#include "util/varint.h"

// ---- blk.h ----

START_TEST(blk_rounding)
{
	ck_assert_uint_eq(bytes_to_blk_down(4095), 0);
	ck_assert_uint_eq(bytes_to_blk_down(4096), 1);
	ck_assert_uint_eq(bytes_to_blk_up(0), 0);
	ck_assert_uint_eq(bytes_to_blk_up(1), 1);
	ck_assert_uint_eq(bytes_to_blk_up(4096), 1);
	ck_assert_uint_eq(bytes_to_blk_up(UINT64_MAX), 1ull << 52); // no overflow on the way
	ck_assert_uint_eq(blk_to_bytes(3), 12288);
}
END_TEST

// ---- size.h ----

struct size_case {
	const char *text;
	int rc;
	uint64_t bytes;
};

static const struct size_case size_cases[] = {
	{ "0", 0, 0 },
	{ "1", 0, 1 },
	{ "4096", 0, 4096 },
	{ "1K", 0, 1024 },
	{ "1k", 0, 1024 },
	{ "20G", 0, 20ull << 30 },
	{ "20GB", 0, 20ull << 30 },
	{ "20GiB", 0, 20ull << 30 },
	{ "3M", 0, 3ull << 20 },
	{ "16T", 0, 16ull << 40 },
	{ "1P", 0, 1ull << 50 },
	{ "9223372036854775807", 0, INT64_MAX },
	{ "8191P", 0, 8191ull << 50 },
	{ "9223372036854775808", -ERANGE, 0 },
	{ "8192P", -ERANGE, 0 },
	{ "99999999999999999999", -ERANGE, 0 },
	{ "", -EINVAL, 0 },
	{ "-1", -EINVAL, 0 },
	{ "+1", -EINVAL, 0 },
	{ " 1", -EINVAL, 0 },
	{ "1 G", -EINVAL, 0 },
	{ "G", -EINVAL, 0 },
	{ "1X", -EINVAL, 0 },
	{ "1GX", -EINVAL, 0 },
	{ "1GBB", -EINVAL, 0 },
	{ "1.5G", -EINVAL, 0 },
};

START_TEST(size_parses)
{
	const struct size_case *c = &size_cases[_i];
	uint64_t bytes = 0;

	ck_assert_msg(size_parse(c->text, &bytes) == c->rc, "\"%s\" gives the wrong code", c->text);
	ck_assert_uint_eq(bytes, c->bytes);
}
END_TEST

START_TEST(size_formats)
{
	char buf[SIZE_TEXT_LEN];

	ck_assert_str_eq(size_format(0, buf), "0 B");
	ck_assert_str_eq(size_format(1023, buf), "1023 B");
	ck_assert_str_eq(size_format(1536, buf), "1.5 KiB");
	ck_assert_str_eq(size_format(1ull << 30, buf), "1 GiB");
	ck_assert_str_eq(size_format(UINT64_MAX, buf), "16 EiB");
	ck_assert_ptr_eq(size_format(1, buf), buf);
}
END_TEST

// ---- run.h ----

START_TEST(run_add_merges_only_adjacent)
{
	struct runlist list = { 0 };

	ck_assert_int_eq(runlist_add(&list, 10, 5), 0);
	ck_assert_int_eq(runlist_add(&list, 15, 1), 0); // adjacent to the end
	ck_assert_uint_eq(list.n, 1);
	ck_assert_uint_eq(list.runs[0].len_blk, 6);
	ck_assert_int_eq(runlist_add(&list, 17, 1), 0); // a gap of one
	ck_assert_int_eq(runlist_add(&list, 5, 5), 0);  // adjacent to the first, which is not the last
	ck_assert_uint_eq(list.n, 3);
	ck_assert_uint_eq(runlist_blks(&list), 12);
	runlist_free(&list);
}
END_TEST

START_TEST(run_sort_orders_and_merges)
{
	struct runlist list = { 0 };

	for (uint64_t i = 100; i-- > 0;)
		ck_assert_int_eq(runlist_add(&list, i * 3, 1 + 2 * (i == 50)), 0);
	ck_assert_uint_eq(list.n, 100); // grew past its first size
	runlist_sort(&list);
	ck_assert_uint_eq(list.n, 99); // 150..152 and 153 became one
	for (uint32_t i = 1; i < list.n; i++)
		ck_assert_uint_gt(list.runs[i].start_blk, list.runs[i - 1].start_blk + list.runs[i - 1].len_blk);
	ck_assert_uint_eq(list.runs[50].start_blk, 150);
	ck_assert_uint_eq(list.runs[50].len_blk, 4);
	ck_assert_uint_eq(runlist_blks(&list), 102);
	runlist_free(&list);
}
END_TEST

START_TEST(run_clear_keeps_memory)
{
	struct runlist list = { 0 };

	runlist_sort(&list); // empty is fine
	ck_assert_uint_eq(runlist_blks(&list), 0);
	ck_assert_int_eq(runlist_add(&list, 1, 1), 0);
	runlist_clear(&list);
	ck_assert_uint_eq(list.n, 0);
	ck_assert_uint_gt(list.cap, 0);
	runlist_free(&list);
	ck_assert_ptr_null(list.runs);
	ck_assert_uint_eq(list.cap, 0);
	runlist_free(&list); // twice is fine
}
END_TEST

// ---- varint.h ----

START_TEST(varint_round_trip)
{
	uint8_t buf[VARINT_MAX_LEN];
	uint64_t back;

	for (unsigned bit = 0; bit < 64; bit++)
		for (int64_t d = -1; d <= 1; d++) {
			uint64_t v = (1ull << bit) + (uint64_t)d;
			size_t n = varint_put(buf, v);

			ck_assert_uint_le(n, VARINT_MAX_LEN);
			ck_assert_uint_eq(varint_get(buf, n, &back), n);
			ck_assert_uint_eq(back, v);
			for (size_t cut = 0; cut < n; cut++)
				ck_assert_uint_eq(varint_get(buf, cut, &back), 0);
		}
	ck_assert_uint_eq(varint_put(buf, 127), 1);
	ck_assert_uint_eq(varint_put(buf, 128), 2);
}
END_TEST

START_TEST(varint_refuses_over_64_bits)
{
	uint8_t buf[VARINT_MAX_LEN + 1];
	uint64_t v = 7;

	memset(buf, 0xff, sizeof(buf));
	ck_assert_uint_eq(varint_get(buf, sizeof(buf), &v), 0); // never ends
	buf[9] = 0x02;
	ck_assert_uint_eq(varint_get(buf, sizeof(buf), &v), 0); // bit 64
	ck_assert_uint_eq(v, 7);
	buf[9] = 0x01;
	ck_assert_uint_eq(varint_get(buf, sizeof(buf), &v), 10);
	ck_assert_uint_eq(v, UINT64_MAX);
}
END_TEST

// ---- crc32c.h, endian.h ----

// The check value of the catalogues, and the examples of RFC 3720 B.4.
START_TEST(crc32c_known_values)
{
	uint8_t buf[32];

	ck_assert_uint_eq(crc32c("123456789", 9), 0xe3069283u);
	ck_assert_uint_eq(crc32c("", 0), 0);
	memset(buf, 0, sizeof(buf));
	ck_assert_uint_eq(crc32c(buf, sizeof(buf)), 0x8a9136aau);
	memset(buf, 0xff, sizeof(buf));
	ck_assert_uint_eq(crc32c(buf, sizeof(buf)), 0x62a8ab43u);
	for (unsigned i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)i;
	ck_assert_uint_eq(crc32c(buf, sizeof(buf)), 0x46dd794eu);
}
END_TEST

// Against the definition bit by bit, at lengths and alignments where a fast version changes its method.
START_TEST(crc32c_all_lengths)
{
	uint8_t buf[5000];

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 131 + (i >> 8));
	for (size_t off = 0; off < 9; off++)
		for (size_t len = 0; len < sizeof(buf) - 9; len += len < 70 ? 1 : 487) {
			uint32_t want = ~0u;

			for (size_t i = 0; i < len; i++) {
				want ^= buf[off + i];
				for (int b = 0; b < 8; b++)
					want = want >> 1 ^ (want & 1 ? 0x82f63b78u : 0);
			}
			ck_assert_uint_eq(crc32c(buf + off, len), ~want);
		}
}
END_TEST

#ifdef __x86_64__

// Whether the upper halves of vector registers are in use, which processors with this kind of XGETBV tell.
__attribute__((target("xsave"))) static bool upper_halves_in_use(void) { return (_xgetbv(1) & (1 << 2)) != 0; }

static bool can_tell(void)
{
	unsigned a, b, c, d;

	return __builtin_cpu_supports("avx") && __get_cpuid_count(0xd, 1, &a, &b, &c, &d) != 0 && (a & (1 << 2)) != 0;
}

__attribute__((target("avx"))) static void clear_upper_halves(void) { _mm256_zeroupper(); }

// What follows would be slow otherwise: see crc32c.c.
START_TEST(crc32c_leaves_the_registers_clean)
{
	static uint8_t buf[4096];
	bool before, after;
	uint32_t crc;

	if (!can_tell())
		return;
	clear_upper_halves();
	before = upper_halves_in_use();
	crc = crc32c(buf, sizeof(buf));
	after = upper_halves_in_use();
	ck_assert_uint_ne(crc, 0);
	ck_assert(!after || before);
}
END_TEST
#endif

START_TEST(endian_is_little)
{
	le16 a = to_le16(0x0102);
	le32 b = to_le32(0x01020304);
	le64 c = to_le64(0x0102030405060708ull);

	ck_assert_mem_eq(&a, "\x02\x01", 2);
	ck_assert_mem_eq(&b, "\x04\x03\x02\x01", 4);
	ck_assert_mem_eq(&c, "\x08\x07\x06\x05\x04\x03\x02\x01", 8);
	ck_assert_uint_eq(from_le16(a), 0x0102);
	ck_assert_uint_eq(from_le32(b), 0x01020304);
	ck_assert_uint_eq(from_le64(c), 0x0102030405060708ull);
}
END_TEST

// ---- errmsg.h ----

START_TEST(errmsg_sets_and_prefixes)
{
	struct errmsg why;

	errmsg_set(&why, "%d things", 3);
	ck_assert_str_eq(why.text, "3 things");
	errmsg_prefix(&why, "disk %s", "a");
	ck_assert_str_eq(why.text, "disk a: 3 things");
	errmsg_set(&why, "new");
	ck_assert_str_eq(why.text, "new");
	errmsg_set(NULL, "%s", "ignored");
	errmsg_prefix(NULL, "%s", "ignored");
}
END_TEST

START_TEST(errmsg_truncates)
{
	struct errmsg why;
	char text[2 * sizeof(why.text)];

	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	errmsg_set(&why, "%s", text);
	ck_assert_uint_eq(strlen(why.text), sizeof(why.text) - 1);
	errmsg_prefix(&why, "p");
	ck_assert_uint_eq(strlen(why.text), sizeof(why.text) - 1);
	ck_assert_int_eq(strncmp(why.text, "p: xxx", 6), 0);
	errmsg_prefix(&why, "%s", text);
	ck_assert_uint_eq(strlen(why.text), sizeof(why.text) - 1);
}
END_TEST

// ---- log.h ----

// Sends stderr to a file; each test is a process of its own, so nothing has to be put back.
static FILE *catch_stderr(void)
{
	FILE *f = tmpfile();

	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(dup2(fileno(f), STDERR_FILENO), 0);
	return f;
}

static unsigned count_lines(FILE *f, const char *start)
{
	char line[1200];
	unsigned n = 0;

	rewind(f);
	while (fgets(line, sizeof(line), f) != NULL)
		n += strncmp(line, start, strlen(start)) == 0;
	return n;
}

START_TEST(log_drops_what_is_above_max)
{
	FILE *f = catch_stderr();

	msg_open("prog", MSG_TO_STDERR, MSG_WARN);
	msg_error("e %d", 1);
	msg_warn("w");
	msg_info("i");
	msg_debug("d");
	ck_assert_uint_eq(count_lines(f, "prog: e 1\n"), 1);
	ck_assert_uint_eq(count_lines(f, "prog: w\n"), 1);
	ck_assert_uint_eq(count_lines(f, ""), 2);
	msg_open("prog", MSG_TO_NOWHERE, MSG_DEBUG);
	msg_error("nowhere");
	ck_assert_uint_eq(count_lines(f, ""), 2);
}
END_TEST

START_TEST(log_limits_a_flood_and_says_so)
{
	FILE *f = catch_stderr();

	msg_open("prog", MSG_TO_STDERR, MSG_DEBUG);
	for (int i = 0; i < LOG_BURST + 7; i++)
		msg_error("flood");
	for (int i = 0; i < LOG_BURST + 7; i++)
		msg_debug("asked for");
	ck_assert_uint_eq(count_lines(f, "prog: flood\n"), LOG_BURST);
	ck_assert_uint_eq(count_lines(f, "prog: asked for\n"), LOG_BURST + 7);
	sleep(LOG_INTERVAL_S);
	msg_error("after");
	ck_assert_uint_eq(count_lines(f, "prog: 7 messages suppressed\n"), 1);
	ck_assert_uint_eq(count_lines(f, "prog: after\n"), 1);
}
END_TEST

// ---- attr.h ----

START_TEST(verify_stops_the_process)
{
	catch_stderr();
	VERIFY(1 + 1 == 2);
	VERIFY(1 + 1 == 3);
}
END_TEST

static Suite *util_suite(void)
{
	Suite *s = suite_create("util");
	TCase *pure = tcase_create("pure"), *logs = tcase_create("log");

	tcase_add_test(pure, blk_rounding);
	tcase_add_loop_test(pure, size_parses, 0, (int)ARRAY_LEN(size_cases));
	tcase_add_test(pure, size_formats);
	tcase_add_test(pure, run_add_merges_only_adjacent);
	tcase_add_test(pure, run_sort_orders_and_merges);
	tcase_add_test(pure, run_clear_keeps_memory);
	tcase_add_test(pure, varint_round_trip);
	tcase_add_test(pure, varint_refuses_over_64_bits);
	tcase_add_test(pure, crc32c_known_values);
	tcase_add_test(pure, crc32c_all_lengths);
#ifdef __x86_64__
	tcase_add_test(pure, crc32c_leaves_the_registers_clean);
#endif
	tcase_add_test(pure, endian_is_little);
	tcase_add_test(pure, errmsg_sets_and_prefixes);
	tcase_add_test(pure, errmsg_truncates);
	suite_add_tcase(s, pure);
	tcase_set_timeout(logs, 4 * LOG_INTERVAL_S);
	tcase_add_test(logs, log_drops_what_is_above_max);
	tcase_add_test(logs, log_limits_a_flood_and_says_so);
	tcase_add_test_raise_signal(logs, verify_stops_the_process, SIGABRT);
	suite_add_tcase(s, logs);
	return s;
}

int main(void) { return run_suite(util_suite()); }
