// SPDX-License-Identifier: MIT
// SQLite's memory during a run. Opening a database takes thousands of small pieces, and ASan's malloc() made them the
// largest cost of an input. Pieces up to 1 KiB come from here, poisoned around and after their use, so that reading
// beyond a column's value is still found.
#ifndef HYBRIDFS_TESTS_FUZZ_SQLMEM_H
#define HYBRIDFS_TESTS_FUZZ_SQLMEM_H

// Before SQLite is initialised. The pieces stay the process's.
void sqlmem_use(void);

#endif
