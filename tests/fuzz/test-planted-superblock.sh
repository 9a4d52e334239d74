#!/bin/sh
# SPDX-License-Identifier: MIT
# A bug that was planted is found: system files may overlap.
set -eu
# shellcheck source=tests/fuzz/lib.sh
. "$(dirname "$0")/lib.sh"
planted_test superblock fuzz_superblock.c
