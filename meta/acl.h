// SPDX-License-Identifier: MIT
// POSIX access control lists: the form in which Linux hands them over and in which they are stored, and what follows from them.
// No I/O, no locks, no allocation.
//
// The form, little-endian: version 2 (4 bytes), then of each entry tag (2), permissions (2), user or group (4; all ones where the tag has
// none). The order of tags is USER_OBJ, USER …, GROUP_OBJ, GROUP …, MASK, OTHER; the three OBJ and OTHER are there exactly once, MASK at most
// once, and always when there is a USER or GROUP.
//
// A1  An access ACL that says no more than the nine bits of the mode is not stored.
// A2  Of a stored access ACL, USER_OBJ, MASK (without one: GROUP_OBJ) and OTHER are the nine bits of the inode's mode.
// A3  Only directories have a default ACL.
// A4  An inode has a row of xattr with an ACL if and only if its flag for it is set (INODE_ACL_*): so neither chmod nor creating looks for
//     ACLs that are not there.
//
// Errors: -EINVAL for what is no ACL. Whoever reads one from a volume makes -EUCLEAN of it.
#ifndef HYBRIDFS_META_ACL_H
#define HYBRIDFS_META_ACL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/attr.h"

#define ACL_ACCESS_NAME "system.posix_acl_access"
#define ACL_DEFAULT_NAME "system.posix_acl_default"
#define ACL_MAX_ENTRIES 511u // what fits into a page: Linux takes no more from FUSE
#define ACL_MAX_BYTES (4u + 8u * ACL_MAX_ENTRIES)

enum acl_tag { ACL_USER_OBJ = 0x01, ACL_USER = 0x02, ACL_GROUP_OBJ = 0x04, ACL_GROUP = 0x08, ACL_MASK = 0x10, ACL_OTHER = 0x20 };

struct acl_entry {
	uint16_t tag, perm; // perm: 4 read, 2 write, 1 execute
	uint32_t id;        // of ACL_USER and ACL_GROUP
};

struct acl {
	unsigned n; // 0: no ACL at all
	struct acl_entry entries[ACL_MAX_ENTRIES];
};

// Four bytes without an entry are an ACL of none: what removes one.
int acl_decode(struct acl *acl, const void *bytes, size_t len) ATTR_MUST_USE;
size_t acl_encode(const struct acl *acl, uint8_t bytes[ACL_MAX_BYTES]);

// The functions below want an ACL with entries.

// Puts its permissions into the nine bits of the mode. Whether there is more to it (A1).
bool acl_to_mode(const struct acl *acl, uint32_t *mode) ATTR_MUST_USE;
// chmod: its entries follow the mode (A2).
void acl_chmod(struct acl *acl, uint32_t mode);
// A default ACL becomes the access ACL of something new that was to have *mode: both give only what both allow. Whether there is more to it
// than the mode.
bool acl_inherit(struct acl *acl, uint32_t *mode) ATTR_MUST_USE;

#endif
