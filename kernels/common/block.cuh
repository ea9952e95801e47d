// Sums, extremes and scans over the threads of a block. All threads of the block call; each ends behind a barrier, so that the
// shared words may be used again at once.
#pragma once
#include "common.cuh"

struct Add {
  template <class T> __device__ T operator()(T a, T b) const { return a + b; }
};
struct Larger {
  template <class T> __device__ T operator()(T a, T b) const { return a > b ? a : b; }
};
struct Smaller {
  template <class T> __device__ T operator()(T a, T b) const { return a < b ? a : b; }
};

// The reduction of `v` over the block, for every thread. Integers and extremes only: the order is not fixed.
template <class T, class Op> __device__ T block_reduce(T v, T neutral, Op op) {
  __shared__ T of_warp[33];
  u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = (blockDim.x + 31) >> 5;
  for (u32 d = 16; d > 0; d >>= 1) v = op(v, __shfl_xor_sync(ALL_LANES, v, (int)d));
  if (lane == 0) of_warp[warp] = v;
  __syncthreads();  // the warps' results are there
  if (warp == 0) {
    v = lane < n_warps ? of_warp[lane] : neutral;
    for (u32 d = 16; d > 0; d >>= 1) v = op(v, __shfl_xor_sync(ALL_LANES, v, (int)d));
    if (lane == 0) of_warp[32] = v;
  }
  __syncthreads();  // the block's result is there
  v = of_warp[32];
  __syncthreads();  // all have read it
  return v;
}

// Exclusive scan of `v` over the block's threads; `total` gets the reduction of all.
template <class T, class Op> __device__ T block_scan(T v, T neutral, Op op, T* total) {
  __shared__ T of_warp[33];
  u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = (blockDim.x + 31) >> 5;
  T inclusive = v;
  for (u32 d = 1; d < 32; d <<= 1) {
    T before = __shfl_up_sync(ALL_LANES, inclusive, d);
    if (lane >= d) inclusive = op(before, inclusive);
  }
  T exclusive = __shfl_up_sync(ALL_LANES, inclusive, 1);
  if (lane == 0) exclusive = neutral;
  if (lane == 31) of_warp[warp] = inclusive;
  __syncthreads();  // the warps' totals are there
  if (warp == 0) {
    T w = lane < n_warps ? of_warp[lane] : neutral;
    for (u32 d = 1; d < 32; d <<= 1) {
      T before = __shfl_up_sync(ALL_LANES, w, d);
      if (lane >= d) w = op(before, w);
    }
    T first = __shfl_up_sync(ALL_LANES, w, 1);
    if (lane == 0) first = neutral;
    of_warp[lane] = first;
    if (lane == 31) of_warp[32] = w;
  }
  __syncthreads();  // what lies before each warp is there
  T result = op(of_warp[warp], exclusive);
  *total = of_warp[32];
  __syncthreads();  // all have read it
  return result;
}
