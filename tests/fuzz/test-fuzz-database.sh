#!/bin/sh
# SPDX-License-Identifier: MIT
# Damaged volumes under libFuzzer. FUZZ_SECONDS: how long (20).
set -eu
# shellcheck source=tests/fuzz/lib.sh
. "$(dirname "$0")/lib.sh"
fuzz_test database 256
