// SPDX-License-Identifier: MIT
// Memory that runs out: malloc and its relatives of the whole process, defined here and so before those of the C library. Counts
// the blocks that are allocated, too: the cheapest leak check there is (AddressSanitizer, whose strdup() does not come by here, brings
// its own).
//
// Below stands libc's allocator, by the names that it exports for this.
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "inject.h"

#ifdef __SANITIZE_ADDRESS__
// What the loader keeps of a library, where LeakSanitizer does not look.
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:dl_open_worker_begin\n"; }
const char *__lsan_default_options(void);
const char *__lsan_default_options(void) { return "print_suppressions=0"; }
#endif

// Sanitizers take memory for themselves in ways that cannot be told apart, and end the process when there is none: no faults of this kind there.
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)

#define BELOW(name) __libc_##name

void *BELOW(malloc)(size_t size);
void *BELOW(calloc)(size_t n, size_t size);
void *BELOW(realloc)(void *old, size_t size);
void *BELOW(memalign)(size_t align, size_t size);
void BELOW(free)(void *ptr);

INJECT_EARLY static bool is_out(void *caller)
{
	if (!inject_strike(FAULT_MEM, caller))
		return false;
	errno = ENOMEM;
	return true;
}

INJECT_EARLY static void *counted(void *ptr)
{
	if (ptr != NULL)
		atomic_fetch_add_explicit(&inject_state()->live, 1, memory_order_relaxed);
	return ptr;
}

INJECT_EARLY void *malloc(size_t size) { return is_out(__builtin_return_address(0)) ? NULL : counted(BELOW(malloc)(size)); }
INJECT_EARLY void *calloc(size_t n, size_t size) { return is_out(__builtin_return_address(0)) ? NULL : counted(BELOW(calloc)(n, size)); }

INJECT_EARLY static void *resize(void *old, size_t size, void *caller)
{
	void *ptr;

	if (is_out(caller))
		return NULL;
	ptr = BELOW(realloc)(old, size);
	if (old == NULL)
		return counted(ptr);
	if (ptr == NULL && size == 0)
		atomic_fetch_sub_explicit(&inject_state()->live, 1, memory_order_relaxed);
	return ptr;
}

INJECT_EARLY void *realloc(void *old, size_t size) { return resize(old, size, __builtin_return_address(0)); }

INJECT_EARLY void *reallocarray(void *old, size_t n, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	return resize(old, bytes, __builtin_return_address(0));
}

INJECT_EARLY void *memalign(size_t align, size_t size)
{
	return is_out(__builtin_return_address(0)) ? NULL : counted(BELOW(memalign)(align, size));
}

INJECT_EARLY void *aligned_alloc(size_t align, size_t size)
{
	return is_out(__builtin_return_address(0)) ? NULL : counted(BELOW(memalign)(align, size));
}

INJECT_EARLY int posix_memalign(void **out, size_t align, size_t size)
{
	void *ptr = is_out(__builtin_return_address(0)) ? NULL : counted(BELOW(memalign)(align, size));

	if (ptr == NULL)
		return ENOMEM;
	*out = ptr;
	return 0;
}

INJECT_EARLY void free(void *ptr)
{
	if (ptr != NULL)
		atomic_fetch_sub_explicit(&inject_state()->live, 1, memory_order_relaxed);
	BELOW(free)(ptr);
}

#endif
