// SPDX-License-Identifier: MIT
// Rows of table deferred as a stranger might have written them, and the numbers in config that say which of them count: a mount refuses.
#include "fstest.h"

static struct ft t;

static const char *const bad_numbers[] = {
	"INSERT OR REPLACE INTO config VALUES('deferred_from', 1000)", // what is written next would be dead
	"UPDATE config SET value = 4611686018427387904 WHERE key = 'txn'",
	"UPDATE config SET value = 9223372036854775807 WHERE key = 'txn'",
};

// Overwrites the first block of "f", in a transaction that does this, too, and pulls the plug.
static struct bdev *with_sql(uint8_t *buf, const char *sql)
{
	struct bdev *crashed;
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	memset(buf, 0x20, MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ft_write(&t, ino, buf, MIB, 0);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	memset(buf, 0x21, BLK_SIZE);
	ft_write(&t, ino, buf, BLK_SIZE, 0);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ft_write(&t, ino, buf, BLK_SIZE, 0); // so that the number of this transaction does not go to config
	store_lock(t.vol->store);
	ck_assert_int_eq(sqlite3_exec(store_db(t.vol->store), sql, NULL, NULL, NULL), SQLITE_OK);
	store_unlock(t.vol->store);
	ck_assert_int_eq(fs_sync(t.fs), 0);
	ck_assert_int_eq(testdev_clone(t.dev, &crashed), 0);
	fs_destroy_context(t.fs);
	volume_abandon(t.vol);
	bdev_close(t.dev);
	return crashed;
}

static void expect_refusal(struct bdev *dev)
{
	struct volume_opts opts = { 0 };
	struct errmsg why;
	struct volume *vol;

	ck_assert_int_eq(volume_open(dev, &opts, &vol, &why), -EUCLEAN);
	ck_assert_ptr_nonnull(strstr(why.text, "fsck"));
}

// A mount with these would lose what it is told to make durable.
START_TEST(bad_numbers_are_refused)
{
	uint8_t *buf = malloc(MIB);
	struct bdev *dev = with_sql(buf, bad_numbers[_i]);

	expect_refusal(dev);
	bdev_close(dev);
	free(buf);
}
END_TEST

// A copy of the good row in slot 0, with one thing wrong.
static const char *const bad_rows[] = {
	"INSERT INTO deferred SELECT 5, phys, txn, crc, pad, data FROM deferred",
	"INSERT INTO deferred SELECT 1048576, phys + 1, txn, crc, pad, data FROM deferred",
	"INSERT INTO deferred SELECT 5, -1, txn, crc, pad, data FROM deferred",
	"INSERT INTO deferred SELECT 5, 0, txn, crc, pad, data FROM deferred",
	"INSERT INTO deferred SELECT 5, 16384, txn, crc, pad, data FROM deferred", // the block behind the volume's last one
	"INSERT INTO deferred SELECT 5, phys + 1, 4611686018427387904, crc, pad, data FROM deferred",
	"INSERT INTO deferred SELECT 5, phys + 1, txn, crc + 4294967296, pad, data FROM deferred",
	"INSERT INTO deferred SELECT 5, phys + 1, txn, crc - 4294967296, pad, data FROM deferred",
	"INSERT INTO deferred SELECT 5, phys + 1, txn, crc, pad, zeroblob(4096) FROM deferred",
	"INSERT INTO deferred SELECT 5, phys + 1, txn, crc, pad, substr(data, 2) FROM deferred",
	"INSERT INTO deferred SELECT 5, phys + 1, txn, crc, pad, CAST(data AS TEXT) FROM deferred",
};

// None of them is written to the device. Who only reads is told, or sees the file.
START_TEST(bad_rows_are_refused)
{
	uint8_t *buf = malloc(MIB), *got = malloc(MIB);
	struct bdev *dev = with_sql(buf, bad_rows[_i]);
	struct fs_opts opts = { .atime = FS_NOATIME };
	struct ft ro = { .dev = dev };
	size_t done;
	uint64_t ino;
	int r;

	expect_refusal(dev);
	ro.vol = vt_open_flags(dev, VOLUME_READ_ONLY);
	ck_assert_int_eq(fs_create_context(ro.vol, &opts, &ro.fs), 0);
	ck_assert_int_eq(ft_lookup(&ro, ROOT_INO, "f", &ino), 0);
	r = fs_read(ro.fs, ino, got, MIB, 0, &done);
	ck_assert(r == -EUCLEAN || r == -EIO || (r == 0 && memcmp(got, buf, done) == 0));
	ft_unmount(&ro);
	bdev_close(dev);
	free(buf);
	free(got);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("deferred rows");
	TCase *tc = tcase_create("bad");

	tcase_add_loop_test(tc, bad_numbers_are_refused, 0, ARRAY_LEN(bad_numbers));
	tcase_add_loop_test(tc, bad_rows_are_refused, 0, ARRAY_LEN(bad_rows));
	suite_add_tcase(s, tc);
	return ft_main(s);
}
