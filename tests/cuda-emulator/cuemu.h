// The device side of the software driver: with it a .cu file compiles as ordinary C++ and runs on fibers.
// Included by kernels/common/common.cuh where CUEMU is defined. The other side is libcuda.cpp.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <utility>

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct alignas(8) uint2 { unsigned x, y; };   struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };         struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };     struct alignas(16) float4 { float x, y, z, w; };
struct alignas(4) ushort2 { unsigned short x, y; }; struct alignas(8) ushort4 { unsigned short x, y, z, w; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace cuemu {
struct Warp; struct Block;
struct Thread {              // one CUDA thread
  uint3 tid; unsigned lane; Warp* warp; Block* blk;
  void* sp; struct Stack* stack; void* tsan;
  const char* where; int line;            // what it waits at (for reports)
};
struct BlockInfo { uint3 bid; dim3 bdim, gdim; unsigned char* dyn; bool chaos; };  // first member of Block
extern thread_local Thread* cur;
inline BlockInfo& blk() { return *reinterpret_cast<BlockInfo*>(cur->blk); }
// implemented in libcuda.cpp
const uint64_t* collect(unsigned mask, uint64_t v, const char* op, int line, unsigned* valid);
unsigned barrier(int kind, int pred, int line);           // 0 plain, 1 count, 2 and, 3 or
void yield();
void chaos_point();
void reg(const char* name, void (*thunk)(void**), const size_t* sizes, int n);
void syncwarp(unsigned mask, int line);
void trap(const char* what);
inline void pt() { if (__builtin_expect(blk().chaos, 0)) chaos_point(); }

template <auto F> struct K;
template <class... A, void (*F)(A...)> struct K<F> {
  static constexpr size_t sizes[sizeof...(A) + 1] = {sizeof(A)..., 0};
  template <size_t... I> static void go(void** p, std::index_sequence<I...>) { F(*static_cast<std::remove_reference_t<std::remove_cv_t<A>>*>(p[I])...); }
  static void call(void** p) { go(p, std::index_sequence_for<A...>{}); }
  explicit K(const char* n) { reg(n, &call, sizes, sizeof...(A)); }
};
#define CUEMU_KERNEL(f) static ::cuemu::K<&f> cuemu_reg_##f(#f);

template <class T> inline uint64_t pack(T v) { static_assert(sizeof(T) <= 8, ""); uint64_t u = 0; memcpy(&u, &v, sizeof v); return u; }
template <class T> inline T unpack(uint64_t u) { T v; memcpy(&v, &u, sizeof v); return v; }
template <class T> inline T shfl_from(const uint64_t* b, unsigned valid, unsigned src, T) {
  if (!(valid >> src & 1)) { uint64_t poison = 0xDEADBEEFDEADBEEFull; return unpack<T>(poison); }  // undefined in CUDA
  return unpack<T>(b[src]);
}
template <class T> T shfl(unsigned m, T v, int s, int w, int ln) {
  unsigned ok, l = cur->lane; const uint64_t* b = collect(m, pack(v), "shfl", ln, &ok);
  return shfl_from(b, ok, (l & ~(w - 1)) | (s & (w - 1)), v); }
template <class T> T shfl_up(unsigned m, T v, unsigned d, int w, int ln) {
  unsigned ok, l = cur->lane; const uint64_t* b = collect(m, pack(v), "shfl_up", ln, &ok);
  return (l & (w - 1)) < d ? v : shfl_from(b, ok, l - d, v); }
template <class T> T shfl_down(unsigned m, T v, unsigned d, int w, int ln) {
  unsigned ok, l = cur->lane; const uint64_t* b = collect(m, pack(v), "shfl_down", ln, &ok);
  return (l & (w - 1)) + d >= (unsigned)w ? v : shfl_from(b, ok, l + d, v); }
template <class T> T shfl_xor(unsigned m, T v, int x, int w, int ln) {
  unsigned ok, l = cur->lane, s = l ^ x; const uint64_t* b = collect(m, pack(v), "shfl_xor", ln, &ok);
  return s >= (l & ~(w - 1)) + w ? v : shfl_from(b, ok, s, v); }
inline unsigned ballot(unsigned m, int p, int ln) {
  unsigned ok, r = 0; const uint64_t* b = collect(m, p != 0, "ballot", ln, &ok);
  for (int i = 0; i < 32; ++i) if ((ok >> i & 1) && b[i]) r |= 1u << i;
  return r; }
inline int vote(unsigned m, int p, bool all, int ln) {
  unsigned ok, r = 0; const uint64_t* b = collect(m, p != 0, all ? "all" : "any", ln, &ok);
  for (int i = 0; i < 32; ++i) if ((ok >> i & 1) && b[i]) r |= 1u << i;
  return all ? r == ok : r != 0; }
template <class T> unsigned match_any(unsigned m, T v, int ln) {
  unsigned ok, r = 0; uint64_t me = pack(v); const uint64_t* b = collect(m, me, "match_any", ln, &ok);
  for (int i = 0; i < 32; ++i) if ((ok >> i & 1) && b[i] == me) r |= 1u << i;
  return r; }
template <class T, class Op> T reduce(unsigned m, T v, Op op, const char* name, int ln) {
  unsigned ok; const uint64_t* b = collect(m, pack(v), name, ln, &ok); bool first = true; T r{};
  for (int i = 0; i < 32; ++i) if (ok >> i & 1) { T x = unpack<T>(b[i]); r = first ? x : op(r, x); first = false; }
  return r; }
}  // namespace cuemu

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __restrict__ __restrict
#define __constant__ static
#ifdef CUEMU_STATIC_SHARED      // sanitizer builds: one worker, real globals => ASan red zones
#  define __shared__ static
#else                           // one OS thread runs one block at a time
#  define __shared__ static thread_local
#endif
#define DYN_SHARED(T, name) T* name = reinterpret_cast<T*>(::cuemu::blk().dyn)
#define SPIN_PAUSE() ::cuemu::yield()
#define threadIdx (::cuemu::cur->tid)
#define blockIdx (::cuemu::blk().bid)
#define blockDim (::cuemu::blk().bdim)
#define gridDim (::cuemu::blk().gdim)
static constexpr int warpSize = 32;

#define __syncthreads() ((void)::cuemu::barrier(0, 0, __LINE__))
#define __syncthreads_count(p) ((int)::cuemu::barrier(1, (p) != 0, __LINE__))
#define __syncthreads_and(p) ((int)::cuemu::barrier(2, (p) != 0, __LINE__))
#define __syncthreads_or(p) ((int)::cuemu::barrier(3, (p) != 0, __LINE__))
#define CUEMU_ARG2(a, b, ...) b
static inline unsigned cuemu_mask() { return 0xffffffffu; }
static inline unsigned cuemu_mask(unsigned m) { return m; }
#define __syncwarp(...) (::cuemu::syncwarp(cuemu_mask(__VA_ARGS__), __LINE__))
// optional width argument: dispatch through small lambdas-free overloads carrying the line as a builtin default
template <class T> static inline T __shfl_sync(unsigned m, T v, int s, int w = 32, int ln = __builtin_LINE()) { return cuemu::shfl(m, v, s, w, ln); }
template <class T> static inline T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32, int ln = __builtin_LINE()) { return cuemu::shfl_up(m, v, d, w, ln); }
template <class T> static inline T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32, int ln = __builtin_LINE()) { return cuemu::shfl_down(m, v, d, w, ln); }
template <class T> static inline T __shfl_xor_sync(unsigned m, T v, int x, int w = 32, int ln = __builtin_LINE()) { return cuemu::shfl_xor(m, v, x, w, ln); }
static inline unsigned __ballot_sync(unsigned m, int p, int ln = __builtin_LINE()) { return cuemu::ballot(m, p, ln); }
static inline int __any_sync(unsigned m, int p, int ln = __builtin_LINE()) { return cuemu::vote(m, p, false, ln); }
static inline int __all_sync(unsigned m, int p, int ln = __builtin_LINE()) { return cuemu::vote(m, p, true, ln); }
template <class T> static inline unsigned __match_any_sync(unsigned m, T v, int ln = __builtin_LINE()) { return cuemu::match_any(m, v, ln); }
#define CUEMU_RED(name, T, expr) static inline T name(unsigned m, T v, int ln = __builtin_LINE()) { return cuemu::reduce(m, v, [](T a, T b) -> T { return expr; }, #name, ln); }
CUEMU_RED(__reduce_add_sync, unsigned, a + b) CUEMU_RED(__reduce_add_sync, int, (int)((unsigned)a + (unsigned)b))
CUEMU_RED(__reduce_max_sync, unsigned, a > b ? a : b) CUEMU_RED(__reduce_max_sync, int, a > b ? a : b)
CUEMU_RED(__reduce_min_sync, unsigned, a < b ? a : b) CUEMU_RED(__reduce_min_sync, int, a < b ? a : b)
CUEMU_RED(__reduce_or_sync, unsigned, a | b) CUEMU_RED(__reduce_and_sync, unsigned, a & b) CUEMU_RED(__reduce_xor_sync, unsigned, a ^ b)

// ---- atomics: relaxed, as in CUDA -------------------------------------------------------------
#define CUEMU_RMW(T) \
  static inline T atomicAdd(T* p, T v) { cuemu::pt(); return (T)__atomic_fetch_add(p, v, __ATOMIC_RELAXED); } \
  static inline T atomicSub(T* p, T v) { cuemu::pt(); return (T)__atomic_fetch_sub(p, v, __ATOMIC_RELAXED); } \
  static inline T atomicOr(T* p, T v) { cuemu::pt(); return (T)__atomic_fetch_or(p, v, __ATOMIC_RELAXED); } \
  static inline T atomicAnd(T* p, T v) { cuemu::pt(); return (T)__atomic_fetch_and(p, v, __ATOMIC_RELAXED); } \
  static inline T atomicXor(T* p, T v) { cuemu::pt(); return (T)__atomic_fetch_xor(p, v, __ATOMIC_RELAXED); } \
  static inline T atomicExch(T* p, T v) { cuemu::pt(); return (T)__atomic_exchange_n(p, v, __ATOMIC_RELAXED); } \
  static inline T atomicCAS(T* p, T c, T v) { cuemu::pt(); __atomic_compare_exchange_n(p, &c, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); return c; } \
  static inline T atomicMax(T* p, T v) { cuemu::pt(); T o = __atomic_load_n(p, __ATOMIC_RELAXED); while (o < v && !__atomic_compare_exchange_n(p, &o, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {} return o; } \
  static inline T atomicMin(T* p, T v) { cuemu::pt(); T o = __atomic_load_n(p, __ATOMIC_RELAXED); while (o > v && !__atomic_compare_exchange_n(p, &o, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {} return o; }
CUEMU_RMW(int) CUEMU_RMW(unsigned) CUEMU_RMW(unsigned long long)
static inline float atomicAdd(float* p, float v) {
  cuemu::pt(); uint32_t* q = reinterpret_cast<uint32_t*>(p), o = __atomic_load_n(q, __ATOMIC_RELAXED), n; float f;
  do { memcpy(&f, &o, 4); f += v; memcpy(&n, &f, 4); } while (!__atomic_compare_exchange_n(q, &o, n, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  memcpy(&f, &o, 4); return f; }
static inline void st_release_u64(unsigned long long* p, unsigned long long v) { cuemu::pt(); __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline unsigned long long ld_acquire_u64(const unsigned long long* p) { cuemu::pt(); return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void __threadfence() { __asm__ volatile("mfence" ::: "memory"); cuemu::pt(); }
static inline void __threadfence_block() { __asm__ volatile("" ::: "memory"); cuemu::pt(); }
static inline void __nanosleep(unsigned) { cuemu::yield(); }
static inline void __trap() { cuemu::trap("__trap()"); }
#undef assert
#define assert(c) ((c) ? (void)0 : ::cuemu::trap("assert(" #c ")"))

// ---- bit, load and float intrinsics -------------------------------------------------------------
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline unsigned __brev(unsigned v) { v = __builtin_bswap32(v); v = (v >> 4 & 0x0f0f0f0f) | (v & 0x0f0f0f0f) << 4; v = (v >> 2 & 0x33333333) | (v & 0x33333333) << 2; return (v >> 1 & 0x55555555) | (v & 0x55555555) << 1; }
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned s) { s &= 31; return s ? hi << s | lo >> (32 - s) : hi; }
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned s) { s &= 31; return s ? hi << (32 - s) | lo >> s : lo; }
template <class T> static inline T __ldg(const T* p) { return *p; }
template <class T> static inline T __ldcg(const T* p) { return *p; }
template <class T> static inline T __ldcs(const T* p) { return *p; }
template <class T> static inline void __stcs(T* p, T v) { *p = v; }
static inline float __fadd_rn(float a, float b) { return a + b; }    // built with -ffp-contract=off
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return __builtin_sqrt(a); }
static inline float __double2float_rn(double a) { return (float)a; }
static inline unsigned long long __double_as_longlong(double d) { unsigned long long u; memcpy(&u, &d, 8); return u; }
static inline double __longlong_as_double(long long u) { double d; memcpy(&d, &u, 8); return d; }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned long long)((unsigned __int128)a * b >> 64); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
static inline int __float2int_rn(float f) { if (f != f) return 0; float r = __builtin_rintf(f); return r >= 2147483648.f ? 2147483647 : r < -2147483648.f ? (int)0x80000000 : (int)r; }  // cvt.rni.s32.f32 saturates
static inline int __float2int_rz(float f) { if (f != f) return 0; return f >= 2147483648.f ? 2147483647 : f < -2147483648.f ? (int)0x80000000 : (int)f; }
static inline int __float2int_rd(float f) { return __float2int_rz(__builtin_floorf(f)); }
static inline float __int2float_rn(int i) { return (float)i; }
static inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
static inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
static inline int __float_as_int(float f) { int u; memcpy(&u, &f, 4); return u; }
static inline float __int_as_float(int u) { float f; memcpy(&f, &u, 4); return f; }
template <class A, class B> static inline std::common_type_t<A, B> min(A a, B b) { using T = std::common_type_t<A, B>; return (T)a < (T)b ? (T)a : (T)b; }
template <class A, class B> static inline std::common_type_t<A, B> max(A a, B b) { using T = std::common_type_t<A, B>; return (T)a > (T)b ? (T)a : (T)b; }
