// Tokens of codes and runs of zeros, and the cost of counts. Twins: src/encode/huffman/{token,cpu}.rs, src/predict/choose.rs.
#pragma once
#include "common.cuh"
#include "state.cuh"

#define RUN_DIRECT_LOG2 4
#define RUN_MANTISSA_BITS 1
#define VALUE_DIRECT_LOG2 7
#define VALUE_MANTISSA_BITS 2
#define FIRST_CONTEXT 1

struct Token {
  u32 id, n_extra, extra;
};

__device__ __forceinline__ u32 fold(i32 code) { return ((u32)code << 1) ^ (u32)(code >> 31); }
__device__ __forceinline__ i32 unfold(u32 folded) { return (i32)((folded >> 1) ^ (0u - (folded & 1))); }

__device__ __forceinline__ Token split(u32 n, u32 direct_log2, u32 mantissa_bits) {
  Token t;
  if (n >> direct_log2 == 0) {
    t.id = n;
    t.n_extra = t.extra = 0;
    return t;
  }
  u32 log2 = 31 - (u32)__clz((int)n);
  t.n_extra = log2 - mantissa_bits;
  u32 mantissa = n >> t.n_extra & ((1u << mantissa_bits) - 1);
  t.id = (1u << direct_log2) + ((log2 - direct_log2) << mantissa_bits) + mantissa;
  t.extra = n & ((1u << t.n_extra) - 1);
  return t;
}

// The token of a run of `len` (1 to a chunk) zeros.
__device__ __forceinline__ Token token_of_run(u32 len) { return split(len - 1, RUN_DIRECT_LOG2, RUN_MANTISSA_BITS); }

// The token of a code other than zero.
__device__ __forceinline__ Token token_of_value(i32 code) {
  Token t = split(fold(code) - 1, VALUE_DIRECT_LOG2, VALUE_MANTISSA_BITS);
  t.id += N_RUN_TOKENS;
  return t;
}

// Smallest number of a token (counted from the first of its kind), and how many plain bits follow.
__device__ __forceinline__ u32 join(u32 id, u32 direct_log2, u32 mantissa_bits, u32* n_extra) {
  *n_extra = 0;
  if (id >> direct_log2 == 0) return id;
  u32 above = id - (1u << direct_log2), log2 = direct_log2 + (above >> mantissa_bits);
  *n_extra = log2 - mantissa_bits;
  return (1u << log2) + ((above & ((1u << mantissa_bits) - 1)) << *n_extra);
}

__device__ __forceinline__ u32 extra_bits(u32 id) {
  u32 n;
  if (id < N_RUN_TOKENS) join(id, RUN_DIRECT_LOG2, RUN_MANTISSA_BITS, &n);
  else join(id - N_RUN_TOKENS, VALUE_DIRECT_LOG2, VALUE_MANTISSA_BITS, &n);
  return n;
}

// Which context follows token `id`.
__device__ __forceinline__ u32 context_after(u32 id, u32 t1, u32 t2) {
  if (id < N_RUN_TOKENS) return 0;
  u32 v = id - N_RUN_TOKENS;
  return 1 + (v >= t1) + (v >= t2);
}

// 1024 log2(n) to about 0.01, in integers.
__device__ __forceinline__ u32 log2_scaled(u32 n) {
  u32 log2 = 31 - (u32)__clz((int)n);
  u32 fraction = (n << (31 - log2)) >> 21 & 1023;
  return log2 * 1024 + fraction + ((352 * fraction * (1024 - fraction)) >> 20);
}

// What `count` symbols cost at their entropy, in 1/1024 bits; `whole` is log2_scaled of all symbols' number (or 1).
__device__ __forceinline__ u64 entropy_of(u32 count, u32 whole) {
  u32 one = log2_scaled(count == 0 ? 1 : count);
  return (u64)count * (whole > one ? whole - one : 0);
}
