// Lists of values stored apart, as the archive has them: runs of special values, changes of signs, distances between outliers. Twins:
// src/encode/numbers.rs, and to_bytes of src/quantize/special.rs, outlier.rs, log.rs.
//
// A block a list, a warp a block of LIST_BLOCK items: two items a lane. Blocks start at whole bytes; a warp's bits come together in shared memory.
#include "common/block.cuh"
#include "common/state.cuh"

#define LIST_BLOCK 64
#define ORDER_BITS 5
// Words of a block at most. With the sum S of a kind's numbers and k = log2(S / 64), rounded up, its 64 codes take 64 (k + 3) bits at most; of the
// orders that is one. Two kinds have S below 2^23, the third (patterns) numbers below 16: below 93 words.
#define LIST_WORDS 136

// Runs: how many others before, how many but one, which pattern.
struct RunList {
  const u32 *starts, *ends;
  const u8* patterns;
  __device__ u32 number(u32 i, u32 kind) const {
    return kind == 0 ? starts[i] - (i == 0 ? 0 : ends[i - 1]) : kind == 1 ? ends[i] - starts[i] - 1 : patterns[i];
  }
};

// Places, ascending: how many lie between one and the one before it. KINDS in an item; the last item is filled up with zeros.
template <u32 KINDS> struct PlaceList {
  const u32* places;
  u32 n;
  __device__ u32 number(u32 i, u32 kind) const {
    u32 k = i * KINDS + kind;
    return k >= n ? 0 : places[k] - (k == 0 ? 0 : places[k - 1] + 1);
  }
};

__device__ __forceinline__ u32 log2_below(u64 v) { return 63 - (u32)__clzll((long long)v); }
// Bits of the code of `v` of order `k`.
__device__ __forceinline__ u32 code_bits(u32 v, u32 k) { return 2 * log2_below(((u64)v >> k) + 1) + 1 + k; }

__device__ __forceinline__ u32 warp_sum(u32 v) {
  for (u32 d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(ALL_LANES, v, (int)d);
  return v;
}
__device__ __forceinline__ u32 warp_scan(u32 v, u32* total) {
  u32 lane = threadIdx.x & 31, inclusive = v;
  for (u32 d = 1; d < 32; d <<= 1) {
    u32 before = __shfl_up_sync(ALL_LANES, inclusive, d);
    if (lane >= d) inclusive += before;
  }
  *total = __shfl_sync(ALL_LANES, inclusive, 31);
  return inclusive - v;
}

// `bits`, of which `n` (at most 64) count, from bit `at` on. The words are zero there. A code has at most 53: numbers are below 2^26.
__device__ __forceinline__ void put_bits_at(u32* words, u32 at, u64 bits, u32 n) {
  u64 low = bits << (at & 31);
  if ((u32)low != 0) atomicOr(&words[at >> 5], (u32)low);
  if ((u32)(low >> 32) != 0) atomicOr(&words[(at >> 5) + 1], (u32)(low >> 32));
  if ((at & 31) + n > 64) {
    u32 high = (u32)(bits >> (64 - (at & 31)));
    if (high != 0) atomicOr(&words[(at >> 5) + 2], high);
  }
}

// Items of KINDS numbers each. Gives the bytes of the list, or ALL_LANES if there is no room for them. All threads of the block call; `words` are the warp's.
template <u32 KINDS, class L> __device__ u32 write_list(const L& list, u32 n_items, u32* words, u8* out, u64 room) {
  u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  u32 n_blocks = (n_items + LIST_BLOCK - 1) / LIST_BLOCK;
  u64 done = 0;
  for (u32 start = 0; start < n_blocks; start += WIDE / 32) {
    u32 first = (start + warp) * LIST_BLOCK, bytes = 0;
    bool mine = start + warp < n_blocks;
    for (u32 w = lane; w < LIST_WORDS; w += 32) words[w] = 0;
    __syncwarp();  // the words are zero
    if (mine) {
      u32 numbers[2][KINDS], order[KINDS];
      bool there[2];
      for (u32 h = 0; h < 2; ++h) {
        u32 i = first + h * 32 + lane;
        there[h] = i < n_items;
        for (u32 kind = 0; kind < KINDS; ++kind) numbers[h][kind] = there[h] ? list.number(i, kind) : 0;
      }
      u32 item_bits[2] = {0, 0};
      for (u32 kind = 0; kind < KINDS; ++kind) {
        // The order with the fewest bits, of several the smallest.
        u32 most = numbers[0][kind] | numbers[1][kind];
        for (u32 d = 16; d > 0; d >>= 1) most |= __shfl_xor_sync(ALL_LANES, most, (int)d);
        u32 last = most == 0 ? 0 : log2_below(most), fewest = ALL_LANES;
        order[kind] = 0;
        for (u32 k = 0; k <= last; ++k) {
          u32 bits = warp_sum((there[0] ? code_bits(numbers[0][kind], k) : 0) + (there[1] ? code_bits(numbers[1][kind], k) : 0));
          if (bits < fewest) {
            fewest = bits;
            order[kind] = k;
          }
        }
        for (u32 h = 0; h < 2; ++h) item_bits[h] += there[h] ? code_bits(numbers[h][kind], order[kind]) : 0;
        if (lane == 0) put_bits_at(words, kind * ORDER_BITS, order[kind], ORDER_BITS);
      }
      u32 total[2], at = KINDS * ORDER_BITS;
      for (u32 h = 0; h < 2; ++h) {
        u32 bit = at + warp_scan(item_bits[h], &total[h]);
        at += total[h];
        for (u32 kind = 0; there[h] && kind < KINDS; ++kind) {
          u32 v = numbers[h][kind], k = order[kind];
          u64 head = ((u64)v >> k) + 1;
          u32 zeros = log2_below(head);
          // As many zeros, a one, what is below the leading one of the head, what is below the head.
          u64 code = 1ull << zeros | (head ^ 1ull << zeros) << (zeros + 1) | (u64)(v & ((1u << k) - 1)) << (2 * zeros + 1);
          put_bits_at(words, bit, code, 2 * zeros + 1 + k);
          bit += 2 * zeros + 1 + k;
        }
      }
      bytes = (at + 7) / 8;
    }
    u32 together, before = block_scan(lane == 0 ? bytes : 0u, 0u, Add(), &together);
    before = __shfl_sync(ALL_LANES, before, 0);
    if (done + together > room) return ALL_LANES;
    __syncwarp();  // the bits are there
    for (u32 b = lane; b < bytes; b += 32) out[done + before + b] = (u8)(words[b >> 2] >> (b & 3) * 8);
    __syncwarp();  // all have been read
    done += together;
  }
  return (u32)done;
}

// Blocks: runs, changes of signs, outliers.
extern "C" __global__ void __launch_bounds__(WIDE) code_lists(const Args a) {
  if (idle(a)) return;
  __shared__ u32 staged[WIDE / 32][LIST_WORDS];
  u32* words = staged[threadIdx.x >> 5];
  State* s = a.state;
  const u8* lists = (const u8*)a.lists;
  u64 room = a.coded_list_bytes;
  u8* out = a.coded_lists + blockIdx.x * room;
  u32 bytes;
  if (blockIdx.x == 0) {
    RunList runs;
    runs.starts = (const u32*)(lists + s->runs_at);
    runs.ends = runs.starts + s->n_runs;
    runs.patterns = (const u8*)(runs.ends + s->n_runs);
    bytes = s->n_patterns > 1 ? write_list<3>(runs, s->n_runs, words, out, room) : write_list<2>(runs, s->n_runs, words, out, room);
  } else if (blockIdx.x == 1) {
    PlaceList<2> signs;
    signs.places = (const u32*)(lists + s->signs_at);
    signs.n = s->n_signs;
    bytes = write_list<2>(signs, (signs.n + 1) / 2, words, out, room);
  } else {
    PlaceList<1> outliers;
    outliers.places = (const u32*)(lists + s->outliers_at);
    outliers.n = s->n_outliers;
    bytes = write_list<1>(outliers, outliers.n, words, out, room);
  }
  if (threadIdx.x == 0) s->coded_bytes[blockIdx.x] = bytes;
}
