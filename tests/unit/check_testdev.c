// SPDX-License-Identifier: MIT
// The device in memory: what other tests believe about crashes and faults is decided here.
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/testdev.h"
#include "run_suite.h"
#include "util/log.h"

#define DEV_BYTES (8u << 20)
#define SECTOR TESTDEV_SECTOR

static struct bdev *new_dev(uint64_t size_bytes)
{
	struct bdev *dev;

	msg_open("check_testdev", MSG_TO_NOWHERE, MSG_ERROR);
	ck_assert_int_eq(testdev_create(size_bytes, &dev), 0);
	return dev;
}

static void put(struct bdev *dev, uint64_t off_bytes, size_t len_bytes, int byte)
{
	uint8_t *buf = malloc(len_bytes);

	memset(buf, byte, len_bytes);
	ck_assert_int_eq(bdev_write(dev, buf, len_bytes, off_bytes), 0);
	free(buf);
}

static void expect(struct bdev *dev, uint64_t off_bytes, size_t len_bytes, int byte)
{
	uint8_t *buf = malloc(len_bytes);

	ck_assert_int_eq(bdev_read(dev, buf, len_bytes, off_bytes), 0);
	for (size_t i = 0; i < len_bytes; i++)
		if (buf[i] != byte) // one ck_assert per byte would take minutes
			ck_abort_msg("byte %llu is %#x, not %#x", (unsigned long long)(off_bytes + i), buf[i], byte);
	free(buf);
}

// ---- content ----

START_TEST(new_device_is_zeros)
{
	struct bdev *dev = new_dev(DEV_BYTES + 5000);

	ck_assert_uint_eq(dev->size_bytes, DEV_BYTES + 4096); // rounded down
	expect(dev, 0, DEV_BYTES + 4096, 0);
	bdev_close(dev);
}
END_TEST

START_TEST(writes_across_chunks_read_back)
{
	struct bdev *dev = new_dev(256u << 20);
	const uint64_t borders[] = { 65536, 64ull << 20, 128ull << 20 }; // of chunks and of table leaves

	for (unsigned i = 0; i < ARRAY_LEN(borders); i++) {
		put(dev, borders[i] - SECTOR, 3 * SECTOR, 0x40 + (int)i);
		expect(dev, borders[i] - SECTOR, 3 * SECTOR, 0x40 + (int)i);
		expect(dev, borders[i] - 2 * SECTOR, SECTOR, 0);
		expect(dev, borders[i] + 2 * SECTOR, SECTOR, 0);
	}
	bdev_close(dev);
}
END_TEST

START_TEST(discard_poisons_exactly_the_range)
{
	struct bdev *dev = new_dev(256u << 20);
	uint64_t from = 65536 - SECTOR, to = (130ull << 20) + SECTOR; // parts, whole chunks, a whole leaf

	put(dev, 0, 1 << 20, 1);
	put(dev, 130ull << 20, 1 << 20, 2);
	ck_assert(dev->can_discard);
	ck_assert_int_eq(bdev_discard(dev, from, to - from), 0);
	expect(dev, 0, from, 1);
	expect(dev, from, 1 << 20, TESTDEV_POISON);
	expect(dev, 64ull << 20, 1 << 20, TESTDEV_POISON);
	expect(dev, to - SECTOR, SECTOR, TESTDEV_POISON);
	expect(dev, to, SECTOR, 2);
	put(dev, 100ull << 20, SECTOR, 3); // into a poisoned leaf
	expect(dev, 100ull << 20, SECTOR, 3);
	expect(dev, (100ull << 20) + SECTOR, SECTOR, TESTDEV_POISON);
	expect(dev, (99ull << 20), SECTOR, TESTDEV_POISON);
	bdev_close(dev);
}
END_TEST

START_TEST(sixteen_tib_cost_nothing)
{
	struct bdev *dev = new_dev(16ull << 40), *copy;

	ck_assert_int_eq(bdev_discard(dev, 0, 16ull << 40), 0);
	put(dev, (16ull << 40) - SECTOR, SECTOR, 9);
	ck_assert_int_eq(testdev_clone(dev, &copy), 0);
	expect(copy, (16ull << 40) - SECTOR, SECTOR, 9);
	expect(copy, 5ull << 40, SECTOR, TESTDEV_POISON);
	bdev_close(copy);
	bdev_close(dev);
}
END_TEST

START_TEST(clone_is_independent)
{
	struct bdev *dev = new_dev(DEV_BYTES), *copy;

	put(dev, 0, 8192, 1);
	testdev_fail(dev, TESTDEV_WRITE, 2, EIO, false);
	ck_assert_int_eq(testdev_clone(dev, &copy), 0);
	put(copy, 0, SECTOR, 2);
	put(dev, 4096, SECTOR, 3);
	put(copy, SECTOR, SECTOR, 2); // the fault stayed behind
	expect(dev, 0, 4096, 1);
	expect(copy, 0, 2 * SECTOR, 2);
	expect(copy, 4096, 4096, 1);
	bdev_close(dev); // shared content survives
	expect(copy, 4096, 4096, 1);
	bdev_close(copy);
}
END_TEST

// ---- recording ----

START_TEST(log_holds_writes_flushes_discards_in_order)
{
	struct bdev *dev = new_dev(DEV_BYTES);
	const struct testdev_entry *e;
	uint8_t two[SECTOR], three[SECTOR];
	struct iovec iov[2] = { { two, SECTOR }, { three, SECTOR } };

	put(dev, 0, SECTOR, 1); // before recording
	testdev_record(dev, true);
	ck_assert_uint_eq(testdev_log_len(dev), 0);
	memset(two, 2, SECTOR);
	memset(three, 3, SECTOR);
	ck_assert_int_eq(bdev_writev(dev, iov, 2, 4096), 0);
	memset(two, 0xee, SECTOR); // the log has its own copy
	expect(dev, 0, SECTOR, 1); // reads are not logged
	ck_assert_int_eq(bdev_flush(dev), 0);
	ck_assert_int_eq(bdev_discard(dev, 8192, 4096), 0);
	testdev_record(dev, false);
	put(dev, 0, SECTOR, 4);
	ck_assert_uint_eq(testdev_log_len(dev), 3);
	e = testdev_log_at(dev, 0);
	ck_assert_int_eq(e->op, TESTDEV_WRITE);
	ck_assert_uint_eq(e->off_bytes, 4096);
	ck_assert_uint_eq(e->len_bytes, 2 * SECTOR);
	ck_assert_uint_eq(((const uint8_t *)e->data)[SECTOR - 1], 2);
	ck_assert_mem_eq((const uint8_t *)e->data + SECTOR, three, SECTOR);
	ck_assert_int_eq(testdev_log_at(dev, 1)->op, TESTDEV_FLUSH);
	e = testdev_log_at(dev, 2);
	ck_assert_int_eq(e->op, TESTDEV_DISCARD);
	ck_assert_uint_eq(e->off_bytes, 8192);
	ck_assert_uint_eq(e->len_bytes, 4096);
	testdev_record(dev, true); // begins anew
	ck_assert_uint_eq(testdev_log_len(dev), 0);
	bdev_close(dev);
}
END_TEST

// Base 1 everywhere; then: 0 write A=2, 1 flush, 2 write A=3, 3 write B=3, 4 discard C, 5 flush, 6 write A=4
#define OFF_A 0u
#define OFF_B 65536u
#define OFF_C 131072u
#define LEN 4096u

static struct bdev *recorded_dev(void)
{
	struct bdev *dev = new_dev(DEV_BYTES);

	put(dev, 0, 1 << 20, 1);
	testdev_record(dev, true);
	put(dev, OFF_A, LEN, 2);
	ck_assert_int_eq(bdev_flush(dev), 0);
	put(dev, OFF_A, LEN, 3);
	put(dev, OFF_B, LEN, 3);
	ck_assert_int_eq(bdev_discard(dev, OFF_C, LEN), 0);
	ck_assert_int_eq(bdev_flush(dev), 0);
	put(dev, OFF_A, LEN, 4);
	return dev;
}

static void expect_state(struct bdev *dev, size_t n, testdev_keep_fn keep, void *ctx, int a, int b, int c)
{
	struct bdev *state;

	ck_assert_int_eq(testdev_crash_state(dev, n, keep, ctx, &state), 0);
	expect(state, OFF_A, LEN, a);
	expect(state, OFF_B, LEN, b);
	expect(state, OFF_C, LEN, c);
	bdev_close(state);
}

START_TEST(crash_state_of_every_prefix)
{
	struct bdev *dev = recorded_dev();

	for (int again = 0; again < 2; again++) { // the second time back from the end
		expect_state(dev, 0, NULL, NULL, 1, 1, 1);
		expect_state(dev, 1, NULL, NULL, 2, 1, 1);
		expect_state(dev, 2, NULL, NULL, 2, 1, 1);
		expect_state(dev, 3, NULL, NULL, 3, 1, 1);
		expect_state(dev, 4, NULL, NULL, 3, 3, 1);
		expect_state(dev, 5, NULL, NULL, 3, 3, TESTDEV_POISON);
		expect_state(dev, 6, NULL, NULL, 3, 3, TESTDEV_POISON);
		expect_state(dev, 7, NULL, NULL, 4, 3, TESTDEV_POISON);
	}
	expect(dev, OFF_A, LEN, 4); // the device itself is as before
	bdev_close(dev);
}
END_TEST

struct keeper {
	uint64_t mask; // bit i: entry i survives
	uint64_t asked;
};

static bool keep_mask(void *ctx, size_t entry, uint64_t *from_sector, uint64_t *to_sector)
{
	struct keeper *k = ctx;

	ck_assert_uint_eq(*from_sector, 0);
	ck_assert_uint_eq(*to_sector, LEN / SECTOR);
	k->asked |= 1ull << entry;
	return (k->mask >> entry & 1) != 0;
}

START_TEST(crash_state_drops_only_after_the_last_flush)
{
	struct bdev *dev = recorded_dev();
	struct keeper k = { 0, 0 };

	expect_state(dev, 5, keep_mask, &k, 2, 1, 1); // all three dropped
	ck_assert_uint_eq(k.asked, 1u << 2 | 1u << 3 | 1u << 4);
	k = (struct keeper){ 1u << 3, 0 }; // reordered: B without the earlier A
	expect_state(dev, 5, keep_mask, &k, 2, 3, 1);
	k = (struct keeper){ 0, 0 };
	expect_state(dev, 6, keep_mask, &k, 3, 3, TESTDEV_POISON); // flushed: nobody is asked
	ck_assert_uint_eq(k.asked, 0);
	expect_state(dev, 7, keep_mask, &k, 3, 3, TESTDEV_POISON);
	ck_assert_uint_eq(k.asked, 1u << 6);
	bdev_close(dev);
}
END_TEST

static bool keep_middle(void *ctx, size_t entry, uint64_t *from_sector, uint64_t *to_sector)
{
	(void)ctx;
	(void)entry;
	*from_sector = 2;
	*to_sector = 5;
	return true;
}

START_TEST(crash_state_tears_at_sectors)
{
	struct bdev *dev = recorded_dev(), *state;

	ck_assert_int_eq(testdev_crash_state(dev, 5, keep_middle, NULL, &state), 0);
	expect(state, OFF_A, 2 * SECTOR, 2);
	expect(state, OFF_A + 2 * SECTOR, 3 * SECTOR, 3);
	expect(state, OFF_A + 5 * SECTOR, LEN - 5 * SECTOR, 2);
	expect(state, OFF_C, 2 * SECTOR, 1);
	expect(state, OFF_C + 2 * SECTOR, 3 * SECTOR, TESTDEV_POISON);
	expect(state, OFF_C + 5 * SECTOR, LEN - 5 * SECTOR, 1);
	put(state, OFF_A, LEN, 9); // a state is a device of its own
	expect(dev, OFF_A, LEN, 4);
	bdev_close(state);
	bdev_close(dev);
}
END_TEST

// ---- faults ----

START_TEST(crash_pieces_reorder_and_repeat)
{
	struct bdev *dev = new_dev(DEV_BYTES), *state;
	const struct testdev_piece late_first[] = { { 3, 0, 2 }, { 2, 0, UINT64_MAX } };
	const struct testdev_piece twice[] = { { 2, 0, 4 }, { 3, 0, 2 }, { 2, 1, 2 } };

	testdev_record(dev, true);
	put(dev, 0, 4 * SECTOR, 'a');
	ck_assert_int_eq(bdev_flush(dev), 0);
	put(dev, SECTOR, 4 * SECTOR, 'b');
	put(dev, 2 * SECTOR, 2 * SECTOR, 'c');

	ck_assert_int_eq(testdev_crash_pieces(dev, 4, NULL, 0, &state), 0);
	expect(state, 0, 4 * SECTOR, 'a');
	expect(state, 4 * SECTOR, SECTOR, 0);
	bdev_close(state);

	ck_assert_int_eq(testdev_crash_pieces(dev, 4, late_first, 2, &state), 0);
	expect(state, 0, SECTOR, 'a');
	expect(state, SECTOR, 4 * SECTOR, 'b');
	bdev_close(state);

	ck_assert_int_eq(testdev_crash_pieces(dev, 4, twice, 3, &state), 0);
	expect(state, SECTOR, SECTOR, 'b');
	expect(state, 2 * SECTOR, SECTOR, 'b'); // came again
	expect(state, 3 * SECTOR, SECTOR, 'c');
	expect(state, 4 * SECTOR, SECTOR, 'b');
	bdev_close(state);
	bdev_close(dev);
}
END_TEST

START_TEST(fault_hits_the_nth_call_once)
{
	struct bdev *dev = new_dev(DEV_BYTES);
	uint8_t buf[SECTOR];

	testdev_fail(dev, TESTDEV_READ, 3, EIO, false);
	for (int i = 1; i <= 5; i++)
		ck_assert_int_eq(bdev_read(dev, buf, SECTOR, 0), i == 3 ? -EIO : 0);
	ck_assert_uint_eq(testdev_count(dev, TESTDEV_READ), 5);
	ck_assert_uint_eq(testdev_count(dev, TESTDEV_WRITE), 0);
	ck_assert(testdev_fault_fired(dev));
	bdev_close(dev);
}
END_TEST

START_TEST(fault_can_persist_and_be_cleared)
{
	struct bdev *dev = new_dev(DEV_BYTES);
	uint8_t buf[SECTOR];

	testdev_fail(dev, TESTDEV_READ, 2, -ENXIO, true); // either sign
	ck_assert(!testdev_fault_fired(dev));
	for (int i = 1; i <= 5; i++)
		ck_assert_int_eq(bdev_read(dev, buf, SECTOR, 0), i >= 2 ? -ENXIO : 0);
	testdev_fail(dev, TESTDEV_READ, 0, 0, false);
	ck_assert_int_eq(bdev_read(dev, buf, SECTOR, 0), 0);
	ck_assert_uint_eq(testdev_count(dev, TESTDEV_READ), 1);
	ck_assert(!testdev_fault_fired(dev));
	bdev_close(dev);
}
END_TEST

START_TEST(failed_calls_leave_no_trace)
{
	struct bdev *dev = new_dev(DEV_BYTES);
	uint8_t buf[SECTOR] = { 1 };

	testdev_record(dev, true);
	testdev_fail(dev, TESTDEV_DISCARD, 1, EIO, false);
	ck_assert_int_eq(bdev_discard(dev, 0, SECTOR), -EIO);
	testdev_fail(dev, TESTDEV_WRITE, 1, ENOSPC, false);
	ck_assert_int_eq(bdev_write(dev, buf, SECTOR, 0), -ENOSPC);
	ck_assert_uint_eq(testdev_log_len(dev), 0);
	expect(dev, 0, SECTOR, 0);
	bdev_close(dev);
}
END_TEST

START_TEST(failed_flush_makes_nothing_durable)
{
	struct bdev *dev = new_dev(DEV_BYTES);
	struct keeper k = { 0, 0 };

	testdev_record(dev, true);
	put(dev, OFF_A, LEN, 1);
	testdev_fail(dev, TESTDEV_FLUSH, 1, EIO, false);
	ck_assert_int_eq(bdev_flush(dev), -EIO);
	ck_assert_uint_eq(testdev_log_len(dev), 1);
	expect_state(dev, 1, keep_mask, &k, 0, 0, 0);
	bdev_close(dev);
}
END_TEST

static Suite *testdev_suite(void)
{
	Suite *s = suite_create("testdev");
	TCase *t = tcase_create("testdev");

	tcase_set_timeout(t, 60);
	tcase_add_test(t, new_device_is_zeros);
	tcase_add_test(t, writes_across_chunks_read_back);
	tcase_add_test(t, discard_poisons_exactly_the_range);
	tcase_add_test(t, sixteen_tib_cost_nothing);
	tcase_add_test(t, clone_is_independent);
	tcase_add_test(t, log_holds_writes_flushes_discards_in_order);
	tcase_add_test(t, crash_state_of_every_prefix);
	tcase_add_test(t, crash_state_drops_only_after_the_last_flush);
	tcase_add_test(t, crash_state_tears_at_sectors);
	tcase_add_test(t, crash_pieces_reorder_and_repeat);
	tcase_add_test(t, fault_hits_the_nth_call_once);
	tcase_add_test(t, fault_can_persist_and_be_cleared);
	tcase_add_test(t, failed_calls_leave_no_trace);
	tcase_add_test(t, failed_flush_makes_nothing_durable);
	suite_add_tcase(s, t);
	return s;
}

int main(void) { return run_suite(testdev_suite()); }
