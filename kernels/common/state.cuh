// What the host tells the kernels (Args, by value with each launch) and what the kernels tell each other and, at the end, the host
// (State, in device memory). Twin of src/device/layout.rs, which asserts the same sizes.
//
// The host never waits to learn what a tile is like: it launches the same kernels for every tile of a shape, and each looks at the
// state to see whether there is something to do.
#pragma once
#include "common.cuh"

#define MAX_AXES 5
#define MAX_LEVELS 26
#define MAX_PASSES 32
#define MAX_PATTERNS 16
// Codes in a chunk and its parts, tokens: src/encode/huffman.
#define CHUNK 65536u
#define N_CONTEXTS 4
#define N_TOKENS 268
#define N_RUN_TOKENS 40
#define CONTEXT_SIZE 512
#define N_INDICES (N_CONTEXTS * CONTEXT_SIZE)
#define MAX_BITS 12
// Words that one book takes at most: 11 bits, and 7 bits a token.
#define BOOK_WORDS 64
// Values in a sample of the choice of a predictor: src/predict/choose.rs.
#define SAMPLE_MAX 32768
// Lattices of up to this many values are done by one block in one launch.
#define COARSE 8192
// A section of the archive that holds a tile: src/container/section.rs.
#define TILE_SECTION 3
// Where a tile whose values are stored as they are starts in its part of the output.
#define AS_IT_IS_AT 8

enum Predictor { NONE = 0, LORENZO = 1, INTERP = 2, FITTED = 3, AUTO = 255 };
enum Mode { ABSOLUTE = 0, RELATIVE = 1, POINT_WISE = 2, MEAN_SQUARE = 3 };
// Why a tile is left to the CPU.
enum Left { NOT_LEFT = 0, NOT_USABLE = 1, NO_ROOM = 2, MISSED_MEAN_SQUARE = 3, NOT_WANTED = 4 };

// Smallest and largest of the values that are not special, and how many those are.
struct Range {
  double min, max;
  u64 n;
};

// The refinement of one axis at one level: src/predict/interp/lattice.rs. Lengths are in values, strides in raster positions.
struct Pass {
  u32 level, axis, order, wrap;
  u32 n_axes, n_before, n_odd, n_codes;
  u32 first_code;  // place of its first code in coding order
  u32 len[MAX_AXES];
  u32 stride[MAX_AXES];
  u32 padding;
};

// A chunk of codes on its way to bytes.
struct Chunk {
  u32 book;            // set of books
  u32 four;            // whether its parts are streams of their own
  u32 bits[4];         // of its parts
  u32 stream[4];       // bytes of its streams
  u32 total;           // bytes of all
  u32 start;           // place in the coded section
};

struct State {
  Range field, tile;       // statistics of the field, and of the tile's values or logarithms
  double absolute;         // bound as resolved
  double max_mse;
  double bound;            // bound of the attempt under way
  double sum_squares;
  u64 n_squares;
  double base, step, inverse, within;
  u64 offset;              // of the tile in the output
  u64 used;                // bytes of the lists so far; then of the output
  u64 patterns[MAX_PATTERNS];
  u32 left;                // Left
  u32 done;                // an attempt at a mean square error has come out well: what is there stays
  u32 keep_decoded, near_fill;
  u32 n_special, n_patterns, n_runs, n_signs, n_outliers, n_codes;
  u32 predictor, axes;     // Predictor; axes of Lorenzo
  u32 active, wrap, n_levels, n_passes, n_coarse_passes, n_anchors;
  u32 thresholds[2];
  u32 n_chunks, n_books;
  u32 huffman_bytes;
  u32 error;               // decoding: not 0 if the codes are damaged
  u32 head_bytes;          // what stands before the codes in the tile
  u32 tile_bytes;          // all of it
  u32 as_it_is;            // the values are stored as they are
  u32 way;                 // what the runs of special values are: 0 these, else where marks differ from those before (special.cu)
  u32 coded_bytes[3];      // of the lists of runs, signs, outliers as the archive has them; ALL_LANES where there was no room
  u32 padding;
  u64 runs_at, signs_at, outliers_at;  // offsets of the lists
  u64 huffman_at;          // of the codes from `offset`
  u8 levels[32];           // order | permutation << 2, the coarsest first
};

// What the host is told of a tile in the end.
struct Outcome {
  u64 at;                  // of the tile in the output
  u64 checksum;            // of its section
  u32 bytes;
  u32 left;
  Range field;             // statistics of the field
};

// Bands of rows with weights of their own; taps of a pass, rounded up: src/predict/fitted.
#define FIT_BANDS 8
#define FIT_TAPS 76
// Bands of rows of a guess, each with an offset of its buckets.
#define GUESS_BANDS 8

// The built-in distributions of the coder in contexts: src/encode/rans/family.rs.
#define TAIL_POINTS (1 + 36 * 16)
struct Family {
  double z[TAIL_POINTS];
  double tail[13][TAIL_POINTS];
  u16 frequencies[13 * 108][64];
  u16 costs[13 * 108][64];
};
struct RansTable;

// What was fitted to a pass of the fitted predictor, as the archive has it.
struct FitPass {
  u32 shift, n_bands;
  u8 n[FIT_BANDS];                    // taps of each band,
  u8 tap[FIT_BANDS][FIT_TAPS];        // ascending
  short weight[FIT_BANDS][FIT_TAPS];  // in 1 / 2^shift
  short guess[16];                    // weights of the features, the constant last
  signed char offsets[GUESS_BANDS];   // of buckets; all 0 if there are none
};

// The same as it is used: with near taps and their shares, weights rounded to the type.
struct FitWeights {
  double weight[FIT_BANDS][FIT_TAPS];
  u32 n_bands;
  u32 n[FIT_BANDS];
  i32 guess[16], offsets[GUESS_BANDS];
  u8 tap[FIT_BANDS][FIT_TAPS];
  u32 padding;
};

// Pairs of taps and the value, of 74 taps at most: 20 of the image itself, 9 of each of six side images.
#define MAX_PAIRS 2850

// What solves a group of bands: taps in the order in which they were selected.
struct Solution {
  double weight[FIT_TAPS];
  double bits;
  u32 n;
  u32 padding;
  u8 tap[FIT_TAPS];
};

// What is known of a pass from samples.
struct Fitting {
  double g[FIT_BANDS][MAX_PAIRS];  // normal equations of bands of rows: lower triangle row by row, of all taps and the value
  double n[FIT_BANDS];             // values in them
  double share;                    // how many values there are for each one sampled
  double count;                    // values of the pass in the tile
  Solution solutions[15];          // of one, two, four, eight groups of bands
  u32 n_bands, n_taps, n_candidates, n_features, n_guess;
  u32 cut_after;                   // images of its chain after which candidates were left out; 0: none were
  u8 candidates[FIT_TAPS];
};

// Of several runs the plan of the cheapest.
struct CheapestRun {
  u64 cost;                // in 1/1024 bits
  FitPass passes[1];       // as many as there are
};

// What is known of a tile of the fitted predictor besides its passes.
struct Fit {
  u32 wrap;
  u32 n_distributions;     // of contexts, those of the base lattice last
  u16 distributions[36];
  u8 contexts[164];        // of buckets
  u8 thresholds[32];       // first buckets of contexts 1, 2, ...
  u32 n_thresholds;
  u32 plan_bytes;          // of the plan as the archive has it, without its length
  u32 code_bytes, left;    // what came of the tile: bytes of its streams, and Left
};

// A stream of codes in contexts.
struct FitStream {
  u32 states[32];
  u32 n_codes;             // so far
  u32 n_words, words_at;   // words of 16 bits, and where they are in the coded section, in bytes
  u32 n_read;              // words so far
  u32 n_plain, plain_at;   // bytes of plain bits, and where they are
  u32 bit;                 // plain bits so far
  u32 padding;
};

// What stands beside an image of a tile that has forecasts: the place of its own among all forecasts, -1 if it has none; its kind.
struct ImageBeside {
  i32 slot;
  u32 kind;
};

#define NO_IMAGE 0xffffffffu
#define NO_SLOT 0xffffffffu

// Which phase of which image a launch is about, and what images there are.
struct Site {
  const ImageBeside* beside;  // of the images, where some have forecasts; else null
  const u32* kind_sides;      // number of side images of each kind, then
  u32 ny, nx, levels;
  u32 n_images, n_fast;    // images; of those that follow each other on the fastest leading axis
  u32 n_before;            // steps before the one that is coded first
  u32 n_streams;
  u32 image, other;        // of the launch, in coding order: the first, and that of the other chain or NO_IMAGE
  u32 n_here;              // how many, one after the other, of each
  u32 level, phase;
};

// What a launch of the fits is to do.
struct Step {
  u32 pass, all_passes;
  u32 slot;                                             // of the pass in `fittings`; where those of all passes begin
  u32 first_slot, n_had;                                // of the other chain's pass, if that is ahead, else NO_SLOT; images of the chain so far
  u32 every, n_bands, most_bands, most_taps;
  u32 guess_every, guess_first, guess_from, guess_new;  // samples of the guess: of pieces from `first` on every so many
  u32 keep;                                             // codes count
  u32 base_only;
  u32 rounds;                                           // how often the tile was sampled
  u32 is_first;                                         // of several runs
  u32 n_passes;
  u32 turn;                                             // where samples of the image come from
  u32 padding;
  double count;
};

// Digest of the rounded forecasts of a tile so far: forecast.cu.
struct Digest {
  u64 sums[8];             // of whole blocks; the hash after each step follows
};

// What forecasts were like.
struct Seen {
  double error;            // sum of the squared errors of `n` values
  u64 n;                   // the largest spread of each level follows
};

// A forecast on its way to a side image, and what is decoded on its way to the model.
struct Forecast {
  const float* values;     // of an image, as the model gave them
  float* seen;             // of a step, as the model takes them
  u32* listed;             // bitmaps of the tile: where a forecast is near the middle of two multiples, and took the upper one
  u32* upper;
  Digest* digest;
  u64* sums;               // of blocks of the digest: [blocks][8]
  Seen* stats;
  double delta, near;      // forecasts are multiples of `delta`, as they are if it is 0; what is `near` is listed
  u32 slot, level;         // which forecast of the tile
  u32 is_known;            // the bitmaps say what was done
  u32 step;                // with forecasts: its digest's place
  u32 n_blocks, n_words;   // of the digest before the step; values after it
};

struct Args {
  const void* values;      // of the tile; of the whole field for `scan`
  const void* work;        // what is predicted: the values, or their logarithms
  State* state;
  Outcome* outcome;        // of the tile
  Range* ranges;           // [tiles][scan_blocks]
  u64* cursor;             // bytes of the output that are taken
  u8* out;
  i32* codes;              // in coding order
  i32* kept;               // codes without those of values in runs
  void* decoded;           // as `work`, raster order
  u8* marks;               // values in runs, raster order
  u8* code_marks;          // the same in coding order
  u32* missed;             // bitmap of values stored one by one, raster order
  u32* sums;               // of blocks, for compactions
  u8* coded_lists;         // runs, signs, outliers as the archive has them, `coded_list_bytes` apart
  u64 coded_list_bytes;
  u64* finds;              // [blocks][1 + MAX_PATTERNS]: special values of a block and their patterns
  double* squares;         // sums of squares of blocks, twice
  void* samples;           // 8 rooms of SAMPLE_MAX
  Pass* passes;
  Chunk* chunks;
  u16* part_counts;        // [parts][N_INDICES]
  u32* set_counts;         // [sets][N_INDICES]
  u32* coders;             // [sets][N_INDICES]
  u32* books;              // [sets * 4][1 + BOOK_WORDS]
  u32* lists;              // runs, signs, outliers: encoding, behind each other; decoding, as the kernel says
  const u8* coded;         // decoding: the coded section
  u64* hash_sums;          // [blocks of 1024 bytes][8]
  u64 fill;                // bits
  u64 capacity;            // bytes of the output for this tile
  u64 list_capacity;       // bytes of `lists`
  double bound;            // absolute; relative to the range; of logarithms; 10^(dB / 20)
  double relative;         // POINT_WISE; MEAN_SQUARE: largest mean square, where `bound` is the absolute one already
  u64 tile_values;         // `scan`: values of a whole tile, of a run of tiles
  u64 run_values;
  u32 tiles_in_run, n_tiles;
  u32 n;                   // values of the tile
  u32 n_axes;
  u32 shape[MAX_AXES];
  u32 has_fill;
  u32 mode, asked, is_f64, verify;
  u32 scan_blocks;         // of a tile
  u32 n_parts;             // parts of all chunks there may be
  u32 level_or_pass;       // which of several launches of the same kernel
  u32 count;               // entries of `lists`, elements of a scan, as the kernel says
  u32 n_sets;              // decoding
  u32 may_be_as_it_is;     // effort fast: values may be stored as they are, where codes have more bytes, and the host never looks again (Config::looks_again)
  Fit* fit;
  FitPass* fit_passes;
  FitWeights* fit_weights;
  FitStream* fit_streams;
  Family* family;
  RansTable* tables;       // of contexts
  u8* sizes;               // of codes, raster order
  u8* buckets;             // of codes, stream after stream
  Fitting* fittings;       // of passes
  float* products;         // [batches][MAX_PAIRS]
  u32* products_there;     // samples in each batch that are values
  u16* features;           // [passes][FEATURE_ROWS][GUESS_SAMPLES]
  u32* places;             // where phases are in streams
  u32* counts;             // of tokens in buckets, then in contexts
  u16* words;              // of streams, at their end
  u32* plain;              // bits of streams
  u8* plan;
  u32* row_ends;           // [rows][2]: first value of a row that is a number, and one behind the last
  CheapestRun* cheapest;
  Site site;
  Step step;
  Forecast forecast;
};

// The host has the same numbers: src/device/layout.rs.
static_assert(sizeof(Args) == 760 && sizeof(State) == 456 && sizeof(Pass) == 80 && sizeof(Chunk) == 48 && sizeof(Range) == 24 && sizeof(Outcome) == 48, "as in src/device/layout.rs");

static_assert(sizeof(FitPass) == 1880 && sizeof(FitWeights) == 5608 && sizeof(Fit) == 292 && sizeof(FitStream) == 160 && sizeof(Site) == 64 && sizeof(Step) == 88 && sizeof(Forecast) == 96, "as there");
static_assert(sizeof(Fitting) == 193144, "as there");

// Nothing more is done for this tile.
__device__ __forceinline__ bool idle(const Args& a) { return a.state->left != NOT_LEFT; }
// Values are stored as they are: no codes are written.
__device__ __forceinline__ void store_as_it_is(const Args& a) {
  u64 bytes = 2 + (u64)a.n * (a.is_f64 ? 8 : 4);
  a.state->as_it_is = 1;
  a.state->tile_bytes = (u32)bytes;
  a.state->used = (AS_IT_IS_AT + bytes + 8 + 7) / 8 * 8;
}
// No further attempt is made.
__device__ __forceinline__ bool settled(const Args& a) { return a.state->left != NOT_LEFT || a.state->done != 0; }

// Runs say where special values are (way 0), or where the marks differ from those of the image before (way 1) or of the step before (way 2):
// how far before that is; 0 if there is no such, or there are several patterns.
__device__ __forceinline__ u32 distance(const Args& a, u32 way) {
  if (way == 0 || a.n_axes < 3 || a.state->n_patterns != 1) return 0;
  u32 image = a.shape[a.n_axes - 1] * a.shape[a.n_axes - 2], step = a.n / a.shape[0];
  return way == 1 ? image : step > image ? step : 0;
}
