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

    /// The part, of values that are all `value`.
    pub fn fill(self, value: T) -> &'a mut [T] {
        self.values.iter_mut().for_each(|v| *v = MaybeUninit::new(value));
        self.n_filled.fetch_add(self.values.len(), Ordering::Relaxed);
        let values: *mut [MaybeUninit<T>] = self.values;
        // SAFETY: all values were just written, `MaybeUninit<T>` lies in memory as `T` does, and the borrow is ours for as long as it lasts.
        unsafe { &mut *(values as *mut [T]) }
    }
}

/// A vector of `n` values, all of which `write` fills, part by part. A pass of zeros over it beforehand would be one thread's work, and would take as
/// long as to copy it.
///
/// # Panics
/// If `write` leaves out any.
pub fn filled<T: Pod>(n: usize, write: impl FnOnce(Unfilled<'_, T>)) -> Vec<T> {
    let mut values = Vec::with_capacity(n);
    let n_filled = AtomicUsize::new(0);
    write(Unfilled { values: &mut values.spare_capacity_mut()[..n], n_filled: &n_filled });
    assert_eq!(n_filled.into_inner(), n, "all parts are filled");
    // SAFETY: there is room for `n` values. Parts have no value in common, and each is counted once, when all of it was written: its fill consumes it.
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
                for (k, part) in all.chunks(7).enumerate() {
                    part.fill(k as u32)[0] += 100;
                }
            });
            let expected = (0..n as u32).map(|i| i / 7 + if i % 7 == 0 { 100 } else { 0 });
            assert!(values.iter().copied().eq(expected), "{n}");
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
