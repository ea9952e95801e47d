//! Lossless stages: codes to bytes, exact values to bytes.

pub mod bytes;
pub mod exact;
pub mod huffman;
