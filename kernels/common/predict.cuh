// Prediction of single values, shared by the kernels of whole tiles and the choice on samples. Twins: src/predict/{none,lorenzo,interp}.
//
// The lattice of interpolation stays where its values lie in the raster: a neighbour on an axis is a stride away, and no pass copies what
// is known already. The arithmetic is the CPU's, value by value.
#pragma once
#include "block.cuh"
#include "number.cuh"
#include "state.cuh"

template <class T> __device__ Quantizer<T> quantizer_of(const State* s) {
  Quantizer<T> q;
  q.base = (T)s->base;
  q.step = (T)s->step;
  q.inverse = (T)s->inverse;
  q.within = (T)s->within;
  q.bound = s->bound;
  return q;
}

// Values to predict; NaN where they are stored apart.
template <class T> struct Work {
  const T* values;
  typename Number<T>::Bits fill;
  u32 has_fill;
  __device__ __forceinline__ T operator()(u32 i) const {
    T v = values[i];
    return is_special<T>(v, has_fill, fill) ? Number<T>::nan() : v;
  }
};

template <class T> __device__ Work<T> work_of(const Args& a) {
  Work<T> w;
  w.values = (const T*)a.work;
  // Logarithms are marked already.
  w.has_fill = a.mode == POINT_WISE ? 0 : a.has_fill;
  w.fill = (typename Number<T>::Bits)a.fill;
  return w;
}

// The last `axes` axes of a shape as (slow, middle, fast), padded with 1.
struct Cube {
  u32 slow, middle, fast;
};
__device__ __forceinline__ Cube cube_of(const u32* shape, u32 n_axes, u32 axes) {
  Cube c;
  c.fast = shape[n_axes - 1];
  c.middle = axes >= 2 ? shape[n_axes - 2] : 1;
  c.slow = axes >= 3 ? shape[n_axes - 3] : 1;
  return c;
}

// The mixed difference of counts at raster position `i`: `count(j)` gives the count at a position.
template <class F> __device__ __forceinline__ i32 mixed_difference(const Cube& c, u32 i, F count) {
  u32 row = i / c.fast, x = i - row * c.fast;
  u32 plane = row / c.middle, y = row - plane * c.middle, z = plane % c.slow;
  u32 below = c.middle * c.fast;
  u32 d = (u32)count(i);
  if (x > 0) d -= (u32)count(i - 1);
  if (y > 0) {
    d -= (u32)count(i - c.fast);
    if (x > 0) d += (u32)count(i - c.fast - 1);
  }
  if (z > 0) {
    d -= (u32)count(i - below);
    if (x > 0) d += (u32)count(i - below - 1);
    if (y > 0) {
      d += (u32)count(i - below - c.fast);
      if (x > 0) d -= (u32)count(i - below - c.fast - 1);
    }
  }
  return (i32)d;
}

// Gives values stored apart (`apart(i)`) in one cube, from `start` on, the count that makes their code 0. By all threads of a block. Without
// the term of its own row a prediction is D(x) - D(x-1) + count(x-1), with D from rows that are done: count - D stays what it is over
// values apart, so that a row is a scan for the last other value, and rows follow each other.
template <class F> __device__ void fill_apart(const Cube& c, u32 start, i32* counts, F apart) {
  u32 below = c.middle * c.fast;
  for (u32 row = 0; row < c.slow * c.middle; ++row) {
    u32 y = row % c.middle, z = row / c.middle, first = start + row * c.fast;
    u32 last = 0;  // of the values before, the last that is not apart, plus 1
    for (u32 x0 = 0; x0 < c.fast; x0 += blockDim.x) {
      u32 x = x0 + threadIdx.x;
      bool is_apart = x < c.fast && apart(first + x);
      u32 total, before = block_scan(x < c.fast && !is_apart ? x + 1 : 0u, 0u, Larger(), &total);
      before = before > last ? before : last;
      if (is_apart) {
        u32 count = 0;
        for (u32 k = 0; k < (before > 0 ? 2u : 1u); ++k) {
          // D at x, and less at the last value that is not apart.
          u32 at = first + (k == 0 ? x : before - 1), d = 0;
          if (y > 0) d += (u32)counts[at - c.fast];
          if (z > 0) d += (u32)counts[at - below];
          if (y > 0 && z > 0) d -= (u32)counts[at - below - c.fast];
          if (k == 0) count += d;
          else count += (u32)counts[at] - d;
        }
        counts[first + x] = (i32)count;
      }
      last = total > last ? total : last;
    }
    __syncthreads();  // the row is done
  }
}

// The value `step` places beyond an end, from the last value there and those before it.
template <class T> __device__ T beyond(u32 order, u32 n, u32 step, T f0, T f1, T f2) {
  if (n == 1) return f0;
  if (order == 0 || n == 2)
    return step == 1 ? sub(mul((T)2, f0), f1) : sub(mul((T)3, f0), mul((T)2, f1));
  return step == 1 ? add(sub(mul((T)3, f0), mul((T)3, f1)), f2) : add(sub(mul((T)6, f0), mul((T)8, f1)), mul((T)3, f2));
}

// Raster position of the value of code `j` of a pass, and its place among the new values on the axis.
__device__ __forceinline__ u32 place_in_pass(const Pass& p, u32 j, u32* on_axis) {
  u32 at = 0;
  *on_axis = 0;
  for (i32 k = (i32)p.n_axes - 1; k >= 0; --k) {
    bool is_axis = (u32)k == p.axis;
    u32 len = is_axis ? p.n_odd : p.len[k];
    u32 rest = j / len, i = j - rest * len;
    j = rest;
    if (is_axis) *on_axis = i;
    at += p.stride[k] * (is_axis ? 2 * i + 1 : i);
  }
  return at;
}

// The prediction of the value at raster position `at`, the `m`th new one on the axis.
template <class T> __device__ T interpolate(const Pass& p, const T* lattice, u32 at, u32 m) {
  u32 n = p.n_before, stride = p.stride[p.axis];
  // Known value `k` on the axis lies at an even multiple of the stride.
  u32 origin = at - (2 * m + 1) * stride;
  #define KNOWN(k) lattice[origin + 2 * (k) * stride]
  T a, b = KNOWN(m), c, d;
  if (p.wrap) {
    a = KNOWN(m == 0 ? n - 1 : m - 1);
    c = KNOWN(m + 1 < n ? m + 1 : 0);
    d = KNOWN(m + 2 < n ? m + 2 : (m + 2 == n ? 0 : 1 % n));
  } else {
    u32 last = n - 1;
    a = m > 0 ? KNOWN(m - 1) : beyond<T>(p.order, n, 1, b, KNOWN(last < 1 ? last : 1), KNOWN(last < 2 ? last : 2));
    if (m + 2 < n) {
      c = KNOWN(m + 1);
      d = KNOWN(m + 2);
    } else {
      T f0 = KNOWN(last), f1 = KNOWN(last < 1 ? 0 : last - 1), f2 = KNOWN(last < 2 ? 0 : last - 2);
      c = m + 1 < n ? KNOWN(m + 1) : beyond<T>(p.order, n, 1, f0, f1, f2);
      d = beyond<T>(p.order, n, m + 2 == n ? 1 : 2, f0, f1, f2);
    }
  }
  #undef KNOWN
  // Linear, cubic, natural: rounded to the type, as the CPU's.
  T inner = p.order == 0 ? (T)0.5 : p.order == 1 ? (T)0.5625 : (T)0.575;
  T outer = p.order == 0 ? (T)0.0 : p.order == 1 ? (T)0.0625 : (T)0.075;
  T v = sub(mul(inner, add(b, c)), mul(outer, add(a, d)));
  return is_finite(v) ? v : (T)0;
}

// Number of levels: until one value is left on every active axis.
__device__ __forceinline__ u32 level_count(const u32* shape, u32 n_axes, u32 active) {
  u32 longest = 1;
  for (u32 k = 0; k < n_axes; ++k)
    if ((active >> k & 1) && shape[k] > longest) longest = shape[k];
  return longest <= 1 ? 0 : 32 - (u32)__clz((int)(longest - 1));
}

__device__ __forceinline__ u32 anchor_count(const u32* shape, u32 n_axes, u32 active) {
  u32 n = 1;
  for (u32 k = 0; k < n_axes; ++k)
    if (!(active >> k & 1)) n *= shape[k];
  return n;
}

// Raster position of anchor `i`.
__device__ __forceinline__ u32 anchor_place(const u32* shape, u32 n_axes, u32 active, u32 i) {
  u32 at = 0, stride = 1;
  for (i32 k = (i32)n_axes - 1; k >= 0; --k) {
    if (!(active >> k & 1)) {
      at += i % shape[k] * stride;
      i /= shape[k];
    }
    stride *= shape[k];
  }
  return at;
}

// The passes of one level (1 is the finest), in coding order; gives their number. `choice` is order | permutation << 2.
__device__ u32 level_passes(const u32* shape, u32 n_axes, u32 active, u32 wrap, u32 level, u32 choice, Pass* out) {
  u32 raster[MAX_AXES], len[MAX_AXES], stride[MAX_AXES], left[MAX_AXES];
  u32 coarse = 1u << level, fine = coarse >> 1, n_passes = 0, block = 1, index = choice >> 2;
  for (i32 k = (i32)n_axes - 1; k >= 0; --k) raster[k] = (u32)k + 1 == n_axes ? 1 : raster[k + 1] * shape[k + 1];
  for (u32 k = 0; k < n_axes; ++k) {
    u32 h = active >> k & 1 ? coarse : 1;
    len[k] = (shape[k] + h - 1) / h;
    stride[k] = raster[k] * h;
    left[k] = k;
    if (k > 0) block *= k;  // (n_axes - 1)!
  }
  for (u32 step = 0; step < n_axes; ++step) {
    // The next axis of the permutation with this index, in lexicographic order.
    u32 n_left = n_axes - step, i = index / block;
    if (i >= n_left) i = n_left - 1;
    index %= block;
    if (n_left > 1) block /= n_left - 1;
    u32 axis = left[i];
    for (; i + 1 < n_left; ++i) left[i] = left[i + 1];
    if (!(active >> axis & 1)) continue;
    u32 n_before = len[axis];
    stride[axis] = raster[axis] * fine;
    len[axis] = (shape[axis] + fine - 1) / fine;
    if (len[axis] == n_before) continue;
    Pass p;
    p.level = level;
    p.axis = axis;
    p.order = choice & 3;
    p.wrap = wrap && axis + 1 == n_axes && shape[axis] % coarse == 0;
    p.n_axes = n_axes;
    p.n_before = n_before;
    p.n_odd = len[axis] - n_before;
    p.n_codes = 1;
    p.first_code = p.padding = 0;
    for (u32 k = 0; k < MAX_AXES; ++k) {
      p.len[k] = k < n_axes ? len[k] : 1;
      p.stride[k] = k < n_axes ? stride[k] : 0;
      if (k < n_axes) p.n_codes *= k == axis ? p.n_odd : len[k];
    }
    out[n_passes++] = p;
  }
  return n_passes;
}

// Whether the last axis closes on itself. Sums in f64 in the CPU's order: a thread a row.
template <class T> __device__ u32 is_circle(const Args& a, const Work<T>& work, double* across_of, double* within_of) {
  const u32 N_ROWS = 64, N_STEPS = 4096;
  u32 n = a.shape[a.n_axes - 1], n_rows = a.n / n, stride = n_rows / N_ROWS > 1 ? n_rows / N_ROWS : 1;
  if (n < 16) return 0;
  u32 every = (n - 1) / N_STEPS > 1 ? (n - 1) / N_STEPS : 1, n_steps = (n - 1 + every - 1) / every;
  u32 n_looked = (n_rows + stride - 1) / stride;
  for (u32 r = threadIdx.x; r < n_looked; r += blockDim.x) {
    u32 row = r * stride * n;
    double sum = 0.0;
    for (u32 k = 0; k < n_steps; ++k) {
      double d = magnitude(sub((double)work(row + k * every), (double)work(row + k * every + 1)));
      sum = add(sum, is_finite(d) ? d : 0.0);
    }
    double d = magnitude(sub((double)work(row + n - 1), (double)work(row)));
    across_of[r] = is_finite(d) ? d : 0.0;
    within_of[r] = __ddiv_rn(sum, (double)n_steps);
  }
  __syncthreads();  // all rows are looked at
  double across = 0.0, within = 0.0;
  for (u32 r = 0; r < n_looked; ++r) {
    across = add(across, across_of[r]);
    within = add(within, within_of[r]);
  }
  return across <= mul(2.0, within) && within > 0.0;
}
