// Logarithms, for bounds relative to each value. Twin: src/quantize/log.rs.
#include "common/block.cuh"
#include "common/number.cuh"
#include "common/state.cuh"

// ln(2)^k / k!, for k from 13 down to 0.
static __device__ const double EXP2[14] = {1.369148885390412e-12, 2.5678435993488206e-11, 4.4455382718708115e-10, 7.054911620801123e-9, 1.0178086009239699e-7,
                                           1.321548679014431e-6, 1.525273380405984e-5, 1.540353039338161e-4, 1.3333558146428444e-3, 9.618129107628477e-3,
                                           5.550410866482158e-2, 2.402265069591007e-1, 0.6931471805599453, 1.0};

__device__ double power_of_two(i64 k) { return Number<double>::from_bits((u64)(k + 1023) << 52); }

__device__ double exp2_of(double y) {
  y = y > -1100.0 ? (y < 1100.0 ? y : 1100.0) : -1100.0;
  double whole = floor(add(y, 0.5)), t = sub(y, whole), p = EXP2[0];
  for (u32 k = 1; k < 14; ++k) p = add(mul(p, t), EXP2[k]);
  i64 w = (i64)whole, half = w / 2;
  return mul(mul(p, power_of_two(half)), power_of_two(w - half));
}

template <class T> __device__ __forceinline__ bool is_apart_of_logs(const Args& a, T v) {
  return is_special<T>(v, a.has_fill, (typename Number<T>::Bits)a.fill) || Number<T>::bits(v) == 0;
}

// Logarithms to `work`; NaN for values stored apart.
template <class T> __device__ void logs(const Args& a) {
  if (idle(a)) return;
  u32 i = blockIdx.x * BLOCK + threadIdx.x;
  if (i >= a.n) return;
  T v = ((const T*)a.values)[i];
  ((double*)a.work)[i] = is_apart_of_logs<T>(a, v) ? Number<double>::nan() : log2_of(magnitude((double)v));
}
extern "C" __global__ void __launch_bounds__(BLOCK) logs_f32(const Args a) { logs<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) logs_f64(const Args a) { logs<double>(a); }

// Places where the sign changes (before the first value it is positive): count, then write.
template <class T> __device__ void signs(const Args& a, bool write) {
  if (idle(a) || (write && a.state->n_signs == 0)) return;
  const T* values = (const T*)a.values;
  u32 first = blockIdx.x * SEGMENT + threadIdx.x * ITEMS, changes = 0, n = 0;
  bool before = first > 0 && first <= a.n && (Number<T>::bits(values[first - 1]) & Number<T>::sign()) != 0;
  for (u32 e = 0; e < ITEMS && first + e < a.n; ++e) {
    bool now = (Number<T>::bits(values[first + e]) & Number<T>::sign()) != 0;
    if (now != before) {
      changes |= 1u << e;
      ++n;
    }
    before = now;
  }
  u32 total, at = block_scan(n, 0u, Add(), &total);
  if (!write) {
    if (threadIdx.x == 0) a.sums[blockIdx.x] = total;
    return;
  }
  u32* out = (u32*)((u8*)a.lists + a.state->signs_at);
  at += a.sums[blockIdx.x];
  for (u32 e = 0; e < ITEMS; ++e)
    if (changes >> e & 1) out[at++] = first + e;
}
extern "C" __global__ void __launch_bounds__(BLOCK) signs_count_f32(const Args a) { signs<float>(a, false); }
extern "C" __global__ void __launch_bounds__(BLOCK) signs_count_f64(const Args a) { signs<double>(a, false); }
extern "C" __global__ void __launch_bounds__(BLOCK) signs_write_f32(const Args a) { signs<float>(a, true); }
extern "C" __global__ void __launch_bounds__(BLOCK) signs_write_f64(const Args a) { signs<double>(a, true); }

// What codes of logarithms miss, seen in the values: replaces what was noted of the logarithms.
template <class T> __device__ void logs_check(const Args& a) {
  if (idle(a)) return;
  u32 i = blockIdx.x * BLOCK + threadIdx.x;
  bool missed = false;
  if (i < a.n) {
    T x = ((const T*)a.values)[i];
    T y = Number<T>::from_f64(exp2_of(((const double*)a.decoded)[i]));
    y = Number<T>::from_bits(Number<T>::bits(y) | (Number<T>::bits(x) & Number<T>::sign()));
    if (is_apart_of_logs<T>(a, x)) {
      bool in_run = a.state->n_runs != 0 && a.marks[i] != 0;
      missed = !in_run && Number<T>::bits(x) != Number<T>::bits(y);
    } else {
      double v = (double)x, w = (double)y;
      bool within = magnitude(sub(w, v)) <= mul(a.relative, magnitude(v));
      missed = !(within && !is_special<T>(y, a.has_fill, (typename Number<T>::Bits)a.fill));
    }
  }
  u32 word = __ballot_sync(ALL_LANES, missed);
  if ((threadIdx.x & 31) == 0 && i < a.n) a.missed[i >> 5] = word;
}
extern "C" __global__ void __launch_bounds__(BLOCK) logs_check_f32(const Args a) { logs_check<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) logs_check_f64(const Args a) { logs_check<double>(a); }

// Decoding: values from logarithms (`decoded`, f64) to `out`, with the signs of `lists`: `count` places where they change, ascending.
template <class T> __device__ void powers(const Args& a) {
  u32 i = blockIdx.x * BLOCK + threadIdx.x;
  if (i >= a.n) return;
  T y = Number<T>::from_f64(exp2_of(((const double*)a.decoded)[i]));
  u32 low = 0, high = a.count;  // changes up to i
  while (low < high) {
    u32 middle = (low + high) / 2;
    if (a.lists[middle] <= i) low = middle + 1;
    else high = middle;
  }
  if (low & 1) y = Number<T>::from_bits(Number<T>::bits(y) | Number<T>::sign());
  ((T*)a.out)[i] = y;
}
extern "C" __global__ void __launch_bounds__(BLOCK) powers_f32(const Args a) { powers<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) powers_f64(const Args a) { powers<double>(a); }
