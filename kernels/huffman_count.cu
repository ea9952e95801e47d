// Codes to tokens: thresholds of the contexts, counts of the tokens of each part, sets of books for consecutive chunks. Twins:
// huffman::cpu::choose_contexts and ::choose_books, huffman::tokenize.
//
// Tokens are never stored: what a code makes is told by the last code before it that is not 0, which a scan over the block finds. So codes are
// read twice (here and in huffman_encode.cu), 4 bytes each time, and nothing but counts is written: 4 KiB a part of 16384 codes.
#include "common/block.cuh"
#include "common/walk.cuh"

__device__ __forceinline__ const i32* coded_codes(const Args& a) { return a.state->n_runs == 0 ? a.codes : a.kept; }

// Thresholds at the thirds of the values other than zero, from a sample. One block.
extern "C" __global__ void __launch_bounds__(BLOCK) huffman_contexts(const Args a) {
  if (idle(a)) return;
  const u32 RUN = 32, RUNS = 128;
  __shared__ u32 counts[N_TOKENS - N_RUN_TOKENS];
  for (u32 i = threadIdx.x; i < N_TOKENS - N_RUN_TOKENS; i += BLOCK) counts[i] = 0;
  __syncthreads();  // all is 0
  const i32* codes = coded_codes(a);
  u32 n = a.state->n_codes, every = n / (RUN * RUNS);
  every = every < 1 ? 1 : every;
  for (u32 run = (threadIdx.x >> 5) * every; (u64)run * RUN < n; run += (BLOCK >> 5) * every) {
    u32 i = run * RUN + (threadIdx.x & 31);
    if (i < n && codes[i] != 0) atomicAdd(&counts[token_of_value(codes[i]).id - N_RUN_TOKENS], 1u);
  }
  __syncthreads();  // the sample is counted
  if (threadIdx.x != 0) return;
  u32 total = 0;
#pragma unroll 1
  for (u32 i = 0; i < N_TOKENS - N_RUN_TOKENS; ++i) total += counts[i];
  u32 thresholds[2];
  for (u32 k = 0; k < 2; ++k) {
    u32 seen = 0, pair = 0;
    // Tokens 2i and 2i + 1 are -(i + 1) and i + 1: thresholds stay between pairs.
#pragma unroll 1
    for (; pair < (N_TOKENS - N_RUN_TOKENS) / 2; ++pair) {
      seen += counts[2 * pair] + counts[2 * pair + 1];
      if (seen * 3 >= total * (k + 1)) break;
    }
    if (pair == (N_TOKENS - N_RUN_TOKENS) / 2) pair = 0;
    thresholds[k] = 2 * (pair + 1);
  }
  if (thresholds[1] == thresholds[0]) thresholds[1] += 2;
  a.state->thresholds[0] = thresholds[0];
  a.state->thresholds[1] = thresholds[1];
  a.state->n_chunks = (n + CHUNK - 1) / CHUNK;
}

// Copies of the counters of a block: warps in turn.
#define COPIES 4

struct CountTokens {
  u32* counts;
  __device__ __forceinline__ void operator()(u32 context, const Token& t) const { atomicAdd(&counts[context * N_TOKENS + t.id], 1u); }
};

// A block a part. Counters are private to the block, in COPIES copies.
extern "C" __global__ void __launch_bounds__(BLOCK) huffman_count(const Args a) {
  if (idle(a)) return;
  __shared__ u32 counts[COPIES * N_CONTEXTS * N_TOKENS];
  Part part = part_of(blockIdx.x, a.state->n_codes);
  if (part.chunk >= a.state->n_chunks) return;
  for (u32 i = threadIdx.x; i < COPIES * N_CONTEXTS * N_TOKENS; i += BLOCK) counts[i] = 0;
  __syncthreads();  // all is 0
  CountTokens count;
  count.counts = counts + (threadIdx.x >> 5) % COPIES * (N_CONTEXTS * N_TOKENS);
  const i32* codes = coded_codes(a) + part.start;
  u32 before = 0;
  for (u32 start = 0; start <= part.len; start += SEGMENT) {
    Walk w(codes, part.len, start, &before, a.state->thresholds);
    w.tokens(count);
  }
  __syncthreads();  // all is counted
  u16* out = a.part_counts + (u64)blockIdx.x * N_INDICES;
  for (u32 i = threadIdx.x; i < N_INDICES; i += BLOCK) {
    u32 context = i / CONTEXT_SIZE, id = i % CONTEXT_SIZE, n = 0;
    if (id < N_TOKENS)
      for (u32 k = 0; k < COPIES; ++k) n += counts[(k * N_CONTEXTS + context) * N_TOKENS + id];
    out[i] = (u16)n;
  }
}

// Estimated size of tokens with these counts and of their books, in 1/1024 bits; `count(i)` gives the count of an index.
template <class F> __device__ u64 cost_of_counts(F count) {
  __shared__ u32 totals[N_CONTEXTS];
  if (threadIdx.x < N_CONTEXTS) totals[threadIdx.x] = 0;
  __syncthreads();  // all is 0
  for (u32 i = threadIdx.x; i < N_INDICES; i += blockDim.x) {
    u32 n = count(i);
    for (u32 d = 16; d > 0; d >>= 1) n += __shfl_xor_sync(ALL_LANES, n, (int)d);  // a warp is in one context
    if ((threadIdx.x & 31) == 0 && n != 0) atomicAdd(&totals[i / CONTEXT_SIZE], n);
  }
  __syncthreads();  // the totals are there
  u64 sum = 0;
  for (u32 i = threadIdx.x; i < N_INDICES; i += blockDim.x) {
    u32 n = count(i), total = totals[i / CONTEXT_SIZE];
    if (n != 0) sum += entropy_of(n, log2_scaled(total == 0 ? 1 : total)) + 3 * 1024;
  }
  return block_reduce(sum, (u64)0, Add());
}

__device__ __forceinline__ u32 count_of_chunk(const Args& a, u32 chunk, u32 i) {
  const u16* parts = a.part_counts + (u64)chunk * 4 * N_INDICES + i;
  return (u32)parts[0] + parts[N_INDICES] + parts[2 * N_INDICES] + parts[3 * N_INDICES];
}

// Sets of books for consecutive chunks, each joined to the one before if that costs no more. One block; chunks one after the other.
extern "C" __global__ void __launch_bounds__(WIDE) huffman_sets(const Args a) {
  if (idle(a)) return;
  __shared__ u32 counts[N_INDICES];  // of the set so far
  u32 n_sets = 0;
  u64 before = 0;
  for (u32 chunk = 0; chunk < a.state->n_chunks; ++chunk) {
    u64 alone = cost_of_counts([&](u32 i) { return count_of_chunk(a, chunk, i); });
    bool join = false;
    if (n_sets > 0) {
      u64 together = cost_of_counts([&](u32 i) { return counts[i] + count_of_chunk(a, chunk, i); });
      join = together <= before + alone;
      if (join) before = together;
    }
    if (!join) {
      ++n_sets;
      before = alone;
    }
    // A thread adds to its own counters only.
    for (u32 i = threadIdx.x; i < N_INDICES; i += blockDim.x) {
      counts[i] = (join ? counts[i] : 0) + count_of_chunk(a, chunk, i);
      a.set_counts[(u64)(n_sets - 1) * N_INDICES + i] = counts[i];
    }
    if (threadIdx.x == 0) a.chunks[chunk].book = n_sets - 1;
    __syncthreads();  // the set is known
  }
  if (threadIdx.x == 0) a.state->n_books = n_sets;
}
