#!/bin/sh
# SPDX-License-Identifier: MIT
# The short form of kill.sh that belongs to every run of the tests.
ROUNDS=${ROUNDS:-5} MAX_MS=${MAX_MS:-1500} exec "$(dirname "$0")/kill.sh"
