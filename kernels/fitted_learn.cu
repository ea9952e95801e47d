// The fits of the fitted predictor: samples beside what was decoded, normal equations, taps by forward selection, the guess of code sizes and its offsets.
// Twins: src/predict/fitted/{learn,sample,fit,guess}.rs and rows::products, sum by sum: floats are added in the order in which the CPU adds them.
//
// A pass has: `fitted_products` (a block for 256 samples, whose rows are in shared memory, a thread a few pairs of taps), `fitted_gather` (sums of
// blocks in order, a thread a pair), and where weights follow, `fitted_reduce`, `fitted_systems` (a block for each group of bands) and
// `fitted_settle`; then samples of the guess and its fit. All are small: what bounds them is latency, not memory.
#include "common/fit.cuh"
#include "common/fitted.cuh"

#define MAX_ROWS 75          // taps and the value
#define HALF 128
#define LANES 16
#define PAIRS_A_THREAD 4     // at once: those of 63 rows; with more, which tiles beside forecasts may have, there is a second turn
static_assert(MAX_PAIRS == MAX_ROWS * (MAX_ROWS + 1) / 2, "room for each pair");

// Row of an entry of a lower triangle, row by row.
__device__ __forceinline__ u32 row_of_pair(u32 pair) {
  u32 a = (u32)((__fsqrt_rn((float)(8 * pair + 1)) - 1.0f) * 0.5f);
  while (a * (a + 1) / 2 > pair) --a;
  while ((a + 1) * (a + 2) / 2 <= pair) ++a;
  return a;
}

// The samples of a band of a phase.
struct BandSamples {
  Pieces pieces;
  u32 first_piece, n;  // samples
};
__device__ BandSamples samples_of_band(const Grid& g, const Step& step, u32 band) {
  BandSamples b;
  b.pieces = pieces_of(g.rows, g.columns, step.every, step.turn);
  u32 from = b.pieces.first_in_band(g.rows, band, step.n_bands), to = b.pieces.first_in_band(g.rows, band + 1, step.n_bands);
  b.first_piece = from;
  b.n = (to - from) * b.pieces.len;
  return b;
}

template <class T> __device__ void products(const Args& a) {
  if (settled(a)) return;
  __shared__ Phase p;
  __shared__ float x[MAX_ROWS * (HALF + 1)];
  __shared__ u32 n_there;
  const Site& s = a.site;
  const Fitting& fitting = a.fittings[a.step.slot];
  set_phase(&p, s, s.image, s.level, s.phase, a.fit->wrap);
  // Which batch of which band.
  u32 batch = blockIdx.x, band = 0;
  BandSamples samples = samples_of_band(p.grid, a.step, 0);
  while (band + 1 < a.step.n_bands && batch >= (samples.n + BATCH - 1) / BATCH) {
    batch -= (samples.n + BATCH - 1) / BATCH;
    samples = samples_of_band(p.grid, a.step, ++band);
  }
  const T* decoded = (const T*)a.decoded;
  Work<T> work = work_of<T>(a);
  T inverse = (T)a.state->inverse;
  u32 n_taps = fitting.n_candidates, n_rows = n_taps + 1, n_pairs = n_rows * (n_rows + 1) / 2;
  if (threadIdx.x == 0) n_there = 0;
  for (u32 first = 0; first < n_pairs; first += PAIRS_A_THREAD * WIDE) {
    u32 of_pair[PAIRS_A_THREAD / 2];  // row | column << 8, two a word: registers are scarce
    float sums[PAIRS_A_THREAD][LANES];
    #pragma unroll
    for (u32 r = 0; r < PAIRS_A_THREAD; ++r) {
      u32 pair = first + threadIdx.x + r * WIDE, row = pair < n_pairs ? row_of_pair(pair) : 0;
      u32 rows = pair < n_pairs ? row | (pair - row * (row + 1) / 2) << 8 : 0;
      of_pair[r / 2] = r % 2 == 0 ? rows : of_pair[r / 2] | rows << 16;
      #pragma unroll
      for (u32 l = 0; l < LANES; ++l) sums[r][l] = 0.0f;
    }
    for (u32 half = 0; half < 2; ++half) {
      __syncthreads();  // the rows may be used again
      u32 k = threadIdx.x % HALF, sample = batch * BATCH + half * HALF + k;
      if (sample < samples.n) {
        u32 piece = samples.first_piece + sample / samples.pieces.len;
        Point q = point_of(p, samples.pieces.row(piece) * p.grid.columns + samples.pieces.start(piece) + sample % samples.pieces.len);
        T near[4];
        near_values(p, decoded, q, near);
        T mean = mean_of(near);
        float root = __fdiv_rn((float)near_sizes(p, a.sizes, q), 4.0f * (float)p.n_near);
        float size = mul(mul(1.6f, root), root);
        float weight = __fsqrt_rn(__fdiv_rn(0.5f, add(mul(size, size), 0.25f)));
        float value = (float)mul(sub(work(q.at), mean), inverse);
        bool is_there = magnitude(value) < 1e9f;
        for (u32 t = threadIdx.x / HALF; t < n_rows; t += WIDE / HALF) {
          float v = t == n_taps ? value : (float)mul(sub(decoded[place_of(p, q, fitting.candidates[t], p.turned)], mean), inverse);
          x[t * (HALF + 1) + k] = is_there && is_finite(v) ? mul(v, weight) : 0.0f;
        }
        if (threadIdx.x < HALF && is_there && first == 0) atomicAdd(&n_there, 1u);
      } else {
        for (u32 t = threadIdx.x / HALF; t < n_rows; t += WIDE / HALF) x[t * (HALF + 1) + k] = 0.0f;
      }
      __syncthreads();  // rows of half a batch are there
      #pragma unroll
      for (u32 r = 0; r < PAIRS_A_THREAD; ++r) {
        if (first + threadIdx.x + r * WIDE >= n_pairs) continue;
        u32 rows = of_pair[r / 2] >> (r % 2 * 16);
        const float *u = x + (rows & 255) * (HALF + 1), *v = x + (rows >> 8 & 255) * (HALF + 1);
        #pragma unroll 1
        for (u32 at = 0; at < HALF; at += LANES) {
          #pragma unroll
          for (u32 l = 0; l < LANES; ++l) sums[r][l] = __fmaf_rn(u[at + l], v[at + l], sums[r][l]);
        }
      }
    }
    #pragma unroll
    for (u32 r = 0; r < PAIRS_A_THREAD; ++r) {
      u32 pair = first + threadIdx.x + r * WIDE;
      if (pair >= n_pairs) continue;
      float four[4];
      #pragma unroll
      for (u32 l = 0; l < 4; ++l) four[l] = add(add(sums[r][l], sums[r][l + 8]), add(sums[r][l + 4], sums[r][l + 12]));
      a.products[(u64)blockIdx.x * MAX_PAIRS + pair] = add(add(four[0], four[2]), add(four[1], four[3]));
    }
  }
  if (threadIdx.x == 0) a.products_there[blockIdx.x] = n_there;
}
extern "C" __global__ void __launch_bounds__(WIDE, 1) fitted_products_f32(const Args a) { products<float>(a); }
extern "C" __global__ void __launch_bounds__(WIDE, 1) fitted_products_f64(const Args a) { products<double>(a); }

// Adds the products of the batches, in order, to the equations of their band: `blockIdx.y`. A thread a pair.
extern "C" __global__ void __launch_bounds__(BLOCK) fitted_gather(const Args a) {
  if (settled(a)) return;
  Fitting* fitting = &a.fittings[a.step.slot];
  u32 pair = blockIdx.x * BLOCK + threadIdx.x, band = blockIdx.y, n_taps = fitting->n_candidates, n_rows = n_taps + 1;
  Grid g = phase_grid(a.site, a.site.image, a.site.level, a.site.phase);
  u32 first = 0, n = 0;
  for (u32 b = 0; b <= band; ++b) {
    first += n;
    n = (samples_of_band(g, a.step, b).n + BATCH - 1) / BATCH;
  }
  if (pair < n_rows * (n_rows + 1) / 2) {
    u32 i = row_of_pair(pair), j = pair - i * (i + 1) / 2;
    // Places in the triangle of all taps, the value last.
    u32 row = i == n_taps ? fitting->n_taps : fitting->candidates[i], column = j == n_taps ? fitting->n_taps : fitting->candidates[j];
    double* sum = &fitting->g[band][row * (row + 1) / 2 + column];
    for (u32 k = 0; k < n; ++k) *sum = add(*sum, (double)a.products[(u64)(first + k) * MAX_PAIRS + pair]);
  }
  if (pair == 0) {
    double there = fitting->n[band];
    for (u32 k = 0; k < n; ++k) there = add(there, (double)a.products_there[first + k]);
    fitting->n[band] = there;
    if (band == 0) {
      fitting->n_bands = a.step.n_bands;
      fitting->count = a.step.count;
    }
  }
}

// Threads of a selection: one a candidate.
#define SELECTORS 96
#define SELECTOR_WARPS (SELECTORS / 32)
static_assert(SELECTORS >= MAX_ROWS - 1, "a thread for each candidate");

// What is selected of the taps of a system: in shared memory.
struct Selection {
  double columns[FIT_TAPS][FIT_TAPS];
  double z[FIT_TAPS];
  double d, r;        // of the tap selected
  double gain[SELECTOR_WARPS];
  u32 tap[SELECTOR_WARPS];
  u8 order[FIT_TAPS];
  u32 n;
  double rss;
};

// Normal equations of bands from..to of a pass.
struct System {
  const Fitting* fitting;
  u32 from, to;
  double ridge;
  __device__ double sum(u32 row, u32 column) const {
    double v = 0.0;
    u32 at = row >= column ? row * (row + 1) / 2 + column : column * (column + 1) / 2 + row;
    for (u32 b = from; b < to; ++b) v = add(v, fitting->g[b][at]);
    return v;
  }
  // Of candidates i and j; the value is n_candidates.
  __device__ double at(u32 i, u32 j) const {
    u32 n = fitting->n_candidates;
    double v = sum(i == n ? fitting->n_taps : fitting->candidates[i], j == n ? fitting->n_taps : fitting->candidates[j]);
    return i == j && i < n ? add(v, ridge) : v;
  }
  __device__ double n_values() const {
    double v = 0.0;
    for (u32 b = from; b < to; ++b) v = add(v, fitting->n[b]);
    return v;
  }
  __device__ System(const Fitting* fitting, u32 from, u32 to) : fitting(fitting), from(from), to(to), ridge(0.0) {
    double trace = 0.0;
    for (u32 i = 0; i < fitting->n_candidates; ++i) trace = add(trace, at(i, i));
    ridge = add(__ddiv_rn(mul(1e-6, trace), (double)fitting->n_candidates), 1e-30);
  }
};

__device__ __forceinline__ double bits_of_errors(double n, double rss) {
  double sigma = not_below(__dsqrt_rn(__ddiv_rn(rss, not_below(n, 1.0))), 1e-9);
  double squared = mul(sigma, sigma);
  return mul(n, log2_of(add(add(1.0, __ddiv_rn(mul(3.0, squared), add(sigma, 0.05))), mul(2.0, squared))));
}

// Forward selection of at most `most` taps; with `price` not below 0 only while the bits saved are worth it. By a block of SELECTORS
// threads, a thread a candidate.
__device__ void select_taps(Selection* chosen, const System& system, u32 most, double price, double n, double share, double rounds) {
  u32 n_taps = system.fitting->n_candidates, t = threadIdx.x, lane = t & 31;
  bool is_mine = t < n_taps;
  double d = is_mine ? system.at(t, t) : 0.0, r = is_mine ? system.at(n_taps, t) : 0.0, floor = mul(1e-7, d);
  double yy = system.at(n_taps, n_taps);
  if (t == 0) {
    chosen->n = 0;
    chosen->rss = yy;
  }
  __syncthreads();  // nothing is chosen
  while (chosen->n < most) {
    double gain = 0.0;
    if (is_mine && d > floor) {
      double g = __ddiv_rn(mul(r, r), d);
      gain = g > 0.0 ? g : 0.0;
    }
    // The largest, of equal ones the last; places beyond the candidates lose.
    if (!is_mine) gain = -1.0;
    u32 tap = t;
    for (u32 step = 16; step > 0; step >>= 1) {
      double other = __shfl_xor_sync(ALL_LANES, gain, (int)step);
      u32 other_tap = __shfl_xor_sync(ALL_LANES, tap, (int)step);
      if (other > gain || (other == gain && other_tap > tap)) {
        gain = other;
        tap = other_tap;
      }
    }
    if (lane == 0) {
      chosen->gain[t >> 5] = gain;
      chosen->tap[t >> 5] = tap;
    }
    __syncthreads();  // the best of each warp is known
    u32 best = 0;
    for (u32 warp = 1; warp < SELECTOR_WARPS; ++warp) best = chosen->gain[warp] >= chosen->gain[best] ? warp : best;
    u32 at = chosen->tap[best], k = chosen->n;
    double gained = chosen->gain[best], rss = chosen->rss, left = not_below(sub(rss, gained), mul(1e-9, yy));
    bool pays = gained > 0.0;
    if (pays && price >= 0.0)
      pays = sub(bits_of_errors(n, __ddiv_rn(mul(rss, share), rounds)), bits_of_errors(n, __ddiv_rn(mul(left, share), rounds))) >= price;
    if (!pays) break;
    if (t == at) {
      chosen->d = d;
      chosen->r = r;
    }
    double v = is_mine ? system.at(at, t) : 0.0;
    for (u32 c = 0; is_mine && c < k; ++c) v = sub(v, mul(chosen->columns[c][t], chosen->columns[c][at]));
    __syncthreads();  // the selected tap's numbers are there, and all have read what was chosen before
    double inverse = __ddiv_rn(1.0, __dsqrt_rn(chosen->d)), zt = mul(chosen->r, inverse);
    v = mul(v, inverse);
    if (is_mine) {
      chosen->columns[k][t] = v;
      d = t == at ? 0.0 : sub(d, mul(v, v));
      r = sub(r, mul(v, zt));
    }
    if (t == 0) {
      chosen->z[k] = zt;
      chosen->order[k] = (u8)at;
      chosen->rss = left;
      chosen->n = k + 1;
    }
    __syncthreads();  // the tap is chosen
  }
  __syncthreads();  // all have left the loop
}

// The pass of a launch over passes, or of one; its place in `fittings`.
__device__ __forceinline__ u32 pass_of(const Args& a, u32 block) { return a.step.all_passes ? block : a.step.pass; }
__device__ __forceinline__ u32 slot_of(const Args& a, u32 block) { return a.step.all_passes ? a.step.slot + block : a.step.slot; }

// What both chains know of a pass, behind that of the second: `step.slot` is the place of the first pass there. A block a pass.
extern "C" __global__ void __launch_bounds__(BLOCK) fitted_merge(const Args a) {
  if (settled(a)) return;
  __shared__ bool is_kept[FIT_TAPS];
  u32 n_passes = a.step.n_passes;
  const Fitting &first = a.fittings[blockIdx.x], &second = a.fittings[n_passes + blockIdx.x];
  Fitting* both = &a.fittings[2 * n_passes + blockIdx.x];
  u32 n_pairs = (first.n_taps + 1) * (first.n_taps + 2) / 2, n_bands = first.n_bands > second.n_bands ? first.n_bands : second.n_bands;
  for (u32 band = 0; band < n_bands; ++band)
    for (u32 k = threadIdx.x; k < n_pairs; k += BLOCK) both->g[band][k] = add(first.g[band][k], second.g[band][k]);
  if (threadIdx.x < n_bands) both->n[threadIdx.x] = add(first.n[threadIdx.x], second.n[threadIdx.x]);
  if (threadIdx.x < FIT_TAPS) is_kept[threadIdx.x] = false;
  __syncthreads();  // no tap is kept
  if (threadIdx.x < first.n_candidates)
    for (u32 k = 0; k < second.n_candidates; ++k)
      if (second.candidates[k] == first.candidates[threadIdx.x]) is_kept[first.candidates[threadIdx.x]] = true;
  __syncthreads();  // all that both have are
  if (threadIdx.x != 0) return;
  u32 n = 0;
  for (u32 tap = 0; tap < first.n_taps; ++tap)
    if (is_kept[tap]) both->candidates[n++] = (u8)tap;
  both->n_candidates = n;
  both->n_taps = first.n_taps;
  both->n_features = first.n_features;
  both->n_bands = n_bands;
  both->n_guess = first.n_guess > second.n_guess ? first.n_guess : second.n_guess;
  both->count = first.count > second.count ? first.count : second.count;
}

// Closes the equations; leaves only the `most_taps` candidates that seem to gain the most (0: all), or those that the other chain left after fewer
// images. A block a pass.
extern "C" __global__ void __launch_bounds__(SELECTORS) fitted_reduce(const Args a) {
  if (settled(a)) return;
  __shared__ Selection chosen;
  Fitting* fitting = &a.fittings[slot_of(a, blockIdx.x)];
  u32 n_taps = fitting->n_candidates, n_bands = fitting->n_bands;
  double n = 0.0;
  for (u32 b = 0; b < n_bands; ++b) n = add(n, fitting->n[b]);
  if (threadIdx.x == 0) fitting->share = __ddiv_rn(mul(fitting->count, (double)a.step.rounds), not_below(n, 1.0));
  if (a.step.most_taps != 0 && a.step.first_slot != NO_SLOT) {
    const Fitting& first = a.fittings[a.step.first_slot];
    if (first.cut_after == 0 || first.cut_after >= a.step.n_had) return;
    if (threadIdx.x < first.n_candidates) fitting->candidates[threadIdx.x] = first.candidates[threadIdx.x];
    if (threadIdx.x == 0) fitting->n_candidates = first.n_candidates;
    return;
  }
  // Fewer samples than that would choose by chance.
  if (a.step.most_taps == 0 || n_taps <= a.step.most_taps || n < mul(15.0, (double)n_taps)) return;
  System system(fitting, 0, n_bands);
  select_taps(&chosen, system, a.step.most_taps, -1.0, 0.0, 0.0, 1.0);
  if (threadIdx.x != 0) return;
  u32 left = 0;
  for (u32 k = 0; k < n_taps; ++k) {
    bool is_kept = false;
    for (u32 c = 0; c < chosen.n; ++c) is_kept |= chosen.order[c] == k;
    if (is_kept) fitting->candidates[left++] = fitting->candidates[k];
  }
  fitting->n_candidates = left;
  fitting->cut_after = a.step.n_had;
}

#define TAP_PRICE 13.0
#define NOISE_PRICE 3.0
#define SAMPLES_PER_BAND 1200.0

// Solves the system of a group of bands: group `blockIdx.x` of 1, 2, 4, 8 bands is the x + 1th node of a tree. `blockIdx.y` is the pass.
extern "C" __global__ void __launch_bounds__(SELECTORS) fitted_systems(const Args a) {
  if (settled(a)) return;
  __shared__ Selection chosen;
  __shared__ double w[FIT_TAPS];
  Fitting* fitting = &a.fittings[slot_of(a, blockIdx.y)];
  u32 depth = 31 - (u32)__clz((int)(blockIdx.x + 1)), groups = 1u << depth, group = blockIdx.x + 1 - groups;
  if (groups > fitting->n_bands) return;
  u32 bands = fitting->n_bands / groups;
  System system(fitting, group * bands, (group + 1) * bands);
  double share = fitting->share, rounds = (double)a.step.rounds, n = __ddiv_rn(mul(system.n_values(), share), rounds);
  double price = add(add(TAP_PRICE, 6.0), mul(NOISE_PRICE, share));
  select_taps(&chosen, system, fitting->n_candidates, price, n, share, rounds);
  if (threadIdx.x != 0) return;
  Solution* solution = &fitting->solutions[blockIdx.x];
  for (u32 k = chosen.n; k-- > 0;) {
    double sum = 0.0;
    for (u32 j = k + 1; j < chosen.n; ++j) sum = add(sum, mul(chosen.columns[k][chosen.order[j]], w[j]));
    w[k] = __ddiv_rn(sub(chosen.z[k], sum), chosen.columns[k][chosen.order[k]]);
    solution->tap[k] = fitting->candidates[chosen.order[k]];
    solution->weight[k] = w[k];
  }
  solution->n = chosen.n;
  solution->bits = add(bits_of_errors(n, __ddiv_rn(mul(chosen.rss, share), rounds)), mul((double)chosen.n, price));
}

// A number between -32000 and 32000, half to even; NaN becomes 0.
__device__ __forceinline__ short to_short(double v) {
  v = v > -32000.0 ? (v < 32000.0 ? v : 32000.0) : v == v ? -32000.0 : 0.0;
  return (short)(i32)sub(add(v, Number<double>::magic()), Number<double>::magic());
}

// Of 1, 2, 4, 8 bands (`most_bands`) what costs the least, in integers. A block, of which a thread works, a pass.
extern "C" __global__ void __launch_bounds__(32) fitted_settle(const Args a) {
  if (settled(a) || threadIdx.x != 0) return;
  u32 pass = pass_of(a, blockIdx.x);
  Fitting* fitting = &a.fittings[slot_of(a, blockIdx.x)];
  double total = 0.0, least = 0.0;
  for (u32 b = 0; b < fitting->n_bands; ++b) total = add(total, fitting->n[b]);
  total = __ddiv_rn(total, (double)a.step.rounds);
  u32 best = 1;
  for (u32 groups = 1; groups <= fitting->n_bands && groups <= a.step.most_bands; groups *= 2) {
    // Few values can not pay for many bands.
    if (groups > 1 && total < mul(SAMPLES_PER_BAND, (double)groups)) break;
    double bits = 0.0;
    for (u32 g = 0; g < groups; ++g) bits = add(bits, fitting->solutions[groups - 1 + g].bits);
    if (groups == 1 || bits < least) {
      least = bits;
      best = groups;
    }
  }
  FitPass* out = &a.fit_passes[pass];
  double largest = 0.0;
  for (u32 g = 0; g < best; ++g) {
    const Solution& solution = fitting->solutions[best - 1 + g];
    for (u32 k = 0; k < solution.n; ++k) {
      double size = magnitude(solution.weight[k]);
      largest = size > largest ? size : largest;
    }
  }
  // Ten bits of fraction at most, fewer where weights are large.
  u32 shift = 10;
  while (shift > 0 && mul(largest, (double)(1u << shift)) > 32000.0) --shift;
  out->shift = shift;
  out->n_bands = best;
  for (u32 g = 0; g < best; ++g) {
    const Solution& solution = fitting->solutions[best - 1 + g];
    u32 n = 0;
    // Taps ascending.
    for (i32 last = -1;;) {
      u32 next = FIT_TAPS, from = 0;
      for (u32 k = 0; k < solution.n; ++k)
        if ((i32)solution.tap[k] > last && solution.tap[k] < next) {
          next = solution.tap[k];
          from = k;
        }
      if (next == FIT_TAPS) break;
      last = (i32)next;
      short weight = to_short(mul(solution.weight[from], (double)(1u << shift)));
      if (weight == 0) continue;
      out->tap[g][n] = (u8)next;
      out->weight[g][n++] = weight;
    }
    out->n[g] = (u8)n;
  }
}

// Features, sizes of the codes that the weights give, and bands of rows, of `guess_new` samples from `guess_from` on. A thread a sample.
template <class T> __device__ void guess_samples(const Args& a) {
  if (settled(a)) return;
  __shared__ Phase p;
  __shared__ Weights<T> w;
  const Site& s = a.site;
  set_phase(&p, s, s.image, s.level, s.phase, a.fit->wrap);
  load_weights(&w, &a.fit_weights[a.step.pass]);
  Pieces pieces = pieces_of(p.grid.rows, p.grid.columns, a.step.every, a.step.turn);
  Quantizer<T> quantizer = quantizer_of<T>(a.state);
  Work<T> work = work_of<T>(a);
  const T* decoded = (const T*)a.decoded;
  u16* out = a.features + (u64)a.step.pass * FEATURE_ROWS * GUESS_SAMPLES;
  u32 k = blockIdx.x * BLOCK + threadIdx.x;
  if (k < a.step.guess_new) {
    u32 piece = a.step.guess_first + k / pieces.len * a.step.guess_every;
    Point q = point_of(p, pieces.row(piece) * p.grid.columns + pieces.start(piece) + k % pieces.len);
    T x = predict(p, w, decoded, q), r;
    u32 features[MOST_FEATURES], n = features_of(p, decoded, a.sizes, q, x, quantizer.inverse, features), at = a.step.guess_from + k;
    for (u32 f = 0; f < MOST_FEATURES; ++f)
      if (f < n) out[f * GUESS_SAMPLES + at] = (u16)features[f];
    bool missed;
    i32 code = quantizer.encode(work(q.at), is_finite(x) ? x : (T)0, &r, &missed);
    out[n * GUESS_SAMPLES + at] = (u16)size_of_code(code);
    out[(n + 1) * GUESS_SAMPLES + at] = (u16)(q.i * GUESS_BANDS / p.grid.rows);
  }
  if (k == 0) a.fittings[a.step.slot].n_guess = a.step.guess_from + a.step.guess_new;
}
extern "C" __global__ void __launch_bounds__(BLOCK, 2) fitted_guess_samples_f32(const Args a) { guess_samples<float>(a); }
extern "C" __global__ void __launch_bounds__(BLOCK, 2) fitted_guess_samples_f64(const Args a) { guess_samples<double>(a); }

#define MOST_UNKNOWNS (MOST_FEATURES + 1)

// Solves a symmetric positive system given by its lower triangle, for `b`. By one warp.
__device__ void cholesky_solve(double (*m)[MOST_UNKNOWNS], double* b, u32 n) {
  u32 i = threadIdx.x;
  for (u32 j = 0; j < n; ++j) {
    for (u32 k = 0; k < j; ++k) {
      if (i >= j && i < n) m[i][j] = sub(m[i][j], mul(m[i][k], m[j][k]));
      __syncwarp();  // the column is less
    }
    double pivot = __dsqrt_rn(not_below(m[j][j], 1e-12));
    __syncwarp();  // all have read the pivot
    if (i >= j && i < n) m[i][j] = __ddiv_rn(m[i][j], pivot);
    __syncwarp();  // the column is done
  }
  if (i != 0) return;
  for (u32 k = 0; k < n; ++k) {
    double sum = 0.0;
    for (u32 l = 0; l < k; ++l) sum = add(sum, mul(m[k][l], b[l]));
    b[k] = __ddiv_rn(sub(b[k], sum), m[k][k]);
  }
  for (u32 k = n; k-- > 0;) {
    double sum = 0.0;
    for (u32 l = k + 1; l < n; ++l) sum = add(sum, mul(m[l][k], b[l]));
    b[k] = __ddiv_rn(sub(b[k], sum), m[k][k]);
  }
}

// What samples of the guess say of a band of rows: their number, their sizes and what the weights say of them, and squares of sizes. Integers below
// 2^53, whose sums are exact in whatever order.
struct BandOfGuess {
  double n, sizes, guesses, squares;
};

// Sums of a band; `weights` as the plan has them. By one warp, the result in its first lane.
__device__ BandOfGuess sum_of_band(const u16* features, u32 n_samples, const short* weights, u32 n_features, u32 band) {
  u32 n = 0, sizes = 0, squares = 0;
  long long guesses = 0;
  for (u32 k = threadIdx.x % 32; k < n_samples; k += 32) {
    if (features[(n_features + 1) * GUESS_SAMPLES + k] != band) continue;
    u32 size = features[n_features * GUESS_SAMPLES + k];
    ++n;
    sizes += size;
    squares += size * size;
    guesses += (long long)weights[n_features] * 16;
    for (u32 f = 0; f < n_features; ++f) guesses += (long long)weights[f] * features[f * GUESS_SAMPLES + k];
  }
  BandOfGuess sum = {(double)n, (double)sizes, (double)guesses, (double)squares};
  for (u32 other = 16; other > 0; other /= 2) {
    sum.n = add(sum.n, __shfl_xor_sync(ALL_LANES, sum.n, other));
    sum.sizes = add(sum.sizes, __shfl_xor_sync(ALL_LANES, sum.sizes, other));
    sum.guesses = add(sum.guesses, __shfl_xor_sync(ALL_LANES, sum.guesses, other));
    sum.squares = add(sum.squares, __shfl_xor_sync(ALL_LANES, sum.squares, other));
  }
  return sum;
}

// Offsets of the bands: `fit_offsets` in guess.rs, which says what the numbers are. By one thread.
#define GUESS_DOUBT 30.0
#define OFFSET_PRICE 0.0054
#define LARGEST_OFFSET 16
__device__ void fit_offsets(const BandOfGuess* bands, double count, signed char* offsets) {
  double n = 0.0, sizes = 0.0, squares = 0.0, gain = 0.0, bits = 0.0;
  for (u32 k = 0; k < GUESS_BANDS; ++k) {
    offsets[k] = 0;
    n = add(n, bands[k].n);
    sizes = add(sizes, bands[k].sizes);
    squares = add(squares, bands[k].squares);
  }
  if (sizes == 0.0) return;
  double doubt = __ddiv_rn(mul(GUESS_DOUBT, squares), sizes);
  for (u32 k = 0; k < GUESS_BANDS; ++k) {
    double guess = __ddiv_rn(not_below(bands[k].guesses, 0.0), 1024.0), ratio = __ddiv_rn(add(bands[k].sizes, doubt), add(guess, doubt));
    i32 offset = to_short(mul(8.0, log2_of(ratio)));
    offset = offset < -LARGEST_OFFSET ? -LARGEST_OFFSET : offset > LARGEST_OFFSET ? LARGEST_OFFSET : offset;
    offsets[k] = (signed char)offset;
    gain = add(gain, mul(bands[k].n, (double)(offset * offset)));
    bits = add(bits, (double)(2 * (31 - __clz((int)folded(offset))) + 1));
  }
  double share = __ddiv_rn(mul(sizes, sizes), mul(squares, n));
  if (mul(mul(mul(OFFSET_PRICE, __ddiv_rn(gain, n)), share), count) > bits) return;
  for (u32 k = 0; k < GUESS_BANDS; ++k) offsets[k] = 0;
}

// Fits the guess of sizes to those of the samples, then its offsets. A block a pass.
extern "C" __global__ void __launch_bounds__(WIDE, 1) fitted_guess(const Args a) {
  if (settled(a)) return;
  __shared__ double g[(MOST_UNKNOWNS + 1) * (MOST_UNKNOWNS + 2) / 2];
  __shared__ double m[MOST_UNKNOWNS][MOST_UNKNOWNS], w[MOST_UNKNOWNS];
  __shared__ short weights[MOST_UNKNOWNS];
  __shared__ BandOfGuess bands[GUESS_BANDS];
  __shared__ signed char offsets[GUESS_BANDS];
  u32 pass = pass_of(a, blockIdx.x);
  const Fitting& fitting = a.fittings[slot_of(a, blockIdx.x)];
  const u16* features = a.features + (u64)pass * FEATURE_ROWS * GUESS_SAMPLES;
  u32 n_features = fitting.n_features, n = n_features + 1, n_samples = fitting.n_guess;
  // Sums of products of features, one and size: integers, exact in whatever order. A thread a lane of a pair, whose sum fits 32 bits.
  static_assert((u64)(GUESS_SAMPLES / LANES) * LARGEST_FEATURE * LARGEST_FEATURE < (u64)1 << 32, "lanes have room");
  u32 n_lanes = (n + 1) * (n + 2) / 2 * LANES;
  for (u32 first = 0; first < n_lanes; first += WIDE) {
    u32 u = first + threadIdx.x, pair = u / LANES, lane = u % LANES, sum = 0;
    if (u < n_lanes) {
      u32 i = row_of_pair(pair), j = pair - i * (i + 1) / 2;
      auto x = [&](u32 row, u32 k) -> u32 { return row == n_features ? 1 : features[(row < n_features ? row : row - 1) * GUESS_SAMPLES + k]; };
      for (u32 k = lane; k < n_samples; k += LANES) sum += x(i, k) * x(j, k);
    }
    double product = (double)sum;
    product = add(product, __shfl_xor_sync(ALL_LANES, product, 8));
    product = add(product, __shfl_xor_sync(ALL_LANES, product, 4));
    product = add(product, __shfl_xor_sync(ALL_LANES, product, 2));
    product = add(product, __shfl_xor_sync(ALL_LANES, product, 1));
    if (u < n_lanes && lane == 0) g[pair] = product;
  }
  __syncthreads();  // the equations are there
  if (threadIdx.x < 32) {
    if (n_samples >= 64) {
      double trace = 0.0;
      for (u32 k = 0; k < n; ++k) trace = add(trace, g[k * (k + 1) / 2 + k]);
      double ridge = add(mul(1e-7, trace), 1e-12);
      for (u32 k = threadIdx.x; k < n * n; k += 32) {
        u32 i = k / n, j = k % n;
        if (j <= i) m[i][j] = add(g[i * (i + 1) / 2 + j], i == j ? ridge : 0.0);
      }
      if (threadIdx.x < n) w[threadIdx.x] = g[n * (n + 1) / 2 + threadIdx.x];
      __syncwarp();  // the system is there
      cholesky_solve(m, w, n);
    } else if (threadIdx.x < n) {
      // The mean: what size and one have in common.
      double mean = __ddiv_rn(g[n * (n + 1) / 2 + n_features], not_below((double)n_samples, 1.0));
      w[threadIdx.x] = threadIdx.x < n_features ? 0.0 : not_below(mean, 1.0 / 64.0);
    }
  }
  __syncthreads();  // weights are there
  if (threadIdx.x < n) {
    short guess = to_short(mul(w[threadIdx.x], threadIdx.x < n_features ? 1024.0 : 64.0));
    a.fit_passes[pass].guess[threadIdx.x] = guess;
    a.fit_weights[pass].guess[threadIdx.x] = guess;
    weights[threadIdx.x] = guess;
  }
  __syncthreads();  // they are integers
  static_assert(WIDE / 32 >= GUESS_BANDS, "each band has a warp");
  u32 band = threadIdx.x / 32;
  if (band < GUESS_BANDS) {
    BandOfGuess sum = sum_of_band(features, n_samples, weights, n_features, band);
    if (threadIdx.x % 32 == 0) bands[band] = sum;
  }
  __syncthreads();  // bands are there
  if (threadIdx.x == 0) fit_offsets(bands, fitting.count, offsets);
  __syncthreads();  // offsets are there
  if (threadIdx.x < GUESS_BANDS) {
    a.fit_passes[pass].offsets[threadIdx.x] = offsets[threadIdx.x];
    a.fit_weights[pass].offsets[threadIdx.x] = offsets[threadIdx.x];
  }
}
