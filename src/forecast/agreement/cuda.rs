//! Forecasts of a tile in device memory: rounded, digested, looked at; and what the model is given of what was decoded. Twin: [`super`]. Kernels:
//! `forecast.cu`.
//!
//! A forecast that is on the device is read where it is. With an agreement of steps other than 0 two bits a value come to the host after a run that
//! counts (where the list is made), or go to the device before decoding.

use super::{Agreement, Sides};
use crate::device::Run;
use crate::device::layout::{BLOCK, DIGEST_BLOCK, DIGEST_BYTES, HASH_SUM_BYTES, SEEN_BYTES, WIDE};
use crate::error::Result;

/// Values of a field on their way to kernels.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// In memory of the host.
    Host(&'a [f32]),
    /// An address on the device.
    #[cfg_attr(not(feature = "candle-cuda"), expect(dead_code, reason = "models are on the host then"))]
    Device(u64),
}

/// The forecasts of a tile of images of so many pixels.
pub(crate) struct Forecasts {
    pixels: usize,
    /// Values of the tile.
    n: usize,
    levels: usize,
    /// In the tile.
    n_all: usize,
    /// So far: forecasts, steps with any, blocks digested.
    n_done: usize,
    n_steps: usize,
    n_blocks: usize,
    is_exact: bool,
}

/// What forecasts were like: the largest spread of each level, the sum of the squared errors of `n` values.
pub(crate) struct Look {
    pub spreads: Vec<f64>,
    pub error: f64,
    pub n: u64,
}

impl Forecasts {
    /// Makes room in `run.args` for the forecasts of a tile of `[steps, levels, ny, nx]`, `n_all` of them.
    ///
    /// # Errors
    /// `Device`.
    pub fn new(run: &mut Run<'_>, shape: [usize; 4], n_all: usize) -> Result<Self> {
        let [steps, levels, ny, nx] = shape;
        let (pixels, n) = (ny * nx, steps * levels * ny * nx);
        let bitmap = 4 * n.div_ceil(32);
        let (f, gpu) = (&mut run.args.forecast, &mut *run.gpu);
        f.listed = gpu.room("listed forecasts", bitmap)?;
        f.upper = gpu.room("sides of forecasts", bitmap)?;
        f.digest = gpu.room("digests of forecasts", DIGEST_BYTES + 8 * steps)?;
        f.sums = gpu.room("sums of digests", (n_all * pixels).div_ceil(DIGEST_BLOCK) * HASH_SUM_BYTES)?;
        f.stats = gpu.room("errors of forecasts", SEEN_BYTES + 8 * levels)?;
        gpu.zero(f.stats, SEEN_BYTES + 8 * levels)?;
        Ok(Self { pixels, n, levels, n_all, n_done: 0, n_steps: 0, n_blocks: 0, is_exact: true })
    }

    /// To the first step of a run. A decoder knows the `sides` of listed places.
    ///
    /// # Errors
    /// `Device`.
    pub fn start(&mut self, run: &mut Run<'_>, agreement: &Agreement, sides: Option<&Sides>) -> Result<()> {
        *self = Self { n_done: 0, n_steps: 0, n_blocks: 0, is_exact: agreement.step == 0.0, ..*self };
        run.args.forecast.delta = agreement.step;
        run.args.forecast.is_known = u32::from(sides.is_some());
        if self.is_exact {
            return Ok(());
        }
        let n_words = self.n.div_ceil(32);
        let (listed, upper) = (run.args.forecast.listed, run.args.forecast.upper);
        match sides {
            None => {
                run.gpu.zero(listed, 4 * n_words)?;
                run.gpu.zero(upper, 4 * n_words)
            }
            Some(sides) => {
                let mut bits = [vec![0u32; n_words], vec![0u32; n_words]];
                for &(place, is_upper) in sides {
                    let (word, bit) = (place as usize / 32, place % 32);
                    bits[0][word] |= 1 << bit;
                    bits[1][word] |= u32::from(is_upper) << bit;
                }
                run.gpu.copy_in(listed, bytemuck::cast_slice(&bits[0]))?;
                run.gpu.copy_in(upper, bytemuck::cast_slice(&bits[1]))
            }
        }
    }

    /// Rounds the forecast of an image; `looks` for [`Forecasts::look`].
    ///
    /// # Errors
    /// `Device`.
    pub fn give(
        &mut self,
        run: &mut Run<'_>,
        agreement: &Agreement,
        image: usize,
        values: Place<'_>,
        looks: bool,
    ) -> Result<()> {
        let level = image % self.levels;
        run.args.site.image = image as u32;
        run.args.forecast.values = match values {
            Place::Host(values) => run.gpu.put("forecast", bytemuck::cast_slice(values))?,
            Place::Device(at) => at,
        };
        (run.args.forecast.slot, run.args.forecast.level) = (self.n_done as u32, level as u32);
        run.args.forecast.near = agreement.near(level);
        if looks {
            let look = format!("forecast_look_{}", run.work);
            run.once(&look, WIDE)?;
        }
        self.n_done += 1;
        run.over_work("forecast_agree", self.pixels as u32, BLOCK)
    }

    /// Digests the forecasts of a step that has any.
    ///
    /// # Errors
    /// `Device`.
    pub fn end_step(&mut self, run: &mut Run<'_>) -> Result<()> {
        let n_words = self.n_done * self.pixels;
        let until = n_words.saturating_sub(1) / DIGEST_BLOCK;
        let f = &mut run.args.forecast;
        (f.n_blocks, f.n_words, f.step) = (self.n_blocks as u32, n_words as u32, self.n_steps as u32);
        let blocks = ((until - self.n_blocks) as u32).div_ceil(BLOCK / 32).min(16 * run.gpu.multiprocessors());
        run.over_work("forecast_sums", blocks, 1)?;
        let digest = format!("forecast_digest_{}", run.work);
        run.once(&digest, 32)?;
        (self.n_blocks, self.n_steps) = (until, self.n_steps + 1);
        Ok(())
    }

    /// The digest of all forecasts so far, 64 bits; a step with any has ended. Waits.
    ///
    /// # Errors
    /// `Device`.
    pub fn last_digest(&self, run: &Run<'_>) -> Result<u64> {
        let mut bytes = [0; 8];
        let at = run.args.forecast.digest + (DIGEST_BYTES + 8 * self.n_steps.saturating_sub(1)) as u64;
        run.gpu.copy_out(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// After the last step: digests of all steps that have any, the last one being that of all forecasts. Waits.
    ///
    /// # Errors
    /// `Device`.
    pub fn digests(&self, run: &Run<'_>) -> Result<Vec<u64>> {
        debug_assert_eq!(self.n_done, self.n_all);
        let mut digests = vec![0u64; self.n_steps];
        run.gpu.copy_out(run.args.forecast.digest + DIGEST_BYTES as u64, bytemuck::cast_slice_mut(&mut digests))?;
        Ok(digests)
    }

    /// The list that was made. Waits.
    ///
    /// # Errors
    /// `Device`.
    pub fn sides(&self, run: &Run<'_>) -> Result<Sides> {
        if self.is_exact {
            return Ok(vec![]);
        }
        let n_words = self.n.div_ceil(32);
        let (mut listed, mut upper) = (vec![0u32; n_words], vec![0u32; n_words]);
        run.gpu.copy_out(run.args.forecast.listed, bytemuck::cast_slice_mut(&mut listed))?;
        run.gpu.copy_out(run.args.forecast.upper, bytemuck::cast_slice_mut(&mut upper))?;
        let mut sides = vec![];
        for (word, (mut left, upper)) in listed.into_iter().zip(upper).enumerate() {
            while left != 0 {
                let bit = left.trailing_zeros();
                sides.push((32 * word as u32 + bit, upper >> bit & 1 == 1));
                left &= left - 1;
            }
        }
        Ok(sides)
    }

    /// What the forecasts that were looked at were like. Waits.
    ///
    /// # Errors
    /// `Device`.
    pub fn look(&self, run: &Run<'_>) -> Result<Look> {
        let mut words = vec![0u64; SEEN_BYTES / 8 + self.levels];
        run.gpu.copy_out(run.args.forecast.stats, bytemuck::cast_slice_mut(&mut words))?;
        let spreads = words[2..].iter().map(|&w| f64::from_bits(w)).collect();
        Ok(Look { spreads, error: f64::from_bits(words[0]), n: words[1] })
    }

    /// What is decoded of a step to `to`, which has room for it, as the model takes it.
    ///
    /// # Errors
    /// `Device`.
    pub fn see(&self, run: &mut Run<'_>, step: usize, to: u64) -> Result<()> {
        run.args.forecast.seen = to;
        (run.args.site.image, run.args.site.n_here) = ((step * self.levels) as u32, self.levels as u32);
        run.over_work("forecast_see", (self.levels * self.pixels) as u32, BLOCK)
    }
}
