# Commands of the house. `just` lists them.

default:
    @just --list

# Everything that must pass before a change lands, except Python and the fuzzers (see .ci/run).
check:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    cargo test --release

# Size and speed against SZ3 on a folder of .npy files; rewrites the table in BENCHMARKS.md. Needs cmake, libclang, libzstd.
bench:
    python3 benches/write_table.py

# The C library, its header, a pkg-config file and the Fortran module into PREFIX.
install-c PREFIX:
    bash include/install.sh "{{PREFIX}}"

# `include/residuum.h` from `src/capi`.
header:
    RESIDUUM_WRITE_HEADER=1 cargo test --test capi header
