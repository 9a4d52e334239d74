// SPDX-License-Identifier: MIT
// What the files of the filesystem core share. fs.h is the contract; this is the inside.
#ifndef HYBRIDFS_FS_FS_INTERNAL_H
#define HYBRIDFS_FS_FS_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "fs/fs.h"
#include "fs/inode.h"
#include "meta/acl.h"
#include "meta/rows.h"
#include "meta/txn.h"
#include "util/blk.h"

#define FILE_MAX_BLK (FILE_MAX_BYTES >> BLK_SHIFT)

// The thread that finishes orphans and takes back the windows of files that nobody writes any more.
struct reaper {
	pthread_t thread;
	bool started;
	pthread_mutex_t lock; // everything below
	pthread_cond_t wake;  // for the thread
	pthread_cond_t idle;  // for reaper_drain()
	uint64_t *queue;      // orphans without references: a ring
	size_t head, n, cap;
	unsigned n_waiting;   // threads in reaper_drain()
	bool busy, stop;
	bool rescan;       // look through the orphan table now
	bool rescan_later; // something had to be passed over; look again at the next tick
};

// The thread that discards what was freed. See trimmer.c.
struct trimmer {
	pthread_t thread;
	bool started;
	uint64_t delay_ns;
	pthread_mutex_t lock; // the next four; a leaf
	pthread_cond_t wake;
	bool freed;           // something, since the walk that is going on began
	bool busy, stop;      // busy: walking
	// The thread's:
	struct alloc_trim walk;
	int64_t cost_blk, cost_ns; // of a discard, averages
	uint64_t n_discards, discarded_blk, device_ns;
};

struct fs {
	struct volume *vol;
	struct store *st; // the volume's
	enum fs_atime atime;
	bool nodiratime, nodatacow;
	bool kernel_has_times; // fs_leave_times_to_kernel(); constant while there are operations
	struct inode_table inodes;
	struct reaper reaper;
	struct trimmer trimmer;
	atomic_uint_fast64_t newest_txn; // the newest transaction that changed anything through this context
	atomic_bool check_orphans;       // orphans of an earlier mount may be left: see inode_lock_change()
};

// ---- fs.c ----

// Joins a transaction. When there is no space for metadata, waits for what is being freed and tries once more.
int fs_join(struct fs *fs, enum txn_kind kind, uint64_t *txn) ATTR_MUST_USE;
// Joins and takes the store's lock; fs_end() undoes both.
int fs_begin(struct fs *fs, enum txn_kind kind, uint64_t *txn) ATTR_MUST_USE;
void fs_end(struct fs *fs);

// Space is short: finishes what is queued for deletion and makes freed blocks allocatable. True if trying again makes sense.
// No handle joined, store lock not held; an inode's data lock may be.
bool fs_reclaim(struct fs *fs);

int64_t fs_now_ns(void);
struct timespec fs_to_timespec(int64_t ns);
void fs_row_to_stat(const struct inode_row *row, struct stat *st);

// The contents of a regular file have changed.
void fs_touch_contents(const struct fs *fs, struct inode_row *row);

// Reading has happened: updates atime if the mount's policy asks for it. Never an error: reading has worked.
void fs_update_atime(struct fs *fs, const struct inode_row *row);

// What a change of the data or the owner does to the privileges of a file: setuid and setgid go if `suidgid`, file
// capabilities always. Store lock held, handle joined; the caller writes the row.
int fs_kill_privs(struct fs *fs, struct inode *in, struct inode_row *row, bool suidgid) ATTR_MUST_USE;

// 0 for a regular file; -EISDIR or -EINVAL.
int fs_check_regular(const struct inode_row *row) ATTR_MUST_USE;

static inline void atomic_max(atomic_uint_fast64_t *at, uint64_t value)
{
	uint_fast64_t old = atomic_load(at);

	while (old < value && !atomic_compare_exchange_weak(at, &old, value))
		continue;
}

// ---- fs_name.c ----

// 0 or the length's error; "." and ".." are refused with -EINVAL.
int fs_check_name(const char *name, size_t *len) ATTR_MUST_USE;
// The row of a directory in which names may be made and found: -ENOTDIR, -ENOENT if it was removed.
int fs_get_dir(struct fs *fs, uint64_t ino, struct inode_row *row) ATTR_MUST_USE;
// The inode that a directory's entry names, held against the entry: -EUCLEAN if they contradict each other.
int fs_get_child(struct fs *fs, uint64_t parent, const struct dirent_row *ent, struct inode_row *row) ATTR_MUST_USE;
// What a new inode takes from the directory in which it is made.
void fs_inherit(const struct fs *fs, struct inode_row *row, const struct inode_row *dir);
// A name of the inode is gone: one link less; the last one makes it an orphan (*orphan). Writes the row.
int fs_drop_link(struct fs *fs, struct inode_row *row, int64_t now, bool *orphan) ATTR_MUST_USE;

// ---- fs_attr.c ----

// Everything in `attr` but the size, into the row; ctime too. Store lock held, handle joined; the caller writes the row.
int fs_apply_attr(struct fs *fs, struct inode *in, struct inode_row *row, const struct fs_setattr *attr) ATTR_MUST_USE;

// ---- fs_acl.c; store lock held, for writing a handle joined ----

enum fs_acl_kind { FS_ACL_ACCESS, FS_ACL_DEFAULT };

struct fs_acls { // of something new; which of them there are is said by its row's flags
	struct acl access, def;
};

bool fs_acl_is_name(const char *name);
enum fs_acl_kind fs_acl_kind_of(const char *name); // of one of these
// n = 0 if the inode has none. -EUCLEAN.
int fs_acl_load(struct fs *fs, const struct inode_row *row, enum fs_acl_kind kind, struct acl *acl) ATTR_MUST_USE;
// The row's flag says already that there is one.
int fs_acl_store(struct fs *fs, const struct inode_row *row, enum fs_acl_kind kind, const struct acl *acl) ATTR_MUST_USE;
// setxattr, or removexattr (value NULL; no error if there is none, as ext4). Changes mode and flags of the row, which the caller writes.
int fs_acl_set(struct fs *fs, struct inode_row *row, const char *name, const void *value, size_t len, bool kill_sgid) ATTR_MUST_USE;
// The mode and the flags of a new row, by its directory's default ACL or the umask. Changes nothing on the volume.
int fs_acl_inherit(struct fs *fs, const struct inode_row *dir, struct inode_row *row, mode_t umask, struct fs_acls *acls) ATTR_MUST_USE;
int fs_acl_store_inherited(struct fs *fs, const struct inode_row *row, const struct fs_acls *acls) ATTR_MUST_USE;

// ---- fs_data.c: the doors between memory and the device, for all file data ----

// n_blk blocks of a file from its block off_blk on, which lie on the volume from phys_blk on. The pieces of iov are whole blocks. crc: what the
// blocks' checksums must be; NULL = they have none. -EIO, logged, at the first block that cannot be had; *n_good: how many before it can.
int fs_data_read(struct fs *fs, uint64_t ino, uint64_t off_blk, uint64_t phys_blk, const struct iovec *iov, int n_iov, const uint32_t *crc,
                 uint64_t *n_good) ATTR_MUST_USE;
// One block, also one whose write is deferred. Data lock held.
int fs_data_read_blk(struct fs *fs, const struct inode_row *row, uint64_t off_blk, uint64_t phys_blk, void *data) ATTR_MUST_USE;
int fs_data_write(struct fs *fs, uint64_t ino, uint64_t off_blk, const struct iovec *iov, int n_iov,
                  uint64_t phys_blk) ATTR_MUST_USE;
// A block that ought to have a checksum has none: logged, -EIO.
int fs_data_no_checksum(uint64_t ino, uint64_t off_blk, uint64_t phys_blk) ATTR_MUST_USE;

// ---- fs_alloc.c; data lock held exclusively ----

// Sets the size to attr->size_bytes and the other attributes with it. *row: as it is afterwards.
int fs_truncate(struct fs *fs, struct inode *in, const struct fs_setattr *attr, struct inode_row *row) ATTR_MUST_USE;
// Frees the extents beyond the size of an inode that has an orphan row for this, in pieces.
int fs_trim_tail(struct fs *fs, struct inode *in) ATTR_MUST_USE;

// ---- reaper.c ----

int reaper_start(struct fs *fs) ATTR_MUST_USE; // also initialises it when the volume is read-only: then without a thread
void reaper_stop(struct fs *fs);               // then finishes all orphans that are left, if the volume can
void reaper_queue(struct fs *fs, uint64_t ino);
void reaper_drain(struct fs *fs); // returns when nothing is queued

// ---- trimmer.c ----

void trimmer_start(struct fs *fs, unsigned delay_ms); // if the device can discard; not having it is no error. delay 0: the usual one
void trimmer_stop(struct fs *fs);                     // waits for one discard at most

#endif
