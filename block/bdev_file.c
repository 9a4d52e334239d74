// SPDX-License-Identifier: MIT
// Image files and block devices: everything that a file descriptor can be asked for.
//
// Through the page cache, not O_DIRECT: images lie on filesystems of every kind, and the daemon's requests come in any
// alignment of memory. What B1 needs is that fdatasync(2) ends with the device's own cache flushed, and it does.
//
// Locks. An image is locked by flock(2), which belongs to the open file description: it ends with the process that
// holds it, however that ends, and two opens in one process exclude each other as well. A block device is opened with
// O_EXCL, which is what the kernel's own mounts, swap, MD and device mapper respect, and flock'ed, which is what
// udev respects (it does not probe a device that somebody formats) and what names the holder in /proc/locks. Of a loop
// device the image behind it is locked too.
//
// Flushes of one device go one after another. The kernel tells a write-back error to one fdatasync(2) of an open file
// description only; of two in parallel the second would answer 0 for lost data. Who waited for a flush that began
// after his own call shares its result.
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "block/bdev.h"
#include "block/holder.h"
#include "util/blk.h"

#define IOV_WINDOW 64       // iovecs in one system call
#define ZEROS_BYTES (1u << 20)
#define RETRY_INTERVAL_MS 20
// udev locks a block device for as long as it probes it, which is right after anybody has written to it.
#define UDEV_PATIENCE_MS 2000

struct bdev_file {
	struct bdev dev;
	int fd;
	int backing_fd; // a loop device's image, for its lock only; or -1
	atomic_uint_fast64_t flushes_begun;
	pthread_mutex_t flush_lock;
	// under flush_lock:
	uint64_t flush_done; // number of the last flush that succeeded, in the count of flushes_begun
	int flush_err;       // of the first that failed; none is tried after it
};

static struct bdev_file *file_of(struct bdev *dev) { return (struct bdev_file *)dev; }

// ---- input and output ----

// Copies to win what is left of iov after its first `skip` bytes, as far as it fits.
static int iov_rest(const struct iovec *iov, int n_iov, uint64_t skip, struct iovec win[IOV_WINDOW])
{
	int n = 0;

	for (int i = 0; i < n_iov && n < IOV_WINDOW; i++) {
		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		win[n++] = (struct iovec){ (char *)iov[i].iov_base + skip, iov[i].iov_len - skip };
		skip = 0;
	}
	return n;
}

typedef ssize_t (*transfer_fn)(int fd, const struct iovec *iov, int n_iov, off_t off_bytes);

static int transfer_all(struct bdev *dev, transfer_fn transfer, const struct iovec *iov, int n_iov, uint64_t off_bytes)
{
	struct iovec win[IOV_WINDOW];
	uint64_t done = 0;
	ssize_t n;
	int n_win;

	while ((n_win = iov_rest(iov, n_iov, done, win)) > 0) {
		n = transfer(file_of(dev)->fd, win, n_win, (off_t)(off_bytes + done));
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return -EIO; // inside the size that we opened: somebody has cut the image under us
		if (n > 0)
			done += (uint64_t)n;
	}
	return 0;
}

static int file_readv(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes)
{
	return transfer_all(dev, preadv, iov, n_iov, off_bytes);
}

static int file_writev(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes)
{
	return transfer_all(dev, pwritev, iov, n_iov, off_bytes);
}

static int sync_fd(int fd)
{
	int rc;

	do {
		rc = fdatasync(fd);
	} while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : 0;
}

static int file_flush(struct bdev *dev)
{
	struct bdev_file *f = file_of(dev);
	uint64_t begun_before = atomic_load(&f->flushes_begun), mine;
	int rc;

	pthread_mutex_lock(&f->flush_lock);
	rc = f->flush_err;
	if (rc == 0 && f->flush_done <= begun_before) {
		mine = atomic_fetch_add(&f->flushes_begun, 1) + 1;
		rc = sync_fd(f->fd);
		if (rc == 0)
			f->flush_done = mine;
		else
			f->flush_err = rc;
	}
	pthread_mutex_unlock(&f->flush_lock);
	return rc;
}

static int file_discard(struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes)
{
	int rc;

	do {
		rc = fallocate(file_of(dev)->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off_bytes,
		               (off_t)len_bytes);
	} while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : 0;
}

static bool write_zeros(int fd, uint64_t off_bytes, uint64_t end_bytes)
{
	static const char zeros[ZEROS_BYTES];
	ssize_t n = 1;

	while (off_bytes < end_bytes && (n > 0 || (n < 0 && errno == EINTR))) {
		n = pwrite(fd, zeros, min_u64(end_bytes - off_bytes, ZEROS_BYTES), (off_t)off_bytes);
		off_bytes += n > 0 ? (uint64_t)n : 0;
	}
	return off_bytes >= end_bytes;
}

// What was preallocated but never written counts as a hole, too.
static void file_fill_holes(struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes)
{
	uint64_t end = off_bytes + len_bytes;
	int fd = file_of(dev)->fd;
	off_t hole = (off_t)off_bytes, data;

	while ((hole = lseek(fd, hole, SEEK_HOLE)) >= 0 && (uint64_t)hole < end) {
		data = lseek(fd, hole, SEEK_DATA);
		if (data < 0 || (uint64_t)data > end)
			data = (off_t)end;
		if (!write_zeros(fd, (uint64_t)hole, (uint64_t)data))
			return;
		hole = data;
	}
}

static int blkdev_discard(struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes)
{
	uint64_t range[2] = { off_bytes, len_bytes };

	return ioctl(file_of(dev)->fd, BLKDISCARD, range) < 0 ? -errno : 0;
}

static void file_close(struct bdev *dev)
{
	struct bdev_file *f = file_of(dev);

	close(f->fd);
	if (f->backing_fd >= 0)
		close(f->backing_fd);
	pthread_mutex_destroy(&f->flush_lock);
	free(f);
}

static const struct bdev_ops file_ops = {
	.kind = "file",
	.readv = file_readv,
	.writev = file_writev,
	.flush = file_flush,
	.discard = file_discard,
	.fill_holes = file_fill_holes,
	.close = file_close,
};

static const struct bdev_ops blkdev_ops = {
	.kind = "block device",
	.readv = file_readv,
	.writev = file_writev,
	.flush = file_flush,
	.discard = blkdev_discard,
	.close = file_close,
};

// ---- opening ----

// One attempt to get hold of a path.
struct opening {
	const char *path;
	unsigned flags;
	uint64_t deadline_ms; // CLOCK_MONOTONIC
	struct errmsg *why;
	struct stat st;
	int fd; // -1 before open_medium()
	int backing_fd; // of a loop device: its image, locked as well; or -1
	bool read_only;
};

static bool is_blkdev(const struct opening *o) { return S_ISBLK(o->st.st_mode); }
static bool wants_lock(const struct opening *o) { return (o->flags & BDEV_NO_LOCK) == 0; }

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

// Somebody else has it: sleeps a little and returns true if trying again makes sense. One that is mounted stays.
static bool keep_waiting(const struct opening *o)
{
	static const struct timespec pause = { .tv_nsec = RETRY_INTERVAL_MS * 1000000L };
	char mount_point[2];

	if (now_ms() >= o->deadline_ms || holder_mount_point(o->path, &o->st, mount_point, sizeof(mount_point)))
		return false;
	nanosleep(&pause, NULL);
	return true;
}

static int say_busy(const struct opening *o)
{
	char mount_point[256], program[HOLDER_PROGRAM_LEN], who[HOLDER_PROGRAM_LEN + 32] = "";
	bool mounted = holder_mount_point(o->path, &o->st, mount_point, sizeof(mount_point));
	pid_t pid;

	if (holder_process(&o->st, &pid, program)) {
		if (program[0] != '\0')
			snprintf(who, sizeof(who), "%s (pid %ld)", program, (long)pid);
		else
			snprintf(who, sizeof(who), "process %ld", (long)pid);
	}
	if (mounted && who[0] != '\0')
		errmsg_set(o->why, "%s is mounted on %s by %s: unmount it first", o->path, mount_point, who);
	else if (mounted)
		errmsg_set(o->why, "%s is mounted on %s: unmount it first", o->path, mount_point);
	else if (who[0] != '\0')
		errmsg_set(o->why, "%s is in use by %s: wait until it ends, or end it", o->path, who);
	else if (is_blkdev(o))
		errmsg_set(o->why, "%s is in use: a mount, swap space, RAID, LVM or another program holds it", o->path);
	else
		errmsg_set(o->why, "%s is in use: another program holds a lock on it", o->path);
	return -EBUSY;
}

static const char *kind_of_file(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR:
		return "a directory";
	case S_IFCHR:
		return "a character device";
	case S_IFIFO:
		return "a pipe";
	case S_IFSOCK:
		return "a socket";
	default:
		return "something else";
	}
}

static int check_kind(const struct opening *o)
{
	if (S_ISREG(o->st.st_mode) || S_ISBLK(o->st.st_mode))
		return 0;
	errmsg_set(o->why, "%s is %s: a volume lives in a block device or in an image file", o->path,
	           kind_of_file(o->st.st_mode));
	return S_ISDIR(o->st.st_mode) ? -EISDIR : -ENOTBLK;
}

// Looks before it opens: opening a pipe or a tape can hang or have effects.
static int look(struct opening *o)
{
	int rc;

	if (stat(o->path, &o->st) == 0)
		return check_kind(o);
	rc = -errno;
	errmsg_set(o->why, "%s: %s", o->path, strerror(-rc));
	return rc;
}

static bool means_read_only(int err) { return err == EROFS || err == EACCES || err == EPERM; }

static int open_medium(struct opening *o)
{
	int mode = (o->flags & BDEV_READ_ONLY) != 0 ? O_RDONLY : O_RDWR;
	int more = O_CLOEXEC | (is_blkdev(o) && wants_lock(o) ? O_EXCL : 0);
	int rc;

	while ((o->fd = open(o->path, mode | more)) < 0) {
		rc = -errno;
		if (rc == -EINTR)
			continue;
		if (mode == O_RDWR && means_read_only(-rc)) {
			mode = O_RDONLY;
			continue;
		}
		if (rc == -EBUSY && is_blkdev(o)) {
			if (keep_waiting(o))
				continue;
			return say_busy(o);
		}
		errmsg_set(o->why, "%s cannot be opened: %s", o->path, strerror(-rc));
		return rc;
	}
	o->read_only = mode == O_RDONLY;
	if (fstat(o->fd, &o->st) < 0)
		return -errno;
	return check_kind(o); // of what was opened, should the name mean something else by now
}

// A write-protected device can be opened for writing; only the writes fail.
static void ask_read_only_switch(struct opening *o)
{
	int read_only = 0;

	if (is_blkdev(o) && ioctl(o->fd, BLKROGET, &read_only) == 0 && read_only != 0)
		o->read_only = true;
}

static int lock_medium(struct opening *o)
{
	int op = (o->read_only ? LOCK_SH : LOCK_EX) | LOCK_NB;
	int err;

	if (!wants_lock(o))
		return 0;
	// We have O_EXCL already: who holds only a flock on it is passing by.
	if (is_blkdev(o) && o->deadline_ms < now_ms() + UDEV_PATIENCE_MS)
		o->deadline_ms = now_ms() + UDEV_PATIENCE_MS;
	while (flock(o->fd, op) < 0) {
		err = errno;
		if (err == EINTR)
			continue;
		if (err != EWOULDBLOCK) {
			errmsg_set(o->why, "%s cannot be locked (%s), and without a lock two programs could write to it",
			           o->path, strerror(err));
			return -err;
		}
		if (!keep_waiting(o))
			return say_busy(o);
	}
	return 0;
}

// The image behind a loop device; false if there is none.
static bool loop_image(const struct stat *st, char path[PATH_MAX])
{
	char attr[96];
	bool found;
	FILE *f;

	snprintf(attr, sizeof(attr), "/sys/dev/block/%u:%u/loop/backing_file", major(st->st_rdev), minor(st->st_rdev));
	f = fopen(attr, "re");
	if (f == NULL)
		return false;
	found = fgets(path, PATH_MAX, f) != NULL;
	fclose(f);
	if (found)
		path[strcspn(path, "\n")] = '\0';
	return found;
}

// A loop device and its image are two doors to the same blocks: whoever has one holds the lock of the other too. An image that
// cannot be opened from here (deleted, in another namespace) cannot be opened as a volume from here either.
static int lock_loop_image(struct opening *o)
{
	char path[PATH_MAX];
	struct opening image = { .path = path, .flags = o->flags, .deadline_ms = o->deadline_ms, .why = o->why,
	                         .read_only = o->read_only };
	int rc;

	if (!is_blkdev(o) || !wants_lock(o) || !loop_image(&o->st, path))
		return 0;
	image.fd = open(path, O_RDONLY | O_CLOEXEC);
	if (image.fd < 0)
		return 0;
	rc = fstat(image.fd, &image.st) == 0 && S_ISREG(image.st.st_mode) ? lock_medium(&image) : 0;
	if (rc == 0)
		o->backing_fd = image.fd;
	else
		close(image.fd);
	return rc;
}

static int open_and_lock(struct opening *o)
{
	int rc = look(o);

	if (rc == 0)
		rc = open_medium(o);
	if (rc == 0) {
		ask_read_only_switch(o);
		rc = lock_medium(o);
	}
	return rc == 0 ? lock_loop_image(o) : rc;
}

static void close_opening(struct opening *o)
{
	if (o->fd >= 0)
		close(o->fd);
	if (o->backing_fd >= 0)
		close(o->backing_fd);
}

// After locking: until then the size could change.
static int measure(const struct opening *o, uint64_t *size_bytes)
{
	struct stat st;
	int rc = 0;

	if (is_blkdev(o)) {
		if (ioctl(o->fd, BLKGETSIZE64, size_bytes) < 0)
			rc = -errno;
	} else if (fstat(o->fd, &st) < 0) {
		rc = -errno;
	} else {
		*size_bytes = (uint64_t)st.st_size;
	}
	if (rc != 0)
		errmsg_set(o->why, "the size of %s cannot be read: %s", o->path, strerror(-rc));
	return rc;
}

// A partition has its queue in the folder of the whole disk, one above its own.
static bool blkdev_discards(const struct stat *st)
{
	static const char *const queue[] = { "queue", "../queue" };
	unsigned long long max_bytes = 0;
	char path[128];
	FILE *f;

	for (size_t i = 0; i < ARRAY_LEN(queue) && max_bytes == 0; i++) {
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/discard_max_bytes", major(st->st_rdev),
		         minor(st->st_rdev), queue[i]);
		f = fopen(path, "re");
		if (f == NULL)
			continue;
		if (fscanf(f, "%llu", &max_bytes) != 1)
			max_bytes = 0;
		fclose(f);
	}
	return max_bytes > 0;
}

// Asks by punching a hole behind the end of the image, where there is nothing to lose.
static bool can_discard(const struct opening *o, uint64_t size_bytes)
{
	if (o->read_only)
		return false;
	if (is_blkdev(o))
		return blkdev_discards(&o->st);
	return fallocate(o->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	                 (off_t)blk_to_bytes(bytes_to_blk_up(size_bytes)), BLK_SIZE) == 0;
}

// Takes over o->fd when it succeeds.
static int make_bdev(struct opening *o, struct bdev **out)
{
	struct bdev_file *f = calloc(1, sizeof(*f));
	uint64_t size_bytes;
	int rc = -ENOMEM;

	if (f == NULL || (f->dev.name = strdup(o->path)) == NULL) {
		errmsg_set(o->why, "%s: %s", o->path, strerror(ENOMEM));
		goto out;
	}
	rc = measure(o, &size_bytes);
	if (rc != 0)
		goto out;
	f->dev.ops = is_blkdev(o) ? &blkdev_ops : &file_ops;
	f->dev.size_bytes = blk_to_bytes(bytes_to_blk_down(size_bytes));
	f->dev.read_only = o->read_only;
	f->dev.can_discard = can_discard(o, size_bytes);
	// Large reads come in order and in pieces of at most a megabyte: the host shall read further ahead than its usual 128 KiB. It
	// does not for reads that jump about.
	(void)posix_fadvise(o->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	f->fd = o->fd;
	f->backing_fd = o->backing_fd;
	pthread_mutex_init(&f->flush_lock, NULL);
	*out = &f->dev;
	o->fd = o->backing_fd = -1;
	f = NULL;
out:
	if (f != NULL)
		free(f->dev.name);
	free(f);
	return rc;
}

int bdev_open_file(const char *path, unsigned flags, unsigned wait_ms, struct bdev **out, struct errmsg *why)
{
	struct opening o = { .path = path, .flags = flags, .deadline_ms = now_ms() + wait_ms, .why = why, .fd = -1, .backing_fd = -1 };
	int rc = open_and_lock(&o);

	if (rc == 0)
		rc = make_bdev(&o, out);
	close_opening(&o);
	return rc;
}

// ---- creating ----

// Without this the name of a new image may be gone after a crash, with all that was fsync'ed in it.
static int sync_parent(const char *path)
{
	char *copy = strdup(path);
	int fd = -1, rc = 0;

	if (copy == NULL)
		return -ENOMEM;
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	// A directory that may be written but not read cannot be synced by us; some filesystems do not know how.
	if (fd < 0 ? errno != EACCES : fsync(fd) < 0 && errno != EINVAL)
		rc = -errno;
	if (fd >= 0)
		close(fd);
	free(copy);
	return rc;
}

// Private to its owner: the permissions of the files inside protect nothing in an image that anybody can read.
static int create_empty(const char *path, bool replace, bool *created, struct errmsg *why)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int rc = fd < 0 ? -errno : 0;

	*created = fd >= 0;
	if (fd >= 0)
		close(fd);
	if (rc == -EEXIST && replace)
		return 0;
	if (rc == -EEXIST)
		errmsg_set(why, "%s exists already", path);
	else if (rc != 0)
		errmsg_set(why, "%s cannot be created: %s", path, strerror(-rc));
	return rc;
}

// Cutting it to nothing makes an old image sparse again, and all zeros; before that it is asked whether the host
// filesystem takes files of the new size at all.
static int set_size(const struct opening *o, uint64_t size_bytes)
{
	int rc = 0;

	if (is_blkdev(o)) {
		errmsg_set(o->why, "%s is a block device: its size cannot be chosen", o->path);
		return -ENOTSUP;
	}
	if (o->read_only) {
		errmsg_set(o->why, "%s cannot be replaced: it may only be read", o->path);
		return -EROFS;
	}
	if (ftruncate(o->fd, (off_t)size_bytes) < 0 || ftruncate(o->fd, 0) < 0 ||
	    ftruncate(o->fd, (off_t)size_bytes) < 0)
		rc = -errno;
	if (rc == 0)
		rc = sync_fd(o->fd);
	if (rc == 0)
		rc = sync_parent(o->path);
	if (rc != 0)
		errmsg_set(o->why, "%s cannot be made %llu bytes long: %s%s", o->path, (unsigned long long)size_bytes,
		           strerror(-rc), rc == -EFBIG ? ": the filesystem that holds it has no such large files" : "");
	return rc;
}

int bdev_create_file(const char *path, uint64_t size_bytes, bool replace, struct bdev **out, struct errmsg *why)
{
	struct opening o = { .path = path, .why = why, .fd = -1, .backing_fd = -1 };
	bool created = false;
	int rc;

	size_bytes = blk_to_bytes(bytes_to_blk_down(size_bytes));
	if (size_bytes == 0 || size_bytes > INT64_MAX) {
		errmsg_set(why, "%s: an image has between %u and 2^63 bytes", path, BLK_SIZE);
		return -EINVAL;
	}
	rc = create_empty(path, replace, &created, why);
	if (rc != 0)
		return rc;
	rc = open_and_lock(&o); // before the first change: somebody may be using the old one
	if (rc == 0) {
		rc = set_size(&o, size_bytes);
		if (rc == 0)
			rc = make_bdev(&o, out);
		if (rc != 0 && created)
			unlink(path);
	}
	close_opening(&o);
	return rc;
}
