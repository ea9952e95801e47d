//! What a compressor does to data, measured as the field's papers do: metrics, structure of what is left, reports.

pub mod lattice;
pub mod sample;
