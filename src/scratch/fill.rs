//! Vectors that are written in parts, each for the first time by the thread that makes its values.
#![allow(unsafe_code)] // Memory that nobody has written yet; argued below.

use bytemuck::Pod;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A part of a vector that nobody has written yet.
pub struct Unfilled<'a, T> {
    values: &'a mut [MaybeUninit<T>],
    /// Values of the vector that were written.
    n_filled: &'a AtomicUsize,
}

impl<'a, T: Pod> Unfilled<'a, T> {
    /// Parts of `len` values, the last one of what is left.
    pub fn chunks(self, len: usize) -> impl ExactSizeIterator<Item = Self> {
        let n_filled = self.n_filled;
        self.values.chunks_mut(len).map(move |values| Self { values, n_filled })
    }

    /// Parts of these lengths.
    pub fn parts(self, lens: impl Iterator<Item = usize>) -> impl Iterator<Item = Self> {
        let Self { values: mut rest, n_filled } = self;
        lens.map(move |len| {
            let (values, later) = std::mem::take(&mut rest).split_at_mut(len);
            rest = later;
            Self { values, n_filled }
        })
    }

    /// The part, of values that are all `value`.
    pub fn fill(self, value: T) -> &'a mut [T] {
        self.values.iter_mut().for_each(|v| *v = MaybeUninit::new(value));
        self.written()
    }

    /// The part, of as many values `from` elsewhere.
    pub fn copy(self, from: &[T]) -> &'a mut [T] {
        assert_eq!(self.values.len(), from.len());
        self.values.iter_mut().zip(from).for_each(|(v, &f)| *v = MaybeUninit::new(f));
        self.written()
    }

    /// To be called when all values of the part were written.
    fn written(self) -> &'a mut [T] {
        self.n_filled.fetch_add(self.values.len(), Ordering::Relaxed);
        let values: *mut [MaybeUninit<T>] = self.values;
        // SAFETY: our callers have just written all values, `MaybeUninit<T>` lies in memory as `T` does, and the borrow is ours for as long as it lasts.
        unsafe { &mut *(values as *mut [T]) }
    }
}

/// A vector of `n` values, all of which `write` fills, part by part. A pass of zeros over it beforehand would be one thread's work, and would take as
/// long as to copy it.
///
/// # Panics
/// If `write` leaves out any.
pub fn filled<T: Pod>(n: usize, write: impl FnOnce(Unfilled<'_, T>)) -> Vec<T> {
    filled_with_room(n, 0, write)
}

/// The same, with `room` for more of them.
///
/// # Panics
/// As [`filled`].
pub fn filled_with_room<T: Pod>(n: usize, room: usize, write: impl FnOnce(Unfilled<'_, T>)) -> Vec<T> {
    let mut values = Vec::with_capacity(n + room);
    let n_filled = AtomicUsize::new(0);
    write(Unfilled { values: &mut values.spare_capacity_mut()[..n], n_filled: &n_filled });
    assert_eq!(n_filled.into_inner(), n, "all parts are filled");
    // SAFETY: there is room for `n` values. Parts have no value in common, and each is counted once, when all of it was written: that consumes it.
    // So `n` were, and other threads had their parts by borrows that have ended.
    unsafe { values.set_len(n) };
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_the_whole() {
        for n in [0, 1, 5, 1000] {
            let values = filled(n, |all| {
                let mut halves = all.parts([n / 2, n - n / 2].into_iter());
                halves.next().unwrap().copy(&(0..n as u32 / 2).collect::<Vec<_>>());
                for (k, part) in halves.next().unwrap().chunks(7).enumerate() {
                    part.fill(k as u32)[0] += 100;
                }
            });
            let filled = (0..(n - n / 2) as u32).map(|i| i / 7 + if i % 7 == 0 { 100 } else { 0 });
            assert!(values.iter().copied().eq((0..n as u32 / 2).chain(filled)), "{n}");
        }
    }

    #[test]
    #[should_panic(expected = "all parts are filled")]
    fn none_may_be_left_out() {
        filled::<f32>(10, |all| {
            all.chunks(5).skip(1).for_each(|part| {
                part.fill(1.0);
            });
        });
    }
}
