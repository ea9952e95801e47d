// The fitted predictor from values to codes, and what stands for side images that a trial leaves out. Twins:
// src/predict/fitted/{cpu,encode,stand_in}.rs.
//
// A thread a value: it predicts, guesses, quantizes, and writes the decoded value, code, size and bucket, all in one launch a phase; coarse
// lattices are one launch. A value of f32 reads itself and what its taps bring from the caches, and writes 4 + 4 + 1 + 1 bytes.
#include "common/block.cuh"
#include "common/fit.cuh"
#include "common/fitted.cuh"

// Of a stream that is the `k`th of `n`: where phases of an image begin there, and the codes of an image, from row `first` of `places` on.
__device__ __noinline__ void put_places(const Args& a, u32 first, u32 stream, u32 k, u32 n) {
  const Site& s = a.site;
  Grid base = base_grid(s, 0);
  u32 n_codes = k == 0 ? base.rows * base.columns : 0;
  for (u32 level = s.levels; level-- > 0;)
    for (u32 phase = A; phase <= B2; ++phase) {
      Grid g = phase_grid(s, 0, level, phase);
      a.places[(first + level * 3 + phase - 1) * MOST_STREAMS + stream] = n_codes;
      n_codes += (block_limit(g.rows, k + 1, n) - block_limit(g.rows, k, n)) * g.columns;
    }
  a.places[(first + CODES_OF_IMAGE) * MOST_STREAMS + stream] = n_codes;
}

// Where in stream `k` an image begins.
__device__ __forceinline__ u32 start_in_stream(const Args& a, const Streams& streams, u32 k) {
  return a.places[PLACE_OF_STREAM * MOST_STREAMS + k] + streams.n_shared * a.places[CODES_OF_IMAGE * MOST_STREAMS + k] +
         (streams.n_own != 0 ? streams.n_own * a.places[(PLACES_IN_CHAIN + CODES_OF_IMAGE) * MOST_STREAMS + k] : 0);
}

// The first kernel of an attempt: block 0 sees whether columns are a circle, and where phases are in streams; the others clear a pass each.
template <class T> __device__ void start(const Args& a) {
  if (settled(a)) return;
  const Site& s = a.site;
  if (blockIdx.x == 0) {
    __shared__ double across[128], within[128];
    __shared__ u32 len[MOST_STREAMS];
    u32 wrap = is_circle<T>(a, work_of<T>(a), across, within), k = threadIdx.x;
    if (k == 0) {
      a.fit->wrap = wrap;
      a.state->predictor = FITTED;
    }
    if (k < s.n_streams) {
      // The last image of the stream, and what is before it.
      u32 of_chain = k >= s.n_streams / 2, n_slow = s.n_images / s.n_fast;
      u32 slow = n_slow - 1 - (n_slow > 1 && (n_slow - 1) % 2 != of_chain), last = s.n_before == 0 || s.n_streams == 1 ? s.n_images - 1 : (slow + 1) * s.n_fast - 1;
      Streams streams = streams_of(s, last);
      put_places(a, 0, k, k, s.n_streams);
      u32 n = a.places[CODES_OF_IMAGE * MOST_STREAMS + k] * (streams.n_shared + is_shared(streams, s));
      if (!is_shared(streams, s)) {
        put_places(a, PLACES_IN_CHAIN, k, k - streams.from, streams.to - streams.from);
        n += a.places[(PLACES_IN_CHAIN + CODES_OF_IMAGE) * MOST_STREAMS + k] * (streams.n_own + 1);
      }
      len[k] = a.places[LEN_OF_STREAM * MOST_STREAMS + k] = n;
      a.fit_streams[k].n_codes = 0;
      a.fit_streams[k].bit = 0;
    }
    __syncthreads();  // lengths are there
    if (k < s.n_streams) {
      u32 first = 0;
      for (u32 j = 0; j < k; ++j) first += len[j];
      a.places[PLACE_OF_STREAM * MOST_STREAMS + k] = first;
    }
    return;
  }
  u32 slot = blockIdx.x - 1, pass = slot % a.step.n_passes, kind = pass / (3 * s.levels), level = pass / 3 % s.levels, phase = pass % 3 + 1;
  Fitting* fitting = &a.fittings[slot];
  double* g = &fitting->g[0][0];
  for (u32 k = threadIdx.x; k < FIT_BANDS * MAX_PAIRS; k += blockDim.x) g[k] = 0.0;
  if (threadIdx.x < FIT_BANDS) fitting->n[threadIdx.x] = 0.0;
  if (threadIdx.x < FIT_TAPS) fitting->candidates[threadIdx.x] = (u8)threadIdx.x;
  if (threadIdx.x < 16) {
    a.fit_passes[pass].guess[threadIdx.x] = 0;
    a.fit_weights[pass].guess[threadIdx.x] = 0;
  }
  if (threadIdx.x < GUESS_BANDS) {
    a.fit_passes[pass].offsets[threadIdx.x] = 0;
    a.fit_weights[pass].offsets[threadIdx.x] = 0;
  }
  if (threadIdx.x != 0) return;
  u32 n_sides = sides_of_kind(s, kind), n_own = 0, per_side = 1;
  bool odd_rows = on_lattice(s.ny, level) > on_lattice(s.ny, level + 1), odd_columns = on_lattice(s.nx, level) > on_lattice(s.nx, level + 1);
  auto is_there = [&](u32 plane) { return (plane == K || plane == B2 || odd_rows) && (plane == K || plane == B1 || odd_columns); };
  for (u32 k = 0; k < (phase == B2 ? 20u : 16u); ++k) n_own += is_there((u32)OWN_TAPS[phase - 1][k].plane);
  u32 vertical = phase == A ? B2 : phase == B1 ? K : A, horizontal = phase == A ? B1 : phase == B1 ? A : K;
  u32 diagonal = phase == A ? K : phase == B1 ? B2 : B1;
  per_side += 2 * is_there(vertical) + 2 * is_there(horizontal) + 4 * is_there(diagonal);
  fitting->n_taps = fitting->n_candidates = n_own + n_sides * per_side;
  fitting->n_features = 4 + 4 * (n_sides < 2 ? n_sides : 2);
  fitting->n_bands = 1;
  fitting->n_guess = 0;
  fitting->cut_after = 0;
  fitting->count = 0.0;
  fitting->share = 1.0;
  a.fit_passes[pass].shift = 0;
  a.fit_passes[pass].n_bands = 1;
  a.fit_passes[pass].n[0] = 0;
}
extern "C" __global__ void __launch_bounds__(BLOCK) fitted_start_f32(const Args a) { start<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) fitted_start_f64(const Args a) { start<double>(a); }

// Decides what is written for the value at `at`, in `row` of the columns of a grid.
template <class T>
__device__ __forceinline__ T encode_point(const Args& a, const Quantizer<T>& q, T value, T x, u32 at, u32 bucket, u32 place) {
  T r;
  bool missed;
  i32 code = q.encode(value, is_finite(x) ? x : (T)0, &r, &missed);
  ((T*)a.decoded)[at] = r;
  a.sizes[at] = (u8)size_of_code(code);
  if (a.step.keep) {
    a.codes[place] = code;
    a.buckets[place] = (u8)(a.state->n_runs != 0 && a.marks[at] != 0 ? NO_BUCKET : bucket);
    if (missed) atomicOr(&a.missed[at >> 5], 1u << (at & 31));
  }
  return r;
}

template <class T>
__device__ void encode_points(const Args& a, const Phase& p, const Weights<T>& w, const Quantizer<T>& q, const Work<T>& work, u32 image, u32 phase, u32 first, u32 step) {
  Streams streams = streams_of(a.site, image);
  const u32* of_phase = a.places + ((is_shared(streams, a.site) ? 0 : PLACES_IN_CHAIN) + p.level * 3 + phase - 1) * MOST_STREAMS + streams.from;
  u32 n_streams = streams.to - streams.from;
  for (u32 v = first; v < p.grid.rows * p.grid.columns; v += step) {
    Point point = point_of(p, v);
    T x = predict(p, w, (const T*)a.decoded, point);
    u32 bucket = 0, place = 0;
    if (a.step.keep) {
      bucket = bucket_of(p, w, (const T*)a.decoded, a.sizes, point, x, q.inverse);
      u32 k = ((point.i + 1) * n_streams - 1) / p.grid.rows;
      place = start_in_stream(a, streams, streams.from + k) + of_phase[k] +
              (point.i - block_limit(p.grid.rows, k, n_streams)) * p.grid.columns + point.j;
    }
    encode_point<T>(a, q, work(point.at), x, point.at, bucket, place);
  }
}

// The base lattice of an image: beside its first side image, or one value after the other, by one warp.
template <class T> __device__ void encode_base(const Args& a, u32 image, const Quantizer<T>& q, const Work<T>& work) {
  Grid g = base_grid(a.site, image);
  Sides sides = sides_of(a.site, image);
  Streams streams = streams_of(a.site, image);
  u32 n = g.rows * g.columns, lane = threadIdx.x & 31, first = start_in_stream(a, streams, streams.from);
  T* values = (T*)a.decoded;
  if (sides.n != 0) {
    for (u32 v = threadIdx.x; v < n; v += blockDim.x) {
      u32 at = g.start + v / g.columns * g.dy + v % g.columns * g.dx;
      encode_point<T>(a, q, work(at), values[at_first_side(a.site, sides, at)], at, BASE_BESIDE, first + v);
    }
    return;
  }
  if (threadIdx.x >= 32) return;
  T last = q.base;
  for (u32 v0 = 0; v0 < n; v0 += 32) {
    u32 v = v0 + lane, at = g.start + v / g.columns * g.dy + v % g.columns * g.dx;
    T value = v < n ? work(at) : (T)0, before = last;
    for (u32 l = 0; l < 32 && v0 + l < n; ++l) {
      T there = __shfl_sync(ALL_LANES, value, (int)l), r;
      bool missed;
      if (l == lane) before = last;
      q.encode(there, is_finite(last) ? last : (T)0, &r, &missed);
      last = r;
    }
    if (v < n) encode_point<T>(a, q, value, before, at, BASE_CHAIN, first + v);
  }
}

// The base lattice, and the coarse ones if not `base_only`, of `n_here` images. A block; one each for images of both chains.
template <class T> __device__ void encode_coarse(const Args& a) {
  if (settled(a)) return;
  __shared__ Phase p;
  __shared__ Weights<T> w;
  const Site& s = a.site;
  Quantizer<T> q = quantizer_of<T>(a.state);
  Work<T> work = work_of<T>(a);
  for (Images images(s, blockIdx.x); images.is_there(); images.next()) {
    u32 image = images.image;
    encode_base<T>(a, image, q, work);
    __syncthreads();  // the base lattice is known
    if (a.step.base_only) continue;
    for (u32 level = s.levels; level-- > 0 && on_lattice(s.ny, level) * on_lattice(s.nx, level) <= COARSE;) {
      for (u32 phase = A; phase <= B2; ++phase) {
        set_phase(&p, s, image, level, phase, a.fit->wrap);
        load_weights(&w, &a.fit_weights[p.pass]);
        encode_points<T>(a, p, w, q, work, image, phase, threadIdx.x, blockDim.x);
        __syncthreads();  // the phase is known
      }
    }
  }
}
extern "C" __global__ void __launch_bounds__(WIDE, 1) fitted_encode_coarse_f32(const Args a) { encode_coarse<float>(a); }
extern "C" __global__ void __launch_bounds__(WIDE, 1) fitted_encode_coarse_f64(const Args a) { encode_coarse<double>(a); }

template <class T> __device__ void encode_fine(const Args& a) {
  if (settled(a)) return;
  __shared__ Phase p;
  __shared__ Weights<T> w;
  u32 image = blockIdx.y == 0 ? a.site.image : a.site.other;
  set_phase(&p, a.site, image, a.site.level, a.site.phase, a.fit->wrap);
  load_weights(&w, &a.fit_weights[p.pass]);
  encode_points<T>(a, p, w, quantizer_of<T>(a.state), work_of<T>(a), image, a.site.phase, blockIdx.x * BLOCK + threadIdx.x, gridDim.x * BLOCK);
}
extern "C" __global__ void __launch_bounds__(BLOCK, 3) fitted_encode_f32(const Args a) { encode_fine<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK, 3) fitted_encode_f64(const Args a) { encode_fine<double>(a); }

// The state of a linear congruential generator after `n` steps.
__device__ u32 after_steps(u32 state, u32 n) {
  u32 factor = 1664525u, term = 1013904223u;
  for (; n != 0; n >>= 1) {
    if (n & 1) state = state * factor + term;
    term = term * factor + term;
    factor = factor * factor;
  }
  return state;
}

// An image that was not decoded: its values with noise, and for each row (a block) its first and last value that is a number.
template <class T> __device__ void stand_in(const Args& a) {
  if (settled(a)) return;
  __shared__ u32 first, last;
  const Site& s = a.site;
  Work<T> work = work_of<T>(a);
  double step = a.state->step;
  u32 start = place_of_image(s, s.image) * s.ny * s.nx;
  for (u32 row = blockIdx.x; row < s.ny; row += gridDim.x) {
    if (threadIdx.x == 0) {
      first = s.nx;
      last = 0;
    }
    __syncthreads();  // nothing is found
    for (u32 j = threadIdx.x; j < s.nx; j += BLOCK) {
      u32 i = row * s.nx + j, at = start + i, turn = (i % 1024 + i / 1024 * 37) % 1024;
      u32 random = after_steps(s.image ^ 0x9e3779b9u, turn + 1);
      double noise = mul(mul(sub(__ddiv_rn((double)(random >> 8), 8388608.0), 1.0), 0.5), step);
      T v = work(at);
      if (v == v) {
        atomicMin(&first, j);
        atomicMax(&last, j + 1);
      }
      ((T*)a.decoded)[at] = add(v, Number<T>::from_f64(noise));
      a.sizes[at] = 0;
    }
    __syncthreads();  // the row is done
    if (threadIdx.x == 0) {
      a.row_ends[2 * row] = first;
      a.row_ends[2 * row + 1] = last;
    }
    __syncthreads();  // its ends are read
  }
}
extern "C" __global__ void __launch_bounds__(BLOCK) fitted_stand_in_f32(const Args a) { stand_in<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) fitted_stand_in_f64(const Args a) { stand_in<double>(a); }

// Missing values are like the last that was there, those before all others like the first without its noise. A warp a row.
template <class T> __device__ void stand_in_missing(const Args& a) {
  if (settled(a)) return;
  const Site& s = a.site;
  Work<T> work = work_of<T>(a);
  u32 lane = threadIdx.x & 31, image = place_of_image(s, s.image) * s.ny * s.nx;
  T* values = (T*)a.decoded;
  for (u32 row = (blockIdx.x * BLOCK + threadIdx.x) >> 5; row < s.ny; row += gridDim.x * (BLOCK / 32)) {
    // Whole rows have nothing to do; others look for what comes before.
    u32 before = row;
    while (before > 0 && a.row_ends[2 * before - 1] == 0) --before;
    T carried = (T)0;
    if (before > 0) {
      u32 i = (before - 1) * s.nx + a.row_ends[2 * before - 1] - 1, turn = (i % 1024 + i / 1024 * 37) % 1024;
      double noise = mul(mul(sub(__ddiv_rn((double)(after_steps(s.image ^ 0x9e3779b9u, turn + 1) >> 8), 8388608.0), 1.0), 0.5), a.state->step);
      carried = add(work(image + i), Number<T>::from_f64(noise));
    } else {
      u32 later = row;
      while (later < s.ny && a.row_ends[2 * later + 1] == 0) ++later;
      if (later < s.ny) carried = work(image + later * s.nx + a.row_ends[2 * later]);
    }
    for (u32 start = 0; start < s.nx; start += 32) {
      u32 j = start + lane;
      T v = j < s.nx ? values[image + row * s.nx + j] : (T)0;
      u32 there = __ballot_sync(ALL_LANES, j < s.nx && v == v), up_to = there & (0xffffffffu >> (31 - lane));
      T from = __shfl_sync(ALL_LANES, v, up_to != 0 ? 31 - __clz((int)up_to) : 0);
      T filled = up_to != 0 ? from : carried;
      if (j < s.nx && v != v) values[image + row * s.nx + j] = filled;
      T last = __shfl_sync(ALL_LANES, v, there != 0 ? 31 - __clz((int)there) : 0);
      if (there != 0) carried = last;
    }
  }
}
extern "C" __global__ void __launch_bounds__(BLOCK) fitted_stand_in_missing_f32(const Args a) { stand_in_missing<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) fitted_stand_in_missing_f64(const Args a) { stand_in_missing<double>(a); }
