// Unsigned LEB128, as src/encode/bytes.rs has it.
#pragma once
#include "common.cuh"

__device__ __forceinline__ u8* put_varint(u8* out, u32 v) {
  for (; v >= 0x80; v >>= 7) *out++ = (u8)(v | 0x80);
  *out++ = (u8)v;
  return out;
}
__device__ __forceinline__ u32 varint_len(u32 v) { return v < 1u << 7 ? 1 : v < 1u << 14 ? 2 : v < 1u << 21 ? 3 : v < 1u << 28 ? 4 : 5; }
