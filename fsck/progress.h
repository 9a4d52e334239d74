// SPDX-License-Identifier: MIT
// How far fsck is (-C): lines "pass current maximum device" for a program such as fsck(8) or systemd-fsckd to read from a
// descriptor, a bar on the terminal, or calls of a function. At most one line a percent. Single-threaded.
#ifndef HYBRIDFS_FSCK_PROGRESS_H
#define HYBRIDFS_FSCK_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct fsck;

enum progress_kind { PROGRESS_OFF, PROGRESS_LINES, PROGRESS_BAR, PROGRESS_CALL };

struct progress {
	enum progress_kind kind;
	int fd;              // of PROGRESS_LINES
	void (*call)(void *ctx, const struct progress *p, uint64_t cur); // of PROGRESS_CALL
	void *ctx;
	unsigned pass, n_passes;
	const char *what;
	uint64_t max;
	int last_percent;    // shown; -1 = none
	bool bar_visible;
};

void progress_phase(struct fsck *f, unsigned pass, unsigned n_passes, const char *what);
void progress_range(struct fsck *f, uint64_t max); // what progress_at() counts up to; resets
void progress_at(struct fsck *f, uint64_t cur);
void progress_hide(struct fsck *f); // before anything else is printed

#endif
