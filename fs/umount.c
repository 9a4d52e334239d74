// SPDX-License-Identifier: MIT
// umount.hybridfs: what umount(8) calls for a HybridFS mount. Unmounts, and waits until the daemon has let go of the device.
//
// Calling convention of umount(8) for helpers: umount.TYPE DIRECTORY [-flnrv] [-N namespace] [-t type].
//
// umount(2) returns when the kernel has nothing left to give to the daemon, and the daemon commits only then. A fsck right after umount,
// or pulling out a USB stick, wants to know when that is done: when the daemon's lock on the device is gone.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <mntent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "block/holder.h"
#include "fs/namespace.h"

#define POLL_NS 2000000L

enum umount_exit { UMOUNT_OK = 0, UMOUNT_USAGE = 1, UMOUNT_SYSTEM = 2, UMOUNT_FAILED = 32 };

struct request {
	const char *target; // as written: the mount point, or the device
	const char *ns;
	bool lazy, force, read_only_if_busy, verbose;
};

struct mounted {
	char *dir, *source;
};

// Whose end is waited for.
struct device {
	struct stat st;
	bool known;  // st is filled in
	int fd;      // -1 if we may not read it
	pid_t daemon; // 0 if /proc/locks does not tell
};

static void usage(FILE *to)
{
	fputs("Usage: umount.hybridfs [-f] [-l] [-r] [-v] [-n] [-N namespace] [-t type] MOUNTPOINT|DEVICE\n"
	      "\n"
	      "Called by umount(8). Unmounts, and returns when everything is on the device.\n"
	      "  -l  detach now, do not wait      -f  cut off whoever uses it\n"
	      "  -r  if busy, make it read-only   -v  say what is done\n"
	      "  -n -t type                       accepted, no effect\n"
	      "  -N namespace                     in this mount namespace\n",
	      to);
}

// The last one wins: it covers the others.
static int find_mount(const char *target, struct mounted *out)
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	char *real = realpath(target, NULL);
	struct mntent *m;

	*out = (struct mounted){ NULL, NULL };
	while (f != NULL && (m = getmntent(f)) != NULL) {
		bool same = strcmp(m->mnt_dir, target) == 0 || strcmp(m->mnt_fsname, target) == 0 ||
		            (real != NULL && (strcmp(m->mnt_dir, real) == 0 || strcmp(m->mnt_fsname, real) == 0));

		if (!same || strcmp(m->mnt_type, "fuse.hybridfs") != 0)
			continue;
		free(out->dir);
		free(out->source);
		out->dir = strdup(m->mnt_dir);
		out->source = strdup(m->mnt_fsname);
	}
	if (f != NULL)
		endmntent(f);
	free(real);
	return out->dir != NULL && out->source != NULL ? 0 : -ENOENT;
}

static void look_at_device(const char *source, struct device *dev)
{
	char program[HOLDER_PROGRAM_LEN];

	*dev = (struct device){ .fd = open(source, O_RDONLY | O_NONBLOCK | O_CLOEXEC) };
	dev->known = (dev->fd >= 0 ? fstat(dev->fd, &dev->st) : stat(source, &dev->st)) == 0;
	if (!dev->known || !holder_process(&dev->st, &dev->daemon, program))
		dev->daemon = 0;
}

// Whether the daemon still has the device. Another process that has got it meanwhile (the next mount) is not waited for.
static bool is_held(const struct device *dev)
{
	char program[HOLDER_PROGRAM_LEN];
	pid_t holder;

	if (dev->fd >= 0 && flock(dev->fd, LOCK_SH | LOCK_NB) == 0)
		return false;
	if (dev->daemon == 0)
		return dev->fd >= 0 && errno == EWOULDBLOCK;
	return holder_process(&dev->st, &holder, program) && holder == dev->daemon;
}

static void wait_for_daemon(const struct device *dev)
{
	static const struct timespec pause = { .tv_nsec = POLL_NS };

	while (dev->known && is_held(dev))
		nanosleep(&pause, NULL);
}

static int run_fusermount(const struct request *r, const char *dir)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		return -errno;
	if (pid == 0) {
		if (r->lazy)
			execlp("fusermount3", "fusermount3", "-u", "-z", "--", dir, (char *)NULL);
		else
			execlp("fusermount3", "fusermount3", "-u", "--", dir, (char *)NULL);
		_exit(127);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

static int unmount(const struct request *r, const char *dir)
{
	int flags = UMOUNT_NOFOLLOW | (r->lazy ? MNT_DETACH : 0) | (r->force ? MNT_FORCE : 0);

	if (geteuid() != 0)
		return run_fusermount(r, dir);
	return umount2(dir, flags) < 0 ? -errno : 0;
}

static int become_read_only(const struct request *r, const char *dir)
{
	if (!r->read_only_if_busy || mount(NULL, dir, NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
		return -EBUSY;
	fprintf(stderr, "umount.hybridfs: %s is in use, made read-only\n", dir);
	return 0;
}

static enum umount_exit run(const struct request *r)
{
	struct mounted m;
	struct device dev;
	int rc;

	if (find_mount(r->target, &m) != 0) {
		fprintf(stderr, "umount.hybridfs: %s: no HybridFS is mounted there\n", r->target);
		return UMOUNT_FAILED;
	}
	look_at_device(m.source, &dev);
	rc = unmount(r, m.dir);
	if (rc == 0 && r->verbose)
		printf("umount.hybridfs: %s unmounted\n", m.dir);
	if (rc == 0 && !r->lazy)
		wait_for_daemon(&dev);
	if (rc == -EBUSY)
		rc = become_read_only(r, m.dir);
	if (rc != 0)
		fprintf(stderr, "umount.hybridfs: %s: %s%s\n", m.dir, strerror(-rc),
		        rc == -EBUSY ? ": find out who uses it with fuser -m or lsof" : "");
	if (dev.fd >= 0)
		close(dev.fd);
	free(m.dir);
	free(m.source);
	return rc == 0 ? UMOUNT_OK : UMOUNT_FAILED;
}

static int parse(int argc, char **argv, struct request *r)
{
	static const struct option longs[] = { { "help", no_argument, NULL, 'h' }, { "version", no_argument, NULL, 'V' }, { 0 } };
	int c;

	while ((c = getopt_long(argc, argv, "flnrvhVN:t:", longs, NULL)) != -1) {
		switch (c) {
		case 'f':
			r->force = true;
			break;
		case 'l':
			r->lazy = true;
			break;
		case 'r':
			r->read_only_if_busy = true;
			break;
		case 'v':
			r->verbose = true;
			break;
		case 'N':
			r->ns = optarg;
			break;
		case 'n':
		case 't':
			break;
		case 'h':
			usage(stdout);
			exit(UMOUNT_OK);
		case 'V':
			printf("umount.hybridfs %s\n", PACKAGE_VERSION);
			exit(UMOUNT_OK);
		default:
			return -EINVAL;
		}
	}
	r->target = argv[optind];
	return argc - optind == 1 ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
	struct request r = { .target = NULL };
	struct errmsg why = { "" };

	if (parse(argc, argv, &r) != 0) {
		usage(stderr);
		return UMOUNT_USAGE;
	}
	if (r.ns != NULL && namespace_enter(r.ns, &why) != 0) {
		fprintf(stderr, "umount.hybridfs: %s\n", why.text);
		return UMOUNT_SYSTEM;
	}
	return run(&r);
}
