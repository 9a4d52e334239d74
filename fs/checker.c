// SPDX-License-Identifier: MIT
#include "fs/checker.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "fs/fs_internal.h"
#include "fsck/online.h"
#include "util/log.h"

#define FILES_BATCH 1024u   // of one snapshot: that much log may pile up behind it
#define DEVICE_SHARE 2u     // a scrub reads during 1/DEVICE_SHARE of the time at most
#define NICE 5
#define LOOK_AGAIN_NS 20000000ull
#define NS_PER_S 1000000000ull
#define MIB (1ull << 20)

struct job {
	uint64_t id; // 0: there is none
	enum control_state state;
	unsigned flags;
	uint64_t rate_mib;
	bool stop;
	uint64_t asked_ns; // when STATUS came last
	uint64_t cur, max;
	unsigned pass, n_passes;
	char what[16];
	unsigned exit_status;
	char error[512];
	size_t text_at, text_len; // in text: a ring
};

struct checker {
	struct fs *fs;
	pthread_mutex_t lock; // everything below but the thread's own; a leaf
	pthread_cond_t wake;  // text was fetched, or the job shall end
	struct job job;
	char *text;           // CHECKER_TEXT_BYTES, while there is a job
	bool has_thread;      // to be joined
	pthread_t thread;
	// The thread's:
	struct online *online;
	FILE *out;
	struct damage_list damage;
	uint64_t read_blk, skipped_files;
	uint64_t due_ns;      // when the next piece of the scrub may be read
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

// ---- what the thread asks and tells ----

// Lock held.
static bool shall_stop(struct checker *c)
{
	struct job *job = &c->job;

	if (!job->stop && now_ns() - job->asked_ns > CONTROL_LEASE_S * NS_PER_S) {
		msg_info("%s: nobody waits for the check any more", c->fs->vol->dev->name);
		job->stop = true;
	}
	return job->stop;
}

static bool stop_wanted(void *ctx)
{
	struct checker *c = ctx;
	bool stop;

	pthread_mutex_lock(&c->lock);
	stop = shall_stop(c);
	pthread_mutex_unlock(&c->lock);
	return stop;
}

// Lock held. Until the time, or until something happens; a second at most, because the lease ends by itself.
static void wait_locked(struct checker *c, uint64_t until_ns)
{
	struct timespec until;

	until_ns = min_u64(until_ns, now_ns() + NS_PER_S);
	until = (struct timespec){ .tv_sec = (time_t)(until_ns / NS_PER_S), .tv_nsec = (long)(until_ns % NS_PER_S) };
	pthread_cond_timedwait(&c->wake, &c->lock, &until);
}

// Lock held. As much as there is room for.
static size_t put_some(struct checker *c, const char *text, size_t len)
{
	struct job *job = &c->job;
	size_t end = (job->text_at + job->text_len) % CHECKER_TEXT_BYTES;
	size_t n = min_u64(len, min_u64(CHECKER_TEXT_BYTES - job->text_len, CHECKER_TEXT_BYTES - end));

	memcpy(c->text + end, text, n);
	job->text_len += n;
	return n;
}

// The report's stream. What nobody fetches before the end is lost, and so is what must not be waited for: perhaps whoever fetches it waits
// for a commit, which waits for the snapshot.
static ssize_t write_text(void *cookie, const char *text, size_t len)
{
	struct checker *c = cookie;
	size_t done = 0;

	pthread_mutex_lock(&c->lock);
	while (done < len) {
		done += put_some(c, text + done, len - done);
		if (done < len && c->job.text_len == CHECKER_TEXT_BYTES) {
			if (shall_stop(c) || online_is_revoked(c->online))
				break;
			wait_locked(c, now_ns() + LOOK_AGAIN_NS);
		}
	}
	pthread_mutex_unlock(&c->lock);
	return (ssize_t)len;
}

static void show(struct checker *c, unsigned pass, unsigned n_passes, const char *what, uint64_t cur, uint64_t max)
{
	struct job *job = &c->job;

	pthread_mutex_lock(&c->lock);
	job->pass = pass;
	job->n_passes = n_passes;
	snprintf(job->what, sizeof(job->what), "%s", what);
	job->cur = cur;
	job->max = max;
	pthread_mutex_unlock(&c->lock);
}

static void show_progress(void *ctx, const struct progress *p, uint64_t cur)
{
	show(ctx, p->pass, p->n_passes, p->what, cur, p->max);
}

// ---- the scrub ----

static int note_damage(void *ctx, uint64_t ino, uint64_t off_blk)
{
	return damage_add(&((struct checker *)ctx)->damage, ino, off_blk, 1);
}

// A token bucket of one piece: the next piece may come when this one is paid for.
static void keep_pace(struct checker *c, uint64_t begin_ns, uint64_t read_blk)
{
	uint64_t end_ns = now_ns(), rate_ns = blk_to_bytes(read_blk) * NS_PER_S / (c->job.rate_mib * MIB);

	c->due_ns = max_u64(c->due_ns, begin_ns) + rate_ns;
	c->due_ns = max_u64(c->due_ns, end_ns + (end_ns - begin_ns) * (DEVICE_SHARE - 1));
	pthread_mutex_lock(&c->lock);
	while (!shall_stop(c) && now_ns() < c->due_ns)
		wait_locked(c, c->due_ns);
	pthread_mutex_unlock(&c->lock);
}

// As far as the file reaches now: somebody may go on appending to it faster than this reads.
static int scrub_file(struct checker *c, struct fs_verify *v, uint64_t ino)
{
	const struct progress *p = &c->online->f.progress;
	uint64_t at_blk = 0, end_blk;
	struct stat st;
	int more = fs_getattr(c->fs, ino, &st);

	if (more == -ENOENT)
		return 0; // deleted meanwhile
	end_blk = more == 0 ? bytes_to_blk_up((uint64_t)st.st_size) : 0;
	do {
		uint64_t begin_ns = now_ns();

		more = fs_verify(c->fs, ino, &at_blk, v);
		c->skipped_files += more >= 0 && v->skipped;
		c->read_blk += v->read_blk;
		if (v->read_blk == 0)
			continue;
		show(c, p->n_passes, p->n_passes, "scrub", c->read_blk, c->online->f.summed_blk);
		keep_pace(c, begin_ns, v->read_blk);
	} while (more > 0 && at_blk < end_blk && !online_stopping(c->online));
	if (more != -EUCLEAN)
		return more < 0 ? more : 0;
	fs_note_result(c->fs, more);
	c->online->f.n_left++;
	problem_note(&c->online->f, "inode %llu cannot be scrubbed: what is known of its blocks is damaged", (unsigned long long)ino);
	return 0;
}

// Files that are made from now on have higher numbers, and are left out: otherwise it might never end.
static int scrub_files(struct checker *c, struct fs_verify *v)
{
	uint64_t end_ino = atomic_load(&c->fs->vol->next_ino);
	uint64_t *inos = calloc(FILES_BATCH, sizeof(*inos)), last = 0;
	unsigned n = 0;
	int r = inos != NULL ? 0 : -ENOMEM;

	do {
		if (r == 0)
			r = online_next_files(c->online, last, inos, FILES_BATCH, &n);
		for (unsigned i = 0; r == 0 && i < n && last < end_ino && !online_stopping(c->online); i++) {
			r = scrub_file(c, v, inos[i]);
			last = inos[i];
		}
	} while (r == 0 && n > 0 && last < end_ino && !online_stopping(c->online));
	free(inos);
	return r;
}

static int run_scrub(struct checker *c)
{
	struct fs_verify v = { .buf = aligned_alloc(BLK_SIZE, blk_to_bytes(FS_VERIFY_BLK)), .damaged = note_damage, .ctx = c };
	int r = v.buf != NULL ? scrub_files(c, &v) : -ENOMEM;

	free(v.buf);
	if (r == 0 && !online_stopping(c->online))
		r = online_report_damage(c->online, &c->damage, c->read_blk, c->skipped_files);
	damage_free(&c->damage);
	return r;
}

// ---- the thread ----

static int run_job(struct checker *c)
{
	struct online *o = c->online;
	int r;

	o->live = c->fs->vol;
	o->stop = stop_wanted;
	o->ctx = c;
	o->f.out = c->out;
	o->f.verbose = (c->job.flags & CONTROL_VERBOSE) != 0; // constant while the job runs
	o->f.progress = (struct progress){ .kind = PROGRESS_CALL, .call = show_progress, .ctx = c };
	r = fs_sync(c->fs); // so that what was done before is seen
	if (r != 0)
		msg_debug("online check: it sees the last commit only: %s", strerrordesc_np(-r));
	r = online_check(o);
	if (o->f.n_left > 0)
		volume_note_damage(c->fs->vol); // the next fsck -p looks at everything
	if (r == 0 && (c->job.flags & CONTROL_SCRUB) != 0 && !o->f.db_damaged && !online_stopping(o))
		r = run_scrub(c);
	if (r == 0 && !o->f.db_damaged && !online_stopping(o))
		fsck_print_summary(&o->f, false);
	return r == -EINTR && o->stopped != 0 ? 0 : r;
}

static void finish(struct checker *c, int r)
{
	struct fsck *f = &c->online->f;
	const char *why = f->why.text[0] != '\0' ? f->why.text : strerrordesc_np(-r);
	unsigned status = (unsigned)fsck_exit_status(f, r);

	pthread_mutex_lock(&c->lock);
	c->job.exit_status = status;
	snprintf(c->job.error, sizeof(c->job.error), "%s", r != 0 ? why : "");
	c->job.state = CONTROL_DONE;
	pthread_mutex_unlock(&c->lock);
}

static void *checker_main(void *arg)
{
	struct checker *c = arg;
	int r;

	pthread_setname_np(pthread_self(), "hybridfs-check");
	(void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE); // of this thread alone; without the right to it things go on as they are
	r = run_job(c);
	fflush(c->out);
	finish(c, r);
	return NULL;
}

// ---- beginning and ending jobs; lock held ----

static void forget_job(struct checker *c)
{
	if (c->has_thread)
		pthread_join(c->thread, NULL);
	if (c->out != NULL)
		fclose(c->out);
	free(c->online);
	free(c->text);
	c->has_thread = false;
	c->out = NULL;
	c->online = NULL;
	c->text = NULL;
	c->job = (struct job){ 0 };
}

static bool is_busy(const struct checker *c)
{
	bool fetched = c->job.text_len == 0 || now_ns() - c->job.asked_ns > CONTROL_LEASE_S * NS_PER_S;

	return c->job.id != 0 && !(c->job.state == CONTROL_DONE && fetched);
}

static int begin_job(struct checker *c, const struct control_start *req)
{
	static const cookie_io_functions_t io = { .write = write_text };
	int r = 0;

	forget_job(c);
	c->text = malloc(CHECKER_TEXT_BYTES);
	c->online = calloc(1, sizeof(*c->online));
	c->out = fopencookie(c, "w", io);
	if (c->text == NULL || c->online == NULL || c->out == NULL)
		r = -ENOMEM;
	c->job = (struct job){ .id = now_ns(), .asked_ns = now_ns(), .flags = req->flags };
	c->job.rate_mib = req->rate_mib != 0 ? req->rate_mib : CHECKER_RATE_MIB;
	c->read_blk = c->skipped_files = c->due_ns = 0;
	if (r == 0)
		setvbuf(c->out, NULL, _IOLBF, BUFSIZ);
	if (r == 0)
		r = -pthread_create(&c->thread, NULL, checker_main, c);
	c->has_thread = r == 0;
	if (r != 0)
		forget_job(c);
	return r;
}

// ---- the interface ----

int checker_create(struct fs *fs, struct checker **out)
{
	struct checker *c = calloc(1, sizeof(*c));
	pthread_condattr_t attr;

	if (c == NULL)
		return -ENOMEM;
	c->fs = fs;
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->wake, &attr);
	pthread_condattr_destroy(&attr);
	*out = c;
	return 0;
}

void checker_destroy(struct checker *c)
{
	if (c == NULL)
		return;
	pthread_mutex_lock(&c->lock);
	c->job.stop = true;
	pthread_cond_broadcast(&c->wake);
	pthread_mutex_unlock(&c->lock);
	forget_job(c); // nobody else is here any more
	pthread_cond_destroy(&c->wake);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

int checker_start(struct checker *c, struct control_start *req)
{
	int r;

	if (req->version != CONTROL_VERSION || (req->flags & ~(uint32_t)(CONTROL_SCRUB | CONTROL_VERBOSE)) != 0 || req->reserved != 0 ||
	    req->rate_mib > CONTROL_RATE_MAX_MIB)
		return -EINVAL;
	pthread_mutex_lock(&c->lock);
	r = is_busy(c) ? -EBUSY : begin_job(c, req);
	req->job = c->job.id;
	pthread_mutex_unlock(&c->lock);
	return r;
}

static void fetch_text(struct checker *c, struct control_status *st)
{
	struct job *job = &c->job;
	size_t n = min_u64(min_u64(job->text_len, sizeof(st->text)), CHECKER_TEXT_BYTES - job->text_at);

	if (n == 0)
		return;
	memcpy(st->text, c->text + job->text_at, n);
	st->text_len = (uint32_t)n;
	job->text_at = (job->text_at + n) % CHECKER_TEXT_BYTES;
	job->text_len -= n;
	pthread_cond_broadcast(&c->wake);
}

int checker_status(struct checker *c, struct control_status *st)
{
	struct job *job = &c->job;
	uint64_t id = st->job;
	int r = 0;

	if (st->version != CONTROL_VERSION)
		return -EINVAL;
	*st = (struct control_status){ .version = CONTROL_VERSION, .job = id };
	pthread_mutex_lock(&c->lock);
	if (id == 0 || id != job->id) {
		r = -ESRCH;
	} else {
		job->asked_ns = now_ns();
		st->state = job->state;
		st->cur = job->cur;
		st->max = job->max;
		st->pass = job->pass;
		st->n_passes = job->n_passes;
		memcpy(st->what, job->what, sizeof(st->what));
		st->exit_status = job->exit_status;
		memcpy(st->error, job->error, sizeof(st->error));
		fetch_text(c, st);
	}
	pthread_mutex_unlock(&c->lock);
	return r;
}

int checker_stop(struct checker *c, const struct control_stop *req)
{
	int r = 0;

	if (req->version != CONTROL_VERSION || req->reserved != 0)
		return -EINVAL;
	pthread_mutex_lock(&c->lock);
	if (req->job == 0 || req->job != c->job.id)
		r = -ESRCH;
	else
		c->job.stop = true;
	pthread_cond_broadcast(&c->wake);
	pthread_mutex_unlock(&c->lock);
	return r;
}

int checker_ioctl(struct checker *c, uid_t caller, unsigned cmd, const void *in, size_t in_size, union checker_answer *out,
                  size_t *out_size)
{
	struct control_stop stop;

	*out_size = _IOC_DIR(cmd) & _IOC_READ ? _IOC_SIZE(cmd) : 0;
	if (cmd != (unsigned)CONTROL_IOC_START && cmd != (unsigned)CONTROL_IOC_STATUS && cmd != (unsigned)CONTROL_IOC_STOP)
		return -ENOTTY;
	if (caller != 0 && caller != geteuid())
		return -EPERM;
	if (in_size < _IOC_SIZE(cmd))
		return -EINVAL;
	if (cmd == (unsigned)CONTROL_IOC_STOP) {
		memcpy(&stop, in, sizeof(stop));
		return checker_stop(c, &stop);
	}
	memcpy(out, in, _IOC_SIZE(cmd));
	return cmd == (unsigned)CONTROL_IOC_START ? checker_start(c, &out->start) : checker_status(c, &out->status);
}
