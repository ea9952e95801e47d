//! Caps on what an archive may ask for, checked before any allocation. Generous for real data, harmless in memory.

/// Values in a tile: 64 Mi, that is 512 MiB of f64: a step of 37 levels at 0.25° fits. Writers make tiles of at most an eighth of it, unless a single step beside a
/// forecast is larger.
pub const MAX_TILE_VALUES: u64 = 1 << 26;

/// Texts of any length in a tile: each takes memory, be it empty. Writers make no larger tiles either.
pub const MAX_TILE_TEXTS: u64 = 1 << 16;

/// Bytes of the schema (names, attributes) when unpacked.
pub const MAX_SCHEMA_BYTES: usize = 1 << 25;

/// CBOR items of the schema: each takes up to some 30 bytes in memory, however few it has in the file.
pub const MAX_SCHEMA_ITEMS: usize = 1 << 22;

/// Groups, dimensions and variables of a schema, of each.
pub const MAX_SCHEMA_OBJECTS: u64 = 1 << 17;

/// Bytes of a plan.
pub const MAX_PLAN_BYTES: u64 = 1 << 16;

/// Bytes of the index: some 128 million tiles at one byte each, as tiles below 128 bytes take; two words each are kept in memory.
pub const MAX_INDEX_BYTES: u64 = 1 << 27;

/// Bytes of weights in an archive: those of larger models stay apart.
pub const MAX_WEIGHTS_BYTES: u64 = 1 << 29;

/// Coded bytes of a tile: its values as f64, and as much again for lists of exact values that do not compress.
pub const MAX_TILE_BYTES: u64 = MAX_TILE_VALUES * 16 + (1 << 16);
