//! Fields to archives.

use super::context::State;
use super::memory::{self, Room};
use super::{Context, Failure, Status, call};
use crate::container::max_archive_bytes;
use crate::error::Error;
use crate::field::{DType, Field, Float};
use crate::predict::fitted::Rows;
use std::ffi::c_void;
use std::io::Write;
use std::mem::ManuallyDrop;

/// Memory of the library's. Start with all members 0; free by `residuum_bytes_free`.
#[derive(Debug)]
#[repr(C)]
pub struct Bytes {
    /// The bytes; null as long as there is no memory.
    pub data: *mut u8,
    /// How many there are.
    pub len: usize,
    /// How many there is memory for. The library's: leave it alone.
    pub capacity: usize,
}

/// The most bytes that the archive of a field of this type and shape can have with the context's settings, whatever its values: a
/// little more than the field itself. With a buffer of that size `residuum_compress` is never short of room.
///
/// @param element_type         `RESIDUUM_TYPE_F32` or `RESIDUUM_TYPE_F64`
/// @param n_dims               number of dimensions, 1 to 5
/// @param shape                their lengths, the slowest first, as C lays out arrays
/// @param[out] archive_bytes   the bytes
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_max_archive_bytes(
    context: *mut Context,
    element_type: i32,
    n_dims: usize,
    shape: *const usize,
    archive_bytes: *mut usize,
) -> Status {
    call(context, |state| {
        // SAFETY: `n_dims` lengths and the place of a `size_t`, by the header.
        let (shape, place) =
            unsafe { (memory::slice(shape, n_dims, "shape")?, memory::place(archive_bytes, "archive_bytes")?) };
        let lens: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        let dtype = float_type(element_type)?;
        n_values(shape)?;
        let most = max_archive_bytes(dtype, &lens, &state.config()?).and_then(|n| usize::try_from(n).ok());
        place.write(most.ok_or_else(|| too_many(shape))?);
        Ok(())
    })
}

/// Compresses a field into the caller's buffer.
///
/// The field is only read. Beside the buffers of the caller a call takes some ten times the tile size (`residuum_set_tile_bytes`),
/// or some ten times the field if that is less; up to 64 MiB of it is kept by the process for the next call.
///
/// @param element_type         `RESIDUUM_TYPE_F32` or `RESIDUUM_TYPE_F64`
/// @param values               the field, in C order
/// @param n_dims               number of dimensions, 1 to 5
/// @param shape                their lengths, the slowest first; their product is the number of values
/// @param archive              where the archive is to go; it does not overlap the field
/// @param capacity             bytes that there is room for
/// @param[out] archive_bytes   bytes of the archive. Also set if there was too little room: it is then what there must be
/// @return `RESIDUUM_STATUS_BUFFER_TOO_SMALL` if there was too little room
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_compress(
    context: *mut Context,
    element_type: i32,
    values: *const c_void,
    n_dims: usize,
    shape: *const usize,
    archive: *mut c_void,
    capacity: usize,
    archive_bytes: *mut usize,
) -> Status {
    call(context, |state| {
        // SAFETY: `n_dims` lengths, the place of a `size_t` and `capacity` bytes for our use alone, by the header.
        let (shape, place, room) = unsafe {
            (
                memory::slice(shape, n_dims, "shape")?,
                memory::place(archive_bytes, "archive_bytes")?,
                memory::room(archive.cast(), capacity, "archive")?,
            )
        };
        // SAFETY: a field of that type and shape, by the header.
        let written = unsafe { compress(state, element_type, values, shape, Room::new(room))? }.len();
        place.write(usize::try_from(written).unwrap_or(usize::MAX));
        if written > capacity as u64 {
            return Err(Failure::BufferTooSmall { has: capacity, needs: written, of: "bytes" });
        }
        Ok(())
    })
}

/// Compresses a field into memory of the library's. As `residuum_compress`, but for where the archive goes.
///
/// @param[in,out] archive   all members 0, or from an earlier call: its memory is then used again, and grown if need be. If the call
///                          fails it is as it was, or empty.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_compress_owned(
    context: *mut Context,
    element_type: i32,
    values: *const c_void,
    n_dims: usize,
    shape: *const usize,
    archive: *mut Bytes,
) -> Status {
    call(context, |state| {
        // SAFETY: `n_dims` lengths, by the header.
        let shape = unsafe { memory::slice(shape, n_dims, "shape")? };
        // SAFETY: the place of a `Bytes` which the caller set, by the header.
        let archive = unsafe { memory::place(archive, "archive")?.assume_init_mut() };
        // SAFETY: all 0 or ours, by the header. What it had is moved out of it, so that it is freed once whatever happens.
        let mut memory = unsafe { archive.take() };
        memory.clear();
        // SAFETY: a field of that type and shape, by the header.
        archive.put(unsafe { compress(state, element_type, values, shape, memory)? });
        Ok(())
    })
}

/// Frees memory of the library's and sets all members to 0, so that it can be used or freed again. Null is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_bytes_free(bytes: *mut Bytes) {
    // SAFETY: null, or that of a `Bytes` which is all 0 or ours, by the header.
    if let Some(bytes) = unsafe { bytes.as_mut() } {
        drop(unsafe { bytes.take() });
    }
}

impl Bytes {
    /// Its memory, moved out.
    ///
    /// # Safety
    /// All members are 0 or were set by [`Bytes::put`].
    unsafe fn take(&mut self) -> Vec<u8> {
        let (data, len, capacity) = (self.data, self.len, self.capacity);
        *self = Self { data: std::ptr::null_mut(), len: 0, capacity: 0 };
        if data.is_null() {
            return Vec::new();
        }
        // SAFETY: the parts of a vector by the caller's word, which nothing has any more.
        unsafe { Vec::from_raw_parts(data, len, capacity) }
    }

    fn put(&mut self, memory: Vec<u8>) {
        let mut memory = ManuallyDrop::new(memory);
        *self = Self { data: memory.as_mut_ptr(), len: memory.len(), capacity: memory.capacity() };
    }
}

/// Compresses the field at `values` to `out`.
///
/// # Safety
/// `values` is null or that of a field of this type and shape which nothing writes meanwhile.
unsafe fn compress<W: Write + Send>(
    state: &State,
    element_type: i32,
    values: *const c_void,
    shape: &[usize],
    out: W,
) -> Result<W, Failure> {
    /// # Safety
    /// As the function around it.
    unsafe fn typed<T: Rows, W: Write + Send>(
        state: &State,
        values: *const c_void,
        shape: &[usize],
        out: W,
    ) -> Result<W, Failure> {
        let config = state.config()?;
        // SAFETY: as many values as the shape says, by the caller's word.
        let values = unsafe { memory::slice::<T>(values.cast(), n_values(shape)?, "values")? };
        let mut field = Field::new(values, shape)?;
        if let Some(fill) = state.fill {
            field = field.with_fill(T::from_f64(fill));
        }
        Ok(state.run(|| crate::compress_to(&field, &config, out))?)
    }
    // SAFETY: the caller's word, passed on.
    match float_type(element_type)? {
        DType::F32 => unsafe { typed::<f32, W>(state, values, shape, out) },
        _ => unsafe { typed::<f64, W>(state, values, shape, out) },
    }
}

pub(super) fn float_type(element_type: i32) -> Result<DType, Failure> {
    match element_type {
        t if t == super::ElementType::F32 as i32 => Ok(f32::DTYPE),
        t if t == super::ElementType::F64 as i32 => Ok(f64::DTYPE),
        t => Err(Failure::usage(format!("element type {t}: fields are RESIDUUM_TYPE_F32 or RESIDUUM_TYPE_F64"))),
    }
}

pub(super) fn n_values(shape: &[usize]) -> Result<usize, Error> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(|| too_many(shape))
}

fn too_many(shape: &[usize]) -> Error {
    Error::usage(format!("shape {shape:?} has more values than memory can hold"))
}
