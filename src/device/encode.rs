//! Compression on a GPU: the order of launches, and what the host makes of the result. Twin: [`mod@crate::compress`].
//!
//! All tiles of a call are launched one after the other without a look at what came of the one before. Then the host waits twice: for
//! the states of the tiles, which say how long their sections are, and for the sections. What is left to do for it is what zstd does.

use super::gpu::{Gpu, Run};
use super::layout::{self, Args, BLOCK, State, mode, predictor};
use super::{Coder, Cpu};
use crate::bound::{Comparison, Resolved, Stats};
use crate::compress::{Elsewhere, budget, is_small, plan_treatment, saves_enough, smaller_or_exact};
use crate::config::{Config, PredictorChoice};
use crate::container::Writer;
use crate::encode::bytes::Reader;
use crate::encode::huffman;
use crate::error::{Error, Kind, Result};
use crate::field::{DType, Float, Values};
use crate::io::{Format, Schema};
use crate::plan::{Plan, Treatment};
use crate::predict::fitted::{self, Rows};
use crate::predict::interp::{self, Interp, Level, Order};
use crate::predict::{self, Method, Predictor, lorenzo::Lorenzo, none};
use crate::quantize::outlier::Outliers;
use crate::quantize::special::Specials;
use crate::quantize::{self, log};
use crate::tile::{self, Tiling};
use cudarc::driver::DevicePtr;
use std::ops::Range;

/// Why a tile is left to the CPU: its room of the output was not enough.
const NO_ROOM: u32 = 2;

/// Attempts at a mean square error, as [`mod@crate::compress`] makes.
const ATTEMPTS: usize = 6;

/// Bytes of output that tiles of one batch may need at most, unless one needs more.
const BATCH_BYTES: u64 = 1 << 30;

/// Room for what a tile has besides its values' worth: heads and books of small tiles.
const SLACK_BYTES: u64 = 1 << 14;

/// Kernels that all tiles share: how values are laid out and what is wanted.
struct Job<'a> {
    config: &'a Config,
    asked: u32,
    mode: u32,
    bound: f64,
    relative: f64,
    fill: Option<u64>,
    dtype: DType,
}

/// A tile as it comes back, from one way to code it.
struct Coded {
    state: State,
    sections: Vec<u8>,
}

/// Ways to code a tile, in the order of their states: with the fitted predictor, with the others.
const WAYS: usize = 2;

impl Gpu {
    /// Compresses a field in device memory: the archive that [`crate::compress`](crate::compress()) makes of the same values.
    ///
    /// `values` holds them in C order; work follows what was launched on this device's stream before. Waits at most twice a batch of
    /// tiles (1 GiB of values); nothing is copied to the device, and from it the archive (lists and chunks before zstd) and 880 bytes a
    /// tile. Two exceptions: values of tiles that are stored exactly are copied to the host, which has the only coder for them; small tiles
    /// that both the fitted and another predictor may suit come back coded both ways, as zstd has a say in which is smaller.
    ///
    /// # Errors
    /// `Usage` as there; `Unsupported` for tiles of several images with [`Effort::Best`](crate::Effort::Best), whose second trial has no kernels; `Device` if the device fails.
    pub fn compress<T: Rows, V: DevicePtr<T>>(
        &mut self,
        values: &V,
        shape: &[usize],
        fill: Option<T>,
        config: &Config,
    ) -> Result<Vec<u8>> {
        let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if shape.is_empty() || shape.len() > crate::field::MAX_FIELD_DIMS || n != Some(values.len()) {
            return Err(Error::usage(format!("shape {shape:?} does not match {} values", values.len())));
        }
        let stream = self.stream.clone();
        let (at, _guard) = values.device_ptr(&stream);
        self.compress_at::<T>(at, shape, fill, config)
    }

    /// The same for values at a device address.
    fn compress_at<T: Rows>(&mut self, at: u64, shape: &[usize], fill: Option<T>, config: &Config) -> Result<Vec<u8>> {
        let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        let schema = Schema::single(Format::Raw, "data", T::DTYPE, &shape);
        let bound = config.bound_of("data");
        bound.check()?;
        let tiling = Tiling::new(&shape, config.max_tile_values(T::DTYPE));
        let fill = fill.map(Float::to_bits);
        let n_tiles = tiling.count();
        // What can be said without the values: a bound that does not need their range, or that is not lossy at all.
        let known = (!bound.needs_statistics() || n_tiles == 0)
            .then(|| plan_treatment(bound, Some(Stats::default()), T::DTYPE, fill))
            .transpose()?;
        let mut coded = Vec::new();
        let treatment = match known {
            Some(known) if n_tiles == 0 || matches!(known, Treatment::Exact) => known,
            known => {
                let mut job = Job::new(&known, bound, fill, T::DTYPE, config)?;
                for i in 0..n_tiles {
                    job.check_shape(&tile::coding_shape(&tiling.region(i)))?;
                }
                let field = self.compress_tiles::<T>(&mut job, at, &tiling, &mut coded)?;
                known.map_or_else(|| plan_treatment(bound, Some(field), T::DTYPE, fill), Ok)?
            }
        };
        let plan = Plan { variable: 0, treatment, tiling, forecast: None };
        let mut writer = Writer::new(Vec::new(), &schema)?;
        writer.begin(&plan)?;
        let mut start = 0;
        for i in 0..n_tiles {
            let region = plan.tiling.region(i);
            let here = at + start * size_of::<T>() as u64;
            let bytes = self.tile_bytes::<T>(coded.get(i as usize), here, &region, &plan.treatment, config)?;
            writer.tile(&bytes)?;
            start += tile::region_len(&region);
        }
        writer.finish()
    }

    /// Compresses a tile of the host, as [`crate::compress::compress_tile`] does.
    fn compress_host_tile<T: Rows>(
        &mut self,
        values: &[T],
        region: &[Range<u64>],
        treatment: &Treatment,
        config: &Config,
    ) -> Result<Vec<u8>> {
        let Treatment::Lossy { asked, fill, .. } = treatment else {
            return crate::compress::compress_tile(values, region, treatment, config);
        };
        let mut job = Job::new(&Some(treatment.clone()), *asked, *fill, T::DTYPE, config)?;
        let shape = tile::coding_shape(region);
        job.check_shape(&shape)?;
        let at = self.put("values", bytemuck::cast_slice(values))?;
        let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        let tiling = Tiling::new(&shape, u64::MAX);
        let mut coded = Vec::new();
        self.compress_tiles::<T>(&mut job, at, &tiling, &mut coded)?;
        self.tile_bytes::<T>(coded.first(), at, region, treatment, config)
    }

    /// Launches everything for the tiles of a field, in batches; gives the statistics of the field.
    fn compress_tiles<T: Rows>(
        &mut self,
        job: &mut Job<'_>,
        at: u64,
        tiling: &Tiling,
        coded: &mut Vec<[Option<Coded>; WAYS]>,
    ) -> Result<Stats> {
        let n_tiles = tiling.count();
        let inner: u64 = tiling.shape.iter().skip(tiling.axis as usize + 1).product();
        let along = tiling.shape.get(tiling.axis as usize).copied().unwrap_or(1);
        let tile_values = tiling.len * inner;
        let largest = tile_values.min(along * inner) as usize;
        let mut args: Args = self.rooms_for::<T>(job, largest, n_tiles as usize)?;
        let mut encoder: Option<(Vec<usize>, Option<fitted::cuda::encode::Encoder>)> = None;
        args.values = at;
        args.tile_values = tile_values;
        args.run_values = along * inner;
        args.tiles_in_run = along.div_ceil(tiling.len) as u32;
        let (value, work) = (T::DTYPE.name(), if job.mode == mode::POINT_WISE { "f64" } else { T::DTYPE.name() });
        quantize::cuda::ranges(&mut Run { gpu: self, args, value, work })?;
        let mut start = 0;
        let mut first = 0;
        while first < n_tiles {
            let capacity = |tile: u64| {
                let of_way = tile::region_len(&tiling.region(tile)) * size_of::<T>() as u64 + SLACK_BYTES;
                of_way * job.n_ways(&tile::coding_shape(&tiling.region(tile)))
            };
            let mut bytes = 0;
            let mut last = first;
            while last < n_tiles && (last == first || bytes + capacity(last) <= BATCH_BYTES) {
                bytes += capacity(last);
                last += 1;
            }
            args.out = self.room("output", bytes as usize)?;
            self.zero(args.cursor, 8)?;
            for tile in first..last {
                let region = tiling.region(tile);
                let shape = tile::coding_shape(&region);
                let n = tile::region_len(&region);
                let mut tile_args = args;
                tile_args.values = at + start * size_of::<T>() as u64;
                tile_args.work = if job.mode == mode::POINT_WISE { args.work } else { tile_args.values };
                tile_args.state = args.states + (tile - first) * (WAYS * size_of::<State>()) as u64;
                tile_args.capacity = n * size_of::<T>() as u64 + SLACK_BYTES;
                tile_args.n = n as u32;
                tile_args.n_axes = shape.len() as u32;
                tile_args.shape = [1; layout::MAX_AXES];
                shape.iter().zip(&mut tile_args.shape).for_each(|(&n, s)| *s = n as u32);
                tile_args.n_parts = 4 * tile_args.n.div_ceil(huffman::CHUNK as u32);
                let mut run = Run { gpu: self, args: tile_args, value, work };
                // Tiles follow each other in one or two shapes.
                if encoder.as_ref().is_none_or(|e| e.0 != shape) {
                    let budget = budget(job.config, &shape);
                    let of_shape =
                        budget.map(|b| fitted::cuda::encode::Encoder::new(&mut run, &shape, b)).transpose()?;
                    encoder = Some((shape.clone(), of_shape));
                }
                match encoder.as_ref().and_then(|e| e.1.as_ref()) {
                    None => {
                        run.args.state += size_of::<State>() as u64;
                        encode_tile(&mut run, tile as u32, None)?;
                    }
                    Some(encoder) => {
                        encoder.give_rooms(&mut run)?;
                        encode_fitted_tile(&mut run, tile as u32, encoder)?;
                        if job.n_ways(&shape) == 2 {
                            run.args.other = run.args.state;
                            run.args.state += size_of::<State>() as u64;
                            let n_images = run.args.site.n_images;
                            encode_tile(&mut run, tile as u32, Some(n_images))?;
                        }
                    }
                }
                start += n;
            }
            let shapes = (first..last).map(|tile| tile::coding_shape(&tiling.region(tile)));
            let ways: Vec<[bool; WAYS]> = shapes.map(|shape| job.ways(&shape)).collect();
            self.collect(&args, &ways, coded)?;
            first = last;
        }
        let field = coded.first().and_then(|ways| ways.iter().flatten().next()).map_or(Stats::default(), |c| {
            let layout::Range { min, max, n } = c.state.field;
            Stats { min, max, n }
        });
        Ok(field)
    }

    /// Waits for the states of the tiles, then for their sections.
    fn collect(&mut self, args: &Args, ways: &[[bool; WAYS]], coded: &mut Vec<[Option<Coded>; WAYS]>) -> Result<()> {
        let mut states = vec![0u8; ways.len() * WAYS * size_of::<State>()];
        self.copy_out(args.states, &mut states)?;
        let states: Vec<State> = states.chunks_exact(size_of::<State>()).map(bytemuck::pod_read_unaligned).collect();
        let tried: Vec<&State> =
            states.iter().zip(ways.as_flattened()).filter(|(_, tried)| **tried).map(|s| s.0).collect();
        let live = |s: &State| s.left == 0;
        let total = tried.iter().filter(|s| live(s)).map(|s| s.offset + s.used).max().unwrap_or(0);
        let mut bytes = vec![0u8; total as usize];
        if total > 0 {
            self.copy_out(args.out, &mut bytes)?;
        }
        for (states, ways) in states.chunks_exact(WAYS).zip(ways) {
            coded.push(std::array::from_fn(|way| {
                let state = states[way];
                let range = state.offset as usize..(state.offset + state.used) as usize;
                ways[way]
                    .then(|| Coded { state, sections: if live(&state) { bytes[range].to_vec() } else { Vec::new() } })
            }));
        }
        Ok(())
    }

    /// A tile's bytes: from its sections, or if there is nothing to be had from them from its values.
    fn tile_bytes<T: Rows>(
        &mut self,
        coded: Option<&[Option<Coded>; WAYS]>,
        at: u64,
        region: &[Range<u64>],
        treatment: &Treatment,
        config: &Config,
    ) -> Result<Vec<u8>> {
        let n = tile::region_len(region) as usize;
        let values = |gpu: &Self| {
            let mut values = vec![T::default(); n];
            gpu.copy_out(at, bytemuck::cast_slice_mut(&mut values))?;
            Ok::<_, Error>(values)
        };
        let shape = tile::coding_shape(region);
        let bytes_of = |c: &Coded| match treatment {
            Treatment::Lossy { resolved: Resolved::PointWise(_), .. } => assemble::<f64, T>(c, &shape, n, true),
            _ => assemble::<T, T>(c, &shape, n, false),
        };
        // Decided by what the device found, so that the CPU needs not try; but where it had no room the CPU has.
        let left = |c: &Coded| c.state.left != 0;
        let bytes = match coded {
            Some([Some(fitted), other]) if !left(fitted) => {
                let (codes, plan) = (fitted.state.coded_bytes as usize, fitted.state.plan_bytes as usize);
                let bytes = bytes_of(fitted)?;
                match other {
                    Some(other) if is_small(n, &shape, codes, plan) => {
                        if other.state.left == NO_ROOM {
                            return crate::compress::compress_tile(&values(self)?, region, treatment, config);
                        }
                        let other = if left(other) { None } else { Some(bytes_of(other)?) };
                        other.filter(|other| other.len() < bytes.len()).unwrap_or(bytes)
                    }
                    _ => bytes,
                }
            }
            Some([None, Some(other)]) if !left(other) => bytes_of(other)?,
            _ => return crate::compress::compress_tile(&values(self)?, region, treatment, config),
        };
        let bytes = if saves_enough(bytes.len(), n * size_of::<T>()) {
            bytes
        } else {
            smaller_or_exact(Some(bytes), &values(self)?)
        };
        if config.verify {
            verify(&bytes, &values(self)?, region, treatment)?;
        }
        Ok(bytes)
    }

    /// Working memory for tiles of at most `n` values.
    fn rooms_for<T: Rows>(&mut self, job: &Job<'_>, n: usize, n_tiles: usize) -> Result<Args> {
        let is_log = job.mode == mode::POINT_WISE;
        let work_bytes = if is_log { 8 } else { size_of::<T>() };
        let blocks = |per_block: usize| n.div_ceil(per_block);
        let n_chunks = blocks(huffman::CHUNK);
        let scan_blocks = blocks(BLOCK as usize * 16).clamp(1, 4 * self.multiprocessors() as usize);
        // The most that any compaction or sum has.
        let n_sums = blocks(layout::SEGMENT as usize).max(blocks(layout::SQUARE_BLOCK as usize));
        let book_bytes = 4 * 4 * (1 + layout::BOOK_WORDS);
        let mut args = Args {
            states: self.room("states", n_tiles * WAYS * size_of::<State>())?,
            ranges: self.room("ranges", n_tiles * scan_blocks * size_of::<layout::Range>())?,
            cursor: self.room("cursor", 8)?,
            codes: self.room("codes", 4 * n)?,
            kept: self.room("kept codes", 4 * n)?,
            decoded: self.room("decoded values", work_bytes * n)?,
            marks: self.room("marks", n)?,
            code_marks: self.room("marks in coding order", n)?,
            missed: self.room("missed values", 4 * blocks(32))?,
            sums: self.room("sums", 4 * n_sums)?,
            finds: self.room("patterns", 8 * (1 + layout::MAX_PATTERNS) * blocks(layout::SEGMENT as usize))?,
            squares: self.room("squares", 16 * blocks(layout::SQUARE_BLOCK as usize))?,
            samples: self.room("samples", 8 * layout::SAMPLE_MAX * work_bytes)?,
            passes: self.room("passes", layout::MAX_PASSES * layout::PASS_BYTES)?,
            chunks: self.room("chunks", n_chunks * size_of::<layout::Chunk>())?,
            part_counts: self.room("counts of parts", 4 * n_chunks * layout::N_INDICES * 2)?,
            set_counts: self.room("counts of books", n_chunks * layout::N_INDICES * 4)?,
            coders: self.room("codes of books", n_chunks * layout::N_INDICES * 4)?,
            books: self.room("books", n_chunks * book_bytes)?,
            ..bytemuck::Zeroable::zeroed()
        };
        if is_log {
            args.work = self.room("logarithms", 8 * n)?;
        }
        args.fill = job.fill.unwrap_or(0);
        args.has_fill = u32::from(job.fill.is_some());
        args.bound = job.bound;
        args.relative = job.relative;
        args.n_tiles = n_tiles as u32;
        args.mode = job.mode;
        args.asked = job.asked;
        args.is_f64 = u32::from(job.dtype == DType::F64);
        args.scan_blocks = scan_blocks as u32;
        Ok(args)
    }
}

/// All launches of a tile with the fitted predictor.
fn encode_fitted_tile(run: &mut Run<'_>, tile: u32, encoder: &fitted::cuda::encode::Encoder) -> Result<()> {
    quantize::cuda::start(run, tile)?;
    let attempts = if run.args.mode == mode::MEAN_SQUARE { ATTEMPTS } else { 1 };
    for attempt in 1..=attempts {
        quantize::cuda::clear_missed(run)?;
        encoder.attempt(run)?;
        quantize::cuda::check(run, attempt == attempts)?;
    }
    quantize::cuda::list_outliers(run)?;
    encoder.finish(run)?;
    run.once("finish_tile", 32)
}

/// All launches of a tile with one of the other predictors. If it has been coded with the fitted one, `n_images` says how many images it has:
/// then kernels do nothing unless the tile is small.
fn encode_tile(run: &mut Run<'_>, tile: u32, n_images: Option<u32>) -> Result<()> {
    quantize::cuda::start(run, tile)?;
    if let Some(n_images) = n_images {
        run.once_for("setup_other", 32, n_images)?;
    }
    let attempts = if run.args.mode == mode::MEAN_SQUARE { ATTEMPTS } else { 1 };
    for attempt in 1..=attempts {
        quantize::cuda::clear_missed(run)?;
        let choose = format!("choose_{}", run.work);
        run.once(&choose, layout::WIDE)?;
        if [predictor::AUTO, predictor::LORENZO].contains(&run.args.asked) {
            predict::lorenzo::cuda::encode(run)?;
        }
        none::cuda::encode(run)?;
        if [predictor::AUTO, predictor::INTERP].contains(&run.args.asked) {
            interp::cuda::encode(run)?;
        }
        quantize::cuda::check(run, attempt == attempts)?;
    }
    quantize::cuda::list_outliers(run)?;
    quantize::cuda::compact(run)?;
    huffman::cuda::encode(run)?;
    run.once("finish_tile", 32)
}

impl<'a> Job<'a> {
    /// `known`: what the bound means, if that is known before the values are.
    fn new(
        known: &Option<Treatment>,
        bound: crate::Bound,
        fill: Option<u64>,
        dtype: DType,
        config: &'a Config,
    ) -> Result<Self> {
        let asked = match config.predictor {
            PredictorChoice::Auto | PredictorChoice::Fitted | PredictorChoice::Forecast => predictor::AUTO,
            PredictorChoice::None => predictor::NONE,
            PredictorChoice::Lorenzo => predictor::LORENZO,
            PredictorChoice::Interp => predictor::INTERP,
        };
        let (mode, bound, relative) = match known {
            Some(Treatment::Lossy { resolved, .. }) => match *resolved {
                Resolved::Absolute(bound) => (mode::ABSOLUTE, bound, 0.0),
                Resolved::PointWise(relative) => {
                    let bound =
                        if dtype == DType::F32 { log::bound::<f32>(relative) } else { log::bound::<f64>(relative) };
                    (mode::POINT_WISE, bound, relative)
                }
                Resolved::MeanSquare { absolute, max_mse } => (mode::MEAN_SQUARE, absolute, max_mse),
                Resolved::Exact => (mode::ABSOLUTE, 0.0, 0.0),
            },
            _ => match bound.mode {
                crate::bound::Mode::Psnr => (mode::MEAN_SQUARE, 10f64.powf(bound.value / 20.0), 0.0),
                _ => (mode::RELATIVE, bound.value, 0.0),
            },
        };
        Ok(Self { config, asked, mode, bound, relative, fill, dtype })
    }

    /// Refuses what has no kernels.
    fn check_shape(&self, shape: &[usize]) -> Result<()> {
        let has_second_trial = |b| !fitted::cuda::encode::is_single_trial(shape, b);
        if budget(self.config, shape).is_some_and(has_second_trial) {
            return Err(Error::unsupported(
                "the second trial of the effort best has no GPU kernels yet: choose the effort balanced or fast, or the CPU",
            ));
        }
        Ok(())
    }

    /// Ways that tiles of `shape` are coded: as [`crate::compress`] has it, but that whether a tile is small the device finds out.
    fn ways(&self, shape: &[usize]) -> [bool; WAYS] {
        match budget(self.config, shape) {
            None => [false, true],
            Some(_) => [true, self.config.predictor != PredictorChoice::Fitted],
        }
    }

    fn n_ways(&self, shape: &[usize]) -> u64 {
        self.ways(shape).iter().filter(|w| **w).count() as u64
    }
}

/// Sections to a tile: codes of type `C` for values of type `T`.
fn assemble<C: Rows, T: Rows>(coded: &Coded, shape: &[usize], n: usize, is_log: bool) -> Result<Vec<u8>> {
    let Coded { state: s, sections } = coded;
    let words = |at: u64, n: u32| {
        let bytes = &sections[at as usize..][..4 * n as usize];
        bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect::<Vec<_>>()
    };
    let runs = words(s.runs_at, 2 * s.n_runs);
    let (starts, ends) = runs.split_at(s.n_runs as usize);
    let kinds = &sections[s.runs_at as usize + 4 * runs.len()..];
    let ranges = starts.iter().zip(ends).map(|(&a, &b)| a..b).zip(kinds.iter().copied());
    let specials = Specials::from_runs(s.patterns[..s.n_patterns as usize].to_vec(), ranges);
    let signs = is_log.then(|| log::signs_from_changes(&words(s.signs_at, s.n_signs), n));
    let listed = words(s.outliers_at, s.n_outliers * (1 + size_of::<T>() as u32 / 4));
    let (positions, exact) = listed.split_at(s.n_outliers as usize);
    let bits = match size_of::<T>() {
        4 => exact.iter().map(|&b| u64::from(b)).collect(),
        _ => exact.as_chunks::<2>().0.iter().map(|&[low, high]| u64::from(low) | u64::from(high) << 32).collect(),
    };
    let section = sections[s.coded_at as usize..][..s.coded_bytes as usize].to_vec();
    let (method, codes) = if s.predictor == predictor::FITTED {
        let plan = &sections[s.plan_at as usize..][..s.plan_bytes as usize];
        (Method::Contexts(fitted::Plan::read(&mut Reader::new(plan), shape)?), section)
    } else {
        (Method::Huffman(predictor_of::<C>(s, shape)), huffman::cpu::pack_section(section, s.n_codes as usize)?)
    };
    let elsewhere = Elsewhere {
        base: C::from_f64(s.base),
        step: C::from_f64(s.step),
        method,
        codes,
        specials,
        signs,
        outliers: Outliers { positions: positions.to_vec(), bits },
    };
    Ok(elsewhere.into_bytes::<T>())
}

fn predictor_of<C: Rows>(s: &State, shape: &[usize]) -> Box<dyn Predictor<C>> {
    match s.predictor {
        predictor::LORENZO => Box::new(Lorenzo { axes: s.axes as u8 }),
        predictor::INTERP => {
            let mut plan =
                Interp::uniform(shape, s.active as u8, s.wrap != 0, Level { order: Order::Cubic, permutation: 0 });
            for (level, &choice) in plan.levels.iter_mut().zip(&s.levels) {
                let order = Order::ALL[usize::from(choice & 3).min(Order::ALL.len() - 1)];
                *level = Level { order, permutation: choice >> 2 };
            }
            Box::new(plan)
        }
        _ => Box::new(none::None),
    }
}

/// Decodes a tile on the CPU and compares it with its values.
fn verify<T: Rows>(bytes: &[u8], values: &[T], region: &[Range<u64>], treatment: &Treatment) -> Result<()> {
    let Treatment::Lossy { resolved, fill, .. } = treatment else { return Ok(()) };
    let restored = crate::decompress::decompress_tile(bytes, T::DTYPE, treatment, region)?;
    let mut comparison = Comparison::default();
    comparison.add(values, T::slice(&restored).unwrap_or_default(), resolved, fill.map(T::from_bits));
    match comparison.violations {
        0 => Ok(()),
        n => Err(Error::new(
            Kind::BoundViolated,
            format!("{n} values left their bound on the GPU; this is a bug, please report it"),
        )),
    }
}

/// Codes tiles of the host on a GPU.
pub(super) struct HostTiles {
    gpu: Gpu,
    /// Whether what the GPU can not do is an error.
    strict: bool,
    notes: Vec<String>,
}

impl HostTiles {
    pub fn new(gpu: Gpu, strict: bool) -> Self {
        Self { gpu, strict, notes: Vec::new() }
    }

    /// The CPU takes over, unless the GPU was asked for by name. Errors of other kinds are nobody's to mend.
    fn or_cpu<R>(&mut self, result: Result<R>, cpu: impl FnOnce() -> Result<R>) -> Result<R> {
        match result {
            Err(e) if !self.strict && matches!(e.kind(), Kind::Device | Kind::Unsupported) => {
                let note = format!("the CPU took over: {e}");
                if !self.notes.contains(&note) {
                    self.notes.push(note);
                }
                cpu()
            }
            result => result,
        }
    }
}

impl Coder for HostTiles {
    fn compress(
        &mut self,
        values: &Values,
        region: &[Range<u64>],
        treatment: &Treatment,
        config: &Config,
    ) -> Result<Vec<u8>> {
        let result = match values {
            Values::F32(v) => self.gpu.compress_host_tile(v, region, treatment, config),
            Values::F64(v) => self.gpu.compress_host_tile(v, region, treatment, config),
            other => Err(Error::usage(format!("{} is not coded within a bound", other.dtype()))),
        };
        self.or_cpu(result, || Cpu.compress(values, region, treatment, config))
    }

    fn decompress(
        &mut self,
        coded: &[u8],
        dtype: DType,
        treatment: &Treatment,
        region: &[Range<u64>],
    ) -> Result<Values> {
        let result = self.gpu.decompress_host_tile(coded, dtype, treatment, region);
        self.or_cpu(result, || Cpu.decompress(coded, dtype, treatment, region))
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
