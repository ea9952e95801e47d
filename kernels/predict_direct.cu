// No prediction, and Lorenzo. Twins: src/predict/none/cpu.rs, src/predict/lorenzo/cpu.rs.
//
// A thread a value. Each reads its value, with Lorenzo its neighbours' too (from the cache: they are other threads' values), and writes
// a code: 8 bytes of traffic a value of f32. Where values are stored apart, counts go through memory once more.
#include "common/predict.cuh"

template <class T> __device__ void note_missed(const Args& a, u32 i, bool missed) {
  u32 word = __ballot_sync(ALL_LANES, missed);
  if ((threadIdx.x & 31) == 0 && word != 0) atomicOr(&a.missed[i >> 5], word);
}


template <class T> __device__ void counts(const Args& a) {
  if (settled(a) || a.state->predictor != LORENZO || a.state->n_special == 0) return;
  Quantizer<T> q = quantizer_of<T>(a.state);
  Work<T> work = work_of<T>(a);
  u32 i = blockIdx.x * BLOCK + threadIdx.x;
  bool missed = false;
  if (i < a.n) {
    T r;
    a.kept[i] = q.encode(work(i), q.base, &r, &missed);
    if (a.state->keep_decoded) ((T*)a.decoded)[i] = r;
  }
  note_missed<T>(a, i, missed);
}

// A block for each cube.
template <class T> __device__ void fill_cubes(const Args& a) {
  if (settled(a) || a.state->predictor != LORENZO || a.state->n_special == 0) return;
  Work<T> work = work_of<T>(a);
  Cube c = cube_of(a.shape, a.n_axes, a.state->axes);
  u32 size = c.slow * c.middle * c.fast;
  auto apart = [&](u32 i) { T v = work(i); return v != v; };
  for (u64 cube = blockIdx.x; cube * size < a.n; cube += gridDim.x) {
    u32 start = (u32)cube * size;
    fill_apart(c, start, a.kept, apart);
    if (!a.state->keep_decoded) continue;
    for (u32 i = start + threadIdx.x; i < start + size; i += BLOCK)
      if (apart(i)) ((T*)a.decoded)[i] = add((T)a.state->base, mul((T)a.kept[i], (T)a.state->step));
  }
}

template <class T> __device__ void codes(const Args& a) {
  if (settled(a) || a.state->predictor == INTERP) return;
  Quantizer<T> q = quantizer_of<T>(a.state);
  Work<T> work = work_of<T>(a);
  bool lorenzo = a.state->predictor == LORENZO, in_memory = lorenzo && a.state->n_special != 0;
  u32 i = blockIdx.x * BLOCK + threadIdx.x;
  bool missed = false;
  if (i < a.n) {
    Cube c = cube_of(a.shape, a.n_axes, lorenzo ? a.state->axes : 1);
    if (in_memory) {
      a.codes[i] = mixed_difference(c, i, [&](u32 j) { return a.kept[j]; });
    } else {
      T r;
      i32 code = q.encode(work(i), q.base, &r, &missed);
      if (lorenzo)
        code = mixed_difference(c, i, [&](u32 j) {
          T rounded;
          return round_to_code<T>(mul(sub(work(j), q.base), q.inverse), &rounded);
        });
      a.codes[i] = code;
      if (a.state->keep_decoded) ((T*)a.decoded)[i] = r;
    }
  }
  if (!in_memory) note_missed<T>(a, i, missed);
}

extern "C" __global__ void __launch_bounds__(BLOCK) lorenzo_counts_f32(const Args a) { counts<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) lorenzo_counts_f64(const Args a) { counts<double>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) lorenzo_fill_f32(const Args a) { fill_cubes<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) lorenzo_fill_f64(const Args a) { fill_cubes<double>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) direct_codes_f32(const Args a) { codes<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) direct_codes_f64(const Args a) { codes<double>(a); }

// The start of an attempt: nothing is missed yet.
extern "C" __global__ void __launch_bounds__(BLOCK) missed_clear(const Args a) {
  u32 word = blockIdx.x * BLOCK + threadIdx.x;
  if (!settled(a) && word * 32 < a.n) a.missed[word] = 0;
}

// Decoding Lorenzo: running sums along one axis, for which `level_or_pass` is 1 (fast), 2 or 3. Sums along the fast axis: a block a row;
// along others: a thread a column. Integers wrap around.
extern "C" __global__ void __launch_bounds__(BLOCK) lorenzo_sums(const Args a) {
  Cube c = cube_of(a.shape, a.n_axes, a.state->axes);
  if (a.level_or_pass == 1) {
    for (u32 start = blockIdx.x * c.fast; start < a.n; start += gridDim.x * c.fast) {
      u32 before = 0;
      for (u32 x0 = 0; x0 < c.fast; x0 += BLOCK) {
        u32 x = x0 + threadIdx.x, total, v = x < c.fast ? (u32)a.codes[start + x] : 0;
        u32 sum = block_scan(v, 0u, Add(), &total) + v + before;
        if (x < c.fast) a.codes[start + x] = (i32)sum;
        before += total;
      }
    }
    return;
  }
  u32 step = a.level_or_pass == 2 ? c.fast : c.fast * c.middle, len = a.level_or_pass == 2 ? c.middle : c.slow;
  u32 column = blockIdx.x * BLOCK + threadIdx.x;
  if (column >= a.n / len) return;
  u32 at = column / step * step * len + column % step, sum = 0;
  for (u32 k = 0; k < len; ++k, at += step) {
    sum += (u32)a.codes[at];
    a.codes[at] = (i32)sum;
  }
}

template <class T> __device__ void values(const Args& a) {
  u32 i = blockIdx.x * BLOCK + threadIdx.x;
  if (i < a.n) ((T*)a.decoded)[i] = add((T)a.state->base, mul((T)a.codes[i], (T)a.state->step));
}
extern "C" __global__ void __launch_bounds__(BLOCK) direct_values_f32(const Args a) { values<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) direct_values_f64(const Args a) { values<double>(a); }
