//! The layers that VAEformer is made of, on two engines: [`Cpu`], whose results have the same bits everywhere, and [`Device`], candle on any device.
//!
//! Tokens are rows. A linear layer carries what follows it ([`Then`]), so that nothing large is read twice.

use crate::error::Result;
use crate::forecast::exact::{self, Packed, Rows, Source, Windows};
use crate::forecast::ops;
use candle_core::{D, DType, Tensor};
use rayon::prelude::*;

/// An image in host memory: channel, row, column.
#[derive(Clone, Debug)]
pub struct Image {
    /// Channels, rows, columns.
    pub shape: [usize; 3],
    /// Values in C order.
    pub data: Vec<f32>,
}

/// Patches of an image: a token for each, row after row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patches {
    /// Rows and columns of tokens.
    pub grid: [usize; 2],
    /// Rows and columns of a patch.
    pub size: [usize; 2],
    /// Rows and columns from a patch to the next; less than its size where patches overlap.
    pub stride: [usize; 2],
}

impl Patches {
    /// Rows and columns that the patches cover.
    pub fn extent(&self) -> [usize; 2] {
        [0, 1].map(|i| (self.grid[i] - 1) * self.stride[i] + self.size[i])
    }

    /// Tokens.
    pub fn len(&self) -> usize {
        self.grid[0] * self.grid[1]
    }
}

/// What follows a linear layer.
pub enum Then<T> {
    /// Nothing.
    Nothing,
    /// Gaussian error linear unit, exact.
    Gelu,
    /// x σ(1.702 x).
    QuickGelu,
    /// Addition of these tokens.
    Add(T),
}

/// Layers on a device.
pub trait Engine: Send + Sync {
    /// Rows of features.
    type Tokens: Clone + Send + Sync;
    /// Weights of a linear layer.
    type Linear: Send + Sync;
    /// Weights of a normalisation.
    type Norm: Send + Sync;

    /// A linear layer of `n` rows of `k` weights, as PyTorch stores them.
    fn linear(&self, weight: Vec<f32>, n: usize, k: usize, bias: Option<Vec<f32>>) -> Result<Self::Linear>;
    /// A layer normalisation.
    fn norm(&self, weight: Vec<f32>, bias: Vec<f32>, eps: f32) -> Result<Self::Norm>;
    /// Puts rows on the device.
    fn tokens(&self, rows: &Rows) -> Result<Self::Tokens>;
    /// Fetches rows.
    fn rows(&self, tokens: Self::Tokens) -> Result<Rows>;

    /// A linear layer.
    fn apply(&self, x: &Self::Tokens, layer: &Self::Linear, then: Then<Self::Tokens>) -> Result<Self::Tokens>;
    /// Layer normalisation.
    fn normalise(&self, x: &Self::Tokens, norm: &Self::Norm) -> Result<Self::Tokens>;
    /// Attention within windows, and the layer behind it, added to `x`. `qkv` is the layer that made queries, keys and values: its bias is what padding has.
    fn attend(
        &self,
        x: Self::Tokens,
        qkv: (Self::Tokens, &Self::Linear),
        proj: &Self::Linear,
        heads: usize,
        windows: &Windows,
    ) -> Result<Self::Tokens>;
    /// Features of both, side by side.
    fn join(&self, a: &Self::Tokens, b: &Self::Tokens) -> Result<Self::Tokens>;

    /// A token for each patch: a linear layer of its (channel, row, column), then `positions` added.
    fn embed(
        &self,
        image: &Image,
        patches: &Patches,
        layer: &Self::Linear,
        positions: &Self::Tokens,
    ) -> Result<Self::Tokens>;
    /// The image whose patches are a linear layer of the tokens; where patches overlap they add up.
    fn paint(&self, x: &Self::Tokens, patches: &Patches, layer: &Self::Linear, shape: [usize; 3]) -> Result<Image>;
}

/// The CPU, in [`exact`] arithmetic.
#[derive(Debug)]
pub struct Cpu;

/// Weights of a linear layer, packed for tiles.
pub struct CpuLinear {
    weight: Packed,
    bias: Option<Vec<f32>>,
}

/// Weights of a normalisation.
pub struct CpuNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
}

impl CpuLinear {
    fn run(&self, x: &dyn Source, rows: usize, then: Then<&Rows>) -> Rows {
        exact::matmul(x, rows, &self.weight, &|row, out| {
            if let Some(bias) = &self.bias {
                exact::add_bias(out, bias);
            }
            match then {
                Then::Nothing => {}
                Then::Gelu => exact::gelu(out),
                Then::QuickGelu => exact::quick_gelu(out),
                Then::Add(more) => {
                    let more = &more.data[row * more.n..][..out.len()];
                    out.iter_mut().zip(more).for_each(|(x, y)| *x += y);
                }
            }
        })
    }
}

/// Patches of an image as rows, gathered as they are needed.
struct PatchRows<'a> {
    image: &'a Image,
    patches: &'a Patches,
}

impl Source for PatchRows<'_> {
    fn read(&self, row: usize, k0: usize, out: &mut [f32]) {
        let [_, h, w] = self.image.shape;
        let Patches { grid, size, stride } = self.patches;
        let (top, left) = (row / grid[1] * stride[0], row % grid[1] * stride[1]);
        let mut k = k0;
        let mut out = out;
        // Runs of a patch's row.
        while !out.is_empty() {
            let (line, j) = (k / size[1], k % size[1]);
            let (channel, i) = (line / size[0], line % size[0]);
            let n = out.len().min(size[1] - j);
            let (now, rest) = out.split_at_mut(n);
            now.copy_from_slice(&self.image.data[(channel * h + top + i) * w + left + j..][..n]);
            k += n;
            out = rest;
        }
    }
}

/// Tokens whose patches are painted at a time: bounds the matrix of patches to some 70 MB at full size.
const PAINT_TOKENS: usize = 576;

impl Engine for Cpu {
    type Tokens = Rows;
    type Linear = CpuLinear;
    type Norm = CpuNorm;

    fn linear(&self, weight: Vec<f32>, n: usize, k: usize, bias: Option<Vec<f32>>) -> Result<CpuLinear> {
        Ok(CpuLinear { weight: Packed::from_linear(&weight, n, k), bias })
    }

    fn norm(&self, weight: Vec<f32>, bias: Vec<f32>, eps: f32) -> Result<CpuNorm> {
        Ok(CpuNorm { weight, bias, eps })
    }

    fn tokens(&self, rows: &Rows) -> Result<Rows> {
        Ok(rows.clone())
    }

    fn rows(&self, tokens: Rows) -> Result<Rows> {
        Ok(tokens)
    }

    fn apply(&self, x: &Rows, layer: &CpuLinear, then: Then<Rows>) -> Result<Rows> {
        let then = match &then {
            Then::Nothing => Then::Nothing,
            Then::Gelu => Then::Gelu,
            Then::QuickGelu => Then::QuickGelu,
            Then::Add(more) => Then::Add(more),
        };
        Ok(layer.run(x, x.len(), then))
    }

    fn normalise(&self, x: &Rows, norm: &CpuNorm) -> Result<Rows> {
        Ok(exact::layer_norm(x, &norm.weight, &norm.bias, norm.eps))
    }

    fn attend(
        &self,
        x: Rows,
        qkv: (Rows, &CpuLinear),
        proj: &CpuLinear,
        heads: usize,
        windows: &Windows,
    ) -> Result<Rows> {
        let (qkv, layer) = qkv;
        let zeros = vec![0.0; qkv.n];
        let padding = layer.bias.as_ref().unwrap_or(&zeros);
        let mixed = exact::attention(&qkv, padding, heads, windows);
        Ok(proj.run(&mixed, x.len(), Then::Add(&x)))
    }

    fn join(&self, a: &Rows, b: &Rows) -> Result<Rows> {
        let rows = a.data.chunks_exact(a.n).zip(b.data.chunks_exact(b.n));
        Ok(Rows { n: a.n + b.n, data: rows.flat_map(|(a, b)| a.iter().chain(b)).copied().collect() })
    }

    fn embed(&self, image: &Image, patches: &Patches, layer: &CpuLinear, positions: &Rows) -> Result<Rows> {
        Ok(layer.run(&PatchRows { image, patches }, patches.len(), Then::Add(positions)))
    }

    fn paint(&self, x: &Rows, patches: &Patches, layer: &CpuLinear, shape: [usize; 3]) -> Result<Image> {
        let Patches { grid, size, stride } = *patches;
        let [channels, h, w] = shape;
        let mut image = Image { shape, data: vec![0.0; channels * h * w] };
        let group = (PAINT_TOKENS / grid[1]).max(1);
        let mut painted = Vec::new();
        for row0 in (0..grid[0]).step_by(group) {
            let rows = group.min(grid[0] - row0);
            let tokens = Rows { n: x.n, data: x.data[row0 * grid[1] * x.n..][..rows * grid[1] * x.n].to_vec() };
            painted.clear();
            painted.resize(tokens.len() * layer.weight.n, 0.0);
            exact::matmul_into(&tokens, &layer.weight, &mut painted, &|_, out| {
                if let Some(bias) = &layer.bias {
                    exact::add_bias(out, bias);
                }
            });
            // Rows of tokens in order, so that overlaps add up from north to south whatever the threads do.
            image.data.par_chunks_exact_mut(h * w).enumerate().for_each(|(channel, plane)| {
                let patch = size[0] * size[1];
                for (t, values) in painted.chunks_exact(layer.weight.n).enumerate() {
                    let (top, left) = ((row0 + t / grid[1]) * stride[0], t % grid[1] * stride[1]);
                    let values = &values[channel * patch..][..patch];
                    for (i, line) in values.chunks_exact(size[1]).enumerate() {
                        let at = &mut plane[(top + i) * w + left..][..size[1]];
                        at.iter_mut().zip(line).for_each(|(x, y)| *x += y);
                    }
                }
            });
        }
        Ok(image)
    }
}

/// candle on any device, in f32, bf16 or f64. Its last bits depend on the device and its libraries.
#[derive(Debug)]
pub struct Device {
    /// Device.
    pub device: candle_core::Device,
    /// Type of weights and tokens; normalisation and softmax run in f32, or in f64 if that is it.
    pub dtype: DType,
}

/// A linear layer.
pub struct DeviceLinear {
    /// Transposed: inputs, outputs.
    weight: Tensor,
    bias: Option<Tensor>,
}

/// A normalisation, in f32 or f64.
pub struct DeviceNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

/// Elements of a piece of the matrix of queries by keys: 256 MiB of f32.
const PIECE: usize = 1 << 26;

impl Device {
    fn put(&self, values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
        Ok(Tensor::from_vec(values, shape, &self.device)?.to_dtype(self.dtype)?)
    }

    fn project(&self, x: &Tensor, layer: &DeviceLinear) -> Result<Tensor> {
        let y = x.matmul(&layer.weight)?;
        Ok(match &layer.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }

    /// Row or column numbers of patches, one patch after the other.
    fn places(&self, n: usize, size: usize, stride: usize) -> Result<Tensor> {
        let places: Vec<u32> = (0..n).flat_map(|i| (0..size).map(move |j| (i * stride + j) as u32)).collect();
        Ok(Tensor::new(places, &self.device)?)
    }
}

impl Engine for Device {
    type Tokens = Tensor;
    type Linear = DeviceLinear;
    type Norm = DeviceNorm;

    fn linear(&self, weight: Vec<f32>, n: usize, k: usize, bias: Option<Vec<f32>>) -> Result<DeviceLinear> {
        let bias = bias.map(|b| self.put(b, &[n])).transpose()?;
        Ok(DeviceLinear { weight: self.put(weight, &[n, k])?.t()?, bias })
    }

    fn norm(&self, weight: Vec<f32>, bias: Vec<f32>, eps: f32) -> Result<DeviceNorm> {
        let put = |v: Vec<f32>| Tensor::new(v, &self.device)?.to_dtype(ops::wide(self.dtype));
        Ok(DeviceNorm { weight: put(weight)?, bias: put(bias)?, eps: eps.into() })
    }

    fn tokens(&self, rows: &Rows) -> Result<Tensor> {
        self.put(rows.data.clone(), &[rows.len(), rows.n])
    }

    fn rows(&self, tokens: Tensor) -> Result<Rows> {
        let n = tokens.dim(1)?;
        Ok(Rows { n, data: tokens.to_dtype(DType::F32)?.flatten_all()?.to_vec1()? })
    }

    fn apply(&self, x: &Tensor, layer: &DeviceLinear, then: Then<Tensor>) -> Result<Tensor> {
        let y = self.project(x, layer)?;
        Ok(match then {
            Then::Nothing => y,
            Then::Gelu => y.gelu_erf()?,
            Then::QuickGelu => (&y * candle_nn::ops::sigmoid(&(&y * 1.702)?)?)?,
            Then::Add(more) => (y + more)?,
        })
    }

    fn normalise(&self, x: &Tensor, norm: &DeviceNorm) -> Result<Tensor> {
        let x = x.to_dtype(ops::wide(self.dtype))?;
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(variance + norm.eps)?.sqrt()?)?;
        Ok(x.broadcast_mul(&norm.weight)?.broadcast_add(&norm.bias)?.to_dtype(self.dtype)?)
    }

    fn attend(
        &self,
        x: Tensor,
        qkv: (Tensor, &DeviceLinear),
        proj: &DeviceLinear,
        heads: usize,
        windows: &Windows,
    ) -> Result<Tensor> {
        let (qkv, layer) = qkv;
        let (tokens, width) = (qkv.dim(0)?, qkv.dim(1)? / 3);
        let (n, d) = (windows.size, width / heads);
        // Padding takes the row behind the last.
        let padding = match &layer.bias {
            Some(bias) => bias.reshape((1, 3 * width))?,
            None => Tensor::zeros((1, 3 * width), self.dtype, &self.device)?,
        };
        let qkv = Tensor::cat(&[qkv, padding], 0)?;
        let order: Vec<u32> = windows.tokens.iter().map(|t| (*t).min(tokens as u32)).collect();
        let groups = order.len() / n;
        let order = Tensor::new(order, &self.device)?;
        let per_task = (PIECE / (heads * n * n).max(1)).max(1);
        let scale = (d as f64).powf(-0.5);
        let mut mixed = Vec::new();
        for first in (0..groups).step_by(per_task) {
            let count = per_task.min(groups - first);
            let qkv = qkv.index_select(&order.narrow(0, first * n, count * n)?, 0)?;
            let qkv = qkv.reshape((count, n, 3, heads, d))?;
            let part = |i: usize| qkv.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
            let (q, k, v) = ((part(0)? * scale)?, part(1)?.transpose(2, 3)?, part(2)?);
            // One group may be too large: then a few heads, and of one head a few queries, at a time.
            let h_step = (PIECE / (count * n * n).max(1)).clamp(1, heads);
            let q_step = (PIECE / (count * h_step * n).max(1)).clamp(1, n);
            let mut by_head = Vec::new();
            for h in (0..heads).step_by(h_step) {
                let hs = h_step.min(heads - h);
                let (q, k, v) = (q.narrow(1, h, hs)?, k.narrow(1, h, hs)?, v.narrow(1, h, hs)?.contiguous()?);
                let k = k.contiguous()?;
                let mut by_query = Vec::new();
                for i in (0..n).step_by(q_step) {
                    let q = q.narrow(2, i, q_step.min(n - i))?.contiguous()?;
                    let weights = candle_nn::ops::softmax_last_dim(&q.matmul(&k)?.to_dtype(ops::wide(self.dtype))?)?;
                    by_query.push(weights.to_dtype(self.dtype)?.matmul(&v)?);
                }
                by_head.push(Tensor::cat(&by_query, 2)?);
            }
            mixed.push(Tensor::cat(&by_head, 1)?.transpose(1, 2)?.reshape((count * n, width))?);
        }
        let places = Tensor::new(windows.places.as_slice(), &self.device)?;
        let mixed = Tensor::cat(&mixed, 0)?.index_select(&places, 0)?;
        Ok((self.project(&mixed, proj)? + x)?)
    }

    fn join(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        Ok(Tensor::cat(&[a, b], 1)?)
    }

    fn embed(&self, image: &Image, patches: &Patches, layer: &DeviceLinear, positions: &Tensor) -> Result<Tensor> {
        let [channels, h, w] = image.shape;
        let Patches { grid, size, stride } = *patches;
        let image = Tensor::from_slice(&image.data, (channels, h, w), &self.device)?;
        let columns = self.places(grid[1], size[1], stride[1])?;
        let mut tokens = Vec::new();
        for i in 0..grid[0] {
            // One row of tokens at a time: 17 MB of patches at full size.
            let strip = image.narrow(1, i * stride[0], size[0])?.contiguous()?.index_select(&columns, 2)?;
            let strip = strip.reshape((channels, size[0], grid[1], size[1]))?.permute((2, 0, 1, 3))?;
            let strip = strip.reshape((grid[1], channels * size[0] * size[1]))?.to_dtype(self.dtype)?;
            tokens.push(self.project(&strip, layer)?);
        }
        Ok((Tensor::cat(&tokens, 0)? + positions)?)
    }

    fn paint(&self, x: &Tensor, patches: &Patches, layer: &DeviceLinear, shape: [usize; 3]) -> Result<Image> {
        let Patches { grid, size, stride } = *patches;
        let [channels, h, w] = shape;
        let columns = self.places(grid[1], size[1], stride[1])?;
        let mut image = Image { shape, data: vec![0.0; channels * h * w] };
        for i in 0..grid[0] {
            let strip = self.project(&x.narrow(0, i * grid[1], grid[1])?.contiguous()?, layer)?;
            let strip = strip.to_dtype(DType::F32)?.reshape((grid[1], channels, size[0], size[1]))?;
            let strip = strip.permute((1, 2, 0, 3))?.reshape((channels * size[0], grid[1] * size[1]))?;
            let empty = Tensor::zeros((channels * size[0], w), DType::F32, &self.device)?;
            let strip: Vec<f32> = empty.index_add(&columns, &strip.contiguous()?, 1)?.flatten_all()?.to_vec1()?;
            for (line, values) in strip.chunks_exact(w).enumerate() {
                let (channel, row) = (line / size[0], i * stride[0] + line % size[0]);
                let at = &mut image.data[(channel * h + row) * w..][..w];
                at.iter_mut().zip(values).for_each(|(x, y)| *x += y);
            }
        }
        Ok(image)
    }
}
