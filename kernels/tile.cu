// What stands before the codes in a tile: method, bins, predictor, lists of values stored apart. Twins: compress::Encoded::to_bytes,
// src/quantize/special.rs, outlier.rs, log.rs (signs).
//
// The lists come as plain numbers in `lists`; here they become the bytes of the archive, none of them behind zstd. The codes follow at the
// next multiple of 8, as kernels write them by words, so the tile starts as many bytes before; the byte before that is the section's kind,
// which the checksum begins with.
#include "common/block.cuh"
#include "common/number.cuh"
#include "common/state.cuh"
#include "common/varint.cuh"

// Runs of special values: how many others before, how many, which pattern.
struct RunList {
  const u32 *starts, *ends;
  const u8* kinds;
  bool has_kinds;
  __device__ u32 before(u32 i) const { return starts[i] - (i == 0 ? 0 : ends[i - 1]); }
  __device__ u32 size(u32 i) const { return varint_len(before(i)) + varint_len(ends[i] - starts[i]) + has_kinds; }
  __device__ void write(u32 i, u8* out) const {
    out = put_varint(put_varint(out, before(i)), ends[i] - starts[i]);
    if (has_kinds) *out = kinds[i];
  }
};

// Places, ascending, as distances from one to the next; one more at the end if there is an end.
struct GapList {
  const u32* places;
  u32 n, end;
  __device__ u32 gap(u32 i) const { return (i < n ? places[i] : end) - (i == 0 ? 0 : places[i - 1]); }
  __device__ u32 size(u32 i) const { return varint_len(gap(i)); }
  __device__ void write(u32 i, u8* out) const { put_varint(out, gap(i)); }
};

// All threads of the block call these.
template <class L> __device__ u32 list_size(const L& list, u32 n) {
  u32 bytes = 0;
  for (u32 i = threadIdx.x; i < n; i += blockDim.x) bytes += list.size(i);
  return block_reduce(bytes, 0u, Add());
}
template <class L> __device__ void write_list(const L& list, u32 n, u8* out) {
  for (u32 start = 0; start < n; start += blockDim.x) {
    u32 i = start + threadIdx.x, total;
    u32 at = block_scan(i < n ? list.size(i) : 0u, 0u, Add(), &total);
    if (i < n) list.write(i, out + at);
    out += total;
  }
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

  RunList runs;
  runs.starts = (const u32*)((const u8*)a.lists + s->runs_at);
  runs.ends = runs.starts + s->n_runs;
  runs.kinds = (const u8*)(runs.ends + s->n_runs);
  runs.has_kinds = s->n_patterns > 1;
  GapList signs, outliers;
  signs.places = (const u32*)((const u8*)a.lists + s->signs_at);
  signs.n = s->n_signs;
  signs.end = a.n;
  outliers.places = (const u32*)((const u8*)a.lists + s->outliers_at);
  outliers.n = outliers.end = s->n_outliers;
  const u8* exact = (const u8*)(outliers.places + s->n_outliers);

  u32 n_signs = s->n_signs == 0 ? 0 : s->n_signs + 1;
  u32 run_bytes = list_size(runs, s->n_runs), sign_bytes = list_size(signs, n_signs), gap_bytes = list_size(outliers, s->n_outliers);
  u32 plane_bytes = s->n_outliers * value;
  // Each as `bytes`, nothing in it if there is nothing to list.
  u32 in_specials = s->n_runs == 0 ? 0 : varint_len(s->n_patterns) + 8 * s->n_patterns + varint_len(s->n_runs) + varint_len(run_bytes * 2) + run_bytes;
  u32 in_signs = n_signs == 0 ? 0 : varint_len(sign_bytes * 2) + sign_bytes;
  u32 in_outliers = s->n_outliers == 0 ? 0 : varint_len(s->n_outliers) + varint_len(gap_bytes * 2) + gap_bytes + varint_len(plane_bytes * 2) + plane_bytes;
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
      out = put_varint(out, run_bytes * 2);
    }
  }
  if (s->predictor == FITTED) {
    u8* plan = start + 1 + 2 * number + 1 + varint_len(a.fit->plan_bytes);
    for (u32 i = threadIdx.x; i < a.fit->plan_bytes; i += WIDE) plan[i] = a.plan[i];
  }
  u32 at = 1 + 2 * number + 1 + n_decisions + varint_len(in_specials) + in_specials;
  write_list(runs, s->n_runs, start + at - run_bytes);
  if (is_log) {
    if (mine) {
      out = put_varint(start + at, in_signs);
      if (in_signs > 0) put_varint(out, sign_bytes * 2);
    }
    at += varint_len(in_signs) + in_signs;
    write_list(signs, n_signs, start + at - sign_bytes);
  }
  if (mine) {
    out = put_varint(start + at, in_outliers);
    if (in_outliers > 0) {
      out = put_varint(out, s->n_outliers);
      put_varint(out, gap_bytes * 2);
      put_varint(start + bytes - plane_bytes - varint_len(plane_bytes * 2), plane_bytes * 2);
    }
  }
  write_list(outliers, s->n_outliers, start + bytes - plane_bytes - (s->n_outliers == 0 ? 0 : varint_len(plane_bytes * 2)) - gap_bytes);
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
