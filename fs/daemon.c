// SPDX-License-Identifier: MIT
// Starting, serving, ending.
//
//   parent                          child
//   fork ------------------------>  open the device, the volume; mount; start serving
//   wait for the report  <--------  look at the mount point: answered by ourselves, so the mount serves
//   print an error, exit            detach from the terminal, report; wait for the end of the session or a signal
//                                   close everything in reverse
//
// The fork comes before anything is opened: locks, threads and SQLite do not survive one. In the foreground there is only the child's part.
//
// Signals are blocked in every thread and read here from a descriptor. SIGTERM and SIGINT unmount; what is being closed is never
// interrupted by a second one. SIGUSR2 logs the requests that there were. SIGHUP only leaves a line in the log: there is no settings file to
// read again.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/daemon.h"
#include "fs/fuse_ops.h"
#include "fs/mounting.h"
#include "fs/namespace.h"
#include "util/log.h"

#define DEVICE_WAIT_MS 10000 // for a daemon that is still writing after its umount
#define READ_AHEAD_KB "1024"

struct report {
	int exit_code;
	char text[sizeof(((struct errmsg *)0)->text)]; // the error; with MOUNT_OK a warning, or empty
};

struct daemon {
	const struct options *opts;
	int report_fd; // -1 in the foreground
	int signal_fd;
	char *device, *mountpoint; // absolute
	struct bdev *dev;
	struct volume *vol;
	struct session session;
	bool mounted;
	bool over_uring; // see transport.h
	dev_t mount_dev; // st_dev of the files in it
	enum mount_exit exit_code;
	struct errmsg why; // an error, or a warning
};

static enum mount_exit fail(struct daemon *d, enum mount_exit code, int rc)
{
	if (d->why.text[0] == '\0')
		errmsg_set(&d->why, "%s: %s", d->opts->device, strerror(-rc));
	d->exit_code = rc == -ENOMEM ? MOUNT_SYSTEM : code;
	return d->exit_code;
}

// ---- signals ----

static int take_signals(struct daemon *d)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR2);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return d->signal_fd < 0 ? -errno : 0;
}

// Whether we shall end. Answers the signals that have come.
static bool asked_to_end(struct daemon *d)
{
	struct signalfd_siginfo info;
	bool end = false;

	while (read(d->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGHUP) {
			msg_info("SIGHUP: there are no settings to read again, going on");
			continue;
		}
		if (info.ssi_signo == SIGUSR2) {
			if (d->session.transport != NULL) // else it came while the device was awaited and opened
				transport_log_requests(d->session.transport);
			continue;
		}
		msg_info("%s: unmounting %s", info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT", d->device);
		end = true;
	}
	return end;
}

// ---- start ----

static void log_allocator(struct volume *vol)
{
	struct alloc_stats stats;

	if (vol->alloc == NULL) // read-only
		return;
	alloc_get_stats(vol->alloc, &stats);
	msg_debug("allocator %s, %u metaslabs, %llu of %llu blocks free", stats.engine, stats.n_metaslabs,
	          (unsigned long long)stats.free_blk, (unsigned long long)stats.total_blk);
}

static enum mount_exit open_volume(struct daemon *d)
{
	const struct options *o = d->opts;
	struct volume_opts vol_opts = { .commit_interval_ms = o->commit_s * 1000, .engine = o->engine };
	struct fs_opts fs_opts = { .atime = o->atime, .nodiratime = o->nodiratime, .discard = o->discard, .nodatacow = o->nodatacow };
	int rc;

	rc = bdev_open_file(d->device, o->read_only ? BDEV_READ_ONLY : 0, DEVICE_WAIT_MS, &d->dev, &d->why);
	if (rc != 0)
		return fail(d, MOUNT_FAILED, rc);
	if (d->dev->read_only)
		vol_opts.flags |= VOLUME_READ_ONLY;
	rc = volume_open(d->dev, &vol_opts, &d->vol, &d->why);
	if (rc != 0)
		return fail(d, MOUNT_FAILED, rc);
	log_allocator(d->vol);
	rc = fs_create_context(d->vol, &fs_opts, &d->session.fs);
	if (rc == 0)
		rc = checker_create(d->session.fs, &d->session.checker);
	if (rc != 0)
		return fail(d, MOUNT_FAILED, rc);
	if (d->vol->read_only && !o->read_only)
		errmsg_set(&d->why, "%s is write-protected, mounted read-only", d->device);
	return MOUNT_OK;
}

// The kernel takes 128 KiB for what is read ahead in a FUSE mount, whatever INIT says. Only root may change it; for others it stays.
static void raise_read_ahead(dev_t dev)
{
	char path[80];
	int fd;

	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(dev), minor(dev));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (write(fd, READ_AHEAD_KB, strlen(READ_AHEAD_KB)) < 0)
		msg_debug("%s: %s", path, strerror(errno));
	close(fd);
}

static void log_from_libfuse(enum fuse_log_level level, const char *fmt, va_list ap)
{
	char text[512];

	vsnprintf(text, sizeof(text), fmt, ap);
	text[strcspn(text, "\n")] = '\0';
	msg_log(level <= FUSE_LOG_ERR ? MSG_ERROR : level == FUSE_LOG_DEBUG ? MSG_DEBUG : MSG_INFO, "%s", text);
}

static enum mount_exit mount_volume(struct daemon *d)
{
	struct transport_opts transport_opts = {
		.kind = d->opts->transport,
		.max_threads = SESSION_MAX_THREADS,
		.poll_us = d->opts->poll_us,
	};
	struct stat st;
	int rc;

	rc = mount_create_session(d->opts, d->device, d->vol->read_only, &d->session, &d->session.se, &d->why);
	if (rc != 0)
		return fail(d, MOUNT_INTERNAL, rc);
	if (asked_to_end(d)) {
		errmsg_set(&d->why, "interrupted");
		return fail(d, MOUNT_INTERRUPTED, -EINTR);
	}
	rc = mount_session(d->session.se, d->mountpoint, &d->why);
	if (rc != 0)
		return fail(d, MOUNT_FAILED, rc);
	d->mounted = true;
	fuse_set_log_func(log_from_libfuse); // not before: mount_session() listens to its stderr
	rc = transport_create(d->session.se, &transport_opts, &d->session.transport);
	if (rc == 0)
		rc = transport_start(d->session.transport);
	if (rc == 0 && stat(d->mountpoint, &st) < 0) // returns when we have answered INIT and this
		rc = -errno;
	if (rc != 0) {
		errmsg_set(&d->why, "%s is mounted but cannot be served: %s", d->mountpoint, strerror(-rc));
		return fail(d, MOUNT_INTERNAL, rc);
	}
	d->over_uring = transport_over_uring(d->session.transport);
	if (!d->over_uring && d->opts->transport == TRANSPORT_URING) {
		errmsg_set(&d->why, "no FUSE over io_uring: %s", transport_why_not_uring(d->session.transport));
		return fail(d, MOUNT_FAILED, -EOPNOTSUPP);
	}
	d->mount_dev = st.st_dev;
	raise_read_ahead(st.st_dev);
	return MOUNT_OK;
}

static enum mount_exit start(struct daemon *d)
{
	const struct options *o = d->opts;
	enum mount_exit code;
	int rc = take_signals(d);

	if (rc != 0)
		return fail(d, MOUNT_SYSTEM, rc);
	d->device = realpath(o->device, NULL);
	if (d->device == NULL) {
		rc = -errno;
		errmsg_set(&d->why, "%s: %s", o->device, strerror(-rc));
		return fail(d, MOUNT_FAILED, rc);
	}
	if (o->ns == NULL) {
		rc = mount_check_point(o->mountpoint, &d->mountpoint, &d->why); // before waiting for the device
		if (rc != 0)
			return fail(d, MOUNT_FAILED, rc);
	}
	if (o->fake)
		return MOUNT_OK;
	// Memory that we need while the kernel is writing back through us must not wait for this writeback. Only root may ask for it.
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	code = open_volume(d);
	if (code != MOUNT_OK)
		return code;
	if (o->ns != NULL) { // mount(8) -N: the device is ours, the mount point is theirs
		rc = namespace_enter(o->ns, &d->why);
		if (rc == 0)
			rc = mount_check_point(o->mountpoint, &d->mountpoint, &d->why);
		if (rc != 0)
			return fail(d, MOUNT_FAILED, rc);
	}
	return mount_volume(d);
}

// ---- report ----

static void detach_from_terminal(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	if (chdir("/") < 0)
		msg_debug("chdir /: %s", strerror(errno));
	if (fd < 0)
		return;
	for (int std = STDIN_FILENO; std <= STDERR_FILENO; std++)
		dup2(fd, std);
	if (fd > STDERR_FILENO)
		close(fd);
}

static void say(const struct report *r)
{
	if (r->text[0] != '\0')
		fprintf(stderr, "hybridfs: %s%s\n", r->exit_code == MOUNT_OK ? "warning: " : "", r->text);
}

static void report_start(struct daemon *d)
{
	struct report r = { .exit_code = d->exit_code };

	memcpy(r.text, d->why.text, sizeof(r.text));
	if (d->report_fd < 0) {
		say(&r);
		return;
	}
	if (d->exit_code == MOUNT_OK) // before the report: whoever waits for the end of our stderr shall not wait for the unmount
		detach_from_terminal();
	if (write(d->report_fd, &r, sizeof(r)) != sizeof(r))
		msg_warn("nobody waits for the mount of %s to start", d->device);
	close(d->report_fd);
	d->report_fd = -1;
}

static void log_mount(const struct daemon *d)
{
	bool chosen = d->opts->engine != NULL && d->vol->alloc != NULL;

	msg_info("mounted %s on %s%s%s%s%s%s", d->device, d->mountpoint, d->vol->read_only ? ", read-only" : "",
	         d->over_uring ? ", over io_uring" : "", chosen ? ", allocator " : "", chosen ? d->opts->engine->name : "",
	         d->vol->recovered ? ", recovered: it had not been unmounted" : "");
}

// ---- serve, end ----

static void serve(struct daemon *d)
{
	struct pollfd fds[2] = {
		{ .fd = transport_ended_fd(d->session.transport), .events = POLLIN },
		{ .fd = d->signal_fd, .events = POLLIN },
	};
	int rc;

	while (poll(fds, 2, -1) >= 0 || errno == EINTR) {
		if ((fds[0].revents & POLLIN) != 0)
			return;
		if ((fds[1].revents & POLLIN) == 0 || !asked_to_end(d))
			continue;
		rc = mount_take_off(d->mountpoint, d->mount_dev);
		if (rc == 0)
			continue; // now the session ends
		msg_warn("%s is in use (%s): its users lose access to it", d->mountpoint, strerror(-rc));
		return;
	}
}

// In reverse of start(), from wherever that has got to. The first error, if any.
static int stop(struct daemon *d)
{
	int rc = transport_destroy(d->session.transport), err;

	if (d->mounted)
		fuse_session_unmount(d->session.se); // does nothing if the kernel has let go of it already
	if (d->session.se != NULL)
		fuse_session_destroy(d->session.se);
	checker_destroy(d->session.checker);
	if (d->session.fs != NULL)
		fs_destroy_context(d->session.fs);
	if (d->vol != NULL) {
		err = volume_close(d->vol);
		rc = rc != 0 ? rc : err;
	}
	bdev_close(d->dev);
	return rc;
}

static void log_unmount(struct daemon *d, int rc)
{
	if (rc == 0) {
		msg_info("unmounted %s", d->device);
		return;
	}
	msg_error("%s was not closed cleanly: %s. The volume is at its last commit; check it with fsck.hybridfs", d->device,
	          strerror(-rc));
	d->exit_code = MOUNT_SYSTEM;
}

static enum mount_exit live(const struct options *opts, int report_fd)
{
	struct daemon d = { .opts = opts, .report_fd = report_fd, .signal_fd = -1 };
	bool started;
	int rc;

	d.session.writeback = opts->writeback;
	d.session.want_acl = !opts->noacl;
	started = start(&d) == MOUNT_OK && !opts->fake;
	if (started)
		log_mount(&d);
	if (started || opts->fake)
		report_start(&d);
	if (started)
		serve(&d);
	rc = stop(&d);
	if (started)
		log_unmount(&d, rc);
	else if (!opts->fake)
		report_start(&d); // after everything is closed: the caller may try again at once
	if (d.signal_fd >= 0)
		close(d.signal_fd);
	free(d.device);
	free(d.mountpoint);
	return d.exit_code;
}

// ---- the parent ----

static enum mount_exit wait_for_report(int fd, pid_t child)
{
	struct report r;
	ssize_t n;

	do {
		n = read(fd, &r, sizeof(r));
	} while (n < 0 && errno == EINTR);
	if (n != sizeof(r)) { // it died without a word
		waitpid(child, NULL, 0);
		r = (struct report){ .exit_code = MOUNT_INTERNAL, .text = "the daemon ended before it was ready: see the system log" };
	}
	say(&r);
	return (enum mount_exit)r.exit_code;
}

enum mount_exit daemon_run(const struct options *opts)
{
	enum mount_exit code;
	int fds[2];
	pid_t child;

	if (opts->foreground)
		return live(opts, -1);
	if (pipe2(fds, O_CLOEXEC) < 0 || (child = fork()) < 0) {
		fprintf(stderr, "hybridfs: the daemon cannot be started: %s\n", strerror(errno));
		return MOUNT_SYSTEM;
	}
	if (child == 0) {
		close(fds[0]);
		return live(opts, fds[1]);
	}
	close(fds[1]);
	code = wait_for_report(fds[0], child);
	close(fds[0]);
	return code;
}
