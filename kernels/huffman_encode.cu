// Codes to bits, and all that stands before them in the coded section. Twins: huffman::cpu::encode, huffman::chunk.
#include "common/block.cuh"
#include "common/varint.cuh"
#include "common/walk.cuh"

__device__ __forceinline__ const i32* codes_to_write(const Args& a) { return a.state->n_runs == 0 ? a.codes : a.kept; }

// Bits of the parts of a chunk, and bytes of its streams. A block a chunk.
extern "C" __global__ void __launch_bounds__(BLOCK) huffman_sizes(const Args a) {
  if (idle(a) || blockIdx.x >= a.state->n_chunks) return;
  Chunk* chunk = &a.chunks[blockIdx.x];
  const u32* coder = a.coders + (u64)chunk->book * N_INDICES;
  u32 bits[4], all = 0;
  for (u32 k = 0; k < 4; ++k) {
    const u16* counts = a.part_counts + (u64)(blockIdx.x * 4 + k) * N_INDICES;
    u32 n = 0;
    for (u32 i = threadIdx.x; i < N_INDICES; i += BLOCK) n += counts[i] * (coder[i] >> 24);
    bits[k] = block_reduce(n, 0u, Add());
    all += bits[k];
  }
  if (threadIdx.x != 0) return;
  chunk->four = (all + 7) / 8 >= 2048;
  chunk->total = 0;
  for (u32 k = 0; k < 4; ++k) {
    chunk->bits[k] = bits[k];
    chunk->stream[k] = chunk->four ? (bits[k] + 7) / 8 : k == 0 ? (all + 7) / 8 : 0;
    chunk->total += chunk->stream[k];
  }
}

// Where everything goes, and everything but the chunks themselves. One block; the section is as `huffman::cpu::encode` writes it, without zstd.
extern "C" __global__ void __launch_bounds__(WIDE) huffman_layout(const Args a) {
  if (idle(a) || a.state->as_it_is) return;
  State* s = a.state;
  __shared__ u32 head, at_books, book_bytes;
  u32 n_books = s->n_books * N_CONTEXTS;
  // Bits of the books together.
  u32 book_bits = 0;
  for (u32 i = threadIdx.x; i < n_books; i += WIDE) book_bits += a.books[(u64)i * (1 + BOOK_WORDS)];
  book_bits = block_reduce(book_bits, 0u, Add());
  // Bytes of the directory, and of the chunks.
  u32 directory = 0, total = 0;
  for (u32 c = threadIdx.x; c < s->n_chunks; c += WIDE) {
    const Chunk& chunk = a.chunks[c];
    directory += varint_len(chunk.total * 2 + chunk.four);
    for (u32 k = 0; chunk.four && k < 3; ++k) directory += varint_len(chunk.stream[k]);
    total += chunk.total;
  }
  directory = block_reduce(directory, 0u, Add());
  total = block_reduce(total, 0u, Add());
  if (threadIdx.x == 0) {
    book_bytes = (book_bits + 7) / 8;
    u32 n = varint_len(s->thresholds[0]) + varint_len(s->thresholds[1]) + varint_len(s->n_books) + varint_len(book_bytes);
    for (u32 c = 0, serves = 0; c < s->n_chunks; ++c) {
      ++serves;
      if (c + 1 == s->n_chunks || a.chunks[c + 1].book != a.chunks[c].book) {
        n += varint_len(serves);
        serves = 0;
      }
    }
    at_books = n;
    head = n + book_bytes + 1 + directory;
    u64 bytes = (u64)head + total, after = s->used + (bytes + 8 + 7) / 8 * 8;
    if (a.may_be_as_it_is && s->head_bytes + bytes > 2 + (u64)a.n * (a.is_f64 ? 8 : 4)) {
      store_as_it_is(a);
    } else if (after > a.capacity) {
      s->left = NO_ROOM;
    } else {
      s->huffman_at = s->used;
      s->huffman_bytes = (u32)bytes;
      s->tile_bytes = s->head_bytes + (u32)bytes;
      s->used = after;
    }
  }
  __syncthreads();  // there is room or not
  if (idle(a) || s->as_it_is) return;
  u8* out = a.out + s->offset + s->huffman_at;
  u32* words = (u32*)out;
  // Words that several blocks or threads write into are 0 first: those of the books, and those at the ends of parts.
  for (u32 i = at_books / 4 + threadIdx.x; i <= (at_books + book_bytes) / 4; i += WIDE) words[i] = 0;
  u32 place = head;
  for (u32 start = 0; start < s->n_chunks; start += WIDE) {
    u32 c = start + threadIdx.x, all;
    u32 at = block_scan(c < s->n_chunks ? a.chunks[c].total : 0u, 0u, Add(), &all) + place;
    if (c < s->n_chunks) {
      Chunk& chunk = a.chunks[c];
      chunk.start = at;
      u64 bit = (u64)at * 8;
      for (u32 k = 0; k < 4; ++k) {
        words[bit >> 5] = 0;
        words[(bit + chunk.bits[k]) >> 5] = 0;
        bit += chunk.four ? (u64)chunk.stream[k] * 8 : chunk.bits[k];
      }
      words[bit >> 5] = 0;
    }
    place += all;
  }
  __syncthreads();  // those words are 0
  if (threadIdx.x == 0) {
    u8* p = put_varint(out, s->thresholds[0]);
    p = put_varint(p, s->thresholds[1]);
    p = put_varint(p, s->n_books);
    for (u32 c = 0, serves = 0; c < s->n_chunks; ++c) {
      ++serves;
      if (c + 1 == s->n_chunks || a.chunks[c + 1].book != a.chunks[c].book) {
        p = put_varint(p, serves);
        serves = 0;
      }
    }
    put_varint(p, book_bytes);
  }
  __syncthreads();  // what stands before the books is written as bytes, before words are added to
  u32 bits_before = at_books * 8;
  for (u32 start = 0; start < n_books; start += WIDE) {
    u32 i = start + threadIdx.x, all;
    const u32* book = a.books + (u64)i * (1 + BOOK_WORDS);
    u32 n = i < n_books ? book[0] : 0;
    u32 at = block_scan(n, 0u, Add(), &all) + bits_before;
    for (u32 k = 0; k * 32 < n; ++k, at += 32) {
      u32 left = n - k * 32, bits = left < 32 ? book[1 + k] & ((1u << left) - 1) : book[1 + k];
      u64 shifted = (u64)bits << (at & 31);
      atomicOr(&words[at >> 5], (u32)shifted);
      if ((u32)(shifted >> 32) != 0) atomicOr(&words[(at >> 5) + 1], (u32)(shifted >> 32));
    }
    bits_before += all;
  }
  __syncthreads();  // the books are written, before bytes behind them are
  if (threadIdx.x != 0) return;
  u8* p = out + at_books + book_bytes;
  *p++ = 0;
  for (u32 c = 0; c < s->n_chunks; ++c) {
    const Chunk& chunk = a.chunks[c];
    p = put_varint(p, chunk.total * 2 + chunk.four);
    for (u32 k = 0; chunk.four && k < 3; ++k) p = put_varint(p, chunk.stream[k]);
  }
}

// Bits that the tokens of a code may take: a run's 12 + 14, a value's 12 + 30.
#define STAGE_WORDS ((SEGMENT * 68 + 31) / 32 + 2)

struct CountBits {
  const u32* coder;
  u32 n;
  __device__ __forceinline__ void operator()(u32 context, const Token& t) { n += coder[context * CONTEXT_SIZE + t.id] >> 24; }
};

struct WriteBits {
  const u32* coder;
  u32* stage;
  u32 at;
  __device__ __forceinline__ void put(u32 bits, u32 n) {
    u64 shifted = (u64)bits << (at & 31);
    if ((u32)shifted != 0) atomicOr(&stage[at >> 5], (u32)shifted);
    if ((u32)(shifted >> 32) != 0) atomicOr(&stage[(at >> 5) + 1], (u32)(shifted >> 32));
    at += n;
  }
  __device__ __forceinline__ void operator()(u32 context, const Token& t) {
    u32 entry = coder[context * CONTEXT_SIZE + t.id];
    put(entry & 0xffff, entry >> 16 & 0xff);
    if (t.n_extra > 0) put(t.extra, t.n_extra);
  }
};

// A block a part. Bits of a segment are put together in shared memory and leave as whole words; the last one waits for the next segment.
extern "C" __global__ void __launch_bounds__(BLOCK) huffman_encode(const Args a) {
  if (idle(a) || a.state->as_it_is) return;
  __shared__ u32 stage[STAGE_WORDS];
  Part part = part_of(blockIdx.x, a.state->n_codes);
  if (part.chunk >= a.state->n_chunks) return;
  const Chunk& chunk = a.chunks[part.chunk];
  u64 bit = (u64)chunk.start * 8;
  for (u32 k = 0; k < blockIdx.x % 4; ++k) bit += chunk.four ? (u64)chunk.stream[k] * 8 : chunk.bits[k];
  u32* words = (u32*)(a.out + a.state->offset + a.state->huffman_at);
  const i32* codes = codes_to_write(a) + part.start;
  const u32* coder = a.coders + (u64)chunk.book * N_INDICES;
  u32 before = 0, n_words = 0, carried = 0;
  bool is_first = true;
  u64 word = bit >> 5;
  u32 used = (u32)(bit & 31);  // bits of the stage's first word that are taken
  for (u32 start = 0; start <= part.len; start += SEGMENT) {
    Walk w(codes, part.len, start, &before, a.state->thresholds);
    CountBits count;
    count.coder = coder;
    count.n = 0;
    w.tokens(count);
    u32 total, at = block_scan(count.n, 0u, Add(), &total);
    n_words = (used + total) / 32 + 1;  // the last may be empty
    for (u32 i = threadIdx.x; i < n_words + 1; i += BLOCK) stage[i] = i == 0 ? carried : 0;
    __syncthreads();  // the stage is clear
    WriteBits write;
    write.coder = coder;
    write.stage = stage;
    write.at = used + at;
    w.tokens(write);
    __syncthreads();  // all bits are there
    // Only the first word of the part may hold bits of others.
    for (u32 i = threadIdx.x; i + 1 < n_words; i += BLOCK) {
      if (i == 0 && is_first) atomicOr(&words[word], stage[0]);
      else words[word + i] = stage[i];
    }
    carried = stage[n_words - 1];
    if (n_words > 1) is_first = false;
    word += n_words - 1;
    used = (used + total) & 31;
    __syncthreads();  // the stage may be used again
  }
  if (threadIdx.x == 0 && carried != 0) atomicOr(&words[word], carried);
}
