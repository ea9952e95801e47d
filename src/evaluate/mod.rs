//! What a compressor does to data, measured as the field's papers do: suites, metrics, structure of residuals and errors, reports.
//!
//! A file's variables are copied once ([`extract`]); each method makes an archive of them and restores it ([`method`]), in processes of their
//! own; all figures ([`figures`]) are computed from the copy, what was restored and the archive, block by block and image by image: memory
//! does not grow with the data, disk does. Times are of reading values from a file (likely cached) and writing the archive, and the reverse.

pub mod extract;
pub mod figures;
pub mod lattice;
pub mod maps;
pub mod method;
pub mod metrics;
#[cfg(feature = "peers")]
pub mod peers;
pub mod report;
pub mod run;
pub mod sample;
pub mod spectrum;
pub mod ssim;
pub mod structure;
pub mod suite;

pub use run::run;
