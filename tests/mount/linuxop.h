// SPDX-License-Identifier: MIT
// What the files of linuxop share. An operation gets its arguments and returns the exit status.
#ifndef HYBRIDFS_TESTS_LINUXOP_H
#define HYBRIDFS_TESTS_LINUXOP_H

int complain(const char *what); // with errno; returns 1
int wrong(const char *what);    // likewise

// linuxop_locks.c
int op_locks(char **arg);     // FILE
int op_lease(char **arg);     // FILE
int op_interrupt(char **arg); // FILE SIGNALS

// linuxop_limits.c
int op_links(char **arg);     // FILE NUMBER: so many names, and not one more
int op_subdirs(char **arg);   // DIRECTORY NUMBER
int op_long_path(char **arg); // DIRECTORY
int op_socket(char **arg);    // DIRECTORY
int op_errors(char **arg);    // DIRECTORY, an empty one

#endif
