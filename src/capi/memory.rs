//! Slices of pointers from C, and writing to memory that may not be initialized.

use super::Failure;
use std::io::Write;
use std::mem::MaybeUninit;

/// The `len` elements at `pointer`, which may be null if there are none.
///
/// # Safety
/// If it is not null, `pointer` is that of `len` initialized elements which nothing writes during `'a`.
pub unsafe fn slice<'a, T>(pointer: *const T, len: usize, what: &str) -> Result<&'a [T], Failure> {
    check(pointer, len, what)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: not null, aligned and of a possible size by the check; initialized and still by the caller's word.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// The `len` bytes at `pointer` to write to, which may be null if there are none.
///
/// # Safety
/// If it is not null, `pointer` is that of `len` bytes, initialized or not, which nothing else uses during `'a`.
pub unsafe fn room<'a>(pointer: *mut u8, len: usize, what: &str) -> Result<&'a mut [MaybeUninit<u8>], Failure> {
    check(pointer, len, what)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as in `slice`; `MaybeUninit` asks for no initialized bytes.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer.cast(), len) })
}

/// A place for a result.
///
/// # Safety
/// `pointer` is null or that of a `T`'s memory which nothing else uses during `'a`.
pub unsafe fn place<'a, T>(pointer: *mut T, what: &str) -> Result<&'a mut MaybeUninit<T>, Failure> {
    check(pointer, 1, what)?;
    // SAFETY: not null and aligned by the check, the caller's alone by its word; nothing is asked of the contents.
    Ok(unsafe { &mut *pointer.cast() })
}

pub fn check<T>(pointer: *const T, len: usize, what: &str) -> Result<(), Failure> {
    if len == 0 {
        return Ok(());
    }
    if pointer.is_null() {
        return Err(Failure::usage(format!("{what}: a null pointer")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::usage(format!("{what}: a pointer that is not aligned to {} bytes", align_of::<T>())));
    }
    if len.checked_mul(size_of::<T>()).is_none_or(|n| n > isize::MAX as usize) {
        return Err(Failure::usage(format!("{what}: {len} elements are more than memory can hold")));
    }
    Ok(())
}

/// Writes `bytes` to memory of the same size.
pub fn put(memory: &mut [MaybeUninit<u8>], bytes: &[u8]) {
    memory.iter_mut().zip(bytes).for_each(|(to, &from)| {
        to.write(from);
    });
}

/// Writes to memory of a fixed size and counts what does not fit, so that the caller learns how much it would have been.
pub struct Room<'a> {
    free: &'a mut [MaybeUninit<u8>],
    n_written: u64,
}

impl<'a> Room<'a> {
    pub fn new(memory: &'a mut [MaybeUninit<u8>]) -> Self {
        Self { free: memory, n_written: 0 }
    }

    /// Bytes written, those without room included.
    pub fn len(&self) -> u64 {
        self.n_written
    }
}

impl Write for Room<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n_fit = bytes.len().min(self.free.len());
        let (now, later) = std::mem::take(&mut self.free).split_at_mut(n_fit);
        put(now, &bytes[..n_fit]);
        self.free = later;
        self.n_written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
