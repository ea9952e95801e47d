// Tokens and tables of the coder in contexts. Twins: src/encode/rans/token.rs, src/encode/rans/stream.rs.
#pragma once
#include "common.cuh"

#define RANS_LANES 32
#define RANS_PRECISION 14
#define RANS_LOW (1u << 16)
#define RANS_TOKENS 64
#define RANS_ESCAPE 63
#define RANS_FIRST_RANGE 31
#define RANS_LIMIT_LOG2 20
#define N_SHAPES 13
#define N_SCALES 108
#define N_DISTRIBUTIONS (N_SHAPES * N_SCALES)
// Contexts of a tile at most: those of the phases, and two of the base lattice.
#define RANS_CONTEXTS 34
// A bucket of slots names the first token that any of them can have.
#define SLOT_SHIFT 4

// A context at work: `start | frequency << 16` by token, the first token of each bucket of slots.
struct RansTable {
  u32 tokens[RANS_TOKENS];
  u8 first[1 << (RANS_PRECISION - SLOT_SHIFT)];
};

__device__ __forceinline__ u32 rans_plain_bits(u32 token) {
  return token < RANS_FIRST_RANGE ? 0 : token == RANS_ESCAPE ? 32 : 4 + (token - RANS_FIRST_RANGE) / 2;
}

// Token of a code; its plain bits, `rans_plain_bits` of them.
__device__ __forceinline__ u32 rans_token(i32 code, u32* plain) {
  u32 negative = code < 0, magnitude = negative ? 0u - (u32)code : (u32)code;
  *plain = 0;
  if (magnitude <= 15) return magnitude == 0 ? 0 : 2 * magnitude - 1 + negative;
  u32 log2 = 31 - (u32)__clz((int)magnitude);
  if (log2 >= RANS_LIMIT_LOG2) {
    *plain = (u32)code;
    return RANS_ESCAPE;
  }
  *plain = (magnitude & ((1u << (log2 - 1)) - 1)) << 1 | negative;
  return RANS_FIRST_RANGE + 2 * (log2 - 4) + (magnitude >> (log2 - 1) & 1);
}

__device__ __forceinline__ i32 rans_code(u32 token, u32 plain) {
  u32 magnitude, negative;
  if (token < RANS_FIRST_RANGE) {
    magnitude = (token + 1) / 2;
    negative = token % 2 == 0;
  } else if (token == RANS_ESCAPE) {
    return (i32)plain;
  } else {
    magnitude = (2 | ((token - RANS_FIRST_RANGE) & 1)) << (rans_plain_bits(token) - 1) | plain >> 1;
    negative = plain & 1;
  }
  return (i32)(negative ? 0u - magnitude : magnitude);
}

// Smallest magnitude of a token other than RANS_ESCAPE.
__device__ __forceinline__ u32 rans_smallest(u32 token) {
  i32 code = rans_code(token, 0);
  return code < 0 ? 0u - (u32)code : (u32)code;
}
