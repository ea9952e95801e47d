#!/usr/bin/env bash
# Builds the fuzz targets with coverage (a stable compiler will do) and runs each for some seconds.
#   tests/fuzz/run.sh [SECONDS_EACH] [TARGET…]
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
shift || true
targets=${*:-archive metadata tile field netcdf npy zarr}
host=$(rustc -vV | sed -n 's/^host: //p')
# Coverage for our own code and the Rust crates; build scripts and macros stay as they are thanks to --target.
export RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
export CARGO_TARGET_DIR=../../target/fuzz
cargo build --release --quiet --target "$host"
work=$CARGO_TARGET_DIR/corpus
python3 seeds.py "$work"
for target in $targets; do
    mkdir -p "$work/$target" "$CARGO_TARGET_DIR/artifacts"
    echo "-- $target, $seconds s"
    log=$CARGO_TARGET_DIR/$target.log
    if ! "$CARGO_TARGET_DIR/$host/release/$target" "$work/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 \
        -malloc_limit_mb=1500 -max_len=20000 -print_final_stats=1 -seed=1 -artifact_prefix="$CARGO_TARGET_DIR/artifacts/$target-" > "$log" 2>&1; then
        tail -n 40 "$log"
        exit 1
    fi
    grep -E "stat::(number_of_executed_units|peak_rss_mb)" "$log"
done
