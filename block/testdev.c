// SPDX-License-Identifier: MIT
// The device in memory for tests.
//
// Content is an `image`: a two-level table of 64 KiB chunks. Chunks are shared between images and copied on the first
// write (a reference count each), so that a clone or a crash state costs a table, not the bytes. Whole discarded
// chunks and table leaves are one marker: discarding a device of 16 TiB takes no memory.
//
// Crash states are mostly asked for in rising order. The image of everything that was durable at the last one asked
// for is kept, so that going through all prefixes of a log applies each of its entries once, not once per prefix.
#include "block/testdev.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "util/blk.h"

#define CHUNK_BYTES 65536u
#define LEAF_CHUNKS 1024u
#define LEAF_BYTES ((uint64_t)CHUNK_BYTES * LEAF_CHUNKS)

struct chunk {
	atomic_uint refs; // images that point here; written to only at 1
	uint8_t bytes[CHUNK_BYTES];
};

struct leaf {
	struct chunk *chunk[LEAF_CHUNKS]; // NULL = zeros
};

struct image {
	uint64_t size_bytes;
	size_t n_leaves;
	struct leaf **leaf; // NULL = zeros
};

struct fault {
	uint64_t countdown; // fails when it goes from 1 to 0; 0 = none
	int err;            // negative
	bool persistent, broken; // broken: fails from now on
};

struct testdev {
	struct bdev dev;
	pthread_mutex_t lock;
	// all under lock:
	struct image now;
	bool recording;
	struct testdev_entry *log;
	size_t n_log, cap_log;
	struct image base;    // content when the log was empty
	struct image durable; // base and the first n_durable entries of the log
	size_t n_durable;
	struct fault fault[TESTDEV_N_OPS];
	uint64_t n_calls[TESTDEV_N_OPS];
	bool fired;
};

static struct testdev *testdev_of(struct bdev *dev) { return (struct testdev *)dev; }

// ---- images ----

// The marker for "discarded": its address only, at both levels.
static struct chunk *poison_chunk(void)
{
	static struct chunk marker;

	return &marker;
}

static struct leaf *poison_leaf(void)
{
	static struct leaf marker;

	return &marker;
}

static int image_init(struct image *im, uint64_t size_bytes)
{
	im->size_bytes = size_bytes;
	im->n_leaves = (size_t)((size_bytes + LEAF_BYTES - 1) / LEAF_BYTES);
	im->leaf = calloc(im->n_leaves > 0 ? im->n_leaves : 1, sizeof(struct leaf *));
	return im->leaf == NULL ? -ENOMEM : 0;
}

static void chunk_drop(struct chunk *c)
{
	if (c != NULL && c != poison_chunk() && atomic_fetch_sub(&c->refs, 1) == 1)
		free(c);
}

static void leaf_free(struct leaf *leaf)
{
	if (leaf == NULL || leaf == poison_leaf())
		return;
	for (size_t i = 0; i < LEAF_CHUNKS; i++)
		chunk_drop(leaf->chunk[i]);
	free(leaf);
}

static void image_free(struct image *im)
{
	for (size_t i = 0; i < im->n_leaves; i++)
		leaf_free(im->leaf[i]);
	free(im->leaf);
	*im = (struct image){ 0 };
}

static struct leaf *leaf_copy(const struct leaf *from)
{
	struct leaf *leaf = malloc(sizeof(*leaf));

	if (leaf == NULL)
		return NULL;
	*leaf = *from;
	for (size_t i = 0; i < LEAF_CHUNKS; i++)
		if (leaf->chunk[i] != NULL && leaf->chunk[i] != poison_chunk())
			atomic_fetch_add(&leaf->chunk[i]->refs, 1);
	return leaf;
}

static int image_copy(struct image *to, const struct image *from)
{
	int rc = image_init(to, from->size_bytes);

	for (size_t i = 0; rc == 0 && i < from->n_leaves; i++) {
		if (from->leaf[i] == NULL || from->leaf[i] == poison_leaf())
			to->leaf[i] = from->leaf[i];
		else if ((to->leaf[i] = leaf_copy(from->leaf[i])) == NULL)
			rc = -ENOMEM;
	}
	if (rc != 0)
		image_free(to);
	return rc;
}

// The chunk that holds a byte: NULL (zeros), the marker, or one to read from.
static const struct chunk *image_chunk(const struct image *im, uint64_t off_bytes)
{
	const struct leaf *leaf = im->leaf[off_bytes / LEAF_BYTES];

	if (leaf == NULL)
		return NULL;
	if (leaf == poison_leaf())
		return poison_chunk();
	return leaf->chunk[off_bytes / CHUNK_BYTES % LEAF_CHUNKS];
}

// The same place in the table, for changing.
static struct chunk **image_slot(struct image *im, uint64_t off_bytes)
{
	struct leaf **leaf = &im->leaf[off_bytes / LEAF_BYTES];
	bool poison = *leaf == poison_leaf();

	if (*leaf == NULL || poison) {
		*leaf = calloc(1, sizeof(**leaf));
		if (*leaf == NULL) {
			*leaf = poison ? poison_leaf() : NULL;
			return NULL;
		}
		for (size_t i = 0; poison && i < LEAF_CHUNKS; i++)
			(*leaf)->chunk[i] = poison_chunk();
	}
	return &(*leaf)->chunk[off_bytes / CHUNK_BYTES % LEAF_CHUNKS];
}

// The bytes of a chunk that no other image sees.
static uint8_t *image_own(struct image *im, uint64_t off_bytes)
{
	struct chunk **slot = image_slot(im, off_bytes), *own;

	if (slot == NULL)
		return NULL;
	if (*slot != NULL && *slot != poison_chunk() && atomic_load(&(*slot)->refs) == 1)
		return (*slot)->bytes;
	own = malloc(sizeof(*own));
	if (own == NULL)
		return NULL;
	atomic_init(&own->refs, 1);
	if (*slot == NULL)
		memset(own->bytes, 0, CHUNK_BYTES);
	else if (*slot == poison_chunk())
		memset(own->bytes, TESTDEV_POISON, CHUNK_BYTES);
	else
		memcpy(own->bytes, (*slot)->bytes, CHUNK_BYTES);
	chunk_drop(*slot);
	*slot = own;
	return own->bytes;
}

static uint64_t left_in_chunk(uint64_t off_bytes, uint64_t len_bytes)
{
	return min_u64(len_bytes, CHUNK_BYTES - off_bytes % CHUNK_BYTES);
}

static void image_read(const struct image *im, uint8_t *to, uint64_t len_bytes, uint64_t off_bytes)
{
	for (uint64_t n; len_bytes > 0; to += n, off_bytes += n, len_bytes -= n) {
		const struct chunk *c = image_chunk(im, off_bytes);

		n = left_in_chunk(off_bytes, len_bytes);
		if (c == NULL)
			memset(to, 0, n);
		else if (c == poison_chunk())
			memset(to, TESTDEV_POISON, n);
		else
			memcpy(to, c->bytes + off_bytes % CHUNK_BYTES, n);
	}
}

static bool all_zeros(const uint8_t *bytes, uint64_t n) { return bytes[0] == 0 && memcmp(bytes, bytes + 1, n - 1) == 0; }

static int image_write(struct image *im, const uint8_t *from, uint64_t len_bytes, uint64_t off_bytes)
{
	for (uint64_t n; len_bytes > 0; from += n, off_bytes += n, len_bytes -= n) {
		uint8_t *own;

		n = left_in_chunk(off_bytes, len_bytes);
		if (image_chunk(im, off_bytes) == NULL && all_zeros(from, n))
			continue;
		own = image_own(im, off_bytes);
		if (own == NULL)
			return -ENOMEM;
		memcpy(own + off_bytes % CHUNK_BYTES, from, n);
	}
	return 0;
}

static int image_discard_part(struct image *im, uint64_t len_bytes, uint64_t off_bytes)
{
	struct chunk **slot;
	uint8_t *own;

	if (len_bytes == CHUNK_BYTES) {
		slot = image_slot(im, off_bytes);
		if (slot == NULL)
			return -ENOMEM;
		chunk_drop(*slot);
		*slot = poison_chunk();
		return 0;
	}
	own = image_own(im, off_bytes);
	if (own == NULL)
		return -ENOMEM;
	memset(own + off_bytes % CHUNK_BYTES, TESTDEV_POISON, len_bytes);
	return 0;
}

static int image_discard(struct image *im, uint64_t len_bytes, uint64_t off_bytes)
{
	int rc = 0;

	for (uint64_t n; rc == 0 && len_bytes > 0; off_bytes += n, len_bytes -= n) {
		struct leaf **leaf = &im->leaf[off_bytes / LEAF_BYTES];

		if (off_bytes % LEAF_BYTES == 0 && len_bytes >= LEAF_BYTES) {
			n = LEAF_BYTES;
			leaf_free(*leaf);
			*leaf = poison_leaf();
		} else {
			n = left_in_chunk(off_bytes, len_bytes);
			rc = image_discard_part(im, n, off_bytes);
		}
	}
	return rc;
}

// Sectors [from, to) of an entry of a log.
static int image_apply(struct image *im, const struct testdev_entry *e, uint64_t from_sector, uint64_t to_sector)
{
	uint64_t from = from_sector * TESTDEV_SECTOR, to = min_u64(to_sector * TESTDEV_SECTOR, e->len_bytes);

	if (from >= to)
		return 0;
	if (e->op == TESTDEV_WRITE)
		return image_write(im, (const uint8_t *)e->data + from, to - from, e->off_bytes + from);
	if (e->op == TESTDEV_DISCARD)
		return image_discard(im, to - from, e->off_bytes + from);
	return 0;
}

static uint64_t entry_sectors(const struct testdev_entry *e)
{
	return (e->len_bytes + TESTDEV_SECTOR - 1) / TESTDEV_SECTOR;
}

// ---- the log ----

static void log_clear_locked(struct testdev *t)
{
	for (size_t i = 0; i < t->n_log; i++)
		free((void *)t->log[i].data);
	free(t->log);
	t->log = NULL;
	t->n_log = t->cap_log = t->n_durable = 0;
	image_free(&t->base);
	image_free(&t->durable);
}

// Takes over `data`, also when it fails.
static int log_append_locked(struct testdev *t, enum testdev_op op, uint64_t off_bytes, uint64_t len_bytes, void *data)
{
	struct testdev_entry *bigger;
	size_t cap;

	if (t->n_log == t->cap_log) {
		cap = t->cap_log == 0 ? 64 : t->cap_log * 2;
		bigger = reallocarray(t->log, cap, sizeof(*bigger));
		if (bigger == NULL) {
			free(data);
			return -ENOMEM;
		}
		t->log = bigger;
		t->cap_log = cap;
	}
	t->log[t->n_log++] = (struct testdev_entry){ op, off_bytes, len_bytes, data };
	return 0;
}

// A test cannot go on without the memory that it was promised.
void testdev_record(struct bdev *dev, bool on)
{
	struct testdev *t = testdev_of(dev);

	pthread_mutex_lock(&t->lock);
	if (on) {
		log_clear_locked(t);
		VERIFY(image_copy(&t->base, &t->now) == 0);
		VERIFY(image_copy(&t->durable, &t->now) == 0);
	}
	t->recording = on;
	pthread_mutex_unlock(&t->lock);
}

size_t testdev_log_len(struct bdev *dev) { return testdev_of(dev)->n_log; }

const struct testdev_entry *testdev_log_at(struct bdev *dev, size_t i)
{
	VERIFY(i < testdev_of(dev)->n_log);
	return &testdev_of(dev)->log[i];
}

// ---- the device ----

// Counts a call and says whether it fails.
static int strike_locked(struct testdev *t, enum testdev_op op)
{
	struct fault *f = &t->fault[op];

	t->n_calls[op]++;
	if (f->countdown > 0 && --f->countdown == 0) {
		t->fired = true;
		f->broken = f->persistent;
		return f->err;
	}
	return f->broken ? f->err : 0;
}

static int testdev_readv(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes)
{
	struct testdev *t = testdev_of(dev);
	int rc;

	pthread_mutex_lock(&t->lock);
	rc = strike_locked(t, TESTDEV_READ);
	for (int i = 0; rc == 0 && i < n_iov; i++) {
		image_read(&t->now, iov[i].iov_base, iov[i].iov_len, off_bytes);
		off_bytes += iov[i].iov_len;
	}
	pthread_mutex_unlock(&t->lock);
	return rc;
}

// One request is one entry of the log, in however many pieces it comes.
static uint8_t *gather(const struct iovec *iov, int n_iov, uint64_t *len_bytes)
{
	uint64_t done = 0, sum = 0;
	uint8_t *buf;

	for (int i = 0; i < n_iov; i++)
		sum += iov[i].iov_len;
	buf = malloc(sum);
	for (int i = 0; buf != NULL && i < n_iov; i++) {
		if (iov[i].iov_len > 0)
			memcpy(buf + done, iov[i].iov_base, iov[i].iov_len);
		done += iov[i].iov_len;
	}
	*len_bytes = sum;
	return buf;
}

static int testdev_writev(struct bdev *dev, const struct iovec *iov, int n_iov, uint64_t off_bytes)
{
	struct testdev *t = testdev_of(dev);
	uint64_t len_bytes;
	uint8_t *buf = gather(iov, n_iov, &len_bytes);
	int rc;

	if (buf == NULL)
		return -ENOMEM;
	pthread_mutex_lock(&t->lock);
	rc = strike_locked(t, TESTDEV_WRITE);
	if (rc == 0)
		rc = image_write(&t->now, buf, len_bytes, off_bytes);
	if (rc == 0 && t->recording) {
		rc = log_append_locked(t, TESTDEV_WRITE, off_bytes, len_bytes, buf);
		buf = NULL;
	}
	pthread_mutex_unlock(&t->lock);
	free(buf);
	return rc;
}

static int testdev_flush(struct bdev *dev)
{
	struct testdev *t = testdev_of(dev);
	int rc;

	pthread_mutex_lock(&t->lock);
	rc = strike_locked(t, TESTDEV_FLUSH);
	if (rc == 0 && t->recording)
		rc = log_append_locked(t, TESTDEV_FLUSH, 0, 0, NULL);
	pthread_mutex_unlock(&t->lock);
	return rc;
}

static int testdev_discard(struct bdev *dev, uint64_t off_bytes, uint64_t len_bytes)
{
	struct testdev *t = testdev_of(dev);
	int rc;

	pthread_mutex_lock(&t->lock);
	rc = strike_locked(t, TESTDEV_DISCARD);
	if (rc == 0)
		rc = image_discard(&t->now, len_bytes, off_bytes);
	if (rc == 0 && t->recording)
		rc = log_append_locked(t, TESTDEV_DISCARD, off_bytes, len_bytes, NULL);
	pthread_mutex_unlock(&t->lock);
	return rc;
}

static void testdev_close(struct bdev *dev)
{
	struct testdev *t = testdev_of(dev);

	log_clear_locked(t);
	image_free(&t->now);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static const struct bdev_ops testdev_ops = {
	.kind = "memory",
	.readv = testdev_readv,
	.writev = testdev_writev,
	.flush = testdev_flush,
	.discard = testdev_discard,
	.close = testdev_close,
};

// Takes over the image, also when it fails.
static int make_testdev(struct image *content, struct bdev **out)
{
	struct testdev *t = calloc(1, sizeof(*t));

	if (t == NULL || (t->dev.name = strdup("testdev")) == NULL) {
		free(t);
		image_free(content);
		return -ENOMEM;
	}
	t->dev.ops = &testdev_ops;
	t->dev.size_bytes = content->size_bytes;
	t->dev.can_discard = true;
	t->now = *content;
	pthread_mutex_init(&t->lock, NULL);
	*out = &t->dev;
	return 0;
}

int testdev_create(uint64_t size_bytes, struct bdev **out)
{
	struct image content = { 0 };
	int rc = image_init(&content, blk_to_bytes(bytes_to_blk_down(size_bytes)));

	return rc == 0 ? make_testdev(&content, out) : rc;
}

int testdev_clone(struct bdev *dev, struct bdev **out)
{
	struct testdev *t = testdev_of(dev);
	struct image content = { 0 };
	int rc;

	pthread_mutex_lock(&t->lock);
	rc = image_copy(&content, &t->now);
	pthread_mutex_unlock(&t->lock);
	return rc == 0 ? make_testdev(&content, out) : rc;
}

// ---- crash states ----

// How many of the first n entries a crash cannot touch: up to the last flush among them.
static size_t n_durable_of(const struct testdev *t, size_t n)
{
	while (n > 0 && t->log[n - 1].op != TESTDEV_FLUSH)
		n--;
	return n;
}

// Brings t->durable to the first n entries.
static int advance_durable_locked(struct testdev *t, size_t n)
{
	struct image again = { 0 };
	int rc = 0;

	if (n < t->n_durable) {
		rc = image_copy(&again, &t->base);
		if (rc != 0)
			return rc;
		image_free(&t->durable);
		t->durable = again;
		t->n_durable = 0;
	}
	for (; rc == 0 && t->n_durable < n; t->n_durable += rc == 0)
		rc = image_apply(&t->durable, &t->log[t->n_durable], 0, entry_sectors(&t->log[t->n_durable]));
	return rc;
}

int testdev_crash_state(struct bdev *dev, size_t n, testdev_keep_fn keep, void *ctx, struct bdev **out)
{
	struct testdev *t = testdev_of(dev);
	struct image content = { 0 };
	size_t first;
	int rc;

	VERIFY(n <= t->n_log && t->base.leaf != NULL); // recording was never on, or an entry that does not exist
	pthread_mutex_lock(&t->lock);
	first = n_durable_of(t, n);
	rc = advance_durable_locked(t, first);
	if (rc == 0)
		rc = image_copy(&content, &t->durable);
	for (size_t i = first; rc == 0 && i < n; i++) {
		uint64_t from = 0, to = entry_sectors(&t->log[i]);

		if (keep == NULL || keep(ctx, i, &from, &to))
			rc = image_apply(&content, &t->log[i], from, to);
	}
	pthread_mutex_unlock(&t->lock);
	if (rc != 0) {
		image_free(&content);
		return rc;
	}
	return make_testdev(&content, out);
}

int testdev_crash_pieces(struct bdev *dev, size_t n, const struct testdev_piece *pieces, size_t n_pieces, struct bdev **out)
{
	struct testdev *t = testdev_of(dev);
	struct image content = { 0 };
	size_t first;
	int rc;

	VERIFY(n <= t->n_log && t->base.leaf != NULL);
	pthread_mutex_lock(&t->lock);
	first = n_durable_of(t, n);
	rc = advance_durable_locked(t, first);
	if (rc == 0)
		rc = image_copy(&content, &t->durable);
	for (size_t i = 0; rc == 0 && i < n_pieces; i++) {
		VERIFY(pieces[i].entry >= first && pieces[i].entry < n); // what a flush has passed cannot come again
		rc = image_apply(&content, &t->log[pieces[i].entry], pieces[i].from_sector, pieces[i].to_sector);
	}
	pthread_mutex_unlock(&t->lock);
	if (rc != 0) {
		image_free(&content);
		return rc;
	}
	return make_testdev(&content, out);
}

// ---- faults ----

void testdev_fail(struct bdev *dev, enum testdev_op op, uint64_t nth, int err, bool persistent)
{
	struct testdev *t = testdev_of(dev);

	pthread_mutex_lock(&t->lock);
	t->fault[op] = (struct fault){ .countdown = nth, .err = -abs(err), .persistent = persistent };
	memset(t->n_calls, 0, sizeof(t->n_calls));
	t->fired = false;
	pthread_mutex_unlock(&t->lock);
}

uint64_t testdev_count(struct bdev *dev, enum testdev_op op)
{
	struct testdev *t = testdev_of(dev);
	uint64_t n;

	pthread_mutex_lock(&t->lock);
	n = t->n_calls[op];
	pthread_mutex_unlock(&t->lock);
	return n;
}

bool testdev_fault_fired(struct bdev *dev)
{
	struct testdev *t = testdev_of(dev);
	bool fired;

	pthread_mutex_lock(&t->lock);
	fired = t->fired;
	pthread_mutex_unlock(&t->lock);
	return fired;
}
