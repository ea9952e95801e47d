// Floats: their bits, rounding to codes, special values. Twin of src/quantize/cpu.rs and src/bound.rs.
//
// Every addition and multiplication that a decoder repeats is written with an intrinsic that is never contracted. Where the encoder's sums of
// products are fused, as on the CPU, that is written too (fitted_learn.cu).
#pragma once
#include "common.cuh"

__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }
__device__ __forceinline__ double sub(double a, double b) { return __dsub_rn(a, b); }
__device__ __forceinline__ double mul(double a, double b) { return __dmul_rn(a, b); }

template <class T> struct Number;

template <> struct Number<float> {
  typedef u32 Bits;
  static const u32 BYTES = 4;
  static __device__ __forceinline__ u32 bits(float v) { return __float_as_uint(v); }
  static __device__ __forceinline__ float from_bits(u64 b) { return __uint_as_float((u32)b); }
  static __device__ __forceinline__ float from_f64(double v) { return __double2float_rn(v); }
  static __device__ __forceinline__ float max() { return __uint_as_float(0x7f7fffffu); }
  static __device__ __forceinline__ float nan() { return __uint_as_float(0x7fc00000u); }
  static __device__ __forceinline__ float magic() { return 12582912.0f; }     // 1.5 * 2^23
  static __device__ __forceinline__ float max_code() { return 4194303.0f; }   // 2^22 - 1
  static __device__ __forceinline__ double epsilon() { return 1.1920928955078125e-7; }
  static __device__ __forceinline__ u32 sign() { return 0x80000000u; }
};

template <> struct Number<double> {
  typedef u64 Bits;
  static const u32 BYTES = 8;
  static __device__ __forceinline__ u64 bits(double v) { return (u64)__double_as_longlong(v); }
  static __device__ __forceinline__ double from_bits(u64 b) { return __longlong_as_double((i64)b); }
  static __device__ __forceinline__ double from_f64(double v) { return v; }
  static __device__ __forceinline__ double max() { return __longlong_as_double(0x7fefffffffffffffll); }
  static __device__ __forceinline__ double nan() { return __longlong_as_double(0x7ff8000000000000ll); }
  static __device__ __forceinline__ double magic() { return 6755399441055744.0; }  // 1.5 * 2^52
  static __device__ __forceinline__ double max_code() { return 1073741823.0; }     // 2^30 - 1
  static __device__ __forceinline__ double epsilon() { return 2.220446049250313e-16; }
  static __device__ __forceinline__ u64 sign() { return 0x8000000000000000ull; }
};

template <class T> __device__ __forceinline__ T magnitude(T v) { return Number<T>::from_bits(Number<T>::bits(v) & ~Number<T>::sign()); }
template <class T> __device__ __forceinline__ bool is_finite(T v) { return magnitude(v) <= Number<T>::max(); }
__device__ __forceinline__ double infinity() { return __longlong_as_double(0x7ff0000000000000ll); }

// 2 / (ln 2 (2k + 1)), for k from 11 down to 0.
static __device__ const double LOG2[12] = {0.12545174268599682, 0.1373995277037108, 0.15186263588304877, 0.16972882833987804, 0.19235933878519512, 0.22195308321368667,
                                           0.2623081892525388, 0.3205988979753252, 0.4121985831111324, 0.5770780163555853, 0.9617966939259756, 2.8853900817779268};

// log2 of a finite number above 0, to 1e-14: an odd series in (m - 1) / (m + 1) for a mantissa m near 1.
__device__ double log2_of(double x) {
  i64 e = 0;
  if (x < 2.2250738585072014e-308) {
    x = mul(x, 18014398509481984.0);  // 2^54
    e = -54;
  }
  u64 bits = Number<double>::bits(x);
  e += (i64)(bits >> 52) - 1023;
  double m = Number<double>::from_bits((bits & 0xfffffffffffffull) | 0x3ff0000000000000ull);
  if (m > 1.4142135623730951) {
    m = mul(m, 0.5);
    e += 1;
  }
  double s = __ddiv_rn(sub(m, 1.0), add(m, 1.0)), z = mul(s, s), p = LOG2[0];
  for (u32 k = 1; k < 12; ++k) p = add(mul(p, z), LOG2[k]);
  return add((double)e, mul(s, p));
}

// Whether a value must come back bit for bit: NaN, infinities, -0.0, the fill value.
template <class T> __device__ __forceinline__ bool is_special(T v, u32 has_fill, typename Number<T>::Bits fill) {
  typename Number<T>::Bits bits = Number<T>::bits(v);
  return !is_finite(v) | (bits == Number<T>::sign()) | (has_fill != 0 && bits == fill);
}

// Nearest integer of `t`, half to even, as code and as float; 0 if it is beyond the largest code or NaN.
template <class T> __device__ __forceinline__ i32 round_to_code(T t, T* rounded) {
  t = magnitude(t) <= Number<T>::max_code() ? t : (T)0;
  T shifted = add(t, Number<T>::magic());
  *rounded = sub(shifted, Number<T>::magic());
  return (i32)(u32)(Number<T>::bits(shifted) - Number<T>::bits(Number<T>::magic()));
}

// How values become codes: src/quantize/mod.rs.
template <class T> struct Quantizer {
  T base, step, inverse, within;
  double bound;

  // The code of `x` predicted as `p`; what the decoder makes of it; whether that misses the bound. NaN never misses.
  __device__ __forceinline__ i32 encode(T x, T p, T* decoded, bool* missed) const {
    T rounded;
    i32 code = round_to_code<T>(mul(sub(x, p), inverse), &rounded);
    T r = add(p, mul(rounded, step));
    *decoded = r;
    *missed = x == x && !(magnitude(sub(r, x)) < within) && !(magnitude((double)r - (double)x) <= bound);
    return code;
  }
};
