//! What a compressor does to data, measured as the field's papers do: suites, metrics, structure of the errors, reports.

pub mod lattice;
pub mod metrics;
pub mod report;
pub mod run;
pub mod sample;
pub mod ssim;
pub mod structure;
pub mod suite;

pub use run::run;
