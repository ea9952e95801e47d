//! Layers with weights that models share, and a look inside for tests.

use super::ops;
use super::weights::Weights;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Where weights come from and go to.
pub(crate) struct Source<'a> {
    pub given: Given<'a>,
    pub device: &'a Device,
    pub dtype: DType,
}

/// Weights of a file, or random ones.
pub(crate) enum Given<'a> {
    File(&'a Weights),
    /// Made of a seed and the tensor's name; a list of all that were asked for is kept.
    Random {
        seed: u64,
        asked: Mutex<Vec<(String, Vec<usize>)>>,
    },
}

impl Source<'_> {
    /// A tensor of exactly this shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        match &self.given {
            Given::File(weights) => weights.tensor(name, shape, self.dtype, self.device),
            Given::Random { seed, asked } => {
                asked.lock().unwrap_or_else(|e| e.into_inner()).push((name.to_string(), shape.to_vec()));
                let values = random_values(*seed, name, shape);
                Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?.to_device(self.device)?)
            }
        }
    }

    /// The first dimension of a tensor whose size is not in the configuration.
    pub fn rows_of(&self, name: &str, otherwise: usize) -> usize {
        match &self.given {
            Given::File(weights) => weights.info(name).and_then(|(_, shape)| shape.first().copied()).unwrap_or(0),
            Given::Random { .. } => otherwise,
        }
    }

    /// `prefix.weight` of shape (out, in) and `prefix.bias`.
    pub fn linear(&self, prefix: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let bias = Some(self.get(&format!("{prefix}.bias"), &[outputs])?);
        Ok(Linear { weight: self.get(&format!("{prefix}.weight"), &[outputs, inputs])?, bias })
    }

    /// `prefix.weight` of shape (out, in) alone.
    pub fn linear_no_bias(&self, prefix: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        Ok(Linear { weight: self.get(&format!("{prefix}.weight"), &[outputs, inputs])?, bias: None })
    }

    /// `prefix.weight` and `prefix.bias` of a layer norm.
    pub fn norm(&self, prefix: &str, width: usize, eps: f64) -> Result<Norm> {
        let weight = self.get(&format!("{prefix}.weight"), &[width])?;
        Ok(Norm { weight, bias: self.get(&format!("{prefix}.bias"), &[width])?, eps })
    }
}

/// y = x Wᵀ + b.
#[derive(Clone)]
pub(crate) struct Linear {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

impl Linear {
    /// Of rows: x of shape (rows, in).
    pub fn rows(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.weight.t()?)?;
        match &self.bias {
            None => Ok(y),
            Some(bias) => ops::add(y, bias),
        }
    }

    /// Of the last dimension of x of any shape.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let Some(width) = shape.last_mut() else { return self.rows(x) };
        let rows = x.reshape(((), *width))?;
        *width = self.weight.dim(0)?;
        Ok(self.rows(&rows)?.reshape(shape)?)
    }
}

/// Layer norm with weight and bias over the last dimension.
#[derive(Clone)]
pub(crate) struct Norm {
    pub weight: Tensor,
    pub bias: Tensor,
    pub eps: f64,
}

impl Norm {
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps)
    }

    /// In the place of `x`, which nobody else may hold.
    pub fn apply_to(&self, x: Tensor) -> Result<Tensor> {
        ops::layer_norm_of(x, &self.weight, &self.bias, self.eps)
    }
}

/// Linear, GELU, linear.
pub(crate) struct Mlp {
    pub first: Linear,
    pub second: Linear,
}

impl Mlp {
    /// From layers of the given names.
    pub fn load(source: &Source<'_>, first: &str, second: &str, width: usize, hidden: usize) -> Result<Self> {
        Ok(Self { first: source.linear(first, width, hidden)?, second: source.linear(second, hidden, width)? })
    }

    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.second.apply(&ops::gelu(self.first.apply(x)?)?)
    }
}

/// Keeps values from inside a model for tests; does nothing otherwise.
#[derive(Default)]
pub struct Probe {
    kept: Option<Mutex<BTreeMap<String, BTreeMap<usize, Tensor>>>>,
}

impl Probe {
    /// A probe that keeps what it is shown.
    pub fn keeping() -> Self {
        Self { kept: Some(Mutex::default()) }
    }

    /// Whether it keeps anything: values that cost something to make need not be made otherwise.
    pub(crate) fn is_keeping(&self) -> bool {
        self.kept.is_some()
    }

    /// Shows part number `part` of the value `name`; parts lie one after the other along the first dimension.
    pub(crate) fn show(&self, name: &str, part: usize, value: &Tensor) {
        if let Some(kept) = &self.kept {
            let mut kept = kept.lock().unwrap_or_else(|e| e.into_inner());
            // A copy: what follows may add in place.
            if let Ok(copy) = value.copy() {
                kept.entry(name.to_string()).or_default().insert(part, copy);
            }
        }
    }

    /// What was shown, by name.
    ///
    /// # Errors
    /// `Input` if the parts do not fit together.
    pub fn take(self) -> Result<BTreeMap<String, Tensor>> {
        let kept = self.kept.map(|k| k.into_inner().unwrap_or_else(|e| e.into_inner())).unwrap_or_default();
        kept.into_iter()
            .map(|(name, parts)| Ok((name, Tensor::cat(&parts.into_values().collect::<Vec<_>>(), 0)?)))
            .collect()
    }
}

/// Values of about unit variance after a layer: uniform, over the root of the inputs of a row; gains of layer norms around 1.
pub(crate) fn random_values(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let mut state = name.bytes().fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    // SplitMix64.
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let n = shape.iter().product();
    let inputs: usize = shape.get(1..).unwrap_or(&[]).iter().product();
    let (offset, spread) = match (shape.len(), name.ends_with("weight")) {
        (1, true) => (1.0, 0.2),
        (1, false) => (0.0, 0.1),
        _ => (0.0, (3.0 / inputs.max(1) as f32).sqrt()),
    };
    (0..n).map(|_| offset + spread * next()).collect()
}
