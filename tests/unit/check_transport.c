// SPDX-License-Identifier: MIT
// fs/transport: a small filesystem in memory, mounted by the kernel and served over /dev/fuse and over io_uring. Requests and replies of
// all sizes arrive whole; slow ones do not keep others waiting (R1); every way in which a session ends, ends it; and when the n-th step of
// setting up the rings fails, for every n, the mount serves over /dev/fuse (R5, U4, U5).
//
// Whoever uses the mount is a process of its own, with an alarm: a request that is never answered kills it, and not this program.
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#ifdef HAVE_LIBURING
#include <liburing.h>
#endif

#define FUSE_USE_VERSION 35
#include <fuse3/fuse_lowlevel.h>

#include "fs/transport.h"
#include "run_suite.h"
#include "util/log.h"

#define DATA_BYTES (4u << 20)
#define SLOW_BYTES 4096u
#define XATTR_BYTES 60000u
#define MAX_THREADS 4u
#define CLIENT_S 60u
#define ENABLED "/sys/module/fuse/parameters/enable_uring"

enum { INO_DATA = 2, INO_SLOW = 3 };

static struct fixture {
	struct transport *transport; // R2: the session's userdata points here
	struct fuse_session *se;
	char dir[64];
	pthread_mutex_t lock; // under lock:
	char data[DATA_BYTES];
	char xattr[XATTR_BYTES];
	char renamed[2 * 256 + 2];

	sem_t slow_came, slow_go;
	bool ended; // by unmounting, abort …
} f;

// ---- the filesystem ----

static void attr_of(fuse_ino_t ino, struct stat *st)
{
	*st = (struct stat){ .st_ino = ino, .st_nlink = 1, .st_mode = ino == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0666 };
	st->st_size = ino == INO_DATA ? DATA_BYTES : SLOW_BYTES;
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;

	(void)fi;
	attr_of(ino, &st);
	fuse_reply_attr(req, &st, 0);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e = { .ino = strcmp(name, "data") == 0 ? INO_DATA : strcmp(name, "slow") == 0 ? INO_SLOW : 0 };

	(void)parent;
	if (e.ino == 0) {
		fuse_reply_err(req, strlen(name) == 255 ? ENAMETOOLONG : ENOENT); // told apart by the test
		return;
	}
	attr_of(e.ino, &e.attr);
	fuse_reply_entry(req, &e);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	fi->direct_io = 1; // each read and write is a request
	fuse_reply_open(req, fi);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	char *room = transport_read_room(f.transport, size);
	size_t n = (size_t)off >= DATA_BYTES ? 0 : size < DATA_BYTES - (size_t)off ? size : DATA_BYTES - (size_t)off;

	(void)fi;
	if (ino == INO_SLOW) {
		sem_post(&f.slow_came);
		while (sem_wait(&f.slow_go) < 0)
			;
		n = n < SLOW_BYTES ? n : SLOW_BYTES;
	}
	pthread_mutex_lock(&f.lock);
	if (size % 8192 == 0) { // both ways of replying
		memcpy(room, f.data + off, n);
		fuse_reply_buf(req, room, n);
	} else {
		fuse_reply_buf(req, f.data + off, n);
	}
	pthread_mutex_unlock(&f.lock);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)ino;
	(void)fi;
	if ((size_t)off + size > DATA_BYTES) {
		fuse_reply_err(req, EFBIG);
		return;
	}
	pthread_mutex_lock(&f.lock);
	memcpy(f.data + off, buf, size);
	pthread_mutex_unlock(&f.lock);
	fuse_reply_write(req, size);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
	(void)ino;
	(void)flags;
	if (strcmp(name, "user.large") != 0 || size != XATTR_BYTES) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	pthread_mutex_lock(&f.lock);
	memcpy(f.xattr, value, size);
	pthread_mutex_unlock(&f.lock);
	fuse_reply_err(req, 0);
}

static void reply_with_xattr(fuse_req_t req)
{
	pthread_mutex_lock(&f.lock);
	fuse_reply_buf(req, f.xattr, XATTR_BYTES);
	pthread_mutex_unlock(&f.lock);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	(void)ino;
	if (strcmp(name, "user.large") != 0 || size < XATTR_BYTES)
		fuse_reply_err(req, ENODATA);
	else
		reply_with_xattr(req);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name, unsigned flags)
{
	(void)flags;
	pthread_mutex_lock(&f.lock);
	snprintf(f.renamed, sizeof(f.renamed), "%s>%s", name, new_name);
	pthread_mutex_unlock(&f.lock);
	fuse_reply_err(req, parent == FUSE_ROOT_ID && new_parent == FUSE_ROOT_ID ? EXDEV : EIO);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	conn->max_write = TRANSPORT_MAX_WRITE;
}

static const struct fuse_lowlevel_ops ops = {
	.init = op_init,
	.lookup = op_lookup,
	.getattr = op_getattr,
	.open = op_open,
	.read = op_read,
	.write = op_write,
	.setxattr = op_setxattr,
	.getxattr = op_getxattr,
	.rename = op_rename,
};

// ---- mounting ----

static void stat_root(void *arg)
{
	struct stat st;

	(void)arg;
	if (stat(f.dir, &st) < 0 || st.st_ino != FUSE_ROOT_ID)
		_exit(errno);
}

// A process that holds the daemon's end would keep the connection alive.
static void let_go_of_the_session(void)
{
	char link[32], target[64];

	for (int fd = 3; fd < 256; fd++) {
		ssize_t n;

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		n = readlink(link, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		if (strcmp(target, "/dev/fuse") == 0 || strstr(target, "io_uring") != NULL)
			close(fd);
	}
}

// Runs `work` in a process, on a CPU (any: -1).
static pid_t client(void (*work)(void *arg), void *arg, int cpu)
{
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		cpu_set_t set;

		alarm(CLIENT_S);
		let_go_of_the_session();
		CPU_ZERO(&set);
		CPU_SET((size_t)(cpu < 0 ? 0 : cpu), &set);
		if (cpu >= 0 && sched_setaffinity(0, sizeof(set), &set) < 0)
			_exit(201);
		work(arg);
		_exit(0);
	}
	return pid;
}

// Its exit status: 0, or an errno; negative: the signal that killed it.
static int result_of(pid_t pid)
{
	int status;

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void start(enum transport_kind kind)
{
	char *argv[] = { (char *)"check_transport", NULL };
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	struct transport_opts opts = { .kind = kind, .poll_us = 100, .max_threads = MAX_THREADS };

	msg_open("check_transport", MSG_TO_NOWHERE, MSG_ERROR);
	pthread_mutex_init(&f.lock, NULL);
	sem_init(&f.slow_came, 0, 0);
	sem_init(&f.slow_go, 0, 0);
	for (size_t i = 0; i < DATA_BYTES; i++)
		f.data[i] = (char)(i * 7 + (i >> 12));
	strcpy(f.dir, "/tmp/hybridfs-transport-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(f.dir));
	f.se = fuse_session_new(&args, &ops, sizeof(ops), &f);
	fuse_opt_free_args(&args);
	ck_assert_ptr_nonnull(f.se);
	ck_assert_int_eq(fuse_session_mount(f.se, f.dir), 0);
	ck_assert_int_eq(transport_create(f.se, &opts, &f.transport), 0);
	ck_assert_int_eq(transport_start(f.transport), 0);
	ck_assert_int_eq(result_of(client(stat_root, NULL, -1)), 0);
}

static bool has_ended(int timeout_ms)
{
	struct pollfd pfd = { .fd = transport_ended_fd(f.transport), .events = POLLIN };

	return poll(&pfd, 1, timeout_ms) == 1;
}

// What destroying the transport answers.
static int finish(void)
{
	int rc = transport_destroy(f.transport);

	fuse_session_unmount(f.se);
	fuse_session_destroy(f.se);
	ck_assert_int_eq(rmdir(f.dir), 0);
	return rc;
}

// Other programs look at mounts too (df), and make them busy for a moment.
static void unmount(void)
{
	int rc = -1;

	for (int i = 0; i < 200 && (rc = umount2(f.dir, 0)) < 0 && errno == EBUSY; i++)
		usleep(20000);
	ck_assert_int_eq(rc, 0);
}

static void unmount_and_finish(void)
{
	unmount();
	ck_assert(has_ended(20000));
	ck_assert_int_eq(finish(), 0);
}

// The tests of both ways; those of io_uring are only added where the kernel has it.
static const enum transport_kind kinds[] = { TRANSPORT_DEV, TRANSPORT_URING };

static void start_kind(int i)
{
	start(kinds[i]);
	ck_assert_int_eq(transport_over_uring(f.transport), kinds[i] == TRANSPORT_URING);
}

static void path_of(const char *name, char path[128]) { snprintf(path, 128, "%s/%s", f.dir, name); }

#define REQUIRE(cond) \
	do { \
		if (!(cond)) \
			_exit(errno > 0 && errno < 200 ? errno : 200); \
	} while (0)

static int open_file(const char *name, int flags)
{
	char path[128];
	int fd;

	path_of(name, path);
	fd = open(path, flags);
	REQUIRE(fd >= 0);
	return fd;
}

// ---- requests of all kinds and sizes ----

// At its own part of the file: arg is its number, 0 … 3.
static void writes_and_reads(void *arg)
{
	static char mine[DATA_BYTES / 4], back[DATA_BYTES / 4];
	unsigned number = *(unsigned *)arg, seed = 17 + number;
	off_t at = (off_t)number * (off_t)sizeof(mine);
	int fd = open_file("data", O_RDWR);

	REQUIRE(pread(fd, mine, sizeof(mine), at) == (ssize_t)sizeof(mine));
	for (size_t i = 0; i < sizeof(mine); i += 997)
		REQUIRE(mine[i] == (char)(((size_t)at + i) * 7 + (((size_t)at + i) >> 12)));
	for (unsigned i = 0; i < 300; i++) {
		size_t size = i % 50 == 0 ? sizeof(mine) : 1 + (size_t)rand_r(&seed) % (i % 3 == 0 ? 300000 : 9000);
		size_t off = (size_t)rand_r(&seed) % (sizeof(mine) - size + 1);

		if (i % 4 == 1)
			size = (size + 8191) / 8192 * 8192 <= sizeof(mine) - off ? (size + 8191) / 8192 * 8192 : size;
		memset(mine + off, (int)(seed >> 3), size);
		REQUIRE(pwrite(fd, mine + off, size, at + (off_t)off) == (ssize_t)size);
		REQUIRE(pread(fd, back, size, at + (off_t)off) == (ssize_t)size);
		REQUIRE(memcmp(mine + off, back, size) == 0);
	}
	REQUIRE(pread(fd, back, sizeof(back), at) == (ssize_t)sizeof(back));
	REQUIRE(memcmp(mine, back, sizeof(back)) == 0);
	REQUIRE(pread(fd, back, 100, DATA_BYTES) == 0);
	REQUIRE(pwrite(fd, back, 100, DATA_BYTES) == -1 && errno == EFBIG);
}

START_TEST(data_arrives_whole)
{
	unsigned numbers[] = { 0, 1, 2, 3 };
	pid_t pids[4];

	start_kind(_i);
	for (unsigned i = 0; i < 4; i++)
		pids[i] = client(writes_and_reads, &numbers[i], -1);
	for (unsigned i = 0; i < 4; i++)
		ck_assert_int_eq(result_of(pids[i]), 0);
	unmount_and_finish();
}
END_TEST

static void names_and_xattrs(void *arg)
{
	static char value[XATTR_BYTES], back[XATTR_BYTES];
	char path[512], other[512], long_name[256];

	(void)arg;
	memset(long_name, 'n', 255);
	long_name[255] = '\0';
	snprintf(path, sizeof(path), "%s/%s", f.dir, long_name);
	REQUIRE(access(path, F_OK) == -1 && errno == ENAMETOOLONG);
	snprintf(path, sizeof(path), "%s/x", f.dir);
	REQUIRE(access(path, F_OK) == -1 && errno == ENOENT);
	snprintf(path, sizeof(path), "%s/data", f.dir);
	snprintf(other, sizeof(other), "%s/slow", f.dir);
	REQUIRE(rename(path, other) == -1 && errno == EXDEV);
	for (size_t i = 0; i < sizeof(value); i++)
		value[i] = (char)(i * 31);
	REQUIRE(setxattr(path, "user.large", value, sizeof(value), 0) == 0);
	REQUIRE(getxattr(path, "user.large", back, sizeof(back)) == (ssize_t)sizeof(back));
	REQUIRE(memcmp(value, back, sizeof(back)) == 0);
	REQUIRE(getxattr(path, "user.none", back, sizeof(back)) == -1 && errno == ENODATA);
}

START_TEST(names_arrive_whole)
{
	start_kind(_i);
	ck_assert_int_eq(result_of(client(names_and_xattrs, NULL, -1)), 0);
	ck_assert_str_eq(f.renamed, "data>slow");
	unmount_and_finish();
}
END_TEST

START_TEST(init_has_our_flags)
{
	start_kind(_i);
	ck_assert(transport_handles_killpriv(f.transport)); // Linux 5.12; over io_uring in any case
	unmount_and_finish();
}
END_TEST

// ---- slow requests ----

static void reads_slowly(void *arg)
{
	char buf[SLOW_BYTES];
	int fd = open_file("slow", O_RDONLY);

	(void)arg;
	REQUIRE(pread(fd, buf, sizeof(buf), 0) == (ssize_t)sizeof(buf));
	REQUIRE(memcmp(buf, f.data, sizeof(buf)) == 0);
}

// All from one CPU, hence, with io_uring, in one queue. Three are at work, one of max_threads is left (R1).
START_TEST(slow_requests_hold_nobody_up)
{
	pid_t slow[MAX_THREADS + 2];
	unsigned n = MAX_THREADS - 1;

	start_kind(_i);
	for (unsigned i = 0; i < n; i++) {
		slow[i] = client(reads_slowly, NULL, 0);
		sem_wait(&f.slow_came);
	}
	for (int i = 0; i < 20; i++)
		ck_assert_int_eq(result_of(client(stat_root, NULL, 0)), 0);
	for (unsigned i = 0; i < n; i++) {
		sem_post(&f.slow_go);
		ck_assert_int_eq(result_of(slow[i]), 0);
	}
	unmount_and_finish();
}
END_TEST

// More than there are threads: they take turns.
START_TEST(more_slow_requests_than_threads)
{
	pid_t slow[3 * MAX_THREADS];

	start_kind(_i);
	for (unsigned i = 0; i < 3 * MAX_THREADS; i++)
		slow[i] = client(reads_slowly, NULL, 0);
	for (unsigned i = 0; i < 3 * MAX_THREADS; i++)
		sem_post(&f.slow_go);
	for (unsigned i = 0; i < 3 * MAX_THREADS; i++)
		ck_assert_int_eq(result_of(slow[i]), 0);
	ck_assert_int_eq(result_of(client(stat_root, NULL, 0)), 0);
	unmount_and_finish();
}
END_TEST

// ---- ends ----

static void abort_connection(void)
{
	char path[128];
	struct stat st;
	int fd;

	ck_assert_int_eq(stat(f.dir, &st), 0);
	snprintf(path, sizeof(path), "/sys/fs/fuse/connections/%u/abort", minor(st.st_dev));
	fd = open(path, O_WRONLY);
	if (fd < 0 && errno == ENOENT && mount("fusectl", "/sys/fs/fuse/connections", "fusectl", 0, NULL) == 0)
		fd = open(path, O_WRONLY);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, "1", 1), 1);
	close(fd);
}

// In the middle of a request: its client gets an error at once, the handler's reply goes nowhere.
START_TEST(abort_ends_it)
{
	pid_t slow;

	start_kind(_i);
	slow = client(reads_slowly, NULL, -1);
	sem_wait(&f.slow_came);
	abort_connection();
	ck_assert_int_eq(result_of(slow), ECONNABORTED);
	ck_assert(has_ended(20000));
	sem_post(&f.slow_go);
	ck_assert_int_eq(umount2(f.dir, MNT_DETACH), 0);
	ck_assert_int_eq(finish(), 0);
}
END_TEST

static void waits_with_open_file(void *arg)
{
	int *pipes = arg; // told when it has opened; told when to go on
	char c;
	int fd = open_file("data", O_RDWR);

	REQUIRE(write(pipes[1], "o", 1) == 1);
	REQUIRE(read(pipes[2], &c, 1) == 1);
	REQUIRE(pwrite(fd, "late", 4, 0) == 4);
	REQUIRE(pread(fd, &c, 1, 0) == 1 && c == 'l');
}

static pid_t client_with_open_file(int pipes[4])
{
	pid_t pid;
	char c;

	ck_assert_int_eq(pipe(pipes), 0);
	ck_assert_int_eq(pipe(pipes + 2), 0);
	pid = client(waits_with_open_file, pipes, -1);
	ck_assert_int_eq(read(pipes[0], &c, 1), 1);
	return pid;
}

START_TEST(lazy_unmount_ends_with_the_last_user)
{
	int pipes[4];
	pid_t user;

	start_kind(_i);
	user = client_with_open_file(pipes);
	ck_assert_int_eq(umount2(f.dir, MNT_DETACH), 0);
	ck_assert(!has_ended(100));
	ck_assert_int_eq(write(pipes[3], "g", 1), 1);
	ck_assert_int_eq(result_of(user), 0);
	ck_assert(has_ended(20000));
	ck_assert_int_eq(finish(), 0);
}
END_TEST

// As SIGTERM does with a mount that is in use: the daemon goes, its users get an error.
START_TEST(stop_cuts_users_off)
{
	int pipes[4];
	pid_t user;

	start_kind(_i);
	user = client_with_open_file(pipes);
	ck_assert_int_eq(finish(), 0);
	ck_assert_int_eq(write(pipes[3], "g", 1), 1);
	ck_assert_int_ne(result_of(user), 0);
}
END_TEST

// A request that is being processed is still answered.
START_TEST(stop_answers_what_has_begun)
{
	pid_t slow;

	start_kind(_i);
	slow = client(reads_slowly, NULL, -1);
	sem_wait(&f.slow_came);
	transport_stop(f.transport);
	sem_post(&f.slow_go);
	ck_assert_int_eq(finish(), 0);
	ck_assert_int_eq(result_of(slow), 0);
}
END_TEST

START_TEST(many_mounts)
{
	for (int i = 0; i < 20; i++) {
		start_kind(_i);
		unmount_and_finish();
	}
}
END_TEST

// ---- where the process may not run ----

static void stat_often(void *arg)
{
	(void)arg;
	for (int i = 0; i < 200; i++)
		stat_root(NULL);
}

// All but one CPU are as if they were offline or belonged to others: their queues are there nevertheless, and grow when used (U3).
START_TEST(clients_on_foreign_cpus)
{
	cpu_set_t before, one;
	pid_t slow[2];
	int here = -1;

	ck_assert_int_eq(sched_getaffinity(0, sizeof(before), &before), 0);
	CPU_ZERO(&one);
	for (int cpu = CPU_SETSIZE - 1; cpu >= 0; cpu--)
		if (CPU_ISSET((size_t)cpu, &before))
			here = cpu;
	CPU_SET((size_t)here, &one);
	ck_assert_int_eq(sched_setaffinity(0, sizeof(one), &one), 0);
	start_kind(_i);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET((size_t)cpu, &before))
			continue;
		ck_assert_int_eq(result_of(client(stat_often, NULL, cpu)), 0);
		for (unsigned i = 0; i < 2; i++) {
			slow[i] = client(reads_slowly, NULL, cpu);
			sem_wait(&f.slow_came);
		}
		ck_assert_int_eq(result_of(client(stat_often, NULL, cpu)), 0);
		for (unsigned i = 0; i < 2; i++) {
			sem_post(&f.slow_go);
			ck_assert_int_eq(result_of(slow[i]), 0);
		}
	}
	unmount_and_finish();
}
END_TEST

#ifdef HAVE_LIBURING

// ---- steps that fail: the linker puts these in front of the real ones (--wrap) ----

enum step { STEP_NONE, STEP_RING, STEP_FILES, STEP_THREAD, STEP_ENTER, STEP_REGISTER_UNSENT, STEP_REGISTER_REFUSED, N_STEPS };

static _Atomic enum step failing;
static atomic_int until_failure; // 1: the next one
static atomic_bool failed;

static bool fails(enum step step)
{
	if (failing != step || atomic_fetch_sub(&until_failure, 1) != 1)
		return false;
	atomic_store(&failed, true);
	return true;
}

int __real_io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *p);
int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *p);
int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *p)
{
	return fails(STEP_RING) ? -EPERM : __real_io_uring_queue_init_params(entries, ring, p);
}

int __real_io_uring_register_files(struct io_uring *ring, const int *files, unsigned n);
int __wrap_io_uring_register_files(struct io_uring *ring, const int *files, unsigned n);
int __wrap_io_uring_register_files(struct io_uring *ring, const int *files, unsigned n)
{
	return fails(STEP_FILES) ? -EMFILE : __real_io_uring_register_files(ring, files, n);
}

// Of those that are started while the rings are set up. The first thread of all serves /dev/fuse.
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	return fails(STEP_THREAD) ? EAGAIN : __real_pthread_create(thread, attr, fn, arg);
}

int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = &ring->sq.sqes[2 * (ring->sq.sqe_head & ring->sq.ring_mask)];
	bool pending = io_uring_sq_ready(ring) > 0;

	if (pending && sqe->opcode == IORING_OP_NOP && fails(STEP_ENTER))
		return -EPERM; // as a sandbox that lets io_uring_setup(2) pass and this not
	if (pending && sqe->opcode == IORING_OP_URING_CMD && sqe->cmd_op == 1 && sqe->len == 2) {
		if (fails(STEP_REGISTER_UNSENT))
			return -ENOMEM;
		if (fails(STEP_REGISTER_REFUSED))
			sqe->len = 1; // the kernel answers EINVAL
	}
	return __real_io_uring_submit(ring);
}

// For n = 1, 2, 3 … until n are too many: served, and not over rings.
START_TEST(nth_step_fails)
{
	int n = 0, fallbacks = 0;
	unsigned number = 0;

	do {
		failing = (enum step)_i;
		atomic_store(&until_failure, ++n + (failing == STEP_THREAD ? 2 : 0)); // the watchdog and the reader of /dev/fuse
		atomic_store(&failed, false);
		start(TRANSPORT_AUTO);
		ck_assert_int_eq(result_of(client(writes_and_reads, &number, -1)), 0);
		if (!transport_over_uring(f.transport)) {
			ck_assert(atomic_load(&failed));
			ck_assert_int_gt(strlen(transport_why_not_uring(f.transport)), 0);
			fallbacks++;
		}
		failing = STEP_NONE;
		unmount_and_finish();
	} while (atomic_load(&failed) && n < 100);
	ck_assert_int_ge(fallbacks, 2); // as many as CPUs, at least
	ck_assert_int_lt(n, 100);
}
END_TEST

#endif

// ---- all of them ----

// 1 or 2 of kinds[].
static int count_kinds(void)
{
	char enabled = 'N';
#ifdef HAVE_LIBURING
	int fd = open(ENABLED, O_RDONLY);

	if (fd >= 0 && read(fd, &enabled, 1) != 1)
		enabled = 'N';
	if (fd >= 0)
		close(fd);
#endif
	return enabled == 'Y' ? 2 : 1;
}

static void add_tests(Suite *s, int n_kinds)
{
	TCase *tc = tcase_create("transport");

	tcase_set_timeout(tc, 300);
	tcase_add_loop_test(tc, data_arrives_whole, 0, n_kinds);
	tcase_add_loop_test(tc, names_arrive_whole, 0, n_kinds);
	tcase_add_loop_test(tc, init_has_our_flags, 0, n_kinds);
	tcase_add_loop_test(tc, slow_requests_hold_nobody_up, 0, n_kinds);
	tcase_add_loop_test(tc, more_slow_requests_than_threads, 0, n_kinds);
	tcase_add_loop_test(tc, abort_ends_it, 0, n_kinds);
	tcase_add_loop_test(tc, lazy_unmount_ends_with_the_last_user, 0, n_kinds);
	tcase_add_loop_test(tc, stop_cuts_users_off, 0, n_kinds);
	tcase_add_loop_test(tc, stop_answers_what_has_begun, 0, n_kinds);
	tcase_add_loop_test(tc, many_mounts, 0, n_kinds);
	tcase_add_loop_test(tc, clients_on_foreign_cpus, 0, n_kinds);
#ifdef HAVE_LIBURING
	if (n_kinds > 1)
		tcase_add_loop_test(tc, nth_step_fails, STEP_NONE + 1, N_STEPS);
#endif
	suite_add_tcase(s, tc);
}

int main(void)
{
	Suite *s = suite_create("transport");
	int n_kinds;

	if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) != 0) {
		puts("skipped: mounting needs root and /dev/fuse");
		return 77;
	}
	n_kinds = count_kinds();
	if (n_kinds == 1)
		puts("only over /dev/fuse: the kernel does not offer io_uring (Y in " ENABLED "), or this was built without liburing");
	add_tests(s, n_kinds);
	return run_suite(s);
}
