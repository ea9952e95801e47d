//! The classic formats: CDF-1 (`NetCdf3`), CDF-2 (`NetCdf3Offset64`) and CDF-5 (`NetCdf5`).
//!
//! A header of dimensions, attributes and variables, then the values of the variables of fixed size one after the
//! other, then the records: one slice of every variable that has the unlimited dimension, again and again. All numbers
//! have their most significant byte first; everything is padded to 4 bytes. The three differ in the width of numbers:
//!
//! | | magic | counts and lengths | places | types |
//! |-|-|-|-|-|
//! | CDF-1 | `CDF\x01` | 4 bytes | 4 bytes | i8 char i16 i32 f32 f64 |
//! | CDF-2 | `CDF\x02` | 4 bytes | 8 bytes | the same |
//! | CDF-5 | `CDF\x05` | 8 bytes | 8 bytes | and u8 u16 u32 i64 u64 |

pub mod read;
pub mod write;

use super::super::{Format, Variable};
use super::regions;
use crate::error::Result;
use crate::field::DType;
use std::ops::Range;

const TAG_DIMENSIONS: u32 = 0x0A;
const TAG_VARIABLES: u32 = 0x0B;
const TAG_ATTRIBUTES: u32 = 0x0C;

/// Types with their codes; CDF-1 and CDF-2 have the first six.
const TYPES: [(u32, DType); 11] = [
    (1, DType::I8),
    (2, DType::Char),
    (3, DType::I16),
    (4, DType::I32),
    (5, DType::F32),
    (6, DType::F64),
    (7, DType::U8),
    (8, DType::U16),
    (9, DType::U32),
    (10, DType::I64),
    (11, DType::U64),
];

/// Widths of a format's numbers.
#[derive(Clone, Copy)]
struct Widths {
    version: u8,
    /// Counts, lengths and dimension indices are 8 bytes wide, not 4.
    wide_counts: bool,
    /// Places of values are 8 bytes wide, not 4.
    wide_places: bool,
}

impl Widths {
    fn of(format: Format) -> Self {
        match format {
            Format::NetCdf3 => Self { version: 1, wide_counts: false, wide_places: false },
            Format::NetCdf3Offset64 => Self { version: 2, wide_counts: false, wide_places: true },
            _ => Self { version: 5, wide_counts: true, wide_places: true },
        }
    }

    fn types(self) -> &'static [(u32, DType)] {
        if self.wide_counts { &TYPES } else { &TYPES[..6] }
    }
}

/// `n` rounded up to a multiple of 4.
fn padded(n: u64) -> u64 {
    n.next_multiple_of(4)
}

/// Where a variable's values lie.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Offset of the first value.
    begin: u64,
    /// Bytes from one record to the next, if the variable has records.
    record_bytes: Option<u64>,
}

impl Place {
    /// Calls `visit(offset, n)` for every contiguous run of `n` bytes of the box `region`, in C order.
    fn for_each_run(
        &self,
        v: &Variable,
        region: &[Range<u64>],
        mut visit: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let size = v.dtype.size() as u64;
        let Some(record_bytes) = self.record_bytes else {
            return regions::for_each_run(&v.shape, region, |start, n| visit(self.begin + start * size, n * size));
        };
        for record in region[0].clone() {
            let begin = self.begin + record * record_bytes;
            regions::for_each_run(&v.shape[1..], &region[1..], |start, n| visit(begin + start * size, n * size))?;
        }
        Ok(())
    }
}

/// Bytes of one record, given the bytes of one record of every variable that has records: each is padded, unless it is
/// the only one.
fn record_bytes(slices: &[u64]) -> Option<u64> {
    match slices {
        [only] => Some(*only),
        many => many.iter().try_fold(0u64, |sum, &n| sum.checked_add(n.checked_next_multiple_of(4)?)),
    }
}
