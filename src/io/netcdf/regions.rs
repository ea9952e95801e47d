//! Boxes in arrays: checks, and the contiguous runs that a box consists of.

use super::super::raw::Runs;
use super::super::{Schema, Variable};
use crate::error::{Error, Result};
use std::ops::Range;

/// The variable with the index `variable`.
pub fn variable(schema: &Schema, variable: usize) -> Result<&Variable> {
    schema.variables.get(variable).ok_or_else(|| {
        Error::usage(format!("there is no variable {variable}, the file has {}", schema.variables.len()))
    })
}

/// That `region` lies in an array of `shape`.
pub fn check(shape: &[u64], region: &[Range<u64>]) -> Result<()> {
    let inside = region.len() == shape.len() && region.iter().zip(shape).all(|(r, &n)| r.start <= r.end && r.end <= n);
    if inside { Ok(()) } else { Err(Error::usage(format!("the box {region:?} is not inside the shape {shape:?}"))) }
}

/// Number of elements in `region`, which was checked.
pub fn len(region: &[Range<u64>]) -> u64 {
    region.iter().map(|r| r.end - r.start).product()
}

/// Number of elements of an array of `shape`, if its bytes can be counted.
pub fn checked_len(shape: &[u64], element_bytes: usize) -> Option<u64> {
    let n = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
    n.checked_mul(element_bytes.max(1) as u64).filter(|&bytes| bytes <= i64::MAX as u64)?;
    Some(n)
}

/// Calls `visit(start, len)` for every run of elements of `region` that is contiguous in a C-order array of `shape`.
/// Runs come in C order of the region, so that a buffer of the region is consumed from front to back.
pub fn for_each_run(shape: &[u64], region: &[Range<u64>], mut visit: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
    Runs::new(shape, region)?.try_for_each(|(start, n)| visit(start, n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(shape: &[u64], region: &[Range<u64>]) -> Vec<(u64, u64)> {
        let mut runs = vec![];
        for_each_run(shape, region, |start, n| {
            runs.push((start, n));
            Ok(())
        })
        .unwrap();
        runs
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // boxes of one axis
    fn runs_cover_the_box_in_order() {
        assert_eq!(runs(&[], &[]), [(0, 1)]);
        assert_eq!(runs(&[5], &[1..4]), [(1, 3)]);
        assert_eq!(runs(&[5], &[1..1]), []);
        assert_eq!(runs(&[2, 3, 4], &[0..2, 0..3, 0..4]), [(0, 24)]);
        assert_eq!(runs(&[2, 3, 4], &[1..2, 1..3, 0..4]), [(16, 8)]);
        assert_eq!(runs(&[2, 3, 4], &[0..2, 1..2, 0..4]), [(4, 4), (16, 4)]);
        assert_eq!(runs(&[2, 3, 4], &[0..2, 1..3, 3..4]), [(7, 1), (11, 1), (19, 1), (23, 1)]);
    }

    #[test]
    fn lengths_that_overflow_are_refused() {
        assert_eq!(checked_len(&[3, 4], 8), Some(12));
        assert_eq!(checked_len(&[1 << 40, 1 << 40], 1), None);
        assert_eq!(checked_len(&[1 << 61], 8), None);
    }
}
