//! Canonical, length-limited Huffman codes over value and zero-run tokens, with the previous token as context, in chunks that
//! decode independently.
//!
//! A maximal run of zeros is one token, so that the cost of a zero may fall far below one bit; every other code is a token of its
//! own ([`token`]). The code book of a token depends on its [`token::Contexts`]: after a run there is never another run,
//! and after a small value a small one is likely. Each chunk of [`CHUNK`] codes names one of a few sets of books, which the
//! encoder fits to consecutive chunks. A chunk is cut into four parts of equal length, each a bit stream of its own, which the
//! decoder reads in lock step, unless it is too short for that.
//!
//! Byte layout in `container/format.md`.

pub(crate) mod book;
mod chunk;
pub mod cost;
pub mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub mod token;
mod tokenize;

/// Codes in a chunk: parallel work for the decoder, small enough that tables follow the data.
pub const CHUNK: usize = 1 << 16;

/// Chunks of fewer coded bytes are one stream: three more lengths would cost more than they gain.
pub const FOUR_STREAMS_FROM_BYTES: usize = 2048;
