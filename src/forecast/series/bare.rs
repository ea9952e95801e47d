//! Forecasts as predictions, without any step in space: the residual of each value alone, Huffman and zstd. It is how forecasts were put in front of
//! SZ3's quantizer and coder in arXiv 2606.14353, kept for comparison; our Huffman stage with its zero runs flatters it a little.
//!
//! An image without a forecast is predicted by the same level a step before, that of a first step value by value: each by the one before.

use crate::codes::TileCodes;
use crate::encode::huffman::{self, cpu::Packing};
use crate::error::Result;
use crate::predict::collect_misses;
use crate::predict::fitted::Rows;
use crate::predict::fitted::encode::Known;
use crate::quantize::outlier::Outliers;
use crate::scratch::Buffer;

/// What both directions keep from step to step.
struct Course<T> {
    /// Pixels of an image.
    pixels: usize,
    /// What was decoded of the step before.
    before: Vec<T>,
    base: T,
}

impl<T: Rows> Course<T> {
    /// Goes through a step: `row` is given a position in the tile and predictions, and makes them what is decoded.
    fn step(&mut self, step: usize, forecasts: &[Option<Vec<T>>], mut row: impl FnMut(usize, &mut [T])) -> Vec<T> {
        let mut out = Vec::with_capacity(forecasts.len() * self.pixels);
        for (level, forecast) in forecasts.iter().enumerate() {
            let start = (step * forecasts.len() + level) * self.pixels;
            let from = out.len();
            match (forecast, self.before.get(level * self.pixels..)) {
                (Some(forecast), _) => out.extend_from_slice(forecast),
                (None, Some(before)) if !before.is_empty() => out.extend_from_slice(&before[..self.pixels]),
                (None, _) => {
                    let mut last = self.base;
                    for i in 0..self.pixels {
                        let mut one = [last];
                        row(start + i, &mut one);
                        last = one[0];
                        out.push(last);
                    }
                    continue;
                }
            }
            row(start, &mut out[from..]);
        }
        self.before.clone_from(&out);
        out
    }
}

/// Values to codes.
pub(super) struct Encoding<'a, T: Rows> {
    known: Known<'a, T>,
    course: Course<T>,
    codes: Vec<i32>,
    misses: Vec<(u32, u64)>,
}

impl<'a, T: Rows> Encoding<'a, T> {
    pub fn new(known: Known<'a, T>, pixels: usize) -> Self {
        let course = Course { pixels, before: vec![], base: known.base };
        Self { known, course, codes: vec![0; known.values.len()], misses: vec![] }
    }

    pub fn step(&mut self, step: usize, forecasts: &[Option<Vec<T>>]) -> Vec<T> {
        let Self { known: Known { values, quantizer: q, .. }, codes, misses, .. } = self;
        self.course.step(step, forecasts, |start, row| {
            let (truth, codes) = (&values[start..][..row.len()], &mut codes[start..][..row.len()]);
            if T::quantize(row, truth, q.step, q.inverse(), q.within(), codes) {
                collect_misses(q, truth, |i| row[i], |i| start + i, misses);
            }
        })
    }

    /// Back to the first step.
    pub fn rewind(&mut self) {
        self.course.before.clear();
        self.misses.clear();
    }

    /// Bytes, after the last step of a run.
    pub fn finish(&mut self) -> (Vec<u8>, Outliers) {
        let bytes = match self.known.marks {
            None => huffman::cpu::encode(&self.codes, Packing::Zstd),
            Some(marks) => {
                let kept: Vec<i32> = self.codes.iter().zip(marks).filter(|(_, m)| !**m).map(|(&c, _)| c).collect();
                huffman::cpu::encode(&kept, Packing::Zstd)
            }
        };
        (bytes, Outliers::from_unsorted(std::mem::take(&mut self.misses)))
    }
}

/// Codes to values.
pub(super) struct Decoding<T: Rows> {
    course: Course<T>,
    codes: Buffer<i32>,
    step: T,
}

impl<T: Rows> Decoding<T> {
    /// For `n` values, those that are marked without codes.
    pub fn new(bytes: &[u8], n: usize, marks: Option<&[bool]>, pixels: usize, base: T, step: T) -> Result<Self> {
        let codes = match marks {
            None => huffman::cpu::decode(bytes, n)?,
            Some(marks) => {
                let kept = huffman::cpu::decode(bytes, marks.iter().filter(|m| !**m).count())?;
                let (mut codes, mut kept) = (Buffer::new(n), kept.iter());
                for (code, &marked) in codes.iter_mut().zip(marks) {
                    *code = if marked { 0 } else { kept.next().copied().unwrap_or(0) };
                }
                codes
            }
        };
        Ok(Self { course: Course { pixels, before: vec![], base }, codes, step })
    }

    /// The codes and what each took of `data`.
    pub fn codes(&self, data: &[u8], marks: Option<&[bool]>) -> Result<TileCodes> {
        let codes = self.codes.to_vec();
        let is_kept = |i: usize| marks.is_none_or(|m| !m[i]);
        let kept: Vec<i32> = (0..codes.len()).filter(|&i| is_kept(i)).map(|i| codes[i]).collect();
        let mut of_kept = huffman::cost::bits(data, &kept)?.into_iter();
        let bits = (0..codes.len()).map(|i| if is_kept(i) { of_kept.next().unwrap_or(0.0) } else { 0.0 }).collect();
        Ok(TileCodes { codes, bits })
    }

    pub fn step(&mut self, step: usize, forecasts: &[Option<Vec<T>>]) -> Vec<T> {
        let Self { course, codes, step: width } = self;
        course.step(step, forecasts, |start, row| {
            let n = row.len();
            T::reconstruct(row, *width, &codes[start..][..n]);
        })
    }
}
