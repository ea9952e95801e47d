// The fitted predictor with its coder, from streams to values. Twins: src/predict/fitted/{cpu,decode}.rs, rans::stream::Decoder.
//
// Contexts come from what is known before a phase, so that a phase is two launches: a thread a value predicts it and guesses the size of its
// code, both put where the value and the size of its code will be; then a warp a stream decodes the codes of its rows, 32 at a time, and
// puts values in place. Coarse lattices are done by one block in one launch. An image, or one of each chain, has 1 + 6 launches for each lattice of more than
// COARSE values; a tile of images without such lattices has one or two. What bounds the second is the latency of a warp's step, not memory: the
// format has a stream for 2^18 values, 64 at most.
#include "common/fitted.cuh"

// Weights as they are used. A block a pass, a thread a band.
template <class T> __device__ void expand_weights(const Args& a) {
  if (settled(a)) return;
  u32 pass = a.step.all_passes ? blockIdx.x : a.step.pass;
  const FitPass& from = a.fit_passes[pass];
  FitWeights* to = &a.fit_weights[pass];
  // Of the taps only the number of near ones matters here.
  u32 phase = pass % 3 + 1, level = pass / 3 % a.site.levels;
  bool odd_rows = on_lattice(a.site.ny, level) > on_lattice(a.site.ny, level + 1);
  bool odd_columns = on_lattice(a.site.nx, level) > on_lattice(a.site.nx, level + 1);
  u32 n_near = phase == A || (odd_rows && odd_columns) ? 4 : 2;
  u32 band = threadIdx.x;
  if (band == 0) to->n_bands = from.n_bands;
  if (band < 16) to->guess[band] = from.guess[band];
  if (band < GUESS_BANDS) to->offsets[band] = from.offsets[band];
  if (band >= from.n_bands) return;
  double scale = (double)(1u << from.shift), sum = 0.0;
  for (u32 k = 0; k < from.n[band]; ++k) sum = add(sum, __ddiv_rn((double)from.weight[band][k], scale));
  double near[4], share = __ddiv_rn(sub(1.0, sum), (double)n_near);
  for (u32 k = 0; k < 4; ++k) near[k] = share;
  u32 n = n_near;
  for (u32 k = 0; k < from.n[band]; ++k) {
    u32 tap = from.tap[band][k];
    double weight = __ddiv_rn((double)from.weight[band][k], scale);
    if (tap < n_near) {
      for (u32 t = 0; t < 4; ++t)
        if (t == tap) near[t] = add(near[t], weight);
    } else {
      to->tap[band][n] = (u8)tap;
      to->weight[band][n++] = (double)Number<T>::from_f64(weight);
    }
  }
  for (u32 k = 0; k < n_near; ++k) {
    to->tap[band][k] = (u8)k;
    to->weight[band][k] = (double)Number<T>::from_f64(near[k]);
  }
  to->n[band] = n;
}
extern "C" __global__ void __launch_bounds__(32) fitted_weights_f32(const Args a) { expand_weights<float>(a); }
extern "C" __global__ void __launch_bounds__(32) fitted_weights_f64(const Args a) { expand_weights<double>(a); }

template <class T> __device__ void predict_points(const Args& a, const Phase& p, const Weights<T>& w, T inverse, u32 first, u32 step) {
  T* values = (T*)a.decoded;
  for (u32 v = first; v < p.grid.rows * p.grid.columns; v += step) {
    Point q = point_of(p, v);
    T x = predict(p, w, values, q);
    u32 bucket = bucket_of(p, w, values, a.sizes, q, x, inverse);
    values[q.at] = x;
    a.sizes[q.at] = (u8)bucket;
  }
}

// The codes of a stream in some rows of a grid, whose predictions and buckets are in place, to values and sizes. By one warp; `states` is its
// room in shared memory. `chain`: each value is predicted by the one before, the first by `base`.
template <class T> __device__ void restore_rows(const Args& a, const Grid& g, u32 k, u32 rows_from, u32 rows_to, bool chain, u32* states) {
  u32 lane = threadIdx.x & 31, n = (rows_to - rows_from) * g.columns;
  if (n == 0) return;
  FitStream* s = &a.fit_streams[k];
  T *values = (T*)a.decoded, step = (T)a.state->step, last = (T)a.state->base;
  bool with_marks = a.state->n_runs != 0;
  u32 n_codes = s->n_codes, n_read = s->n_read, bit = s->bit, n_words = s->n_words, n_plain_bytes = s->n_plain;
  const u8 *words = a.coded + s->words_at, *plain = a.coded + s->plain_at;
  states[lane] = s->states[lane];
  for (u32 v0 = 0; v0 < n; v0 += 32) {
    u32 v = v0 + lane, i = rows_from + v / g.columns, j = v % g.columns, at = g.start + i * g.dy + j * g.dx;
    bool here = v < n, live = here && !(with_marks && a.marks[at] != 0);
    u32 mask = __ballot_sync(ALL_LANES, live), before = (1u << lane) - 1, token = 0, next = RANS_LOW;
    u32 mine = (n_codes + (u32)__popc(mask & before)) & 31;
    __syncwarp();  // states of the 32 codes before are there
    if (live) {
      u32 state = states[mine], slot = state & ((1u << RANS_PRECISION) - 1);
      const RansTable& table = a.tables[a.fit->contexts[a.sizes[at]]];
      token = table.first[slot >> SLOT_SHIFT];
      u32 entry = table.tokens[token];
      while (slot >= (entry & 0xffff) + (entry >> 16) && token < RANS_ESCAPE) entry = table.tokens[++token];
      next = (entry >> 16) * (state >> RANS_PRECISION) + slot - (entry & 0xffff);
    }
    u32 low = __ballot_sync(ALL_LANES, live && next < RANS_LOW);
    if (live && next < RANS_LOW) {
      u32 w = n_read + (u32)__popc(low & before);
      next = next << 16 | (w < n_words ? words[2 * w] | (u32)words[2 * w + 1] << 8 : 0);
    }
    __syncwarp();  // all have read their states
    if (live) states[mine] = next;
    n_read += (u32)__popc(low);
    n_codes += (u32)__popc(mask);
    // Plain bits follow each other in the order of the codes; most have none.
    u32 n_plain = live ? rans_plain_bits(token) : 0, code_bits = 0;
    if (__any_sync(ALL_LANES, n_plain != 0)) {
      u32 until = n_plain;
      for (u32 d = 1; d < 32; d <<= 1) {
        u32 other = __shfl_up_sync(ALL_LANES, until, d);
        if (lane >= d) until += other;
      }
      u32 from = bit + until - n_plain;
      bit += __shfl_sync(ALL_LANES, until, 31);
      if (n_plain != 0) {
        u64 bits = 0;
        for (u32 b = 0; b < 5; ++b) {
          u32 byte = (from >> 3) + b;
          if (byte < n_plain_bytes) bits |= (u64)plain[byte] << (8 * b);
        }
        code_bits = (u32)(bits >> (from & 7) & (((u64)1 << n_plain) - 1));
      }
    }
    i32 code = live ? rans_code(token, code_bits) : 0;
    T r = (T)0;
    if (chain) {
      T away = mul((T)code, step);
      for (u32 l = 0; l < 32 && v0 + l < n; ++l) {
        last = add(is_finite(last) ? last : (T)0, __shfl_sync(ALL_LANES, away, (int)l));
        if (l == lane) r = last;
      }
    } else if (here) {
      T x = values[at];
      r = add(is_finite(x) ? x : (T)0, mul((T)code, step));
    }
    if (here) {
      values[at] = r;
      a.sizes[at] = (u8)size_of_code(code);
    }
  }
  __syncwarp();  // the last states are there
  s->states[lane] = states[lane];
  if (lane == 0) {
    s->n_codes = n_codes;
    s->n_read = n_read;
    s->bit = bit;
  }
}

// Whether a lattice is one of those that one block does, with those coarser than it.
__device__ __forceinline__ bool is_coarse(const Site& s, u32 level) { return on_lattice(s.ny, level) * on_lattice(s.nx, level) <= COARSE; }

// The coarse lattices of `n_here` images, one after the other. A block; one each for images of both chains.
template <class T> __device__ void fitted_coarse(const Args& a) {
  __shared__ Phase p;
  __shared__ Weights<T> w;
  __shared__ u32 states[WIDE / 32][32];
  const Site& s = a.site;
  u32 warp = threadIdx.x >> 5;
  T* values = (T*)a.decoded;
  T inverse = Number<T>::from_f64(__ddiv_rn(1.0, a.state->step));
  for (Images images(s, blockIdx.x); images.is_there(); images.next()) {
    u32 image = images.image;
    Streams streams = streams_of(s, image);
    u32 n_streams = streams.to - streams.from;
    Grid base = base_grid(s, image);
    Sides sides = sides_of(s, image);
    for (u32 v = threadIdx.x; v < base.rows * base.columns; v += blockDim.x) {
      u32 at = base.start + v / base.columns * base.dy + v % base.columns * base.dx;
      if (sides.n != 0) values[at] = values[at_first_side(s, sides, at)];
      a.sizes[at] = sides.n != 0 ? BASE_BESIDE : BASE_CHAIN;
    }
    __syncthreads();  // the base lattice is predicted
    if (warp == 0) restore_rows<T>(a, base, streams.from, 0, base.rows, sides.n == 0, states[0]);
    __syncthreads();  // and decoded
    for (u32 level = s.levels; level-- > 0 && is_coarse(s, level);) {
      for (u32 phase = A; phase <= B2; ++phase) {
        set_phase(&p, s, image, level, phase, a.fit->wrap);
        load_weights(&w, &a.fit_weights[p.pass]);
        predict_points<T>(a, p, w, inverse, threadIdx.x, blockDim.x);
        __syncthreads();  // the phase is predicted
        for (u32 k = warp; k < n_streams; k += WIDE / 32)
          restore_rows<T>(a, p.grid, streams.from + k, block_limit(p.grid.rows, k, n_streams), block_limit(p.grid.rows, k + 1, n_streams), false, states[warp]);
        __syncthreads();  // and decoded
      }
    }
  }
}
extern "C" __global__ void __launch_bounds__(WIDE, 1) fitted_decode_coarse_f32(const Args a) { fitted_coarse<float>(a); }
extern "C" __global__ void __launch_bounds__(WIDE, 1) fitted_decode_coarse_f64(const Args a) { fitted_coarse<double>(a); }

template <class T> __device__ void fitted_predict(const Args& a) {
  __shared__ Phase p;
  __shared__ Weights<T> w;
  set_phase(&p, a.site, blockIdx.y == 0 ? a.site.image : a.site.other, a.site.level, a.site.phase, a.fit->wrap);
  load_weights(&w, &a.fit_weights[p.pass]);
  predict_points<T>(a, p, w, Number<T>::from_f64(__ddiv_rn(1.0, a.state->step)), blockIdx.x * BLOCK + threadIdx.x, gridDim.x * BLOCK);
}
extern "C" __global__ void __launch_bounds__(BLOCK) fitted_decode_predict_f32(const Args a) { fitted_predict<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK) fitted_decode_predict_f64(const Args a) { fitted_predict<double>(a); }

// A warp, and block, a stream.
template <class T> __device__ void fitted_restore(const Args& a) {
  __shared__ u32 states[32];
  const Site& s = a.site;
  u32 k = blockIdx.x, image = s.image;
  Streams streams = streams_of(s, image);
  if (s.other != NO_IMAGE && (k < streams.from || k >= streams.to)) streams = streams_of(s, image = s.other);
  if (k < streams.from || k >= streams.to) return;
  u32 n_streams = streams.to - streams.from;
  Grid g = phase_grid(s, image, s.level, s.phase);
  k -= streams.from;
  restore_rows<T>(a, g, streams.from + k, block_limit(g.rows, k, n_streams), block_limit(g.rows, k + 1, n_streams), false, states);
}
extern "C" __global__ void __launch_bounds__(32) fitted_decode_restore_f32(const Args a) { fitted_restore<float>(a); }
extern "C" __global__ void __launch_bounds__(32) fitted_decode_restore_f64(const Args a) { fitted_restore<double>(a); }

// Whether each stream ended where its codes did. A thread a stream.
extern "C" __global__ void __launch_bounds__(64) fitted_decode_finish(const Args a) {
  if (threadIdx.x >= a.site.n_streams) return;
  const FitStream& s = a.fit_streams[threadIdx.x];
  bool good = s.n_read == s.n_words && s.bit <= (u64)s.n_plain * 8;
  for (u32 l = 0; l < 32; ++l) good = good && s.states[l] == RANS_LOW;
  if (!good) atomicExch(&a.state->error, 1u);
}
