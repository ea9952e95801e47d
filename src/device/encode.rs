//! Compression on a GPU: the order of launches, and what comes back. Twin: [`mod@crate::compress`].
//!
//! All tiles of a batch, of whatever fields, are launched one after the other without a look at what came of the one before. Then the host
//! waits, for 48 bytes for each way of coding a tile: where its bytes lie, how many they are, and their checksum. They are final: only what is left to the CPU
//! is looked at again (`fields`).

use super::gpu::{Gpu, Run};
use super::layout::{self, Args, BLOCK, Outcome, State, mode, predictor};
use crate::bound::Resolved;
use crate::compress::budget;
use crate::config::{Config, PredictorChoice};
use crate::encode::huffman;
use crate::error::Result;
use crate::field::DType;
use crate::plan::Treatment;
use crate::predict::fitted::Rows;
use crate::predict::fitted::cuda::encode::Encoder;
use crate::predict::{interp, lorenzo, none};
use crate::quantize::{self, log};
use crate::tile::{self, Tiling};

/// Attempts at a mean square error, as [`mod@crate::compress`] makes.
const ATTEMPTS: usize = 6;

/// Bytes of output that tiles of one batch may need at most, unless one needs more; twice as many where tiles are coded both ways.
const BATCH_BYTES: u64 = 1 << 30;

/// Room for what a tile has besides its values' worth: heads and books of small tiles.
const SLACK_BYTES: u64 = 1 << 14;

/// What is wanted of a field in device memory.
pub(super) struct Job {
    /// Where its values are.
    pub at: u64,
    pub tiling: Tiling,
    pub fill: Option<u64>,
    asked: u32,
    mode: u32,
    bound: f64,
    relative: f64,
    dtype: DType,
}

/// A tile of one of several fields.
pub(super) type TileOf = (usize, u64);

/// Why a tile has not been coded in a way: the fitted predictor is better.
pub(super) const NOT_WANTED: u32 = 4;

/// What came of a tile, by the way in which it was coded: with the fitted predictor, with the others.
pub(super) type Outcomes = [Option<Outcome>; 2];

impl Gpu {
    /// Of the tiles that are left to do, those of the next batch.
    pub(super) fn next_batch(jobs: &[Job], left: &[TileOf]) -> usize {
        let mut bytes = 0;
        let fit = left.iter().take_while(|&&(f, tile)| {
            bytes += jobs[f].capacity(tile);
            bytes <= BATCH_BYTES
        });
        fit.count().max(1).min(left.len())
    }

    /// Codes a batch of tiles, in order, and waits for what came of them. Their bytes are in the room `output`, until the next batch.
    pub(super) fn code_tiles<T: Rows>(
        &mut self,
        jobs: &[Job],
        batch: &[TileOf],
        config: &Config,
    ) -> Result<(u64, Vec<Outcomes>)> {
        if batch.is_empty() {
            return Ok((0, Vec::new()));
        }
        let shared = self.rooms_for::<T>(jobs, batch, config)?;
        self.zero(shared.cursor, 8)?;
        let mut encoder: Option<(Vec<usize>, Option<Encoder>)> = None;
        let mut ways = Vec::with_capacity(batch.len());
        for (i, &(f, tile)) in batch.iter().enumerate() {
            let job = &jobs[f];
            let args = job.field_args(&shared);
            let value = T::DTYPE.name();
            let work = if job.mode == mode::POINT_WISE { "f64" } else { value };
            // The range of the whole field, before its first tile. A field that a batch ended in has it still.
            if tile == 0 {
                quantize::cuda::ranges(&mut Run { gpu: self, args, value, work })?;
            }
            let region = job.tiling.region(tile);
            let shape = tile::coding_shape(&region);
            let mut args = args;
            args.values = job.at + tile::start(&job.tiling, tile) * size_of::<T>() as u64;
            args.work = if job.mode == mode::POINT_WISE { args.work } else { args.values };
            args.outcome = shared.outcome + (2 * i * size_of::<Outcome>()) as u64;
            args.capacity = job.capacity(tile);
            args.n = tile::region_len(&region) as u32;
            args.n_axes = shape.len() as u32;
            args.shape = [1; layout::MAX_AXES];
            shape.iter().zip(&mut args.shape).for_each(|(&n, s)| *s = n as u32);
            args.n_parts = 4 * args.n.div_ceil(huffman::CHUNK as u32);
            let mut run = Run { gpu: self, args, value, work };
            // Tiles follow each other in one or two shapes.
            if encoder.as_ref().is_none_or(|e| e.0 != shape) {
                encoder = Some((shape.clone(), budget(config, &shape).map(|b| Encoder::new(&shape, b))));
            }
            let of_shape = encoder.as_ref().and_then(|e| e.1.as_ref());
            if let Some(encoder) = of_shape {
                encoder.give_rooms(&mut run)?;
                encode_fitted_tile(&mut run, tile as u32, encoder)?;
            }
            let is_other_tried = of_shape.is_none() || config.predictor != PredictorChoice::Fitted;
            if is_other_tried {
                run.args.outcome += size_of::<Outcome>() as u64;
                let n_images = of_shape.map(|_| run.args.site.n_images);
                encode_tile(&mut run, tile as u32, n_images)?;
            }
            ways.push([of_shape.is_some(), is_other_tried]);
        }
        let mut outcomes = vec![[Outcome::default(); 2]; batch.len()];
        self.copy_out(shared.outcome, bytemuck::cast_slice_mut(outcomes.as_flattened_mut()))?;
        let of_ways = outcomes.iter().zip(&ways).map(|(o, w)| [w[0].then_some(o[0]), w[1].then_some(o[1])]);
        Ok((shared.out, of_ways.collect()))
    }

    /// Working memory for the tiles of a batch.
    pub(super) fn rooms_for<T: Rows>(&mut self, jobs: &[Job], batch: &[TileOf], config: &Config) -> Result<Args> {
        // All fields, not those of the batch: what one batch leaves of a field the next finds.
        let n = jobs.iter().map(Job::largest_tile).max().unwrap_or(0) as usize;
        let n_tiles = jobs.iter().map(|j| j.tiling.count()).max().unwrap_or(0) as usize;
        let capacity = n * size_of::<T>() + SLACK_BYTES as usize;
        // Each value stored one by one has room; runs of single special values between them may have none.
        let list_capacity = n * (4 + size_of::<T>()) + SLACK_BYTES as usize;
        let shape_of = |&(f, tile): &TileOf| tile::coding_shape(&jobs[f].tiling.region(tile));
        let both = |t: &TileOf| config.predictor != PredictorChoice::Fitted && budget(config, &shape_of(t)).is_some();
        let output: u64 = batch.iter().map(|t| jobs[t.0].capacity(t.1) * (1 + u64::from(both(t)))).sum();
        let is_log = jobs.iter().any(|j| j.mode == mode::POINT_WISE);
        let work_bytes = if is_log { 8 } else { size_of::<T>() };
        let blocks = |per_block: usize| n.div_ceil(per_block);
        let n_chunks = blocks(huffman::CHUNK);
        let scan_blocks = blocks(BLOCK as usize * 16).clamp(1, 4 * self.multiprocessors() as usize);
        // The most that any compaction or sum has; runs of special values are counted in three ways.
        let n_sums = (3 * blocks(layout::SEGMENT as usize)).max(blocks(layout::SQUARE_BLOCK as usize));
        // A list takes 8 bits a value at most, and 22 a block of 64, where all values are special and of many patterns; else far less.
        let coded_list_bytes = n + n / 16 + 256;
        let book_bytes = 4 * 4 * (1 + layout::BOOK_WORDS);
        let mut args = Args {
            state: self.room("state", size_of::<State>())?,
            outcome: self.room("outcomes", 2 * batch.len() * size_of::<Outcome>())?,
            out: self.room("output", output as usize)?,
            lists: self.room("lists", list_capacity)?,
            list_capacity: list_capacity as u64,
            hash_sums: self.room("sums of checksums", (capacity / layout::HASH_BLOCK + 1) * layout::HASH_SUM_BYTES)?,
            ranges: self.room("ranges", n_tiles * scan_blocks * size_of::<layout::Range>())?,
            cursor: self.room("cursor", 8)?,
            codes: self.room("codes", 4 * n)?,
            kept: self.room("kept codes", 4 * n)?,
            decoded: self.room("decoded values", work_bytes * n)?,
            marks: self.room("marks", n)?,
            code_marks: self.room("marks in coding order", n)?,
            missed: self.room("missed values", 4 * blocks(32))?,
            sums: self.room("sums", 4 * n_sums)?,
            coded_lists: self.room("coded lists", 3 * coded_list_bytes)?,
            coded_list_bytes: coded_list_bytes as u64,
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
        args.is_f64 = u32::from(T::DTYPE == DType::F64);
        args.scan_blocks = scan_blocks as u32;
        args.may_be_as_it_is = u32::from(!config.looks_again());
        Ok(args)
    }

    /// The same for what the fitted predictor needs besides.
    pub(super) fn rooms_for_fits<T: Rows>(
        &mut self,
        jobs: &[Job],
        batch: &[TileOf],
        config: &Config,
        args: Args,
    ) -> Result<()> {
        let mut last = Vec::new();
        for &(f, tile) in batch {
            let region = jobs[f].tiling.region(tile);
            let shape = tile::coding_shape(&region);
            if shape == last {
                continue;
            }
            if let Some(budget) = budget(config, &shape) {
                let args = Args { n: tile::region_len(&region) as u32, ..args };
                let (value, work) = (T::DTYPE.name(), T::DTYPE.name());
                Encoder::new(&shape, budget).give_rooms(&mut Run { gpu: self, args, value, work })?;
            }
            last = shape;
        }
        Ok(())
    }
}

/// All launches of a tile with the fitted predictor.
fn encode_fitted_tile(run: &mut Run<'_>, tile: u32, encoder: &Encoder) -> Result<()> {
    quantize::cuda::start(run, tile)?;
    let attempts = if run.args.mode == mode::MEAN_SQUARE { ATTEMPTS } else { 1 };
    for attempt in 1..=attempts {
        quantize::cuda::clear_missed(run)?;
        encoder.attempt(run)?;
        quantize::cuda::check(run, attempt == attempts)?;
    }
    quantize::cuda::list_outliers(run)?;
    encoder.finish(run)?;
    finish_tile(run)
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
            lorenzo::cuda::encode(run)?;
        }
        none::cuda::encode(run)?;
        if [predictor::AUTO, predictor::INTERP].contains(&run.args.asked) {
            interp::cuda::encode(run)?;
        }
        quantize::cuda::check(run, attempt == attempts)?;
    }
    quantize::cuda::list_outliers(run)?;
    quantize::cuda::compact(run)?;
    run.once("tile_head", layout::WIDE)?;
    huffman::cuda::encode(run)?;
    finish_tile(run)
}

/// The last launches of a tile.
pub(super) fn finish_tile(run: &mut Run<'_>) -> Result<()> {
    // How many bytes there are is not known here: a few blocks, which take them in turn.
    let most = run.args.capacity.div_ceil((BLOCK as usize / 32 * layout::HASH_BLOCK) as u64);
    let blocks = (most.min(u64::from(4 * run.gpu.multiprocessors())) as u32, 1);
    if run.args.may_be_as_it_is != 0 {
        let kernel = format!("values_as_they_are_{}", run.value);
        run.gpu.launch(&kernel, blocks, BLOCK, &run.args)?;
    }
    run.gpu.launch("checksum_sums", blocks, BLOCK, &run.args)?;
    run.once("finish_tile", 32)
}

impl Job {
    /// Of values at `at`. `known`: what the bound means, if that is known before the values are.
    pub fn new(
        at: u64,
        tiling: Tiling,
        known: &Option<Treatment>,
        bound: crate::Bound,
        fill: Option<u64>,
        dtype: DType,
        config: &Config,
    ) -> Self {
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
                crate::bound::Mode::Psnr => (mode::MEAN_SQUARE, crate::bound::peak_over_rmse(bound.value), 0.0),
                _ => (mode::RELATIVE, bound.value, 0.0),
            },
        };
        Self { at, tiling, fill, asked, mode, bound, relative, dtype }
    }

    /// Bytes that there is room for in the output for a tile.
    pub(super) fn capacity(&self, tile: u64) -> u64 {
        tile::region_len(&self.tiling.region(tile)) * self.dtype.size() as u64 + SLACK_BYTES
    }

    /// Values along the axis that is cut, and those behind each of them.
    fn cut(&self) -> (u64, u64) {
        let axis = self.tiling.axis as usize;
        let along = self.tiling.shape.get(axis).copied().unwrap_or(1);
        (along, self.tiling.shape.iter().skip(axis + 1).product())
    }

    fn largest_tile(&self) -> u64 {
        let (along, inner) = self.cut();
        (self.tiling.len * inner).min(along * inner)
    }

    /// What its tiles share.
    pub(super) fn field_args(&self, shared: &Args) -> Args {
        let (along, inner) = self.cut();
        Args {
            values: self.at,
            tile_values: self.tiling.len * inner,
            run_values: along * inner,
            tiles_in_run: along.div_ceil(self.tiling.len) as u32,
            n_tiles: self.tiling.count() as u32,
            fill: self.fill.unwrap_or(0),
            has_fill: u32::from(self.fill.is_some()),
            bound: self.bound,
            relative: self.relative,
            mode: self.mode,
            asked: self.asked,
            ..*shared
        }
    }
}
