// SPDX-License-Identifier: MIT
// A hash table by number whose links lie inside the elements: finding, adding and removing cannot fail. The number of chains is fixed.
//
// Owner: the elements are the caller's; each has a struct key_node as its first member and is in one table at most. No lock.
#ifndef HYBRIDFS_UTIL_KEYMAP_H
#define HYBRIDFS_UTIL_KEYMAP_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "util/attr.h"

struct key_node {
	uint64_t key;
	struct key_node *next;
};

struct keymap {
	struct key_node **chains;
	unsigned bits; // 2^bits chains
	size_t n;
};

static inline ATTR_MUST_USE int keymap_init(struct keymap *map, unsigned bits)
{
	*map = (struct keymap){ .chains = calloc((size_t)1 << bits, sizeof(map->chains[0])), .bits = bits };
	return map->chains != NULL ? 0 : -ENOMEM;
}

static inline void keymap_destroy(struct keymap *map) { free(map->chains); }

// Fibonacci hashing: keys that follow each other are spread.
static inline struct key_node **keymap_chain(const struct keymap *map, uint64_t key)
{
	return &map->chains[(key * 0x9e3779b97f4a7c15ull) >> (64 - map->bits)];
}

static inline void *keymap_find(const struct keymap *map, uint64_t key)
{
	struct key_node *node = *keymap_chain(map, key);

	while (node != NULL && node->key != key)
		node = node->next;
	return node;
}

// The key is not in the table yet.
static inline void keymap_add(struct keymap *map, uint64_t key, struct key_node *node)
{
	struct key_node **chain = keymap_chain(map, key);

	node->key = key;
	node->next = *chain;
	*chain = node;
	map->n++;
}

static inline void keymap_remove(struct keymap *map, struct key_node *node)
{
	struct key_node **link = keymap_chain(map, node->key);

	while (*link != node)
		link = &(*link)->next;
	*link = node->next;
	map->n--;
}

#endif
