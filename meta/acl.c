// SPDX-License-Identifier: MIT
#include "meta/acl.h"

#include <errno.h>
#include <string.h>

#include "util/endian.h"

#define WIRE_VERSION 2u
#define NO_ID UINT32_MAX

struct wire_entry {
	le16 tag, perm;
	le32 id;
};
static_assert(sizeof(struct wire_entry) == 8, "as Linux has it");

// ---- form ----

// Where in the order of tags one stands; a tag that may be there several times may follow itself.
static int rank_of(const struct acl_entry *e)
{
	switch (e->tag) {
	case ACL_USER_OBJ:
		return 1;
	case ACL_USER:
		return 2;
	case ACL_GROUP_OBJ:
		return 3;
	case ACL_GROUP:
		return 4;
	case ACL_MASK:
		return 5;
	case ACL_OTHER:
		return 6;
	default:
		return 0;
	}
}

static bool is_named(const struct acl_entry *e) { return e->tag == ACL_USER || e->tag == ACL_GROUP; }

static bool is_valid(const struct acl *acl)
{
	unsigned seen = 0;
	int last = 0;

	for (unsigned i = 0; i < acl->n; i++) {
		const struct acl_entry *e = &acl->entries[i];
		int rank = rank_of(e);

		if (rank < last || rank == 0 || (rank == last && !is_named(e)) || e->perm > 7 || (is_named(e) && e->id == NO_ID))
			return false;
		seen |= e->tag;
		last = rank;
	}
	if ((seen & (ACL_USER | ACL_GROUP)) != 0 && (seen & ACL_MASK) == 0)
		return false;
	return (seen & ACL_USER_OBJ) != 0 && (seen & ACL_GROUP_OBJ) != 0 && (seen & ACL_OTHER) != 0;
}

int acl_decode(struct acl *acl, const void *bytes, size_t len)
{
	struct wire_entry wire;
	le32 version;

	acl->n = 0;
	if (len < sizeof(version) || len > ACL_MAX_BYTES || (len - sizeof(version)) % sizeof(wire) != 0)
		return -EINVAL;
	memcpy(&version, bytes, sizeof(version));
	if (from_le32(version) != WIRE_VERSION)
		return -EINVAL;
	for (size_t at = sizeof(version); at < len; at += sizeof(wire)) {
		struct acl_entry *e = &acl->entries[acl->n++];

		memcpy(&wire, (const char *)bytes + at, sizeof(wire));
		*e = (struct acl_entry){ .tag = from_le16(wire.tag), .perm = from_le16(wire.perm), .id = from_le32(wire.id) };
		if (!is_named(e))
			e->id = NO_ID;
	}
	return acl->n == 0 || is_valid(acl) ? 0 : -EINVAL;
}

size_t acl_encode(const struct acl *acl, uint8_t bytes[ACL_MAX_BYTES])
{
	le32 version = to_le32(WIRE_VERSION);
	size_t len = sizeof(version);

	memcpy(bytes, &version, sizeof(version));
	for (unsigned i = 0; i < acl->n; i++) {
		const struct acl_entry *e = &acl->entries[i];
		struct wire_entry wire = { to_le16(e->tag), to_le16(e->perm), to_le32(e->id) };

		memcpy(bytes + len, &wire, sizeof(wire));
		len += sizeof(wire);
	}
	return len;
}

// ---- what follows from it ----

// The entries that stand for the three parts of the mode. The group's is the mask, where there is one: it bounds the group as well.
struct mode_entries {
	unsigned user, group, other; // indices
	bool more;                   // there are named entries or a mask
};

static struct mode_entries find_mode_entries(const struct acl *acl)
{
	struct mode_entries m = { 0 };

	for (unsigned i = 0; i < acl->n; i++) {
		const struct acl_entry *e = &acl->entries[i];

		if (e->tag == ACL_USER_OBJ)
			m.user = i;
		else if (e->tag == ACL_GROUP_OBJ || e->tag == ACL_MASK) // the mask comes later
			m.group = i;
		else if (e->tag == ACL_OTHER)
			m.other = i;
		m.more |= e->tag == ACL_MASK || is_named(e);
	}
	return m;
}

bool acl_to_mode(const struct acl *acl, uint32_t *mode)
{
	struct mode_entries m = find_mode_entries(acl);
	const struct acl_entry *e = acl->entries;

	*mode = (*mode & ~0777u) | (uint32_t)e[m.user].perm << 6 | (uint32_t)e[m.group].perm << 3 | e[m.other].perm;
	return m.more;
}

void acl_chmod(struct acl *acl, uint32_t mode)
{
	struct mode_entries m = find_mode_entries(acl);

	acl->entries[m.user].perm = mode >> 6 & 7;
	acl->entries[m.group].perm = mode >> 3 & 7;
	acl->entries[m.other].perm = mode & 7;
}

bool acl_inherit(struct acl *acl, uint32_t *mode)
{
	struct mode_entries m = find_mode_entries(acl);

	acl->entries[m.user].perm &= *mode >> 6 & 7;
	acl->entries[m.group].perm &= *mode >> 3 & 7;
	acl->entries[m.other].perm &= *mode & 7;
	return acl_to_mode(acl, mode);
}
