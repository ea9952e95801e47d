// Bits to codes. Twin: huffman::chunk::decode_chunk, huffman::book::decoding_tables.
//
// A stream is read by one thread: the format makes every token depend on the one before. Tables (64 KiB a set of books) stay in the caches.
#include "common/block.cuh"
#include "common/token.cuh"

#define TABLE_SIZE (1u << MAX_BITS)
#define DIRECT 0u
#define EXTENDED (1u << 6)
#define INVALID (2u << 6)
#define KIND (3u << 6)

__device__ u32 entry_of(u32 id, u32 n_bits, const u32* thresholds) {
  u32 head = n_bits | context_after(id, thresholds[0], thresholds[1]) << 4, n_extra;
  if (id < N_RUN_TOKENS) {
    u32 shortest = join(id, RUN_DIRECT_LOG2, RUN_MANTISSA_BITS, &n_extra) + 1;
    if (n_extra == 0) return head | DIRECT | shortest << 8;
  } else {
    u32 smallest = join(id - N_RUN_TOKENS, VALUE_DIRECT_LOG2, VALUE_MANTISSA_BITS, &n_extra) + 1;
    if (n_extra == 0) return head | DIRECT | 1u << 8 | ((u32)unfold(smallest) & 0xff) << 24;
  }
  return head | EXTENDED | id << 8;
}

// A block a book. `lists` has for each N_TOKENS lengths and the only token (or 0xffffffff), a word each; tables go to `coders`, TABLE_SIZE
// entries each. Lengths were checked by the host: they fill the code space, or none is there.
extern "C" __global__ void __launch_bounds__(BLOCK) huffman_tables(const Args a) {
  const u32* lengths = a.lists + (u64)blockIdx.x * (N_TOKENS + 1);
  u32* table = a.coders + (u64)blockIdx.x * TABLE_SIZE;
  __shared__ u32 bits[N_TOKENS];
  __shared__ u32 first_code[MAX_BITS + 2];
  u32 only = lengths[N_TOKENS];
  u32 filler = only == 0xffffffffu ? INVALID : entry_of(only, 0, a.state->thresholds);
  for (u32 i = threadIdx.x; i < TABLE_SIZE; i += BLOCK) table[i] = filler;
  for (u32 i = threadIdx.x; i < N_TOKENS; i += BLOCK) bits[i] = lengths[i];
  __syncthreads();  // lengths are there, the table is filled
  if (threadIdx.x == 0) {
    u32 n_of_length[MAX_BITS + 1], code = 0;
    for (u32 n = 0; n <= MAX_BITS; ++n) n_of_length[n] = 0;
    for (u32 i = 0; i < N_TOKENS; ++i) ++n_of_length[bits[i]];
    first_code[1] = 0;
    for (u32 n = 1; n <= MAX_BITS; ++n) {
      code = (code + n_of_length[n]) << 1;
      first_code[n + 1] = code;
    }
  }
  __syncthreads();  // the first codes are known
  for (u32 id = threadIdx.x; id < N_TOKENS; id += BLOCK) {
    u32 n = bits[id];
    if (n == 0) continue;
    u32 code = first_code[n];
    for (u32 j = 0; j < id; ++j) code += bits[j] == n;
    u32 entry = entry_of(id, n, a.state->thresholds);
    for (u32 at = __brev(code) >> (32 - n); at < TABLE_SIZE; at += 1u << n) table[at] = entry;
  }
}

// Bits from the least significant up; beyond `size` bytes they are 0.
struct BitReader {
  const u8* data;
  u64 size, next, end, pending;
  u32 n_pending;
  __device__ BitReader(const u8* data, u64 size, u64 start, u64 end) : data(data), size(size), next(start), end(end), pending(0), n_pending(0) {}
  __device__ __forceinline__ void refill() {
    u64 word = 0;
    if (next + 8 <= size) {
      // Two aligned words would do; bytes come from one line of the cache anyway.
      for (u32 i = 0; i < 8; ++i) word |= (u64)data[next + i] << (8 * i);
    } else {
      for (u32 i = 0; i < 8 && next + i < size; ++i) word |= (u64)data[next + i] << (8 * i);
    }
    pending |= word << n_pending;
    next += (63 - n_pending) >> 3;
    n_pending |= 56;
  }
  __device__ __forceinline__ u32 peek(u32 n) const { return (u32)(pending & (((u64)1 << n) - 1)); }
  __device__ __forceinline__ void skip(u32 n) {
    pending >>= n;
    n_pending -= n;
  }
  __device__ bool is_within() const { return next * 8 <= end * 8 + n_pending; }
};

// One part. False: it is damaged.
__device__ bool decode_part(BitReader& bits, const u32* tables, i32* codes, u32 len) {
  u32 next = 0, context = FIRST_CONTEXT;
  while (next < len) {
    bits.refill();
    u32 e = tables[context << MAX_BITS | bits.peek(MAX_BITS)];
    bits.skip(e & 15);
    context = e >> 4 & 3;
    if ((e & KIND) == DIRECT) {
      codes[next] = (i32)e >> 24;
      next += e >> 8 & 0xffff;
      continue;
    }
    if ((e & KIND) != EXTENDED) return false;
    u32 id = e >> 8, n_extra;
    if (id < N_RUN_TOKENS) {
      u32 shortest = join(id, RUN_DIRECT_LOG2, RUN_MANTISSA_BITS, &n_extra) + 1;
      next += shortest + bits.peek(n_extra);
    } else {
      u32 smallest = join(id - N_RUN_TOKENS, VALUE_DIRECT_LOG2, VALUE_MANTISSA_BITS, &n_extra) + 1;
      codes[next] = unfold(smallest + bits.peek(n_extra));
      next += 1;
    }
    bits.skip(n_extra);
  }
  return next == len;
}

// A thread a stream: of chunks whose parts are one stream, the first thread of four reads it all. Codes are 0 before. `count` is the bytes of `coded`.
extern "C" __global__ void __launch_bounds__(32, 1) huffman_decode(const Args a) {
  u32 index = blockIdx.x * blockDim.x + threadIdx.x, c = index / 4, k = index % 4;
  if (c >= a.state->n_chunks) return;
  const Chunk& chunk = a.chunks[c];
  if (!chunk.four && k > 0) return;
  i32* codes = a.state->n_runs == 0 ? a.codes : a.kept;
  const u32* tables = a.coders + (u64)chunk.book * N_CONTEXTS * TABLE_SIZE;
  u32 n = a.state->n_codes, first = c * CHUNK, len = n - first < CHUNK ? n - first : CHUNK;
  u64 start = chunk.start;
  for (u32 i = 0; i < k; ++i) start += chunk.stream[i];
  BitReader bits(a.coded, a.count, start, start + chunk.stream[k]);
  bool good = true;
  for (u32 part = k; good && part < (chunk.four ? k + 1 : 4); ++part) {
    u32 from = len * part / 4, to = len * (part + 1) / 4;
    good = decode_part(bits, tables, codes + first + from, to - from);
  }
  if (!good || !bits.is_within()) atomicExch(&a.state->error, 1u);
}
