//! Tiles beside forecasts, on a GPU, step by step: from values to the coded tile, and back. Twins: the CPU's runs in
//! [`crate::forecast::series`].
//!
//! Forecasts come by their place, in device memory or the host's; what is decoded of a step goes to the model in the same way. Values of a tile
//! are copied to the device once, coded tiles from it after each run that counts.

use super::decode::{Lists, error_of};
use super::encode::{Job, finish_tile};
use super::gpu::{Gpu, Run};
use super::layout::{self, Args, Outcome, State, predictor};
use crate::compress::method;
use crate::config::Config;
use crate::encode::bytes::Reader;
use crate::encode::huffman;
use crate::error::{Error, Result};
use crate::forecast::agreement::cuda::{Forecasts, Look, Place};
use crate::forecast::agreement::{Agreement, Sides};
use crate::plan::Treatment;
use crate::predict::fitted::cuda::beside::{self, n_forecasts};
use crate::predict::fitted::cuda::encode;
use crate::predict::fitted::encode::Turn;
use crate::predict::fitted::learn::Budget;
use crate::predict::fitted::{Layout, Plan, Rows};
use crate::quantize;
use crate::quantize::outlier::Outliers;
use crate::quantize::special::Specials;
use crate::tile::Tiling;
use std::marker::PhantomData;

/// What both directions have: a working memory of their own, as the tiles of several variables are at work in turn.
struct Tile<T> {
    gpu: Gpu,
    args: Args,
    forecasts: Forecasts,
    values: PhantomData<T>,
}

impl<T: Rows> Tile<T> {
    /// What is to be launched, with what is launched.
    fn parts(&mut self) -> (Run<'_>, &mut Forecasts) {
        let type_name = T::DTYPE.name();
        (Run { gpu: &mut self.gpu, args: self.args, value: type_name, work: type_name }, &mut self.forecasts)
    }

    /// Rounds the forecasts of the levels of a step, those that have one.
    fn give(&mut self, agreement: &Agreement, step: usize, forecasts: &[Option<Place<'_>>], looks: bool) -> Result<()> {
        let (mut run, of_tile) = self.parts();
        for (level, forecast) in forecasts.iter().enumerate() {
            if let Some(values) = forecast {
                of_tile.give(&mut run, agreement, step * forecasts.len() + level, *values, looks)?;
            }
        }
        if forecasts.iter().any(Option::is_some) { of_tile.end_step(&mut run) } else { Ok(()) }
    }

    /// What is decoded of a step, as the model takes it: to a place on the device, or given where there is none, for which it waits.
    fn see(&mut self, step: usize, to: Option<u64>, n: usize) -> Result<Option<Vec<f32>>> {
        let (mut run, forecasts) = self.parts();
        if let Some(to) = to {
            return forecasts.see(&mut run, step, to).map(|()| None);
        }
        let at = run.gpu.room("what is seen", 4 * n)?;
        forecasts.see(&mut run, step, at)?;
        let mut seen = vec![0f32; n];
        run.gpu.copy_out(at, bytemuck::cast_slice_mut(&mut seen))?;
        Ok(Some(seen))
    }

    /// The decoded values, but for those stored apart unless they were put in place. Waits.
    fn decoded(&self) -> Result<Vec<T>> {
        let mut values = vec![T::default(); self.args.n as usize];
        self.gpu.copy_out(self.args.decoded, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }
}

/// The shape of a tile in what kernels are told.
fn put_shape(args: &mut Args, shape: [usize; 4]) {
    args.n = shape.iter().product::<usize>() as u32;
    args.n_axes = shape.len() as u32;
    args.shape = [1; layout::MAX_AXES];
    shape.iter().zip(&mut args.shape).for_each(|(&n, s)| *s = n as u32);
}

/// A tile on its way to code. Twin: [`crate::predict::fitted::encode::Encoding`] and what is around it.
pub(crate) struct Encoding<T> {
    tile: Tile<T>,
    fits: encode::Encoding,
    agreement: Agreement,
    /// Whether the run under way is the one that fits.
    is_first: bool,
    pixels: usize,
}

/// What a run gave.
pub(crate) struct Encoded<'a> {
    /// Where codes count from, and the width of bins: bits of the values' type.
    pub bins: &'a [u8],
    pub specials: &'a [u8],
    pub outliers: &'a [u8],
    /// With its length.
    pub plan: &'a [u8],
    pub codes: &'a [u8],
}

impl<'a> Encoded<'a> {
    /// Takes the bytes of a tile apart that the device wrote as one without forecasts.
    fn read<T: Rows>(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        if reader.byte()? != method::DIRECT {
            return Err(Error::device("the GPU gave no coded tile"));
        }
        let bins = reader.take(2 * T::BYTES)?;
        if u32::from(reader.byte()?) != predictor::FITTED {
            return Err(Error::device("the GPU gave a tile of another predictor"));
        }
        let from_plan = reader.rest();
        reader.bytes()?;
        let plan = &from_plan[..from_plan.len() - reader.rest().len()];
        let (specials, outliers) = (reader.bytes()?, reader.bytes()?);
        Ok(Self { bins, specials, outliers, plan, codes: reader.rest() })
    }
}

impl<T: Rows> Encoding<T> {
    /// At the first step of the run that fits, on the stream of `gpu`. `values` are those of the tile as they are.
    ///
    /// # Errors
    /// `Device`.
    pub fn new(
        gpu: &Gpu,
        values: &[T],
        treatment: &Treatment,
        layout: &Layout,
        has_forecast: &[bool],
        budget: Budget,
        config: &Config,
    ) -> Result<Self> {
        let Treatment::Lossy { asked, fill, .. } = *treatment else {
            return Err(Error::usage("forecasts beside exact values"));
        };
        let mut gpu = gpu.another(gpu.stream().clone())?;
        let at = gpu.put("values", bytemuck::cast_slice(values))?;
        let shape = layout.shape.map(|n| n as u64);
        let jobs = [Job::new(at, Tiling::whole(&shape), &Some(treatment.clone()), asked, fill, T::DTYPE, config)];
        let shared = gpu.rooms_for::<T>(&jobs, &[(0, 0)], config)?;
        let mut args = jobs[0].field_args(&shared);
        (args.values, args.work) = (at, at);
        args.capacity = jobs[0].capacity(0);
        put_shape(&mut args, layout.shape);
        args.n_parts = 4 * args.n.div_ceil(huffman::CHUNK as u32);
        // Whatever takes more than the values is not wanted.
        args.may_be_as_it_is = 0;
        let type_name = T::DTYPE.name();
        let mut run = Run { gpu: &mut gpu, args, value: type_name, work: type_name };
        let fits = encode::Encoding::new(layout, has_forecast, budget);
        fits.give_rooms(&mut run)?;
        let mut forecasts = Forecasts::new(&mut run, layout.shape, n_forecasts(has_forecast))?;
        forecasts.start(&mut run, &Agreement::EXACT, None)?;
        quantize::cuda::ranges(&mut run)?;
        fits.start(&mut run)?;
        let args = run.args;
        let tile = Tile { gpu, args, forecasts, values: PhantomData };
        Ok(Self { tile, fits, agreement: Agreement::EXACT, is_first: true, pixels: layout.pixels() })
    }

    /// What the forecasts of the run that fits were like. Waits.
    ///
    /// # Errors
    /// `Device`.
    pub fn look(&mut self) -> Result<Look> {
        let (run, forecasts) = self.tile.parts();
        forecasts.look(&run)
    }

    /// Back to the first step, for a run that counts.
    ///
    /// # Errors
    /// `Device`.
    pub fn rewind(&mut self, turn: Turn, agreement: &Agreement) -> Result<()> {
        self.agreement = agreement.clone();
        self.is_first = false;
        let (mut run, forecasts) = self.tile.parts();
        forecasts.start(&mut run, agreement, None)?;
        self.fits.rewind(&mut run, turn)?;
        self.tile.args = run.args;
        Ok(())
    }

    /// Codes the next step beside the forecasts of its levels, those that have one. What is decoded, but for values stored apart, goes to `seen` on the
    /// device; where the model is on the host it is given, and waited for.
    ///
    /// # Errors
    /// `Device`.
    pub fn step(
        &mut self,
        step: usize,
        forecasts: &[Option<Place<'_>>],
        seen: Option<u64>,
    ) -> Result<Option<Vec<f32>>> {
        self.tile.give(&self.agreement, step, forecasts, self.is_first)?;
        let (mut run, _) = self.tile.parts();
        self.fits.step(&mut run, step)?;
        self.tile.see(step, seen, forecasts.len() * self.pixels)
    }

    /// After the last step of a run that counts: gives `finish` what it gave, the list and the digests. `None` if codes take more than the values,
    /// or very many are stored apart. Waits.
    ///
    /// # Errors
    /// `Device`.
    pub fn finish<R>(&mut self, finish: impl FnOnce(Encoded<'_>, Sides, Vec<u64>) -> R) -> Result<Option<R>> {
        let (mut run, forecasts) = self.tile.parts();
        let digests = forecasts.digests(&run)?;
        let sides = forecasts.sides(&run)?;
        quantize::cuda::check(&mut run, true)?;
        quantize::cuda::list_outliers(&mut run)?;
        self.fits.encoder.finish(&mut run)?;
        finish_tile(&mut run)?;
        let mut outcome = Outcome::default();
        run.gpu.copy_out(run.args.outcome, bytemuck::bytes_of_mut(&mut outcome))?;
        if outcome.left != 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; outcome.bytes as usize];
        run.gpu.copy_out(run.args.out + outcome.at, &mut bytes)?;
        let encoded = Encoded::read::<T>(&bytes)?;
        self.fits.offer(&mut run, encoded.codes.len())?;
        Ok(Some(finish(encoded, sides, digests)))
    }
}

/// A coded tile, as far as it does not depend on forecasts.
pub(crate) struct Coded<'a, T> {
    pub layout: &'a Layout,
    pub base: T,
    pub step: T,
    pub specials: &'a Specials,
    pub outliers: &'a Outliers,
    pub plan: &'a Plan,
    pub codes: &'a [u8],
    pub agreement: &'a Agreement,
    pub has_forecast: &'a [bool],
    pub sides: &'a Sides,
}

/// A tile on its way to values. Twin: [`crate::predict::fitted::decode::Decoding`] and what is around it.
pub(crate) struct Decoding<T> {
    tile: Tile<T>,
    decoding: beside::Decoding,
    agreement: Agreement,
    lists: Lists,
    /// Values of a step.
    n_step: usize,
}

impl<T: Rows> Decoding<T> {
    /// At the first step, on the stream of `gpu`.
    ///
    /// # Errors
    /// `Corrupt` if lengths do not fit; `Device`.
    pub fn new(gpu: &Gpu, coded: &Coded<'_, T>) -> Result<Self> {
        let mut gpu = gpu.another(gpu.stream().clone())?;
        let n = coded.layout.shape.iter().product::<usize>();
        let mut state = State {
            base: coded.base.to_f64(),
            step: coded.step.to_f64(),
            n_codes: (n - coded.specials.len()) as u32,
            n_runs: coded.specials.ranges().count() as u32,
            predictor: predictor::FITTED,
            ..bytemuck::Zeroable::zeroed()
        };
        coded.specials.patterns().iter().zip(&mut state.patterns).for_each(|(&p, s)| *s = p);
        let section = huffman::cuda::Section::of_streams(coded.codes);
        let mut args = gpu.rooms_to_decode(n, size_of::<T>(), &section, true)?;
        put_shape(&mut args, coded.layout.shape);
        gpu.copy_in(args.state, bytemuck::bytes_of(&state))?;
        args.coded = gpu.put("streams", &section.streams)?;
        let type_name = T::DTYPE.name();
        let mut run = Run { gpu: &mut gpu, args, value: type_name, work: type_name };
        let lists = Lists::put(&mut run, coded.specials, coded.outliers, &[])?;
        lists.mark(&mut run)?;
        let (layout, plan) = (coded.layout, coded.plan);
        let decoding = beside::Decoding::start(&mut run, layout, coded.has_forecast, plan, coded.codes)?;
        // Values stored apart are put where the decoded ones are.
        run.args.out = run.args.decoded;
        let mut forecasts = Forecasts::new(&mut run, layout.shape, n_forecasts(coded.has_forecast))?;
        forecasts.start(&mut run, coded.agreement, Some(coded.sides))?;
        let args = run.args;
        let tile = Tile { gpu, args, forecasts, values: PhantomData };
        let n_step = layout.shape[1] * layout.pixels();
        Ok(Self { tile, decoding, agreement: coded.agreement.clone(), lists, n_step })
    }

    /// Takes in the forecasts of the levels of a step, those that have one.
    ///
    /// # Errors
    /// `Device`.
    pub fn give(&mut self, step: usize, forecasts: &[Option<Place<'_>>]) -> Result<()> {
        self.tile.give(&self.agreement, step, forecasts, false)
    }

    /// The digest of all forecasts so far; there has to be one. Waits.
    ///
    /// # Errors
    /// `Device`.
    pub fn digest(&mut self) -> Result<u64> {
        let (run, forecasts) = self.tile.parts();
        forecasts.last_digest(&run)
    }

    /// Decodes the next step; `seen` as for [`Encoding::step`].
    ///
    /// # Errors
    /// `Device`.
    pub fn step(&mut self, step: usize, seen: Option<u64>) -> Result<Option<Vec<f32>>> {
        let (mut run, _) = self.tile.parts();
        self.decoding.step(&mut run, step)?;
        self.tile.see(step, seen, self.n_step)
    }

    /// Whether the codes were sound, after the last step. Waits.
    ///
    /// # Errors
    /// `Corrupt` if bytes of the codes are left, or were not enough; `Device`.
    pub fn check(&mut self) -> Result<()> {
        let (mut run, _) = self.tile.parts();
        self.decoding.finish(&mut run)?;
        error_of(&run, "stream")
    }

    /// All values, with those stored apart. Waits.
    ///
    /// # Errors
    /// `Device`.
    pub fn values(&mut self) -> Result<Vec<T>> {
        let (mut run, _) = self.tile.parts();
        self.lists.put_apart(&mut run)?;
        self.tile.decoded()
    }
}
