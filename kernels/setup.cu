// From statistics to bound and quantizer. Twin: Bound::resolve, Quantizer::new, compress::Tile::encode and ::mean_square.
//
// One block; thread 0 does the arithmetic, which is IEEE in f64 and so the CPU's.
#include "common/block.cuh"
#include "common/number.cuh"
#include "common/state.cuh"

__device__ Range merge_ranges(const Range* ranges, u32 n) {
  double low = infinity(), high = -infinity();
  u64 count = 0;
  for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
    low = ranges[i].min < low ? ranges[i].min : low;
    high = ranges[i].max > high ? ranges[i].max : high;
    count += ranges[i].n;
  }
  Range r;
  r.min = block_reduce(low, infinity(), Smaller());
  r.max = block_reduce(high, -infinity(), Larger());
  r.n = block_reduce(count, (u64)0, Add());
  return r;
}

// Whether an absolute bound can be represented in the field's type.
__device__ bool representable(double v, u32 is_f64) {
  if (is_f64) return v > 0.0 && is_finite(v);
  float f = __double2float_rn(v);
  return f > 0.0f && is_finite(f);
}

template <class T> __device__ void set_quantizer(State* s, double bound) {
  double middle = s->tile.n == 0 ? 0.0 : add(s->tile.min / 2.0, s->tile.max / 2.0);
  double low = magnitude(s->tile.min), high = magnitude(s->tile.max);
  double largest = s->tile.n == 0 ? 0.0 : (low > high ? low : high);
  double rounding = mul(largest, mul(0.75, Number<T>::epsilon()));
  double half = rounding < mul(0.25, bound) ? sub(bound, rounding) : bound;
  T step = Number<T>::from_f64(mul(2.0, half));
  T within = Number<T>::from_f64(bound);
  if ((double)within > bound) within = Number<T>::from_bits(Number<T>::bits(within) - 1);
  T inverse = Number<T>::from_f64(__ddiv_rn(1.0, (double)step));
  s->bound = bound;
  s->base = (double)Number<T>::from_f64(middle);
  s->step = (double)step;
  s->inverse = (double)inverse;
  s->within = (double)within;
  bool usable = is_finite(step) && step > (T)0 && is_finite(inverse) && inverse > (T)0;
  if (!usable) s->left = NOT_USABLE;
}

// What the codes of a tile start from; `bound` is that of the attempt.
template <class T> __device__ void start_attempt(const Args& a, double bound) {
  State* s = a.state;
  set_quantizer<T>(s, bound);
  double fill = (double)Number<T>::from_bits(a.fill);
  s->near_fill = a.mode != POINT_WISE && a.has_fill && sub(s->tile.min, bound) <= fill && fill <= add(s->tile.max, bound);
  s->keep_decoded = s->near_fill || a.mode == POINT_WISE || a.mode == MEAN_SQUARE;
  s->n_outliers = 0;
}

// The first kernel of a tile. POINT_WISE tiles go on with `setup_logs`.
template <class T> __device__ void setup_tile(const Args& a, u32 tile) {
  Range of_tile = merge_ranges(a.ranges + (u64)tile * a.scan_blocks, a.scan_blocks);
  Range of_field = of_tile;
  if (a.mode == RELATIVE || a.mode == MEAN_SQUARE) of_field = merge_ranges(a.ranges, a.scan_blocks * a.n_tiles);
  if (threadIdx.x != 0) return;
  State* s = a.state;
  s->field = of_field;
  s->tile = of_tile;
  s->left = NOT_LEFT;
  s->done = 0;
  s->error = 0;
  s->n_special = a.n - (u32)of_tile.n;
  s->n_patterns = s->n_runs = s->n_signs = s->n_outliers = 0;
  s->n_codes = a.n;
  s->predictor = NONE;
  s->n_levels = s->n_passes = s->n_coarse_passes = s->n_anchors = 0;
  s->axes = s->active = s->wrap = 0;
  s->offset = *a.cursor;
  s->used = 0;
  s->n_chunks = s->n_books = s->huffman_bytes = 0;
  s->head_bytes = s->tile_bytes = s->as_it_is = 0;
  s->way = s->coded_bytes[0] = s->coded_bytes[1] = s->coded_bytes[2] = 0;
  s->runs_at = s->signs_at = s->outliers_at = s->huffman_at = 0;
  s->max_mse = s->sum_squares = 0.0;
  s->n_squares = 0;
  s->near_fill = s->keep_decoded = 0;
  for (u32 i = 0; i < MAX_PATTERNS; ++i) s->patterns[i] = 0;
  for (u32 i = 0; i < sizeof s->levels; ++i) s->levels[i] = 0;
  double range = of_field.n == 0 ? 0.0 : sub(of_field.max, of_field.min);
  double absolute = a.bound;
  bool exact = false;
  if (a.mode == RELATIVE) absolute = mul(a.bound, range);
  if (a.mode == MEAN_SQUARE && a.relative > 0.0) {
    s->max_mse = a.relative;  // resolved by the host
  } else if (a.mode == MEAN_SQUARE) {
    double rmse = __ddiv_rn(range, a.bound);
    s->max_mse = mul(rmse, rmse);
    absolute = __dsqrt_rn(mul(3.0, s->max_mse));
    exact = !(s->max_mse > 0.0) || !is_finite(range);
  }
  if (a.mode == RELATIVE || a.mode == MEAN_SQUARE) exact = exact || !representable(absolute, a.is_f64);
  s->absolute = absolute;
  s->bound = s->base = s->step = s->inverse = s->within = 0.0;
  if (exact) s->left = NOT_USABLE;
  else if (a.mode != POINT_WISE) start_attempt<T>(a, absolute);
}

extern "C" __global__ void __launch_bounds__(BLOCK) setup_f32(const Args a) { setup_tile<float>(a, a.level_or_pass); }
extern "C" __global__ void __launch_bounds__(BLOCK) setup_f64(const Args a) { setup_tile<double>(a, a.level_or_pass); }

// POINT_WISE: quantizer of the logarithms. Reads what `range_of_logs` wrote.
extern "C" __global__ void __launch_bounds__(BLOCK) setup_logs(const Args a) {
  if (idle(a)) return;
  Range r = merge_ranges(a.ranges, a.scan_blocks);
  if (threadIdx.x != 0) return;
  a.state->tile = r;
  start_attempt<double>(a, a.bound);
}

// MEAN_SQUARE: was the attempt good enough? If not, the next has a narrower bound; after the last the tile is left.
template <class T> __device__ void judge(const Args& a) {
  State* s = a.state;
  if (threadIdx.x != 0 || settled(a)) return;  // the others must not look at what this one writes
  double mse = s->n_squares == 0 ? 0.0 : __ddiv_rn(s->sum_squares, (double)s->n_squares);
  if (mse <= s->max_mse) s->done = 1;
  else if (a.level_or_pass != 0) s->left = MISSED_MEAN_SQUARE;
  else start_attempt<T>(a, mul(s->bound, mul(0.98, __dsqrt_rn(__ddiv_rn(s->max_mse, mse)))));
}
extern "C" __global__ void __launch_bounds__(BLOCK) judge_f32(const Args a) { judge<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) judge_f64(const Args a) { judge<double>(a); }

// A tile that was coded with the fitted predictor is coded in the other way too only where that may be smaller. Twin: compress::is_small.
// `count` images.
extern "C" __global__ void __launch_bounds__(32) setup_other(const Args a) {
  if (threadIdx.x != 0 || idle(a)) return;
  const u32 LITTLE = 1u << 17;
  u64 codes = a.fit->code_bytes, plan = a.fit->plan_bytes;
  plan += plan < 1u << 7 ? 1 : plan < 1u << 14 ? 2 : 3;  // with its length, which is below 2^21
  bool is_small = a.n < LITTLE || (a.n < 2 * LITTLE && codes * 2 > a.n) || (codes * 32 < a.n && a.count > 1) || plan * 4 > codes;
  if (a.fit->left != NOT_LEFT || !is_small) a.state->left = NOT_WANTED;
}
