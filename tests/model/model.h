// SPDX-License-Identifier: MIT
// The model test: random operations on two folders that must behave alike, the filesystem under test and a reference (tmpfs).
//
// model.c       options, the loop, random choices, what is printed when the two differ
// model_ops.c   the operations
// model_tree.c  listing the reference, comparing both trees
//
// Everything that an operation answers is compared: result, errno, bytes read, attributes. Allowed differences, all of them:
//  - st_size and st_blocks of directories, st_blocks of files, atime and ctime, inode numbers (but which names are one inode is compared)
//  - link counts of directories, if one side counts 1 for each of them
//  - mtime, unless one side has a time that utimensat() set: these lie long in the past, so a forgotten or unwanted change shows.
//    After fallocate and writes through a mapping, where filesystems differ, both files get such a time at once
//  - FALLOC_FL_ZERO_RANGE and user xattrs or ACLs that the reference lacks: the first is done there by writing zeros, the others are left out
//  - copy_file_range may copy less than it was asked for: it is repeated
#ifndef HYBRIDFS_TESTS_MODEL_H
#define HYBRIDFS_TESTS_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PATH_LEN 2048
#define MAX_SLOTS 8
#define MAX_IO (3u << 20)
#define MODEL_ACL_ACCESS "system.posix_acl_access"
#define MODEL_ACL_DEFAULT "system.posix_acl_default"
#define LOG_LINES 40
#define LOG_LEN 300
#define PAST_S 1000000000 // set times lie in [PAST_S, PAST_S + PAST_SPAN_S)
#define PAST_SPAN_S 100000000

enum side_id { TESTED, REFERENCE, N_SIDES };

// A file open on both sides; fd[TESTED] < 0: none.
struct pair {
	int fd[N_SIDES];
};

struct node { // of the reference
	char *path;
	mode_t mode;
};

struct model {
	const char *dir[N_SIDES];
	int root[N_SIDES];
	uint64_t seed, n_ops, every, rng;
	bool trace, xattrs, acls, is_root, reference_zeroes; // the last: ZERO_RANGE works on the reference
	char command[PATH_LEN]; // to run this again
	uint64_t op;
	char log[LOG_LINES][LOG_LEN];
	struct pair slots[MAX_SLOTS]; // files that stay open over many operations, also when their names go
	struct node *nodes;           // of the reference, sorted; valid unless stale
	size_t n_nodes, cap_nodes;
	bool stale;
	char *buf[N_SIDES]; // MAX_IO bytes each
};

// What an operation answered on each side.
struct outcome {
	int64_t ret[N_SIDES];
	int err[N_SIDES];
};

// model.c
uint64_t model_random(struct model *m, uint64_t below); // 0 <= result < below
bool model_chance(struct model *m, unsigned percent);
void model_note(struct model *m, const char *fmt, ...) __attribute__((format(printf, 2, 3))); // what is about to be done
void model_fail(struct model *m, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));
void model_die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn)); // the test itself cannot go on
bool model_agree(struct model *m, const struct outcome *out); // both the same, else fail; whether they succeeded
bool model_open(struct model *m, struct pair *files, const char *path, int flags, mode_t mode);
void model_close(struct pair *files);

// model_ops.c
void model_step(struct model *m); // one random operation

// model_tree.c
void model_list(struct model *m); // refreshes nodes if stale
void model_compare(struct model *m);
void model_compare_fds(struct model *m, const struct pair *files, const char *path, uint64_t off, uint64_t len);
void model_compare_stat(struct model *m, const char *path);
void model_compare_dir(struct model *m, const char *path);
void model_compare_xattrs(struct model *m, const char *path);
void model_compare_acls(struct model *m, const char *path);

#define FOR_SIDES(s) for (enum side_id s = TESTED; s < N_SIDES; s++)
// Does `expr` on both sides; it may use the variable s.
#define BOTH(out, expr) \
	do { \
		FOR_SIDES(s) { \
			errno = 0; \
			(out)->ret[s] = (expr); \
			(out)->err[s] = (out)->ret[s] < 0 ? errno : 0; \
		} \
	} while (0)

#endif
