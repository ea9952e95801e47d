// The built-in distributions, once for a device: frequencies and costs of all, then the tables of the contexts that a tile uses.
// Twin: src/encode/rans/family.rs, operation by operation in f64.
#include "common/number.cuh"
#include "common/rans.cuh"
#include "common/state.cuh"



// exp(-x) for x >= 0.
__device__ double exp_minus(double x) {
  if (x > 700.0) return 0.0;
  double y = __ddiv_rn(-x, 1024.0), sum = 1.0;
  for (u32 k = 12; k >= 1; --k) sum = add(1.0, __ddiv_rn(mul(sum, y), (double)k));
  for (u32 k = 0; k < 10; ++k) sum = mul(sum, sum);
  return sum;
}

// Density of a shape: exponentials of powers, then Student's.
__device__ double density(u32 shape, double z) {
  double r = __dsqrt_rn(z), rr = __dsqrt_rn(r);
  if (shape < 7) {
    double power = shape == 0 ? r : shape == 1 ? mul(r, rr) : shape == 2 ? mul(mul(r, rr), __dsqrt_rn(rr)) : shape == 3 ? z
                 : shape == 4 ? mul(z, rr) : shape == 5 ? mul(z, r) : mul(z, z);
    return exp_minus(power);
  }
  double v = shape == 7 ? 1.5 : shape == 8 ? 2.0 : shape == 9 ? 3.0 : shape == 10 ? 4.0 : shape == 11 ? 6.0 : 10.0;
  u32 n = shape == 7 ? 5 : shape == 8 ? 6 : shape == 9 ? 8 : shape == 10 ? 10 : shape == 11 ? 14 : 22;
  double root = __dsqrt_rn(__dsqrt_rn(add(1.0, __ddiv_rn(mul(z, z), v)))), product = 1.0;
  for (u32 k = 0; k < n; ++k) product = mul(product, root);
  return __ddiv_rn(1.0, product);
}

// The tails of all shapes: a thread a shape, one after the other from the end, as their sums have an order.
extern "C" __global__ void __launch_bounds__(32) rans_tails(const Args a) {
  __shared__ double z[TAIL_POINTS];
  if (threadIdx.x == 0) {
    double at = 1.0 / 1024.0;
    z[0] = 0.0;
    for (u32 i = 1; i < TAIL_POINTS; ++i) {
      z[i] = at;
      at = mul(at, 1.0442737824274138);
    }
    for (u32 i = 0; i < TAIL_POINTS; ++i) a.family->z[i] = z[i];
  }
  __syncthreads();  // the grid is there
  u32 shape = threadIdx.x;
  if (shape >= N_SHAPES) return;
  double *tail = a.family->tail[shape], sum = 0.0, next = density(shape, z[TAIL_POINTS - 1]);
  tail[TAIL_POINTS - 1] = 0.0;
  for (i32 i = TAIL_POINTS - 2; i >= 0; --i) {
    double here = density(shape, z[i]);
    sum = add(sum, mul(mul(0.5, add(here, next)), sub(z[i + 1], z[i])));
    tail[i] = sum;
    next = here;
  }
  for (u32 i = 0; i < TAIL_POINTS; ++i) tail[i] = __ddiv_rn(tail[i], sum);
}

// Linear between points.
__device__ double tail_at(const double* zs, const double* tail, double z) {
  // Points that are not above z.
  u32 low = 0, high = TAIL_POINTS;
  while (low < high) {
    u32 middle = (low + high) / 2;
    if (zs[middle] <= z) low = middle + 1;
    else high = middle;
  }
  if (low >= TAIL_POINTS) return 0.0;
  double share = __ddiv_rn(sub(z, zs[low - 1]), sub(zs[low], zs[low - 1]));
  return add(tail[low - 1], mul(sub(tail[low], tail[low - 1]), share));
}

// 256 log2(n), rounded down.
__device__ u32 log2_256(u32 n) {
  u32 log2 = 31 - (u32)__clz((int)n), bits = log2;
  u64 x = ((u64)n << 31) >> log2;
  for (u32 k = 0; k < 8; ++k) {
    x = (x * x) >> 31;
    u32 carry = (u32)(x >> 32);
    x >>= carry;
    bits = bits << 1 | carry;
  }
  return bits;
}

// Frequencies and costs: a thread a distribution.
extern "C" __global__ void __launch_bounds__(BLOCK) rans_frequencies(const Args a) {
  u32 id = blockIdx.x * BLOCK + threadIdx.x;
  if (id >= N_DISTRIBUTIONS) return;
  const double *z = a.family->z, *tail = a.family->tail[id / N_SCALES];
  double scale = 0.003125, total = (double)(1u << RANS_PRECISION);
  for (u32 k = 0; k < id % N_SCALES; ++k) scale = mul(scale, 1.122462048309373);
  auto at_least = [&](u32 m) { return tail_at(z, tail, __ddiv_rn(sub((double)m, 0.5), scale)); };
  u16* out = a.family->frequencies[id];
  u32 left = (1u << RANS_PRECISION) - 1, token = 1;
  for (u32 t = 0; t < RANS_TOKENS; ++t) out[t] = t == RANS_ESCAPE;
  while (token < RANS_ESCAPE) {
    u32 from = rans_smallest(token);
    bool is_pair = token < RANS_FIRST_RANGE;
    u32 next = token + (is_pair ? 2 : 1), until = next == RANS_ESCAPE ? 1u << RANS_LIMIT_LOG2 : rans_smallest(next);
    double share = mul(mul(sub(at_least(from), at_least(until)), total), is_pair ? 0.5 : 1.0);
    if (share < 0.5 && (double)from > scale) break;
    u32 frequency = (u32)add(share, 0.5);
    frequency = frequency > 1 ? frequency : 1;
    for (; token < next; ++token) {
      out[token] = (u16)frequency;
      left = left > frequency ? left - frequency : 0;
    }
  }
  // The zero takes what is left. Where rounding left nothing for it, the largest gives, of equal ones the last.
  if (left == 0) {
    u32 largest = 1, sum = 0;
    for (u32 t = 0; t < RANS_TOKENS; ++t) sum += out[t];
    for (u32 t = 1; t < RANS_ESCAPE; ++t)
      if (out[t] >= out[largest]) largest = t;
    out[largest] = (u16)(out[largest] - (sum + 1 - (1u << RANS_PRECISION)));
    left = 1;
  }
  out[0] = (u16)left;
  for (u32 t = 0; t < RANS_TOKENS; ++t) {
    bool is_escaped = out[t] == 0;
    u32 bits = log2_256(out[is_escaped ? RANS_ESCAPE : t]), plain = is_escaped ? 32 : rans_plain_bits(t);
    a.family->costs[id][t] = (u16)(256 * RANS_PRECISION - bits + 256 * plain);
  }
}

// The tables of a tile's contexts. A block a context, a thread a token.
extern "C" __global__ void __launch_bounds__(64) rans_tables(const Args a) {
  if (idle(a) || blockIdx.x >= a.fit->n_distributions) return;
  RansTable* table = &a.tables[blockIdx.x];
  const u16* frequencies = a.family->frequencies[a.fit->distributions[blockIdx.x]];
  u32 start = 0, frequency = frequencies[threadIdx.x];
  for (u32 t = 0; t < threadIdx.x; ++t) start += frequencies[t];
  table->tokens[threadIdx.x] = start | frequency << 16;
  if (frequency == 0) return;
  // Buckets whose first slot is within the token.
  u32 from = (start + (1u << SLOT_SHIFT) - 1) >> SLOT_SHIFT, to = (start + frequency + (1u << SLOT_SHIFT) - 1) >> SLOT_SHIFT;
  for (u32 k = from; k < to; ++k) table->first[k] = (u8)threadIdx.x;
}
