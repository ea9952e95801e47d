// What stands before the codes in a tile: method, bins, predictor, lists of values stored apart. Twins: compress::Encoded::to_bytes,
// src/quantize/special.rs, outlier.rs, log.rs (signs).
//
// The lists come coded (lists.cu). The codes follow at the next multiple of 8, as kernels write them by words, so the tile starts as many
// bytes before; the byte before that is the section's kind, which the checksum begins with.
#include "common/block.cuh"
#include "common/number.cuh"
#include "common/state.cuh"
#include "common/varint.cuh"

// Stands before a list in blocks: src/quantize/special.rs.
#define IN_BLOCKS 0
// More than one value in so many is many, and the host packs their bits: src/quantize/outlier.rs, Config::looks_again.
#define MANY 256

__device__ void copy_all(u8* out, const u8* from, u32 n) {
  for (u32 i = threadIdx.x; i < n; i += blockDim.x) out[i] = from[i];
}

__device__ u8* put_bits(u8* out, u64 bits, u32 n_bytes) {
  for (u32 k = 0; k < n_bytes; ++k) *out++ = (u8)(bits >> (8 * k));
  return out;
}
__device__ u64 bits_of(double v, bool is_f64) { return is_f64 ? Number<double>::bits(v) : Number<float>::bits((float)v); }

// One block.
extern "C" __global__ void __launch_bounds__(WIDE) tile_head(const Args a) {
  if (idle(a)) return;
  State* s = a.state;
  bool is_log = a.mode == POINT_WISE;
  u32 n_decisions = s->predictor == LORENZO ? 1 : s->predictor == INTERP ? 4 + s->n_levels
                  : s->predictor == FITTED ? varint_len(a.fit->plan_bytes) + a.fit->plan_bytes : 0;
  u32 number = is_log || a.is_f64 ? 8 : 4, value = a.is_f64 ? 8 : 4;

  const u32 run_bytes = s->coded_bytes[0], sign_bytes = s->coded_bytes[1], between_bytes = s->coded_bytes[2];
  if (run_bytes == ALL_LANES || sign_bytes == ALL_LANES || between_bytes == ALL_LANES || (!a.may_be_as_it_is && (u64)s->n_outliers * MANY > a.n)) {
    __syncthreads();  // all have read the state
    if (threadIdx.x == 0) s->left = NO_ROOM;
    return;
  }
  const u8* exact = (const u8*)((const u32*)((const u8*)a.lists + s->outliers_at) + s->n_outliers);
  u32 plane_bytes = s->n_outliers * value;
  // Each as `bytes`, nothing in it if there is nothing to list.
  u32 in_specials = s->n_runs == 0 ? 0 : varint_len(s->n_patterns) + 8 * s->n_patterns + varint_len(s->n_runs) + 2 + run_bytes;
  u32 in_signs = s->n_signs == 0 ? 0 : 1 + varint_len(s->n_signs) + sign_bytes;
  u32 in_outliers = s->n_outliers == 0 ? 0 : varint_len(s->n_outliers) + 1 + varint_len(between_bytes) + between_bytes + varint_len(plane_bytes * 2) + plane_bytes;
  u32 bytes = 1 + 2 * number + 1 + n_decisions + varint_len(in_specials) + in_specials + varint_len(in_outliers) + in_outliers;
  if (is_log) bytes += varint_len(in_signs) + in_signs;
  u64 codes_at = ((u64)bytes + 1 + 7) / 8 * 8;
  if (codes_at > a.capacity) {
    __syncthreads();  // all have read the state
    if (threadIdx.x == 0 && a.may_be_as_it_is) store_as_it_is(a);
    else if (threadIdx.x == 0) s->left = NO_ROOM;
    return;
  }

  u8* start = a.out + s->offset + codes_at - bytes;
  u8* out = start;
  // Small things are one thread's; the lists are everybody's.
  bool mine = threadIdx.x == 0;
  if (mine) {
    start[-1] = TILE_SECTION;
    *out++ = is_log ? 2 : 1;
    out = put_bits(out, bits_of(s->base, number == 8), number);
    out = put_bits(out, bits_of(s->step, number == 8), number);
    *out++ = (u8)s->predictor;
    if (s->predictor == LORENZO) *out++ = (u8)s->axes;
    if (s->predictor == INTERP) {
      *out++ = (u8)s->active;
      *out++ = (u8)(s->wrap != 0);
      *out++ = 16;  // alpha and beta of 1: bins of the same width on all levels
      *out++ = 16;
      for (u32 i = 0; i < s->n_levels; ++i) *out++ = s->levels[i];
    }
    if (s->predictor == FITTED) out = put_varint(out, a.fit->plan_bytes) + a.fit->plan_bytes;
    out = put_varint(out, in_specials);
    if (in_specials > 0) {
      out = put_varint(out, s->n_patterns);
      for (u32 i = 0; i < s->n_patterns; ++i) out = put_bits(out, s->patterns[i], 8);
      out = put_varint(out, s->n_runs);
      *out++ = IN_BLOCKS;
      *out++ = (u8)s->way;
    }
  }
  if (s->predictor == FITTED) {
    u8* plan = start + 1 + 2 * number + 1 + varint_len(a.fit->plan_bytes);
    for (u32 i = threadIdx.x; i < a.fit->plan_bytes; i += WIDE) plan[i] = a.plan[i];
  }
  u32 at = 1 + 2 * number + 1 + n_decisions + varint_len(in_specials) + in_specials;
  if (in_specials > 0) copy_all(start + at - run_bytes, a.coded_lists, run_bytes);
  if (is_log) {
    if (mine) {
      out = put_varint(start + at, in_signs);
      if (in_signs > 0) {
        *out++ = IN_BLOCKS;
        put_varint(out, s->n_signs);
      }
    }
    at += varint_len(in_signs) + in_signs;
    if (in_signs > 0) copy_all(start + at - sign_bytes, a.coded_lists + a.coded_list_bytes, sign_bytes);
  }
  if (mine) {
    out = put_varint(start + at, in_outliers);
    if (in_outliers > 0) {
      out = put_varint(out, s->n_outliers);
      *out++ = IN_BLOCKS;
      put_varint(out, between_bytes);
      put_varint(start + bytes - plane_bytes - varint_len(plane_bytes * 2), plane_bytes * 2);
    }
  }
  if (in_outliers > 0) copy_all(start + bytes - plane_bytes - varint_len(plane_bytes * 2) - between_bytes, a.coded_lists + 2 * a.coded_list_bytes, between_bytes);
  for (u32 i = threadIdx.x; i < plane_bytes; i += WIDE) start[bytes - plane_bytes + i] = exact[i % s->n_outliers * value + i / s->n_outliers];
  __syncthreads();  // all have read the state
  if (mine) {
    s->head_bytes = bytes;
    s->used = codes_at;
  }
}

// Where codes would have more bytes than the values: these, as they are, behind the method (exact) and how (as they are).
template <class T> __device__ void values_as_they_are(const Args& a) {
  const State* s = a.state;
  if (idle(a) || s->as_it_is == 0) return;
  u8* out = a.out + s->offset + AS_IT_IS_AT;
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    out[-1] = TILE_SECTION;
    out[0] = out[1] = 0;
  }
  for (u64 i = (u64)blockIdx.x * BLOCK + threadIdx.x; i < (u64)a.n * sizeof(T); i += (u64)gridDim.x * BLOCK) out[2 + i] = ((const u8*)a.values)[i];
}
extern "C" __global__ void __launch_bounds__(BLOCK) values_as_they_are_f32(const Args a) { values_as_they_are<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) values_as_they_are_f64(const Args a) { values_as_they_are<double>(a); }
