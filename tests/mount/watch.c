// SPDX-License-Identifier: MIT
// Runs a command and prints what inotify says of a folder meanwhile: a line for each event, its kinds and the name. Events of one process come
// in the order of its system calls, and are there when these return: so nothing has to be waited for.
//
//     watch FOLDER COMMAND [argument…]
//
// Exit status: that of the command, or 2.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct {
	unsigned bit;
	const char *name;
} kinds[] = {
	{ IN_ACCESS, "access" }, { IN_ATTRIB, "attrib" }, { IN_CLOSE_WRITE, "close_write" }, { IN_CLOSE_NOWRITE, "close" },
	{ IN_CREATE, "create" }, { IN_DELETE, "delete" }, { IN_DELETE_SELF, "delete_self" }, { IN_MODIFY, "modify" },
	{ IN_MOVE_SELF, "move_self" }, { IN_MOVED_FROM, "moved_from" }, { IN_MOVED_TO, "moved_to" }, { IN_OPEN, "open" },
	{ IN_Q_OVERFLOW, "overflow" }, { IN_UNMOUNT, "unmount" }, { IN_IGNORED, "ignored" }, { IN_ISDIR, "dir" },
};

static int complain(const char *what)
{
	fprintf(stderr, "watch: %s: %s\n", what, strerror(errno));
	return 2;
}

static void print_event(const struct inotify_event *e)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (e->mask & kinds[i].bit)
			printf("%s ", kinds[i].name);
	}
	printf("%s\n", e->len > 0 ? e->name : ".");
}

static int print_events(int fd)
{
	char buf[65536] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		const struct inotify_event *e;

		for (char *at = buf; at < buf + n; at += sizeof(*e) + e->len) {
			e = (const struct inotify_event *)at;
			print_event(e);
		}
	}
	return n < 0 && errno != EAGAIN ? complain("reading events") : 0;
}

int main(int argc, char **argv)
{
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC), status;
	pid_t child;

	if (argc < 3 || fd < 0 || inotify_add_watch(fd, argv[1], IN_ALL_EVENTS) < 0)
		return complain(argc < 3 ? "usage: watch FOLDER COMMAND" : argv[1]);
	child = fork();
	if (child == 0) {
		execvp(argv[2], argv + 2);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return complain(argv[2]);
	if (print_events(fd) != 0)
		return 2;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 2;
}
