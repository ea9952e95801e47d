//! Zarr folders, versions 2 and 3, with nested groups.
//!
//! The hierarchy and its metadata are read and written here, as JSON; the crate `zarrs` codes the chunks. What a
//! [`super::Schema`] has no place for is kept as follows.
//!
//! - **Dimension names**: version 3 `dimension_names`, version 2 `_ARRAY_DIMENSIONS` (not shown as an attribute).
//!   Named dimensions belong to the group of the array. Arrays that come from a format without names get `dim_0`, ….
//! - **Fill values**: version 2's `fill_value` of a number is the attribute `_FillValue`, as xarray reads it. Version 3
//!   keeps the two apart, as xarray does since 2024: `_FillValue` is an attribute (base64 of a little-endian f64 for
//!   floats), and `fill_value` says what missing chunks hold.
//! - **`_zarr_fill_value`** (attribute, JSON): the array's own `fill_value` where it differs from what the writer would
//!   choose (version 2: null or `_FillValue`; version 3: NaN for floats, else zero), so that it comes back the same.
//! - **`_zarr_data_type`** (attribute, text): `bool`, `S5` or `U5` for arrays shown as `u8` or text, so that they come
//!   back as what they were. Both attributes are dropped on writing Zarr.
//! - **Text**: arrays of variable-length UTF-8; one-byte strings (`|S1`) are `char`, as in NetCDF. Version 3 writes
//!   these as zarr-python's `null_terminated_bytes`, which other readers may lack.
//! - **Attributes**: JSON lists of one number, lists of mixed type, objects, booleans and null stay JSON. NaN and
//!   infinities are read and written as Python's bare `NaN`, `Infinity`.
//! - **float16** is read as `f32` and comes back as `f32`: what comes back may differ within the bound, which half
//!   precision could not tell.
//!
//! A name of a dimension that only some dimensions of an array have is not kept.

mod chunks;
mod element;
mod json;
mod read;
mod slots;
mod text;
mod write;

pub use read::ZarrSource;
pub use write::ZarrSink;

use crate::error::{Error, Kind, Result};
use std::ops::Range;
use zarrs::array::ArrayError;
use zarrs::storage::StorageError;

/// Attribute that holds an array's `fill_value`, as JSON.
pub(super) const FILL_VALUE: &str = "_zarr_fill_value";

/// Attribute that holds an array's data type where the schema's element type says less.
const DATA_TYPE: &str = "_zarr_data_type";

/// Attribute of version 2 with the names of the dimensions; xarray's convention.
const ARRAY_DIMENSIONS: &str = "_ARRAY_DIMENSIONS";

/// Decoded bytes of chunks that are coded at once, on all cores; at least one chunk is.
const BATCH_BYTES: usize = 16 << 20;

/// The versions of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V2,
    V3,
}

/// What `zarrs` says of an array's chunks, by who must act.
fn array_error(e: ArrayError) -> Error {
    match e {
        ArrayError::StorageError(StorageError::IOError(e)) => Error::new(Kind::Io, e.to_string()),
        ArrayError::CodecError(e) => Error::input(format!("a chunk does not decode: {e}")),
        e => Error::input(e.to_string()),
    }
}

/// Runs what `zarrs` does with untrusted bytes. It means to return errors, but is not proven to: what panics there is an
/// error here.
fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(Error::input("damaged in a way that the Zarr library does not handle")))
}

/// Number of elements of a box, on this machine.
fn count(lens: impl IntoIterator<Item = u64>) -> Result<usize> {
    lens.into_iter()
        .try_fold(1u64, u64::checked_mul)
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| Error::unsupported("a box is too large for this machine's memory"))
}

/// A box cut in two at the first dimension that can be, and the elements of the first part, which come before those of
/// the second in C order; none if it has fewer than two elements.
fn halves(region: &[Range<u64>]) -> Option<([Vec<Range<u64>>; 2], usize)> {
    let d = region.iter().position(|r| r.end - r.start > 1)?;
    let middle = region[d].start + (region[d].end - region[d].start) / 2;
    let (mut first, mut second) = (region.to_vec(), region.to_vec());
    first[d].end = middle;
    second[d].start = middle;
    let elements = count(first.iter().map(|r| r.end - r.start)).ok()?;
    Some(([first, second], elements))
}
