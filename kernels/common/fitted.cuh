// The fitted predictor: its lattices, taps and guesses, value by value. Twins: src/predict/fitted/{lattice,schedule,site,rows}.rs.
//
// Lattices stay where their values lie in the raster, of the image at work and of those before it, its side images: a tap is a distance, and
// no plane is copied. Where the CPU has margins, a tap near an edge looks for its place. Sizes of codes are a raster of bytes beside the values.
#pragma once
#include "number.cuh"
#include "rans.cuh"
#include "state.cuh"

// Planes of a lattice by parity of row and column: known, (odd, odd), (odd, even), (even, odd).
enum Plane { K = 0, A = 1, B1 = 2, B2 = 3 };

#define N_BUCKETS 160
#define BASE_BESIDE 160
#define BASE_CHAIN 161
// Bucket of values in runs: they have no code.
#define NO_BUCKET 255
#define MOST_FEATURES 12
#define MOST_STREAMS 64
// Rows of `places`, a stream a column: phases of six levels, and the codes of an image, where it belongs to all streams, and where to those of its
// chain; then where streams begin, and how long they are.
#define CODES_OF_IMAGE 18
#define PLACES_IN_CHAIN 19
#define PLACE_OF_STREAM 38
#define LEN_OF_STREAM 39

// Taps of an image itself, near ones first, as (plane, rows, columns): 16, 16, 20 of them.
struct OwnTap {
  signed char plane, di, dj;
};
__constant__ OwnTap OWN_TAPS[3][20] = {
    {{K, 0, 0}, {K, 0, 1}, {K, 1, 0}, {K, 1, 1}, {K, 0, -1}, {K, 0, 2}, {K, 1, -1}, {K, 1, 2}, {K, -1, 0}, {K, -1, 1},
     {K, 2, 0}, {K, 2, 1}, {K, -1, -1}, {K, -1, 2}, {K, 2, -1}, {K, 2, 2}, {K, 0, 0}, {K, 0, 0}, {K, 0, 0}, {K, 0, 0}},
    {{K, 0, 0}, {K, 1, 0}, {A, 0, -1}, {A, 0, 0}, {K, 0, -1}, {K, 0, 1}, {K, 1, -1}, {K, 1, 1}, {A, -1, -1}, {A, -1, 0},
     {A, 1, -1}, {A, 1, 0}, {K, -1, 0}, {K, 2, 0}, {A, 0, -2}, {A, 0, 1}, {K, 0, 0}, {K, 0, 0}, {K, 0, 0}, {K, 0, 0}},
    {{A, -1, 0}, {A, 0, 0}, {K, 0, 0}, {K, 0, 1}, {B1, -1, 0}, {B1, -1, 1}, {B1, 0, 0}, {B1, 0, 1}, {A, -1, -1}, {A, -1, 1},
     {A, 0, -1}, {A, 0, 1}, {K, -1, 0}, {K, -1, 1}, {K, 1, 0}, {K, 1, 1}, {A, -2, 0}, {A, 1, 0}, {K, 0, -1}, {K, 0, 2}},
};

// Whether the side images of an image follow it in the tile: images are coded from two steps in the middle outwards, forwards and backwards in turn.
__device__ __forceinline__ bool is_backwards(const Site& s, u32 image) {
  u32 slow = image / s.n_fast;
  return s.n_before != 0 && slow > 2 && slow % 2 != 0;
}
// Where in the tile an image is, given by its index in coding order.
__device__ __forceinline__ u32 place_of_image(const Site& s, u32 image) {
  u32 slow = image / s.n_fast;
  u32 step = slow < 2 || s.n_before == 0 ? s.n_before + slow : slow % 2 == 0 ? s.n_before + 1 + slow / 2 : s.n_before - (slow - 1) / 2;
  return step * s.n_fast + image % s.n_fast;
}

// Streams that the codes of an image go to: from, to; and what is before it there: images that belong to all streams, then images of the chain.
struct Streams {
  u32 from, to, n_shared, n_own;
};
__device__ __forceinline__ Streams streams_of(const Site& s, u32 image) {
  u32 slow = image / s.n_fast;
  Streams streams = {0, s.n_streams, image, 0};
  if (s.n_before == 0 || s.n_streams == 1 || (s.n_fast == 1 && slow < 2)) return streams;
  (slow % 2 == 0 ? streams.to : streams.from) = s.n_streams / 2;
  streams.n_shared = s.n_fast == 1 ? 2 : 0;
  streams.n_own = s.n_fast == 1 ? slow / 2 - 1 : slow / 2 * s.n_fast + image % s.n_fast;
  return streams;
}
__device__ __forceinline__ bool is_shared(const Streams& streams, const Site& s) { return streams.to - streams.from == s.n_streams; }

// The images of a launch that are a block's: `n_here` from the first on, in coding order, or where both chains are at work of one of them.
struct Images {
  const Site& s;
  u32 image, left;
  __device__ Images(const Site& s, u32 chain) : s(s), image(chain == 0 ? s.image : s.other), left(s.n_here) {}
  __device__ bool is_there() const { return left != 0 && image < s.n_images; }
  __device__ void next() {
    --left;
    ++image;
    if (s.other != NO_IMAGE && image % s.n_fast == 0) image += s.n_fast;
  }
};

// The side images of an image, as distances in images; their kind. Forecasts lie behind all images, one after the other; that of the image comes
// first, that of the one below last.
struct Sides {
  u32 n, kind;
  i32 back[6];
};
__device__ __forceinline__ Sides sides_of(const Site& s, u32 image) {
  u32 slow = image / s.n_fast, fast = image % s.n_fast;
  i32 own = s.beside != nullptr ? s.beside[image].slot : -1, to_forecasts = (i32)image - (i32)s.n_images;
  Sides sides;
  sides.n = 0;
  if (own >= 0) sides.back[sides.n++] = to_forecasts - own;
  i32 step = is_backwards(s, image) ? -(i32)s.n_fast : (i32)s.n_fast;
  if (slow >= 1) sides.back[sides.n++] = step;
  if (fast >= 1) sides.back[sides.n++] = 1;
  if (slow >= 2) sides.back[sides.n++] = 2 * step;
  if (slow >= 1 && fast >= 1) sides.back[sides.n++] = step + 1;
  if (own >= 0 && fast >= 1 && s.beside[image - 1].slot >= 0) sides.back[sides.n++] = to_forecasts - s.beside[image - 1].slot;
  slow = slow < 2 ? slow : 2;
  sides.kind = s.beside != nullptr ? s.beside[image].kind : s.n_fast > 1 ? 2 * slow + (fast != 0) : slow;
  return sides;
}
// Number of side images of a kind.
__device__ __forceinline__ u32 sides_of_kind(const Site& s, u32 kind) {
  if (s.kind_sides != nullptr) return s.kind_sides[kind];
  u32 slow = s.n_fast > 1 ? kind / 2 : kind, fast = s.n_fast > 1 ? kind % 2 : 0;
  return (slow >= 1) + fast + (slow >= 2) + (slow >= 1 && fast);
}
// Where an image's first side image has what the image has at `at`.
__device__ __forceinline__ u32 at_first_side(const Site& s, const Sides& sides, u32 at) { return (u32)((i32)at - sides.back[0] * (i32)(s.ny * s.nx)); }

// Length of an axis on the lattice of stride 2^level.
__device__ __forceinline__ u32 on_lattice(u32 n, u32 level) { return (n + (1u << level) - 1) >> level; }

// Rows and columns of points, and where they lie in the raster.
struct Grid {
  u32 rows, columns;
  u32 start, dy, dx;
};
__device__ __forceinline__ Grid base_grid(const Site& s, u32 image) {
  Grid g;
  g.rows = on_lattice(s.ny, s.levels);
  g.columns = on_lattice(s.nx, s.levels);
  g.start = place_of_image(s, image) * s.ny * s.nx;
  g.dy = s.nx << s.levels;
  g.dx = 1u << s.levels;
  return g;
}
__device__ __forceinline__ Grid phase_grid(const Site& s, u32 image, u32 level, u32 phase) {
  u32 ky = on_lattice(s.ny, level + 1), kx = on_lattice(s.nx, level + 1);
  u32 odd_row = phase != B2, odd_column = phase != B1;
  Grid g;
  g.rows = odd_row ? on_lattice(s.ny, level) - ky : ky;
  g.columns = odd_column ? on_lattice(s.nx, level) - kx : kx;
  g.start = place_of_image(s, image) * s.ny * s.nx + ((odd_row * s.nx + odd_column) << level);
  g.dy = (2 * s.nx) << level;
  g.dx = 2u << level;
  return g;
}

// A phase of an image, as all threads of a block know it: in shared memory.
struct Phase {
  Grid grid;
  u32 pass;
  u32 n_near, n_own, n_taps, n_sides, per_side, n_axes;
  u32 even_rows, odd_rows, even_columns, odd_columns;  // of the planes
  u32 inner_rows, inner_columns;                        // up to here, and from 2 on, no tap is beyond an edge
  u32 wrap, level, nx, image;                           // image: where it starts
  u32 odd_row, odd_column, turned;                      // of the phase; whether weights are of taps on the opposite sides
  i32 at[FIT_TAPS];                                     // raster distance of a tap
  i32 side[FIT_TAPS];                                   // raster distance of its image
  u32 tap[FIT_TAPS];                                    // plane | (di + 4) << 8 | (dj + 4) << 16
};

__device__ __forceinline__ bool plane_is_there(const Phase& p, u32 plane) {
  return (plane == K || plane == B2 || p.odd_rows != 0) && (plane == K || plane == B1 || p.odd_columns != 0);
}
__device__ __forceinline__ void put_tap(Phase* p, u32 t, u32 phase, u32 plane, i32 di, i32 dj, i32 side) {
  i32 y = 2 * di + (i32)(plane == A || plane == B1) - (i32)(phase != B2);
  i32 x = 2 * dj + (i32)(plane == A || plane == B2) - (i32)(phase != B1);
  p->at[t] = side + (y * (i32)p->nx + x) * (1 << p->level);
  p->side[t] = side;
  p->tap[t] = plane | (u32)(di + 4) << 8 | (u32)(dj + 4) << 16;
}

// Sets up a phase; by all threads of a block, behind a barrier that the caller has had. Ends with one.
__device__ void set_phase(Phase* p, const Site& s, u32 image, u32 level, u32 phase, u32 wrap) {
  u32 lane = threadIdx.x;
  Sides sides = sides_of(s, image);
  if (lane == 0) {
    p->grid = phase_grid(s, image, level, phase);
    p->pass = (sides.kind * s.levels + level) * 3 + phase - 1;
    p->even_rows = on_lattice(s.ny, level + 1);
    p->odd_rows = on_lattice(s.ny, level) - p->even_rows;
    p->even_columns = on_lattice(s.nx, level + 1);
    p->odd_columns = on_lattice(s.nx, level) - p->even_columns;
    u32 rows = p->odd_rows != 0 ? p->odd_rows : p->even_rows, columns = p->odd_columns != 0 ? p->odd_columns : p->even_columns;
    p->inner_rows = rows > 2 ? rows - 2 : 0;
    p->inner_columns = columns > 2 ? columns - 2 : 0;
    p->wrap = wrap != 0 && s.nx % (2u << level) == 0;
    p->level = level;
    p->nx = s.nx;
    p->image = place_of_image(s, image) * s.ny * s.nx;
    p->odd_row = phase != B2;
    p->odd_column = phase != B1;
    p->turned = is_backwards(s, image);
    p->n_sides = sides.n;
  }
  __syncthreads();  // sizes of planes are known
  if (lane < 32) {
    u32 n_listed = phase == B2 ? 20 : 16;
    OwnTap tap = OWN_TAPS[phase - 1][lane < 20 ? lane : 0];
    bool is_there = lane < n_listed && plane_is_there(*p, (u32)tap.plane);
    u32 there = __ballot_sync(ALL_LANES, is_there);
    if (is_there) put_tap(p, (u32)__popc(there & ((1u << lane) - 1)), phase, (u32)tap.plane, tap.di, tap.dj, 0);
    u32 n_own = (u32)__popc(there);
    // The place itself, up, down, left, right, the diagonal ones.
    u32 vertical = phase == A ? B2 : phase == B1 ? K : A, horizontal = phase == A ? B1 : phase == B1 ? A : K;
    u32 diagonal = phase == A ? K : phase == B1 ? B2 : B1;
    i32 up = phase == B2 ? -1 : 0, left = phase == B1 ? -1 : 0;
    u32 plane = lane == 0 ? phase : lane < 3 ? vertical : lane < 5 ? horizontal : diagonal;
    i32 di = lane == 1 || lane == 5 || lane == 6 ? up : lane == 2 || lane == 7 || lane == 8 ? up + 1 : 0;
    i32 dj = lane == 3 || lane == 5 || lane == 7 ? left : lane == 4 || lane == 6 || lane == 8 ? left + 1 : 0;
    is_there = lane < 9 && plane_is_there(*p, plane);
    u32 beside = __ballot_sync(ALL_LANES, is_there), per_side = (u32)__popc(beside);
    for (u32 k = 0; is_there && k < sides.n; ++k) {
      i32 distance = -sides.back[k] * (i32)(s.ny * s.nx);
      put_tap(p, n_own + k * per_side + (u32)__popc(beside & ((1u << lane) - 1)), phase, plane, di, dj, distance);
    }
    if (lane == 0) {
      p->n_near = (u32)__popc(there & 15);
      p->n_own = n_own;
      p->per_side = per_side;
      p->n_axes = (u32)__popc(beside & 30);
      p->n_taps = n_own + sides.n * per_side;
    }
  }
  __syncthreads();  // the phase is known
}

// A point of a phase.
struct Point {
  u32 i, j, at;
  bool inner;
};
__device__ __forceinline__ Point point_of(const Phase& p, u32 v) {
  Point q;
  q.i = v / p.grid.columns;
  q.j = v - q.i * p.grid.columns;
  q.at = p.grid.start + q.i * p.grid.dy + q.j * p.grid.dx;
  q.inner = q.i >= 2 && q.i < p.inner_rows && q.j >= 2 && q.j < p.inner_columns;
  return q;
}

// Raster position of a tap of a point, or of that on the opposite side.
__device__ __forceinline__ u32 place_of(const Phase& p, const Point& q, u32 t, bool turned = false) {
  if (q.inner) return q.at + (u32)(turned ? 2 * p.side[t] - p.at[t] : p.at[t]);
  u32 tap = p.tap[t], plane = tap & 255, odd_row = plane == A || plane == B1, odd_column = plane == A || plane == B2;
  i32 rows = (i32)(odd_row ? p.odd_rows : p.even_rows), columns = (i32)(odd_column ? p.odd_columns : p.even_columns);
  i32 di = (i32)(tap >> 8 & 255) - 4, dj = (i32)(tap >> 16) - 4;
  if (turned) {
    di = (i32)p.odd_row - (i32)odd_row - di;
    dj = (i32)p.odd_column - (i32)odd_column - dj;
  }
  i32 y = (i32)q.i + di, x = (i32)q.j + dj;
  y = y < 0 ? 0 : y >= rows ? rows - 1 : y;
  if (p.wrap) x = (x + 4 * columns) % columns;
  else x = x < 0 ? 0 : x >= columns ? columns - 1 : x;
  return p.image + (u32)p.side[t] + (((2 * (u32)y + odd_row) * p.nx + 2 * (u32)x + odd_column) << p.level);
}

// Weights of a pass in shared memory.
template <class T> struct Weights {
  u32 n_bands;
  u32 n[FIT_BANDS];
  i32 guess[MOST_FEATURES + 1], offsets[GUESS_BANDS];
  u8 tap[FIT_BANDS][FIT_TAPS];
  T weight[FIT_BANDS][FIT_TAPS];
};
// By all threads of a block; ends with a barrier.
template <class T> __device__ void load_weights(Weights<T>* w, const FitWeights* from) {
  if (threadIdx.x == 0) w->n_bands = from->n_bands;
  if (threadIdx.x < FIT_BANDS) w->n[threadIdx.x] = from->n[threadIdx.x];
  if (threadIdx.x <= MOST_FEATURES) w->guess[threadIdx.x] = from->guess[threadIdx.x];
  if (threadIdx.x < GUESS_BANDS) w->offsets[threadIdx.x] = from->offsets[threadIdx.x];
  for (u32 k = threadIdx.x; k < from->n_bands * FIT_TAPS; k += blockDim.x) {
    u32 band = k / FIT_TAPS, t = k % FIT_TAPS;
    if (t >= from->n[band]) continue;
    w->tap[band][t] = from->tap[band][t];
    w->weight[band][t] = (T)from->weight[band][t];
  }
  __syncthreads();  // the weights are there
}

// The prediction: weight · tap, one after the other.
template <class T> __device__ __forceinline__ T predict(const Phase& p, const Weights<T>& w, const T* values, const Point& q) {
  u32 band = q.i * w.n_bands / p.grid.rows;
  T sum = (T)0;
  for (u32 k = 0; k < w.n[band]; ++k) {
    T term = mul(w.weight[band][k], values[place_of(p, q, w.tap[band][k], p.turned)]);
    sum = k == 0 ? term : add(sum, term);
  }
  return sum;
}

// About 4 √x to the nearest integer, at most `most`.
__device__ __forceinline__ u32 root_of(float x, float most) {
  float root = mul(4.0f, __uint_as_float(((__float_as_uint(x) & 0x7fffffffu) >> 1) + 0x1fc00000u));
  root = root < most ? root : most;
  return __float_as_uint(add(root, 8388608.0f)) & 0xffff;
}
__device__ __forceinline__ u32 size_of_code(i32 code) { return root_of(magnitude((float)code), 255.0f); }

template <class T> __device__ __forceinline__ T mean_of(const T* v) { return mul(add(add(v[0], v[1]), add(v[2], v[3])), (T)0.25); }
template <class T> __device__ __forceinline__ T larger(T a, T b) { return a > b ? a : b; }
template <class T> __device__ __forceinline__ T smaller(T a, T b) { return a < b ? a : b; }
template <class T> __device__ __forceinline__ T spread_of(const T* v) {
  return sub(larger(larger(v[0], v[1]), larger(v[2], v[3])), smaller(smaller(v[0], v[1]), smaller(v[2], v[3])));
}

__device__ __forceinline__ u32 near_sizes(const Phase& p, const u8* sizes, const Point& q) {
  u32 sum = 0;
  for (u32 k = 0; k < 4; ++k) sum += sizes[place_of(p, q, k & (p.n_near - 1))];
  return sum;
}
template <class T> __device__ __forceinline__ void near_values(const Phase& p, const T* values, const Point& q, T* near) {
  for (u32 k = 0; k < 4; ++k) near[k] = values[place_of(p, q, k & (p.n_near - 1))];
}

#define LARGEST_FEATURE (8 * 255)  // eight sizes

// Features of a point predicted as `x`; gives how many.
template <class T>
__device__ __forceinline__ u32 features_of(const Phase& p, const T* values, const u8* sizes, const Point& q, T x, T inverse, u32* features) {
  T v[4];
  near_values(p, values, q, v);
  u32 far = 0;
  for (u32 k = p.n_near; k < p.n_own && k < p.n_near + 8; ++k) far += sizes[place_of(p, q, k)];
  features[0] = near_sizes(p, sizes, q);
  features[1] = far;
  features[2] = root_of((float)mul(spread_of(v), inverse), 1023.0f);
  features[3] = root_of((float)mul(magnitude(sub(x, mean_of(v))), inverse), 1023.0f);
  u32 n_sides = p.n_sides < 2 ? p.n_sides : 2;
  for (u32 side = 0; side < n_sides; ++side) {
    u32 first = p.n_own + side * p.per_side, around = 0, here = place_of(p, q, first);
    for (u32 k = 0; k < 4; ++k) {
      u32 at = place_of(p, q, first + 1 + k % p.n_axes);
      around += sizes[at];
      v[k] = values[at];
    }
    u32* f = features + 4 + 4 * side;
    f[0] = sizes[here];
    f[1] = around;
    f[2] = root_of((float)mul(spread_of(v), inverse), 1023.0f);
    f[3] = root_of((float)mul(magnitude(sub(x, values[here])), inverse), 1023.0f);
  }
  return 4 + 4 * n_sides;
}

// A small number as one from 1 on: 0, -1, 1, -2, ...
__device__ __forceinline__ u32 folded(i32 x) { return x < 0 ? (u32)(-2 * x) : (u32)(1 + 2 * x); }

// The bucket of the guessed size of the code there.
template <class T>
__device__ __forceinline__ u32 bucket_of(const Phase& p, const Weights<T>& w, const T* values, const u8* sizes, const Point& q, T x, T inverse) {
  u32 features[MOST_FEATURES];
  u32 n = features_of(p, values, sizes, q, x, inverse, features);
  u32 sum = (u32)w.guess[n] << 4;
  for (u32 k = 0; k < MOST_FEATURES; ++k)
    if (k < n) sum += (u32)w.guess[k] * features[k];
  i32 guess = (i32)sum;
  guess = guess < 1 ? 1 : guess > (1 << 19) - 1 ? (1 << 19) - 1 : guess;
  i32 bucket = (i32)(__float_as_uint((float)guess) >> 20) - (127 << 3) + w.offsets[q.i * GUESS_BANDS / p.grid.rows];
  return (u32)(bucket < 0 ? 0 : bucket > N_BUCKETS - 1 ? N_BUCKETS - 1 : bucket);
}

// Where block `b` of `n` blocks of rows begins.
__device__ __forceinline__ u32 block_limit(u32 rows, u32 b, u32 n) { return rows * b / n; }
