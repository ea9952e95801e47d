//! From codes to values.

use super::cpu::{End, Lane, Place, Tile, interleave_row};
use super::lattice::{A, B1, B2, K};
use super::plan::{self, Plan};
use super::rows::{N_BUCKETS, Rows};
use super::schedule::Schedule;
use crate::encode::bytes::Reader;
use crate::encode::rans::stream::{Decoder, Table};
use crate::error::{Error, Result};
use crate::quantize::Quantizer;
use rayon::prelude::*;

/// Bytes to values, with the decisions that were read before.
///
/// # Errors
/// `Corrupt` if the bytes are damaged.
pub fn decode<T: Rows>(
    plan: &Plan,
    data: &[u8],
    marks: Option<&[bool]>,
    shape: &[usize],
    base: T,
    q: &Quantizer<T>,
) -> Result<Vec<T>> {
    let schedule = Schedule::new(shape);
    let taps = plan::taps(&schedule);
    let mut reader = Reader::new(data);
    let contexts = plan.contexts();
    let tables: Vec<Table> = plan.distributions.par_iter().map(|&d| Table::new(usize::from(d))).collect();
    let mut lanes = Vec::with_capacity(plan.n_streams);
    for _ in 0..plan.n_streams {
        let decoder = Decoder::new(&mut Reader::new(reader.bytes()?))?;
        let (row, kept) = (vec![], vec![]);
        let end = Restorer { decoder, marks, contexts: &contexts, tables: &tables, step: q.step, row, kept };
        lanes.push(Lane::new(end));
    }
    if !reader.is_empty() {
        return Err(Error::corrupt("bytes after the last coded stream"));
    }
    let tile = Tile { schedule: &schedule, taps: &taps, wrap: plan.wrap, base, step: q.step };
    let (ny, nx) = (schedule.lattices.ny, schedule.lattices.nx);
    let mut values = vec![T::default(); ny * nx * schedule.images.len()];
    tile.run(&mut plan.weights(&taps), &mut lanes, |image, pyramid| {
        let planes = &pyramid[0];
        let out = &mut values[image * ny * nx..][..ny * nx];
        out.par_chunks_mut(nx).with_min_len(32).enumerate().for_each(|(i, row)| {
            let (even, odd) = if i % 2 == 0 { (K, B2) } else { (B1, A) };
            interleave_row(&planes.values, even, odd, i / 2, row);
        });
    });
    lanes.iter().try_for_each(|lane| lane.end.decoder.finish())?;
    Ok(values)
}

/// The end that has the codes.
struct Restorer<'a, T> {
    decoder: Decoder<'a>,
    marks: Option<&'a [bool]>,
    contexts: &'a [u8; N_BUCKETS + 2],
    tables: &'a [Table],
    step: T,
    row: Vec<u8>,
    kept: Vec<i32>,
}

impl<T: Rows> End<T> for Restorer<'_, T> {
    fn row(&mut self, place: Place, row: &mut [T], buckets: &[u8], codes: &mut [i32]) {
        self.row.clear();
        match self.marks {
            None => {
                self.row.extend(buckets.iter().map(|&b| self.contexts[usize::from(b)]));
                self.decoder.read(&self.row, self.tables, codes);
            }
            Some(marks) => {
                let there = |i: &usize| !marks[place.start + i * place.stride];
                self.row.extend((0..buckets.len()).filter(there).map(|i| self.contexts[usize::from(buckets[i])]));
                self.kept.resize(self.row.len(), 0);
                self.decoder.read(&self.row, self.tables, &mut self.kept);
                codes.fill(0);
                (0..buckets.len()).filter(there).zip(&self.kept).for_each(|(i, &c)| codes[i] = c);
            }
        }
        T::reconstruct(row, self.step, codes);
    }
}
