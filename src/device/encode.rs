//! Compression on a GPU: the order of launches, and what the host makes of the result. Twin: [`mod@crate::compress`].
//!
//! All tiles of a call are launched one after the other without a look at what came of the one before. Then the host waits twice: for
//! the states of the tiles, which say how long their sections are, and for the sections. What is left to do for it is what zstd does.

use super::gpu::{Gpu, Run};
use super::layout::{self, Args, BLOCK, State, mode, predictor};
use super::{Coder, Cpu};
use crate::bound::{Comparison, Resolved, Stats};
use crate::compress::{Elsewhere, plan_treatment, saves_enough, smaller_or_exact};
use crate::config::{Config, Effort, PredictorChoice};
use crate::container::Writer;
use crate::encode::huffman;
use crate::error::{Error, Kind, Result};
use crate::field::{DType, Float, Values};
use crate::io::{Format, Schema};
use crate::plan::{Plan, Treatment};
use crate::predict::fitted::{self, Rows};
use crate::predict::interp::{self, Interp, Level, Order};
use crate::predict::{self, Predictor, lorenzo::Lorenzo, none};
use crate::quantize::outlier::Outliers;
use crate::quantize::special::Specials;
use crate::quantize::{self, log};
use crate::tile::{self, Tiling};
use cudarc::driver::DevicePtr;
use std::ops::Range;

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

/// A tile as it comes back.
struct Coded {
    state: State,
    sections: Vec<u8>,
}

impl Gpu {
    /// Compresses a field in device memory: the archive that [`crate::compress`](crate::compress()) makes of the same values.
    ///
    /// `values` holds them in C order; work follows what was launched on this device's stream before. Waits at most twice a batch of
    /// tiles (1 GiB of values); nothing is copied to the device, and from it the archive (lists and chunks before zstd) and 424 bytes a
    /// tile. Tiles that are stored exactly are an exception: their values are copied to the host, which has the only coder for them.
    ///
    /// # Errors
    /// `Usage` as there; `Unsupported` if `config` needs the fitted predictor, which has no kernels; `Device` if the device fails.
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
        coded: &mut Vec<Coded>,
    ) -> Result<Stats> {
        let n_tiles = tiling.count();
        let inner: u64 = tiling.shape.iter().skip(tiling.axis as usize + 1).product();
        let along = tiling.shape.get(tiling.axis as usize).copied().unwrap_or(1);
        let tile_values = tiling.len * inner;
        let largest = tile_values.min(along * inner) as usize;
        let mut args: Args = self.rooms_for::<T>(job, largest, n_tiles as usize)?;
        args.values = at;
        args.tile_values = tile_values;
        args.run_values = along * inner;
        args.tiles_in_run = along.div_ceil(tiling.len) as u32;
        let (value, work) = (T::DTYPE.name(), if job.mode == mode::POINT_WISE { "f64" } else { T::DTYPE.name() });
        quantize::cuda::ranges(&mut Run { gpu: self, args, value, work })?;
        let mut start = 0;
        let mut first = 0;
        while first < n_tiles {
            let capacity = |tile: u64| tile::region_len(&tiling.region(tile)) * size_of::<T>() as u64 + SLACK_BYTES;
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
                tile_args.state = args.states + (tile - first) * size_of::<State>() as u64;
                tile_args.capacity = n * size_of::<T>() as u64 + SLACK_BYTES;
                tile_args.n = n as u32;
                tile_args.n_axes = shape.len() as u32;
                tile_args.shape = [1; layout::MAX_AXES];
                shape.iter().zip(&mut tile_args.shape).for_each(|(&n, s)| *s = n as u32);
                tile_args.n_parts = 4 * tile_args.n.div_ceil(huffman::CHUNK as u32);
                encode_tile(&mut Run { gpu: self, args: tile_args, value, work }, tile as u32)?;
                start += n;
            }
            self.collect(&args, (last - first) as usize, coded)?;
            first = last;
        }
        let field = coded.first().map_or(Stats::default(), |c| {
            let layout::Range { min, max, n } = c.state.field;
            Stats { min, max, n }
        });
        Ok(field)
    }

    /// Waits for the states of the tiles, then for their sections.
    fn collect(&mut self, args: &Args, n_tiles: usize, coded: &mut Vec<Coded>) -> Result<()> {
        let mut states = vec![0u8; n_tiles * size_of::<State>()];
        self.copy_out(args.states, &mut states)?;
        let states: Vec<State> = states.chunks_exact(size_of::<State>()).map(bytemuck::pod_read_unaligned).collect();
        let live = |s: &State| s.left == 0;
        let total = states.iter().filter(|s| live(s)).map(|s| s.offset + s.used).max().unwrap_or(0);
        let mut bytes = vec![0u8; total as usize];
        if total > 0 {
            self.copy_out(args.out, &mut bytes)?;
        }
        for state in states {
            let range = if live(&state) { state.offset as usize..(state.offset + state.used) as usize } else { 0..0 };
            coded.push(Coded { state, sections: bytes[range].to_vec() });
        }
        Ok(())
    }

    /// A tile's bytes: from its sections, or if there is nothing to be had from them from its values.
    fn tile_bytes<T: Rows>(
        &mut self,
        coded: Option<&Coded>,
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
        let bytes = match coded {
            // Decided by what the device found, so that the CPU needs not try; but where it had no room the CPU has.
            Some(c) if c.state.left == 0 => match treatment {
                Treatment::Lossy { resolved: Resolved::PointWise(_), .. } => assemble::<f64, T>(c, &shape, n, true)?,
                _ => assemble::<T, T>(c, &shape, n, false)?,
            },
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
            states: self.room("states", n_tiles * size_of::<State>())?,
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

/// All launches of a tile.
fn encode_tile(run: &mut Run<'_>, tile: u32) -> Result<()> {
    quantize::cuda::start(run, tile)?;
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
            PredictorChoice::Auto | PredictorChoice::Forecast => predictor::AUTO,
            PredictorChoice::None => predictor::NONE,
            PredictorChoice::Lorenzo => predictor::LORENZO,
            PredictorChoice::Interp => predictor::INTERP,
            PredictorChoice::Fitted => return Err(no_kernels()),
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

    /// Refuses tiles of a shape that only the fitted predictor is for.
    fn check_shape(&self, shape: &[usize]) -> Result<()> {
        let wants_fitted = matches!(self.config.predictor, PredictorChoice::Auto | PredictorChoice::Forecast)
            && self.config.effort != Effort::Fast;
        if wants_fitted && fitted::is_worthwhile(shape) { Err(no_kernels()) } else { Ok(()) }
    }
}

fn no_kernels() -> Error {
    Error::unsupported(
        "the fitted predictor has no GPU kernels yet: choose the effort fast, another predictor, or the CPU",
    )
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
    let section = sections[s.huffman_at as usize..][..s.huffman_bytes as usize].to_vec();
    let elsewhere = Elsewhere {
        base: C::from_f64(s.base),
        step: C::from_f64(s.step),
        predictor: predictor_of::<C>(s, shape),
        codes: huffman::cpu::pack_section(section, s.n_codes as usize)?,
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
