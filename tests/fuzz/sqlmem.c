// SPDX-License-Identifier: MIT
// Small memory for SQLite. See sqlmem.h.
//
// Cells of a few sizes from slabs that are never given back. A cell begins with its size class and is poisoned for ASan
// but for the bytes that were asked for; those that are free are taken in the order in which they were freed, so that a
// use after the free is seen for a while.
#include "sqlmem.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "util/blk.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SQLMEM_POISONS 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define SQLMEM_POISONS 1
#endif
#ifdef SQLMEM_POISONS
#include <sanitizer/asan_interface.h>
#define UNSEEN __attribute__((no_sanitize_address))
#else
#define UNSEEN
#define ASAN_POISON_MEMORY_REGION(at, len) ((void)(at), (void)(len))
#define ASAN_UNPOISON_MEMORY_REGION(at, len) ((void)(at), (void)(len))
#endif

#define SLAB_BYTES 65536u
#define CLASS_MIN_BYTES 32u
#define CLASSES 6u // 32 to 1024 bytes
#define LARGE CLASSES

struct cell {
	uint32_t class, len; // len: asked for
	uint64_t pad;        // SQLite wants 8, others may like 16
	struct cell *next;   // while it is free; else the memory begins here
};
#define HEAD_BYTES offsetof(struct cell, next)

struct slab {
	struct slab *next;
	uint64_t pad;
	uint8_t cells[SLAB_BYTES];
};

struct pool {
	pthread_mutex_t lock;
	// under lock:
	struct slab *slabs; // so that they do not look leaked
	struct cell *first[CLASSES], *last[CLASSES];
};

static struct pool *the_pool(void)
{
	static struct pool pool = { .lock = PTHREAD_MUTEX_INITIALIZER };

	return &pool;
}

static uint8_t *memory_of(struct cell *c) { return (uint8_t *)c + HEAD_BYTES; }

static struct cell *cell_of(void *memory) { return (struct cell *)(void *)((uint8_t *)memory - HEAD_BYTES); }

static uint32_t class_bytes(uint32_t class) { return CLASS_MIN_BYTES << class; }

static uint32_t class_of(int len)
{
	uint32_t class = 0;

	while (class < CLASSES && class_bytes(class) < (uint32_t)len)
		class++;
	return class;
}

UNSEEN static void push(struct pool *p, struct cell *c)
{
	c->next = NULL;
	if (p->first[c->class] == NULL)
		p->first[c->class] = c;
	else
		p->last[c->class]->next = c;
	p->last[c->class] = c;
}

UNSEEN static bool add_slab(struct pool *p, uint32_t class)
{
	struct slab *slab = malloc(sizeof(*slab));
	size_t step = HEAD_BYTES + class_bytes(class);

	if (slab == NULL)
		return false;
	slab->next = p->slabs;
	p->slabs = slab;
	for (size_t at = 0; at + step <= SLAB_BYTES; at += step) {
		struct cell *c = (struct cell *)(void *)(slab->cells + at);

		c->class = class;
		push(p, c);
	}
	ASAN_POISON_MEMORY_REGION(slab->cells, SLAB_BYTES);
	return true;
}

UNSEEN static void *take(struct pool *p, uint32_t class, int len)
{
	struct cell *c = NULL;

	pthread_mutex_lock(&p->lock);
	if (p->first[class] != NULL || add_slab(p, class)) {
		c = p->first[class];
		p->first[class] = c->next;
		c->len = (uint32_t)len;
	}
	pthread_mutex_unlock(&p->lock);
	if (c == NULL)
		return NULL;
	ASAN_UNPOISON_MEMORY_REGION(memory_of(c), (size_t)len);
	return memory_of(c);
}

// Larger memory is malloc's; its head is poisoned like the others'.
UNSEEN static void *take_large(int len)
{
	struct cell *c = malloc(HEAD_BYTES + (size_t)len);

	if (c == NULL)
		return NULL;
	c->class = LARGE;
	c->len = (uint32_t)len;
	ASAN_POISON_MEMORY_REGION(c, HEAD_BYTES);
	return memory_of(c);
}

static void *pool_malloc(int len)
{
	uint32_t class = class_of(len);

	return class == LARGE ? take_large(len) : take(the_pool(), class, len);
}

UNSEEN static void pool_free(void *memory)
{
	struct pool *p = the_pool();
	struct cell *c = cell_of(memory);

	if (c->class == LARGE) {
		ASAN_UNPOISON_MEMORY_REGION(c, HEAD_BYTES);
		free(c);
		return;
	}
	ASAN_POISON_MEMORY_REGION(memory, class_bytes(c->class));
	pthread_mutex_lock(&p->lock);
	push(p, c);
	pthread_mutex_unlock(&p->lock);
}

UNSEEN static int pool_size(void *memory) { return memory == NULL ? 0 : (int)cell_of(memory)->len; }

static void *pool_realloc(void *memory, int len)
{
	void *bigger = pool_malloc(len);

	if (bigger == NULL)
		return NULL;
	memcpy(bigger, memory, min_u64((uint64_t)pool_size(memory), (uint64_t)len));
	pool_free(memory);
	return bigger;
}

static int pool_roundup(int len) { return (len + 7) & ~7; }

static int pool_init(void *ctx)
{
	(void)ctx;
	return SQLITE_OK;
}

static void pool_shutdown(void *ctx) { (void)ctx; }

void sqlmem_use(void)
{
	static const sqlite3_mem_methods methods = {
		.xMalloc = pool_malloc,
		.xFree = pool_free,
		.xRealloc = pool_realloc,
		.xSize = pool_size,
		.xRoundup = pool_roundup,
		.xInit = pool_init,
		.xShutdown = pool_shutdown,
	};

	REQUIRE(sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0) == SQLITE_OK); // a lock at each allocation
	REQUIRE(sqlite3_config(SQLITE_CONFIG_MALLOC, &methods) == SQLITE_OK);
}
