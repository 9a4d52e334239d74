// SPDX-License-Identifier: MIT
// Which metaslab serves a request.
//
// Requests of one origin (a directory, else a thread) keep to one metaslab: origins are hashed to a few rotors, each of
// which points to one. So threads do not fight for locks, a directory's files lie near each other, and no more
// metaslabs are loaded than there are rotors until these have become full. When a rotor's metaslab cannot serve a
// request, the tightest other one that promises to is taken; the rotor moves there only when its old one is worn out.
//
// Everything here is a hint read without locks; get.c finds out under the lock.
#include "alloc/alloc_internal.h"

static uint32_t load_hint(const _Atomic uint32_t *hint) { return atomic_load_explicit(hint, memory_order_relaxed); }

static bool is_loaded(const struct metaslab *ms)
{
	return atomic_load_explicit(&ms->loaded, memory_order_relaxed);
}

uint32_t pick_origin(uint32_t locality)
{
	uint64_t x = locality != 0 ? locality : (uint64_t)(uintptr_t)pthread_self();

	x *= 0x9e3779b97f4a7c15ull;
	return (uint32_t)(x >> 32 ^ x >> 52);
}

bool pick_may_have(const struct metaslab *ms, uint64_t n)
{
	if (n > load_hint(&ms->free_blk))
		return false;
	return !is_loaded(ms) || load_hint(&ms->top_bin) >= bin_of((uint32_t)n);
}

// A loaded metaslab knows its longest run up to the width of a bin; of an unloaded one, a quarter of its free space in one
// piece is a fair guess.
static bool promises(const struct metaslab *ms, uint64_t n)
{
	uint32_t bin, top;

	if (n > load_hint(&ms->free_blk))
		return false;
	if (!is_loaded(ms))
		return load_hint(&ms->free_blk) / 4 >= n;
	bin = bin_of((uint32_t)n);
	top = load_hint(&ms->top_bin);
	return top > bin || (top == bin && n < 64); // these bins hold one length only
}

static bool in_other_rotor(const struct alloc *a, uint32_t index, uint32_t own_rotor)
{
	for (uint32_t r = 0; r < N_ROTORS; r++)
		if (r != own_rotor && load_hint(&a->rotor[r]) == index)
			return true;
	return false;
}

// Lower is better: loaded and tight; then not loaded and empty; then one that is in use by others.
static uint64_t cost_of(const struct alloc *a, uint32_t index, uint32_t own_rotor)
{
	const struct metaslab *ms = &a->ms[index];

	if (in_other_rotor(a, index, own_rotor))
		return (2ull << 32) + load_hint(&ms->top_bin);
	if (is_loaded(ms))
		return load_hint(&ms->top_bin);
	return (1ull << 32) + (ms->n_blk - load_hint(&ms->free_blk));
}

struct metaslab *pick_for_run(struct alloc *a, uint32_t origin, uint64_t n, bool again)
{
	uint32_t rotor = origin % N_ROTORS, best = NIL;
	struct metaslab *own = &a->ms[load_hint(&a->rotor[rotor])];
	uint64_t best_cost = UINT64_MAX;

	if (!again && promises(own, n))
		return own;
	for (uint32_t i = 0; i < a->n_ms; i++) {
		uint64_t cost;

		if (!promises(&a->ms[i], n))
			continue;
		cost = cost_of(a, i, rotor);
		if (cost < best_cost) {
			best_cost = cost;
			best = i;
		}
	}
	if (best == NIL)
		return NULL;
	if (!promises(own, SPAN_BLK))
		atomic_store_explicit(&a->rotor[rotor], best, memory_order_relaxed);
	return &a->ms[best];
}

struct metaslab *pick_heaviest(struct alloc *a)
{
	struct metaslab *best = NULL;
	uint32_t best_bin = 0;

	for (uint32_t i = 0; i < a->n_ms; i++) {
		struct metaslab *ms = &a->ms[i];
		uint32_t free_blk = load_hint(&ms->free_blk), bin;

		if (free_blk == 0)
			continue;
		bin = is_loaded(ms) ? load_hint(&ms->top_bin) : bin_of(max_u32(free_blk / 16, 1));
		if (bin > best_bin) {
			best_bin = bin;
			best = ms;
		}
	}
	return best;
}
