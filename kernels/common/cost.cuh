// What codes would take at their entropy, in integers. Twin: src/predict/choose.rs (CodeCost).
#pragma once
#include "block.cuh"
#include "token.cuh"

#define N_CLASSES (1 + N_TOKENS - N_RUN_TOKENS)
#define MAX_SMALL ((1u << 24) - 1)

// Counts of classes of codes, and of values stored apart.
struct Cost {
  u32 counts[N_CLASSES];
  u32 n_outliers;
};

__device__ void clear_cost(Cost* cost) {
  for (u32 i = threadIdx.x; i < N_CLASSES; i += blockDim.x) cost->counts[i] = 0;
  if (threadIdx.x == 0) cost->n_outliers = 0;
  __syncthreads();  // all is 0
}

// Adds a code; zeros are counted by the thread, as they are most of all.
__device__ __forceinline__ void add_code(Cost* cost, i32 code, u32* n_zeros) {
  u32 folded = fold(code);
  if (folded == 0) {
    ++*n_zeros;
    return;
  }
  folded = folded > MAX_SMALL ? MAX_SMALL : folded;
  atomicAdd(&cost->counts[1 + split(folded - 1, VALUE_DIRECT_LOG2, VALUE_MANTISSA_BITS).id], 1u);
}

__device__ void add_zeros(Cost* cost, u32 n_zeros, u32 n_missed) {
  if (n_zeros != 0) atomicAdd(&cost->counts[0], n_zeros);
  if (n_missed != 0) atomicAdd(&cost->n_outliers, n_missed);
}

// The cost in 1/1024 bits, for every thread.
template <class T> __device__ u64 total_cost(const Cost* cost) {
  __syncthreads();  // all is counted
  u32 n = 0;
  for (u32 i = threadIdx.x; i < N_CLASSES; i += blockDim.x) n += cost->counts[i];
  n = block_reduce(n, 0u, Add());
  u32 whole = log2_scaled(n == 0 ? 1 : n);
  u64 sum = 0;
  for (u32 i = threadIdx.x; i < N_CLASSES; i += blockDim.x) {
    u32 n_extra = i == 0 ? 0 : extra_bits(N_RUN_TOKENS + i - 1);
    sum += entropy_of(cost->counts[i], whole) + (u64)cost->counts[i] * n_extra * 1024;
  }
  sum = block_reduce(sum, (u64)0, Add());
  return sum + (u64)cost->n_outliers * (8 * sizeof(T) + 10) * 1024;
}
