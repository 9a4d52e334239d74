// SPDX-License-Identifier: MIT
// The table of inodes in memory and the write state of files. See inode.h for what lives here and under which lock.
#include "fs/inode.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "fs/fs_internal.h"
#include "meta/orphan.h"
#include "util/blk.h"

#define CHAINS_MIN 16u

// Fibonacci hashing: inode numbers are handed out in sequence, the upper bits of the product spread them.
static uint64_t spread(uint64_t ino) { return ino * 0x9e3779b97f4a7c15ull; }

static struct inode_shard *shard_of(struct fs *fs, uint64_t ino)
{
	return &fs->inodes.shards[spread(ino) >> 58];
}

static struct inode **chain_of(const struct inode_shard *shard, uint64_t ino)
{
	return &shard->chains[(spread(ino) >> 26) & (shard->n_chains - 1)];
}

_Static_assert(INODE_SHARDS == 1u << (64 - 58), "the shard is the top bits of the hash");

int inode_table_init(struct inode_table *table)
{
	unsigned i;

	*table = (struct inode_table){ 0 };
	for (i = 0; i < INODE_SHARDS; i++) {
		struct inode_shard *shard = &table->shards[i];

		shard->chains = calloc(CHAINS_MIN, sizeof(shard->chains[0]));
		if (shard->chains == NULL)
			goto out;
		shard->n_chains = CHAINS_MIN;
		pthread_mutex_init(&shard->lock, NULL);
	}
	pthread_mutex_init(&table->list_lock, NULL);
	return 0;
out:
	while (i-- > 0) {
		pthread_mutex_destroy(&table->shards[i].lock);
		free(table->shards[i].chains);
	}
	return -ENOMEM;
}

static void free_inode(struct fs *fs, struct inode *in)
{
	inode_end_wstate(fs, in);
	pthread_rwlock_destroy(&in->lock);
	free(in);
}

void inode_table_destroy(struct fs *fs)
{
	for (unsigned i = 0; i < INODE_SHARDS; i++) {
		struct inode_shard *shard = &fs->inodes.shards[i];

		for (uint32_t c = 0; c < shard->n_chains; c++) {
			while (shard->chains[c] != NULL) {
				struct inode *in = shard->chains[c];

				shard->chains[c] = in->next;
				free_inode(fs, in);
			}
		}
		free(shard->chains);
		pthread_mutex_destroy(&shard->lock);
	}
	pthread_mutex_destroy(&fs->inodes.list_lock);
}

// ---- finding and making; shard locked ----

static struct inode *find_locked(const struct inode_shard *shard, uint64_t ino)
{
	struct inode *in = *chain_of(shard, ino);

	while (in != NULL && in->ino != ino)
		in = in->next;
	return in;
}

// Doubles the chains. Without memory they just get longer.
static void grow_locked(struct inode_shard *shard)
{
	struct inode_shard bigger = { .n_chains = shard->n_chains * 2 };

	bigger.chains = calloc(bigger.n_chains, sizeof(bigger.chains[0]));
	if (bigger.chains == NULL)
		return;
	for (uint32_t c = 0; c < shard->n_chains; c++) {
		while (shard->chains[c] != NULL) {
			struct inode *in = shard->chains[c], **to = chain_of(&bigger, in->ino);

			shard->chains[c] = in->next;
			in->next = *to;
			*to = in;
		}
	}
	free(shard->chains);
	shard->chains = bigger.chains;
	shard->n_chains = bigger.n_chains;
}

static int init_lock(pthread_rwlock_t *lock)
{
	pthread_rwlockattr_t attr;
	int r;

	r = pthread_rwlockattr_init(&attr);
	if (r != 0)
		return -r;
	// Nobody takes it twice, so writers may go first: a stream of reads must not starve them.
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	r = pthread_rwlock_init(lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	return -r;
}

static struct inode *get_locked(struct fs *fs, struct inode_shard *shard, uint64_t ino)
{
	struct inode *in = find_locked(shard, ino), **chain;

	if (in != NULL)
		return in;
	in = calloc(1, sizeof(*in));
	if (in == NULL)
		return NULL;
	if (init_lock(&in->lock) != 0) {
		free(in);
		return NULL;
	}
	in->ino = ino;
	// I2: nobody remembers when this inode was changed last, but it was not after the newest change of all.
	atomic_init(&in->last_txn, atomic_load(&fs->newest_txn));
	if (shard->n >= 2 * shard->n_chains)
		grow_locked(shard);
	chain = chain_of(shard, ino);
	in->next = *chain;
	*chain = in;
	shard->n++;
	return in;
}

// Takes an unused object out of its chain; returns it for free_inode() outside the lock, or NULL if it is in use.
static struct inode *drop_unused_locked(struct inode_shard *shard, struct inode *in)
{
	struct inode **link;

	if (in->nlookup > 0 || in->pins > 0)
		return NULL;
	for (link = chain_of(shard, in->ino); *link != in;)
		link = &(*link)->next;
	*link = in->next;
	shard->n--;
	return in;
}

static void finish_drop(struct fs *fs, struct inode *dropped)
{
	if (dropped == NULL)
		return;
	if (dropped->orphan)
		reaper_queue(fs, dropped->ino);
	free_inode(fs, dropped);
}

// ---- pins and references ----

struct inode *inode_pin(struct fs *fs, uint64_t ino)
{
	struct inode_shard *shard = shard_of(fs, ino);
	struct inode *in;

	pthread_mutex_lock(&shard->lock);
	in = get_locked(fs, shard, ino);
	if (in != NULL)
		in->pins++;
	pthread_mutex_unlock(&shard->lock);
	return in;
}

struct inode *inode_pin_existing(struct fs *fs, uint64_t ino)
{
	struct inode_shard *shard = shard_of(fs, ino);
	struct inode *in;

	pthread_mutex_lock(&shard->lock);
	in = find_locked(shard, ino);
	if (in != NULL)
		in->pins++;
	pthread_mutex_unlock(&shard->lock);
	return in;
}

void inode_unpin(struct fs *fs, struct inode *in)
{
	struct inode_shard *shard = shard_of(fs, in->ino);

	pthread_mutex_lock(&shard->lock);
	ASSERT(in->pins > 0);
	in->pins--;
	in = drop_unused_locked(shard, in);
	pthread_mutex_unlock(&shard->lock);
	finish_drop(fs, in);
}

static int add_ref(struct fs *fs, uint64_t ino, uint64_t parent, bool is_new)
{
	struct inode_shard *shard = shard_of(fs, ino);
	struct inode *in;

	pthread_mutex_lock(&shard->lock);
	in = get_locked(fs, shard, ino);
	if (in != NULL) {
		in->nlookup++;
		in->no_caps |= is_new;
		if (in->locality == 0)
			in->locality = (uint32_t)(parent ^ parent >> 32);
	}
	pthread_mutex_unlock(&shard->lock);
	return in != NULL ? 0 : -ENOMEM;
}

int inode_ref(struct fs *fs, uint64_t ino, uint64_t parent) { return add_ref(fs, ino, parent, false); }

int inode_ref_new(struct fs *fs, uint64_t ino, uint64_t parent) { return add_ref(fs, ino, parent, true); }

void inode_unref(struct fs *fs, uint64_t ino, uint64_t n)
{
	struct inode_shard *shard = shard_of(fs, ino);
	struct inode *in;

	pthread_mutex_lock(&shard->lock);
	in = find_locked(shard, ino);
	if (in != NULL) {
		in->nlookup -= min_u64(n, in->nlookup); // the root's count is the kernel's own affair
		in = drop_unused_locked(shard, in);
	}
	pthread_mutex_unlock(&shard->lock);
	finish_drop(fs, in);
}

bool inode_is_referenced(struct fs *fs, uint64_t ino)
{
	struct inode_shard *shard = shard_of(fs, ino);
	const struct inode *in;
	bool is;

	pthread_mutex_lock(&shard->lock);
	in = find_locked(shard, ino);
	is = in != NULL && in->nlookup > 0;
	pthread_mutex_unlock(&shard->lock);
	return is;
}

void inode_touch(struct fs *fs, uint64_t ino, uint64_t txn)
{
	struct inode_shard *shard = shard_of(fs, ino);
	struct inode *in;

	pthread_mutex_lock(&shard->lock);
	in = find_locked(shard, ino);
	if (in != NULL)
		atomic_max(&in->last_txn, txn);
	pthread_mutex_unlock(&shard->lock);
}

void inode_set_orphan(struct fs *fs, uint64_t ino)
{
	struct inode_shard *shard = shard_of(fs, ino);
	struct inode *in;

	pthread_mutex_lock(&shard->lock);
	in = find_locked(shard, ino);
	if (in != NULL)
		in->orphan = true;
	pthread_mutex_unlock(&shard->lock);
	if (in == NULL)
		reaper_queue(fs, ino);
}

void inode_set_namable(struct fs *fs, uint64_t ino, bool on)
{
	struct inode_shard *shard = shard_of(fs, ino);
	struct inode *in;

	pthread_mutex_lock(&shard->lock);
	in = find_locked(shard, ino);
	if (in != NULL)
		in->orphan = in->namable = on;
	pthread_mutex_unlock(&shard->lock);
}

bool inode_is_namable(struct fs *fs, uint64_t ino)
{
	struct inode_shard *shard = shard_of(fs, ino);
	const struct inode *in;
	bool is;

	pthread_mutex_lock(&shard->lock);
	in = find_locked(shard, ino);
	is = in != NULL && in->namable;
	pthread_mutex_unlock(&shard->lock);
	return is;
}

// ---- the data lock ----

// A crash may have cut a long truncate short: extents beyond the size are waiting to be freed, and must not show when the
// file grows again. Until the reaper has been through all of them, everybody looks for himself.
static int finish_truncate(struct fs *fs, struct inode *in)
{
	uint64_t found;
	unsigned n;
	int r;

	store_lock(fs->st);
	r = orphan_list(fs->vol, in->ino - 1, &found, 1, &n);
	store_unlock(fs->st);
	return r == 0 && n == 1 && found == in->ino ? fs_trim_tail(fs, in) : r;
}

int inode_lock_change(struct fs *fs, struct inode *in)
{
	int r = 0;

	pthread_rwlock_wrlock(&in->lock);
	if (atomic_load(&fs->check_orphans) && !fs->vol->read_only)
		r = finish_truncate(fs, in);
	if (r != 0)
		pthread_rwlock_unlock(&in->lock);
	return r;
}

// ---- write state ----

int64_t inode_clock_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return ts.tv_sec;
}

static void list_push_locked(struct inode_table *table, struct inode_wstate *ws)
{
	ws->newer = NULL;
	ws->older = table->newest;
	*(ws->older != NULL ? &ws->older->newer : &table->idlest) = ws;
	table->newest = ws;
}

static void list_drop_locked(struct inode_table *table, struct inode_wstate *ws)
{
	*(ws->newer != NULL ? &ws->newer->older : &table->newest) = ws->older;
	*(ws->older != NULL ? &ws->older->newer : &table->idlest) = ws->newer;
}

struct inode_wstate *inode_wstate(struct fs *fs, struct inode *in)
{
	struct inode_table *table = &fs->inodes;
	struct inode_wstate *ws = in->ws;
	bool is_new = ws == NULL;

	if (is_new) {
		ws = calloc(1, sizeof(*ws));
		if (ws == NULL)
			return NULL;
		alloc_stream_init(&ws->stream);
		ws->ino = in->ino;
		in->ws = ws;
	}
	pthread_mutex_lock(&table->list_lock);
	if (!is_new)
		list_drop_locked(table, ws);
	ws->used_s = inode_clock_s();
	list_push_locked(table, ws);
	pthread_mutex_unlock(&table->list_lock);
	return ws;
}

void inode_end_wstate(struct fs *fs, struct inode *in)
{
	struct inode_wstate *ws = in->ws;

	if (ws == NULL)
		return;
	in->ws = NULL;
	pthread_mutex_lock(&fs->inodes.list_lock);
	list_drop_locked(&fs->inodes, ws);
	pthread_mutex_unlock(&fs->inodes.list_lock);
	alloc_stream_end(&ws->stream);
	free(ws);
}

unsigned inode_idle_writers(struct fs *fs, int64_t before_s, uint64_t *inos, unsigned max)
{
	const struct inode_wstate *ws;
	unsigned n = 0;

	pthread_mutex_lock(&fs->inodes.list_lock);
	for (ws = fs->inodes.idlest; ws != NULL && ws->used_s < before_s && n < max; ws = ws->newer)
		inos[n++] = ws->ino;
	pthread_mutex_unlock(&fs->inodes.list_lock);
	return n;
}

int inode_list_referenced(struct fs *fs, unsigned shard_no, uint64_t **inos, size_t *n)
{
	struct inode_shard *shard = &fs->inodes.shards[shard_no];
	int r = 0;

	*n = 0;
	pthread_mutex_lock(&shard->lock);
	*inos = calloc(max_u64(shard->n, 1), sizeof(**inos));
	if (*inos == NULL)
		r = -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < shard->n_chains; i++)
		for (const struct inode *in = shard->chains[i]; in != NULL; in = in->next)
			if (in->nlookup > 0)
				(*inos)[(*n)++] = in->ino;
	pthread_mutex_unlock(&shard->lock);
	return r;
}

void wstate_add_fresh(struct inode_wstate *ws, uint64_t txn, uint64_t start_blk, uint64_t len_blk)
{
	struct run *last;

	if (ws->fresh_txn != txn) {
		ws->fresh_txn = txn;
		ws->n_fresh = ws->oldest = 0;
	}
	// A stream extends the newest run again and again.
	last = ws->n_fresh > 0 ? &ws->fresh[(ws->oldest + ws->n_fresh - 1) % INODE_FRESH_MAX] : NULL;
	if (last != NULL && last->start_blk + last->len_blk == start_blk) {
		last->len_blk += len_blk;
		return;
	}
	if (ws->n_fresh < INODE_FRESH_MAX) {
		ws->fresh[ws->n_fresh++] = (struct run){ start_blk, len_blk };
		return;
	}
	ws->fresh[ws->oldest] = (struct run){ start_blk, len_blk };
	ws->oldest = (ws->oldest + 1) % INODE_FRESH_MAX;
}

uint64_t wstate_fresh_span(const struct inode_wstate *ws, uint64_t txn, uint64_t start_blk, uint64_t len_blk, bool *fresh)
{
	uint64_t span = len_blk;

	*fresh = false;
	if (ws == NULL || ws->fresh_txn != txn)
		return span;
	for (unsigned i = 0; i < ws->n_fresh; i++) {
		const struct run *run = &ws->fresh[i];

		if (start_blk >= run->start_blk && start_blk - run->start_blk < run->len_blk) {
			*fresh = true;
			return min_u64(len_blk, run->start_blk + run->len_blk - start_blk);
		}
		if (run->start_blk > start_blk)
			span = min_u64(span, run->start_blk - start_blk);
	}
	return span;
}
