#!/bin/sh
# SPDX-License-Identifier: MIT
# Superblocks, mutated by a plain program, which every compiler can build.
set -eu
# shellcheck source=tests/fuzz/lib.sh
. "$(dirname "$0")/lib.sh"
mutate_test superblock
