// Multi-level interpolation. Twin: src/predict/interp/cpu.rs.
//
// Levels whose lattice has at most COARSE values are done by one block (`interp_coarse_*`), each pass of the others is a launch, a thread a
// value in turn. All passes together read four neighbours (from the cache, but for one), the value, and write code and decoded value: some
// 16 bytes of traffic a value of f32, more where the axis of the finest pass is the fast one.
#include "common/predict.cuh"

template <class T> __device__ void encode_anchors(const Args& a, const Quantizer<T>& q, const Work<T>& work) {
  T last = q.base, *lattice = (T*)a.decoded;
  for (u32 i = 0; i < a.state->n_anchors; ++i) {
    u32 at = anchor_place(a.shape, a.n_axes, a.state->active, i);
    bool missed;
    a.codes[i] = q.encode(work(at), last, &last, &missed);
    lattice[at] = last;
    if (missed) atomicOr(&a.missed[at >> 5], 1u << (at & 31));
    if (a.state->n_runs != 0) a.code_marks[i] = a.marks[at];
  }
}

template <class T> __device__ void encode_pass(const Args& a, const Pass& p, const Quantizer<T>& q, const Work<T>& work, u32 first, u32 step) {
  T* lattice = (T*)a.decoded;
  bool with_marks = a.state->n_runs != 0;
  for (u32 j = first; j < p.n_codes; j += step) {
    u32 m, at = place_in_pass(p, j, &m);
    T r;
    bool missed;
    a.codes[p.first_code + j] = q.encode(work(at), interpolate<T>(p, lattice, at, m), &r, &missed);
    lattice[at] = r;
    if (missed) atomicOr(&a.missed[at >> 5], 1u << (at & 31));
    if (with_marks) a.code_marks[p.first_code + j] = a.marks[at];
  }
}

template <class T> __device__ void coarse(const Args& a) {
  if (settled(a) || a.state->predictor != INTERP) return;
  Quantizer<T> q = quantizer_of<T>(a.state);
  Work<T> work = work_of<T>(a);
  if (threadIdx.x == 0) encode_anchors<T>(a, q, work);
  __syncthreads();  // the anchors are known
  for (u32 i = 0; i < a.state->n_coarse_passes; ++i) {
    encode_pass<T>(a, a.passes[i], q, work, threadIdx.x, blockDim.x);
    __syncthreads();  // the pass is done
  }
}

template <class T> __device__ void fine(const Args& a) {
  u32 i = a.state->n_coarse_passes + a.level_or_pass;
  if (settled(a) || a.state->predictor != INTERP || i >= a.state->n_passes) return;
  encode_pass<T>(a, a.passes[i], quantizer_of<T>(a.state), work_of<T>(a), blockIdx.x * BLOCK + threadIdx.x, gridDim.x * BLOCK);
}

extern "C" __global__ void __launch_bounds__(WIDE, 1) interp_coarse_f32(const Args a) { coarse<float>(a); }
extern "C" __global__ void __launch_bounds__(WIDE, 1) interp_coarse_f64(const Args a) { coarse<double>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) interp_fine_f32(const Args a) { fine<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) interp_fine_f64(const Args a) { fine<double>(a); }

// The step at a level, where bins are narrower at coarse levels: Interp::narrowing, Quantizer::narrowed. `count` is alpha | beta << 8.
template <class T> __device__ T step_at(const Args& a, u32 level) {
  double alpha = (double)(a.count & 255) / 16.0, beta = (double)(a.count >> 8) / 16.0, factor = 1.0;
  for (u32 i = 1; i < level; ++i) factor = mul(factor, alpha);
  factor = factor < beta ? factor : beta;
  return Number<T>::from_f64(__ddiv_rn(a.state->step, factor));
}

template <class T> __device__ void decode_pass(const Args& a, const Pass& p, u32 first, u32 stride) {
  T *lattice = (T*)a.decoded, step = step_at<T>(a, p.level);
  for (u32 j = first; j < p.n_codes; j += stride) {
    u32 m, at = place_in_pass(p, j, &m);
    lattice[at] = add(interpolate<T>(p, lattice, at, m), mul((T)a.codes[p.first_code + j], step));
  }
}

template <class T> __device__ void decode_coarse(const Args& a) {
  if (threadIdx.x == 0) {
    T last = (T)a.state->base, step = step_at<T>(a, a.state->n_levels + 1);
    for (u32 i = 0; i < a.state->n_anchors; ++i) {
      last = add(last, mul((T)a.codes[i], step));
      ((T*)a.decoded)[anchor_place(a.shape, a.n_axes, a.state->active, i)] = last;
    }
  }
  __syncthreads();  // the anchors are known
  for (u32 i = 0; i < a.state->n_coarse_passes; ++i) {
    decode_pass<T>(a, a.passes[i], threadIdx.x, blockDim.x);
    __syncthreads();  // the pass is done
  }
}

template <class T> __device__ void decode_fine(const Args& a) {
  u32 i = a.state->n_coarse_passes + a.level_or_pass;
  if (i < a.state->n_passes) decode_pass<T>(a, a.passes[i], blockIdx.x * BLOCK + threadIdx.x, gridDim.x * BLOCK);
}

extern "C" __global__ void __launch_bounds__(WIDE, 1) interp_decode_coarse_f32(const Args a) { decode_coarse<float>(a); }
extern "C" __global__ void __launch_bounds__(WIDE, 1) interp_decode_coarse_f64(const Args a) { decode_coarse<double>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) interp_decode_fine_f32(const Args a) { decode_fine<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) interp_decode_fine_f64(const Args a) { decode_fine<double>(a); }

// Decoding: marks in coding order, and the passes themselves from the plan that the host has read (one block).
extern "C" __global__ void __launch_bounds__(BLOCK) interp_order_marks(const Args a) {
  if (a.state->n_runs == 0 || a.state->predictor != INTERP) return;
  u32 first = blockIdx.x * BLOCK + threadIdx.x;
  for (u32 i = first; i < a.state->n_anchors; i += gridDim.x * BLOCK)
    a.code_marks[i] = a.marks[anchor_place(a.shape, a.n_axes, a.state->active, i)];
  for (u32 k = 0; k < a.state->n_passes; ++k) {
    const Pass& p = a.passes[k];
    for (u32 j = first; j < p.n_codes; j += gridDim.x * BLOCK) {
      u32 m;
      a.code_marks[p.first_code + j] = a.marks[place_in_pass(p, j, &m)];
    }
  }
}
