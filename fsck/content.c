// SPDX-License-Identifier: MIT
// What belongs to an inode. F3 of fs.h: a file is inline, or has extents, never both; E1 and E2 of extmap.h: extents do not
// overlap and share no block. Where two rows of a file contradict each other the later one goes: what it claimed reads as zeros then,
// which is worse than the data and better than somebody else's. Blocks that two files claim are copied (shared.c).
#include "fsck/content.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "meta/acl.h"
#include "meta/rows.h"
#include "util/blk.h"

#define EXTENT_UNWRITTEN 1
#define FILE_MAX_BLK ((int64_t)(FILE_MAX_BYTES / BLK_SIZE))

struct content {
	struct fsck *f;
	struct merge *m;
	struct raw_inode *row;
	int64_t blocks_blk; // of all extents that stay
	int64_t end_blk;    // behind the last one
};

static bool has(const struct content *c, enum satellite sat)
{
	return c->m->sat[sat].have && c->m->sat[sat].key == c->row->ino;
}

static uint64_t ino_of(const struct content *c) { return (uint64_t)c->row->ino; }

static int set_flags(struct content *c, int64_t flags)
{
	c->row->flags = flags;
	return SQL(c->f, "UPDATE inode SET flags = ?2 WHERE ino = ?1", c->row->ino, flags);
}

static int set_size(struct content *c, int64_t size)
{
	c->row->size = size;
	return SQL(c->f, "UPDATE inode SET size = ?2 WHERE ino = ?1", c->row->ino, size);
}

// ---- flags and inline data ----

static int check_flags(struct content *c)
{
	int64_t allowed = 0;

	if (S_ISREG(c->row->mode) || S_ISLNK(c->row->mode))
		allowed |= INODE_INLINE;
	if (S_ISREG(c->row->mode) || S_ISDIR(c->row->mode))
		allowed |= INODE_NODATACOW;
	if (!S_ISLNK(c->row->mode))
		allowed |= INODE_ACL_ACCESS;
	if (S_ISDIR(c->row->mode))
		allowed |= INODE_ACL_DEFAULT;
	if ((c->row->flags & ~allowed) == 0)
		return 0;
	if (!PROBLEM(c->f, FP_INODE_FLAGS, .ino = ino_of(c), .is = c->row->flags))
		return 0;
	return set_flags(c, c->row->flags & allowed);
}

static int remove_inline(struct content *c)
{
	if (!PROBLEM(c->f, FP_INLINE_STRAY, .ino = ino_of(c)))
		return 0;
	return SQL(c->f, "DELETE FROM inline WHERE ino = ?1", c->row->ino);
}

static int fix_inline_size(struct content *c, int64_t len)
{
	int err = 0;

	if (!PROBLEM(c->f, FP_INLINE_SIZE, .ino = ino_of(c), .is = len, .should = c->row->size))
		return 0;
	if (len > (int64_t)INLINE_MAX_BYTES) {
		len = INLINE_MAX_BYTES;
		err = SQL(c->f, "UPDATE inline SET data = substr(data, 1, ?2) WHERE ino = ?1", c->row->ino, len);
	}
	return err != 0 ? err : set_size(c, len);
}

static int check_file_inline(struct content *c, bool there, int64_t len)
{
	bool marked = (c->row->flags & INODE_INLINE) != 0;

	if (marked && there)
		return len == c->row->size && len <= (int64_t)INLINE_MAX_BYTES ? 0 : fix_inline_size(c, len);
	if (marked && c->row->size != 0) { // an empty file has no row
		if (!PROBLEM(c->f, FP_INLINE_MISSING, .ino = ino_of(c)))
			return 0;
		return set_flags(c, c->row->flags & ~(int64_t)INODE_INLINE);
	}
	if (marked || !there)
		return 0;
	if (has(c, SAT_EXTENT) || len != c->row->size || len > (int64_t)INLINE_MAX_BYTES)
		return remove_inline(c);
	if (!PROBLEM(c->f, FP_INLINE_UNMARKED, .ino = ino_of(c)))
		return 0;
	return set_flags(c, c->row->flags | INODE_INLINE);
}

static bool target_is_valid(const void *target, int64_t len)
{
	return len >= 1 && len <= (int64_t)SYMLINK_MAX_BYTES && memchr(target, '\0', (size_t)len) == NULL;
}

static int check_symlink(struct content *c, const void *target, int64_t len, bool *removed)
{
	int err = 0;

	if (target == NULL || !target_is_valid(target, len)) {
		*removed = PROBLEM(c->f, FP_SYMLINK_TARGET, .ino = ino_of(c));
		return *removed ? merge_remove_inode(c->f, c->m, ino_of(c)) : 0;
	}
	if ((c->row->flags & INODE_INLINE) == 0 && PROBLEM(c->f, FP_INLINE_UNMARKED, .ino = ino_of(c)))
		err = set_flags(c, c->row->flags | INODE_INLINE);
	if (err == 0 && c->row->size != len &&
	    PROBLEM(c->f, FP_SYMLINK_SIZE, .ino = ino_of(c), .is = c->row->size, .should = len))
		err = set_size(c, len);
	return err;
}

static int check_inline(struct content *c, bool *removed)
{
	bool there = has(c, SAT_INLINE);
	const void *data = there ? sqlite3_column_blob(c->m->sat[SAT_INLINE].stmt, 1) : NULL;
	int64_t len = there ? sqlite3_column_bytes(c->m->sat[SAT_INLINE].stmt, 1) : 0;
	int err = 0;

	if (S_ISLNK(c->row->mode))
		err = check_symlink(c, data, len, removed);
	else if (S_ISREG(c->row->mode))
		err = check_file_inline(c, there, len);
	else if (there)
		err = remove_inline(c);
	return err != 0 || *removed ? err : merge_skip(c->f, &c->m->sat[SAT_INLINE], c->row->ino);
}

// ---- extents ----

struct raw_extent {
	int64_t off, phys, len, flags;
};

static bool in_range(const struct content *c, const struct raw_extent *e)
{
	int64_t n_blks = (int64_t)c->f->sb.n_blks;

	return e->off >= 0 && e->phys >= 0 && e->len > 0 && e->len <= FILE_MAX_BLK && e->off <= FILE_MAX_BLK - e->len &&
	       e->len <= n_blks && e->phys <= n_blks - e->len;
}

static int is_system(void *ctx, uint64_t start_blk, uint64_t len_blk)
{
	(void)ctx, (void)start_blk, (void)len_blk;
	return 1;
}

static bool is_summed(const struct content *c, const struct raw_extent *e)
{
	return (c->row->flags & INODE_NODATACOW) == 0 && (e->flags & EXTENT_UNWRITTEN) == 0;
}

// Claims the blocks of a sound extent. What others have claimed is put on the list of what is to be copied.
static int claim(struct content *c, const struct raw_extent *e)
{
	struct fsck *f = c->f;
	uint64_t start = (uint64_t)e->phys, end = start + (uint64_t)e->len, n, taken = 0;
	struct shared_run item = { .ino = ino_of(c), .unwritten = (e->flags & EXTENT_UNWRITTEN) != 0, .summed = is_summed(c, e) };
	int err = blockmap_claim(&f->owned, start, end - start, &taken);

	if (err == 0)
		return is_summed(c, e) ? blockmap_mark(&f->summed, start, end - start) : 0;
	if (err != -EEXIST)
		return err;
	err = 0;
	if (PROBLEM(f, FP_BLOCKS_SHARED, .ino = item.ino, .off = (uint64_t)e->off, .start = taken)) {
		for (uint64_t at = start; err == 0 && blockmap_next(&f->owned, true, end, &at, &n); at += n) {
			item.off_blk = (uint64_t)e->off + (at - start);
			item.phys_blk = at;
			item.len_blk = n;
			err = shared_add(&f->shared, &item);
		}
	}
	for (uint64_t at = start; err == 0 && is_summed(c, e) && blockmap_next(&f->owned, false, end, &at, &n); at += n)
		err = blockmap_mark(&f->summed, at, n);
	return err != 0 ? err : blockmap_mark(&f->owned, start, end - start);
}

// Whether the extent must go, by the first rule that it breaks.
static void judge_extent(struct content *c, const struct raw_extent *e, bool *bad, bool *remove)
{
	uint64_t ino = ino_of(c), phys = (uint64_t)e->phys, len = (uint64_t)e->len, off = (uint64_t)e->off;
	struct fsck *f = c->f;

	*bad = true;
	if (!in_range(c, e))
		*remove = PROBLEM(f, FP_EXTENT_RANGE, .ino = ino, .is = e->off, .start = phys, .len = len);
	else if (e->off < c->end_blk)
		*remove = PROBLEM(f, FP_EXTENT_OVERLAP, .ino = ino, .off = off);
	else if (sysfiles_mark(&f->vol->files, phys, len, is_system, NULL) != 0)
		*remove = PROBLEM(f, FP_EXTENT_SYSTEM, .ino = ino, .off = off, .start = phys, .len = len);
	else
		*bad = *remove = false;
}

// E1 is about the map; this is about what the map says of the file.
static int check_extent_state(struct content *c, struct raw_extent *e)
{
	uint64_t size_blk = c->row->size > 0 ? bytes_to_blk_up((uint64_t)c->row->size) : 0;
	int err = 0;

	if ((e->flags & ~(int64_t)EXTENT_UNWRITTEN) != 0 &&
	    PROBLEM(c->f, FP_EXTENT_FLAGS, .ino = ino_of(c), .off = (uint64_t)e->off, .is = e->flags)) {
		e->flags &= EXTENT_UNWRITTEN;
		err = SQL(c->f, "UPDATE extent SET flags = ?3 WHERE ino = ?1 AND off = ?2", c->row->ino, e->off, e->flags);
	}
	// Preallocated blocks may lie there. Data may while a truncate is unfinished, which the orphan row says.
	if (err != 0 || (e->flags & EXTENT_UNWRITTEN) != 0 || c->row->orphan || c->row->size < 0 ||
	    (uint64_t)(e->off + e->len) <= size_blk)
		return err;
	if (!PROBLEM(c->f, FP_EXTENT_PAST_END, .ino = ino_of(c), .off = (uint64_t)e->off))
		return 0;
	c->row->orphan = true;
	return SQL(c->f, "INSERT OR IGNORE INTO orphan(ino) VALUES(?1)", c->row->ino);
}

static int check_extent(struct content *c)
{
	const struct cursor *at = &c->m->sat[SAT_EXTENT];
	struct raw_extent e = { cursor_int(at, 1), cursor_int(at, 2), cursor_int(at, 3), cursor_int(at, 4) };
	bool bad, remove;
	int err;

	judge_extent(c, &e, &bad, &remove);
	if (remove)
		return SQL(c->f, "DELETE FROM extent WHERE ino = ?1 AND off = ?2", c->row->ino, e.off);
	if (!in_range(c, &e))
		return 0;
	c->blocks_blk += e.len;
	if (e.off + e.len > c->end_blk)
		c->end_blk = e.off + e.len;
	if (bad)
		return 0;
	err = check_extent_state(c, &e);
	return err != 0 ? err : claim(c, &e);
}

static int check_extents(struct content *c)
{
	struct cursor *at = &c->m->sat[SAT_EXTENT];
	bool allowed = S_ISREG(c->row->mode) && (c->row->flags & INODE_INLINE) == 0;
	int err = 0;

	if (has(c, SAT_EXTENT) && !allowed &&
	    PROBLEM(c->f, FP_EXTENT_STRAY, .ino = ino_of(c), .off = (uint64_t)cursor_int(at, 1))) {
		err = SQL(c->f, "DELETE FROM extent WHERE ino = ?1", c->row->ino);
		return err != 0 ? err : merge_skip(c->f, at, c->row->ino);
	}
	while (err == 0 && has(c, SAT_EXTENT) && !fsck_stopping(c->f)) {
		err = check_extent(c);
		if (err == 0)
			err = cursor_next(c->f, at);
	}
	return err;
}

// ---- size and block count ----

static int check_size(struct content *c)
{
	int64_t max = S_ISREG(c->row->mode) ? (int64_t)FILE_MAX_BYTES : 0;
	int64_t should = S_ISREG(c->row->mode) ? c->end_blk * BLK_SIZE : 0;

	// Of a symbolic link it is checked with its target, of a directory when its entries have been counted.
	if (S_ISLNK(c->row->mode) || S_ISDIR(c->row->mode) || (c->row->size >= 0 && c->row->size <= max))
		return 0;
	if (!PROBLEM(c->f, FP_INODE_SIZE, .ino = ino_of(c), .is = c->row->size, .should = should))
		return 0;
	return set_size(c, should);
}

static int check_blocks(struct content *c)
{
	if (c->row->blocks == c->blocks_blk ||
	    !PROBLEM(c->f, FP_INODE_BLOCKS, .ino = ino_of(c), .is = c->row->blocks, .should = c->blocks_blk))
		return 0;
	return SQL(c->f, "UPDATE inode SET blocks = ?2 WHERE ino = ?1", c->row->ino, c->blocks_blk);
}

// ---- extended attributes ----

static bool xattr_is_valid(const void *name, int name_len, int64_t value_len)
{
	return name != NULL && name_len >= 1 && name_len <= (int)XATTR_NAME_MAX_BYTES &&
	       memchr(name, '\0', (size_t)name_len) == NULL && value_len <= (int64_t)XATTR_VALUE_MAX_BYTES;
}

static int remove_xattr(struct content *c, sqlite3_value *name)
{
	sqlite3_stmt *stmt = NULL;
	int err = sql_prepare(c->f, "DELETE FROM xattr WHERE ino = ?1 AND name = ?2", &stmt);

	if (err != 0)
		return err;
	sqlite3_bind_int64(stmt, 1, c->row->ino);
	sqlite3_bind_value(stmt, 2, name);
	return sql_finish(c->f, stmt);
}

// The flag that stands for an ACL of this name; 0: it is none.
static int64_t acl_flag(const void *name, int name_len)
{
	if (name_len == sizeof(ACL_ACCESS_NAME) - 1 && memcmp(name, ACL_ACCESS_NAME, (size_t)name_len) == 0)
		return INODE_ACL_ACCESS;
	if (name_len == sizeof(ACL_DEFAULT_NAME) - 1 && memcmp(name, ACL_DEFAULT_NAME, (size_t)name_len) == 0)
		return INODE_ACL_DEFAULT;
	return 0;
}

static bool acl_is_valid(const struct content *c, const struct cursor *at, int64_t flag, struct acl *acl)
{
	if (S_ISLNK(c->row->mode) || (flag == INODE_ACL_DEFAULT && !S_ISDIR(c->row->mode)))
		return false;
	return acl_decode(acl, sqlite3_column_blob(at->stmt, 3), (size_t)sqlite3_column_bytes(at->stmt, 3)) == 0 && acl->n > 0;
}

// A1 and A2 of acl.h. What the mode says counts: it is what the owner saw.
static int check_acl_mode(struct content *c, struct acl *acl, bool *keep)
{
	uint32_t mode = (uint32_t)c->row->mode;
	uint8_t bytes[ACL_MAX_BYTES];
	char octal[8];

	*keep = acl_to_mode(acl, &mode);
	if (*keep && mode == (uint32_t)c->row->mode)
		return 0;
	snprintf(octal, sizeof(octal), "%03o", (unsigned)c->row->mode & 0777);
	if (!PROBLEM(c->f, FP_ACL_MODE, .ino = ino_of(c), .text = octal)) {
		*keep = true;
		return 0;
	}
	c->f->changes++;
	if (!*keep)
		return xattr_remove(c->f->vol->store, ino_of(c), ACL_ACCESS_NAME);
	acl_chmod(acl, (uint32_t)c->row->mode);
	return xattr_set(c->f->vol->store, ino_of(c), ACL_ACCESS_NAME, bytes, acl_encode(acl, bytes), 0);
}

static int check_acl(struct content *c, const struct cursor *at, int64_t flag, int64_t *flags)
{
	const char *name = flag == INODE_ACL_ACCESS ? ACL_ACCESS_NAME : ACL_DEFAULT_NAME;
	struct acl acl;
	bool keep = true;
	int err = 0;

	if (acl_is_valid(c, at, flag, &acl)) {
		if (flag == INODE_ACL_ACCESS)
			err = check_acl_mode(c, &acl, &keep);
	} else if (PROBLEM(c->f, FP_ACL_BAD, .ino = ino_of(c), .name = name, .is = cursor_int(at, 2))) {
		keep = false;
		err = remove_xattr(c, sqlite3_column_value(at->stmt, 1));
	}
	*flags |= keep ? flag : 0;
	return err;
}

static int check_xattr(struct content *c, const struct cursor *at, int64_t *acl_flags)
{
	const void *name = sqlite3_column_blob(at->stmt, 1);
	int name_len = sqlite3_column_bytes(at->stmt, 1);
	char printable[ESCAPED_NAME_LEN];

	if (xattr_is_valid(name, name_len, cursor_int(at, 2))) {
		int64_t flag = acl_flag(name, name_len);

		return flag != 0 ? check_acl(c, at, flag, acl_flags) : 0;
	}
	if (!PROBLEM(c->f, FP_XATTR_BAD, .ino = ino_of(c), .name = escape_name(name, name_len, printable), .is = cursor_int(at, 2)))
		return 0;
	return remove_xattr(c, sqlite3_column_value(at->stmt, 1));
}

static int check_xattrs(struct content *c)
{
	const int64_t both = INODE_ACL_ACCESS | INODE_ACL_DEFAULT;
	struct cursor *at = &c->m->sat[SAT_XATTR];
	int64_t acl_flags = 0;
	int err = 0;

	while (err == 0 && has(c, SAT_XATTR)) {
		err = check_xattr(c, at, &acl_flags);
		if (err == 0)
			err = cursor_next(c->f, at);
	}
	if (err != 0 || (c->row->flags & both) == acl_flags) // A4
		return err;
	if (!PROBLEM(c->f, FP_ACL_FLAGS, .ino = ino_of(c), .is = c->row->flags))
		return 0;
	return set_flags(c, (c->row->flags & ~both) | acl_flags);
}

int content_check(struct fsck *f, struct merge *m, struct raw_inode *row, bool *removed)
{
	struct content c = { .f = f, .m = m, .row = row };
	int err = check_flags(&c);

	if (err == 0)
		err = check_inline(&c, removed);
	if (err != 0 || *removed)
		return err;
	err = check_extents(&c);
	if (err != 0 || fsck_stopping(f))
		return err; // half a sum is no sum
	err = check_size(&c);
	if (err == 0)
		err = check_blocks(&c);
	return err != 0 ? err : check_xattrs(&c);
}
