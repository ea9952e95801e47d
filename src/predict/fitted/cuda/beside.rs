//! Tiles beside forecasts on a GPU: where forecasts lie, and decoding step by step. Twin: [`crate::predict::fitted::decode::Decoding`].
//!
//! Forecasts lie behind the decoded images, in their order and without gaps, so that kernels find them at a distance as they find other side
//! images; a table says which image has what beside it.

use super::{Images, Plan, Schedule, decode_images, start_decoding};
use crate::device::Run;
use crate::device::layout::ImageBeside;
use crate::error::Result;
use crate::predict::fitted::Layout;
use crate::predict::fitted::schedule::Image;

/// Number of forecasts of a tile.
pub(crate) fn n_forecasts(has_forecast: &[bool]) -> usize {
    has_forecast.iter().filter(|&&f| f).count()
}

/// Makes room for decoded values, sizes of codes, and the same of forecasts behind them; tells kernels which image has what beside it. The
/// site is that of the tile.
///
/// # Errors
/// `Device`.
pub(super) fn give_rooms(run: &mut Run<'_>, schedule: &Schedule, has_forecast: &[bool]) -> Result<()> {
    let (n, pixels) = (run.args.n as usize, schedule.lattices.ny * schedule.lattices.nx);
    let all = n + n_forecasts(has_forecast) * pixels;
    let value_bytes = if run.work == "f64" { 8 } else { 4 };
    run.args.decoded = run.gpu.room("decoded values", all * value_bytes)?;
    run.args.sizes = run.gpu.room("sizes of codes", all)?;
    // Forecasts have no codes.
    run.gpu.zero(run.args.sizes + n as u64, all - n)?;
    let mut next = 0;
    let of_image = |(image, &has): (&Image, &bool)| {
        let slot = if has { next } else { -1 };
        next += i32::from(has);
        ImageBeside { slot, kind: image.kind as u32 }
    };
    let beside: Vec<ImageBeside> = schedule.images.iter().zip(has_forecast).map(of_image).collect();
    let kind_sides: Vec<u32> = schedule.sides_of_kind.iter().map(|&n| n as u32).collect();
    run.args.site.beside = run.gpu.put("side images", bytemuck::cast_slice(&beside))?;
    run.args.site.kind_sides = run.gpu.put("side images of kinds", bytemuck::cast_slice(&kind_sides))?;
    Ok(())
}

/// Decoding of a tile.
pub(crate) struct Decoding {
    schedule: Schedule,
    levels: usize,
}

impl Decoding {
    /// As [`super::decode`], up to the first image.
    ///
    /// # Errors
    /// As there.
    pub fn start(run: &mut Run<'_>, layout: &Layout, has_forecast: &[bool], plan: &Plan, data: &[u8]) -> Result<Self> {
        let schedule = Schedule::with_forecasts(layout.shape, has_forecast);
        start_decoding(run, plan, &schedule, data)?;
        give_rooms(run, &schedule, has_forecast)?;
        Ok(Self { schedule, levels: layout.shape[1] })
    }

    /// Decodes the next step; its forecasts are there.
    ///
    /// # Errors
    /// `Device`.
    pub fn step(&self, run: &mut Run<'_>, step: usize) -> Result<()> {
        (step * self.levels..(step + 1) * self.levels)
            .try_for_each(|image| decode_images(run, &self.schedule, Images::one(image)))
    }

    /// After the last step: whether each stream ended where its codes did is in the state.
    ///
    /// # Errors
    /// `Device`.
    pub fn finish(&self, run: &mut Run<'_>) -> Result<()> {
        run.once("fitted_decode_finish", 64)
    }
}
