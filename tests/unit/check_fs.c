// SPDX-License-Identifier: MIT
// fs/: names, renames, directories and attributes. Data is in check_fs_data.c, orphans and durability are in check_fs_life.c.
#include <limits.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "fstest.h"

static struct ft t;

// ---- names ----

START_TEST(create_lookup_unlink)
{
	struct fs_entry e;
	uint64_t ino, got;
	struct stat st;

	ft_new(&t, 64 * MIB);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "a", NULL), -ENOENT);
	ino = ft_create(&t, ROOT_INO, "a");
	st = ft_stat(&t, ino);
	ck_assert_uint_eq(st.st_mode, S_IFREG | 0644);
	ck_assert(st.st_uid == 1000 && st.st_gid == 100 && st.st_nlink == 1 && st.st_size == 0 && st.st_blocks == 0);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "a", &got), 0);
	ck_assert_uint_eq(got, ino);
	ck_assert_int_eq(fs_mknod(t.fs, ROOT_INO, "a", S_IFREG | 0600, 0, &ft_cred, &e), -EEXIST);
	ck_assert_int_eq(fs_mkdir(t.fs, ROOT_INO, ".", 0700, &ft_cred, &e), -EEXIST);
	ck_assert_int_eq(fs_mknod(t.fs, ino, "b", S_IFREG | 0600, 0, &ft_cred, &e), -ENOTDIR);
	ck_assert_int_eq(ft_lookup(&t, ino, "b", NULL), -ENOTDIR);
	ck_assert_int_eq(fs_rmdir(t.fs, ROOT_INO, "a"), -ENOTDIR);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "a"), 0);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "a", NULL), -ENOENT);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "a"), -ENOENT);
	ck_assert_uint_eq(ft_stat(&t, ino).st_nlink, 0); // still referenced
	fs_forget(t.fs, ino, 2);
	ft_end(&t);
}
END_TEST

START_TEST(name_lengths)
{
	char name[258];
	struct fs_entry e;

	ft_new(&t, 64 * MIB);
	memset(name, 'n', sizeof(name));
	name[256] = '\0';
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, name, NULL), -ENAMETOOLONG);
	ck_assert_int_eq(fs_mkdir(t.fs, ROOT_INO, name, 0755, &ft_cred, &e), -ENAMETOOLONG);
	ck_assert_int_eq(fs_rename(t.fs, ROOT_INO, "x", ROOT_INO, name, 0), -ENAMETOOLONG);
	name[255] = '\0';
	ft_mkdir(&t, ROOT_INO, name);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, name, NULL), 0);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "", NULL), -ENOENT);
	ft_create(&t, ROOT_INO, "\xff\xfe \n");
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "\xff\xfe \n", NULL), 0);
	ft_end(&t);
}
END_TEST

START_TEST(directories_and_dots)
{
	uint64_t a, b, got;

	ft_new(&t, 64 * MIB);
	a = ft_mkdir(&t, ROOT_INO, "a");
	b = ft_mkdir(&t, a, "b");
	ck_assert_uint_eq(ft_stat(&t, ROOT_INO).st_nlink, 3);
	ck_assert_uint_eq(ft_stat(&t, a).st_nlink, 3);
	ck_assert_int_eq(ft_stat(&t, a).st_size, 1);
	ck_assert_int_eq(ft_lookup(&t, b, "..", &got), 0);
	ck_assert_uint_eq(got, a);
	ck_assert_int_eq(ft_lookup(&t, b, ".", &got), 0);
	ck_assert_uint_eq(got, b);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "..", &got), 0);
	ck_assert_uint_eq(got, ROOT_INO);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "a"), -EISDIR);
	ck_assert_int_eq(fs_rmdir(t.fs, ROOT_INO, "a"), -ENOTEMPTY);
	ck_assert_int_eq(fs_rmdir(t.fs, a, "b"), 0);
	ck_assert_int_eq(fs_rmdir(t.fs, ROOT_INO, "a"), 0);
	ck_assert_uint_eq(ft_stat(&t, ROOT_INO).st_nlink, 2);
	// Both are removed but referenced: nothing can be made in them any more.
	ck_assert_int_eq(fs_mkdir(t.fs, a, "c", 0755, &ft_cred, &(struct fs_entry){ 0 }), -ENOENT);
	ft_end(&t);
}
END_TEST

// How NFS finds an inode of which it has kept only the number. What has no name is not found: it is being deleted.
START_TEST(dot_finds_any_inode)
{
	uint64_t dir, file, got;

	ft_new(&t, 64 * MIB);
	dir = ft_mkdir(&t, ROOT_INO, "dir");
	file = ft_create(&t, ROOT_INO, "file");
	ck_assert_int_eq(ft_lookup(&t, file, ".", &got), 0);
	ck_assert_uint_eq(got, file);
	ck_assert_int_eq(ft_lookup(&t, file, "..", &got), -ENOTDIR);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "file"), 0);
	ck_assert_int_eq(fs_rmdir(t.fs, ROOT_INO, "dir"), 0);
	ck_assert_int_eq(ft_lookup(&t, file, ".", &got), -ENOENT);
	ck_assert_int_eq(ft_lookup(&t, dir, ".", &got), -ENOENT);
	ck_assert_int_eq(ft_lookup(&t, dir, "..", &got), -ENOENT);
	ck_assert_int_eq(ft_lookup(&t, dir + 1000, ".", &got), -ENOENT);
	ft_end(&t);
}
END_TEST

START_TEST(special_files_and_groups)
{
	struct fs_cred root = { .uid = 0 };
	struct fs_setattr attr = { .set = FS_SET_MODE | FS_SET_GID, .mode = 02775, .gid = 777 };
	struct fs_entry e;
	struct stat st;
	uint64_t dir;

	ft_new(&t, 64 * MIB);
	ck_assert_int_eq(fs_mknod(t.fs, ROOT_INO, "chr", S_IFCHR | 0600, makedev(0xabc, 0xdef12), &root, &e), 0);
	st = ft_stat(&t, e.ino);
	ck_assert(S_ISCHR(st.st_mode) && major(st.st_rdev) == 0xabc && minor(st.st_rdev) == 0xdef12);
	ck_assert_int_eq(fs_mknod(t.fs, ROOT_INO, "blk", S_IFBLK | 0600, makedev(8, 300), &root, &e), 0);
	st = ft_stat(&t, e.ino);
	ck_assert(S_ISBLK(st.st_mode) && major(st.st_rdev) == 8 && minor(st.st_rdev) == 300);
	ck_assert_int_eq(fs_mknod(t.fs, ROOT_INO, "big", S_IFBLK | 0600, makedev(8, 0x100000), &root, &e), -EINVAL);
	ck_assert_int_eq(fs_mknod(t.fs, ROOT_INO, "fifo", S_IFIFO | 0600, 0, &root, &e), 0);
	ck_assert_int_eq(fs_mknod(t.fs, ROOT_INO, "dir", S_IFDIR | 0600, 0, &root, &e), -EPERM);
	dir = ft_mkdir(&t, ROOT_INO, "g");
	ck_assert_int_eq(fs_setattr(t.fs, dir, &attr, &st), 0);
	ck_assert_uint_eq(ft_stat(&t, ft_create(&t, dir, "f")).st_gid, 777);
	st = ft_stat(&t, ft_mkdir(&t, dir, "d"));
	ck_assert(st.st_gid == 777 && (st.st_mode & S_ISGID) != 0);
	ft_end(&t);
}
END_TEST

START_TEST(symlinks)
{
	char target[SYMLINK_MAX_BYTES + 2], buf[SYMLINK_MAX_BYTES + 1];
	struct fs_entry e;
	size_t len;

	ft_new(&t, 64 * MIB);
	memset(target, 't', sizeof(target));
	target[SYMLINK_MAX_BYTES + 1] = '\0';
	ck_assert_int_eq(fs_symlink(t.fs, ROOT_INO, "l", target, &ft_cred, &e), -ENAMETOOLONG);
	ck_assert_int_eq(fs_symlink(t.fs, ROOT_INO, "l", "", &ft_cred, &e), -ENOENT);
	target[SYMLINK_MAX_BYTES] = '\0';
	ck_assert_int_eq(fs_symlink(t.fs, ROOT_INO, "l", target, &ft_cred, &e), 0);
	ck_assert_int_eq(fs_readlink(t.fs, e.ino, buf, sizeof(buf), &len), 0);
	ck_assert_uint_eq(len, SYMLINK_MAX_BYTES);
	ck_assert_mem_eq(buf, target, len);
	ck_assert_int_eq(fs_readlink(t.fs, e.ino, buf, 10, &len), 0);
	ck_assert_uint_eq(len, 10);
	ck_assert(S_ISLNK(e.st.st_mode) && e.st.st_size == SYMLINK_MAX_BYTES);
	ck_assert_int_eq(fs_readlink(t.fs, ROOT_INO, buf, 10, &len), -EINVAL);
	ck_assert_int_eq(ft_truncate(&t, e.ino, 0), -EINVAL);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "l"), 0);
	ft_end(&t);
}
END_TEST

START_TEST(hard_links)
{
	struct fs_entry e;
	uint64_t ino, dir, got;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "a");
	dir = ft_mkdir(&t, ROOT_INO, "d");
	ft_write(&t, ino, "hello", 5, 0);
	ck_assert_int_eq(fs_link(t.fs, ino, dir, "b", &e), 0);
	ck_assert(e.ino == ino && e.st.st_nlink == 2);
	ck_assert_int_eq(fs_link(t.fs, ino, dir, "b", &e), -EEXIST);
	ck_assert_int_eq(fs_link(t.fs, dir, ROOT_INO, "e", &e), -EPERM);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "a"), 0);
	ck_assert_int_eq(ft_lookup(&t, dir, "b", &got), 0);
	ck_assert_uint_eq(got, ino);
	ft_expect(&t, ino, "hello", 5);
	ck_assert_int_eq(fs_unlink(t.fs, dir, "b"), 0);
	ck_assert_int_eq(fs_link(t.fs, ino, dir, "c", &e), -ENOENT);
	ft_end(&t);
}
END_TEST

START_TEST(link_limit)
{
	struct fs_entry e;
	char name[32];
	uint64_t ino;
	int r = 0;
	unsigned n = 1;

	ft_new(&t, 128 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	for (; r == 0 && n < LINK_MAX_N + 10; n += r == 0) {
		snprintf(name, sizeof(name), "%u", n);
		r = fs_link(t.fs, ino, ROOT_INO, name, &e);
	}
	ck_assert_int_eq(r, -EMLINK);
	ck_assert_uint_eq(n, LINK_MAX_N);
	ft_end(&t);
}
END_TEST

// ---- rename ----

START_TEST(rename_moves_and_replaces)
{
	uint64_t a, b, f, g, got;

	ft_new(&t, 64 * MIB);
	a = ft_mkdir(&t, ROOT_INO, "a");
	b = ft_mkdir(&t, ROOT_INO, "b");
	f = ft_create(&t, a, "f");
	g = ft_create(&t, b, "g");
	ck_assert_int_eq(fs_rename(t.fs, a, "none", b, "x", 0), -ENOENT);
	ck_assert_int_eq(fs_rename(t.fs, a, "f", b, "g", RENAME_NOREPLACE), -EEXIST);
	ck_assert_int_eq(fs_rename(t.fs, a, "f", b, "g", RENAME_WHITEOUT), -EINVAL);
	ck_assert_int_eq(fs_rename(t.fs, a, "f", b, "g", RENAME_NOREPLACE | RENAME_EXCHANGE), -EINVAL);
	ck_assert_int_eq(fs_rename(t.fs, a, "f", b, "g", 0), 0);
	ck_assert_int_eq(ft_lookup(&t, a, "f", NULL), -ENOENT);
	ck_assert_int_eq(ft_lookup(&t, b, "g", &got), 0);
	ck_assert_uint_eq(got, f);
	ck_assert_uint_eq(ft_stat(&t, g).st_nlink, 0);
	ck_assert_int_eq(fs_rename(t.fs, b, "g", b, "h", RENAME_NOREPLACE), 0);
	ck_assert_int_eq(fs_rename(t.fs, b, "h", b, "h", 0), 0);
	ck_assert_int_eq(fs_rename(t.fs, b, "h", ROOT_INO, "a", 0), -EISDIR);
	ck_assert_int_eq(fs_rename(t.fs, ROOT_INO, "a", b, "h", 0), -ENOTDIR);
	ck_assert_int_eq(fs_rename(t.fs, ROOT_INO, "a", ROOT_INO, "b", 0), -ENOTEMPTY);
	ck_assert_int_eq(fs_rename(t.fs, ROOT_INO, "b", ROOT_INO, "a", 0), 0);
	ck_assert_uint_eq(ft_stat(&t, a).st_nlink, 0);
	ck_assert_uint_eq(ft_stat(&t, ROOT_INO).st_nlink, 3);
	ft_end(&t);
}
END_TEST

START_TEST(rename_of_directories)
{
	uint64_t a, b, c, got;

	ft_new(&t, 64 * MIB);
	a = ft_mkdir(&t, ROOT_INO, "a");
	b = ft_mkdir(&t, a, "b");
	c = ft_mkdir(&t, b, "c");
	ck_assert_int_eq(fs_rename(t.fs, ROOT_INO, "a", a, "x", 0), -EINVAL);
	ck_assert_int_eq(fs_rename(t.fs, ROOT_INO, "a", c, "x", 0), -EINVAL);
	ck_assert_int_eq(fs_rename(t.fs, b, "c", ROOT_INO, "a", RENAME_EXCHANGE), -EINVAL);
	ck_assert_int_eq(fs_rename(t.fs, b, "c", ROOT_INO, "a", 0), -ENOTEMPTY);
	ck_assert_int_eq(fs_rename(t.fs, a, "b", ROOT_INO, "b", 0), 0);
	ck_assert_int_eq(ft_lookup(&t, b, "..", &got), 0);
	ck_assert_uint_eq(got, ROOT_INO);
	ck_assert_uint_eq(ft_stat(&t, a).st_nlink, 2);
	ck_assert_uint_eq(ft_stat(&t, ROOT_INO).st_nlink, 4);
	ck_assert_int_eq(fs_rename(t.fs, ROOT_INO, "a", c, "a", 0), 0);
	ft_check(&t);
	ck_assert_int_eq(ft_lookup(&t, a, "..", &got), 0);
	ck_assert_uint_eq(got, c);
	ft_end(&t);
}
END_TEST

START_TEST(rename_exchange)
{
	uint64_t a, b, d, f, got;

	ft_new(&t, 64 * MIB);
	a = ft_mkdir(&t, ROOT_INO, "a");
	b = ft_mkdir(&t, ROOT_INO, "b");
	d = ft_mkdir(&t, a, "d");
	f = ft_create(&t, b, "f");
	ck_assert_int_eq(fs_rename(t.fs, a, "d", b, "none", RENAME_EXCHANGE), -ENOENT);
	ck_assert_int_eq(fs_rename(t.fs, a, "d", b, "f", RENAME_EXCHANGE), 0);
	ck_assert_int_eq(ft_lookup(&t, a, "d", &got), 0);
	ck_assert_uint_eq(got, f);
	ck_assert_int_eq(ft_lookup(&t, b, "f", &got), 0);
	ck_assert_uint_eq(got, d);
	ck_assert_uint_eq(ft_stat(&t, a).st_nlink, 2);
	ck_assert_uint_eq(ft_stat(&t, b).st_nlink, 3);
	ft_check(&t);
	ck_assert_int_eq(fs_rename(t.fs, ROOT_INO, "a", b, "f", RENAME_EXCHANGE), 0);
	ck_assert_int_eq(ft_lookup(&t, b, "f", &got), 0);
	ck_assert_uint_eq(got, a);
	ft_end(&t);
}
END_TEST

// The old name becomes a device 0:0 of the caller, which nobody refers to; what was replaced goes as with any rename.
START_TEST(rename_with_whiteout)
{
	uint64_t a, b, d, f, g, got;
	struct stat st;

	ft_new(&t, 64 * MIB);
	a = ft_mkdir(&t, ROOT_INO, "a");
	b = ft_mkdir(&t, ROOT_INO, "b");
	d = ft_mkdir(&t, a, "d");
	f = ft_create(&t, a, "f");
	g = ft_create(&t, b, "g");
	ck_assert_int_eq(fs_rename_whiteout(t.fs, a, "f", b, "g", RENAME_EXCHANGE, &ft_cred), -EINVAL);
	ck_assert_int_eq(fs_rename_whiteout(t.fs, a, "f", b, "g", RENAME_NOREPLACE, &ft_cred), -EEXIST);
	ck_assert_int_eq(fs_rename_whiteout(t.fs, a, "none", b, "g", 0, &ft_cred), -ENOENT);
	ck_assert_int_eq(fs_rename_whiteout(t.fs, a, "f", b, "g", 0, &ft_cred), 0);
	ck_assert_int_eq(ft_lookup(&t, b, "g", &got), 0);
	ck_assert_uint_eq(got, f);
	ck_assert_uint_eq(ft_stat(&t, g).st_nlink, 0);
	ck_assert_int_eq(ft_lookup(&t, a, "f", &got), 0);
	st = ft_stat(&t, got);
	ck_assert(st.st_mode == S_IFCHR && st.st_rdev == 0 && st.st_nlink == 1 && st.st_uid == 1000 && st.st_gid == 100);
	ck_assert_int_eq(fs_rename_whiteout(t.fs, a, "d", a, "e", RENAME_NOREPLACE, &ft_cred), 0); // within one directory
	ck_assert_int_eq(ft_lookup(&t, a, "e", &got), 0);
	ck_assert_uint_eq(got, d);
	ck_assert_uint_eq(ft_stat(&t, a).st_nlink, 3);
	ft_check(&t);
	ck_assert_int_eq(fs_rename_whiteout(t.fs, a, "e", b, "e", 0, &ft_cred), 0); // a directory moves, its whiteout is no directory
	ck_assert_uint_eq(ft_stat(&t, a).st_nlink, 2);
	ck_assert_uint_eq(ft_stat(&t, b).st_nlink, 3);
	ck_assert_int_eq(fs_unlink(t.fs, a, "f"), 0);
	ck_assert_int_eq(fs_unlink(t.fs, a, "d"), 0);
	ck_assert_int_eq(fs_unlink(t.fs, a, "e"), 0);
	ft_check(&t);
	// A setgid directory gives its group to a whiteout as to anything else.
	ck_assert_int_eq(fs_setattr(t.fs, b, &(struct fs_setattr){ .set = FS_SET_MODE | FS_SET_GID, .mode = 02755, .gid = 7 }, &st), 0);
	ck_assert_int_eq(fs_rename_whiteout(t.fs, b, "g", a, "g", 0, &ft_cred), 0);
	ck_assert_int_eq(ft_lookup(&t, b, "g", &got), 0);
	ck_assert_uint_eq(ft_stat(&t, got).st_gid, 7);
	ft_end(&t);
}
END_TEST

// A damaged volume: two directories that are each other's parent.
START_TEST(rename_in_a_circle_is_damage)
{
	uint64_t a, b, c;
	char sql[128];

	ft_new(&t, 64 * MIB);
	a = ft_mkdir(&t, ROOT_INO, "a");
	b = ft_mkdir(&t, a, "b");
	c = ft_mkdir(&t, ROOT_INO, "c");
	snprintf(sql, sizeof(sql), "UPDATE inode SET parent = %d WHERE ino = %d RETURNING 1", (int)b, (int)a);
	ck_assert_int_eq(ft_locked_sql(&t, sql), 1);
	ck_assert_int_eq(fs_rename(t.fs, ROOT_INO, "c", b, "c", 0), -EUCLEAN);
	ck_assert_int_eq(ft_lookup(&t, ROOT_INO, "a", NULL), -EUCLEAN);
	ck_assert_uint_ne(c, 0);
	ft_unmount(&t);
	bdev_close(t.dev);
}
END_TEST

// ---- directories ----

struct walk {
	uint64_t cookie;
	unsigned n, limit, dots;
	bool plus, has_attr;
	uint8_t *seen; // by the number in the name
};

static bool count_entry(void *ctx, const char *name, const struct stat *st, uint64_t cookie)
{
	struct walk *w = ctx;

	if (w->n == w->limit)
		return false;
	w->n++;
	ck_assert_uint_gt(cookie, w->cookie);
	w->cookie = cookie;
	if (name[0] == '.') {
		w->dots++;
		ck_assert(S_ISDIR(st->st_mode));
		return true;
	}
	ck_assert(S_ISREG(st->st_mode) && st->st_ino > ROOT_INO);
	ck_assert_uint_eq(st->st_nlink, w->has_attr ? 1 : 0);
	w->seen[atoi(name)]++;
	return true;
}

// The whole directory in calls of `limit` entries; between the calls `change` is made.
static void walk_all(uint64_t dir, struct walk *w, void (*change)(unsigned call))
{
	for (unsigned call = 0;; call++) {
		w->n = 0;
		ck_assert_int_eq(fs_readdir(t.fs, dir, w->cookie, w->plus, count_entry, w), 0);
		if (w->n == 0)
			return;
		if (change != NULL)
			change(call);
	}
}

static void make_numbered(uint64_t dir, unsigned from, unsigned to)
{
	char name[16];

	for (unsigned i = from; i < to; i++) {
		snprintf(name, sizeof(name), "%u", i);
		fs_forget(t.fs, ft_create(&t, dir, name), 1);
	}
}

// Attributes and references come with the names of small directories only.
static void walk_and_delete(unsigned n)
{
	struct walk w = { .limit = 777, .seen = calloc(n, 1) };
	bool has_attr = n <= FS_PLUS_MAX;
	char name[16];

	ft_new(&t, 128 * MIB);
	make_numbered(ROOT_INO, 0, n);
	ck_assert_int_eq(ft_stat(&t, ROOT_INO).st_size, n);
	walk_all(ROOT_INO, &w, NULL);
	ck_assert_uint_eq(w.dots, 2);
	for (unsigned i = 0; i < n; i++)
		ck_assert_uint_eq(w.seen[i], 1);
	w = (struct walk){ .limit = UINT_MAX, .seen = w.seen, .plus = true, .has_attr = has_attr };
	walk_all(ROOT_INO, &w, NULL);
	for (unsigned i = 0; i < n; i++) {
		uint64_t ino;

		ck_assert_uint_eq(w.seen[i], 2);
		snprintf(name, sizeof(name), "%u", i);
		ck_assert_int_eq(ft_lookup(&t, ROOT_INO, name, &ino), 0);
		fs_forget(t.fs, ino, has_attr ? 2 : 1);
		ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, name), 0);
	}
	ck_assert_int_eq(ft_stat(&t, ROOT_INO).st_size, 0);
	free(w.seen);
	ft_end(&t);
}

START_TEST(big_directory) { walk_and_delete(20000); }
END_TEST

START_TEST(small_directory_with_attributes) { walk_and_delete(FS_PLUS_MAX); }
END_TEST

// Entries 0 … 499 stay; others come and go between the calls.
static void disturb(unsigned call)
{
	char name[16];

	make_numbered(ROOT_INO, 500 + call, 501 + call);
	if (call % 3 == 2) {
		snprintf(name, sizeof(name), "%u", 500 + call - 1);
		ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, name), 0);
	}
}

START_TEST(readdir_with_changes)
{
	struct walk w = { .limit = 7 };
	uint8_t seen[1000] = { 0 };

	ft_new(&t, 64 * MIB);
	make_numbered(ROOT_INO, 0, 500);
	w.seen = seen;
	walk_all(ROOT_INO, &w, disturb);
	for (unsigned i = 0; i < 500; i++)
		ck_assert_uint_eq(seen[i], 1);
	for (unsigned i = 500; i < 1000; i++)
		ck_assert_uint_le(seen[i], 1);
	ft_end(&t);
}
END_TEST

// ---- attributes ----

START_TEST(attributes)
{
	struct fs_setattr attr = {
		.set = FS_SET_MODE | FS_SET_UID | FS_SET_ATIME | FS_SET_MTIME | FS_SET_CTIME,
		.mode = 04711, .uid = 5, .atime = { -5, 999999999 }, .mtime = { 1ll << 40, 0 }, .ctime = { 3, 4 },
	};
	struct timespec before, after;
	struct stat st;
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ck_assert_int_eq(fs_setattr(t.fs, ino, &attr, &st), 0);
	ck_assert_uint_eq(st.st_mode, S_IFREG | 04711);
	ck_assert(st.st_uid == 5 && st.st_gid == 100);
	ck_assert(st.st_atim.tv_sec == -5 && st.st_atim.tv_nsec == 999999999);
	ck_assert_int_eq(st.st_mtim.tv_sec, INT64_MAX / 1000000000); // as far as 64 bits of nanoseconds go
	ck_assert(st.st_ctim.tv_sec == 3 && st.st_ctim.tv_nsec == 4);
	clock_gettime(CLOCK_REALTIME, &before);
	attr = (struct fs_setattr){ .set = FS_SET_GID | FS_SET_MTIME_NOW, .gid = 9 };
	ck_assert_int_eq(fs_setattr(t.fs, ino, &attr, &st), 0);
	clock_gettime(CLOCK_REALTIME, &after);
	ck_assert_uint_eq(st.st_mode, S_IFREG | 0711); // a change of owner takes setuid away
	ck_assert(st.st_mtim.tv_sec >= before.tv_sec && st.st_mtim.tv_sec <= after.tv_sec);
	ck_assert(st.st_ctim.tv_sec >= before.tv_sec && st.st_ctim.tv_sec <= after.tv_sec);
	ck_assert_int_eq(fs_getattr(t.fs, 4711, &st), -ENOENT);
	ft_end(&t);
}
END_TEST

START_TEST(writing_takes_privileges)
{
	struct fs_setattr attr = { .set = FS_SET_MODE, .mode = 06755 };
	struct stat st;
	uint64_t ino;
	size_t done, len;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ck_assert_int_eq(fs_setattr(t.fs, ino, &attr, &st), 0);
	ck_assert_int_eq(fs_setxattr(t.fs, ino, "security.capability", "cap", 3, 0), 0);
	ck_assert_int_eq(fs_write(t.fs, ino, "x", 1, 0, 0, &done), 0);
	ck_assert_uint_eq(ft_stat(&t, ino).st_mode & 07777, 06755);
	ck_assert_int_eq(fs_getxattr(t.fs, ino, "security.capability", NULL, 0, &len), -ENODATA);
	ck_assert_int_eq(fs_setxattr(t.fs, ino, "security.capability", "cap", 3, 0), 0);
	ck_assert_int_eq(fs_write(t.fs, ino, "x", 1, 10000, FS_WRITE_KILL_SUIDGID, &done), 0);
	ck_assert_uint_eq(ft_stat(&t, ino).st_mode & 07777, 0755);
	ck_assert_int_eq(fs_getxattr(t.fs, ino, "security.capability", NULL, 0, &len), -ENODATA);
	attr.mode = 02644; // without group execution setgid is not a privilege
	ck_assert_int_eq(fs_setattr(t.fs, ino, &attr, &st), 0);
	attr = (struct fs_setattr){ .set = FS_SET_SIZE, .size_bytes = 7, .kill_suidgid = true };
	ck_assert_int_eq(fs_setattr(t.fs, ino, &attr, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 02644);
	ft_end(&t);
}
END_TEST

START_TEST(times_of_operations)
{
	struct fs_setattr old = { .set = FS_SET_ATIME | FS_SET_MTIME | FS_SET_CTIME };
	uint64_t ino;
	struct stat st;
	char buf[8];
	size_t n;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ck_assert_int_eq(fs_setattr(t.fs, ROOT_INO, &old, &st), 0);
	ft_create(&t, ROOT_INO, "g");
	st = ft_stat(&t, ROOT_INO);
	ck_assert(st.st_mtim.tv_sec > 0 && st.st_ctim.tv_sec > 0 && st.st_atim.tv_sec == 0);
	ft_write(&t, ino, "abc", 3, 0);
	ck_assert_int_eq(fs_setattr(t.fs, ino, &old, &st), 0);
	ck_assert_int_eq(fs_read(t.fs, ino, buf, sizeof(buf), 0, &n), 0);
	st = ft_stat(&t, ino); // relatime: not newer than mtime, so it moves
	ck_assert(st.st_atim.tv_sec > 0 && st.st_mtim.tv_sec == 0 && st.st_ctim.tv_sec == 0);
	ck_assert_int_eq(fs_read(t.fs, ino, buf, sizeof(buf), 0, &n), 0);
	ck_assert_int_eq(ft_stat(&t, ino).st_atim.tv_nsec, st.st_atim.tv_nsec); // and then rests
	ck_assert_int_eq(fs_rename(t.fs, ROOT_INO, "f", ROOT_INO, "h", 0), 0);
	st = ft_stat(&t, ino);
	ck_assert(st.st_ctim.tv_sec > 0 && st.st_mtim.tv_sec == 0);
	ft_end(&t);
}
END_TEST

START_TEST(extended_attributes)
{
	char big[XATTR_VALUE_MAX_BYTES + 1] = { 0 }, name[XATTR_NAME_MAX_BYTES + 2], buf[64];
	struct timespec btime;
	struct fs_entry e;
	struct stat st;
	uint64_t ino;
	size_t len;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ck_assert_int_eq(fs_symlink(t.fs, ROOT_INO, "l", "f", &ft_cred, &e), 0);
	ck_assert_int_eq(fs_setxattr(t.fs, ino, "user.a", "1234", 4, XATTR_REPLACE), -ENODATA);
	ck_assert_int_eq(fs_setxattr(t.fs, ino, "user.a", "1234", 4, XATTR_CREATE), 0);
	ck_assert_int_eq(fs_setxattr(t.fs, ino, "user.a", "1234", 4, XATTR_CREATE), -EEXIST);
	ck_assert_int_eq(fs_setxattr(t.fs, ino, "user.e", NULL, 0, 0), 0);
	ck_assert_int_eq(fs_getxattr(t.fs, ino, "user.e", buf, sizeof(buf), &len), 0);
	ck_assert_uint_eq(len, 0);
	ck_assert_int_eq(fs_getxattr(t.fs, ino, "user.a", buf, 3, &len), -ERANGE);
	ck_assert_int_eq(fs_getxattr(t.fs, ino, "user.a", buf, 4, &len), 0);
	ck_assert_mem_eq(buf, "1234", 4);
	ck_assert_int_eq(fs_listxattr(t.fs, ino, buf, sizeof(buf), &len), 0);
	ck_assert_uint_eq(len, 14);
	ck_assert_int_eq(fs_setxattr(t.fs, ino, "user.big", big, sizeof(big), 0), -E2BIG);
	ck_assert_int_eq(fs_setxattr(t.fs, ino, "user.big", big, sizeof(big) - 1, 0), 0);
	ck_assert_int_eq(fs_setxattr(t.fs, ino, "user.", "x", 1, 0), -EINVAL);
	ck_assert_int_eq(fs_getxattr(t.fs, ino, FS_BTIME_NAME, buf, sizeof(buf), &len), 0);
	ck_assert_int_eq(fs_getattr_btime(t.fs, ino, &st, &btime), 0);
	snprintf(name, sizeof(name), "%lld.%09ld", (long long)btime.tv_sec, btime.tv_nsec);
	ck_assert(len == strlen(name) && memcmp(buf, name, len) == 0);
	ck_assert_int_eq(fs_setxattr(t.fs, ino, FS_BTIME_NAME, "1.0", 3, 0), -EPERM);
	ck_assert_int_eq(fs_removexattr(t.fs, ino, FS_BTIME_NAME), -EPERM);
	ck_assert_int_eq(fs_getxattr(t.fs, ino, "other.x", buf, 4, &len), -EOPNOTSUPP);
	ck_assert_int_eq(fs_setxattr(t.fs, e.ino, "user.x", "x", 1, 0), -EPERM);
	ck_assert_int_eq(fs_setxattr(t.fs, e.ino, "trusted.x", "x", 1, 0), 0);
	memset(name, 'n', sizeof(name));
	memcpy(name, "user.", 5);
	name[XATTR_NAME_MAX_BYTES + 1] = '\0';
	ck_assert_int_eq(fs_setxattr(t.fs, ino, name, "x", 1, 0), -ERANGE);
	ck_assert_int_eq(fs_removexattr(t.fs, ino, "user.a"), 0);
	ck_assert_int_eq(fs_removexattr(t.fs, ino, "user.a"), -ENODATA);
	ck_assert_int_eq(fs_unlink(t.fs, ROOT_INO, "f"), 0);
	ft_end(&t);
}
END_TEST

START_TEST(statfs_follows)
{
	struct statvfs a, b;
	char *buf = calloc(1, MIB);

	ft_new(&t, 64 * MIB);
	ck_assert_int_eq(fs_statfs(t.fs, &a), 0);
	ck_assert(a.f_bsize == 4096 && a.f_namemax == 255 && a.f_blocks == 64 * MIB / 4096 && a.f_bavail <= a.f_bfree);
	ft_write(&t, ft_create(&t, ROOT_INO, "f"), buf, MIB, 0);
	ck_assert_int_eq(fs_statfs(t.fs, &b), 0);
	ck_assert_uint_eq(a.f_bfree - b.f_bfree, 256);
	ck_assert_uint_eq(a.f_files - a.f_ffree + 1, b.f_files - b.f_ffree);
	free(buf);
	ft_end(&t);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("fs");
	TCase *tc = tcase_create("names");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, create_lookup_unlink);
	tcase_add_test(tc, name_lengths);
	tcase_add_test(tc, directories_and_dots);
	tcase_add_test(tc, dot_finds_any_inode);
	tcase_add_test(tc, special_files_and_groups);
	tcase_add_test(tc, symlinks);
	tcase_add_test(tc, hard_links);
	tcase_add_test(tc, link_limit);
	tcase_add_test(tc, rename_moves_and_replaces);
	tcase_add_test(tc, rename_of_directories);
	tcase_add_test(tc, rename_exchange);
	tcase_add_test(tc, rename_with_whiteout);
	tcase_add_test(tc, rename_in_a_circle_is_damage);
	tcase_add_test(tc, big_directory);
	tcase_add_test(tc, small_directory_with_attributes);
	tcase_add_test(tc, readdir_with_changes);
	suite_add_tcase(s, tc);
	tc = tcase_create("attributes");
	tcase_add_test(tc, attributes);
	tcase_add_test(tc, writing_takes_privileges);
	tcase_add_test(tc, times_of_operations);
	tcase_add_test(tc, extended_attributes);
	tcase_add_test(tc, statfs_follows);
	suite_add_tcase(s, tc);
	return ft_main(s);
}
