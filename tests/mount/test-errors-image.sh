#!/bin/sh
# SPDX-License-Identifier: MIT
# Images that cannot be mounted: one line that says why, exit status 32, and nothing on them is changed.
set -eu
# shellcheck source=tests/mount/lib.sh
. "$(dirname "$0")/lib.sh"
require_fuse
make_scratch

# refused TEXT IMAGE
refused() {
	before=$(cksum <"$2")
	fails_with 32 "$1" "$DAEMON" "$2" "$mnt"
	same "$(cksum <"$2")" "$before" "$2 was changed"
	! is_mounted "$mnt" || fail "$2 was mounted"
}

format 64M
cp "$image" "$scratch/truncated"
truncate -s 40M "$scratch/truncated"
refused "truncated" "$scratch/truncated"

dd if=/dev/urandom of="$scratch/random" bs=1M count=16 2>/dev/null
refused "random" "$scratch/random"

: >"$scratch/empty"
refused "empty" "$scratch/empty"

truncate -s 16M "$scratch/zeros"
refused "HybridFS" "$scratch/zeros"

if command -v mkfs.ext4 >/dev/null; then
	truncate -s 16M "$scratch/foreign"
	mkfs.ext4 -q "$scratch/foreign"
	refused "HybridFS" "$scratch/foreign"
fi

cp "$image" "$scratch/newer"
"$FSOP" set-version "$scratch/newer" 99
refused "version 99" "$scratch/newer"

fails_with 32 "No such file" "$DAEMON" "$scratch/missing" "$mnt"
fails_with 32 "directory" "$DAEMON" "$scratch" "$mnt"

# The good one still is.
mount_image
finish
