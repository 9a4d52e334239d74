// SPDX-License-Identifier: MIT
// Phase 1: the copies of the superblock, before anything else is believed.
//
// A copy of an older generation is what a crash between two writes of a superblock leaves: no damage, and refreshed on
// the way. When the first copy is not even ours, something else may have been written to the device; if libblkid
// recognises it, repairing would destroy that, and needs -f.
#include <blkid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fsck/fsck.h"
#include "util/log.h"

// The type of another filesystem that libblkid sees on the device; false if there is none.
static bool other_filesystem(const char *device, char *type, size_t cap)
{
	blkid_probe pr = blkid_new_probe_from_filename(device);
	const char *value = NULL;
	bool found;

	if (pr == NULL)
		return false;
	found = blkid_do_safeprobe(pr) == 0 && blkid_probe_lookup_value(pr, "TYPE", &value, NULL) == 0;
	if (found)
		snprintf(type, cap, "%s", value);
	blkid_free_probe(pr);
	return found;
}

static int check_overwritten(struct fsck *f, const struct sb_scan *scan)
{
	char type[64];

	if (!scan->no_magic[0] || f->force || !other_filesystem(f->device, type, sizeof(type)))
		return 0;
	errmsg_set(&f->why, "%s: a filesystem of type %s was written over the start of the HybridFS volume: use -f to "
	           "destroy it and repair the volume", f->device, type);
	return -EBUSY;
}

int phase_superblock(struct fsck *f)
{
	struct sb_scan scan;
	int err = sb_read(f->dev, &f->sb, &scan, &f->why);

	if (err == 0)
		err = check_overwritten(f, &scan);
	if (err != 0)
		return err;
	if (!fsck_report_copies(f, &scan) || f->give_up)
		return 0;
	err = sb_write(f->dev, &f->sb);
	if (err != 0)
		errmsg_set(&f->why, "%s: the superblock cannot be written: %s", f->device, strerror(-err));
	return err;
}
