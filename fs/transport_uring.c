// SPDX-License-Identifier: MIT
// Requests over io_uring: see transport_uring.h for what is an entry, a queue and a lane.
#include "fs/transport_uring.h"

#include <errno.h>
#include <liburing.h>
#include <linux/fuse.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/keeper.h"
#include "fs/transport_internal.h"
#include "util/blk.h"
#include "util/log.h"

#define FIRST_LANES 2u // of a CPU: one that works, one that is free meanwhile
#define HEAD_BYTES 4096u // in front of the payload: the header and, at its end, room for the head of a request
#define ENTRY_BYTES (HEAD_BYTES + TRANSPORT_MAX_WRITE)
#define TURN_NS 100000u // of CPU time in one piece
#define NOT_PINNED (-1)

struct queue {
	atomic_int n_free;        // entries that are the kernel's
	atomic_bool growing;      // a lane is about to be added
	unsigned n_lanes;         // under the lock of struct uring
};

struct entry {
	enum entry_state state;
	uint16_t queue;
	char *memory; // ENTRY_BYTES: struct uring_header …, payload
	struct iovec iov[2]; // as it was registered
};

struct lane {
	struct seat seat; // first: a seat of ours is a lane
	struct uring *u;
	struct lane *next;
	pthread_t thread;
	bool first; // one that exists before the kernel knows of any
	int cpu;    // or NOT_PINNED
	struct io_uring ring;
	struct entry *current; // the request that is being processed
	unsigned n_entries, n_gone;
	struct entry entries[];
};

struct uring {
	struct transport *t;
	unsigned n_queues; // possible CPUs
	struct queue *queues;
	cpu_set_t ours; // CPUs on which we may run
	struct keepers keepers;

	pthread_mutex_t lock;
	pthread_cond_t cv; // something below has changed
	// under lock:
	struct lane *lanes;
	unsigned n_first;      // the first lanes
	unsigned n_ready;      // of these: have tried to set up …
	unsigned n_registered; // … and to register
	int err;               // the first of either
	bool started, closed;
};

static struct uring_header *header_of(const struct entry *e) { return (struct uring_header *)e->memory; }
static char *payload_of(const struct entry *e) { return e->memory + HEAD_BYTES; }

// ---- replies ----

// A seat's reply(): into the memory of the entry. It goes to the kernel when the request is done.
static ssize_t lane_reply(struct seat *s, const struct iovec *iov, int n_iov)
{
	struct entry *e = ((struct lane *)s)->current;
	struct uring_header *h = header_of(e);
	struct fuse_out_header out;
	size_t used = 0;

	memcpy(&out, iov[0].iov_base, sizeof(out));
	for (int i = 1; i < n_iov; i++) {
		if (iov[i].iov_len > TRANSPORT_MAX_WRITE - used) {
			msg_error("a reply of more than %u bytes", TRANSPORT_MAX_WRITE);
			out.error = -EIO;
			used = 0;
			break;
		}
		if (iov[i].iov_base != payload_of(e) + used) // else it is there already: transport_read_room()
			memmove(payload_of(e) + used, iov[i].iov_base, iov[i].iov_len);
		used += iov[i].iov_len;
	}
	memcpy(h->in_out, &out, sizeof(out));
	h->payload_bytes = (uint32_t)used;
	e->state = ENTRY_ANSWERED;
	return (ssize_t)(sizeof(out) + used);
}

// libfuse says something to every request that comes this way. Should it not, its sender must not wait for ever.
static void answer_unanswered(struct lane *l, uint64_t unique)
{
	struct fuse_out_header out = { .len = sizeof(out), .error = -EIO, .unique = unique };

	msg_error("a request without a reply");
	l->seat.reply(&l->seat, &(struct iovec){ &out, sizeof(out) }, 1);
}

// ---- commands ----

// There is place in the ring for one command for each entry, and one more.
static struct io_uring_sqe *new_command(struct lane *l, uint32_t op, uint16_t queue, uint64_t commit_id)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&l->ring);
	struct uring_cmd cmd = { .commit_id = commit_id, .queue = queue };

	VERIFY(sqe != NULL);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->flags = IOSQE_FIXED_FILE; // file 0: /dev/fuse
	sqe->cmd_op = op;
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	return sqe;
}

static void hand_over(struct lane *l, struct entry *e, struct io_uring_sqe *sqe)
{
	sqe->user_data = (uintptr_t)e;
	e->state = ENTRY_KERNELS;
	atomic_fetch_add(&l->u->queues[e->queue].n_free, 1);
}

static void register_entry(struct lane *l, struct entry *e)
{
	struct io_uring_sqe *sqe = new_command(l, URING_REGISTER, e->queue, 0);

	sqe->addr = (uintptr_t)e->iov;
	sqe->len = ARRAY_LEN(e->iov);
	hand_over(l, e, sqe);
}

static void commit(struct lane *l, struct entry *e)
{
	hand_over(l, e, new_command(l, URING_COMMIT_AND_FETCH, e->queue, header_of(e)->commit_id));
}

// ---- requests ----

static void add_lane(struct uring *u, uint16_t queue);

// libfuse wants a request in one piece. Its payload lies where it shall; what comes before is put in front of it.
static void process(struct lane *l, struct entry *e)
{
	struct uring_header *h = header_of(e);
	struct fuse_in_header in;
	size_t op_bytes;
	char *req;

	memcpy(&in, h->in_out, sizeof(in));
	op_bytes = in.len - sizeof(in) - h->payload_bytes;
	l->current = e;
	if (in.len >= sizeof(in) && h->payload_bytes <= TRANSPORT_MAX_WRITE && op_bytes <= URING_OP_IN_BYTES) {
		req = payload_of(e) - op_bytes - sizeof(in);
		memcpy(req, &in, sizeof(in));
		memcpy(req + sizeof(in), h->op_in, op_bytes);
		l->seat.room = payload_of(e);
		transport_process(l->u->t, &l->seat, req, in.len);
	}
	if (e->state != ENTRY_ANSWERED)
		answer_unanswered(l, in.unique);
}

static void take(struct lane *l, struct entry *e)
{
	struct queue *q = &l->u->queues[e->queue];

	e->state = ENTRY_AT_WORK;
	keepers_note(&l->u->keepers, e->queue);
	if (atomic_fetch_sub(&q->n_free, 1) == 1 && !atomic_exchange(&q->growing, true)) // U2
		add_lane(l->u, e->queue);
	process(l, e);
	commit(l, e);
}

// U5, U6
static void lose(struct lane *l, struct entry *e, int err)
{
	atomic_fetch_sub(&l->u->queues[e->queue].n_free, 1);
	e->state = ENTRY_GONE;
	l->n_gone++;
	if (err != -ENOTCONN && err != -ECONNABORTED && err != -ECANCELED) // these: the session has ended
		msg_warn("an entry of the io_uring of CPU %u is lost: %s", e->queue, strerror(-err));
}

static void handle(struct lane *l, struct io_uring_cqe *cqe)
{
	struct entry *e = io_uring_cqe_get_data(cqe);
	int res = cqe->res;

	io_uring_cqe_seen(&l->ring, cqe);
	if (e == NULL)
		return; // of refuse_rings()
	if (res == 0)
		take(l, e);
	else
		lose(l, e, res);
}

static bool leaving(const struct lane *l) { return atomic_load(&l->u->t->stopping) || l->n_gone == l->n_entries; }

// Two system calls, because in one it was slower by a tenth: the client gets its reply before we look for work.
static int submit_and_wait(struct lane *l, struct io_uring_cqe **cqe)
{
	int rc = 0;

	if (io_uring_sq_ready(&l->ring) > 0)
		rc = io_uring_submit(&l->ring);
	if (rc >= 0)
		rc = io_uring_wait_cqe(&l->ring, cqe);
	return rc;
}

static void serve(struct lane *l)
{
	struct io_uring_cqe *cqe;
	int rc;

	while (!leaving(l)) {
		rc = submit_and_wait(l, &cqe);
		if (rc == 0) {
			handle(l, cqe);
		} else if (rc != -EINTR && rc != -EAGAIN && rc != -EBUSY) { // these: once more
			transport_end_session(l->u->t, rc);
			return;
		}
	}
}

// ---- a lane's start ----

static void pin(struct lane *l)
{
	cpu_set_t set;

	if (l->cpu == NOT_PINNED)
		return;
	CPU_ZERO(&set);
	CPU_SET(l->cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		msg_debug("a thread cannot be pinned to CPU %d: %s", l->cpu, strerror(errno));
}

// As in linux/sched/types.h, which cannot be included beside sched.h.
struct turn_attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime_ns, deadline_ns, period_ns;
};

// A thread that asks for short turns gets no more time, but gets it sooner when others run (Linux 6.12; ignored before). With fifteen
// other programs on two CPUs, overwrite + fsync 834/s instead of 482 (medians of 40).
static void ask_for_short_turns(void)
{
	struct turn_attr attr;

	if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) < 0 || attr.policy != SCHED_OTHER)
		return;
	attr.runtime_ns = TURN_NS;
	if (syscall(SYS_sched_setattr, 0, &attr, 0) < 0)
		msg_debug("the length of a turn: %s", strerror(errno));
}

static int map_entry(struct entry *e)
{
	char *memory = mmap(NULL, ENTRY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return -errno;
	e->memory = memory;
	e->iov[0] = (struct iovec){ memory, sizeof(struct uring_header) };
	e->iov[1] = (struct iovec){ memory + HEAD_BYTES, TRANSPORT_MAX_WRITE };
	return 0;
}

// U4. It also makes the kernel allocate what a command needs, so that registering does not fail for want of memory.
static int try_ring(struct lane *l)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&l->ring);
	struct io_uring_cqe *cqe;
	int rc;

	VERIFY(sqe != NULL);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_NOP;
	rc = io_uring_submit(&l->ring);
	while (rc >= 0 && (rc = io_uring_wait_cqe(&l->ring, &cqe)) == -EINTR)
		;
	if (rc < 0)
		return rc;
	rc = cqe->res;
	io_uring_cqe_seen(&l->ring, cqe);
	return rc;
}

// By its thread: the ring belongs to whoever has made it.
static int set_up(struct lane *l)
{
	struct io_uring_params params = { .flags = IORING_SETUP_SQE128 };
	int rc = 0;

	pin(l);
	ask_for_short_turns();
	transport_take_seat(l->u->t, &l->seat);
	for (unsigned i = 0; i < l->n_entries && rc == 0; i++)
		rc = map_entry(&l->entries[i]);
	if (rc == 0)
		rc = io_uring_queue_init_params(l->n_entries + 1, &l->ring, &params);
	if (rc != 0) {
		l->ring.ring_fd = -1;
		return rc;
	}
	rc = io_uring_ring_dontfork(&l->ring); // a forked process would keep the ring, and with it the session, alive
	if (rc >= 0)
		rc = io_uring_register_files(&l->ring, &l->u->t->fd, 1);
	return rc < 0 ? rc : try_ring(l);
}

// The kernel refuses at once, or keeps the command until there is a request.
static int register_all(struct lane *l)
{
	struct io_uring_cqe *cqe;
	int rc, err = 0;

	for (unsigned i = 0; i < l->n_entries; i++)
		register_entry(l, &l->entries[i]);
	do
		rc = io_uring_submit(&l->ring);
	while (io_uring_sq_ready(&l->ring) > 0 && (rc >= 0 || rc == -EINTR || rc == -EAGAIN));
	if (rc < 0)
		return rc;
	while (l->n_gone < l->n_entries && io_uring_peek_cqe(&l->ring, &cqe) == 0 && cqe->res < 0) {
		err = cqe->res;
		handle(l, cqe);
	}
	return err;
}

// ---- a lane's life ----

// Of the first lanes: what they have to tell before the next step.
static void report(struct uring *u, unsigned *n, int err)
{
	pthread_mutex_lock(&u->lock);
	(*n)++;
	if (u->err == 0)
		u->err = err;
	pthread_cond_broadcast(&u->cv);
	pthread_mutex_unlock(&u->lock);
}

// Whether there is a session to serve.
static bool wait_for_start(struct uring *u)
{
	bool go;

	pthread_mutex_lock(&u->lock);
	while (!u->started && !u->closed)
		pthread_cond_wait(&u->cv, &u->lock);
	go = u->started && !u->closed;
	pthread_mutex_unlock(&u->lock);
	return go;
}

// U5. Should one of us not even have got as far as asking, the kernel would hold all requests back, waiting for it. A registration that
// it must refuse makes it go back to /dev/fuse.
static void refuse_rings(struct lane *l)
{
	new_command(l, URING_REGISTER, UINT16_MAX, 0); // no CPU has this number
	if (io_uring_submit(&l->ring) < 0)
		transport_end_session(l->u->t, -EIO);
}

// Whether the rings are in use. Waits until all of the first lanes have registered, which none of them does for longer than a system call.
static bool all_registered(struct uring *u)
{
	bool good;

	pthread_mutex_lock(&u->lock);
	while (u->n_registered < u->n_first && !u->closed)
		pthread_cond_wait(&u->cv, &u->lock);
	good = u->err == 0 && !u->closed;
	pthread_mutex_unlock(&u->lock);
	return good;
}

static void first_lane(struct lane *l)
{
	struct uring *u = l->u;
	int rc = set_up(l);

	report(u, &u->n_ready, rc);
	if (rc != 0 || !wait_for_start(u))
		return;
	report(u, &u->n_registered, register_all(l));
	if (all_registered(u))
		transport_rings_serve(u->t);
	else
		refuse_rings(l);
	serve(l); // also then: no request comes, but leaving is only for the end
}

// U2
static void later_lane(struct lane *l)
{
	int rc = set_up(l);

	if (rc == 0)
		rc = register_all(l);
	if (rc != 0) { // not tried again: it would fail for each request
		msg_debug("CPU %u gets no further thread: %s", l->entries[0].queue, strerror(-rc));
		return;
	}
	atomic_store(&l->u->queues[l->entries[0].queue].growing, false);
	serve(l);
}

static void *lane_main(void *arg)
{
	struct lane *l = arg;

	if (l->first)
		first_lane(l);
	else
		later_lane(l);
	if (l->ring.ring_fd >= 0) {
		io_uring_submit(&l->ring); // the last reply
		io_uring_queue_exit(&l->ring);
	}
	return NULL;
}

static struct lane *new_lane(struct uring *u, unsigned n_entries, int cpu)
{
	struct lane *l = calloc(1, sizeof(*l) + n_entries * sizeof(l->entries[0]));

	if (l == NULL)
		return NULL;
	l->u = u;
	l->seat.reply = lane_reply;
	l->cpu = cpu;
	l->ring.ring_fd = -1;
	l->n_entries = n_entries;
	return l;
}

static void free_lane(struct lane *l)
{
	for (unsigned i = 0; i < l->n_entries; i++)
		if (l->entries[i].memory != NULL)
			munmap(l->entries[i].memory, ENTRY_BYTES);
	free(l);
}

// Lock held. Takes the lane over, also when it fails.
static int start_lane(struct uring *u, struct lane *l)
{
	int rc = l == NULL ? -ENOMEM : -pthread_create(&l->thread, NULL, lane_main, l);

	if (rc != 0) {
		if (l != NULL)
			free_lane(l);
		return rc;
	}
	l->next = u->lanes;
	u->lanes = l;
	for (unsigned i = 0; i < l->n_entries; i++)
		u->queues[l->entries[i].queue].n_lanes++;
	return 0;
}

// U2. On failure `growing` stays, and nobody tries again.
static void add_lane(struct uring *u, uint16_t queue)
{
	struct lane *l;

	pthread_mutex_lock(&u->lock);
	if (!u->closed && u->queues[queue].n_lanes < u->t->opts.max_threads) {
		l = new_lane(u, 1, NOT_PINNED);
		if (l != NULL)
			l->entries[0].queue = queue;
		if (start_lane(u, l) != 0)
			msg_debug("CPU %u gets no further thread", queue);
	}
	pthread_mutex_unlock(&u->lock);
}

// ---- the first lanes ----

// The kernel numbers its queues as it numbers CPUs, and waits until each possible one is there: a wrong number would not do.
static int count_possible_cpus(unsigned *n, struct errmsg *why)
{
	FILE *file = fopen("/sys/devices/system/cpu/possible", "re");
	unsigned first = 1, last = 0;
	int found = 0;
	char rest = '\0';

	if (file != NULL) {
		found = fscanf(file, "%u-%u%c", &first, &last, &rest);
		fclose(file);
	}
	if (found < 1 || first != 0 || (found >= 2 && rest == ',') || last >= CPU_SETSIZE) {
		errmsg_set(why, "the number of possible CPUs is not to be had");
		return -EOPNOTSUPP;
	}
	*n = last + 1;
	return 0;
}

static int start_first_lane(struct uring *u, struct lane *l)
{
	int rc;

	if (l != NULL)
		l->first = true;
	rc = start_lane(u, l);
	if (rc == 0)
		u->n_first++;
	return rc;
}

// U3: one entry for the queue of each CPU that is not ours.
static int start_common_lane(struct uring *u)
{
	unsigned n = u->n_queues - (unsigned)CPU_COUNT(&u->ours);
	struct lane *l;

	if (n == 0)
		return 0;
	l = new_lane(u, n, NOT_PINNED);
	for (unsigned cpu = 0; l != NULL && cpu < u->n_queues; cpu++)
		if (!CPU_ISSET(cpu, &u->ours))
			l->entries[--n].queue = (uint16_t)cpu;
	return start_first_lane(u, l);
}

// Lock held. Those that were started run, whatever is answered.
static int start_first_lanes(struct uring *u)
{
	int rc = start_common_lane(u);

	for (unsigned cpu = 0; cpu < u->n_queues && rc == 0; cpu++) {
		for (unsigned i = 0; i < FIRST_LANES && CPU_ISSET(cpu, &u->ours) && rc == 0; i++) {
			struct lane *l = new_lane(u, 1, (int)cpu);

			if (l != NULL)
				l->entries[0].queue = (uint16_t)cpu;
			rc = start_first_lane(u, l);
		}
	}
	return rc;
}

// ---- life ----

static void uring_stop(void *self)
{
	struct uring *u = self;

	pthread_mutex_lock(&u->lock);
	u->closed = true;
	pthread_cond_broadcast(&u->cv);
	pthread_mutex_unlock(&u->lock);
}

static void uring_join(void *self)
{
	for (struct lane *l = ((struct uring *)self)->lanes; l != NULL; l = l->next)
		transport_join(l->thread);
}

static void uring_destroy(void *self)
{
	struct uring *u = self;
	struct lane *next;

	for (struct lane *l = u->lanes; l != NULL; l = next) {
		next = l->next;
		free_lane(l);
	}
	keepers_end(&u->keepers);
	pthread_cond_destroy(&u->cv);
	pthread_mutex_destroy(&u->lock);
	free(u->queues);
	free(u);
}

static int set_up_lanes(struct uring *u, struct errmsg *why)
{
	int rc = keepers_start(&u->keepers, &u->ours, u->n_queues, u->t->opts.poll_us); // before anybody notes a request

	if (rc != 0)
		return rc;
	pthread_mutex_lock(&u->lock);
	rc = start_first_lanes(u);
	while (u->n_ready < u->n_first)
		pthread_cond_wait(&u->cv, &u->lock);
	if (rc == 0)
		rc = u->err;
	pthread_mutex_unlock(&u->lock);
	if (rc != 0)
		errmsg_set(why, "setting it up: %s", strerror(-rc));
	return rc;
}

static int uring_create(struct transport *t, void **self, struct errmsg *why)
{
	struct uring *u = calloc(1, sizeof(*u));
	int rc;

	if (u == NULL)
		return -ENOMEM;
	u->t = t;
	pthread_mutex_init(&u->lock, NULL);
	pthread_cond_init(&u->cv, NULL);
	rc = count_possible_cpus(&u->n_queues, why);
	if (rc == 0 && sched_getaffinity(0, sizeof(u->ours), &u->ours) < 0)
		rc = -errno;
	if (rc == 0)
		u->queues = calloc(u->n_queues, sizeof(u->queues[0]));
	if (u->queues == NULL) {
		u->n_queues = 0;
		rc = rc != 0 ? rc : -ENOMEM;
	}
	if (rc == 0)
		rc = set_up_lanes(u, why);
	if (rc != 0) {
		uring_stop(u);
		uring_join(u);
		uring_destroy(u);
		return rc;
	}
	*self = u;
	return 0;
}

static int uring_start(void *self)
{
	struct uring *u = self;

	pthread_mutex_lock(&u->lock);
	u->started = true;
	pthread_cond_broadcast(&u->cv);
	pthread_mutex_unlock(&u->lock);
	return 0;
}

static bool uring_serving(void *self, struct errmsg *why)
{
	struct uring *u = self;
	int err;

	if (all_registered(u))
		return true;
	pthread_mutex_lock(&u->lock);
	err = u->err;
	pthread_mutex_unlock(&u->lock);
	if (err != 0) // else it was stopped, and whoever did that knows why
		errmsg_set(why, "registering with the kernel: %s", strerror(-err));
	return false;
}

const struct transport_ops transport_uring_ops = {
	.create = uring_create,
	.start = uring_start,
	.serving = uring_serving,
	.stop = uring_stop,
	.join = uring_join,
	.destroy = uring_destroy,
};
