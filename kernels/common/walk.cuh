// The tokens of a part of a chunk, by all threads of a block, SEGMENT codes at once. Twin: src/encode/huffman/tokenize.rs.
//
// A code other than 0 makes a token for the zeros before it, if there are any, and one for itself; the end of a part makes one for the
// zeros before it. Position `len` stands for that end.
#pragma once
#include "block.cuh"
#include "token.cuh"

struct Part {
  u32 chunk, start, len;  // codes from `start` on
};

// Part `index` of all: four a chunk, of nearly equal length.
__device__ __forceinline__ Part part_of(u32 index, u32 n_codes) {
  Part p;
  p.chunk = index / 4;
  u32 first = p.chunk * CHUNK, k = index % 4;
  u32 len = first < n_codes ? (n_codes - first < CHUNK ? n_codes - first : CHUNK) : 0;
  u32 from = len * k / 4, to = len * (k + 1) / 4;
  p.start = first + from;
  p.len = to - from;
  return p;
}

struct Walk {
  i32 code[ITEMS];
  const i32* codes;
  u32 len, first, before;  // `before`: place of the last code that is not 0 before `first`, plus 1; 0 if there is none
  u32 t1, t2;

  // Loads codes [start, start + SEGMENT); `carry` is `before` of the segment, and becomes that of the next.
  __device__ Walk(const i32* codes, u32 len, u32 start, u32* carry, const u32* thresholds) : codes(codes), len(len) {
    t1 = thresholds[0];
    t2 = thresholds[1];
    first = start + threadIdx.x * ITEMS;
    u32 last = 0;
    for (u32 e = 0; e < ITEMS; ++e) {
      code[e] = first + e < len ? codes[first + e] : 0;
      if (code[e] != 0) last = first + e + 1;
    }
    u32 total;
    before = block_scan(last, 0u, Larger(), &total);
    before = before > *carry ? before : *carry;
    *carry = total > *carry ? total : *carry;
  }

  // Calls `emit(context, token)` for the tokens of this thread's codes, in order.
  template <class F> __device__ __forceinline__ void tokens(F& emit) const {
    u32 last = before;
    u32 context = last == 0 ? FIRST_CONTEXT : 0;
    // The context after the code before, which another thread has.
    bool known = last == 0;
    for (u32 e = 0; e < ITEMS; ++e) {
      u32 at = first + e;
      if (at > len) return;
      if (at < len && code[e] == 0) continue;
      u32 run = at - last;
      if (at == len && run == 0) return;
      if (!known) context = context_after(token_of_value(codes[last - 1]).id, t1, t2);
      known = true;
      if (run > 0) {
        emit(context, token_of_run(run));
        context = 0;
      }
      if (at == len) return;
      Token t = token_of_value(code[e]);
      emit(context, t);
      context = context_after(t.id, t1, t2);
      last = at + 1;
    }
  }
};
