//! The archive file: sections with checksums, an index at the end, random access. Normative text in `format.md`.
//!
//! [`Writer`] writes front to back to anything that takes bytes, one tile at a time; [`Archive`] reads any tile by one seek.
//! An archive whose writer died has no index; [`Archive::recover`] reads it up to its last whole section, and what is whole of a damaged one.

#[cfg(feature = "forecast")]
mod beside;
mod boxes;
mod checksum;
mod index;
pub mod limits;
mod reader;
mod recover;
mod room;
mod schema;
pub(crate) mod section;
mod writer;

pub(crate) use boxes::{copy_values, cut};
pub use reader::{Archive, StoredVariable};
pub use room::max_archive_bytes;
pub use section::VERSION;
pub use writer::Writer;

use crate::error::Error;

/// An error of damage, with what can be done.
fn advised(e: &Error) -> Error {
    Error::corrupt(format!("{e}; `residuum decompress --recover` restores what is whole"))
}
