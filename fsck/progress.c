// SPDX-License-Identifier: MIT
#include "fsck/progress.h"

#include <stdio.h>
#include <string.h>

#include "fsck/fsck.h"

#define BAR_COLUMNS 50

static void draw_bar(struct fsck *f, int percent)
{
	int filled = percent * BAR_COLUMNS / 100;
	char bar[BAR_COLUMNS + 1];

	memset(bar, '=', BAR_COLUMNS);
	memset(bar + filled, ' ', (size_t)(BAR_COLUMNS - filled));
	bar[BAR_COLUMNS] = '\0';
	fprintf(fsck_out(f), "\r%s: %u/%u %-12s |%s| %3d%%", f->device, f->progress.pass, f->progress.n_passes, f->progress.what, bar,
	       percent);
	fflush(fsck_out(f));
	f->progress.bar_visible = true;
}

static void show(struct fsck *f, uint64_t cur, int percent)
{
	struct progress *p = &f->progress;

	p->last_percent = percent;
	if (p->kind == PROGRESS_BAR)
		draw_bar(f, percent);
	else if (p->kind == PROGRESS_CALL)
		p->call(p->ctx, p, cur);
	else // a reader that has gone must not end the check
		(void)dprintf(p->fd, "%u %llu %llu %s\n", p->pass, (unsigned long long)cur, (unsigned long long)p->max, f->device);
}

void progress_phase(struct fsck *f, unsigned pass, unsigned n_passes, const char *what)
{
	f->progress.pass = pass;
	f->progress.n_passes = n_passes;
	f->progress.what = what;
	progress_range(f, 1);
	progress_at(f, 0);
}

void progress_range(struct fsck *f, uint64_t max)
{
	f->progress.max = max > 0 ? max : 1;
	f->progress.last_percent = -1;
}

void progress_at(struct fsck *f, uint64_t cur)
{
	struct progress *p = &f->progress;
	int percent;

	if (p->kind == PROGRESS_OFF)
		return;
	if (cur > p->max)
		cur = p->max;
	percent = (int)((double)cur * 100 / (double)p->max);
	if (percent != p->last_percent)
		show(f, cur, percent);
}

void progress_hide(struct fsck *f)
{
	if (!f->progress.bar_visible)
		return;
	fprintf(fsck_out(f), "\r\033[K");
	f->progress.bar_visible = false;
	f->progress.last_percent = -1;
}
