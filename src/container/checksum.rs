//! Checksums of sections: XXH3, 64 bits.

use xxhash_rust::xxh3::Xxh3;

/// Checksum of a section: its kind, then its payload.
pub fn of_section(kind: u8, payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&[kind]);
    hash.update(payload);
    hash.digest()
}
