#!/bin/sh
# SPDX-License-Identifier: MIT
# A bug that was planted is found: recovery writes deferred blocks over the superblock and the system files.
set -eu
# shellcheck source=tests/fuzz/lib.sh
. "$(dirname "$0")/lib.sh"
planted_test database guard.c
