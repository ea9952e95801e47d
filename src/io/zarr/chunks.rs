//! Where chunks and boxes meet.

use super::super::raw::Runs;
use crate::error::Result;
use std::ops::Range;

/// The part of a box that lies in one chunk.
#[derive(Clone, Debug)]
pub(super) struct Overlap {
    /// Indices of the chunk.
    pub chunk: Vec<u64>,
    /// The part, counted from the chunk's first element.
    pub in_chunk: Vec<Range<u64>>,
    /// The part, counted from the box's first element.
    pub in_box: Vec<Range<u64>>,
    /// Elements of the part.
    pub elements: u64,
    /// Elements of the chunk that lie in the array.
    pub chunk_elements: u64,
}

/// The chunks that a box touches, in C order.
pub(super) struct Overlaps<'a> {
    shape: &'a [u64],
    chunk: &'a [u64],
    region: &'a [Range<u64>],
    next: Option<Vec<u64>>,
}

impl<'a> Overlaps<'a> {
    /// `region` lies in an array of `shape`, whose chunks have the lengths `chunk`, none of them 0.
    pub fn new(shape: &'a [u64], chunk: &'a [u64], region: &'a [Range<u64>]) -> Self {
        let some = region.iter().all(|r| r.start < r.end);
        let next = some.then(|| region.iter().zip(chunk).map(|(r, c)| r.start / c).collect());
        Self { shape, chunk, region, next }
    }
}

impl Iterator for Overlaps<'_> {
    type Item = Overlap;

    fn next(&mut self) -> Option<Overlap> {
        let chunk = self.next.take()?;
        let mut o = Overlap { chunk, in_chunk: vec![], in_box: vec![], elements: 1, chunk_elements: 1 };
        for (d, r) in self.region.iter().enumerate() {
            let first = o.chunk[d] * self.chunk[d];
            let end = first.saturating_add(self.chunk[d]).min(self.shape[d]);
            let part = r.start.max(first)..r.end.min(end);
            o.elements *= part.end - part.start;
            o.chunk_elements *= end - first;
            o.in_chunk.push(part.start - first..part.end - first);
            o.in_box.push(part.start - r.start..part.end - r.start);
        }
        // Odometer: the last dimension turns fastest.
        let mut next = o.chunk.clone();
        for d in (0..next.len()).rev() {
            next[d] += 1;
            if next[d] * self.chunk[d] < self.region[d].end {
                self.next = Some(next);
                break;
            }
            next[d] = self.region[d].start / self.chunk[d];
        }
        Some(o)
    }
}

/// Copies the box `from` of the array `source` to the box `to`, of the same lengths, of the array `target`.
pub(super) fn copy_box(
    size: usize,
    source: (&[u8], &[u64], &[Range<u64>]),
    target: (&mut [u8], &[u64], &[Range<u64>]),
) -> Result<()> {
    let (mut from, mut to) = (Runs::new(source.1, source.2)?, Runs::new(target.1, target.2)?);
    let (mut a, mut b) = ((0, 0), (0, 0));
    loop {
        // Both walk the same elements in the same order, in runs of different lengths.
        if a.1 == 0 {
            match from.next() {
                Some(run) => a = run,
                None => return Ok(()),
            }
        }
        if b.1 == 0 {
            match to.next() {
                Some(run) => b = run,
                None => return Ok(()),
            }
        }
        let n = a.1.min(b.1);
        let bytes = n as usize * size;
        target.0[b.0 as usize * size..][..bytes].copy_from_slice(&source.0[a.0 as usize * size..][..bytes]);
        a = (a.0 + n, a.1 - n);
        b = (b.0 + n, b.1 - n);
    }
}

/// Fills the box `region` of the array `target` with one element.
pub(super) fn fill_box(element: &[u8], target: &mut [u8], shape: &[u64], region: &[Range<u64>]) -> Result<()> {
    let size = element.len();
    for (first, n) in Runs::new(shape, region)? {
        for e in target[first as usize * size..][..n as usize * size].chunks_exact_mut(size) {
            e.copy_from_slice(element);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_the_sum_of_its_overlaps() {
        let (shape, chunk) = ([7u64, 5, 9], [3u64, 5, 4]);
        let source: Vec<u8> = (0..7 * 5 * 9).map(|i| i as u8).collect();
        for region in [[0..7, 0..5, 0..9], [2..3, 0..5, 1..9], [2..6, 3..4, 4..8], [1..1, 0..5, 0..9]] {
            let lens: Vec<u64> = region.iter().map(|r| r.end - r.start).collect();
            let mut expected = vec![0; lens.iter().product::<u64>() as usize];
            let whole: Vec<_> = lens.iter().map(|&n| 0..n).collect();
            copy_box(1, (&source, &shape, &region), (&mut expected, &lens, &whole)).unwrap();

            let mut got = vec![0; expected.len()];
            let mut elements = 0;
            for o in Overlaps::new(&shape, &chunk, &region) {
                // The chunk as it is stored: whole, with padding beyond the array.
                let mut stored = vec![255; 60];
                let first: Vec<u64> = o.chunk.iter().zip(&chunk).map(|(i, c)| i * c).collect();
                let inside: Vec<_> = first.iter().zip(chunk).zip(shape).map(|((f, c), n)| *f..(f + c).min(n)).collect();
                let local: Vec<_> = inside.iter().map(|r| 0..r.end - r.start).collect();
                copy_box(1, (&source, &shape, &inside), (&mut stored, &chunk, &local)).unwrap();
                assert_eq!(o.chunk_elements, local.iter().map(|r| r.end).product::<u64>());
                copy_box(1, (&stored, &chunk, &o.in_chunk), (&mut got, &lens, &o.in_box)).unwrap();
                elements += o.elements;
            }
            assert_eq!(got, expected, "{region:?}");
            assert_eq!(elements as usize, expected.len());
        }
    }
}
