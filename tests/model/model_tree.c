// SPDX-License-Identifier: MIT
#include "model.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define XATTR_BUF 65536

struct names {
	char **list;
	size_t n, cap;
};

static int compare_strings(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void names_free(struct names *names)
{
	for (size_t i = 0; i < names->n; i++)
		free(names->list[i]);
	free(names->list);
}

// "" is the root.
static const char *or_dot(const char *path)
{
	return *path == '\0' ? "." : path;
}

// The names in a folder, sorted, without "." and "..", which must both be there.
static struct names read_names(struct model *m, enum side_id s, const char *path)
{
	struct names names = { 0 };
	int fd = openat(m->root[s], or_dot(path), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;
	unsigned dots = 0;

	if (dir == NULL)
		model_fail(m, "cannot open folder '%s' of %s: %s", path, m->dir[s], strerror(errno));
	while (errno = 0, (entry = readdir(dir)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
			dots++;
			continue;
		}
		if (names.n == names.cap) {
			names.cap = names.cap * 2 + 16;
			names.list = realloc(names.list, names.cap * sizeof(*names.list));
		}
		if (names.list == NULL || (names.list[names.n++] = strdup(entry->d_name)) == NULL)
			model_die("memory");
	}
	if (errno != 0)
		model_fail(m, "readdir of '%s' on %s: %s", path, m->dir[s], strerror(errno));
	if (dots != 2)
		model_fail(m, "readdir of '%s' on %s gave %u of . and ..", path, m->dir[s], dots);
	closedir(dir);
	if (names.n > 0)
		qsort(names.list, names.n, sizeof(*names.list), compare_strings);
	return names;
}

static void join_path(char *out, const char *dir, const char *name)
{
	if (snprintf(out, PATH_LEN, "%s%s%s", dir, *dir == '\0' ? "" : "/", name) >= PATH_LEN) {
		errno = ENAMETOOLONG;
		model_die("%s/%s", dir, name);
	}
}

static void list_below(struct model *m, const char *dir)
{
	struct names names = read_names(m, REFERENCE, dir);
	char path[PATH_LEN];
	struct stat st;

	for (size_t i = 0; i < names.n; i++) {
		join_path(path, dir, names.list[i]);
		if (fstatat(m->root[REFERENCE], path, &st, AT_SYMLINK_NOFOLLOW) < 0)
			model_die("%s in the reference", path);
		if (m->n_nodes == m->cap_nodes) {
			m->cap_nodes = m->cap_nodes * 2 + 64;
			m->nodes = realloc(m->nodes, m->cap_nodes * sizeof(*m->nodes));
			if (m->nodes == NULL)
				model_die("memory");
		}
		m->nodes[m->n_nodes++] = (struct node){ .path = strdup(path), .mode = st.st_mode };
		if (S_ISDIR(st.st_mode))
			list_below(m, path);
	}
	names_free(&names);
}

void model_list(struct model *m)
{
	if (!m->stale)
		return;
	for (size_t i = 0; i < m->n_nodes; i++)
		free(m->nodes[i].path);
	m->n_nodes = 0;
	list_below(m, "");
	m->stale = false;
}

void model_compare_dir(struct model *m, const char *path)
{
	struct names tested = read_names(m, TESTED, path), reference = read_names(m, REFERENCE, path);

	for (size_t i = 0; i < tested.n || i < reference.n; i++) {
		const char *t = i < tested.n ? tested.list[i] : NULL, *r = i < reference.n ? reference.list[i] : NULL;

		if (t == NULL || r == NULL || strcmp(t, r) != 0)
			model_fail(m, "folder '%s' has %zu names, the reference %zu; first difference: '%s' and '%s'", path,
			           tested.n, reference.n, t != NULL ? t : "(none)", r != NULL ? r : "(none)");
	}
	names_free(&tested);
	names_free(&reference);
}

static bool is_set_time(const struct timespec *ts)
{
	return ts->tv_sec < PAST_S + PAST_SPAN_S;
}

static void compare_stats(struct model *m, const char *path, const struct stat st[N_SIDES])
{
	const struct stat *t = &st[TESTED], *r = &st[REFERENCE];

	if (t->st_mode != r->st_mode)
		model_fail(m, "mode of '%s' is 0%o, of the reference 0%o", path, t->st_mode, r->st_mode);
	if (t->st_uid != r->st_uid || t->st_gid != r->st_gid)
		model_fail(m, "owner of '%s' is %u:%u, of the reference %u:%u", path, t->st_uid, t->st_gid, r->st_uid, r->st_gid);
	if (t->st_nlink != r->st_nlink && !(S_ISDIR(r->st_mode) && (t->st_nlink == 1 || r->st_nlink == 1)))
		model_fail(m, "'%s' has %lu links, the reference %lu", path, (unsigned long)t->st_nlink, (unsigned long)r->st_nlink);
	if (!S_ISDIR(r->st_mode) && t->st_size != r->st_size)
		model_fail(m, "'%s' has %lld bytes, the reference %lld", path, (long long)t->st_size, (long long)r->st_size);
	if ((is_set_time(&t->st_mtim) || is_set_time(&r->st_mtim)) &&
	    (t->st_mtim.tv_sec != r->st_mtim.tv_sec || t->st_mtim.tv_nsec != r->st_mtim.tv_nsec))
		model_fail(m, "mtime of '%s' is %lld.%09ld, of the reference %lld.%09ld", path, (long long)t->st_mtim.tv_sec,
		           t->st_mtim.tv_nsec, (long long)r->st_mtim.tv_sec, r->st_mtim.tv_nsec);
}

void model_compare_stat(struct model *m, const char *path)
{
	struct outcome out;
	struct stat st[N_SIDES];

	BOTH(&out, fstatat(m->root[s], or_dot(path), &st[s], AT_SYMLINK_NOFOLLOW));
	if (model_agree(m, &out))
		compare_stats(m, path, st);
}

// /proc/self/fd/N/path: the l*xattr calls have no *at form.
static void proc_path(const struct model *m, enum side_id s, const char *path, char out[PATH_LEN])
{
	snprintf(out, PATH_LEN, "/proc/self/fd/%d/%s", m->root[s], path);
}

// The values of all user xattrs; their order is the filesystem's business.
void model_compare_xattrs(struct model *m, const char *path)
{
	static char list[N_SIDES][XATTR_BUF], value[N_SIDES][XATTR_BUF];
	char full[N_SIDES][PATH_LEN];
	unsigned n[N_SIDES] = { 0, 0 };
	struct outcome out;

	FOR_SIDES(s) {
		ssize_t len;

		proc_path(m, s, path, full[s]);
		len = llistxattr(full[s], list[s], XATTR_BUF);
		if (len < 0)
			model_fail(m, "listxattr of '%s' on %s: %s", path, m->dir[s], strerror(errno));
		for (const char *p = list[s]; p < list[s] + len; p += strlen(p) + 1)
			n[s] += strncmp(p, "user.", 5) == 0;
		memset(list[s] + len, 0, 1 + (len + 1 < XATTR_BUF));
	}
	if (n[TESTED] != n[REFERENCE])
		model_fail(m, "'%s' has %u user xattrs, the reference %u", path, n[TESTED], n[REFERENCE]);
	for (const char *p = list[REFERENCE]; *p != '\0'; p += strlen(p) + 1) {
		if (strncmp(p, "user.", 5) != 0)
			continue;
		BOTH(&out, lgetxattr(full[s], p, value[s], XATTR_BUF));
		if (!model_agree(m, &out) || memcmp(value[TESTED], value[REFERENCE], (size_t)out.ret[TESTED]) != 0)
			model_fail(m, "xattr %s of '%s' is different", p, path);
	}
}

void model_compare_acls(struct model *m, const char *path)
{
	static const char *const names[] = { MODEL_ACL_ACCESS, MODEL_ACL_DEFAULT };
	char full[PATH_LEN], value[N_SIDES][4096];
	struct outcome out;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		BOTH(&out, (proc_path(m, s, path, full), lgetxattr(full, names[i], value[s], sizeof(value[s]))));
		if (out.ret[TESTED] != out.ret[REFERENCE])
			printf("%s of '%s':\n", names[i], path);
		if (model_agree(m, &out) && memcmp(value[TESTED], value[REFERENCE], (size_t)out.ret[TESTED]) != 0)
			model_fail(m, "%s of '%s' is different", names[i], path);
	}
}

void model_compare_fds(struct model *m, const struct pair *files, const char *path, uint64_t off, uint64_t len)
{
	uint64_t end = off + len;
	struct outcome out;

	while (off < end) {
		size_t n = end - off < MAX_IO ? (size_t)(end - off) : MAX_IO;

		BOTH(&out, pread(files->fd[s], m->buf[s], n, (off_t)off));
		if (!model_agree(m, &out) || out.ret[TESTED] == 0)
			return;
		n = (size_t)out.ret[TESTED];
		if (memcmp(m->buf[TESTED], m->buf[REFERENCE], n) != 0) {
			size_t i = 0;

			while (m->buf[TESTED][i] == m->buf[REFERENCE][i])
				i++;
			model_fail(m, "byte %llu of '%s' is 0x%02x, of the reference 0x%02x", (unsigned long long)(off + i), path,
			           (unsigned char)m->buf[TESTED][i], (unsigned char)m->buf[REFERENCE][i]);
		}
		off += n;
	}
}

static bool all_zero(const char *buf, size_t len)
{
	return len == 0 || (buf[0] == 0 && memcmp(buf, buf + 1, len - 1) == 0);
}

// What the tested side calls a hole must be zeros on the reference, and its answers must go forward to the end.
static void check_holes(struct model *m, const struct pair *files, const char *path, off_t size)
{
	off_t at = 0;

	while (at < size) {
		off_t data = lseek(files->fd[TESTED], at, SEEK_DATA);
		off_t hole_end = data < 0 && errno == ENXIO ? size : data;

		if (hole_end < at || hole_end > size)
			model_fail(m, "SEEK_DATA of '%s' from %lld: %lld", path, (long long)at, (long long)data);
		while (at < hole_end) {
			size_t n = hole_end - at < MAX_IO ? (size_t)(hole_end - at) : MAX_IO;

			if (pread(files->fd[REFERENCE], m->buf[REFERENCE], n, at) != (ssize_t)n || !all_zero(m->buf[REFERENCE], n))
				model_fail(m, "'%s' claims a hole at %lld, length %zu, where there is data", path, (long long)at, n);
			at += (off_t)n;
		}
		if (at >= size)
			return;
		at = lseek(files->fd[TESTED], data, SEEK_HOLE);
		if (at <= data || at > size)
			model_fail(m, "SEEK_HOLE of '%s' from %lld: %lld", path, (long long)data, (long long)at);
	}
}

static void compare_file(struct model *m, const char *path)
{
	struct outcome out;
	struct pair files;
	struct stat st;

	if (!model_open(m, &files, path, O_RDONLY | O_NOFOLLOW, 0))
		return;
	if (fstat(files.fd[REFERENCE], &st) < 0)
		model_die("%s", path);
	model_compare_fds(m, &files, path, 0, (uint64_t)st.st_size);
	check_holes(m, &files, path, st.st_size);
	BOTH(&out, lseek(files.fd[s], st.st_size, SEEK_DATA));
	(void)model_agree(m, &out);
	model_close(&files);
}

static void compare_symlink(struct model *m, const char *path)
{
	char target[N_SIDES][PATH_LEN];
	struct outcome out;

	BOTH(&out, readlinkat(m->root[s], path, target[s], PATH_LEN));
	if (model_agree(m, &out) && memcmp(target[TESTED], target[REFERENCE], (size_t)out.ret[TESTED]) != 0)
		model_fail(m, "target of symlink '%s'", path);
}

struct ino_pair {
	ino_t ino[N_SIDES];
};

// Names of one inode on one side are names of one inode on the other.
static void compare_identity(struct model *m, const char *path, struct ino_pair *seen, size_t *n_seen)
{
	struct stat st[N_SIDES];

	FOR_SIDES(s)
		if (fstatat(m->root[s], path, &st[s], AT_SYMLINK_NOFOLLOW) < 0)
			model_die("%s", path);
	for (size_t i = 0; i < *n_seen; i++)
		if ((seen[i].ino[TESTED] == st[TESTED].st_ino) != (seen[i].ino[REFERENCE] == st[REFERENCE].st_ino))
			model_fail(m, "'%s' shares its inode with other names than on the reference", path);
	FOR_SIDES(s)
		seen[*n_seen].ino[s] = st[s].st_ino;
	(*n_seen)++;
}

void model_compare(struct model *m)
{
	struct ino_pair *seen;
	size_t n_seen = 0;

	m->stale = true;
	model_list(m);
	seen = calloc(m->n_nodes + 1, sizeof(*seen));
	if (seen == NULL)
		model_die("memory");
	model_compare_dir(m, "");
	model_compare_stat(m, "");
	for (size_t i = 0; i < m->n_nodes; i++) {
		const char *path = m->nodes[i].path;
		mode_t mode = m->nodes[i].mode;

		model_compare_stat(m, path);
		compare_identity(m, path, seen, &n_seen);
		if (S_ISDIR(mode))
			model_compare_dir(m, path);
		else if (S_ISREG(mode))
			compare_file(m, path);
		else if (S_ISLNK(mode))
			compare_symlink(m, path);
		if (m->xattrs && (S_ISDIR(mode) || S_ISREG(mode)))
			model_compare_xattrs(m, path);
		if (m->acls && !S_ISLNK(mode))
			model_compare_acls(m, path);
	}
	free(seen);
}
