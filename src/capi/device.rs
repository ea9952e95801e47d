//! Fields in memory of a CUDA device.
//!
//! A call works on a stream of the context's own, which waits for the caller's stream and which the caller's stream then waits for: so
//! nothing of the caller's is kept, and one working memory serves any stream.

use super::compress::{float_type, n_values};
use super::context::State;
use super::decompress;
use super::{Context, Failure, Status, call, memory};
use crate::field::DType;
use std::ffi::c_void;

/// Compresses a field in memory of a CUDA device. The archive is the one that `residuum_compress` makes of the same values.
///
/// Works on the device that the values are on, in its primary context (which the runtime API, OpenACC and OpenMP use), behind what was
/// launched on `stream` before. An archive for the host is complete when the call returns, after two waits; one for the device is there
/// for what is launched on `stream` after the call, which waits once, for its size. Nothing but the archive and 96 bytes a tile is copied from the
/// device, and below 4 KB to it; values themselves are copied to the host where it may do what the device can not: a bound of 0 or too tight
/// for bins, `residuum_set_verify`, and, but with `RESIDUUM_EFFORT_FAST`, tiles whose codes take more than half of the values' bytes or in which
/// more than one value in 256 is stored exactly.
///
/// The first call with a context compiles the kernels, or reads them from the user's cache, and takes working memory: some ten times the tile size
/// and once the field (but at most 1 GiB) on the device. It is used again, and grows with larger fields; `residuum_reserve_device` takes it in
/// advance, `residuum_context_free` gives it back, and so does a call that ends with `RESIDUUM_STATUS_DEVICE`.
///
/// @param element_type         `RESIDUUM_TYPE_F32` or `RESIDUUM_TYPE_F64`
/// @param values               the field, in C order, in memory of a device
/// @param n_dims               number of dimensions, 1 to 5
/// @param shape                their lengths, the slowest first, in memory of the host
/// @param archive              where the archive is to go: memory of the same device, or of the host; the driver knows which
/// @param capacity             bytes that there is room for; `residuum_max_archive_bytes` says what is always enough
/// @param[out] archive_bytes   bytes of the archive, in memory of the host. Also set if there was too little room
/// @param stream               a `cudaStream_t` or `CUstream` of the device; null for its default stream
/// @return `RESIDUUM_STATUS_BUFFER_TOO_SMALL` if there was too little room; `RESIDUUM_STATUS_DEVICE` if there is no device, no driver, or
///         one of them failed; `RESIDUUM_STATUS_UNSUPPORTED` if there are no kernels for these settings
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_compress_device(
    context: *mut Context,
    element_type: i32,
    values: *const c_void,
    n_dims: usize,
    shape: *const usize,
    archive: *mut c_void,
    capacity: usize,
    archive_bytes: *mut usize,
    stream: *mut c_void,
) -> Status {
    call(context, |state| {
        // SAFETY: `n_dims` lengths, by the header.
        let shape = unsafe { memory::slice(shape, n_dims, "shape")? };
        let fields = Fields { element_type, values: &[values], shape, archives: &[archive], capacity };
        // SAFETY: one field and one archive as the header asks, and the place of a `size_t`.
        unsafe { compress(state, &fields, archive_bytes, stream) }
    })
}

/// Compresses several fields of one type and shape in memory of a CUDA device, an archive each. As `residuum_compress_device` for each, but
/// waits as often as for one.
///
/// @param n_fields             how many
/// @param values               their addresses, in memory of the host
/// @param archives             where the archives are to go: addresses in memory of the host, all of memory of the host or all of the device
/// @param capacity             bytes that there is room for at each
/// @param[out] archive_bytes   bytes of each archive: `n_fields` of them, in memory of the host
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_compress_device_batch(
    context: *mut Context,
    element_type: i32,
    n_fields: usize,
    values: *const *const c_void,
    n_dims: usize,
    shape: *const usize,
    archives: *const *mut c_void,
    capacity: usize,
    archive_bytes: *mut usize,
    stream: *mut c_void,
) -> Status {
    call(context, |state| {
        // SAFETY: `n_dims` lengths and `n_fields` addresses each, by the header.
        let (shape, values, archives) = unsafe {
            (
                memory::slice(shape, n_dims, "shape")?,
                memory::slice(values, n_fields, "values")?,
                memory::slice(archives, n_fields, "archives")?,
            )
        };
        let fields = Fields { element_type, values, shape, archives, capacity };
        // SAFETY: fields and archives as the header asks, and the place of as many `size_t`.
        unsafe { compress(state, &fields, archive_bytes, stream) }
    })
}

/// Restores a variable into memory of a CUDA device.
///
/// The values are there for what is launched on `stream` after the call. It waits once a tile, to see whether the codes are sound; the host reads what
/// stands before them, so that an archive in memory of the device is copied to the host and back.
///
/// @param archive         the archive, in memory of the host or of the device
/// @param archive_bytes   its bytes
/// @param variable        which variable: 0 for a field that `residuum_compress_device` compressed
/// @param element_type    `RESIDUUM_TYPE_F32` or `RESIDUUM_TYPE_F64`: that of the variable, as a check
/// @param values          where the values are to go, in C order, in memory of a device
/// @param capacity        values, not bytes, that there is room for; there may be more room than values
/// @param stream          as in `residuum_compress_device`
/// @return `RESIDUUM_STATUS_BUFFER_TOO_SMALL` if there is too little room; nothing is written then
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_decompress_device(
    context: *mut Context,
    archive: *const c_void,
    archive_bytes: usize,
    variable: usize,
    element_type: i32,
    values: *mut c_void,
    capacity: usize,
    stream: *mut c_void,
) -> Status {
    call(context, |state| {
        let dtype = float_type(element_type)?;
        memory::check(archive.cast::<u8>(), archive_bytes, "archive")?;
        let at = archive as u64;
        let archive_is_there = archive_bytes > 0 && gpu::device_of(at)?.is_some();
        // Before a device is asked for, as for archives of the host.
        if !archive_is_there {
            // SAFETY: `archive_bytes` bytes of the host, by the header.
            let bytes = unsafe { memory::slice(archive.cast::<u8>(), archive_bytes, "archive")? };
            decompress::open(bytes, variable, element_type, capacity)?;
        }
        gpu::with(state, values as u64, capacity, dtype, stream, |gpu| {
            let copied;
            let bytes = if archive_is_there {
                copied = gpu::read(gpu, at, archive_bytes)?;
                decompress::open(&copied, variable, element_type, capacity)?;
                &copied[..]
            } else {
                // SAFETY: as above.
                unsafe { memory::slice(archive.cast::<u8>(), archive_bytes, "archive")? }
            };
            match dtype {
                DType::F32 => gpu::restore::<f32>(gpu, bytes, variable, values as u64),
                _ => gpu::restore::<f64>(gpu, bytes, variable, values as u64),
            }
        })
    })
}

/// Compiles and loads the kernels and takes the working memory that fields of this type and shape need with the context's settings, so that
/// later calls take no memory of the device.
///
/// @param device   number of the device, from 0, as the runtime counts them
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_reserve_device(
    context: *mut Context,
    device: i32,
    element_type: i32,
    n_dims: usize,
    shape: *const usize,
) -> Status {
    call(context, |state| {
        // SAFETY: `n_dims` lengths, by the header.
        let shape = unsafe { memory::slice(shape, n_dims, "shape")? };
        let dtype = float_type(element_type)?;
        n_values(shape)?;
        let config = state.config()?;
        let device = usize::try_from(device).map_err(|_| Failure::usage(format!("{device} is no device")))?;
        gpu::reserve(state, device, dtype, shape, &config)
    })
}

/// Bytes of working memory that the context holds on devices.
///
/// @param[out] bytes   the bytes
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_device_workspace_bytes(context: *mut Context, bytes: *mut usize) -> Status {
    call(context, |state| {
        // SAFETY: the place of a `size_t`, by the header.
        let place = unsafe { memory::place(bytes, "bytes")? };
        place.write(gpu::workspace_bytes(state));
        Ok(())
    })
}

/// What a call compresses: fields of one type and shape.
struct Fields<'a> {
    element_type: i32,
    values: &'a [*const c_void],
    shape: &'a [usize],
    archives: &'a [*mut c_void],
    capacity: usize,
}

/// # Safety
/// Values are fields of that type and shape, archives have room for `capacity` bytes, `archive_bytes` is the place of a `size_t` for each.
unsafe fn compress(
    state: &mut State,
    fields: &Fields<'_>,
    archive_bytes: *mut usize,
    stream: *mut c_void,
) -> Result<(), Failure> {
    let dtype = float_type(fields.element_type)?;
    let n = n_values(fields.shape)?;
    let config = state.config()?;
    let fill = state.fill;
    memory::check(archive_bytes.cast_const(), fields.values.len(), "archive_bytes")?;
    let Some(&first) = fields.values.first() else { return Ok(()) };
    for archive in fields.archives {
        memory::check(archive.cast::<u8>().cast_const(), fields.capacity, "archive")?;
    }
    let device = gpu::check_values(first as u64, n, dtype)?;
    for &values in fields.values {
        if gpu::check_values(values as u64, n, dtype)? != device {
            return Err(Failure::usage("values: fields on several devices"));
        }
    }
    // SAFETY: the caller's word, passed on.
    let targets = unsafe { gpu::targets(fields.archives, fields.capacity, device)? };
    let sizes = gpu::with(state, first as u64, n, dtype, stream, |gpu| match dtype {
        DType::F32 => gpu::compress::<f32>(gpu, fields.values, fields.shape, fill, &config, targets),
        _ => gpu::compress::<f64>(gpu, fields.values, fields.shape, fill, &config, targets),
    })?;
    let mut most = 0;
    for (i, &bytes) in sizes.iter().enumerate() {
        // SAFETY: the place of as many as there are fields, by the caller's word.
        unsafe { archive_bytes.add(i).write(usize::try_from(bytes).unwrap_or(usize::MAX)) };
        most = bytes.max(most);
    }
    if most > fields.capacity as u64 {
        return Err(Failure::BufferTooSmall { has: fields.capacity, needs: most, of: "bytes" });
    }
    Ok(())
}

/// Devices of a context: number and what works on it.
#[derive(Default)]
pub struct Devices {
    #[cfg(feature = "cuda")]
    opened: Vec<(usize, crate::device::Gpu)>,
}

#[cfg(feature = "cuda")]
mod gpu {
    use super::{DType, Failure, State, c_void};
    use crate::config::Config;
    use crate::device::cudarc::driver::sys;
    use crate::device::{At, Caller, Gpu, Stored, Target, memory_device};
    use crate::error::{Error, Kind};
    use crate::field::Float;
    use crate::predict::fitted::Rows;
    use std::mem::MaybeUninit;

    /// The device that an address is on; `None` for memory of the host.
    pub fn device_of(at: u64) -> Result<Option<usize>, Failure> {
        Ok(memory_device(at)?)
    }

    /// That an address can be that of `n` values on a device; gives the device.
    pub fn check_values(at: u64, n: usize, dtype: DType) -> Result<usize, Failure> {
        if at == 0 {
            return Err(Failure::usage("values: a null pointer"));
        }
        if !at.is_multiple_of(dtype.size() as u64) {
            return Err(Failure::usage(format!("values: a pointer that is not aligned to {} bytes", dtype.size())));
        }
        if n.checked_mul(dtype.size()).is_none_or(|bytes| bytes > isize::MAX as usize) {
            return Err(Failure::usage(format!("values: {n} elements are more than memory can hold")));
        }
        device_of(at)?.ok_or_else(|| {
            Failure::usage("values: not in memory of a CUDA device; residuum_compress and residuum_decompress are for those of the host")
        })
    }

    /// Where archives go.
    ///
    /// # Safety
    /// All have room for `capacity` bytes, for our use alone.
    pub unsafe fn targets<'a>(
        archives: &[*mut c_void],
        capacity: usize,
        device: usize,
    ) -> Result<Vec<Target<'a>>, Failure> {
        let target = |&archive: &*mut c_void| match device_of(archive as u64)? {
            Some(other) if other != device => Err(Failure::usage("archive: on another device than the values")),
            Some(_) => Ok(Target::Device { at: archive as u64, capacity: capacity as u64 }),
            None => {
                // SAFETY: room for `capacity` bytes of the host by the caller's word.
                let room = unsafe { super::memory::room(archive.cast(), capacity, "archive")? };
                Ok(Target::Host(room))
            }
        };
        archives.iter().map(target).collect()
    }

    /// Runs `work` on the device of `values`, in order with the caller's stream.
    pub fn with<R>(
        state: &mut State,
        values: u64,
        n: usize,
        dtype: DType,
        stream: *mut c_void,
        work: impl FnOnce(&mut Gpu) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let device = check_values(values, n, dtype)?;
        let result = ordered(state, device, stream, work);
        if let Err(Failure::Error(e)) = &result
            && e.kind() == Kind::Device
        {
            // What failed may not work again: the next call starts anew.
            state.devices.opened.retain(|(d, _)| *d != device);
        }
        result
    }

    fn ordered<R>(
        state: &mut State,
        device: usize,
        stream: *mut c_void,
        work: impl FnOnce(&mut Gpu) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let _current = Caller::enter()?;
        let gpu = opened(state, device)?;
        // SAFETY: a stream of this device's primary context that lives during the call, by the header.
        let caller = unsafe { gpu.borrow_stream(stream.cast::<sys::CUstream_st>()) };
        gpu.follow(&caller)?;
        match work(gpu) {
            Ok(result) => {
                gpu.precede(&caller)?;
                Ok(result)
            }
            Err(e) => {
                // The caller may free what kernels still read. That the device failed, if it did, is said already.
                let _ = gpu.wait();
                Err(e)
            }
        }
    }

    fn opened(state: &mut State, device: usize) -> Result<&mut Gpu, Failure> {
        let gpus = &mut state.devices.opened;
        let i = match gpus.iter().position(|(d, _)| *d == device) {
            Some(i) => i,
            None => {
                gpus.push((device, Gpu::open(device)?));
                gpus.len() - 1
            }
        };
        Ok(&mut gpus[i].1)
    }

    pub fn compress<T: Rows>(
        gpu: &mut Gpu,
        values: &[*const c_void],
        shape: &[usize],
        fill: Option<f64>,
        config: &Config,
        targets: Vec<Target<'_>>,
    ) -> Result<Vec<u64>, Failure> {
        let fill = fill.map(<T as Float>::from_f64);
        let fields: Vec<_> = values.iter().map(|&v| At { address: v as u64, shape, fill }).collect();
        Ok(gpu.compress_at(&fields, config, targets)?)
    }

    pub fn restore<T: Rows>(gpu: &mut Gpu, archive: &[u8], variable: usize, at: u64) -> Result<(), Failure> {
        let mut stored = Stored::<T>::open(archive, variable)?;
        Ok(gpu.restore_all(&mut stored, at)?)
    }

    pub fn read(gpu: &Gpu, at: u64, len: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::<u8>::new();
        bytes.try_reserve_exact(len).map_err(|_| Error::usage(format!("archive: no memory for {len} bytes")))?;
        let room: &mut [MaybeUninit<u8>] = &mut bytes.spare_capacity_mut()[..len];
        gpu.start_copy_out(at, room)?;
        gpu.wait()?;
        // SAFETY: copied, and waited for.
        unsafe { bytes.set_len(len) };
        Ok(bytes)
    }

    pub fn reserve(
        state: &mut State,
        device: usize,
        dtype: DType,
        shape: &[usize],
        config: &Config,
    ) -> Result<(), Failure> {
        let _current = Caller::enter()?;
        let gpu = opened(state, device)?;
        match dtype {
            DType::F32 => gpu.reserve::<f32>(shape, config)?,
            _ => gpu.reserve::<f64>(shape, config)?,
        }
        Ok(())
    }

    pub fn workspace_bytes(state: &State) -> usize {
        state.devices.opened.iter().map(|(_, gpu)| gpu.workspace_bytes()).sum()
    }
}

/// A build without CUDA says so.
#[cfg(not(feature = "cuda"))]
mod gpu {
    use super::{DType, Failure, State, c_void};
    use crate::config::Config;
    use crate::error::Error;

    /// Nothing is one.
    pub enum Gpu {}

    fn missing<R>() -> Result<R, Failure> {
        Err(Error::device("this residuum was built without the feature cuda").into())
    }
    pub fn device_of(_: u64) -> Result<Option<usize>, Failure> {
        missing()
    }
    pub fn check_values(_: u64, _: usize, _: DType) -> Result<usize, Failure> {
        missing()
    }
    /// # Safety
    /// None is needed.
    pub unsafe fn targets(_: &[*mut c_void], _: usize, _: usize) -> Result<(), Failure> {
        missing()
    }
    pub fn with<R>(
        _: &mut State,
        _: u64,
        _: usize,
        _: DType,
        _: *mut c_void,
        _: impl FnOnce(&mut Gpu) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        missing()
    }
    pub fn compress<T>(
        _: &mut Gpu,
        _: &[*const c_void],
        _: &[usize],
        _: Option<f64>,
        _: &Config,
        _: (),
    ) -> Result<Vec<u64>, Failure> {
        missing()
    }
    pub fn restore<T>(_: &mut Gpu, _: &[u8], _: usize, _: u64) -> Result<(), Failure> {
        missing()
    }
    pub fn read(_: &Gpu, _: u64, _: usize) -> Result<Vec<u8>, Failure> {
        missing()
    }
    pub fn reserve(_: &mut State, _: usize, _: DType, _: &[usize], _: &Config) -> Result<(), Failure> {
        missing()
    }
    pub fn workspace_bytes(_: &State) -> usize {
        0
    }
}
