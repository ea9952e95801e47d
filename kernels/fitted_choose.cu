// Several runs of the fitted predictor: what the codes of each would take, and the plan of the cheapest. Twin: Cheapest in
// src/predict/fitted/encode.rs.
//
// Only the plan is kept, not the codes: a run more costs less than room for codes and buckets twice. A value is 5 bytes of traffic a run.
#include "common/cost.cuh"
#include "common/fitted.cuh"

// A further round of samples: equations are added to those there are, guesses are made anew. A thread a pass of a chain.
extern "C" __global__ void __launch_bounds__(BLOCK) fitted_again(const Args a) {
  if (settled(a)) return;
  u32 pass = blockIdx.x * BLOCK + threadIdx.x;
  if (pass < a.step.n_passes) a.fittings[pass].n_guess = 0;
}

// Classes of the codes of a run. `counts` is 0 before.
extern "C" __global__ void __launch_bounds__(BLOCK) fitted_cost(const Args a) {
  if (settled(a)) return;
  __shared__ Cost cost;
  clear_cost(&cost);
  u32 n_zeros = 0;
  for (u32 i = blockIdx.x * BLOCK + threadIdx.x; i < a.n; i += gridDim.x * BLOCK)
    if (a.buckets[i] != NO_BUCKET) add_code(&cost, a.codes[i], &n_zeros);
  add_zeros(&cost, n_zeros, 0);
  __syncthreads();  // the block's codes are counted
  for (u32 k = threadIdx.x; k < N_CLASSES; k += BLOCK)
    if (cost.counts[k] != 0) atomicAdd(&a.counts[k], cost.counts[k]);
}

// The plan of the run is the cheapest so far, or not; of equal ones the last is. One block.
extern "C" __global__ void __launch_bounds__(BLOCK) fitted_offer(const Args a) {
  if (settled(a)) return;
  __shared__ Cost cost;
  for (u32 k = threadIdx.x; k < N_CLASSES; k += BLOCK) cost.counts[k] = a.counts[k];
  if (threadIdx.x == 0) cost.n_outliers = 0;
  u64 total = total_cost<float>(&cost), least = a.cheapest->cost;
  __syncthreads();  // all have read the least
  if (!a.step.is_first && total > least) return;
  for (u32 k = threadIdx.x; k < a.step.n_passes * (sizeof(FitPass) / 4); k += BLOCK) ((u32*)a.cheapest->passes)[k] = ((const u32*)a.fit_passes)[k];
  if (threadIdx.x == 0) a.cheapest->cost = total;
}

// The cheapest plan counts. A block a pass.
extern "C" __global__ void __launch_bounds__(BLOCK) fitted_take(const Args a) {
  if (settled(a)) return;
  const u32* from = (const u32*)(a.cheapest->passes + blockIdx.x);
  for (u32 k = threadIdx.x; k < sizeof(FitPass) / 4; k += BLOCK) ((u32*)&a.fit_passes[blockIdx.x])[k] = from[k];
}
