//! Large working buffers, used again.
//!
//! Memory fresh from the system costs more than a pass of the codec over it (a page fault every 4 KiB), so that buffers that
//! were given back are kept for the next tile or the next call: at most [`KEEP_BYTES`] in the process. Smaller ones that one thread makes and another
//! gives back are here too: a system's allocator that has a heap for each thread puts both to sleep over that (glibc, from 1 KiB on). Of these there
//! are very many, so that threads have stores of their own for them: in one alone they would wait for each other all the time.

use bytemuck::Pod;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

mod fill;

pub use fill::{Unfilled, filled, filled_with_room};

/// How much is kept while nobody uses it.
pub const KEEP_BYTES: usize = LARGE_BYTES + N_STORES * SMALL_BYTES;
/// Of large buffers, in one store for all threads,
const LARGE_BYTES: usize = 64 << 20;
/// and of small ones in each of their stores.
const SMALL_BYTES: usize = 4 << 20;
/// Stores of small buffers; more threads than that share them.
const N_STORES: usize = 16;
/// Words of the largest small buffer.
const SMALL: usize = 1 << 14;

/// What was given back. On lines of memory of its own.
#[repr(align(128))]
struct Store {
    /// By class of length.
    words: [Vec<Vec<u64>>; N_CLASSES],
    n_words: usize,
    most_words: usize,
}

static LARGE: Mutex<Store> = Mutex::new(Store::new(LARGE_BYTES));
static SMALLS: [Mutex<Store>; N_STORES] = [const { Mutex::new(Store::new(SMALL_BYTES)) }; N_STORES];
/// Threads that have a store.
static N_THREADS: AtomicUsize = AtomicUsize::new(0);
thread_local! {
    /// The store of this thread.
    static STORE: usize = N_THREADS.fetch_add(1, Ordering::Relaxed) % N_STORES;
}

/// At least `n` words, if such are kept: from the thread's own store if it can be, as they are near.
fn take(n: usize) -> Option<Vec<u64>> {
    if n > SMALL {
        return LARGE.lock().unwrap_or_else(PoisonError::into_inner).take(n);
    }
    let own = own_store();
    let kept = SMALLS[own].lock().unwrap_or_else(PoisonError::into_inner).take(n);
    kept.or_else(|| (1..N_STORES).find_map(|k| SMALLS[(own + k) % N_STORES].try_lock().ok()?.take(n)))
}

/// Keeps what was given back.
fn keep(words: Vec<u64>) {
    let store = if words.len() > SMALL { &LARGE } else { &SMALLS[own_store()] };
    store.lock().unwrap_or_else(PoisonError::into_inner).keep(words);
}

fn own_store() -> usize {
    // A thread may give back the last of its buffers when its number is gone.
    STORE.try_with(|&k| k).unwrap_or(0)
}

/// Classes of lengths, in words: four an octave.
const N_CLASSES: usize = 4 * 64;

/// The class of the least length that `n` words fit into, and that length: 4, 5, 6 or 7 times a power of two.
fn class_of(n: usize) -> (usize, usize) {
    let n = n.max(4);
    let shift = (n - 1).ilog2().saturating_sub(2);
    let fours = n.div_ceil(1 << shift);
    (4 * shift as usize + fours - 4, fours << shift)
}

impl Store {
    const fn new(most_bytes: usize) -> Self {
        Self { words: [const { Vec::new() }; N_CLASSES], n_words: 0, most_words: most_bytes / size_of::<u64>() }
    }

    /// At least `n` words, at most about twice as many, if such are there.
    fn take(&mut self, n: usize) -> Option<Vec<u64>> {
        const LARGER: usize = 3;
        let (class, _) = class_of(n);
        let last = (class + LARGER).min(N_CLASSES - 1);
        let words = self.words[class..=last].iter_mut().find_map(Vec::pop)?;
        self.n_words -= words.len();
        Some(words)
    }

    /// Keeps what was given back; the largest go when it becomes too much.
    fn keep(&mut self, words: Vec<u64>) {
        self.n_words += words.len();
        self.words[class_of(words.len()).0].push(words);
        while self.n_words > self.most_words
            && let Some(largest) = self.words.iter_mut().rev().find_map(Vec::pop)
        {
            self.n_words -= largest.len();
        }
    }
}

/// A slice of `T` that returns to the process's store when dropped.
pub struct Buffer<T: Pod> {
    words: Vec<u64>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    /// Room for `len` elements **of unspecified value**: whoever takes it writes each before reading it.
    pub fn new(len: usize) -> Self {
        assert!(align_of::<T>() <= align_of::<u64>());
        let n_words = (len * size_of::<T>()).div_ceil(size_of::<u64>());
        let words = take(n_words).unwrap_or_else(|| vec![0; class_of(n_words).1]);
        let mut buffer = Self { words, len, element: PhantomData };
        if cfg!(debug_assertions) {
            // Whoever relies on what was there before is found by the tests.
            bytemuck::cast_slice_mut::<T, u8>(&mut buffer).fill(0xa5);
        }
        buffer
    }

    /// The same, of zeros.
    pub fn zeros(len: usize) -> Self {
        let mut buffer = Self::new(len);
        buffer.fill(T::zeroed());
        buffer
    }

    /// Leaves the first `len` elements at most.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl<T: Pod> Drop for Buffer<T> {
    fn drop(&mut self) {
        let words = std::mem::take(&mut self.words);
        if !words.is_empty() {
            keep(words);
        }
    }
}

impl<T: Pod> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

impl<T: Pod> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
}

impl<T: Pod> Default for Buffer<T> {
    fn default() -> Self {
        Self { words: Vec::new(), len: 0, element: PhantomData }
    }
}

impl<T: Pod> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Pod + PartialEq> PartialEq for Buffer<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Pod + std::fmt::Debug> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_as_long_as_they_say() {
        let mut last = (0, 4);
        for n in (0..5000).chain([1 << 40, (1 << 40) + 1, (7 << 50) - 1]) {
            let (class, len) = class_of(n);
            assert!(n <= len && len <= (n + n / 4 + 1).max(4) && class < N_CLASSES, "{n}: {len}");
            assert_eq!(class_of(len), (class, len));
            assert!((class, len) >= last && (class == last.0) == (len == last.1));
            last = (class, len);
        }
    }

    #[test]
    fn buffers_of_any_type_and_length() {
        for len in [0, 1, 7, 8, 1000] {
            let mut bytes = Buffer::<u8>::new(len);
            bytes.fill(7);
            assert_eq!(*bytes.clone(), *vec![7; len]);
            drop(bytes);
            // The same memory serves for another type.
            let mut numbers = Buffer::<f64>::new(len);
            numbers.fill(-1.5);
            assert_eq!(*numbers, *vec![-1.5; len]);
        }
    }
}
