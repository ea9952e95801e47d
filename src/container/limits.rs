//! Caps on what an archive may ask for, checked before any allocation. Generous for real data, harmless in memory.

/// Values in a tile: 32 Mi, that is 256 MiB of f64. Writers make tiles of at most a quarter of it.
pub const MAX_TILE_VALUES: u64 = 1 << 25;

/// Bytes of the schema (names, attributes) when unpacked.
pub const MAX_SCHEMA_BYTES: usize = 1 << 26;

/// Bytes of a plan.
pub const MAX_PLAN_BYTES: u64 = 1 << 16;

/// Bytes of the index: some 16 million tiles.
pub const MAX_INDEX_BYTES: u64 = 1 << 27;

/// Coded bytes of a tile: its values as f64, and as much again for lists of exact values that do not compress.
pub const MAX_TILE_BYTES: u64 = MAX_TILE_VALUES * 16 + (1 << 16);
