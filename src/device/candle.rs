//! candle's tensors to archives and back, where they are: no copy of the values is made.

use super::fields::DeviceField;
use super::gpu::{During, Gpu};
use crate::config::Config;
use crate::container::Archive;
use crate::error::{Error, Result};
use crate::field::DType;
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{Device, Storage, Tensor};
use cudarc::driver::{DevicePtr, DevicePtrMut};
use std::io::Cursor;

fn failed(e: candle_core::Error) -> Error {
    Error::device(e.to_string())
}

impl Gpu {
    /// On a device of candle's, and on its stream: work follows what candle has launched.
    ///
    /// # Errors
    /// `Usage` if the device is no GPU; else as [`Gpu::open`].
    pub fn of_candle(device: &Device) -> Result<Self> {
        match device {
            Device::Cuda(device) => Self::on_stream(device.cuda_stream()),
            _ => Err(Error::usage("a device of candle's that is no GPU")),
        }
    }

    /// Compresses a contiguous tensor of f32 or f64 on this GPU: the archive that [`crate::compress`](crate::compress()) makes of its values.
    ///
    /// # Errors
    /// `Usage` if the tensor is on another device, not contiguous, or of another type; else as [`Gpu::compress`].
    pub fn compress_tensor(&mut self, tensor: &Tensor, config: &Config) -> Result<Vec<u8>> {
        self.check_device(tensor.device())?;
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { return Err(Error::usage("a tensor that is on no GPU")) };
        let (start, end) = layout
            .contiguous_offsets()
            .ok_or_else(|| Error::usage("a tensor that is not contiguous: Tensor::contiguous makes it so"))?;
        let shape = layout.dims();
        match tensor.dtype() {
            candle_core::DType::F32 => {
                let values = storage.as_cuda_slice::<f32>().map_err(failed)?.slice(start..end);
                self.compress_one(&DeviceField { values: &values, shape, fill: None }, config)
            }
            candle_core::DType::F64 => {
                let values = storage.as_cuda_slice::<f64>().map_err(failed)?.slice(start..end);
                self.compress_one(&DeviceField { values: &values, shape, fill: None }, config)
            }
            other => Err(Error::usage(format!("a tensor of {other:?}: f32 and f64 are compressed"))),
        }
    }

    /// Restores the first variable of an archive as a tensor on `device`, whose memory is what the kernels wrote to.
    ///
    /// # Errors
    /// `Usage` if the device is another one; else as [`Gpu::decompress`].
    pub fn decompress_tensor(&mut self, archive: &[u8], device: &Device) -> Result<Tensor> {
        let on = self.check_device(device)?.clone();
        let dtype = Archive::open(Cursor::new(archive))?.schema().variables.first().map(|v| v.dtype);
        let (storage, shape) = match dtype {
            Some(DType::F64) => {
                let (values, shape) = self.decompress::<f64>(archive)?;
                (CudaStorage::wrap_cuda_slice(values, on), shape)
            }
            _ => {
                let (values, shape) = self.decompress::<f32>(archive)?;
                (CudaStorage::wrap_cuda_slice(values, on), shape)
            }
        };
        Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
    }

    /// Where a contiguous tensor of f32 lies, if that is in this GPU's context and work on it is on this stream. The address is good as long as the
    /// tensor is.
    pub(crate) fn address_of(&self, tensor: &Tensor) -> Result<Option<u64>> {
        if self.check_device(tensor.device()).is_err() || tensor.dtype() != candle_core::DType::F32 {
            return Ok(None);
        }
        let (storage, layout) = tensor.storage_and_layout();
        let (Storage::Cuda(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
            return Ok(None);
        };
        let values = storage.as_cuda_slice::<f32>().map_err(failed)?.slice(start..end);
        let (at, _guard) = values.device_ptr(&self.stream);
        Ok(Some(at))
    }

    /// A tensor of `n` values of f32 on `device` that are not there yet, and where they are to be put: by work on this stream, before any that reads
    /// them. `None` if the device is another one.
    #[allow(unsafe_code)]
    pub(crate) fn tensor_for(&self, device: &Device, n: usize) -> Result<Option<(Tensor, u64)>> {
        let Ok(on) = self.check_device(device) else { return Ok(None) };
        // SAFETY: numbers of any bits; the caller launches what writes them before anyone can read them, as all work is on one stream.
        let mut values =
            unsafe { self.stream.alloc::<f32>(n.max(1)) }.during("taking memory of the GPU for what is seen")?;
        let at = values.device_ptr_mut(&self.stream).0;
        let storage = CudaStorage::wrap_cuda_slice(values, on.clone());
        Ok(Some((Tensor::from_storage(Storage::Cuda(storage), n.max(1), BackpropOp::none(), false), at)))
    }

    /// That tensors of a device are in this GPU's context and on its stream.
    fn check_device<'a>(&self, device: &'a Device) -> Result<&'a CudaDevice> {
        match device {
            Device::Cuda(device) if device.cuda_stream() == self.stream => Ok(device),
            _ => Err(Error::usage("a tensor of another device: Gpu::of_candle opens its own")),
        }
    }
}
