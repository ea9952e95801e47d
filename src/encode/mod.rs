//! From codes to bytes: the coders, and what they share.

pub mod bits;
pub mod bytes;
pub mod exact;
pub mod huffman;
pub mod numbers;
pub mod rans;
