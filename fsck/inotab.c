// SPDX-License-Identifier: MIT
#include "fsck/inotab.h"

#include <errno.h>
#include <stdlib.h>

#include "util/array.h"

int inotab_add(struct inotab *tab, const struct ino_info *info)
{
	struct ino_info *more;

	ASSERT(tab->n == 0 || tab->v[tab->n - 1].ino < info->ino);
	more = array_more(tab->v, tab->n, &tab->cap, sizeof(*more));
	if (more == NULL)
		return -ENOMEM;
	tab->v = more;
	tab->v[tab->n++] = *info;
	return 0;
}

int dirtab_add(struct dirtab *tab, const struct dir_info *info)
{
	struct dir_info *more;

	ASSERT(tab->n == 0 || tab->v[tab->n - 1].ino < info->ino);
	more = array_more(tab->v, tab->n, &tab->cap, sizeof(*more));
	if (more == NULL)
		return -ENOMEM;
	tab->v = more;
	tab->v[tab->n++] = *info;
	return 0;
}

static int compare_ino(const void *key, const void *elem)
{
	uint64_t want = *(const uint64_t *)key, have = *(const uint64_t *)elem; // ino is the first member of both

	return (want > have) - (want < have);
}

struct ino_info *inotab_find(const struct inotab *tab, uint64_t ino)
{
	// Numbers are mostly dense: the place is at most ino - first, and often exactly there.
	if (tab->n > 0 && ino >= tab->v[0].ino && ino - tab->v[0].ino < tab->n && tab->v[ino - tab->v[0].ino].ino == ino)
		return &tab->v[ino - tab->v[0].ino];
	return tab->n == 0 ? NULL : bsearch(&ino, tab->v, tab->n, sizeof(tab->v[0]), compare_ino);
}

struct dir_info *dirtab_find(const struct dirtab *tab, uint64_t ino)
{
	return tab->n == 0 ? NULL : bsearch(&ino, tab->v, tab->n, sizeof(tab->v[0]), compare_ino);
}

void inotab_free(struct inotab *tab)
{
	free(tab->v);
	*tab = (struct inotab){ 0 };
}

void dirtab_free(struct dirtab *tab)
{
	free(tab->v);
	*tab = (struct dirtab){ 0 };
}
