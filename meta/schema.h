// SPDX-License-Identifier: MIT
// The tables. doc/FORMAT.md describes the columns; a change here is a change of the format.
#ifndef HYBRIDFS_META_SCHEMA_H
#define HYBRIDFS_META_SCHEMA_H

#define SCHEMA_VERSION 3 // PRAGMA user_version
#define SCHEMA_APPLICATION_ID 0x48794653 // "HyFS", PRAGMA application_id

extern const char schema_sql[]; // CREATE TABLE …; one string of several statements

#endif
