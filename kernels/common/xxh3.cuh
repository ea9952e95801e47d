// XXH3-64 (seed 0) of more than 240 bytes, for a warp whose four groups of eight lanes all do the same. Used by checksum.cu and forecast.cu.
#pragma once
#include "common.cuh"

#define PRIME32_1 0x9e3779b1ull
#define PRIME32_2 0x85ebca77ull
#define PRIME32_3 0xc2b2ae3dull
#define PRIME64_1 0x9e3779b185ebca87ull
#define PRIME64_2 0xc2b2ae3d27d4eb4full
#define PRIME64_3 0x165667b19e3779f9ull
#define PRIME64_4 0x85ebca77c2b2ae63ull
#define PRIME64_5 0x27d4eb2f165667c5ull
#define HASH_BLOCK 1024u
#define HASH_STRIPE 64u

// The hash's own constant, by words.
static __device__ const u64 SECRET[24] = {
    0xbe4ba423396cfeb8ull, 0x1cad21f72c81017cull, 0xdb979083e96dd4deull, 0x1f67b3b7a4a44072ull,
    0x78e5c0cc4ee679cbull, 0x2172ffcc7dd05a82ull, 0x8e2443f7744608b8ull, 0x4c263a81e69035e0ull,
    0xcb00c391bb52283cull, 0xa32e531b8b65d088ull, 0x4ef90da297486471ull, 0xd8acdea946ef1938ull,
    0x3f349ce33f76faa8ull, 0x1d4f0bc7c7bbdcf9ull, 0x3159b4cd4be0518aull, 0x647378d9c97e9fc8ull,
    0xc3ebd33483acc5eaull, 0xeb6313faffa081c5ull, 0x49daf0b751dd0d17ull, 0x9e68d429265516d3ull,
    0xfca1477d58be162bull, 0xce31d07ad1b8f88full, 0x280416958f3acb45ull, 0x7e404bbbcafbd7afull,
};

// What its sums start from.
static __device__ const u64 START[8] = {PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1};

__device__ u64 secret_at(u32 byte) {
  u32 w = byte >> 3, shift = (byte & 7) * 8;
  return shift == 0 ? SECRET[w] : SECRET[w] >> shift | SECRET[w + 1] << (64 - shift);
}

__device__ __forceinline__ u64 fold(u64 x, u64 y) { return x * y ^ __umul64hi(x, y); }
__device__ __forceinline__ u64 avalanche(u64 h) {
  h ^= h >> 37;
  h *= 0x165667919e3779f9ull;
  return h ^ h >> 32;
}

// What a stripe, whose word `i` is `word`, adds to lane `i`: half comes from its own word, the neighbour's word is added to the product's place.
__device__ __forceinline__ void add_word(u64 word, u32 secret, u32 i, u64& own, u64& plain) {
  u64 key = word ^ secret_at(secret + 8 * i);
  own += (key & 0xffffffffull) * (key >> 32);
  plain += word;
}

// After a block; `key` is the secret at 128 + 8 i.
__device__ __forceinline__ u64 scrambled(u64 sum, u64 key) { return (sum ^ sum >> 47 ^ key) * PRIME32_1; }

// The hash of `n` bytes, from the sum of lane `i` after them.
__device__ __forceinline__ u64 hash_of_sums(u64 sum, u32 i, u64 n) {
  u64 hash = n * PRIME64_1;
  sum ^= secret_at(11 + 8 * i);
  u64 other = __shfl_xor_sync(ALL_LANES, sum, 1);
  u64 product = fold(sum, other);
  for (u32 k = 0; k < 4; ++k) hash += __shfl_sync(ALL_LANES, product, (int)(2 * k));
  return avalanche(hash);
}
