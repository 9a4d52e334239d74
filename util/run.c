// SPDX-License-Identifier: MIT
#include "util/run.h"

#include <errno.h>
#include <stdlib.h>

int runlist_reserve(struct runlist *list, uint32_t n)
{
	struct run *bigger;
	uint32_t cap = list->cap == 0 ? 8 : list->cap;

	if (list->cap - list->n >= n)
		return 0;
	while (cap - list->n < n)
		cap *= 2;
	bigger = reallocarray(list->runs, cap, sizeof(*bigger));
	if (bigger == NULL)
		return -ENOMEM;
	list->runs = bigger;
	list->cap = cap;
	return 0;
}

static int compare_start(const void *a, const void *b)
{
	const struct run *x = a, *y = b;

	return (x->start_blk > y->start_blk) - (x->start_blk < y->start_blk);
}

void runlist_sort(struct runlist *list)
{
	uint32_t i, kept = 0;

	if (list->n < 2)
		return;
	qsort(list->runs, list->n, sizeof(list->runs[0]), compare_start);
	for (i = 1; i < list->n; i++) {
		struct run *last = &list->runs[kept];

		if (last->start_blk + last->len_blk == list->runs[i].start_blk)
			last->len_blk += list->runs[i].len_blk;
		else
			list->runs[++kept] = list->runs[i];
	}
	list->n = kept + 1;
}

uint64_t runlist_blks(const struct runlist *list)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < list->n; i++)
		sum += list->runs[i].len_blk;
	return sum;
}

void runlist_clear(struct runlist *list) { list->n = 0; }

void runlist_free(struct runlist *list)
{
	free(list->runs);
	*list = (struct runlist){ 0 };
}
