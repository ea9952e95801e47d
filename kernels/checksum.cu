// Checksums of tiles: XXH3-64 (seed 0) of the section's kind and the payload behind it, as src/container/checksum.rs. Then what the host is told.
//
// XXH3 adds up what 16 stripes of 64 bytes make and then scrambles the sums, block of 1024 bytes by block. What a block adds does not depend on
// the sums so far, so blocks are added up in parallel; the scrambling is one chain of eight lanes, some ten instructions a block.
#include "common/block.cuh"
#include "common/state.cuh"
#include "common/xxh3.cuh"

// Eight bytes from any place, by whole words: up to seven bytes before and after are touched, which the output has.
__device__ u64 word_at(const u8* p) {
  u64 place = (u64)p;
  const u64* w = (const u64*)(place & ~7ull);
  u32 shift = (u32)(place & 7) * 8;
  return shift == 0 ? w[0] : w[0] >> shift | w[1] << (64 - shift);
}

struct Hashed {
  const u8* bytes;
  u32 n;
  u32 n_blocks;  // whole ones, but for the one that the last byte is in
};
__device__ Hashed hashed(const Args& a) {
  const State* s = a.state;
  Hashed h;
  u64 codes_at = s->huffman_at;
  h.bytes = a.out + s->offset + (s->as_it_is ? AS_IT_IS_AT : codes_at - s->head_bytes) - 1;
  h.n = 1 + s->tile_bytes;
  h.n_blocks = (h.n - 1) / HASH_BLOCK;
  return h;
}

__device__ __forceinline__ void add_stripe(const u8* stripe, u32 secret, u32 i, u64& own, u64& plain) {
  add_word(word_at(stripe + 8 * i), secret, i, own, plain);
}

// Sums of whole blocks, a warp a block: [blocks][8].
extern "C" __global__ void __launch_bounds__(BLOCK) checksum_sums(const Args a) {
  if (idle(a)) return;
  Hashed h = hashed(a);
  u32 lane = threadIdx.x & 31, n_warps = gridDim.x * (BLOCK / 32);
  for (u32 b = blockIdx.x * (BLOCK / 32) + (threadIdx.x >> 5); b < h.n_blocks; b += n_warps) {
    u64 own = 0, plain = 0;
    for (u32 stripe = lane >> 3; stripe < 16; stripe += 4) add_stripe(h.bytes + (u64)b * HASH_BLOCK + stripe * HASH_STRIPE, 8 * stripe, lane & 7, own, plain);
    own += __shfl_xor_sync(ALL_LANES, plain, 1);
    own += __shfl_xor_sync(ALL_LANES, own, 8);
    own += __shfl_xor_sync(ALL_LANES, own, 16);
    if (lane < 8) a.hash_sums[(u64)b * 8 + lane] = own;
  }
}

__device__ u64 mix(const u8* p, u32 secret) { return fold(word_at(p) ^ secret_at(secret), word_at(p + 8) ^ secret_at(secret + 8)); }

__device__ u64 swapped(u64 v) {
  u64 out = 0;
  for (u32 k = 0; k < 8; ++k) out |= (v >> (8 * k) & 0xff) << (56 - 8 * k);
  return out;
}
__device__ u64 rotated(u64 v, u32 n) { return v << n | v >> (64 - n); }

// 4 to 240 bytes: one value as it is has 7 with what stands before it.
__device__ u64 hash_of_few(const u8* p, u32 n) {
  if (n <= 8) {
    u64 h = ((word_at(p + n - 4) & 0xffffffffull) + (word_at(p) << 32)) ^ secret_at(8) ^ secret_at(16);
    h ^= rotated(h, 49) ^ rotated(h, 24);
    h *= 0x9fb21c651e98df25ull;
    h ^= (h >> 35) + n;
    h *= 0x9fb21c651e98df25ull;
    return h ^ h >> 28;
  }
  if (n <= 16) {
    u64 low = word_at(p) ^ secret_at(24) ^ secret_at(32), high = word_at(p + n - 8) ^ secret_at(40) ^ secret_at(48);
    return avalanche(n + swapped(low) + high + fold(low, high));
  }
  u64 sum = n * PRIME64_1;
  if (n <= 128) {
    for (i32 k = (i32)((n - 1) / 32); k >= 0; --k) sum += mix(p + 16 * k, 32 * k) + mix(p + n - 16 * (k + 1), 32 * k + 16);
    return avalanche(sum);
  }
  for (u32 k = 0; k < 8; ++k) sum += mix(p + 16 * k, 16 * k);
  sum = avalanche(sum);
  for (u32 k = 8; k < n / 16; ++k) sum += mix(p + 16 * k, 16 * (k - 8) + 3);
  return avalanche(sum + mix(p + n - 16, 119));
}

// One warp; its four groups of eight lanes all do the same.
__device__ u64 hash_of_many(const Args& a, const Hashed& h) {
  u32 i = threadIdx.x & 7;
  u64 sum = START[i], key = secret_at(128 + 8 * i);
  for (u32 b = 0; b < h.n_blocks; b += 8) {
    u64 ahead[8];
    for (u32 k = 0; k < 8; ++k) ahead[k] = b + k < h.n_blocks ? a.hash_sums[(u64)(b + k) * 8 + i] : 0;
    for (u32 k = 0; k < 8 && b + k < h.n_blocks; ++k) sum = scrambled(sum + ahead[k], key);
  }
  u64 own = 0, plain = 0;
  u32 n_left = (h.n - 1 - h.n_blocks * HASH_BLOCK) / HASH_STRIPE;
  for (u32 k = 0; k < n_left; ++k) add_stripe(h.bytes + (u64)h.n_blocks * HASH_BLOCK + k * HASH_STRIPE, 8 * k, i, own, plain);
  add_stripe(h.bytes + h.n - HASH_STRIPE, 121, i, own, plain);
  return hash_of_sums(sum + own + __shfl_xor_sync(ALL_LANES, plain, 1), i, h.n);
}

// The last kernel of a tile: its checksum, and what the host has to know. What was written is taken.
extern "C" __global__ void __launch_bounds__(32) finish_tile(const Args a) {
  const State* s = a.state;
  u64 hash = 0;
  Hashed h;
  h.bytes = nullptr;
  h.n = 0;
  if (!idle(a)) {
    h = hashed(a);
    hash = h.n <= 240 ? hash_of_few(h.bytes, h.n) : hash_of_many(a, h);
  }
  if (threadIdx.x != 0) return;
  Outcome* out = a.outcome;
  out->at = idle(a) ? 0 : (u64)(h.bytes + 1 - a.out);
  out->checksum = hash;
  out->bytes = idle(a) ? 0 : s->tile_bytes;
  out->left = s->left;
  out->field = s->field;
  if (!idle(a)) *a.cursor = s->offset + s->used;
}
