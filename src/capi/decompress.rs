//! Archives to values.

use super::memory;
use super::{Context, ElementType, Failure, Status, call};
use crate::container::Archive;
use crate::error::Error;
use crate::field::DType;
use crate::io::raw::Runs;
use std::ffi::c_void;
use std::io::Cursor;

/// Restores a variable into the caller's buffer.
///
/// Beside the caller's buffer a call takes some five times the tile size that the archive was made with. If it fails, the buffer may
/// hold some of the values.
///
/// @param archive         the archive
/// @param archive_bytes   its bytes
/// @param variable        which variable: 0 for a field that `residuum_compress` compressed
/// @param element_type    a `residuum_type`: that of the variable, as a check
/// @param values          where the values are to go, in C order
/// @param capacity        values, not bytes, that there is room for; there may be more room than values
/// @return `RESIDUUM_STATUS_BUFFER_TOO_SMALL` if there is too little room; nothing is written then
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_decompress(
    context: *mut Context,
    archive: *const c_void,
    archive_bytes: usize,
    variable: usize,
    element_type: i32,
    values: *mut c_void,
    capacity: usize,
) -> Status {
    call(context, |state| {
        // SAFETY: `archive_bytes` bytes, by the header.
        let archive = unsafe { memory::slice(archive.cast::<u8>(), archive_bytes, "archive")? };
        let mut archive = open(archive, variable, element_type, capacity)?;
        let tiling = archive.variable(variable)?.plan.tiling.clone();
        let dtype = archive.schema().variables[variable].dtype;
        if dtype == DType::Text {
            return Err(Error::unsupported("text of any length is not restored by the C interface").into());
        }
        let n = tiling.shape.iter().product::<u64>();
        // Not more than `capacity`, which is a `usize`.
        let n_bytes = (n as usize).checked_mul(dtype.size()).ok_or_else(|| Failure::usage("values: too many"))?;
        // SAFETY: room for `capacity` values of the variable's type for our use alone, by the header; `n_bytes` is at most that.
        let room = unsafe { memory::room(values.cast(), n_bytes, "values")? };
        state.run(|| {
            let tiles: Vec<u64> = (0..tiling.count()).collect();
            for tile in archive.batches(variable, &tiles)?.iter().flat_map(|batch| archive.tiles(batch)) {
                let (region, values) = tile?;
                let mut rest = values.as_bytes();
                for (start, n) in Runs::new(&tiling.shape, &region)? {
                    let (start, n) = (start as usize * dtype.size(), n as usize * dtype.size());
                    let (run, later) = rest.split_at(n);
                    memory::put(&mut room[start..start + n], run);
                    rest = later;
                }
            }
            Ok(())
        })
    })
}

/// The archive, if the variable is of this type and the caller has room for its values.
pub(super) fn open(
    archive: &[u8],
    variable: usize,
    element_type: i32,
    capacity: usize,
) -> Result<Archive<Cursor<&[u8]>>, Failure> {
    let archive = Archive::open(Cursor::new(archive))?;
    let shape = &archive.variable(variable)?.plan.tiling.shape;
    let dtype = archive.schema().variables[variable].dtype;
    if ElementType::from(dtype) as i32 != element_type {
        return Err(Failure::usage(format!("the variable is of type {dtype}, not residuum_type {element_type}")));
    }
    match shape.iter().product::<u64>() {
        n if dtype != DType::Text && n > capacity as u64 => {
            Err(Failure::BufferTooSmall { has: capacity, needs: n, of: "values" })
        }
        _ => Ok(archive),
    }
}
