//! Members' tiles on a GPU. Twins: [`super::member`], [`super::decode`].
//!
//! With a model of candle's on the same GPU a forecast is read where the model left it, and what is decoded of a step is put where the model takes it:
//! between the steps of a run nothing of them but digests comes to the host. A model on the host gives and gets fields through copies, as do
//! variables without forecasts.

use super::decode::{differs, filled_up, not_given};
use super::machine::On;
use super::member::{Asked, Ready, Run, Seen, wanted_of};
use super::tile::{Agreed, Coded, Parts, assembled};
use super::{in_a_row, on_host};
use crate::config::Config;
use crate::device::beside::{self, Decoding, Encoding};
use crate::error::{Error, Result};
use crate::field::Values;
use crate::forecast::agreement::Agreement;
use crate::forecast::agreement::cuda::Place;
use crate::predict::fitted::encode::Turn;
use crate::predict::fitted::learn::Budget;
use crate::predict::fitted::{Layout, Rows};
use crate::stages::{Stage, time};
use candle_core::Tensor;

/// A forecast, held while kernels that read it are launched.
enum Held {
    Host(Vec<f32>),
    /// Its place, which is good as long as it is there.
    #[cfg(feature = "candle-cuda")]
    Device {
        at: u64,
        _forecast: Tensor,
    },
}

impl On<'_> {
    /// The forecasts of the levels of a step whose images, of so many pixels, have one, by `wanted`.
    fn hold(self, forecasts: Option<&[Option<Tensor>]>, wanted: &[bool], pixels: usize) -> Result<Vec<Option<Held>>> {
        let of_level = |(level, &wanted): (usize, &bool)| {
            wanted_of(forecasts, level, wanted, pixels)?.map(|f| self.held(f)).transpose()
        };
        wanted.iter().enumerate().map(of_level).collect()
    }

    fn held(self, forecast: &Tensor) -> Result<Held> {
        #[cfg(feature = "candle-cuda")]
        if let Some(at) = self.gpu.address_of(forecast)? {
            return Ok(Held::Device { at, _forecast: forecast.clone() });
        }
        on_host(forecast).map(Held::Host)
    }

    /// What is decoded of a step, `n` values, where the model takes it: `step` is given a place on the device, or gives the values.
    fn seen(self, n: usize, step: impl FnOnce(Option<u64>) -> Result<Option<Vec<f32>>>) -> Result<Tensor> {
        #[cfg(feature = "candle-cuda")]
        if let Some((tensor, at)) = self.gpu.tensor_for(self.model, n)? {
            step(Some(at))?;
            return Ok(tensor);
        }
        let _ = (self.model, n);
        in_a_row(step(None)?.unwrap_or_default())
    }
}

impl Held {
    fn place(&self) -> Place<'_> {
        match self {
            Held::Host(values) => Place::Host(values),
            #[cfg(feature = "candle-cuda")]
            Held::Device { at, .. } => Place::Device(*at),
        }
    }
}

fn places(held: &[Option<Held>]) -> Vec<Option<Place<'_>>> {
    held.iter().map(|h| h.as_ref().map(Held::place)).collect()
}

/// A member's tile at work, as [`super::member`]'s.
pub(super) struct Running<'a, T: Rows> {
    ready: &'a Ready<'a, T>,
    on: On<'a>,
    encoding: Encoding<T>,
    n_first: usize,
    agreement: Agreement,
}

impl<'a, T: Rows> Running<'a, T> {
    /// At the first step of the run that fits.
    ///
    /// # Errors
    /// `Device`.
    pub fn start(ready: &'a Ready<'a, T>, on: On<'a>, budget: Budget) -> Result<Self> {
        let Ready { values, layout, has_forecast, asked: Asked { treatment, config, .. }, .. } = ready;
        let encoding = Encoding::new(on.gpu, values, treatment, layout, has_forecast, budget, config)?;
        Ok(Self { ready, on, encoding, n_first: layout.trial_steps(budget), agreement: Agreement::EXACT })
    }
}

impl<T: Rows> Run for Running<'_, T> {
    fn n_first(&self) -> usize {
        self.n_first
    }

    fn step(&mut self, step: usize, forecast: Option<&[Option<Tensor>]>) -> Result<Tensor> {
        let [_, levels, ny, nx] = self.ready.layout.shape;
        let wanted = &self.ready.has_forecast[step * levels..][..levels];
        let held = self.on.hold(forecast, wanted, ny * nx)?;
        let encoding = &mut self.encoding;
        time(Stage::Predict, || self.on.seen(levels * ny * nx, |to| encoding.step(step, &places(&held), to)))
    }

    fn agree(&mut self, tolerance: f64) -> Result<bool> {
        let look = self.encoding.look()?;
        let seen = Seen { spreads: look.spreads, error: look.error, n: look.n as usize };
        let agreement = seen.agreement(self.ready.asked.bound, tolerance);
        let is_of_use = agreement.is_some();
        self.agreement = agreement.unwrap_or(Agreement::EXACT);
        Ok(is_of_use)
    }

    fn rewind(&mut self, turn: Turn) -> Result<()> {
        self.encoding.rewind(turn, &self.agreement)
    }

    fn finish(&mut self, _: &Config) -> Result<Vec<u8>> {
        let ready = self.ready;
        let tile = self.encoding.finish(|encoded, sides, digests| {
            let beside::Encoded { bins, specials, outliers, plan, codes } = encoded;
            let of_steps: Vec<u16> = digests.iter().map(|&d| d as u16).collect();
            let forecasts = Agreed {
                agreement: &self.agreement,
                has_forecast: &ready.has_forecast,
                digests: &of_steps,
                digest: digests.last().map_or(0, |d| (d >> 16) as u32),
                sides: &sides,
            };
            assembled(&Coded { bins, specials, outliers, plan: Some(plan), codes }, &forecasts)
        })?;
        tile.ok_or_else(|| Error::unsupported("a tile that the GPU leaves to the CPU"))
    }
}

/// A member's tile on its way to values, as [`super::decode`]'s.
pub(super) struct Decoded<'a, T: Rows> {
    parts: &'a Parts<'a, T>,
    layout: &'a Layout,
    on: On<'a>,
    decoding: Decoding<T>,
    n_digests: usize,
    n_done: usize,
}

impl<'a, T: Rows> Decoded<'a, T> {
    /// At the first step; `None` if the tile is one for the host.
    ///
    /// # Errors
    /// `Corrupt` if lengths do not fit; `Device`.
    pub fn start(on: On<'a>, parts: &'a Parts<'a, T>, layout: &'a Layout) -> Result<Option<Self>> {
        let Parts { base, step, specials, outliers, agreement, has_forecast, sides, codes, .. } = parts;
        // Kernels digest what there is; a tile made to deceive may have no forecast at all.
        let Some(plan) = parts.plan.as_ref().filter(|_| has_forecast.contains(&true)) else { return Ok(None) };
        let (base, step) = (*base, *step);
        let coded =
            beside::Coded { layout, base, step, specials, outliers, plan, codes, agreement, has_forecast, sides };
        let decoding = Decoding::new(on.gpu, &coded)?;
        Ok(Some(Self { parts, layout, on, decoding, n_digests: 0, n_done: 0 }))
    }
}

impl<T: Rows> super::decode::Run for Decoded<'_, T> {
    fn needs_forecast(&self, step: usize) -> bool {
        let levels = self.layout.shape[1];
        self.parts.has_forecast[step * levels..][..levels].contains(&true)
    }

    fn step(&mut self, step: usize, forecast: Option<&[Option<Tensor>]>) -> Result<Tensor> {
        let [_, levels, ny, nx] = self.layout.shape;
        let wanted = &self.parts.has_forecast[step * levels..][..levels];
        let held = self.on.hold(forecast, wanted, ny * nx).map_err(not_given)?;
        self.decoding.give(step, &places(&held))?;
        if self.needs_forecast(step) && !self.parts.digests.is_empty() {
            let digest = self.decoding.digest()?;
            let expected = self.parts.digests.get(self.n_digests).copied();
            self.n_digests += 1;
            if expected != Some(digest as u16) {
                return Err(differs());
            }
        }
        self.n_done += 1;
        let decoding = &mut self.decoding;
        time(Stage::Restore, || self.on.seen(levels * ny * nx, |to| decoding.step(step, to)))
    }

    fn finish(mut self: Box<Self>, n: usize, is_cut: bool, filler: Option<&Values>) -> Result<Values> {
        if !is_cut {
            if (self.decoding.digest()? >> 16) as u32 != self.parts.digest {
                return Err(differs());
            }
            self.decoding.check()?;
        }
        let mut values = self.decoding.values()?;
        values.truncate(self.n_done * n / self.layout.shape[0].max(1));
        Ok(T::values(filled_up(values, n, filler)))
    }
}
