//! The C interface: `include/residuum.h`, which cbindgen makes from this folder (`cbindgen.toml`; a test compares).
//!
//! What C sees is flat functions on an opaque context. Nothing here computes: each function checks its arguments, makes slices of
//! pointers, and calls what Rust callers call. `call` is the one way in: it takes the context's lock, catches panics, and turns an
//! [`Error`] into a status and a message. Doc comments are written for readers of the header.
//!
//! Room to grow without breaking programs: the context is opaque, `residuum_variable` says its own size, constants are only added.
//! Fields in device memory have functions of their own (`device`), on the same context.
#![allow(unsafe_code)] // Pointers from C. What is asked of them stands in the header; what is done with them is argued at each use.
#![allow(rustdoc::broken_intra_doc_links)] // `@param[out]` is Doxygen's.
#![allow(clippy::missing_safety_doc)] // The header's general part states it once for all functions.

mod compress;
mod context;
mod decompress;
mod device;
mod inspect;
mod memory;

pub use compress::{
    Bytes, residuum_bytes_free, residuum_compress, residuum_compress_owned, residuum_max_archive_bytes,
};
pub use context::{
    Context, residuum_context_free, residuum_context_new, residuum_last_error, residuum_set_bound, residuum_set_effort,
    residuum_set_fill, residuum_set_predictor, residuum_set_threads, residuum_set_tile_bytes, residuum_set_verify,
    residuum_unset_fill,
};
pub use decompress::residuum_decompress;
pub use device::{
    residuum_compress_device, residuum_compress_device_batch, residuum_decompress_device,
    residuum_device_workspace_bytes, residuum_reserve_device,
};
pub use inspect::{
    MAX_DIMS, Variable, residuum_count_variables, residuum_find_variable, residuum_inspect, residuum_variable_name,
};

use crate::error::{Error, Kind};
use crate::field::DType;
use context::State;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::TryLockError;

/// Version of this interface. It grows when a function, constant or member changes its meaning or goes, not when one is added.
/// `residuum_abi_version` tells that of the library that a program runs with.
pub const ABI_VERSION: u32 = 1;

/// What became of a call: 0 if all is well, else who must act. Those from 0 to 7 are the exit statuses of the command as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// A value left its bound: a bug of the library, please report it.
    BoundViolated = 1,
    /// The call is wrong: an argument, a bound, a shape.
    Usage = 2,
    /// What was given to read is no archive.
    Input = 3,
    /// The archive is damaged or was made to deceive.
    Corrupt = 4,
    /// The archive needs a feature or a version that this library lacks.
    Unsupported = 5,
    /// The operating system refused, a thread for instance.
    Io = 6,
    /// A GPU, or its driver, failed.
    Device = 7,
    /// The caller's buffer is too small. What it should have is said.
    BufferTooSmall = 64,
    /// A bug of the library was stopped at its border: please report it. The context can still be used.
    Internal = 65,
}

/// Type of the elements of a variable. Fields to compress are `F32` or `F64`; archives of files may hold the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ElementType {
    /// float
    F32 = 0,
    /// double
    F64 = 1,
    /// int8_t
    I8 = 2,
    /// int16_t
    I16 = 3,
    /// int32_t
    I32 = 4,
    /// int64_t
    I64 = 5,
    /// uint8_t
    U8 = 6,
    /// uint16_t
    U16 = 7,
    /// uint32_t
    U32 = 8,
    /// uint64_t
    U64 = 9,
    /// char
    Char = 10,
    /// Text of any length: described by `residuum_inspect`, not restored here.
    Text = 11,
}

impl From<DType> for ElementType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F64 => Self::F64,
            DType::I8 => Self::I8,
            DType::I16 => Self::I16,
            DType::I32 => Self::I32,
            DType::I64 => Self::I64,
            DType::U8 => Self::U8,
            DType::U16 => Self::U16,
            DType::U32 => Self::U32,
            DType::U64 => Self::U64,
            DType::Char => Self::Char,
            DType::Text => Self::Text,
        }
    }
}

/// How a bound is meant, x being a value and y what comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum BoundMode {
    /// |y - x| <= bound, in the units of the data; 0 for lossless.
    Abs = 0,
    /// |y - x| <= bound * (max - min), over the field's finite values other than fill values and -0.0.
    Rel = 1,
    /// |y - x| <= bound * |x| at every point.
    PwRel = 2,
    /// A peak signal-to-noise ratio of at least this many dB: 20 log10((max - min) / rmse).
    Psnr = 3,
}

/// How hard to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum EffortLevel {
    /// Several times faster than the others.
    Fast = 0,
    /// The default.
    Balanced = 1,
    /// A few per cent smaller, several times slower to compress.
    Best = 2,
}

/// Which predictor to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum PredictorKind {
    /// The cheapest on samples of the data: the default.
    Auto = 0,
    /// No prediction.
    None = 1,
    /// Lorenzo.
    Lorenzo = 2,
    /// Multi-level interpolation.
    Interp = 3,
    /// Fitted stencils with contexts, if the last two dimensions have at least 512 values; else the cheaper of the two before.
    Fitted = 4,
}

/// Version of the interface that the library has: compare it with `RESIDUUM_ABI_VERSION` of the header.
#[unsafe(no_mangle)]
pub extern "C" fn residuum_abi_version() -> u32 {
    ABI_VERSION
}

/// Version of the library as text, such as "0.1.0". Static: never freed.
#[unsafe(no_mangle)]
pub extern "C" fn residuum_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("the version has a NUL"),
    };
    VERSION.as_ptr()
}

/// A few words for a status. Static: never freed. `residuum_last_error` says more.
#[unsafe(no_mangle)]
pub extern "C" fn residuum_status_text(status: i32) -> *const c_char {
    let known = STATUSES.into_iter().find(|&s| s as i32 == status);
    known.map_or(c"no status of this version", Status::text).as_ptr()
}

/// All of them.
const STATUSES: [Status; 10] = [
    Status::Ok,
    Status::BoundViolated,
    Status::Usage,
    Status::Input,
    Status::Corrupt,
    Status::Unsupported,
    Status::Io,
    Status::Device,
    Status::BufferTooSmall,
    Status::Internal,
];

impl Status {
    fn text(self) -> &'static CStr {
        match self {
            Self::Ok => c"done",
            Self::BoundViolated => c"a value left its bound: a bug, please report it",
            Self::Usage => c"the call is wrong",
            Self::Input => c"not an archive",
            Self::Corrupt => c"the archive is damaged",
            Self::Unsupported => c"not supported by this version",
            Self::Io => c"the operating system refused",
            Self::Device => c"the GPU or its driver failed",
            Self::BufferTooSmall => c"the buffer is too small",
            Self::Internal => c"a bug of the library, please report it",
        }
    }
}

/// Why a call did not succeed.
enum Failure {
    Error(Error),
    BufferTooSmall { has: usize, needs: u64, of: &'static str },
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Error(e)
    }
}

impl Failure {
    fn usage(message: impl Into<String>) -> Self {
        Self::Error(Error::usage(message))
    }

    fn status(&self) -> Status {
        match self {
            Self::BufferTooSmall { .. } => Status::BufferTooSmall,
            // Every kind has its own: one that is added to the crate is added here, says the compiler.
            Self::Error(e) => match e.kind() {
                Kind::Usage => Status::Usage,
                Kind::Input => Status::Input,
                Kind::Corrupt => Status::Corrupt,
                Kind::Unsupported => Status::Unsupported,
                Kind::Io => Status::Io,
                Kind::BoundViolated => Status::BoundViolated,
                Kind::Device | Kind::Disagreement => Status::Device,
            },
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Error(e) => e.to_string(),
            Self::BufferTooSmall { has, needs, of } => format!("the buffer has {has} {of} and needs {needs}"),
        }
    }
}

/// Runs `f` on the context's state: with its lock, which no other thread then has, and without a panic getting out.
fn call(context: *const Context, f: impl FnOnce(&mut State) -> Result<(), Failure>) -> Status {
    // SAFETY: null, or from `residuum_context_new` and not freed, as the header asks. Only shared references to it are ever made.
    let Some(context) = (unsafe { context.as_ref() }) else { return Status::Usage };
    let mut state = match context.state.try_lock() {
        Ok(state) => state,
        // A panic is caught within the lock, so that this does not happen; the state would be sound all the same.
        Err(TryLockError::Poisoned(e)) => e.into_inner(),
        // Its message is the other thread's.
        Err(TryLockError::WouldBlock) => return Status::Usage,
    };
    // The state is plain settings, each written by one assignment: a panic leaves none half written.
    let (status, message) = match catch_unwind(AssertUnwindSafe(|| f(&mut state))) {
        Ok(Ok(())) => (Status::Ok, String::new()),
        Ok(Err(failure)) => (failure.status(), failure.message()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            (Status::Internal, format!("a bug, please report it: {}", text.unwrap_or("panic")))
        }
    };
    state.message = CString::new(message.replace('\0', " ")).unwrap_or_default();
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_stops_at_the_border() {
        let mut context = std::ptr::null_mut();
        unsafe {
            assert_eq!(residuum_context_new(&mut context), Status::Ok);
            assert_eq!(call(context, |_| panic!("on purpose")), Status::Internal);
            let message = CStr::from_ptr(residuum_last_error(context)).to_str().unwrap();
            assert!(message.contains("on purpose"), "{message}");
            // And the context still works.
            assert_eq!(residuum_set_bound(context, BoundMode::Abs as i32, 0.5), Status::Ok);
            residuum_context_free(context);
        }
    }

    #[test]
    fn a_context_at_work_refuses_another_call() {
        let mut context = std::ptr::null_mut();
        unsafe {
            residuum_context_new(&mut context);
            let inner = call(context, |_| {
                assert_eq!(residuum_set_bound(context, 0, 0.5), Status::Usage);
                Ok(())
            });
            assert_eq!(inner, Status::Ok);
            residuum_context_free(context);
        }
    }

    #[test]
    fn statuses_are_those_of_the_command() {
        use Kind::{BoundViolated, Corrupt, Device, Input, Io, Unsupported, Usage};
        let kinds = [BoundViolated, Usage, Input, Corrupt, Unsupported, Io, Device];
        for kind in kinds {
            let status = Failure::Error(Error::new(kind, "")).status();
            assert_eq!(status as i32, i32::from(kind.exit_code()));
        }
    }
}
