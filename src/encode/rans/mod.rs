//! Range coding (rANS) in contexts: what a context has seen is a distribution of the built-in [`family`], named by 11 bits.
//!
//! A code is a [`token`] and, for large ones, plain bits. The tokens of a stream are coded by [`LANES`] interleaved states, so that
//! neighbours do not wait for each other (and a warp decodes one stream); 16 bits at a time enter and leave a state. Byte layout in
//! `container/format.md`.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub mod family;
pub mod stream;
pub mod token;

/// Interleaved states of a stream: code `i` belongs to state `i % LANES`.
pub const LANES: usize = 32;
/// Frequencies of a distribution sum to `1 << PRECISION`.
pub const PRECISION: u32 = 14;
