// The choice of a predictor by its cost on samples. Twins: src/predict/choose.rs, src/predict/interp/choose.rs.
//
// One block does it all: two samples of at most SAMPLE_MAX values, tried with each candidate in turn; what bounds it is the latency of some
// hundred dependent passes over them, not memory. Costs are integers, so that the choice is the CPU's.
#include "common/cost.cuh"
#include "common/predict.cuh"

#define SAMPLE_MIN 4096
#define SAMPLE_SHARE 32

struct Sampling {
  u32 n_axes, n_samples, n;  // n: values of a sample
  u32 shape[MAX_AXES];
  u32 start[2][MAX_AXES];
};

__device__ Sampling take_samples(const Args& a) {
  Sampling s;
  u32 target = a.n / SAMPLE_SHARE;
  target = target < SAMPLE_MIN ? SAMPLE_MIN : target > SAMPLE_MAX ? SAMPLE_MAX : target;
  s.n_axes = a.n_axes;
  s.n = a.n;
  for (u32 k = 0; k < MAX_AXES; ++k) s.shape[k] = k < a.n_axes ? a.shape[k] : 1;
  while (s.n > target) {
    u32 longest = 0;
    for (u32 k = 1; k < a.n_axes; ++k)
      if (s.shape[k] >= s.shape[longest]) longest = k;  // of equal ones the last
    s.shape[longest] = (s.shape[longest] + 1) / 2;
    s.n = 1;
    for (u32 k = 0; k < a.n_axes; ++k) s.n *= s.shape[k];
  }
  bool whole = true;
  for (u32 k = 0; k < a.n_axes; ++k) {
    whole = whole && s.shape[k] == a.shape[k];
    s.start[0][k] = (a.shape[k] - s.shape[k]) * 2 / 8;
    s.start[1][k] = (a.shape[k] - s.shape[k]) * 5 / 8;
  }
  s.n_samples = whole ? 1 : 2;
  return s;
}

// Lorenzo along `axes` axes of one sample; `counts` has room for it.
template <class T>
__device__ void cost_of_lorenzo(const Sampling& s, const T* sample, i32* counts, u32 axes, const Quantizer<T>& q, Cost* cost) {
  u32 n_zeros = 0, n_missed = 0;
  bool apart = false;
  for (u32 i = threadIdx.x; i < s.n; i += blockDim.x) {
    T r;
    bool missed;
    counts[i] = q.encode(sample[i], q.base, &r, &missed);
    n_missed += missed;
    apart |= sample[i] != sample[i];
  }
  Cube c = cube_of(s.shape, s.n_axes, axes);
  u32 size = c.slow * c.middle * c.fast;
  if (__syncthreads_or(apart))
    for (u32 start = 0; start < s.n; start += size) fill_apart(c, start, counts, [&](u32 i) { return sample[i] != sample[i]; });
  for (u32 i = threadIdx.x; i < s.n; i += blockDim.x)
    add_code(cost, mixed_difference(c, i, [&](u32 j) { return counts[j]; }), &n_zeros);
  add_zeros(cost, n_zeros, n_missed);
  __syncthreads();  // the room may be used again
}

template <class T> __device__ void sample_anchors(const Sampling& s, const T* sample, T* lattice, u32 active, const Quantizer<T>& q) {
  if (threadIdx.x == 0) {
    T last = q.base;
    u32 n = anchor_count(s.shape, s.n_axes, active);
    for (u32 i = 0; i < n; ++i) {
      u32 at = anchor_place(s.shape, s.n_axes, active, i);
      bool missed;
      q.encode(sample[at], last, &last, &missed);
      lattice[at] = last;
    }
  }
  __syncthreads();  // the anchors are known
}

// One level of one sample, on the lattice that is there.
template <class T>
__device__ void cost_of_level(const Sampling& s, const T* sample, T* lattice, u32 active, u32 level, u32 choice, const Quantizer<T>& q, Cost* cost,
                              Pass* passes, u32* n_passes) {
  if (threadIdx.x == 0) *n_passes = level_passes(s.shape, s.n_axes, active, 0, level, choice, passes);
  __syncthreads();  // the passes are known
  // At least one: else the next level's would be written while others still read.
  u32 n_zeros = 0, n_missed = 0, n = *n_passes;
  for (u32 i = 0; i < n; ++i) {
    const Pass& p = passes[i];
    for (u32 j = threadIdx.x; j < p.n_codes; j += blockDim.x) {
      u32 m, at = place_in_pass(p, j, &m);
      T r;
      bool missed;
      add_code(cost, q.encode(sample[at], interpolate<T>(p, lattice, at, m), &r, &missed), &n_zeros);
      n_missed += missed;
      lattice[at] = r;
    }
    __syncthreads();  // the pass is done
  }
  add_zeros(cost, n_zeros, n_missed);
}

// Index of the permutation of `n` axes that has `last` last and the others in order.
__device__ u32 permutation_with_last(u32 n, u32 last) {
  // Every axis after `last` comes one place earlier: in lexicographic order each of the places from `last` on skips one.
  u32 index = 0;
  for (u32 k = last; k + 1 < n; ++k) {
    u32 f = 1;
    for (u32 i = 2; i <= n - 1 - k; ++i) f *= i;
    index += f;
  }
  return index;
}

// Rooms in `samples`, each of SAMPLE_MAX values: the samples, and three lattices of each.
template <class T> __device__ T* room(const Args& a, u32 i) { return (T*)a.samples + (u64)i * SAMPLE_MAX; }

// The cheapest order and axes of each level of the samples, coarse to fine, each on the decoded values of those before; gives the cost.
template <class T>
__device__ u64 choose_levels(const Args& a, const Sampling& s, u32 active, const Quantizer<T>& q, Cost* cost, Pass* passes, u32* n_passes, u8* levels) {
  u32 n_levels = level_count(s.shape, s.n_axes, active);
  u32 known = 2, best_room = 4, trial = 6;  // of the first sample; the second's is the next
  for (u32 k = 0; k < s.n_samples; ++k) sample_anchors<T>(s, room<T>(a, k), room<T>(a, known + k), active, q);
  u64 total = 0;
  for (u32 level = n_levels; level >= 1; --level) {
    u64 best_cost = ~(u64)0;
    u32 best = 0;
    // The formula first (cubic, linear, natural, each with the last axis last), then the axes. Of equal ones the first.
    for (u32 candidate = 0; candidate < 3 + (level <= 2 ? a.n_axes - 1 : 0); ++candidate) {
      u32 choice;
      if (candidate < 3) {
        choice = candidate == 0 ? 1 : candidate == 1 ? 0 : 2;
      } else {
        u32 last = a.n_axes - 1 - (candidate - 2);
        u32 permutation = permutation_with_last(a.n_axes, last);
        if (!(active >> last & 1) || permutation >= 64) continue;
        choice = (best & 3) | permutation << 2;
      }
      clear_cost(cost);
      for (u32 k = 0; k < s.n_samples; ++k) {
        T *from = room<T>(a, known + k), *to = room<T>(a, trial + k);
        for (u32 i = threadIdx.x; i < s.n; i += blockDim.x) to[i] = from[i];
        __syncthreads();  // a copy to work on
        cost_of_level<T>(s, room<T>(a, k), to, active, level, choice, q, cost, passes, n_passes);
      }
      u64 c = total_cost<T>(cost);
      if (c < best_cost) {
        best_cost = c;
        best = choice;
        u32 swap = best_room;
        best_room = trial;
        trial = swap;
      }
      __syncthreads();  // the cost is read
    }
    if (threadIdx.x == 0) levels[n_levels - level] = (u8)best;
    total += best_cost;
    u32 swap = known;
    known = best_room;
    best_room = swap;
  }
  __syncthreads();  // the levels are known
  return total;
}

template <class T> __device__ void choose(const Args& a) {
  if (settled(a)) return;
  State* s = a.state;
  if (a.asked == NONE || a.n < 2) {
    if (threadIdx.x == 0) s->predictor = NONE;
    return;
  }
  __shared__ Cost cost;
  __shared__ Pass passes[MAX_AXES];
  __shared__ u32 n_passes;
  __shared__ u8 levels[32];
  __shared__ double across[128], within[128];
  Quantizer<T> q = quantizer_of<T>(s);
  Work<T> work = work_of<T>(a);
  Sampling sampling = take_samples(a);
  for (u32 k = 0; k < sampling.n_samples; ++k) {
    for (u32 i = threadIdx.x; i < sampling.n; i += blockDim.x) {
      u32 at = 0, rest = i, stride = 1;
      for (i32 axis = (i32)a.n_axes - 1; axis >= 0; --axis) {
        at += (sampling.start[k][axis] + rest % sampling.shape[axis]) * stride;
        rest /= sampling.shape[axis];
        stride *= a.shape[axis];
      }
      room<T>(a, k)[i] = work(at);
    }
  }
  __syncthreads();  // the samples are there
  u64 lorenzo_cost = ~(u64)0, interp_cost = ~(u64)0;
  u32 lorenzo_axes = 1, active = 0, wrap = 0;
  if (a.asked != INTERP) {
    for (u32 axes = 1; axes <= (a.n_axes < 3 ? a.n_axes : 3); ++axes) {
      clear_cost(&cost);
      for (u32 k = 0; k < sampling.n_samples; ++k) cost_of_lorenzo<T>(sampling, room<T>(a, k), (i32*)room<T>(a, 2), axes, q, &cost);
      u64 c = total_cost<T>(&cost);
      if (c < lorenzo_cost) {
        lorenzo_cost = c;
        lorenzo_axes = axes;
      }
      __syncthreads();  // the cost is read
    }
  }
  if (a.asked != LORENZO) {
    // Sets of axes: all, and the last two or three.
    u32 all = (1u << a.n_axes) - 1;
    active = all;
    u64 best = ~(u64)0;
    if (a.n_axes > 2) {
      for (u32 set = 0; set < (a.n_axes < 4 ? a.n_axes - 1 : 3); ++set) {
        u32 n_active = set == 0 ? a.n_axes : set + 1;
        u32 tried = all & ~((1u << (a.n_axes - n_active)) - 1);
        clear_cost(&cost);
        for (u32 k = 0; k < sampling.n_samples; ++k) {
          T* lattice = room<T>(a, 2);
          sample_anchors<T>(sampling, room<T>(a, k), lattice, tried, q);
          for (u32 level = level_count(sampling.shape, a.n_axes, tried); level >= 1; --level)
            cost_of_level<T>(sampling, room<T>(a, k), lattice, tried, level, 1, q, &cost, passes, &n_passes);
        }
        u64 c = total_cost<T>(&cost);
        if (c < best) {
          best = c;
          active = tried;
        }
        __syncthreads();  // the cost is read
      }
    }
    interp_cost = choose_levels<T>(a, sampling, active, q, &cost, passes, &n_passes, levels);
    wrap = is_circle<T>(a, work, across, within);
  }
  if (threadIdx.x != 0) return;
  if (a.asked == LORENZO || (a.asked == AUTO && lorenzo_cost < interp_cost)) {
    s->predictor = LORENZO;
    s->axes = lorenzo_axes;
    return;
  }
  s->predictor = INTERP;
  s->active = active;
  s->wrap = wrap;
  s->n_anchors = anchor_count(a.shape, a.n_axes, active);
  s->n_levels = level_count(a.shape, a.n_axes, active);
  // The tile may have more levels than the samples: the coarsest choice serves for them.
  u32 n_sampled = level_count(sampling.shape, a.n_axes, active), more = s->n_levels - n_sampled;
  for (u32 i = 0; i < s->n_levels; ++i) s->levels[i] = n_sampled == 0 ? 1 : levels[i < more ? 0 : i - more];
}
extern "C" __global__ void __launch_bounds__(WIDE, 1) choose_f32(const Args a) { choose<float>(a); }
extern "C" __global__ void __launch_bounds__(WIDE, 1) choose_f64(const Args a) { choose<double>(a); }

// The passes of the plan in the state, from `choose` or from an archive. One warp.
extern "C" __global__ void __launch_bounds__(32) interp_passes(const Args a) {
  State* s = a.state;
  if (threadIdx.x != 0 || settled(a) || s->predictor != INTERP) return;
  u32 n = 0, n_coarse = 0, code = s->n_anchors;
  for (u32 level = s->n_levels; level >= 1; --level) {
    u32 size = 1;
    for (u32 k = 0; k < a.n_axes; ++k) size *= s->active >> k & 1 ? (a.shape[k] + (1u << (level - 1)) - 1) >> (level - 1) : a.shape[k];
    n += level_passes(a.shape, a.n_axes, s->active, s->wrap, level, s->levels[s->n_levels - level], a.passes + n);
    if (size <= COARSE) n_coarse = n;
  }
  for (u32 i = 0; i < n; ++i) {
    a.passes[i].first_code = code;
    code += a.passes[i].n_codes;
  }
  s->n_passes = n;
  s->n_coarse_passes = n_coarse;
}
