// SPDX-License-Identifier: MIT
// Access control lists: their form, what follows from them (meta/acl.h), and what the filesystem makes of them (A1 to A4).
#include <sqlite3.h>
#include <sys/xattr.h>

#include "fstest.h"
#include "meta/acl.h"

static struct ft t;

static const struct acl minimal = { .n = 3, .entries = { { ACL_USER_OBJ, 7, UINT32_MAX }, { ACL_GROUP_OBJ, 5, UINT32_MAX },
	                                                   { ACL_OTHER, 1, UINT32_MAX } } };
static const struct acl full = { .n = 6, .entries = { { ACL_USER_OBJ, 6, UINT32_MAX }, { ACL_USER, 7, 1234 },
	                                                { ACL_GROUP_OBJ, 1, UINT32_MAX }, { ACL_GROUP, 5, 77 },
	                                                { ACL_MASK, 3, UINT32_MAX }, { ACL_OTHER, 4, UINT32_MAX } } };

// ---- form ----

START_TEST(what_is_encoded_can_be_decoded)
{
	uint8_t bytes[ACL_MAX_BYTES];
	struct acl got;
	size_t len = acl_encode(&full, bytes);

	ck_assert_uint_eq(len, 4 + 6 * 8);
	ck_assert_mem_eq(bytes, "\2\0\0\0\1\0\6\0\xff\xff\xff\xff\2\0\7\0\xd2\4\0\0", 20);
	ck_assert_int_eq(acl_decode(&got, bytes, len), 0);
	ck_assert_uint_eq(got.n, full.n);
	ck_assert_mem_eq(got.entries, full.entries, full.n * sizeof(full.entries[0]));
	ck_assert_int_eq(acl_decode(&got, bytes, 4), 0);
	ck_assert_uint_eq(got.n, 0);
}
END_TEST

// Each change of one entry makes it invalid; so does each other length.
START_TEST(what_is_no_acl)
{
	static const struct { unsigned entry; struct acl_entry e; } bad[] = {
		{ 0, { ACL_USER, 7, 5 } },          // no owner
		{ 1, { ACL_USER, 8, 5 } },          // a permission that there is not
		{ 1, { ACL_USER, 7, UINT32_MAX } }, // nobody
		{ 1, { ACL_GROUP, 7, 5 } },         // out of order
		{ 1, { ACL_USER_OBJ, 7, 5 } },      // twice
		{ 1, { 0x40, 7, 5 } },
		{ 1, { 0, 7, 5 } },
		{ 2, { ACL_USER, 7, 5 } },          // no group
		{ 4, { ACL_GROUP, 7, 5 } },         // named entries without a mask
		{ 5, { ACL_MASK, 7, 5 } },          // nobody else
	};
	uint8_t bytes[ACL_MAX_BYTES + 8] = { 0 };
	struct acl acl;
	size_t len;

	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		acl = full;
		acl.entries[bad[i].entry] = bad[i].e;
		len = acl_encode(&acl, bytes);
		ck_assert_msg(acl_decode(&acl, bytes, len) == -EINVAL, "case %u", i);
	}
	len = acl_encode(&full, bytes);
	for (size_t n = 0; n < len; n++)
		ck_assert_msg(n == 4 || acl_decode(&acl, bytes, n) == -EINVAL, "%zu bytes", n);
	bytes[0] = 1;
	ck_assert_int_eq(acl_decode(&acl, bytes, len), -EINVAL); // a version that there is not
	bytes[0] = 2;
	ck_assert_int_eq(acl_decode(&acl, bytes, ACL_MAX_BYTES + 8), -EINVAL);
}
END_TEST

START_TEST(acls_and_modes)
{
	uint32_t mode = 0107000;
	struct acl acl = full;

	ck_assert(acl_to_mode(&full, &mode));
	ck_assert_uint_eq(mode, 0107634); // the group's bits are the mask's
	ck_assert(!acl_to_mode(&minimal, &mode));
	ck_assert_uint_eq(mode, 0107751);
	acl_chmod(&acl, 0107750);
	ck_assert(acl_to_mode(&acl, &mode));
	ck_assert_uint_eq(mode, 0107750);
	ck_assert_uint_eq(acl.entries[2].perm, 1); // the group itself is not touched
	acl = full;
	mode = 0100666;
	ck_assert(acl_inherit(&acl, &mode));
	ck_assert_uint_eq(mode, 0100624);
	ck_assert_uint_eq(acl.entries[4].perm, 2);
	acl = minimal;
	mode = 0100666;
	ck_assert(!acl_inherit(&acl, &mode));
	ck_assert_uint_eq(mode, 0100640);
}
END_TEST

// ---- in the filesystem ----

static int set(uint64_t ino, const char *name, const struct acl *acl)
{
	uint8_t bytes[ACL_MAX_BYTES];

	return fs_setxattr(t.fs, ino, name, bytes, acl_encode(acl, bytes), 0);
}

static int get(uint64_t ino, const char *name, struct acl *acl)
{
	uint8_t bytes[ACL_MAX_BYTES];
	size_t len;
	int r = fs_getxattr(t.fs, ino, name, bytes, sizeof(bytes), &len);

	if (r == 0)
		ck_assert_int_eq(acl_decode(acl, bytes, len), 0);
	return r;
}

static int64_t sql(const char *text)
{
	ck_assert_int_eq(fs_sync(t.fs), 0); // rows of inodes are written then
	return ft_locked_sql(&t, text);
}

static uint32_t mode_of(uint64_t ino) { return ft_stat(&t, ino).st_mode & 07777; }

START_TEST(mode_and_access_acl_are_one)
{
	struct fs_setattr chmod = { .set = FS_SET_MODE, .mode = 02750 };
	struct acl acl;
	struct stat st;
	uint64_t ino;
	size_t len;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	ck_assert_int_eq(get(ino, ACL_ACCESS_NAME, &acl), -ENODATA);
	ck_assert_int_eq(set(ino, ACL_ACCESS_NAME, &minimal), 0);
	ck_assert_uint_eq(mode_of(ino), 0751);
	ck_assert_int_eq(get(ino, ACL_ACCESS_NAME, &acl), -ENODATA); // A1
	ck_assert_int_eq(set(ino, ACL_ACCESS_NAME, &full), 0);
	ck_assert_uint_eq(mode_of(ino), 0634);
	ck_assert_int_eq(fs_getxattr(t.fs, ino, ACL_ACCESS_NAME, &acl, 51, &len), -ERANGE);
	ck_assert_int_eq(fs_getxattr(t.fs, ino, ACL_ACCESS_NAME, NULL, 0, &len), 0);
	ck_assert_uint_eq(len, 52);
	ck_assert_int_eq(fs_setattr(t.fs, ino, &chmod, &st), 0);
	ck_assert_int_eq(get(ino, ACL_ACCESS_NAME, &acl), 0); // A2
	ck_assert(acl.entries[0].perm == 7 && acl.entries[2].perm == 1 && acl.entries[4].perm == 5 && acl.entries[5].perm == 0);
	ck_assert_int_eq(set(ino, ACL_ACCESS_NAME, &acl), 0);
	ck_assert_uint_eq(mode_of(ino), 02750); // setgid stays …
	ck_assert_int_eq(fs_setxattr(t.fs, ino, ACL_ACCESS_NAME, "\2\0\0", 3, 0), -EINVAL);
	ck_assert_int_eq(fs_removexattr(t.fs, ino, ACL_ACCESS_NAME), 0);
	ck_assert_int_eq(fs_removexattr(t.fs, ino, ACL_ACCESS_NAME), 0); // as ext4: no error
	ck_assert_uint_eq(mode_of(ino), 02750);
	ck_assert_int_eq(get(ino, ACL_ACCESS_NAME, &acl), -ENODATA);
	ck_assert_int_eq(fs_setxattr(t.fs, ino, ACL_ACCESS_NAME, "\2\0\0\0\1\0\7\0\0\0\0\0\4\0\7\0\0\0\0\0\40\0\7\0\0\0\0\0", 28,
	                             FS_XATTR_KILL_SGID), 0);
	ck_assert_uint_eq(mode_of(ino), 0777); // … unless its setter may not have it
	ck_assert_int_eq(sql("SELECT count(*) FROM xattr"), 0);
	ck_assert_int_eq(sql("SELECT count(*) FROM inode WHERE flags & 12"), 0);
	ft_end(&t);
}
END_TEST

START_TEST(who_may_have_which)
{
	struct fs_entry link;
	struct acl acl;
	uint64_t ino, dir;

	ft_new(&t, 64 * MIB);
	ino = ft_create(&t, ROOT_INO, "f");
	dir = ft_mkdir(&t, ROOT_INO, "d");
	ck_assert_int_eq(fs_symlink(t.fs, ROOT_INO, "l", "f", &ft_cred, &link), 0);
	ck_assert_int_eq(set(ino, ACL_DEFAULT_NAME, &full), -EACCES);
	ck_assert_int_eq(fs_removexattr(t.fs, ino, ACL_DEFAULT_NAME), 0);
	ck_assert_int_eq(get(ino, ACL_DEFAULT_NAME, &acl), -ENODATA);
	ck_assert_int_eq(set(link.ino, ACL_ACCESS_NAME, &full), -EOPNOTSUPP);
	ck_assert_int_eq(set(dir, ACL_DEFAULT_NAME, &minimal), 0);
	ck_assert_int_eq(get(dir, ACL_DEFAULT_NAME, &acl), 0); // one that says no more than a mode counts
	ck_assert_uint_eq(mode_of(dir), 0755);
	ck_assert_int_eq(fs_setxattr(t.fs, dir, ACL_DEFAULT_NAME, "\2\0\0\0", 4, 0), 0); // an empty one takes it away
	ck_assert_int_eq(get(dir, ACL_DEFAULT_NAME, &acl), -ENODATA);
	ck_assert_int_eq(fs_setxattr(t.fs, ino, "system.other", "x", 1, 0), -EOPNOTSUPP);
	ft_end(&t);
}
END_TEST

START_TEST(new_inodes_inherit)
{
	struct fs_cred cred = { .uid = 1000, .gid = 100, .umask = 077 };
	struct fs_entry e, sub;
	struct acl acl;
	uint64_t dir;

	ft_new(&t, 64 * MIB);
	dir = ft_mkdir(&t, ROOT_INO, "d");
	ck_assert_int_eq(fs_mknod(t.fs, dir, "plain", S_IFREG | 0666, 0, &cred, &e), 0);
	ck_assert_uint_eq(e.st.st_mode, S_IFREG | 0600); // the umask
	ck_assert_int_eq(set(dir, ACL_DEFAULT_NAME, &full), 0);
	ck_assert_int_eq(fs_mknod(t.fs, dir, "f", S_IFREG | 0666, 0, &cred, &e), 0);
	ck_assert_uint_eq(e.st.st_mode, S_IFREG | 0624); // not the umask
	ck_assert_uint_eq(mode_of(e.ino), 0624);
	ck_assert_int_eq(get(e.ino, ACL_ACCESS_NAME, &acl), 0);
	ck_assert(acl.n == 6 && acl.entries[1].perm == 7 && acl.entries[4].perm == 2);
	ck_assert_int_eq(get(e.ino, ACL_DEFAULT_NAME, &acl), -ENODATA);
	ck_assert_int_eq(fs_mknod(t.fs, dir, "fifo", S_IFIFO | 0644, 0, &cred, &e), 0);
	ck_assert_int_eq(get(e.ino, ACL_ACCESS_NAME, &acl), 0);
	ck_assert_int_eq(fs_symlink(t.fs, dir, "l", "f", &cred, &e), 0);
	ck_assert_uint_eq(e.st.st_mode, S_IFLNK | 0777);
	ck_assert_int_eq(get(e.ino, ACL_ACCESS_NAME, &acl), -ENODATA);
	ck_assert_int_eq(fs_mkdir(t.fs, dir, "sub", 0777, &cred, &sub), 0);
	ck_assert_int_eq(get(sub.ino, ACL_ACCESS_NAME, &acl), 0);
	ck_assert_int_eq(get(sub.ino, ACL_DEFAULT_NAME, &acl), 0);
	ck_assert_mem_eq(acl.entries, full.entries, full.n * sizeof(full.entries[0]));
	ck_assert_int_eq(set(dir, ACL_DEFAULT_NAME, &minimal), 0);
	ck_assert_int_eq(fs_mknod(t.fs, dir, "g", S_IFREG | 0666, 0, &cred, &e), 0);
	ck_assert_uint_eq(e.st.st_mode, S_IFREG | 0640);
	ck_assert_int_eq(get(e.ino, ACL_ACCESS_NAME, &acl), -ENODATA);
	ft_end(&t);
}
END_TEST

// A file without a name gets what one with a name would get, and keeps it when it gets one.
START_TEST(nameless_files_inherit)
{
	struct fs_cred cred = { .uid = 1000, .gid = 100, .umask = 077 };
	struct fs_entry e, link;
	struct acl acl;
	uint64_t dir;

	ft_new(&t, 64 * MIB);
	dir = ft_mkdir(&t, ROOT_INO, "d");
	ck_assert_int_eq(fs_tmpfile(t.fs, dir, 0666, &cred, &e), 0);
	ck_assert_uint_eq(e.st.st_mode, S_IFREG | 0600);
	fs_forget(t.fs, e.ino, 1);
	ck_assert_int_eq(set(dir, ACL_DEFAULT_NAME, &full), 0);
	ck_assert_int_eq(fs_tmpfile(t.fs, dir, 0666, &cred, &e), 0);
	ck_assert_uint_eq(e.st.st_mode, S_IFREG | 0624);
	ck_assert_int_eq(fs_link(t.fs, e.ino, dir, "f", &link), 0);
	ck_assert_int_eq(get(e.ino, ACL_ACCESS_NAME, &acl), 0);
	ck_assert(acl.n == 6 && acl.entries[4].perm == 2);
	ft_end(&t);
}
END_TEST

static int note_xattr(unsigned type, void *ctx, void *stmt, void *text)
{
	(void)type;
	(void)text;
	*(unsigned *)ctx += strstr(sqlite3_sql(stmt), "xattr") != NULL;
	return 0;
}

static void trace(unsigned *asked)
{
	store_lock(t.vol->store);
	sqlite3_trace_v2(store_db(t.vol->store), asked != NULL ? SQLITE_TRACE_STMT : 0, note_xattr, asked);
	store_unlock(t.vol->store);
}

// A4: nothing is looked for that is not there.
START_TEST(without_acls_nothing_is_asked)
{
	struct fs_setattr chmod = { .set = FS_SET_MODE, .mode = 0700 };
	unsigned asked = 0;
	struct stat st;
	uint64_t ino;

	ft_new(&t, 64 * MIB);
	trace(&asked);
	ino = ft_create(&t, ROOT_INO, "f");
	ft_mkdir(&t, ROOT_INO, "d");
	ck_assert_int_eq(fs_setattr(t.fs, ino, &chmod, &st), 0);
	ck_assert_uint_eq(asked, 0);
	ck_assert_int_eq(set(ROOT_INO, ACL_DEFAULT_NAME, &full), 0);
	asked = 0;
	ft_create(&t, ROOT_INO, "g");
	ck_assert_uint_eq(asked, 2); // the directory's is read, the file's is written
	trace(NULL);
	ft_end(&t);
}
END_TEST

// What the volume says of ACLs is not believed, and an operation that meets damage has changed nothing.
START_TEST(damaged_acls)
{
	static const char *const damage[] = {
		"UPDATE xattr SET value = x'02000000'",
		"UPDATE xattr SET value = zeroblob(52)",
		"UPDATE xattr SET value = zeroblob(65536)",
		"DELETE FROM xattr",
	};
	struct fs_setattr both = { .set = FS_SET_MODE | FS_SET_SIZE, .mode = 0700, .size_bytes = 1 };
	struct fs_entry e;
	struct acl acl;
	struct stat st;
	uint64_t ino, dir;

	for (unsigned i = 0; i < ARRAY_LEN(damage); i++) {
		ft_new(&t, 64 * MIB);
		ino = ft_create(&t, ROOT_INO, "f");
		dir = ft_mkdir(&t, ROOT_INO, "d");
		ft_write(&t, ino, "text", 4, 0);
		ck_assert_int_eq(set(ino, ACL_ACCESS_NAME, &full), 0);
		ck_assert_int_eq(set(dir, ACL_DEFAULT_NAME, &full), 0);
		store_lock(t.vol->store);
		ck_assert_int_eq(sqlite3_exec(store_db(t.vol->store), damage[i], NULL, NULL, NULL), SQLITE_OK);
		store_unlock(t.vol->store);
		ck_assert_int_eq(get(ino, ACL_ACCESS_NAME, &acl), -EUCLEAN);
		ck_assert_int_eq(fs_setattr(t.fs, ino, &both, &st), -EUCLEAN);
		ck_assert(mode_of(ino) == 0634 && ft_stat(&t, ino).st_size == 4);
		ck_assert_int_eq(fs_mknod(t.fs, dir, "x", S_IFREG | 0644, 0, &ft_cred, &e), -EUCLEAN);
		ck_assert_int_eq(ft_stat(&t, dir).st_size, 0);
		ck_assert_int_eq(set(ino, ACL_ACCESS_NAME, &full), 0); // a new one repairs it
		ck_assert_int_eq(fs_setattr(t.fs, ino, &both, &st), 0);
		ck_assert_int_eq(fs_removexattr(t.fs, dir, ACL_DEFAULT_NAME), 0);
		ck_assert_int_eq(fs_mknod(t.fs, dir, "x", S_IFREG | 0644, 0, &ft_cred, &e), 0);
		ft_end(&t);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("acl");
	TCase *tc = tcase_create("acl");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, what_is_encoded_can_be_decoded);
	tcase_add_test(tc, what_is_no_acl);
	tcase_add_test(tc, acls_and_modes);
	tcase_add_test(tc, mode_and_access_acl_are_one);
	tcase_add_test(tc, who_may_have_which);
	tcase_add_test(tc, new_inodes_inherit);
	tcase_add_test(tc, nameless_files_inherit);
	tcase_add_test(tc, without_acls_nothing_is_asked);
	tcase_add_test(tc, damaged_acls);
	suite_add_tcase(s, tc);
	return ft_main(s);
}
