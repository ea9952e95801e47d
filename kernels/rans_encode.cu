// Codes in contexts to bytes: contexts and their distributions, streams, and the plan of the fitted predictor, which says what they are.
// Twins: src/predict/fitted/encode.rs (choose_contexts), src/predict/fitted/plan.rs (write), src/encode/rans/stream.rs (encode).
//
// Codes lie stream after stream, in coding order; those of values in runs have NO_BUCKET and are left out. Tokens are counted by all blocks, in
// shared memory first: 5 bytes a value. A warp runs backwards through each stream, 32 codes a step, as decoders run forwards: its latency is
// what bounds it, and the format has a stream for 2^18 values, 64 at most. Streams leave for their place in the output by whole blocks.
#include "common/block.cuh"
#include "common/fitted.cuh"
#include "common/varint.cuh"

#define MOST_CONTEXTS 32
#define ALL_BUCKETS (N_BUCKETS + 2)

// Tokens of each bucket. `counts` is 0 before.
extern "C" __global__ void __launch_bounds__(BLOCK) rans_count(const Args a) {
  if (idle(a)) return;
  __shared__ u32 counts[ALL_BUCKETS * RANS_TOKENS];
  for (u32 k = threadIdx.x; k < ALL_BUCKETS * RANS_TOKENS; k += BLOCK) counts[k] = 0;
  __syncthreads();  // counts are 0
  for (u32 i = blockIdx.x * BLOCK + threadIdx.x; i < a.n; i += gridDim.x * BLOCK) {
    u32 bucket = a.buckets[i], plain;
    if (bucket != NO_BUCKET) atomicAdd(&counts[bucket * RANS_TOKENS + rans_token(a.codes[i], &plain)], 1u);
  }
  __syncthreads();  // the block's tokens are counted
  for (u32 k = threadIdx.x; k < ALL_BUCKETS * RANS_TOKENS; k += BLOCK)
    if (counts[k] != 0) atomicAdd(&a.counts[k], counts[k]);
}

// Cuts buckets into contexts of about equal weight; counts of contexts go behind those of buckets. One block.
extern "C" __global__ void __launch_bounds__(BLOCK) rans_contexts(const Args a) {
  if (idle(a)) return;
  __shared__ u32 totals[N_BUCKETS], others[N_BUCKETS];
  __shared__ u32 all_zeros, all_others;
  __shared__ u8 contexts[ALL_BUCKETS];
  __shared__ u32 n_contexts;
  if (threadIdx.x == 0) all_zeros = all_others = 0;
  __syncthreads();  // sums are 0
  for (u32 b = threadIdx.x; b < N_BUCKETS; b += BLOCK) {
    u32 n = 0;
    for (u32 t = 1; t < RANS_TOKENS; ++t) n += a.counts[b * RANS_TOKENS + t];
    others[b] = n;
    atomicAdd(&all_others, n);
    atomicAdd(&all_zeros, a.counts[b * RANS_TOKENS]);
  }
  __syncthreads();  // codes are counted
  // Twice the number of values at most, which fits.
  u32 weight = 1 + all_zeros / (all_others > 0 ? all_others : 1);
  for (u32 b = threadIdx.x; b < N_BUCKETS; b += BLOCK) totals[b] = a.counts[b * RANS_TOKENS] + weight * others[b];
  __syncthreads();  // buckets are weighed
  if (threadIdx.x == 0) {
    u64 total = 0, seen = 0;
    u32 n = 0;
    for (u32 b = 0; b < N_BUCKETS; ++b) total += totals[b];
    for (u32 b = 0; b < N_BUCKETS; ++b) {
      if (b > 0 && seen * MOST_CONTEXTS >= total * (n + 1) && n + 1 < MOST_CONTEXTS) a.fit->thresholds[n++] = (u8)b;
      contexts[b] = (u8)n;
      seen += totals[b];
    }
    contexts[BASE_BESIDE] = (u8)(n + 1);
    contexts[BASE_CHAIN] = (u8)(n + 2);
    n_contexts = n + 3;
    a.fit->n_thresholds = n;
    a.fit->n_distributions = n + 3;
  }
  __syncthreads();  // the contexts are known
  for (u32 b = threadIdx.x; b < ALL_BUCKETS; b += BLOCK) a.fit->contexts[b] = contexts[b];
  for (u32 k = threadIdx.x; k < n_contexts * RANS_TOKENS; k += BLOCK) {
    u32 n = 0;
    for (u32 b = 0; b < ALL_BUCKETS; ++b)
      if (contexts[b] == k / RANS_TOKENS) n += a.counts[b * RANS_TOKENS + k % RANS_TOKENS];
    a.counts[ALL_BUCKETS * RANS_TOKENS + k] = n;
  }
}

struct Candidate {
  u64 cost;
  u32 id;
};
struct Cheaper {
  __device__ Candidate operator()(Candidate a, Candidate b) const { return a.cost < b.cost || (a.cost == b.cost && a.id <= b.id) ? a : b; }
};

// The cheapest of `n` distributions; of equal ones the first. `id(k)` names them. By all threads of a block.
template <class F> __device__ u32 cheapest(const Args& a, const u32* counts, u32 n, F id, Candidate* of_thread) {
  Candidate best;
  best.cost = ~(u64)0;
  best.id = ~0u;
  for (u32 k = threadIdx.x; k < n; k += blockDim.x) {
    Candidate c;
    c.id = id(k);
    c.cost = 0;
    for (u32 t = 0; t < RANS_TOKENS; ++t) c.cost += (u64)counts[t] * a.family->costs[c.id][t];
    best = Cheaper()(best, c);
  }
  of_thread[threadIdx.x] = best;
  __syncthreads();  // each thread's best is there
  for (u32 half = blockDim.x / 2; half > 0; half >>= 1) {
    if (threadIdx.x < half) of_thread[threadIdx.x] = Cheaper()(of_thread[threadIdx.x], of_thread[threadIdx.x + half]);
    __syncthreads();  // half as many are left
  }
  u32 found = of_thread[0].id;
  __syncthreads();  // all have read it
  return found;
}

// The distribution of each context: the scale by the middle shape, then all shapes around that scale. A block a context.
extern "C" __global__ void __launch_bounds__(128) rans_distributions(const Args a) {
  if (idle(a) || blockIdx.x >= a.fit->n_distributions) return;
  __shared__ u32 counts[RANS_TOKENS];
  __shared__ Candidate of_thread[128];
  if (threadIdx.x < RANS_TOKENS) counts[threadIdx.x] = a.counts[ALL_BUCKETS * RANS_TOKENS + blockIdx.x * RANS_TOKENS + threadIdx.x];
  __syncthreads();  // counts are there
  const u32 MIDDLE_SHAPE = 3;
  u32 scale = cheapest(a, counts, N_SCALES, [&](u32 k) { return MIDDLE_SHAPE * N_SCALES + k; }, of_thread) % N_SCALES;
  u32 from = scale < 14 ? 0 : scale - 14, to = scale + 14 < N_SCALES ? scale + 14 : N_SCALES, n = to - from;
  u32 id = cheapest(a, counts, N_SHAPES * n, [&](u32 k) { return k / n * N_SCALES + from + k % n; }, of_thread);
  if (threadIdx.x == 0) a.fit->distributions[blockIdx.x] = (u16)id;
}

// What a code takes in its context: the token, ESCAPE where it has no frequency, and plain bits.
__device__ __forceinline__ u32 token_of(const RansTable& table, i32 code, u32* plain) {
  u32 token = rans_token(code, plain);
  if (table.tokens[token] >> 16 != 0) return token;
  *plain = (u32)code;
  return RANS_ESCAPE;
}

// Codes and plain bits of each stream: `blockIdx.y`.
extern "C" __global__ void __launch_bounds__(BLOCK) rans_sizes(const Args a) {
  if (idle(a)) return;
  u32 k = blockIdx.y, first = a.places[PLACE_OF_STREAM * MOST_STREAMS + k], len = a.places[LEN_OF_STREAM * MOST_STREAMS + k];
  u32 n_codes = 0, n_bits = 0;
  for (u32 i = blockIdx.x * BLOCK + threadIdx.x; i < len; i += gridDim.x * BLOCK) {
    u32 bucket = a.buckets[first + i], plain;
    if (bucket == NO_BUCKET) continue;
    ++n_codes;
    n_bits += rans_plain_bits(token_of(a.tables[a.fit->contexts[bucket]], a.codes[first + i], &plain));
  }
  n_codes = block_reduce(n_codes, 0u, Add());
  n_bits = block_reduce(n_bits, 0u, Add());
  if (threadIdx.x != 0) return;
  atomicAdd(&a.fit_streams[k].n_codes, n_codes);
  atomicAdd(&a.fit_streams[k].bit, n_bits);
}

// A warp, and block, a stream, from its end on. Words go to the end of the stream's part of `words`, plain bits to its part of `plain`.
extern "C" __global__ void __launch_bounds__(32) rans_encode(const Args a) {
  if (idle(a)) return;
  __shared__ u32 states[32];
  u32 k = blockIdx.x, lane = threadIdx.x, first = a.places[PLACE_OF_STREAM * MOST_STREAMS + k];
  u32 len = a.places[LEN_OF_STREAM * MOST_STREAMS + k];
  FitStream* s = &a.fit_streams[k];
  u32 n_codes = s->n_codes, bit = s->bit, n_words = 0;
  u32* plain_bits = a.plain + first + k;  // a word of slack each
  for (u32 i = lane; i < bit / 32 + 1; i += 32) plain_bits[i] = 0;
  states[lane] = RANS_LOW;
  for (u32 until = len; until > 0;) {
    // Steps start at multiples of 32, the last one, which comes first, may be short.
    u32 from = (until - 1) / 32 * 32, i = first + from + lane, bucket = from + lane < until ? a.buckets[i] : NO_BUCKET;
    until = from;
    bool live = bucket != NO_BUCKET;
    u32 mask = __ballot_sync(ALL_LANES, live), before = (1u << lane) - 1, n = (u32)__popc(mask);
    n_codes -= n;
    u32 mine = (n_codes + (u32)__popc(mask & before)) & 31, plain = 0, n_plain = 0, state = 0, next = 0;
    bool full = false;
    __syncwarp();  // states of the step before are there
    if (live) {
      const RansTable& table = a.tables[a.fit->contexts[bucket]];
      u32 token = token_of(table, a.codes[i], &plain), entry = table.tokens[token], frequency = entry >> 16;
      n_plain = rans_plain_bits(token);
      state = states[mine];
      full = state >= frequency << (32 - RANS_PRECISION);
      u32 kept = full ? state >> 16 : state, quotient = kept / frequency;
      next = (quotient << RANS_PRECISION) + (kept - quotient * frequency) + (entry & 0xffff);
    }
    __syncwarp();  // all have read their states
    if (live) states[mine] = next;
    u32 of_full = __ballot_sync(ALL_LANES, full), n_full = (u32)__popc(of_full);
    n_words += n_full;
    // Words of the step in the order of their codes.
    if (full) a.words[first + len - n_words + (u32)__popc(of_full & before)] = (u16)state;
    if (__any_sync(ALL_LANES, n_plain != 0)) {
      u32 to = n_plain;
      for (u32 d = 1; d < 32; d <<= 1) {
        u32 other = __shfl_up_sync(ALL_LANES, to, d);
        if (lane >= d) to += other;
      }
      bit -= __shfl_sync(ALL_LANES, to, 31);
      u32 at = bit + to - n_plain;
      if (n_plain != 0) {
        u64 shifted = (u64)plain << (at & 31);
        atomicOr(&plain_bits[at >> 5], (u32)shifted);
        if ((u32)(shifted >> 32) != 0) atomicOr(&plain_bits[(at >> 5) + 1], (u32)(shifted >> 32));
      }
    }
  }
  __syncwarp();  // the first states are there
  s->states[lane] = states[lane];
  if (lane == 0) s->n_words = n_words;
}

// Bits of the plan, least significant first.
struct PlanWriter {
  u8* out;
  u32 n_bytes, n_pending;
  u64 pending;
  __device__ void put(u32 bits, u32 n) {
    pending |= (u64)bits << n_pending;
    for (n_pending += n; n_pending >= 8; n_pending -= 8) {
      out[n_bytes++] = (u8)pending;
      pending >>= 8;
    }
  }
  // Elias gamma code of n >= 1.
  __device__ void put_gamma(u32 n) {
    u32 log2 = 31 - (u32)__clz((int)n);
    put(1u << log2, log2 + 1);
    put(n - (1u << log2), log2);
  }
};
__device__ __forceinline__ u32 bits_of_weight(i32 w) { return w == 0 ? 0 : 32 - (u32)__clz(w < 0 ? -w : w); }

// The plan as the archive has it, to `plan`; `count` is the number of passes. One thread: some ten thousand numbers at most.
extern "C" __global__ void __launch_bounds__(32) rans_plan(const Args a) {
  if (idle(a) || threadIdx.x != 0) return;
  PlanWriter w;
  w.out = a.plan;
  w.n_bytes = w.n_pending = 0;
  w.pending = 0;
  w.put(a.site.n_before == 0 ? 3 : 4, 4);  // revision, see plan.rs: forwards, or from the middle outwards
  w.put(a.fit->wrap, 1);
  w.put(a.site.n_streams - 1, 6);
  for (u32 p = 0; p < a.count; ++p) {
    const FitPass& pass = a.fit_passes[p];
    w.put(31 - (u32)__clz((int)pass.n_bands), 2);
    w.put(pass.shift, 4);
    for (u32 b = 0; b < pass.n_bands; ++b) {
      u32 n = pass.n[b], width = 0, next = 0;
      w.put_gamma(n + 1);
      for (u32 k = 0; k < n; ++k) width = bits_of_weight(pass.weight[b][k]) > width ? bits_of_weight(pass.weight[b][k]) : width;
      if (n > 0) w.put(width, 4);
      for (u32 k = 0; k < n; ++k) {
        w.put_gamma(pass.tap[b][k] - next + 1);
        next = pass.tap[b][k] + 1u;
        w.put((u32)pass.weight[b][k] & ((2u << width) - 1), width + 1);
      }
    }
  }
  for (u32 p = 0; p < a.count; ++p) {
    const FitPass& pass = a.fit_passes[p];
    u32 n = a.fittings[p].n_features + 1, width = 0;
    for (u32 k = 0; k < n; ++k) width = bits_of_weight(pass.guess[k]) > width ? bits_of_weight(pass.guess[k]) : width;
    w.put(width, 4);
    for (u32 k = 0; k < n; ++k) w.put((u32)pass.guess[k] & ((2u << width) - 1), width + 1);
    bool has_offsets = false;
    for (u32 k = 0; k < GUESS_BANDS; ++k) has_offsets |= pass.offsets[k] != 0;
    w.put(has_offsets, 1);
    for (u32 k = 0; has_offsets && k < GUESS_BANDS; ++k) w.put_gamma(folded(pass.offsets[k]));
  }
  w.put(a.fit->n_thresholds, 5);
  u32 last = 0;
  for (u32 k = 0; k < a.fit->n_thresholds; ++k) {
    w.put_gamma(a.fit->thresholds[k] - last + 1);
    last = a.fit->thresholds[k];
  }
  for (u32 k = 0; k < a.fit->n_distributions; ++k) w.put(a.fit->distributions[k], 11);
  if (w.n_pending > 0) w.put(0, 8 - w.n_pending);
  a.fit->plan_bytes = w.n_bytes;
}

// Where streams go, behind what `tile_head` wrote, and what stands before each. A thread a stream.
extern "C" __global__ void __launch_bounds__(64) rans_layout(const Args a) {
  if (idle(a) || a.state->as_it_is) return;
  State* s = a.state;
  __shared__ u32 lens[MOST_STREAMS];
  __shared__ bool has_room;
  u32 k = threadIdx.x, n = a.site.n_streams, len = 0, bytes = 0, n_plain = 0, n_words = 0;
  if (k < n) {
    n_plain = (a.fit_streams[k].bit + 7) / 8;
    n_words = a.fit_streams[k].n_words;
    len = varint_len(n_plain) + varint_len(n_words) + 128 + 2 * n_words + n_plain;
    bytes = varint_len(len) + len;
  }
  if (k < MOST_STREAMS) lens[k] = bytes;
  __syncthreads();  // lengths are known
  u32 at = 0, total = 0;
  for (u32 j = 0; j < n; ++j) {
    at += j < k ? lens[j] : 0;
    total += lens[j];
  }
  if (k == 0) {
    u64 after = s->used + (total + 8 + 7) / 8 * 8;
    bool as_it_is = a.may_be_as_it_is && s->head_bytes + (u64)total > 2 + (u64)a.n * (a.is_f64 ? 8 : 4);
    has_room = !as_it_is && after <= a.capacity;
    a.fit->code_bytes = total;
    if (as_it_is) {
      store_as_it_is(a);
    } else if (!has_room) {
      s->left = NO_ROOM;
    } else {
      s->huffman_at = s->used;
      s->huffman_bytes = total;
      s->tile_bytes = s->head_bytes + total;
      s->used = after;
    }
  }
  __syncthreads();  // there is room or not
  if (k >= n || !has_room) return;
  FitStream* stream = &a.fit_streams[k];
  u8* out = a.out + s->offset + s->huffman_at;
  u8* p = put_varint(out + at, len);
  p = put_varint(p, n_plain);
  p = put_varint(p, n_words);
  for (u32 l = 0; l < 32; ++l)
    for (u32 b = 0; b < 32; b += 8) *p++ = (u8)(stream->states[l] >> b);
  stream->words_at = (u32)(p - out);
  stream->n_plain = n_plain;
  stream->plain_at = stream->words_at + 2 * n_words;
}

// Words and plain bits of each stream (`blockIdx.y`) to their place.
extern "C" __global__ void __launch_bounds__(BLOCK) rans_copy(const Args a) {
  if (idle(a) || a.state->as_it_is) return;
  u32 k = blockIdx.y, from = blockIdx.x * BLOCK + threadIdx.x, step = gridDim.x * BLOCK;
  const FitStream& s = a.fit_streams[k];
  u32 first = a.places[PLACE_OF_STREAM * MOST_STREAMS + k], len = a.places[LEN_OF_STREAM * MOST_STREAMS + k];
  const u8 *words = (const u8*)(a.words + first + len - s.n_words), *plain = (const u8*)(a.plain + first + k);
  u8* out = a.out + a.state->offset + a.state->huffman_at;
  for (u32 i = from; i < 2 * s.n_words; i += step) out[s.words_at + i] = words[i];
  for (u32 i = from; i < s.n_plain; i += step) out[s.plain_at + i] = plain[i];
}

// What came of the tile, for whoever tries another way.
extern "C" __global__ void __launch_bounds__(32) rans_finish(const Args a) {
  if (threadIdx.x == 0) a.fit->left = a.state->left;
}
