// SPDX-License-Identifier: MIT
// Backing devices: who may have one open beside whom, by processes of their own; and block devices (on a loop device, as root).
#include <fcntl.h>
#include <linux/loop.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>

#include "bdevtest.h"
#include "run_suite.h"

// ---- locks ----

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

START_TEST(writer_excludes_everybody)
{
	struct bdev *dev = new_image(), *other = NULL;

	ck_assert_int_eq(bdev_open_file(image, 0, 0, &other, NULL), -EBUSY);
	ck_assert_int_eq(bdev_open_file(image, BDEV_READ_ONLY, 0, &other, NULL), -EBUSY);
	other = open_image(BDEV_READ_ONLY | BDEV_NO_LOCK); // just looking
	ck_assert(other->read_only);
	bdev_close(other);
	ck_assert_int_eq(bdev_open_file(image, 0, 0, &other, NULL), -EBUSY); // the look has not broken the lock
	bdev_close(dev);
	bdev_close(open_image(0));
}
END_TEST

START_TEST(readers_share)
{
	struct bdev *one, *two, *writer;

	bdev_close(new_image());
	one = open_image(BDEV_READ_ONLY);
	two = open_image(BDEV_READ_ONLY);
	ck_assert_int_eq(bdev_open_file(image, 0, 0, &writer, NULL), -EBUSY);
	bdev_close(one);
	ck_assert_int_eq(bdev_open_file(image, 0, 0, &writer, NULL), -EBUSY);
	bdev_close(two);
	bdev_close(open_image(0));
}
END_TEST

// A process that holds the path for hold_ms, or until killed; returns when it has it.
static pid_t hold_in_child(const char *path, unsigned hold_ms)
{
	int ready[2];
	char byte;
	pid_t pid;

	ck_assert_int_eq(pipe(ready), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct bdev *dev;

		if (bdev_open_file(path, 0, 0, &dev, NULL) != 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		usleep(hold_ms * 1000);
		bdev_close(dev);
		_exit(0);
	}
	close(ready[1]);
	ck_assert_int_eq(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void end_child(pid_t pid)
{
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

START_TEST(busy_names_the_holder)
{
	char pid_text[32];
	struct errmsg why;
	struct bdev *dev;
	uint64_t before;
	pid_t pid;

	bdev_close(new_image());
	pid = hold_in_child(image, 60000);
	snprintf(pid_text, sizeof(pid_text), "(pid %ld)", (long)pid);
	before = now_ms();
	ck_assert_int_eq(bdev_open_file(image, 0, 300, &dev, &why), -EBUSY);
	ck_assert_uint_ge(now_ms() - before, 300); // waited as long as it was told
	expect_contains(&why, image);
	expect_contains(&why, "check_bdev_lock");
	expect_contains(&why, pid_text);
	end_child(pid);
	bdev_close(open_image(0)); // the lock ended with its holder, however that ended
}
END_TEST

START_TEST(busy_waits_for_the_holder_to_go)
{
	struct errmsg why = { "" };
	struct bdev *dev;
	pid_t pid;
	int rc;

	bdev_close(new_image());
	pid = hold_in_child(image, 300);
	rc = bdev_open_file(image, 0, 20000, &dev, &why);
	ck_assert_msg(rc == 0, "%s", why.text);
	bdev_close(dev);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}
END_TEST

// Any filesystem type shows its source in /proc; this one lets us choose it.
START_TEST(busy_and_mounted_is_not_waited_for)
{
	char mount_point[PATH_MAX + 8];
	struct errmsg why;
	struct bdev *dev;
	uint64_t before;
	pid_t pid;

	if (skip_unless_root("busy_and_mounted_is_not_waited_for"))
		return;
	bdev_close(new_image());
	private_mounts();
	snprintf(mount_point, sizeof(mount_point), "%s/m\tnt", dir);
	ck_assert_int_eq(mkdir(mount_point, 0700), 0);
	ck_assert_int_eq(mount(image, mount_point, "tmpfs", 0, NULL), 0);
	pid = hold_in_child(image, 60000);
	before = now_ms();
	ck_assert_int_eq(bdev_open_file(image, 0, 20000, &dev, &why), -EBUSY);
	ck_assert_uint_lt(now_ms() - before, 10000);
	expect_contains(&why, "is mounted on");
	expect_contains(&why, mount_point);
	expect_contains(&why, "check_bdev_lock");
	expect_contains(&why, "unmount it first");
	// By another name of the same file as well.
	ck_assert_int_eq(chdir(dir), 0);
	ck_assert_int_eq(bdev_open_file("./disk image", 0, 20000, &dev, &why), -EBUSY);
	expect_contains(&why, mount_point);
	end_child(pid);
	ck_assert_int_eq(umount(mount_point), 0);
	ck_assert_int_eq(rmdir(mount_point), 0);
}
END_TEST

// ---- block devices ----

struct loop {
	int fd; // keeps it attached: it goes by itself with the last user
	char path[32];
};

static bool attach(struct loop *loop, const char *test, bool read_only)
{
	struct loop_config config = { .info.lo_flags = LO_FLAGS_AUTOCLEAR | (read_only ? LO_FLAGS_READ_ONLY : 0) };
	int file = open(image, read_only ? O_RDONLY : O_RDWR), control = open("/dev/loop-control", O_RDWR), n;

	loop->fd = -1;
	for (int i = 0; i < 10 && control >= 0 && loop->fd < 0; i++) { // somebody may be faster
		n = ioctl(control, LOOP_CTL_GET_FREE);
		snprintf(loop->path, sizeof(loop->path), "/dev/loop%d", n);
		loop->fd = open(loop->path, read_only ? O_RDONLY : O_RDWR);
		config.fd = (unsigned)file;
		if (loop->fd >= 0 && ioctl(loop->fd, LOOP_CONFIGURE, &config) < 0) {
			close(loop->fd);
			loop->fd = -1;
		}
	}
	close(file);
	if (control >= 0)
		close(control);
	if (loop->fd < 0)
		fprintf(stderr, "%s: skipped, needs a loop device\n", test);
	return loop->fd >= 0;
}

static struct bdev *open_loop(const struct loop *loop, unsigned flags)
{
	struct bdev *dev;
	struct errmsg why = { "" };
	int rc = bdev_open_file(loop->path, flags, 5000, &dev, &why);

	ck_assert_msg(rc == 0, "%s", why.text);
	return dev;
}

START_TEST(block_device_works)
{
	struct loop loop;
	struct bdev *dev;
	struct errmsg why;
	uint8_t buf[4096] = { 5 }, back[4096];

	bdev_close(new_image());
	if (!attach(&loop, "block_device_works", false))
		return;
	dev = open_loop(&loop, 0);
	ck_assert_str_eq(dev->ops->kind, "block device");
	ck_assert_uint_eq(dev->size_bytes, DEV_BYTES);
	ck_assert(!dev->read_only);
	ck_assert_int_eq(bdev_write(dev, buf, 4096, 4096), 0);
	ck_assert_int_eq(bdev_flush(dev), 0);
	ck_assert_int_eq(bdev_read(dev, back, 4096, 4096), 0);
	ck_assert_mem_eq(back, buf, 4096);
	ck_assert_int_eq(bdev_discard(dev, 8192, 65536), dev->can_discard ? 0 : -EOPNOTSUPP);
	ck_assert_int_eq(bdev_read(dev, back, 4096, 4096), 0);
	ck_assert_mem_eq(back, buf, 4096);
	bdev_close(dev);
	ck_assert_int_eq(bdev_create_file(loop.path, DEV_BYTES, true, &dev, &why), -ENOTSUP);
	expect_contains(&why, "block device");
	close(loop.fd);
}
END_TEST

START_TEST(block_device_write_protected)
{
	struct loop loop;

	bdev_close(new_image());
	if (!attach(&loop, "block_device_write_protected", true))
		return;
	expect_read_only(open_loop(&loop, 0));
	close(loop.fd);
}
END_TEST

START_TEST(loop_device_and_its_image_exclude_each_other)
{
	struct bdev *by_loop, *by_file;
	struct errmsg why;
	struct loop loop;

	bdev_close(new_image());
	if (!attach(&loop, "loop_device_and_its_image_exclude_each_other", false))
		return;
	by_loop = open_loop(&loop, 0);
	ck_assert_int_eq(bdev_open_file(image, 0, 0, &by_file, &why), -EBUSY);
	expect_contains(&why, "check_bdev_lock");
	bdev_close(by_loop);
	ck_assert_int_eq(bdev_open_file(image, 0, 0, &by_file, &why), 0);
	ck_assert_int_eq(bdev_open_file(loop.path, 0, 0, &by_loop, &why), -EBUSY);
	expect_contains(&why, "check_bdev_lock");
	bdev_close(by_file);
	bdev_close(open_loop(&loop, 0));
	close(loop.fd);
}
END_TEST

START_TEST(block_device_busy_names_the_holder)
{
	struct loop loop;
	struct bdev *dev;
	struct errmsg why;
	pid_t pid;

	bdev_close(new_image());
	if (!attach(&loop, "block_device_busy_names_the_holder", false))
		return;
	pid = hold_in_child(loop.path, 60000);
	ck_assert_int_eq(bdev_open_file(loop.path, 0, 100, &dev, &why), -EBUSY);
	expect_contains(&why, loop.path);
	expect_contains(&why, "check_bdev_lock");
	dev = open_loop(&loop, BDEV_READ_ONLY | BDEV_NO_LOCK);
	bdev_close(dev);
	end_child(pid);
	pid = hold_in_child(loop.path, 300);
	bdev_close(open_loop(&loop, 0)); // waits
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	close(loop.fd);
}
END_TEST

// What udev does to a device that was just written: a shared lock for a moment, without O_EXCL.
START_TEST(block_device_probed_by_udev_is_waited_for)
{
	struct loop loop;
	struct bdev *dev;
	struct errmsg why = { "" };
	pid_t pid;
	int rc;

	bdev_close(new_image());
	if (!attach(&loop, "block_device_probed_by_udev_is_waited_for", false))
		return;
	ck_assert_int_eq(flock(loop.fd, LOCK_SH), 0);
	pid = fork();
	if (pid == 0) {
		usleep(300000);
		flock(loop.fd, LOCK_UN);
		_exit(0);
	}
	rc = bdev_open_file(loop.path, 0, 0, &dev, &why);
	ck_assert_msg(rc == 0, "%s", why.text);
	bdev_close(dev);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	close(loop.fd);
}
END_TEST

START_TEST(block_device_mounted_by_the_kernel)
{
	char command[PATH_MAX + 32];
	struct loop loop;
	struct bdev *dev;
	struct errmsg why;
	uint64_t before;

	if (skip_unless_root("block_device_mounted_by_the_kernel"))
		return;
	bdev_close(new_image());
	snprintf(command, sizeof(command), "mke2fs -q -F '%s' >/dev/null 2>&1", image);
	if (system(command) != 0) {
		fprintf(stderr, "block_device_mounted_by_the_kernel: skipped, needs mke2fs\n");
		return;
	}
	if (!attach(&loop, "block_device_mounted_by_the_kernel", false))
		return;
	private_mounts();
	if (mount(loop.path, dir, "ext2", 0, NULL) == 0 || mount(loop.path, dir, "ext4", 0, NULL) == 0) {
		before = now_ms();
		ck_assert_int_eq(bdev_open_file(loop.path, 0, 20000, &dev, &why), -EBUSY);
		ck_assert_uint_lt(now_ms() - before, 10000);
		expect_contains(&why, "is mounted on");
		expect_contains(&why, dir);
		ck_assert_int_eq(umount(dir), 0);
	} else {
		fprintf(stderr, "block_device_mounted_by_the_kernel: skipped, the kernel has no ext2\n");
	}
	close(loop.fd);
}
END_TEST

static Suite *bdev_lock_suite(void)
{
	Suite *s = suite_create("bdev_lock");
	TCase *lock = tcase_create("lock"), *block = tcase_create("block");

	tcase_add_checked_fixture(lock, make_dir, remove_dir);
	tcase_set_timeout(lock, 60);
	tcase_add_test(lock, writer_excludes_everybody);
	tcase_add_test(lock, readers_share);
	tcase_add_test(lock, busy_names_the_holder);
	tcase_add_test(lock, busy_waits_for_the_holder_to_go);
	tcase_add_test(lock, busy_and_mounted_is_not_waited_for);
	suite_add_tcase(s, lock);

	tcase_add_checked_fixture(block, make_dir, remove_dir);
	tcase_set_timeout(block, 60);
	tcase_add_test(block, block_device_works);
	tcase_add_test(block, block_device_write_protected);
	tcase_add_test(block, loop_device_and_its_image_exclude_each_other);
	tcase_add_test(block, block_device_busy_names_the_holder);
	tcase_add_test(block, block_device_probed_by_udev_is_waited_for);
	tcase_add_test(block, block_device_mounted_by_the_kernel);
	suite_add_tcase(s, block);
	return s;
}

int main(void) { return run_suite(bdev_lock_suite()); }
