//! What host and kernels both know. Twin: `kernels/common/state.cuh`, field by field; both assert the same sizes.
#![allow(unsafe_code)]

use bytemuck::{Pod, Zeroable};

/// Threads of a block, of all kernels but those of one block; values that one thread of a compaction looks at.
pub const BLOCK: u32 = 256;
/// Threads of kernels of one block.
pub const WIDE: u32 = 512;
/// Values that a block of a compaction looks at.
pub const SEGMENT: u32 = BLOCK * 8;
pub const MAX_AXES: usize = 5;
pub const MAX_PATTERNS: usize = 16;
pub const MAX_PASSES: usize = 32;
pub const N_INDICES: usize = 2048;
pub const BOOK_WORDS: usize = 64;
pub const SAMPLE_MAX: usize = 32768;
/// Lattices of up to this many values are done by one block.
pub const COARSE: usize = 8192;
/// Bytes in a block of the checksum, and of its sums.
pub const HASH_BLOCK: usize = 1024;
pub const HASH_SUM_BYTES: usize = 64;
/// Values in a block of the mean square error.
pub const SQUARE_BLOCK: u32 = 1024;

/// Ids of predictors, as in the archive; any.
pub mod predictor {
    pub const NONE: u32 = 0;
    pub const LORENZO: u32 = 1;
    pub const INTERP: u32 = 2;
    pub const FITTED: u32 = 3;
    pub const AUTO: u32 = 255;
}

/// How a bound is meant.
pub mod mode {
    pub const ABSOLUTE: u32 = 0;
    pub const RELATIVE: u32 = 1;
    pub const POINT_WISE: u32 = 2;
    pub const MEAN_SQUARE: u32 = 3;
}

/// Smallest and largest of the values that are not special, and how many those are.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Range {
    pub min: f64,
    pub max: f64,
    pub n: u64,
}

/// Bytes of a pass: only kernels look at them.
pub const PASS_BYTES: usize = 80;

/// A chunk of codes on its way to bytes or back.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Chunk {
    pub book: u32,
    pub four: u32,
    pub bits: [u32; 4],
    pub stream: [u32; 4],
    pub total: u32,
    pub start: u32,
}

/// What kernels find out about a tile.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct State {
    pub field: Range,
    pub tile: Range,
    pub absolute: f64,
    pub max_mse: f64,
    pub bound: f64,
    pub sum_squares: f64,
    pub n_squares: u64,
    pub base: f64,
    pub step: f64,
    pub inverse: f64,
    pub within: f64,
    pub offset: u64,
    pub used: u64,
    pub patterns: [u64; MAX_PATTERNS],
    pub left: u32,
    pub done: u32,
    pub keep_decoded: u32,
    pub near_fill: u32,
    pub n_special: u32,
    pub n_patterns: u32,
    pub n_runs: u32,
    pub n_signs: u32,
    pub n_outliers: u32,
    pub n_codes: u32,
    pub predictor: u32,
    pub axes: u32,
    pub active: u32,
    pub wrap: u32,
    pub n_levels: u32,
    pub n_passes: u32,
    pub n_coarse_passes: u32,
    pub n_anchors: u32,
    pub thresholds: [u32; 2],
    pub n_chunks: u32,
    pub n_books: u32,
    pub huffman_bytes: u32,
    pub error: u32,
    pub head_bytes: u32,
    pub tile_bytes: u32,
    pub as_it_is: u32,
    pub way: u32,
    pub coded_bytes: [u32; 3],
    pub padding: u32,
    pub runs_at: u64,
    pub signs_at: u64,
    pub outliers_at: u64,
    pub huffman_at: u64,
    pub levels: [u8; 32],
}

/// What the host is told of a tile in the end.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Outcome {
    pub at: u64,
    pub checksum: u64,
    pub bytes: u32,
    pub left: u32,
    pub field: Range,
}

/// Bands of rows with weights of their own; taps of a pass, rounded up.
pub const FIT_BANDS: usize = 8;
pub const FIT_TAPS: usize = 76;
/// Bytes of the built-in distributions, and of the tables of a context: only kernels look at them.
pub const FAMILY_BYTES: usize = 424_048;
pub const RANS_TABLE_BYTES: usize = 1280;
/// Bytes of what is known of a pass from samples, and of its weights as kernels use them.
pub const FITTING_BYTES: usize = 193_144;
pub const FIT_WEIGHTS_BYTES: usize = 5608;
/// Threads of a selection of taps: one a candidate.
pub const SELECTORS: u32 = 96;
/// Pairs of taps and the value at most.
pub const MAX_PAIRS: usize = 2850;
/// Bands of rows of a guess.
pub const GUESS_BANDS: usize = 8;
/// Rows of samples of a guess, and how many samples there are at most.
pub const FEATURE_ROWS: usize = 14;
pub const GUESS_SAMPLES: usize = 8192;
/// Samples whose products are taken at once.
pub const BATCH: usize = 256;
/// Bytes of the table of the places of phases in streams, and of counts of tokens in buckets and contexts.
pub const PLACES_BYTES: usize = 40 * 64 * 4;
pub const COUNTS_BYTES: usize = (162 + 36) * 64 * 4;
/// Bytes that a pass takes in the plan at most.
pub const PLAN_BYTES_A_PASS: usize = 2048;

/// What was fitted to a pass of the fitted predictor.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct FitPass {
    pub shift: u32,
    pub n_bands: u32,
    pub n: [u8; FIT_BANDS],
    pub tap: [[u8; FIT_TAPS]; FIT_BANDS],
    pub weight: [[i16; FIT_TAPS]; FIT_BANDS],
    pub guess: [i16; 16],
    /// All 0 if there are none.
    pub offsets: [i8; GUESS_BANDS],
}

/// What is known of a tile of the fitted predictor besides its passes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Fit {
    pub wrap: u32,
    pub n_distributions: u32,
    pub distributions: [u16; 36],
    pub contexts: [[u8; 4]; 41],
    pub thresholds: [u8; 32],
    pub n_thresholds: u32,
    pub plan_bytes: u32,
    pub code_bytes: u32,
    pub left: u32,
}

/// A stream of codes in contexts.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct FitStream {
    pub states: [u32; 32],
    pub n_codes: u32,
    pub n_words: u32,
    pub words_at: u32,
    pub n_read: u32,
    pub n_plain: u32,
    pub plain_at: u32,
    pub bit: u32,
    pub padding: u32,
}

/// Of a site: no image of the other chain.
pub const NO_IMAGE: u32 = u32::MAX;
/// Of a step: no pass of the other chain that is ahead.
pub const NO_SLOT: u32 = u32::MAX;

/// Which phase of which image a launch is about, and what images there are.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Site {
    pub beside: u64,
    pub kind_sides: u64,
    pub ny: u32,
    pub nx: u32,
    pub levels: u32,
    pub n_images: u32,
    pub n_fast: u32,
    pub n_before: u32,
    pub n_streams: u32,
    pub image: u32,
    pub other: u32,
    pub n_here: u32,
    pub level: u32,
    pub phase: u32,
}

/// What a launch of the fits is to do.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Step {
    pub pass: u32,
    pub all_passes: u32,
    pub slot: u32,
    pub first_slot: u32,
    pub n_had: u32,
    pub every: u32,
    pub n_bands: u32,
    pub most_bands: u32,
    pub most_taps: u32,
    pub guess_every: u32,
    pub guess_first: u32,
    pub guess_from: u32,
    pub guess_new: u32,
    pub keep: u32,
    pub base_only: u32,
    pub rounds: u32,
    pub is_first: u32,
    pub n_passes: u32,
    pub turn: u32,
    pub padding: u32,
    pub count: f64,
}

/// What stands beside an image of a tile that has forecasts.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct ImageBeside {
    pub slot: i32,
    pub kind: u32,
}

/// Bytes of a digest and of what forecasts were like, before what there are several of: 8 bytes each.
#[cfg(feature = "forecast")]
pub const DIGEST_BYTES: usize = 64;
#[cfg(feature = "forecast")]
pub const SEEN_BYTES: usize = 16;
/// Values in a block of a digest.
#[cfg(feature = "forecast")]
pub const DIGEST_BLOCK: usize = HASH_BLOCK / 8;

/// A forecast on its way to a side image, and what is decoded on its way to the model.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Forecast {
    pub values: u64,
    pub seen: u64,
    pub listed: u64,
    pub upper: u64,
    pub digest: u64,
    pub sums: u64,
    pub stats: u64,
    pub delta: f64,
    pub near: f64,
    pub slot: u32,
    pub level: u32,
    pub is_known: u32,
    pub step: u32,
    pub n_blocks: u32,
    pub n_words: u32,
}

/// What the host tells a kernel. Pointers are device pointers.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Args {
    pub values: u64,
    pub work: u64,
    pub state: u64,
    pub outcome: u64,
    pub ranges: u64,
    pub cursor: u64,
    pub out: u64,
    pub codes: u64,
    pub kept: u64,
    pub decoded: u64,
    pub marks: u64,
    pub code_marks: u64,
    pub missed: u64,
    pub sums: u64,
    pub coded_lists: u64,
    pub coded_list_bytes: u64,
    pub finds: u64,
    pub squares: u64,
    pub samples: u64,
    pub passes: u64,
    pub chunks: u64,
    pub part_counts: u64,
    pub set_counts: u64,
    pub coders: u64,
    pub books: u64,
    pub lists: u64,
    pub coded: u64,
    pub hash_sums: u64,
    pub fill: u64,
    pub capacity: u64,
    pub list_capacity: u64,
    pub bound: f64,
    pub relative: f64,
    pub tile_values: u64,
    pub run_values: u64,
    pub tiles_in_run: u32,
    pub n_tiles: u32,
    pub n: u32,
    pub n_axes: u32,
    pub shape: [u32; MAX_AXES],
    pub has_fill: u32,
    pub mode: u32,
    pub asked: u32,
    pub is_f64: u32,
    pub verify: u32,
    pub scan_blocks: u32,
    pub n_parts: u32,
    pub level_or_pass: u32,
    pub count: u32,
    pub n_sets: u32,
    pub may_be_as_it_is: u32,
    pub fit: u64,
    pub fit_passes: u64,
    pub fit_weights: u64,
    pub fit_streams: u64,
    pub family: u64,
    pub tables: u64,
    pub sizes: u64,
    pub buckets: u64,
    pub fittings: u64,
    pub products: u64,
    pub products_there: u64,
    pub features: u64,
    pub places: u64,
    pub counts: u64,
    pub words: u64,
    pub plain: u64,
    pub plan: u64,
    pub row_ends: u64,
    pub cheapest: u64,
    pub site: Site,
    pub step: Step,
    pub forecast: Forecast,
}

// SAFETY: plain numbers in C layout without padding (Pod), as the kernels' parameter has them.
unsafe impl cudarc::driver::DeviceRepr for Args {}

// The kernels have the same numbers.
const _: () = assert!(size_of::<FitPass>() == 1880 && size_of::<Fit>() == 292 && size_of::<FitStream>() == 160);
const _: () = assert!(size_of::<Step>() == 88 && size_of::<Site>() == 64 && size_of::<Forecast>() == 96);
const _: () = assert!(size_of::<Args>() == 760 && size_of::<State>() == 456);
const _: () =
    assert!(PASS_BYTES == 80 && size_of::<Chunk>() == 48 && size_of::<Range>() == 24 && size_of::<Outcome>() == 48);
