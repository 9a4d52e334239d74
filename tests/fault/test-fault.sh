#!/bin/sh
# SPDX-License-Identifier: MIT
# Every kind of request fails: see trial.h. By hand, set BUILD to the build folder (default: the source folder's build).
set -eu
srcdir=$(cd "$(dirname "$0")" && pwd)
exec "${abs_top_builddir:-${BUILD:-$srcdir/../../build}}/tests/fault/fault" ${FAULT_FLAGS:-}
