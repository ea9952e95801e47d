// Forecasts that a model left in device memory, on their way to side images of the fitted predictor; their digest; what is decoded on its way back
// to the model. Twins: src/forecast/agreement.rs, src/forecast/series/member.rs (Seen).
//
// Forecasts lie behind the decoded images of a tile, in its order and without gaps, so that a tap of theirs is a distance like others. A value is
// read once and written once as it is rounded (4 + 4 bytes of f32, and two bits where models differ between machines), and read once more for the
// digest.
#include "common/block.cuh"
#include "common/number.cuh"
#include "common/state.cuh"
#include "common/xxh3.cuh"

// The forecasts of a tile, rounded.
template <class T> __device__ __forceinline__ T* forecasts(const Args& a) { return (T*)a.decoded + a.n; }

// Rounds the forecast of the image at work, to multiples of `delta` unless that is 0. Places near the middle of two are listed with the side that was
// taken, or looked up where they were listed by the encoder. A thread a value.
template <class T> __device__ void agree(const Args& a) {
  const Forecast& f = a.forecast;
  u32 n = a.site.ny * a.site.nx, i = blockIdx.x * BLOCK + threadIdx.x;
  if (i >= n) return;
  float value = f.values[i];
  T agreed = is_finite(value) ? (T)value : (T)0;
  if (f.delta > 0.0 && is_finite(value)) {
    u32 place = a.site.image * n + i, word = place >> 5, bit = 1u << (place & 31);
    double x = __ddiv_rn((double)value, f.delta), below = floor(x);
    bool is_upper = sub(x, below) > 0.5;
    if (f.is_known) {
      if (f.listed[word] & bit) {
        // The nearest middle, not the interval that it happens to be in.
        below = rint(sub(x, 0.5));
        is_upper = (f.upper[word] & bit) != 0;
      }
    } else if (!(magnitude(sub(x, add(below, 0.5))) > f.near)) {
      // Not the opposite: what can not be told apart is listed.
      atomicOr(&f.listed[word], bit);
      if (is_upper) atomicOr(&f.upper[word], bit);
    }
    agreed = Number<T>::from_f64(mul(add(below, is_upper ? 1.0 : 0.0), f.delta));
  }
  forecasts<T>(a)[f.slot * n + i] = agreed;
}
extern "C" __global__ void __launch_bounds__(BLOCK) forecast_agree_f32(const Args a) { agree<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) forecast_agree_f64(const Args a) { agree<double>(a); }

// The sum of what the threads of a block of WIDE have, in a fixed tree.
__device__ double sum_of_lanes(double v, double* lanes) {
  lanes[threadIdx.x] = v;
  __syncthreads();  // each lane's sum is there
  for (u32 half = WIDE / 2; half > 0; half >>= 1) {
    if (threadIdx.x < half) lanes[threadIdx.x] = add(lanes[threadIdx.x], lanes[threadIdx.x + half]);
    __syncthreads();  // half as many are left
  }
  v = lanes[0];
  __syncthreads();  // all have read it
  return v;
}

// Takes the spread of the forecast of the image at work, and its error at every 7th value. One block.
template <class T> __device__ void look(const Args& a) {
  __shared__ double lanes[WIDE];
  const Forecast& f = a.forecast;
  u32 n = a.site.ny * a.site.nx;
  const T* values = (const T*)a.values + (u64)a.site.image * n;
  double sum = 0.0;
  for (u32 i = threadIdx.x; i < n; i += WIDE) sum = add(sum, (double)f.values[i]);
  double mean = __ddiv_rn(sum_of_lanes(sum, lanes), (double)n), squares = 0.0, errors = 0.0;
  for (u32 i = threadIdx.x; i < n; i += WIDE) {
    double d = sub((double)f.values[i], mean);
    squares = add(squares, mul(d, d));
  }
  double spread = __dsqrt_rn(__ddiv_rn(sum_of_lanes(squares, lanes), (double)n));
  u32 n_there = 0;
  for (u32 i = 7 * threadIdx.x; i < n; i += 7 * WIDE) {
    double e = sub((double)values[i], (double)f.values[i]);
    if (!(magnitude(e) < 1e15)) continue;
    errors = add(errors, mul(e, e));
    ++n_there;
  }
  errors = sum_of_lanes(errors, lanes);
  n_there = block_reduce(n_there, 0u, Add());
  if (threadIdx.x != 0) return;
  f.stats->error = add(f.stats->error, errors);
  f.stats->n += n_there;
  double* largest = (double*)(f.stats + 1) + f.level;
  if (is_finite(spread) && spread > *largest) *largest = spread;
}
extern "C" __global__ void __launch_bounds__(WIDE) forecast_look_f32(const Args a) { look<float>(a); }
extern "C" __global__ void __launch_bounds__(WIDE) forecast_look_f64(const Args a) { look<double>(a); }

// The digest takes each value as 8 bytes: blocks are of 128 values, stripes of 8. It goes over all forecasts so far; images have more than the 240
// bytes below which the hash is another.
#define DIGEST_BLOCK 128u

// Sums of the blocks that the step makes whole, a warp a block: [blocks][8].
template <class T> __device__ void digest_sums(const Args& a) {
  const Forecast& f = a.forecast;
  u32 lane = threadIdx.x & 31, n_warps = gridDim.x * (BLOCK / 32), until = (f.n_words - 1) / DIGEST_BLOCK;
  for (u32 b = f.n_blocks + blockIdx.x * (BLOCK / 32) + (threadIdx.x >> 5); b < until; b += n_warps) {
    const T* block = forecasts<T>(a) + (u64)b * DIGEST_BLOCK;
    u64 own = 0, plain = 0;
    for (u32 stripe = lane >> 3; stripe < 16; stripe += 4) add_word((u64)Number<T>::bits(block[8 * stripe + (lane & 7)]), 8 * stripe, lane & 7, own, plain);
    own += __shfl_xor_sync(ALL_LANES, plain, 1);
    own += __shfl_xor_sync(ALL_LANES, own, 8);
    own += __shfl_xor_sync(ALL_LANES, own, 16);
    if (lane < 8) f.sums[(u64)(b - f.n_blocks) * 8 + lane] = own;
  }
}
extern "C" __global__ void __launch_bounds__(BLOCK) forecast_sums_f32(const Args a) { digest_sums<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) forecast_sums_f64(const Args a) { digest_sums<double>(a); }

// The digest after the step. One warp; its four groups of eight lanes all do the same.
template <class T> __device__ void digest(const Args& a) {
  const Forecast& f = a.forecast;
  u32 i = threadIdx.x & 7, until = (f.n_words - 1) / DIGEST_BLOCK;
  u64 sum = f.n_blocks == 0 ? START[i] : f.digest->sums[i], key = secret_at(128 + 8 * i);
  for (u32 b = f.n_blocks; b < until; ++b) sum = scrambled(sum + f.sums[(u64)(b - f.n_blocks) * 8 + i], key);
  __syncwarp();  // all have read the sums
  if (threadIdx.x < 8) f.digest->sums[i] = sum;
  const T* rest = forecasts<T>(a) + (u64)until * DIGEST_BLOCK;
  u32 n_left = f.n_words - until * DIGEST_BLOCK;
  u64 own = 0, plain = 0;
  for (u32 k = 0; k < (n_left - 1) / 8; ++k) add_word((u64)Number<T>::bits(rest[8 * k + i]), 8 * k, i, own, plain);
  add_word((u64)Number<T>::bits(forecasts<T>(a)[f.n_words - 8 + i]), 121, i, own, plain);
  u64 hash = hash_of_sums(sum + own + __shfl_xor_sync(ALL_LANES, plain, 1), i, (u64)f.n_words * 8);
  if (threadIdx.x == 0) ((u64*)(f.digest + 1))[f.step] = hash;
}
extern "C" __global__ void __launch_bounds__(32) forecast_digest_f32(const Args a) { digest<float>(a); }
extern "C" __global__ void __launch_bounds__(32) forecast_digest_f64(const Args a) { digest<double>(a); }

// What is decoded of `n_here` images, as the model takes it.
template <class T> __device__ void see(const Args& a) {
  u32 n = a.site.ny * a.site.nx, i = blockIdx.x * BLOCK + threadIdx.x;
  if (i < a.site.n_here * n) a.forecast.seen[i] = (float)((const T*)a.decoded)[a.site.image * n + i];
}
extern "C" __global__ void __launch_bounds__(BLOCK) forecast_see_f32(const Args a) { see<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) forecast_see_f64(const Args a) { see<double>(a); }
