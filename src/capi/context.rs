//! Contexts: settings, threads, and what went wrong last.

use super::device::Devices;
use super::{Failure, Status, call};
use crate::bound::{Bound, Mode};
use crate::config::{Config, DEFAULT_TILE_BYTES, Effort, PredictorChoice};
use crate::error::{Error, Kind};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::ffi::{CString, c_char};
use std::sync::Mutex;

/// Settings, threads, and what went wrong last. Made by `residuum_context_new`, to be used for any number of calls.
pub struct Context {
    pub(super) state: Mutex<State>,
}

/// What a context knows.
pub struct State {
    pub bound: Option<Bound>,
    pub effort: Effort,
    pub predictor: PredictorChoice,
    pub tile_bytes: u64,
    pub verify: bool,
    pub fill: Option<f64>,
    /// Kernels and working memory on devices.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "there are none"))]
    pub devices: Devices,
    /// `None` for the threads that all contexts share.
    pub threads: Option<ThreadPool>,
    /// Of the last call; empty if it succeeded.
    pub message: CString,
}

impl State {
    /// The settings as Rust callers have them.
    pub fn config(&self) -> Result<Config, Failure> {
        let bound = self.bound.ok_or_else(|| Failure::usage("no bound was set: call residuum_set_bound first"))?;
        Ok(Config::new(bound)
            .with_effort(self.effort)
            .with_predictor(self.predictor)
            .with_tile_bytes(self.tile_bytes)
            .with_verify(self.verify))
    }

    /// Runs `f` on the context's threads.
    pub fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match &self.threads {
            Some(threads) => threads.install(f),
            None => f(),
        }
    }
}

/// Makes a context. It holds settings only; memory and threads come with use. It wants a bound before it compresses.
///
/// @param[out] context   the context, to be freed by `residuum_context_free`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_context_new(context: *mut *mut Context) -> Status {
    // SAFETY: null or the place of a pointer, by the header.
    let Ok(place) = (unsafe { super::memory::place(context, "context") }) else { return Status::Usage };
    let state = State {
        bound: None,
        effort: Effort::default(),
        predictor: PredictorChoice::default(),
        tile_bytes: DEFAULT_TILE_BYTES,
        verify: false,
        fill: None,
        devices: Devices::default(),
        threads: None,
        message: CString::default(),
    };
    place.write(Box::into_raw(Box::new(Context { state: Mutex::new(state) })));
    Status::Ok
}

/// Frees a context and ends its threads. Null is allowed. No other call may be using it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_context_free(context: *mut Context) {
    if !context.is_null() {
        // SAFETY: from `residuum_context_new`, which made it by `Box`, and not used any more, by the header.
        drop(unsafe { Box::from_raw(context) });
    }
}

/// What went wrong in the last call with this context, in English and UTF-8; empty if nothing did. The text is the context's:
/// it is good until the next call with it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_last_error(context: *const Context) -> *const c_char {
    // SAFETY: as in `call`.
    let Some(context) = (unsafe { context.as_ref() }) else { return c"the context is null".as_ptr() };
    match context.state.try_lock() {
        Ok(state) => state.message.as_ptr(),
        Err(_) => c"the context is in use by another thread".as_ptr(),
    }
}

/// Sets the bound of the fields to come.
///
/// @param mode   a `residuum_bound`
/// @param value  what it says: 0.01 in the units of the data, 1e-3 of the range, 80 dB; 0 is lossless (infinity for dB)
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_set_bound(context: *mut Context, mode: i32, value: f64) -> Status {
    call(context, |state| {
        let mode = [Mode::Abs, Mode::Rel, Mode::PwRel, Mode::Psnr]
            .get(mode as usize)
            .ok_or_else(|| Failure::usage(format!("{mode} is no residuum_bound")))?;
        let bound = Bound { mode: *mode, value };
        bound.check()?;
        state.bound = Some(bound);
        Ok(())
    })
}

/// Sets how hard to try.
///
/// @param effort   a `residuum_effort`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_set_effort(context: *mut Context, effort: i32) -> Status {
    call(context, |state| {
        state.effort = *[Effort::Fast, Effort::Balanced, Effort::Best]
            .get(effort as usize)
            .ok_or_else(|| Failure::usage(format!("{effort} is no residuum_effort")))?;
        Ok(())
    })
}

/// Sets the predictor to use.
///
/// @param predictor   a `residuum_predictor`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_set_predictor(context: *mut Context, predictor: i32) -> Status {
    use PredictorChoice::{Auto, Fitted, Interp, Lorenzo, None};
    call(context, |state| {
        state.predictor = *[Auto, None, Lorenzo, Interp, Fitted]
            .get(predictor as usize)
            .ok_or_else(|| Failure::usage(format!("{predictor} is no residuum_predictor")))?;
        Ok(())
    })
}

/// Sets the value that stands for missing data. Values equal to it, rounded to the type of the field, come back bit for bit and do
/// not count towards ranges. NaN and infinities come back bit for bit anyway.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_set_fill(context: *mut Context, fill: f64) -> Status {
    call(context, |state| {
        state.fill = Some(fill);
        Ok(())
    })
}

/// No value stands for missing data: the default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_unset_fill(context: *mut Context) -> Status {
    call(context, |state| {
        state.fill = None;
        Ok(())
    })
}

/// Sets on how many threads the context's calls work. Archives do not depend on it.
///
/// @param n_threads   0 for the threads that all contexts of the process share, one a core (the default); else the context gets that
///                    many of its own, at most 1024, until it is freed. Threads do not survive a fork.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_set_threads(context: *mut Context, n_threads: u32) -> Status {
    const MOST: u32 = 1024;
    call(context, |state| {
        state.threads = match n_threads {
            0 => None,
            n if n > MOST => return Err(Failure::usage(format!("{n} threads; there can be {MOST}"))),
            n => {
                let name = |i| format!("residuum-{i}");
                let pool = ThreadPoolBuilder::new().num_threads(n as usize).thread_name(name).build();
                Some(pool.map_err(|e| Error::new(Kind::Io, format!("{n} threads: {e}")))?)
            }
        };
        Ok(())
    })
}

/// Sets how many bytes of values are coded at once, about: a call takes some ten times as much memory beside the caller's buffers.
/// More compress better. The default is 32 MiB.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_set_tile_bytes(context: *mut Context, tile_bytes: u64) -> Status {
    call(context, |state| {
        state.tile_bytes = tile_bytes;
        Ok(())
    })
}

/// Sets whether everything is decoded and compared before it is written, which costs about half as much time again.
/// The bound holds without; this finds bugs and broken machines.
///
/// @param verify   0 for no (the default), else yes
#[unsafe(no_mangle)]
pub unsafe extern "C" fn residuum_set_verify(context: *mut Context, verify: i32) -> Status {
    call(context, |state| {
        state.verify = verify != 0;
        Ok(())
    })
}
