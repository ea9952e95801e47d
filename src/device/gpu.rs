//! An NVIDIA GPU with our kernels loaded, and its working memory.
#![allow(unsafe_code)]

use super::layout::{Args, BLOCK};
use super::program::Program;
use crate::error::{Error, Result};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaModule, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg,
    sys,
};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::sync::Arc;

/// The number of the device that an address is on; `None` for memory of the host.
///
/// # Errors
/// `Device` if there is no driver or it does not answer.
pub(crate) fn memory_device(at: u64) -> Result<Option<usize>> {
    use sys::CUpointer_attribute as A;
    let what = "asking the driver where memory is";
    check_driver()?;
    cudarc::driver::result::init().during(what)?;
    let ask = |attribute| {
        let mut answer = 0i32;
        // SAFETY: both attributes are integers of 32 bits; the address is looked up, not followed.
        let result = unsafe { sys::cuPointerGetAttribute((&raw mut answer).cast(), attribute, at) };
        match result {
            // Memory that the driver does not know is the host's.
            sys::CUresult::CUDA_ERROR_INVALID_VALUE => Ok(None),
            result => result.result().during(what).map(|()| Some(answer)),
        }
    };
    match ask(A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE)? {
        Some(kind) if kind == sys::CUmemorytype_enum::CU_MEMORYTYPE_DEVICE as i32 => {
            Ok(ask(A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)?.and_then(|n| usize::try_from(n).ok()))
        }
        _ => Ok(None),
    }
}

/// With candle's CUDA the driver is linked: where it is missing the program does not start.
#[cfg(feature = "candle-cuda")]
fn check_driver() -> Result<()> {
    Ok(())
}

#[cfg(not(feature = "candle-cuda"))]
fn check_driver() -> Result<()> {
    // SAFETY: only looks whether the library can be loaded; without it the driver's functions would panic.
    if unsafe { sys::is_culib_present() } { Ok(()) } else { Err(Error::device("there is no CUDA driver (libcuda)")) }
}

/// The thread's context as the caller had it, which it gets back in the end.
pub(crate) struct Caller(sys::CUcontext);

impl Caller {
    pub fn enter() -> Result<Self> {
        check_driver()?;
        let what = "asking the driver for the context";
        cudarc::driver::result::init().during(what)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: writes one pointer.
        unsafe { sys::cuCtxGetCurrent(&mut context) }.result().during(what)?;
        Ok(Self(context))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // SAFETY: what was current before, or nothing. That it fails after the loss of a device was said elsewhere.
        let _ = unsafe { sys::cuCtxSetCurrent(self.0) };
    }
}

/// What a driver's error was about, as an error of ours.
pub(crate) trait During<T> {
    /// Names what was being done.
    ///
    /// # Errors
    /// `Device`, if there was one.
    fn during(self, what: &str) -> Result<T>;
}

impl<T> During<T> for std::result::Result<T, DriverError> {
    fn during(self, what: &str) -> Result<T> {
        self.map_err(|e| Error::device(format!("{what}: {}", describe(&e))))
    }
}

fn describe(e: &DriverError) -> String {
    match e.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => "the GPU is out of memory".into(),
        sys::CUresult::CUDA_ERROR_NO_DEVICE => "there is no GPU".into(),
        sys::CUresult::CUDA_ERROR_INVALID_DEVICE => "there is no GPU of this number".into(),
        _ => e.error_string().map_or_else(|_| format!("{:?}", e.0), |s| s.to_string_lossy().into_owned()),
    }
}

/// A GPU, a stream of it, our kernels and their working memory, which is kept from call to call.
///
/// One call at a time, on one stream. For another stream or thread [`Gpu::another`] makes one that shares the kernels but has a working
/// memory of its own: calls on the two run beside each other. It may be sent to another thread. Working memory is taken when a call first needs
/// it (or by [`Gpu::reserve`]), grows with larger fields, and is freed when the `Gpu` is dropped.
pub struct Gpu {
    pub(super) stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    functions: HashMap<String, CudaFunction>,
    rooms: HashMap<&'static str, CudaSlice<u8>>,
    /// Rooms whose content stays as it is once it is there.
    lasting: HashMap<&'static str, CudaSlice<u8>>,
    multiprocessors: u32,
    name: String,
    /// Kernels with an event before and one after each, where someone asked for times.
    timed: Option<Vec<(String, CudaEvent, CudaEvent)>>,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Gpu {
    /// The GPU of this number, on a stream of its own.
    ///
    /// # Errors
    /// `Device` if there is no driver, no such GPU, or the kernels can not be compiled or loaded.
    pub fn open(ordinal: usize) -> Result<Self> {
        check_driver()?;
        let context = CudaContext::new(ordinal).during(&format!("opening GPU {ordinal}"))?;
        // SAFETY: this context's buffers are used on one stream, by one call at a time, so that events need not order them.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().during("making a stream")?;
        Self::on_stream(stream)
    }

    /// On a stream that is there, so that work follows what the caller has launched on it.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn on_stream(stream: Arc<CudaStream>) -> Result<Self> {
        let context = stream.context();
        let what = "asking the GPU what it is";
        let capability = context.compute_capability().during(what)?;
        let mut driver = 0;
        // SAFETY: writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut driver) }.result().during(what)?;
        let program = Program::new(capability, driver);
        let module = load(context, &program)?;
        let multiprocessors = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        Ok(Self {
            multiprocessors: context.attribute(multiprocessors).during(what)?.max(1) as u32,
            name: context.name().during(what)?,
            stream: stream.clone(),
            module,
            functions: HashMap::new(),
            rooms: HashMap::new(),
            lasting: HashMap::new(),
            timed: None,
        })
    }

    /// The same kernels on another stream of the same context, with a working memory of its own.
    ///
    /// # Errors
    /// `Usage` if the stream is of another context.
    pub fn another(&self, stream: Arc<CudaStream>) -> Result<Self> {
        if stream.context() != self.stream.context() {
            return Err(Error::usage("a stream of another context"));
        }
        Ok(Self {
            stream,
            module: self.module.clone(),
            functions: self.functions.clone(),
            rooms: HashMap::new(),
            lasting: HashMap::new(),
            multiprocessors: self.multiprocessors,
            name: self.name.clone(),
            timed: None,
        })
    }

    /// A stream of the caller's.
    ///
    /// # Safety
    /// It is one of this device's primary context, or null, and lives as long as what this gives.
    pub(crate) unsafe fn borrow_stream(&self, stream: sys::CUstream) -> Arc<CudaStream> {
        // SAFETY: passed on.
        unsafe { self.stream.context().wrap_borrowed_stream(stream) }
    }

    /// Work from now on follows what was launched on `other` so far.
    ///
    /// # Errors
    /// `Device` if the device fails.
    pub fn follow(&self, other: &CudaStream) -> Result<()> {
        self.stream.join(other).during("waiting for a stream")
    }

    /// Work launched on `other` from now on follows what this has launched so far.
    ///
    /// # Errors
    /// `Device` if the device fails.
    pub fn precede(&self, other: &CudaStream) -> Result<()> {
        other.join(&self.stream).during("having a stream wait")
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The stream that all work goes to.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Bytes of working memory held.
    pub fn workspace_bytes(&self) -> usize {
        self.rooms.values().chain(self.lasting.values()).map(CudaSlice::len).sum()
    }

    pub(crate) fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// Device memory for a purpose, of unspecified content: what a call before had, if it is large enough.
    pub(crate) fn room(&mut self, purpose: &'static str, bytes: usize) -> Result<u64> {
        if self.rooms.get(purpose).is_none_or(|r| r.len() < bytes) {
            self.rooms.remove(purpose);
            // SAFETY: bytes; whoever takes a room writes before reading.
            let room = unsafe { self.stream.alloc::<u8>(bytes.max(256)) };
            let room = room.during(&format!("taking {bytes} bytes of the GPU's memory for {purpose}"))?;
            self.rooms.insert(purpose, room);
        }
        Ok(address(&self.rooms[purpose], &self.stream))
    }

    /// Device memory whose content is made once, by `fill`, and stays.
    pub(crate) fn lasting_room(
        &mut self,
        purpose: &'static str,
        bytes: usize,
        fill: impl FnOnce(&mut Self, u64) -> Result<()>,
    ) -> Result<u64> {
        if let Some(room) = self.lasting.get(purpose) {
            return Ok(address(room, &self.stream));
        }
        // SAFETY: bytes; `fill` writes them before they are read.
        let room = unsafe { self.stream.alloc::<u8>(bytes) };
        let room = room.during(&format!("taking {bytes} bytes of the GPU's memory for {purpose}"))?;
        let at = address(&room, &self.stream);
        fill(self, at)?;
        self.lasting.insert(purpose, room);
        Ok(at)
    }

    pub(crate) fn launch(&mut self, kernel: &str, blocks: (u32, u32), threads: u32, args: &Args) -> Result<()> {
        if !self.functions.contains_key(kernel) {
            let function = self.module.load_function(kernel).during(&format!("looking for kernel {kernel}"))?;
            self.functions.insert(kernel.to_string(), function);
        }
        let config = LaunchConfig {
            grid_dim: (blocks.0.max(1), blocks.1.max(1), 1),
            block_dim: (threads, 1, 1),
            shared_mem_bytes: 0,
        };
        let event = |stream: &Arc<CudaStream>| {
            let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
            stream.record_event(flags).during("recording a time")
        };
        let before = self.timed.is_some().then(|| event(&self.stream)).transpose()?;
        let mut launch = self.stream.launch_builder(&self.functions[kernel]);
        // SAFETY: every kernel takes one `Args` (layout.rs). Its pointers are those of rooms sized in encode.rs and decode.rs, and of the
        // caller's values, whose length was checked; kernels compare indices with `n` and the counts in the state.
        unsafe { launch.arg(args).launch(config) }.map(|_| ()).during(&format!("launching {kernel}"))?;
        if let (Some(before), Some(timed)) = (before, &mut self.timed) {
            timed.push((kernel.to_string(), before, event(&self.stream)?));
        }
        Ok(())
    }

    /// Takes the time of every kernel from now on.
    pub fn start_timing(&mut self) {
        self.timed = Some(Vec::new());
    }

    /// Kernels launched since [`Gpu::start_timing`]: name, launches, milliseconds altogether, in the order in which they first came.
    ///
    /// # Errors
    /// `Device` if the device fails.
    pub fn stop_timing(&mut self) -> Result<Vec<(String, u32, f64)>> {
        let what = "reading times";
        self.stream.synchronize().during(what)?;
        let mut kernels: Vec<(String, u32, f64)> = Vec::new();
        for (name, before, after) in self.timed.take().unwrap_or_default() {
            let ms = f64::from(before.elapsed_ms(&after).during(what)?);
            match kernels.iter_mut().find(|k| k.0 == name) {
                Some((_, n, sum)) => (*n, *sum) = (*n + 1, *sum + ms),
                None => kernels.push((name, 1, ms)),
            }
        }
        Ok(kernels)
    }

    /// Whether this is the software driver of the tests, whose times mean nothing.
    pub fn is_emulated(&self) -> bool {
        self.name.starts_with("cuemu")
    }

    /// A line or two about the device and its driver, and the peak bandwidth of its memory in GB/s (0 if it does not say).
    ///
    /// # Errors
    /// `Device` if the device does not answer.
    pub fn describe(&self) -> Result<(String, f64)> {
        use sys::CUdevice_attribute as A;
        let what = "asking the GPU what it is";
        let context = self.stream.context();
        let attribute = |a| context.attribute(a).during(what);
        let (major, minor) = context.compute_capability().during(what)?;
        let mut driver = 0;
        // SAFETY: writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut driver) }.result().during(what)?;
        let clock_khz = f64::from(attribute(A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?);
        let bus_bits = f64::from(attribute(A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?);
        // Two transfers a clock.
        let peak = 2.0 * clock_khz * 1e3 * bus_bits / 8.0 / 1e9;
        let memory = context.total_mem().during(what)? as f64 / 1e9;
        let text = format!(
            "{}: compute capability {major}.{minor}, {} multiprocessors, {memory:.1} GB; driver for CUDA {}.{}",
            self.name,
            self.multiprocessors,
            driver / 1000,
            driver % 1000 / 10
        );
        Ok((text, peak))
    }

    /// Copies bytes to a room.
    pub(crate) fn put(&mut self, purpose: &'static str, bytes: &[u8]) -> Result<u64> {
        let at = self.room(purpose, bytes.len())?;
        self.copy_in(at, bytes)?;
        Ok(at)
    }

    pub(crate) fn copy_in(&self, to: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let what = "copying to the GPU";
        self.stream.context().bind_to_thread().during(what)?;
        // SAFETY: `to` has room for the bytes, as its callers see to. Memory of the host is pageable: the call returns when it is read.
        unsafe { cudarc::driver::result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) }.during(what)
    }

    /// Copies bytes from the device and waits for them: one synchronization.
    pub(crate) fn copy_out(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.start_copy_out(from, uninit(bytes))?;
        self.wait()
    }

    /// Copies bytes from the device: they are there after the next wait.
    pub(crate) fn start_copy_out(&self, from: u64, bytes: &mut [MaybeUninit<u8>]) -> Result<()> {
        let what = "copying from the GPU";
        if bytes.is_empty() {
            return Ok(());
        }
        self.stream.context().bind_to_thread().during(what)?;
        let (to, len) = (bytes.as_mut_ptr().cast(), bytes.len());
        // SAFETY: `from` holds as many bytes, as its callers see to; they do not look at them before they have waited.
        unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, len, self.stream.cu_stream()) }.result().during(what)
    }

    /// Copies bytes of the device to another place there.
    pub(crate) fn copy_within(&self, to: u64, from: u64, len: u64) -> Result<()> {
        let what = "copying on the GPU";
        if len == 0 {
            return Ok(());
        }
        self.stream.context().bind_to_thread().during(what)?;
        // SAFETY: both places have as many bytes, as the callers see to.
        unsafe { cudarc::driver::result::memcpy_dtod_async(to, from, len as usize, self.stream.cu_stream()) }
            .during(what)
    }

    /// Waits for all work launched.
    pub(crate) fn wait(&self) -> Result<()> {
        self.stream.synchronize().during("waiting for the GPU")
    }

    pub(crate) fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        let what = "clearing memory of the GPU";
        self.stream.context().bind_to_thread().during(what)?;
        // SAFETY: `at` has as many bytes, as its callers see to.
        unsafe { cudarc::driver::result::memset_d8_async(at, 0, bytes, self.stream.cu_stream()) }.during(what)
    }
}

/// The kernels from the cache; compiled if they are not there or do not load.
fn load(context: &Arc<CudaContext>, program: &Program) -> Result<Arc<CudaModule>> {
    let load = |ptx: Ptx| context.load_module(ptx).during("loading the kernels");
    if let Some(module) = program.cached().and_then(|ptx| load(ptx).ok()) {
        return Ok(module);
    }
    load(program.compile()?)
}

/// Bytes as a place to write to.
pub(super) fn uninit(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the same layout; those who get it write only what a device copies, which are bytes.
    unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) }
}

fn address(slice: &CudaSlice<u8>, stream: &CudaStream) -> u64 {
    use cudarc::driver::DevicePtr;
    slice.device_ptr(stream).0
}

/// Launches for one tile.
pub(crate) struct Run<'a> {
    pub gpu: &'a mut Gpu,
    pub args: Args,
    /// `f32` or `f64`: the type of the values, and of what is predicted (their logarithms are f64).
    pub value: &'static str,
    pub work: &'static str,
}

impl Run<'_> {
    /// A kernel over `n` elements, `per_block` of them a block.
    pub fn over(&mut self, kernel: &str, n: u32, per_block: u32) -> Result<()> {
        self.gpu.launch(kernel, (n.div_ceil(per_block), 1), BLOCK, &self.args)
    }

    /// The same for the type of the values.
    pub fn over_values(&mut self, kernel: &str, n: u32, per_block: u32) -> Result<()> {
        let kernel = format!("{kernel}_{}", self.value);
        self.over(&kernel, n, per_block)
    }

    /// The same for the type of what is predicted.
    pub fn over_work(&mut self, kernel: &str, n: u32, per_block: u32) -> Result<()> {
        let kernel = format!("{kernel}_{}", self.work);
        self.over(&kernel, n, per_block)
    }

    /// A kernel of one block.
    pub fn once(&mut self, kernel: &str, threads: u32) -> Result<()> {
        self.gpu.launch(kernel, (1, 1), threads, &self.args)
    }

    /// The same with `count` set.
    pub fn once_for(&mut self, kernel: &str, threads: u32, count: u32) -> Result<()> {
        let args = Args { count, ..self.args };
        self.gpu.launch(kernel, (1, 1), threads, &args)
    }
}
