// SPDX-License-Identifier: MIT
// Locks, leases and interrupted calls.
//
// Each case has two sides: this process and a child. Nothing is timed: who must be waiting is seen in /proc/locks (a line with "->"), and what
// must be interrupted gets signals until it is.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "linuxop.h"
#include "util/attr.h"

#define PAUSE_US 2000
#define PATIENCE 10000 // pauses

static volatile sig_atomic_t n_signals;

static void on_signal(int sig)
{
	(void)sig;
	n_signals++;
}

static void catch_signal(int sig)
{
	struct sigaction action = { .sa_handler = on_signal }; // without SA_RESTART

	sigaction(sig, &action, NULL);
}

// ---- the kinds of lock ----

static int lock_range(int fd, int cmd, short type, off_t start, off_t len)
{
	struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len };

	return fcntl(fd, cmd, &lock);
}

static int flock_wait(int fd) { return flock(fd, LOCK_EX); }
static int flock_try(int fd) { return flock(fd, LOCK_EX | LOCK_NB); }
static int flock_end(int fd) { return flock(fd, LOCK_UN); }
static int posix_wait(int fd) { return lock_range(fd, F_SETLKW, F_WRLCK, 10, 10); }
static int posix_try(int fd) { return lock_range(fd, F_SETLK, F_WRLCK, 10, 10); }
static int posix_end(int fd) { return lock_range(fd, F_SETLK, F_UNLCK, 10, 10); }
static int ofd_wait(int fd) { return lock_range(fd, F_OFD_SETLKW, F_WRLCK, 10, 10); }
static int ofd_try(int fd) { return lock_range(fd, F_OFD_SETLK, F_WRLCK, 10, 10); }
static int ofd_end(int fd) { return lock_range(fd, F_OFD_SETLK, F_UNLCK, 10, 10); }

static const struct kind {
	const char *name;
	int (*wait)(int fd), (*try)(int fd), (*end)(int fd);
} kinds[] = {
	{ "flock", flock_wait, flock_try, flock_end },
	{ "fcntl", posix_wait, posix_try, posix_end },
	{ "OFD", ofd_wait, ofd_try, ofd_end },
};

// Whether somebody waits for a lock of this file.
static bool has_waiter(int fd)
{
	char line[256], ino[32];
	struct stat st;
	FILE *locks = fopen("/proc/locks", "r");
	bool found = false;

	if (locks == NULL || fstat(fd, &st) < 0)
		return false;
	snprintf(ino, sizeof(ino), ":%llu ", (unsigned long long)st.st_ino);
	while (fgets(line, sizeof(line), locks) != NULL)
		found |= strstr(line, "->") != NULL && strstr(line, ino) != NULL;
	fclose(locks);
	return found;
}

static bool wait_for_waiter(int fd)
{
	for (int i = 0; i < PATIENCE; i++) {
		if (has_waiter(fd))
			return true;
		usleep(PAUSE_US);
	}
	return false;
}

static int status_of(pid_t child)
{
	int status;

	return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

// The child's side: it does not get the lock at once, gets it when it waits, and keeps it until it ends.
static int child_waits(const struct kind *kind, const char *path)
{
	int fd = open(path, O_RDWR);

	if (fd < 0 || kind->try(fd) == 0 || (errno != EAGAIN && errno != EACCES))
		return 1;
	return kind->wait(fd) < 0 ? 2 : 0;
}

// The child's side: it waits for ever, and a signal ends that.
static int child_is_interrupted(const struct kind *kind, const char *path)
{
	int fd = open(path, O_RDWR);

	return fd < 0 || kind->wait(fd) == 0 || errno != EINTR;
}

static int check_kind(const struct kind *kind, const char *path)
{
	int fd = open(path, O_RDWR);
	pid_t child;

	if (fd < 0 || kind->try(fd) < 0)
		return complain(kind->name);
	child = fork();
	if (child == 0)
		_exit(child_waits(kind, path));
	if (!wait_for_waiter(fd))
		return wrong("nobody waits");
	if (kind->end(fd) < 0 || status_of(child) != 0)
		return wrong("who has waited does not get the lock");
	if (kind->try(fd) < 0) // the child has ended, and its lock with it
		return complain(kind->name);
	catch_signal(SIGUSR1); // for the child, which has it from its first moment on
	child = fork();
	if (child == 0)
		_exit(child_is_interrupted(kind, path));
	if (!wait_for_waiter(fd) || kill(child, SIGUSR1) < 0 || status_of(child) != 0)
		return wrong("waiting for a lock is not interrupted");
	return kind->end(fd) < 0 || close(fd) < 0 ? complain(kind->name) : 0;
}

// What the kinds do not have in common.
static int check_differences(const char *path)
{
	int one = open(path, O_RDWR), two = open(path, O_RDWR);
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 15, .l_len = 1 };
	pid_t child;

	if (one < 0 || two < 0 || ofd_try(one) < 0 || ofd_try(two) == 0 || ofd_end(one) < 0)
		return wrong("OFD locks of two open files");
	if (posix_try(one) < 0 || posix_try(two) < 0)
		return wrong("fcntl locks of one process conflict");
	child = fork();
	if (child == 0)
		_exit(fcntl(one, F_GETLK, &lock) < 0 || lock.l_type != F_WRLCK || lock.l_pid != getppid() || lock.l_start != 10 ||
		      lock_range(one, F_SETLK, F_WRLCK, 20, 5) < 0);
	if (status_of(child) != 0)
		return wrong("F_GETLK, or a lock beside another");
	close(two); // of any descriptor of the file: all locks of the process go
	child = fork();
	if (child == 0)
		_exit(posix_try(one) < 0);
	if (status_of(child) != 0)
		return wrong("fcntl locks outlive close");
	return close(one) < 0;
}

// Two processes that wait for each other: the second to do so is told.
static int check_deadlock(const char *path)
{
	int fd = open(path, O_RDWR), r;
	pid_t child;

	if (fd < 0 || lock_range(fd, F_SETLK, F_WRLCK, 0, 1) < 0)
		return complain(path);
	child = fork();
	if (child == 0) {
		if (lock_range(fd, F_SETLK, F_WRLCK, 1, 1) < 0)
			_exit(1);
		_exit(lock_range(fd, F_SETLKW, F_WRLCK, 0, 1) < 0);
	}
	if (!wait_for_waiter(fd))
		return wrong("nobody waits");
	r = lock_range(fd, F_SETLKW, F_WRLCK, 1, 1);
	if (r == 0 || errno != EDEADLK)
		return wrong("a deadlock is not told");
	lock_range(fd, F_SETLK, F_UNLCK, 0, 1);
	return status_of(child) != 0 ? wrong("after a deadlock") : close(fd);
}

int op_locks(char **arg)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < ARRAY_LEN(kinds); i++)
		rc = check_kind(&kinds[i], arg[0]);
	if (rc == 0)
		rc = check_differences(arg[0]);
	return rc == 0 ? check_deadlock(arg[0]) : rc;
}

// ---- leases ----

// All opens of a file go through this kernel, so its leases hold what they promise: a writer is kept waiting until the holder, who gets a
// signal, has given the lease up.
int op_lease(char **arg)
{
	int fd = open(arg[0], O_RDONLY);
	pid_t child;

	catch_signal(SIGIO);
	if (fd < 0 || fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
		return complain("F_SETLEASE");
	child = fork();
	if (child == 0)
		_exit(open(arg[0], O_WRONLY | O_NONBLOCK) >= 0 || errno != EWOULDBLOCK || open(arg[0], O_WRONLY) < 0);
	for (int i = 0; n_signals == 0 && i < PATIENCE; i++)
		usleep(PAUSE_US);
	if (n_signals == 0)
		return wrong("the holder of a lease is not told that somebody wants to write");
	if (fcntl(fd, F_SETLEASE, F_UNLCK) < 0 || status_of(child) != 0)
		return wrong("who has waited for a lease to end cannot write");
	return close(fd);
}

// ---- interrupted calls ----

// Writes n bytes; what a signal cuts short goes on.
static int write_on(int fd, const char *buf, size_t n, off_t at)
{
	while (n > 0) {
		ssize_t wrote = pwrite(fd, buf, n, at);

		if (wrote < 0 && errno != EINTR)
			return -1;
		if (wrote > 0) {
			buf += wrote;
			at += wrote;
			n -= (size_t)wrote;
		}
	}
	return 0;
}

// Writes, syncs, reads back and makes and removes names, until `enough` signals have come. Calls may fail with EINTR, but not otherwise, and
// what they have done is whole.
static int work_on(const char *path, int enough)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
	static char buf[1 << 20], back[1 << 20];
	char name[4096];

	snprintf(name, sizeof(name), "%s.name", path);
	if (fd < 0)
		return 1;
	for (int round = 0; n_signals < enough; round++) {
		off_t at = (off_t)(round % 8) * (off_t)sizeof(buf);
		ssize_t n = 0;

		memset(buf, 'a' + round % 26, sizeof(buf));
		if (write_on(fd, buf, sizeof(buf), at) < 0 || (fsync(fd) < 0 && errno != EINTR))
			return 2;
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); // so that reading asks
		for (size_t got = 0; got < sizeof(back); got += n > 0 ? (size_t)n : 0) {
			n = pread(fd, back + got, sizeof(back) - got, at + (off_t)got);
			if (n == 0 || (n < 0 && errno != EINTR))
				return 3;
		}
		if (memcmp(buf, back, sizeof(buf)) != 0)
			return 4;
		if ((link(path, name) < 0 && errno != EINTR && errno != EEXIST) || (unlink(name) < 0 && errno != EINTR && errno != ENOENT))
			return 5;
	}
	return close(fd) < 0 ? 6 : 0;
}

// The last signal kills a process at work; the mount goes on, and nobody is left behind.
int op_interrupt(char **arg)
{
	int n = atoi(arg[1]), rc, status;
	pid_t child;

	catch_signal(SIGUSR1);
	child = fork();
	if (child == 0)
		_exit(work_on(arg[0], n));
	while ((rc = waitpid(child, &status, WNOHANG)) == 0) {
		kill(child, SIGUSR1);
		usleep(200);
	}
	if (rc != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		fprintf(stderr, "linuxop: status %x\n", (unsigned)status);
		return wrong("a call fails because of signals");
	}
	child = fork();
	if (child == 0)
		_exit(work_on(arg[0], INT_MAX));
	for (int i = 0; i < 200; i++) {
		kill(child, SIGUSR1);
		usleep(200);
	}
	kill(child, SIGKILL);
	return waitpid(child, &status, 0) != child || !WIFSIGNALED(status) ? wrong("a process at work is not killed") : 0;
}
