// The range of the values that are not special, by blocks. Twin: compress::statistics, quantize::cpu::scan.
//
// One launch for all tiles: grid (scan_blocks, tiles). Reads each value once, writes 24 bytes a block.
#include "common/block.cuh"
#include "common/number.cuh"
#include "common/state.cuh"

template <class T> __device__ void put_range(const T* values, u32 n, u32 has_fill, typename Number<T>::Bits fill, bool without_zeros, u32 block, u32 n_blocks, Range* out) {
  double low = infinity(), high = -infinity();
  u32 ordinary = 0;
  for (u32 i = block * BLOCK + threadIdx.x; i < n; i += n_blocks * BLOCK) {
    T v = values[i];
    if (is_special<T>(v, has_fill, fill) || (without_zeros && v == (T)0)) continue;
    low = v < low ? (double)v : low;
    high = v > high ? (double)v : high;
    ++ordinary;
  }
  low = block_reduce(low, infinity(), Smaller());
  high = block_reduce(high, -infinity(), Larger());
  ordinary = block_reduce(ordinary, 0u, Add());
  if (threadIdx.x == 0) {
    out->min = low;
    out->max = high;
    out->n = ordinary;
  }
}

template <class T> __device__ void range_of_tiles(const Args& a) {
  u32 tile = blockIdx.y, run = tile / a.tiles_in_run, k = tile % a.tiles_in_run;
  u64 start = run * a.run_values + k * a.tile_values;
  u64 left = a.run_values - k * a.tile_values;
  u32 n = (u32)(left < a.tile_values ? left : a.tile_values);
  const T* values = (const T*)a.values + start;
  put_range<T>(values, n, a.has_fill, (typename Number<T>::Bits)a.fill, a.mode == POINT_WISE, blockIdx.x, gridDim.x, &a.ranges[(u64)tile * a.scan_blocks + blockIdx.x]);
}

extern "C" __global__ void __launch_bounds__(BLOCK) range_f32(const Args a) { range_of_tiles<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) range_f64(const Args a) { range_of_tiles<double>(a); }

// The same of the logarithms of one tile.
extern "C" __global__ void __launch_bounds__(BLOCK) range_of_logs(const Args a) {
  if (idle(a)) return;
  put_range<double>((const double*)a.work, a.n, 0, 0, false, blockIdx.x, gridDim.x, &a.ranges[blockIdx.x]);
}
