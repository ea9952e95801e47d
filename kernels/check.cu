// What has to be looked at after quantizing: special values of too many patterns, decoded values that would pass for the fill value, the mean
// square error. Twins: compress::Tile::keep_off_fill and ::mean_square, src/quantize/square.rs. And the lists that a decoder puts in place.
#include "common/block.cuh"
#include "common/number.cuh"
#include "common/state.cuh"

// Marks values that must be stored one by one besides those that codes miss.
template <class T> __device__ void set_apart(const Args& a) {
  State* s = a.state;
  if (settled(a) || (!s->near_fill && s->n_patterns < MAX_PATTERNS)) return;
  typename Number<T>::Bits fill = (typename Number<T>::Bits)a.fill;
  u32 i = blockIdx.x * BLOCK + threadIdx.x;
  bool missed = false;
  if (i < a.n) {
    T x = ((const T*)a.values)[i];
    if (is_special<T>(x, a.has_fill, fill)) {
      missed = s->n_runs == 0 || a.marks[i] == 0;
    } else if (s->near_fill) {
      T y = ((const T*)a.decoded)[i];
      missed = Number<T>::bits(x) != Number<T>::bits(y) && is_special<T>(y, a.has_fill, fill);
    }
  }
  u32 word = __ballot_sync(ALL_LANES, missed);
  if ((threadIdx.x & 31) == 0 && word != 0) a.missed[i >> 5] |= word;  // one warp, one word
}
extern "C" __global__ void __launch_bounds__(BLOCK) set_apart_f32(const Args a) { set_apart<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) set_apart_f64(const Args a) { set_apart<double>(a); }

// Sums in a fixed order: of 1024 numbers, lane l of 256 adds numbers l, l + 256, l + 512, l + 768, then lanes are halved; the sums of
// blocks the same way, until one is left.
#define SQUARE_LANES 256
#define SQUARE_BLOCK 1024

__device__ double sum_of_lanes(double* lanes) {
  __syncthreads();  // the lanes are there
  for (u32 half = SQUARE_LANES / 2; half > 0; half >>= 1) {
    for (u32 l = threadIdx.x; l < half; l += blockDim.x) lanes[l] = add(lanes[l], lanes[l + half]);
    __syncthreads();  // half as many are left
  }
  return lanes[0];
}

template <class T> __device__ void squares(const Args& a) {
  if (settled(a)) return;
  __shared__ double lanes[SQUARE_LANES];
  typename Number<T>::Bits fill = (typename Number<T>::Bits)a.fill;
  u32 start = blockIdx.x * SQUARE_BLOCK, n = 0;
  for (u32 l = threadIdx.x; l < SQUARE_LANES; l += blockDim.x) {
    double sum = 0.0;
    for (u32 i = start + l; i < a.n && i < start + SQUARE_BLOCK; i += SQUARE_LANES) {
      T x = ((const T*)a.values)[i], y = a.missed[i >> 5] >> (i & 31) & 1 ? x : ((const T*)a.decoded)[i];
      if (is_special<T>(x, a.has_fill, fill) || is_special<T>(y, a.has_fill, fill)) continue;
      double d = sub((double)y, (double)x);
      sum = add(sum, mul(d, d));
      ++n;
    }
    lanes[l] = sum;
  }
  double sum = sum_of_lanes(lanes);
  n = block_reduce(n, 0u, Add());
  if (threadIdx.x == 0) {
    a.squares[blockIdx.x] = sum;
    a.sums[blockIdx.x] = n;
  }
}
extern "C" __global__ void __launch_bounds__(BLOCK) squares_f32(const Args a) { squares<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) squares_f64(const Args a) { squares<double>(a); }

// The sum of the `count` sums of blocks. One block.
extern "C" __global__ void __launch_bounds__(BLOCK) squares_sum(const Args a) {
  if (settled(a)) return;
  __shared__ double lanes[SQUARE_LANES];
  u64 pairs = 0;
  for (u32 i = threadIdx.x; i < a.count; i += BLOCK) pairs += a.sums[i];
  pairs = block_reduce(pairs, (u64)0, Add());
  double *from = a.squares, *to = a.squares + a.count;
  u32 n = a.count;
  while (n > 1) {
    u32 n_blocks = (n + SQUARE_BLOCK - 1) / SQUARE_BLOCK;
    for (u32 block = 0; block < n_blocks; ++block) {
      u32 start = block * SQUARE_BLOCK;
      for (u32 l = threadIdx.x; l < SQUARE_LANES; l += BLOCK) {
        double sum = 0.0;
        for (u32 i = start + l; i < n && i < start + SQUARE_BLOCK; i += SQUARE_LANES) sum = add(sum, from[i]);
        lanes[l] = sum;
      }
      double sum = sum_of_lanes(lanes);
      if (threadIdx.x == 0) to[block] = sum;
      __syncthreads();  // the lanes may be used again
    }
    double* swap = from;
    from = to;
    to = swap;
    n = n_blocks;
  }
  if (threadIdx.x == 0) {
    a.state->sum_squares = from[0];
    a.state->n_squares = pairs;
  }
}

// Decoding. Runs of special values: `lists` has `count` starts, then ends, then pattern indices; a warp a run. Puts marks (`level_or_pass` 0) or
// the patterns themselves, into `out` (1).
template <class T> __device__ void put_runs(const Args& a) {
  u32 run = (blockIdx.x * BLOCK + threadIdx.x) >> 5;
  if (run >= a.count) return;
  u32 end = a.lists[a.count + run], pattern = a.lists[2 * a.count + run];
  for (u32 i = a.lists[run] + (threadIdx.x & 31); i < end; i += 32) {
    if (a.level_or_pass == 0) a.marks[i] = 1;
    else ((T*)a.out)[i] = Number<T>::from_bits(a.state->patterns[pattern]);
  }
}
extern "C" __global__ void __launch_bounds__(BLOCK) runs_put_f32(const Args a) { put_runs<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) runs_put_f64(const Args a) { put_runs<double>(a); }

// Values stored one by one: `lists` has `count` positions, then their bits (two words each for f64).
template <class T> __device__ void put_outliers(const Args& a) {
  u32 k = blockIdx.x * BLOCK + threadIdx.x;
  if (k >= a.count) return;
  const u32* words = a.lists + a.count + k * (sizeof(T) / 4);
  u64 bits = words[0];
  if (sizeof(T) == 8) bits |= (u64)words[1] << 32;
  ((T*)a.out)[a.lists[k]] = Number<T>::from_bits(bits);
}
extern "C" __global__ void __launch_bounds__(BLOCK) outliers_put_f32(const Args a) { put_outliers<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) outliers_put_f64(const Args a) { put_outliers<double>(a); }
