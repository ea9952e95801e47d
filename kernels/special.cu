// Values that come back bit for bit: their patterns and runs. Twin: src/quantize/special.rs.
//
// `special_find` has blocks of SEGMENT values; each notes its first MAX_PATTERNS bit patterns in the order in which they occur, and
// `special_merge` merges the notes in order: a pattern among the first MAX_PATTERNS of all is among those of the block that has
// it first. Then runs are a compaction of their starts. All return at once where there are no special values.
#include "common/block.cuh"
#include "common/number.cuh"
#include "common/state.cuh"

// Special as the mode has it: where logarithms are coded, +0.0 too.
template <class T> __device__ __forceinline__ bool is_apart(const Args& a, T v) {
  return is_special<T>(v, a.has_fill, (typename Number<T>::Bits)a.fill) || (a.mode == POINT_WISE && Number<T>::bits(v) == 0);
}

template <class T> __device__ void special_find(const Args& a) {
  if (idle(a) || a.state->n_special == 0) return;
  __shared__ u64 patterns[MAX_PATTERNS];
  const T* values = (const T*)a.values;
  u32 start = blockIdx.x * SEGMENT, n_found = 0;
  for (;;) {
    u32 first = ALL_LANES;
    for (u32 e = 0; e < ITEMS; ++e) {
      u32 i = start + e * BLOCK + threadIdx.x;
      if (i >= a.n || !is_apart<T>(a, values[i])) continue;
      bool known = false;
      for (u32 p = 0; p < n_found; ++p) known |= patterns[p] == (u64)Number<T>::bits(values[i]);
      if (!known && i < first) first = i;
    }
    first = block_reduce(first, ALL_LANES, Smaller());
    if (first == ALL_LANES) break;
    if (threadIdx.x == 0) patterns[n_found] = (u64)Number<T>::bits(values[first]);
    __syncthreads();  // the pattern is known to all
    if (++n_found == MAX_PATTERNS) break;
  }
  u64* out = a.finds + (u64)blockIdx.x * (1 + MAX_PATTERNS);
  if (threadIdx.x == 0) out[0] = n_found;
  if (threadIdx.x < n_found) out[1 + threadIdx.x] = patterns[threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(BLOCK) special_find_f32(const Args a) { special_find<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) special_find_f64(const Args a) { special_find<double>(a); }

__device__ __forceinline__ bool among(const u64* patterns, u32 n, u64 p) {
  for (u32 i = 0; i < n; ++i)
    if (patterns[i] == p) return true;
  return false;
}

// One block. `count` is the number of blocks of `special_find`.
extern "C" __global__ void __launch_bounds__(BLOCK) special_merge(const Args a) {
  if (idle(a) || a.state->n_special == 0) return;
  __shared__ u64 patterns[MAX_PATTERNS];
  __shared__ u32 n_patterns;
  if (threadIdx.x == 0) n_patterns = 0;
  __syncthreads();  // none yet
  for (u32 start = 0; start < a.count; start += BLOCK) {
    for (;;) {
      u32 block = start + threadIdx.x, first = ALL_LANES;
      if (block < a.count && n_patterns < MAX_PATTERNS) {
        const u64* found = a.finds + (u64)block * (1 + MAX_PATTERNS);
        for (u32 p = 0; p < (u32)found[0]; ++p)
          if (!among(patterns, n_patterns, found[1 + p])) first = block;
      }
      first = block_reduce(first, ALL_LANES, Smaller());
      if (first == ALL_LANES) break;
      if (threadIdx.x == 0) {
        const u64* found = a.finds + (u64)first * (1 + MAX_PATTERNS);
        for (u32 p = 0; p < (u32)found[0] && n_patterns < MAX_PATTERNS; ++p)
          if (!among(patterns, n_patterns, found[1 + p])) patterns[n_patterns++] = found[1 + p];
      }
      __syncthreads();  // that block's patterns are known
    }
  }
  if (threadIdx.x < n_patterns) a.state->patterns[threadIdx.x] = patterns[threadIdx.x];
  if (threadIdx.x == 0) a.state->n_patterns = n_patterns;
}

// The pattern of value `i`; -1 if it is in no run.
template <class T> __device__ i32 pattern_of(const Args& a, const u64* patterns, u32 n_patterns, u32 i) {
  T v = ((const T*)a.values)[i];
  if (!is_apart<T>(a, v)) return -1;
  for (u32 p = 0; p < n_patterns; ++p)
    if (patterns[p] == (u64)Number<T>::bits(v)) return (i32)p;
  return -1;
}

// What is in a run of the list at `i`: the pattern, or 0 for a mark that differs; -1 for nothing.
template <class T> __device__ i32 listed(const Args& a, const u64* patterns, u32 n_patterns, u32 far, u32 i) {
  i32 own = pattern_of<T>(a, patterns, n_patterns, i);
  if (far == 0 || i < far) return own;
  return (own >= 0) == (pattern_of<T>(a, patterns, n_patterns, i - far) >= 0) ? -1 : 0;
}

// Pass 0 counts the starts of runs of each block, in all ways; pass 1 writes the list (starts, ends, patterns) in the way chosen, and the marks.
template <class T> __device__ void runs(const Args& a, bool write) {
  if (idle(a) || a.state->n_special == 0) return;
  __shared__ u64 patterns[MAX_PATTERNS];
  u32 n_patterns = a.state->n_patterns;
  if (threadIdx.x < n_patterns) patterns[threadIdx.x] = a.state->patterns[threadIdx.x];
  __syncthreads();  // the patterns are there
  u32 first = blockIdx.x * SEGMENT + threadIdx.x * ITEMS;
  for (u32 way = write ? a.state->way : 0; way < 3; ++way) {
    u32 far = distance(a, way);
    if (way > 0 && far == 0) continue;
    i32 before = first > 0 && first <= a.n ? listed<T>(a, patterns, n_patterns, far, first - 1) : -1;
    i32 here[ITEMS + 1];
    u32 n_starts = 0;
    for (u32 e = 0; e <= ITEMS; ++e) here[e] = first + e < a.n ? listed<T>(a, patterns, n_patterns, far, first + e) : -1;
    for (u32 e = 0; e < ITEMS; ++e) n_starts += here[e] >= 0 && here[e] != (e == 0 ? before : here[e - 1]);
    u32 total, at = block_scan(n_starts, 0u, Add(), &total);
    u32* sums = a.sums + way * ((a.n + SEGMENT - 1) / SEGMENT);
    if (!write) {
      if (threadIdx.x == 0) sums[blockIdx.x] = total;
      continue;
    }
    u32 n_runs = a.state->n_runs;
    u32* starts = (u32*)((u8*)a.lists + a.state->runs_at);
    u32* ends = starts + n_runs;
    u8* kinds = (u8*)(ends + n_runs);
    at += sums[blockIdx.x];
    for (u32 e = 0; e < ITEMS && first + e < a.n; ++e) {
      a.marks[first + e] = far == 0 ? here[e] >= 0 : pattern_of<T>(a, patterns, n_patterns, first + e) >= 0;
      if (here[e] < 0) continue;
      if (here[e] != (e == 0 ? before : here[e - 1])) {
        starts[at] = first + e;
        kinds[at++] = (u8)here[e];
      }
      if (here[e + 1] != here[e]) ends[at - 1] = first + e + 1;
    }
    return;
  }
}
extern "C" __global__ void __launch_bounds__(BLOCK) runs_count_f32(const Args a) { runs<float>(a, false); }
extern "C" __global__ void __launch_bounds__(BLOCK) runs_count_f64(const Args a) { runs<double>(a, false); }
extern "C" __global__ void __launch_bounds__(BLOCK) runs_write_f32(const Args a) { runs<float>(a, true); }
extern "C" __global__ void __launch_bounds__(BLOCK) runs_write_f64(const Args a) { runs<double>(a, true); }
