//! Passes over values before they are coded.

use crate::awake;
use crate::bound::{Stats, is_special};
use crate::field::Values;
use crate::predict::fitted::Rows;
use rayon::prelude::*;

/// As [`statistics`], of values of any type; of others than floats there are none.
pub(crate) fn statistics_of(values: &Values, fill: Option<u64>) -> Stats {
    match values {
        Values::F32(v) => statistics(v, fill.map(f32_of)),
        Values::F64(v) => statistics(v, fill.map(f64::from_bits)),
        _ => Stats::default(),
    }
}

/// Whether any of the values has these bits.
pub(crate) fn has_bits(values: &Values, bits: u64) -> bool {
    match values {
        Values::F32(v) => v.par_chunks(BLOCK).any(|block| block.iter().any(|x| u64::from(x.to_bits()) == bits)),
        Values::F64(v) => v.par_chunks(BLOCK).any(|block| block.iter().any(|x| x.to_bits() == bits)),
        _ => false,
    }
}

fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// Values that a task of a scan looks at.
pub(super) const BLOCK: usize = 1 << 15;

/// Statistics of the values (f32 or f64) that are not special.
pub fn statistics<T: Rows>(values: &[T], fill: Option<T>) -> Stats {
    let of_block = |values: &[T]| {
        let (min, max, any_special) = T::scan(values, fill);
        if !any_special {
            return Stats { min: min.to_f64(), max: max.to_f64(), n: values.len() as u64 };
        }
        values
            .iter()
            .filter(|&&v| !is_special(v, fill))
            .fold(Stats::default(), |s, v| s.merged(Stats { min: v.to_f64(), max: v.to_f64(), n: 1 }))
    };
    let blocks = awake::map(values.chunks(BLOCK).collect(), usize::MAX, of_block);
    blocks.into_iter().fold(Stats::default(), Stats::merged)
}

/// A working copy with NaN in marked places.
pub(crate) fn mark<T: Rows>(values: &[T], marks: &[bool]) -> Vec<T> {
    values.iter().zip(marks).map(|(&v, &m)| if m { T::NAN } else { v }).collect()
}
