//! What an archive holds.

use super::memory::{self, Room};
use super::{BoundMode, Context, ElementType, Failure, Status, call};
use crate::bound::{Mode, Resolved};
use crate::container::Archive;
use crate::error::Error;
use crate::field::DType;
use crate::plan::Treatment;
use std::ffi::{CStr, c_char, c_void};
use std::io::{Cursor, Write};

/// Most dimensions that a variable may have in an archive.
pub const MAX_DIMS: usize = 64;

/// What is known of a variable. Later versions may add members at the end.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Variable {
    /// Set by the caller: `sizeof(residuum_variable)`.
    pub struct_bytes: usize,
    /// A `residuum_type`.
    pub element_type: i32,
    /// Number of dimensions; 0 for a scalar.
    pub n_dims: u32,
    /// Their lengths, the slowest first; 0 beyond `n_dims`.
    pub shape: [u64; MAX_DIMS],
    /// Number of values.
    pub n_values: u64,
    /// Bytes that the variable takes in the archive.
    pub stored_bytes: u64,
    /// The bound that was asked for, a `residuum_bound`. For values kept bit for bit `RESIDUUM_BOUND_ABS` with a value of 0.
    pub bound_mode: i32,
    /// Whether a value stands for missing data: 0 or 1.
    pub has_fill: i32,
    /// The number of the bound that was asked for.
    pub bound_value: f64,
    /// What the bound means for these values: the largest |y - x| allowed. 0 if all comes back bit for bit, infinite if it depends on
    /// the value (`RESIDUUM_BOUND_PW_REL`).
    pub max_abs_error: f64,
    /// The value that stands for missing data, if there is one.
    pub fill: f64,
}

/// Number of variables of an archive: 1 if `residuum_compress` made it.
///
/// @param archive            the archive
/// @param archive_bytes      its bytes
/// @param[out] n_variables   the number
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_count_variables(
    context: *mut Context,
    archive: *const c_void,
    archive_bytes: usize,
    n_variables: *mut usize,
) -> Status {
    call(context, |_| {
        // SAFETY: `archive_bytes` bytes and the place of a `size_t`, by the header.
        let (archive, place) = unsafe { (open(archive, archive_bytes)?, memory::place(n_variables, "n_variables")?) };
        place.write(archive.schema().variables.len());
        Ok(())
    })
}

/// Describes a variable of an archive, without restoring its values.
///
/// @param archive            the archive
/// @param archive_bytes      its bytes
/// @param variable           which one, from 0
/// @param[in,out] described  its `struct_bytes` set by the caller; as many bytes are written, and no member that the library lacks
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_inspect(
    context: *mut Context,
    archive: *const c_void,
    archive_bytes: usize,
    variable: usize,
    described: *mut Variable,
) -> Status {
    call(context, |_| {
        // SAFETY: `archive_bytes` bytes, by the header.
        let archive = unsafe { open(archive, archive_bytes)? };
        // Looked at for alignment and null.
        // SAFETY: the place of at least the member that is read here, set by the caller, by the header.
        let struct_bytes = unsafe {
            memory::place(described, "described")?;
            (&raw const (*described).struct_bytes).read()
        };
        if struct_bytes < size_of::<Variable>() {
            return Err(Failure::usage(format!(
                "struct_bytes is {struct_bytes}: set it to sizeof(residuum_variable), at least {}",
                size_of::<Variable>()
            )));
        }
        let value = describe(&archive, variable, struct_bytes)?;
        // SAFETY: room for `struct_bytes`, which is no less than this, by the header.
        unsafe { described.write(value) };
        Ok(())
    })
}

/// Copies the name of a variable: "data" if `residuum_compress` made the archive, "t2m" or "group/t2m" in archives of files.
///
/// @param archive         the archive
/// @param archive_bytes   its bytes
/// @param variable        which one, from 0
/// @param name            where the name is to go, UTF-8, with a closing NUL
/// @param capacity        bytes that there is room for
/// @param[out] name_bytes bytes of the name with the closing NUL. Also set if there was too little room
/// @return `RESIDUUM_STATUS_BUFFER_TOO_SMALL` if there was too little room
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_variable_name(
    context: *mut Context,
    archive: *const c_void,
    archive_bytes: usize,
    variable: usize,
    name: *mut c_char,
    capacity: usize,
    name_bytes: *mut usize,
) -> Status {
    call(context, |_| {
        // SAFETY: `archive_bytes` bytes, the place of a `size_t`, and `capacity` bytes for our use alone, by the header.
        let (archive, place, room) = unsafe {
            (
                open(archive, archive_bytes)?,
                memory::place(name_bytes, "name_bytes")?,
                memory::room(name.cast(), capacity, "name")?,
            )
        };
        archive.variable(variable)?;
        let name = archive.schema().variables[variable].name();
        let needs = name.len() + 1;
        place.write(needs);
        if needs > room.len() {
            return Err(Failure::BufferTooSmall { has: capacity, needs: needs as u64, of: "bytes" });
        }
        let mut out = Room::new(room);
        out.write_all(name.as_bytes()).and_then(|()| out.write_all(&[0])).map_err(Error::from)?;
        Ok(())
    })
}

/// Finds a variable by its name.
///
/// @param archive         the archive
/// @param archive_bytes   its bytes
/// @param name            the name, UTF-8
/// @param[out] variable   which one it is, from 0
/// @return `RESIDUUM_STATUS_USAGE` if there is none of that name; the message has those that there are
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_find_variable(
    context: *mut Context,
    archive: *const c_void,
    archive_bytes: usize,
    name: *const c_char,
    variable: *mut usize,
) -> Status {
    call(context, |_| {
        if name.is_null() {
            return Err(Failure::usage("name: a null pointer"));
        }
        // SAFETY: `archive_bytes` bytes, a text with a closing NUL and the place of a `size_t`, by the header.
        let (archive, name, place) =
            unsafe { (open(archive, archive_bytes)?, CStr::from_ptr(name), memory::place(variable, "variable")?) };
        place.write(archive.find(&name.to_string_lossy())?);
        Ok(())
    })
}

/// # Safety
/// `archive` is null or that of `archive_bytes` bytes which nothing writes during `'a`.
unsafe fn open<'a>(archive: *const c_void, archive_bytes: usize) -> Result<Archive<Cursor<&'a [u8]>>, Failure> {
    // SAFETY: the caller's word, passed on.
    let archive = unsafe { memory::slice(archive.cast::<u8>(), archive_bytes, "archive")? };
    Ok(Archive::open(Cursor::new(archive))?)
}

fn describe(archive: &Archive<Cursor<&[u8]>>, variable: usize, struct_bytes: usize) -> Result<Variable, Failure> {
    let stored = archive.variable(variable)?;
    let dtype = archive.schema().variables[variable].dtype;
    let lens = &stored.plan.tiling.shape;
    let mut shape = [0; MAX_DIMS];
    let n_dims = lens.len();
    shape.get_mut(..n_dims).ok_or_else(|| Error::corrupt("too many dimensions"))?.copy_from_slice(lens);
    let mut described = Variable {
        struct_bytes,
        element_type: ElementType::from(dtype) as i32,
        n_dims: n_dims as u32,
        shape,
        n_values: lens.iter().product(),
        stored_bytes: stored.stored_bytes,
        bound_mode: BoundMode::Abs as i32,
        has_fill: 0,
        bound_value: 0.0,
        max_abs_error: 0.0,
        fill: 0.0,
    };
    if let Treatment::Lossy { asked, resolved, fill, .. } = &stored.plan.treatment {
        let mode = match asked.mode {
            Mode::Abs => BoundMode::Abs,
            Mode::Rel => BoundMode::Rel,
            Mode::PwRel => BoundMode::PwRel,
            Mode::Psnr => BoundMode::Psnr,
        };
        described.bound_mode = mode as i32;
        described.bound_value = asked.value;
        described.max_abs_error = match *resolved {
            Resolved::PointWise(_) => f64::INFINITY,
            other => other.at(0.0),
        };
        if let Some(bits) = *fill {
            described.has_fill = 1;
            described.fill =
                if dtype == DType::F32 { f64::from(f32::from_bits(bits as u32)) } else { f64::from_bits(bits) };
        }
    }
    Ok(described)
}
