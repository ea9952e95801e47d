// Compactions: the scan of the blocks' counts in the middle, values stored one by one, and codes without those of values in runs.
// Twins: src/quantize/outlier.rs, compress::Tile::with_huffman, decompress::decode_codes.
#include "common/block.cuh"
#include "common/number.cuh"
#include "common/state.cuh"

// Exclusive scan of `count` sums in place; gives the total to all. One block.
__device__ u32 scan_sums(u32* sums, u32 count) {
  u32 before = 0;
  for (u32 start = 0; start < count; start += blockDim.x) {
    u32 i = start + threadIdx.x, total;
    u32 at = block_scan(i < count ? sums[i] : 0u, 0u, Add(), &total);
    if (i < count) sums[i] = before + at;
    before += total;
  }
  return before;
}

// Takes `bytes` of the room for lists; gives where. No room: the tile is left.
__device__ u64 take_room(const Args& a, u64 bytes) {
  State* s = a.state;
  u64 at = s->used, after = at + (bytes + 7) / 8 * 8;
  if (after > a.list_capacity) s->left = NO_ROOM;
  else s->used = after;
  return at;
}

extern "C" __global__ void __launch_bounds__(WIDE) runs_scan(const Args a) {
  if (idle(a) || a.state->n_special == 0) return;
  // The way with the fewest runs, of several the first.
  u32 way = 0, fewest = ALL_LANES;
  for (u32 w = 0; w < 3; ++w) {
    if (w > 0 && distance(a, w) == 0) continue;
    u32 n = 0;
    for (u32 i = threadIdx.x; i < a.count; i += blockDim.x) n += a.sums[w * a.count + i];
    n = block_reduce(n, 0u, Add());
    if (n < fewest) {
      fewest = n;
      way = w;
    }
  }
  u32 total = scan_sums(a.sums + way * a.count, a.count);
  if (threadIdx.x != 0) return;
  a.state->way = way;
  a.state->n_runs = total;
  a.state->runs_at = take_room(a, (u64)total * 9);
}

extern "C" __global__ void __launch_bounds__(WIDE) signs_scan(const Args a) {
  if (idle(a)) return;
  u32 total = scan_sums(a.sums, a.count);
  if (threadIdx.x != 0) return;
  a.state->n_signs = total;
  a.state->signs_at = take_room(a, (u64)total * 4);
}

// Outliers: words of the bitmap are what is counted, BLOCK words a block.
extern "C" __global__ void __launch_bounds__(BLOCK) outliers_count(const Args a) {
  if (idle(a)) return;
  u32 word = blockIdx.x * BLOCK + threadIdx.x;
  u32 n = word * 32 < a.n ? (u32)__popc(a.missed[word]) : 0;
  n = block_reduce(n, 0u, Add());
  if (threadIdx.x == 0) a.sums[blockIdx.x] = n;
}

extern "C" __global__ void __launch_bounds__(WIDE) outliers_scan(const Args a) {
  if (idle(a)) return;
  u32 total = scan_sums(a.sums, a.count);
  if (threadIdx.x != 0) return;
  a.state->n_outliers = total;
  a.state->outliers_at = take_room(a, (u64)total * (4 + (a.is_f64 ? 8 : 4)));
}

// Positions, then bits. Bits of f64 lie at a multiple of 4 only: they are written as two words.
template <class T> __device__ void outliers_write(const Args& a) {
  if (idle(a) || a.state->n_outliers == 0) return;
  u32 word = blockIdx.x * BLOCK + threadIdx.x;
  u32 bits = word * 32 < a.n ? a.missed[word] : 0;
  u32 total, at = block_scan((u32)__popc(bits), 0u, Add(), &total);
  at += a.sums[blockIdx.x];
  u32* positions = (u32*)((u8*)a.lists + a.state->outliers_at);
  u32* exact = positions + a.state->n_outliers;
  const T* values = (const T*)a.values;
  for (; bits != 0; bits &= bits - 1, ++at) {
    u32 i = word * 32 + (u32)__ffs((int)bits) - 1;
    u64 v = (u64)Number<T>::bits(values[i]);
    positions[at] = i;
    exact[at * (sizeof(T) / 4)] = (u32)v;
    if (sizeof(T) == 8) exact[at * 2 + 1] = (u32)(v >> 32);
  }
}
extern "C" __global__ void __launch_bounds__(BLOCK) outliers_write_f32(const Args a) { outliers_write<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) outliers_write_f64(const Args a) { outliers_write<double>(a); }

// The marks in coding order: only interpolation has one of its own.
__device__ __forceinline__ const u8* marks_of_codes(const Args& a) { return a.state->predictor == INTERP ? a.code_marks : a.marks; }

__device__ u32 kept_of_thread(const Args& a, const u8* marks, u32 first) {
  u32 n = 0;
  for (u32 e = 0; e < ITEMS && first + e < a.n; ++e) n += marks[first + e] == 0;
  return n;
}

extern "C" __global__ void __launch_bounds__(BLOCK) kept_count(const Args a) {
  if (idle(a) || a.state->n_runs == 0) return;
  u32 n = kept_of_thread(a, marks_of_codes(a), blockIdx.x * SEGMENT + threadIdx.x * ITEMS);
  n = block_reduce(n, 0u, Add());
  if (threadIdx.x == 0) a.sums[blockIdx.x] = n;
}

extern "C" __global__ void __launch_bounds__(WIDE) kept_scan(const Args a) {
  if (idle(a) || a.state->n_runs == 0) return;
  u32 total = scan_sums(a.sums, a.count);
  if (threadIdx.x == 0) a.state->n_codes = total;
}

// Encoding: codes that are kept move together.
extern "C" __global__ void __launch_bounds__(BLOCK) kept_gather(const Args a) {
  if (idle(a) || a.state->n_runs == 0) return;
  const u8* marks = marks_of_codes(a);
  u32 first = blockIdx.x * SEGMENT + threadIdx.x * ITEMS;
  u32 total, at = block_scan(kept_of_thread(a, marks, first), 0u, Add(), &total);
  at += a.sums[blockIdx.x];
  for (u32 e = 0; e < ITEMS && first + e < a.n; ++e)
    if (marks[first + e] == 0) a.kept[at++] = a.codes[first + e];
}

// Decoding: they move apart again, with 0 for values in runs.
extern "C" __global__ void __launch_bounds__(BLOCK) kept_scatter(const Args a) {
  if (idle(a) || a.state->n_runs == 0) return;
  const u8* marks = marks_of_codes(a);
  u32 first = blockIdx.x * SEGMENT + threadIdx.x * ITEMS;
  u32 total, at = block_scan(kept_of_thread(a, marks, first), 0u, Add(), &total);
  at += a.sums[blockIdx.x];
  for (u32 e = 0; e < ITEMS && first + e < a.n; ++e) a.codes[first + e] = marks[first + e] == 0 ? a.kept[at++] : 0;
}
