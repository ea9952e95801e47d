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

enum Predictor { NONE = 0, LORENZO = 1, INTERP = 2, AUTO = 255 };
enum Mode { ABSOLUTE = 0, RELATIVE = 1, POINT_WISE = 2, MEAN_SQUARE = 3 };
// Why a tile is left to the CPU.
enum Left { NOT_LEFT = 0, NOT_USABLE = 1, NO_ROOM = 2, MISSED_MEAN_SQUARE = 3 };

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
  u32 may_be_as_it_is;     // values may be stored as they are, where codes have more bytes
};

// The host has the same numbers: src/device/layout.rs.
static_assert(sizeof(Args) == 344 && sizeof(State) == 440 && sizeof(Pass) == 80 && sizeof(Chunk) == 48 && sizeof(Range) == 24 && sizeof(Outcome) == 48, "as in src/device/layout.rs");

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
