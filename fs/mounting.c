// SPDX-License-Identifier: MIT
// Mounting and unmounting, as root by system call and as anybody else through fusermount3 (libfuse chooses).
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/fuse_ops.h"
#include "fs/mounting.h"
#include "util/log.h"

#define SAID_MAX 400

static void explain_point(const char *path, int err, struct errmsg *why)
{
	switch (err) {
	case ENOENT:
		errmsg_set(why, "mount point %s does not exist: create it with mkdir", path);
		break;
	case ENOTCONN:
	case ECONNABORTED: // it is just ending, and our question came too late
		errmsg_set(why, "mount point %s is still mounted, but its daemon has ended: run 'umount %s' first", path, path);
		break;
	default:
		errmsg_set(why, "mount point %s: %s", path, strerror(err));
	}
}

int mount_check_point(const char *path, char **absolute, struct errmsg *why)
{
	struct statvfs vfs;
	struct stat st;
	int rc = 0;

	*absolute = NULL;
	// The kernel answers stat(2) for a dead daemon of ours, from its cache. Only statvfs(3) always asks.
	if (stat(path, &st) < 0 || statvfs(path, &vfs) < 0 || (*absolute = realpath(path, NULL)) == NULL) {
		rc = -errno;
		explain_point(path, -rc, why);
	} else if (!S_ISDIR(st.st_mode)) {
		rc = -ENOTDIR;
		errmsg_set(why, "mount point %s is not a directory", path);
		free(*absolute);
		*absolute = NULL;
	}
	return rc;
}

// ---- the session ----

// Root gets what other filesystems give: device files and setuid programs work unless an option says no. libfuse's default is the
// other way round, and fusermount3 insists on that for everybody else.
static int add_options(struct fuse_args *args, const struct options *opts, const char *device, bool read_only)
{
	bool root = geteuid() == 0;
	char *source = NULL, *list = NULL;
	int rc = -ENOMEM;

	// The commas of a path must not end the option: libfuse unescapes.
	if (asprintf(&source, "fsname=%s", device) < 0)
		source = NULL;
	if (source != NULL && fuse_opt_add_opt_escaped(&list, source) == 0 && fuse_opt_add_opt(&list, "subtype=hybridfs") == 0 &&
	    fuse_opt_add_opt(&list, "default_permissions") == 0 && fuse_opt_add_opt(&list, read_only ? "ro" : "rw") == 0 &&
	    (!root || fuse_opt_add_opt(&list, "suid,dev") == 0) &&
	    (!(root || opts->allow_other) || fuse_opt_add_opt(&list, "allow_other") == 0) &&
	    (opts->atime != FS_NOATIME || fuse_opt_add_opt(&list, "noatime") == 0) &&
	    (opts->kernel[0] == '\0' || fuse_opt_add_opt(&list, opts->kernel) == 0) &&
	    (!opts->debug || fuse_opt_add_opt(&list, "debug") == 0) && fuse_opt_add_arg(args, "hybridfs") == 0 &&
	    fuse_opt_add_arg(args, "-o") == 0 && fuse_opt_add_arg(args, list) == 0)
		rc = 0;
	free(source);
	free(list);
	return rc;
}

int mount_create_session(const struct options *opts, const char *device, bool read_only, void *userdata, struct fuse_session **out,
                         struct errmsg *why)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	int rc = add_options(&args, opts, device, read_only);

	*out = NULL;
	if (rc == 0)
		*out = fuse_session_new(&args, &fuse_ops_table, sizeof(fuse_ops_table), userdata);
	if (*out == NULL) {
		rc = rc != 0 ? rc : -EINVAL;
		errmsg_set(why, "the FUSE session cannot be created: %s", strerror(-rc));
	}
	fuse_opt_free_args(&args);
	return rc;
}

// ---- mounting ----

// libfuse and fusermount3 explain failures on stderr, in their own words and lines. This collects them for our one line.
struct overheard {
	int mem_fd, stderr_fd;
};

static void listen_begin(struct overheard *o)
{
	fflush(stderr);
	o->stderr_fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	o->mem_fd = memfd_create("stderr", MFD_CLOEXEC);
	if (o->mem_fd >= 0 && o->stderr_fd >= 0)
		dup2(o->mem_fd, STDERR_FILENO);
}

static void listen_end(struct overheard *o, char said[SAID_MAX])
{
	ssize_t n = 0;

	fflush(stderr);
	if (o->mem_fd >= 0 && o->stderr_fd >= 0) {
		dup2(o->stderr_fd, STDERR_FILENO);
		n = pread(o->mem_fd, said, SAID_MAX - 1, 0);
	}
	said[n > 0 ? n : 0] = '\0';
	for (char *c = said; *c != '\0'; c++)
		if (*c == '\n')
			*c = c[1] == '\0' ? '\0' : ';';
	if (o->mem_fd >= 0)
		close(o->mem_fd);
	if (o->stderr_fd >= 0)
		close(o->stderr_fd);
}

int mount_session(struct fuse_session *se, const char *mountpoint, struct errmsg *why)
{
	struct overheard o;
	char said[SAID_MAX];
	int rc;

	listen_begin(&o);
	rc = fuse_session_mount(se, mountpoint);
	listen_end(&o, said);
	if (rc == 0)
		return 0;
	errmsg_set(why, "cannot mount on %s: %s", mountpoint, said[0] != '\0' ? said : "see the messages of the kernel");
	return -EIO;
}

// ---- unmounting ----

static int run_fusermount(const char *mountpoint)
{
	const char *const argv[] = { "fusermount3", "-u", "-q", "--", mountpoint, NULL };
	pid_t pid;
	int status, rc;

	rc = posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)argv, environ); // reads them only
	if (rc != 0)
		return -rc;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EBUSY;
}

// What processes have written through mmap(2), and with -o writeback through write(2) too, is only in the kernel so far.
static int write_back(const char *mountpoint, dev_t dev)
{
	int fd = open(mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;
	int rc = 0;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		rc = -errno;
	else if (st.st_dev != dev)
		rc = -EBUSY; // another mount covers ours
	else if (syncfs(fd) < 0)
		rc = -errno;
	close(fd);
	return rc;
}

int mount_take_off(const char *mountpoint, dev_t dev)
{
	int rc = write_back(mountpoint, dev);

	if (rc != 0)
		return rc;
	if (geteuid() != 0)
		return run_fusermount(mountpoint);
	return umount2(mountpoint, UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
}
