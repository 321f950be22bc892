#!/usr/bin/env bash
# `make demo`: sets up, builds the one program that the demo runs, and runs it; tells how long each of the three took.
# Arguments go to `walfabric demo`.
set -euo pipefail
cd "$(dirname "$0")/.."

now() { date +%s.%N; }
since() { awk -v from="$1" -v to="$2" 'BEGIN { printf "%.1f", to - from }'; }

began=$(now)
scripts/setup.sh build run
ready=$(now)
# Nothing of the tests, and no optimisation: of a demo of seconds, the compiler's work is the longest part.
cargo build --profile demo -p walfabric --bin walfabric
built=$(now)
exec "${CARGO_TARGET_DIR:-target}/demo/walfabric" demo \
    --setup-seconds "$(since "$began" "$ready")" --build-seconds "$(since "$ready" "$built")" "$@"
