//! What codes beside forecasts: the CPU, or a GPU, on which a model of candle's may be too.

use crate::compress::compress_tile;
use crate::config::Config;
use crate::decompress::decompress_tile;
use crate::device::{self, Choice, Coder, Gpu};
use crate::error::{Error, Kind, Result};
use crate::field::{DType, Values};
use crate::forecast::Options;
use crate::plan::Treatment;
use candle_core::Device;
use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// What codes: the CPU by default.
#[derive(Default)]
pub struct Machine {
    gpu: Option<OnGpu>,
    /// Where models run.
    model: Option<Device>,
    /// Whether the CPU takes over where the GPU fails.
    is_lenient: bool,
    /// Whether the GPU failed and is used no more.
    has_failed: AtomicBool,
    /// What the CPU took over, and why.
    notes: Mutex<Vec<String>>,
}

/// A GPU, and its coder for tiles without forecasts.
struct OnGpu {
    gpu: Gpu,
    coder: Mutex<Box<dyn Coder>>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gpu = self.gpu().is_some();
        f.debug_struct("Machine").field("gpu", &gpu).field("model", &self.model).finish()
    }
}

/// A GPU that codes, and where the model is that forecasts.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "there is none"))]
pub(super) struct On<'a> {
    pub gpu: &'a Gpu,
    pub model: &'a Device,
}

impl Machine {
    /// What a choice of device means; also why it is the CPU where it might have been a GPU. With the feature `candle-cuda` models run on the GPU
    /// too.
    ///
    /// # Errors
    /// `Device` if a GPU was asked for and there is none that works.
    pub fn open(choice: Choice) -> Result<(Self, Option<String>)> {
        match Self::of_choice(choice) {
            Err(e) if choice == Choice::Auto => Ok((Self::default(), Some(format!("no GPU is used: {e}")))),
            opened => opened,
        }
    }

    fn of_choice(choice: Choice) -> Result<(Self, Option<String>)> {
        let is_lenient = choice == Choice::Auto;
        // Why models are not where tiles are coded.
        #[cfg_attr(not(feature = "candle-cuda"), expect(unused_mut, reason = "they always are"))]
        let mut why = None;
        #[cfg(feature = "candle-cuda")]
        match Self::of_candle(choice, is_lenient) {
            Ok(Some(machine)) => return Ok((machine, None)),
            Ok(None) => {}
            Err(e) if is_lenient => why = Some(format!("models run on the CPU: {e}")),
            Err(e) => return Err(e),
        }
        let (gpu, why_none) = device::gpu(choice)?;
        let machine = gpu.map(|gpu| Self::with(gpu, is_lenient)).transpose()?;
        Ok((machine.unwrap_or_default(), why_none.or(why)))
    }

    #[cfg(feature = "candle-cuda")]
    fn of_candle(choice: Choice, is_lenient: bool) -> Result<Option<Self>> {
        let Some(device) = candle_device(choice)? else { return Ok(None) };
        let machine = Self::with(Gpu::of_candle(&device)?, is_lenient)?;
        Ok(Some(Self { model: Some(device), ..machine }))
    }

    /// A GPU, with models on the CPU.
    ///
    /// # Errors
    /// `Device`.
    #[cfg(feature = "cuda")]
    pub fn of_gpu(gpu: Gpu) -> Result<Self> {
        Self::with(gpu, false)
    }

    #[cfg(feature = "cuda")]
    fn with(gpu: Gpu, is_lenient: bool) -> Result<Self> {
        let another = gpu.another(gpu.stream().clone())?;
        let coder: Mutex<Box<dyn Coder>> = Mutex::new(Box::new(device::HostTiles::new(another, !is_lenient)));
        Ok(Self { gpu: Some(OnGpu { gpu, coder }), is_lenient, ..Self::default() })
    }

    #[cfg(not(feature = "cuda"))]
    fn with(gpu: Gpu, _: bool) -> Result<Self> {
        match gpu {}
    }

    fn gpu(&self) -> Option<&OnGpu> {
        self.gpu.as_ref().filter(|_| !self.has_failed.load(Ordering::Relaxed))
    }

    /// How to open a model for it.
    pub fn options(&self) -> Options {
        Options { device: self.model.clone().unwrap_or(Device::Cpu), ..Options::default() }
    }

    /// What the user should know of what was done: what the CPU took over, and why.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.lock().map_or_else(|_| vec![], |notes| notes.clone());
        let of_coder = self.gpu.as_ref().and_then(|on| on.coder.lock().ok().map(|c| c.notes())).unwrap_or_default();
        notes.extend(of_coder.into_iter().filter(|note| !notes.contains(note)).collect::<Vec<_>>());
        notes
    }

    /// Whether the CPU takes over after `e`, for good: where the GPU failed, unless it was asked for by name. Says so in the notes.
    pub(super) fn takes_over(&self, e: &Error) -> bool {
        let does = self.gpu().is_some() && e.kind() == Kind::Device && self.is_lenient;
        if does {
            self.note(e);
            self.has_failed.store(true, Ordering::Relaxed);
        }
        does
    }

    /// Notes what the CPU takes over, and why.
    pub(super) fn note(&self, e: &Error) {
        let note = format!("the CPU took over: {e}");
        if let Ok(mut notes) = self.notes.lock()
            && !notes.contains(&note)
        {
            notes.push(note);
        }
    }

    /// The GPU, for a model on `model`.
    pub(super) fn on<'a>(&'a self, model: &'a Device) -> Option<On<'a>> {
        self.gpu().map(|on| On { gpu: &on.gpu, model })
    }

    /// A tile without forecasts to bytes.
    ///
    /// # Errors
    /// As [`Coder::compress`].
    pub(super) fn compress(
        &self,
        values: &Values,
        region: &[Range<u64>],
        treatment: &Treatment,
        config: &Config,
    ) -> Result<Vec<u8>> {
        match (self.gpu(), values) {
            (Some(on), _) => on.coder.lock().map_err(|_| poisoned())?.compress(values, region, treatment, config),
            (None, Values::F32(v)) => compress_tile(v, region, treatment, config),
            (None, Values::F64(v)) => compress_tile(v, region, treatment, config),
            _ => Err(Error::input("values are no floating-point numbers")),
        }
    }

    /// Bytes to a tile without forecasts.
    ///
    /// # Errors
    /// As [`Coder::decompress`].
    pub(super) fn decompress(
        &self,
        coded: &[u8],
        dtype: DType,
        treatment: &Treatment,
        region: &[Range<u64>],
    ) -> Result<Values> {
        match self.gpu() {
            Some(on) => on.coder.lock().map_err(|_| poisoned())?.decompress(coded, dtype, treatment, region),
            None => decompress_tile(coded, dtype, treatment, region),
        }
    }
}

fn poisoned() -> Error {
    Error::device("the GPU's coder ended in the middle of a tile")
}

/// The GPU as candle sees it.
#[cfg(feature = "candle-cuda")]
fn candle_device(choice: Choice) -> Result<Option<Device>> {
    let ordinal = match choice {
        Choice::Cpu => return Ok(None),
        Choice::Auto => 0,
        Choice::Cuda(n) => n,
    };
    // On a stream of its own: that of `new_cuda` is another one on each thread, and nothing would order what threads do.
    let device = Device::new_cuda_with_stream(ordinal);
    device.map(Some).map_err(|e| Error::device(format!("opening GPU {ordinal} for candle: {e}")))
}
