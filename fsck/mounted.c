// SPDX-License-Identifier: MIT
// The mount point is opened for each request: a descriptor that stays open would keep the volume from being unmounted meanwhile, by the shutdown
// of the machine for instance. When it is unmounted, the job ends with the daemon, and the next request finds nobody who knows of it.
#include "fsck/mounted.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fsck/control.h"

#define POLL_NS 100000000L

static int request(struct fsck *f, unsigned long number, void *arg)
{
	int fd = open(f->device, O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = 0;

	if (fd < 0)
		return -errno;
	if (ioctl(fd, number, arg) < 0)
		err = -errno;
	close(fd);
	return err;
}

static int start(struct fsck *f, uint32_t rate_mib, uint64_t *job)
{
	struct control_start req = {
		.version = CONTROL_VERSION,
		.flags = (f->scrub ? CONTROL_SCRUB : 0) | (f->verbose ? CONTROL_VERBOSE : 0),
		.rate_mib = rate_mib,
	};
	int err = request(f, CONTROL_IOC_START, &req);

	*job = req.job;
	switch (err) {
	case 0:
		break;
	case -EBUSY:
		errmsg_set(&f->why, "%s: it is being checked already", f->device);
		break;
	case -EPERM:
		errmsg_set(&f->why, "%s: only root, or the user who mounted it, may have it checked", f->device);
		break;
	case -EINVAL:
		errmsg_set(&f->why, "%s: it was mounted by another version of HybridFS", f->device);
		break;
	case -ENOTTY:
	case -ENOTDIR:
		errmsg_set(&f->why, "%s is not the mount point of a HybridFS volume", f->device);
		break;
	default:
		errmsg_set(&f->why, "%s: %s", f->device, strerror(-err));
	}
	return err;
}

static int get_status(struct fsck *f, uint64_t job, struct control_status *st)
{
	int err;

	*st = (struct control_status){ .version = CONTROL_VERSION, .job = job };
	err = request(f, CONTROL_IOC_STATUS, st);
	if (err == -ENOTTY || err == -ESRCH || err == -ENOENT)
		errmsg_set(&f->why, "%s: unmounted before the check was finished", f->device);
	else if (err != 0)
		errmsg_set(&f->why, "%s: %s", f->device, strerror(-err));
	st->what[sizeof(st->what) - 1] = st->error[sizeof(st->error) - 1] = '\0';
	if (st->text_len > sizeof(st->text))
		st->text_len = sizeof(st->text);
	return err;
}

// progress.what points into `shown`.
static void show_progress(struct fsck *f, const struct control_status *st, char shown[sizeof(st->what)])
{
	if (st->n_passes == 0)
		return;
	if (st->pass != f->progress.pass || f->progress.max != (st->max > 0 ? st->max : 1)) {
		memcpy(shown, st->what, sizeof(st->what));
		progress_phase(f, st->pass, st->n_passes, shown);
		progress_range(f, st->max);
	}
	progress_at(f, st->cur);
}

static void pause_between(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = POLL_NS }, NULL); // a signal ends it
}

int mounted_check(struct fsck *f, uint32_t rate_mib, unsigned *status)
{
	struct control_status st;
	char shown[sizeof(st.what)] = "";
	bool stopped = false;
	uint64_t job;
	int err = start(f, rate_mib, &job);

	while (err == 0) {
		if (*f->stop != 0 && !stopped) {
			struct control_stop req = { .version = CONTROL_VERSION, .job = job };

			stopped = true;
			err = request(f, CONTROL_IOC_STOP, &req);
			if (err != 0)
				errmsg_set(&f->why, "%s: %s", f->device, strerror(-err));
			continue;
		}
		err = get_status(f, job, &st);
		if (err != 0)
			break;
		show_progress(f, &st, shown);
		if (st.text_len > 0) {
			progress_hide(f);
			fwrite(st.text, 1, st.text_len, fsck_out(f));
			fflush(fsck_out(f));
			continue;
		}
		if (st.state == CONTROL_DONE)
			break;
		pause_between();
	}
	progress_hide(f);
	if (err != 0)
		return err;
	*status = st.exit_status;
	if (st.error[0] != '\0')
		errmsg_set(&f->why, "%s", st.error);
	return 0;
}
