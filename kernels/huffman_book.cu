// Code books: lengths from counts, canonical codes, their compact form. Twin: src/encode/huffman/book.rs.
//
// A block a book. Sorting is by rank, all threads; the tree is made by one thread, some 270 steps of two queues in shared memory.
#include "common/block.cuh"
#include "common/token.cuh"

// A bit string, least significant bit first, for one thread. Words after what is written need not be 0.
struct BitWriter {
  u32* words;
  u64 pending;
  u32 n_pending, n_words;
  __device__ explicit BitWriter(u32* words) : words(words), pending(0), n_pending(0), n_words(0) {}
  __device__ void put(u32 bits, u32 n) {
    pending |= (u64)bits << n_pending;
    n_pending += n;
    if (n_pending >= 32) {
      words[n_words++] = (u32)pending;
      pending >>= 32;
      n_pending -= 32;
    }
  }
  __device__ u32 finish() {
    u32 n = n_words * 32 + n_pending;
    if (n_pending > 0) words[n_words] = (u32)pending;
    return n;
  }
};

struct Tree {
  u32 weight[2 * N_TOKENS];
  u16 parent[2 * N_TOKENS];
  u16 depth[2 * N_TOKENS];
  u16 id[N_TOKENS];          // of the leaves, rarest first
  u32 n_of_length[N_TOKENS + 1];
  u8 bits[N_TOKENS];
};

// Depths of the Huffman tree's leaves as a count per depth; leaves ascend. One thread.
__device__ void tree_lengths(Tree& t, u32 n) {
  u32 leaf = 0, inner = n;
  for (u32 made = n; made < 2 * n - 1; ++made) {
    u32 sum = 0;
    for (u32 k = 0; k < 2; ++k) {
      bool take_leaf = leaf < n && (inner >= made || t.weight[leaf] <= t.weight[inner]);
      u32 node = take_leaf ? leaf++ : inner++;
      sum += t.weight[node];
      t.parent[node] = (u16)made;
    }
    t.weight[made] = sum;
  }
  t.depth[2 * n - 2] = 0;
  for (i32 node = (i32)(2 * n - 3); node >= 0; --node) {
    t.depth[node] = (u16)(t.depth[t.parent[node]] + 1);
    if ((u32)node < n) ++t.n_of_length[t.depth[node]];
  }
}

// Cuts lengths to MAX_BITS and lengthens others until the code fits again. One thread.
__device__ void limit_lengths(Tree& t, u32 n) {
  u32 filled = 0;
  for (u32 k = MAX_BITS + 1; k < n; ++k) t.n_of_length[MAX_BITS] += t.n_of_length[k];
  for (u32 k = 1; k <= MAX_BITS; ++k) filled += t.n_of_length[k] << (MAX_BITS - k);
  for (; filled > 1u << MAX_BITS; --filled) {
    // One code of the longest length goes; one shorter code becomes two, the second for it.
    --t.n_of_length[MAX_BITS];
    for (u32 k = MAX_BITS - 1; k >= 1; --k) {
      if (t.n_of_length[k] == 0) continue;
      --t.n_of_length[k];
      t.n_of_length[k + 1] += 2;
      break;
    }
  }
}

// The lengths' compact form; gives its bits. One thread.
__device__ u32 write_lengths(const u8* bits, u32 n_used, u32 only, u32* words) {
  BitWriter out(words);
  if (n_used < 2) {
    out.put(n_used, 2);
    if (n_used == 1) out.put(only, 9);
    return out.finish();
  }
  u32 last = 0;
  for (u32 id = 0; id < N_TOKENS; ++id)
    if (bits[id] > 0) last = id;
  out.put(2, 2);
  out.put(last, 9);
  u32 expected = 6;
  for (u32 id = 0; id <= last;) {
    u32 n = bits[id];
    if (n == 0) {
      u32 run = 1;
      while (bits[id + run] == 0) ++run;
      u32 log2 = 31 - (u32)__clz((int)run);
      out.put(7, 3);
      out.put(log2, 4);
      out.put(run - (1u << log2), log2);
      id += run;
      continue;
    }
    if (n == expected) out.put(0, 1);
    else if (n == expected + 1) out.put(1, 3);
    else if (n + 1 == expected) out.put(5, 3);
    else {
      out.put(3, 3);
      out.put(n, 4);
    }
    expected = n;
    ++id;
  }
  return out.finish();
}

extern "C" __global__ void __launch_bounds__(BLOCK) huffman_books(const Args a) {
  if (idle(a) || blockIdx.x >= a.state->n_books * N_CONTEXTS) return;
  __shared__ Tree t;
  __shared__ u32 first_code[MAX_BITS + 2];
  const u32* counts = a.set_counts + (u64)blockIdx.x * CONTEXT_SIZE;
  u32* coder = a.coders + (u64)blockIdx.x * CONTEXT_SIZE;
  for (u32 i = threadIdx.x; i <= N_TOKENS; i += BLOCK) t.n_of_length[i] = 0;
  for (u32 i = threadIdx.x; i < N_TOKENS; i += BLOCK) t.bits[i] = 0;
  u32 n_used = 0, only = 0;
  for (u32 i = threadIdx.x; i < N_TOKENS; i += BLOCK) {
    n_used += counts[i] > 0;
    if (counts[i] > 0) only = i;
  }
  n_used = block_reduce(n_used, 0u, Add());
  only = block_reduce(only, 0u, Larger());
  if (n_used >= 2) {
    // Rank by count, then id.
    for (u32 i = threadIdx.x; i < N_TOKENS; i += BLOCK) {
      u32 c = counts[i], rank = 0;
      if (c == 0) continue;
      for (u32 j = 0; j < N_TOKENS; ++j) rank += counts[j] != 0 && (counts[j] < c || (counts[j] == c && j < i));
      t.weight[rank] = c;
      t.id[rank] = (u16)i;
    }
    __syncthreads();  // the leaves are sorted
    if (threadIdx.x == 0) {
      tree_lengths(t, n_used);
      limit_lengths(t, n_used);
      // Rare tokens, which come first, get the longest codes.
      u32 leaf = 0, code = 0;
      for (u32 length = MAX_BITS; length >= 1; --length)
        for (u32 k = 0; k < t.n_of_length[length]; ++k) t.bits[t.id[leaf++]] = (u8)length;
      first_code[1] = 0;
      for (u32 length = 1; length <= MAX_BITS; ++length) {
        code = (code + t.n_of_length[length]) << 1;
        first_code[length + 1] = code;
      }
    }
    __syncthreads();  // the lengths are known
  }
  __syncthreads();  // so that lengths of books without a tree are seen too
  // code | length << 16 | length with plain bits << 24
  for (u32 i = threadIdx.x; i < CONTEXT_SIZE; i += BLOCK) {
    u32 entry = i < N_TOKENS ? extra_bits(i) << 24 : 0;
    u32 length = i < N_TOKENS ? t.bits[i] : 0;
    if (length > 0) {
      u32 code = first_code[length];
      for (u32 j = 0; j < i; ++j) code += t.bits[j] == length;
      entry += __brev(code) >> (32 - length) | length << 16 | length << 24;
    }
    coder[i] = entry;
  }
  if (threadIdx.x == 0) {
    u32* book = a.books + (u64)blockIdx.x * (1 + BOOK_WORDS);
    book[0] = write_lengths(t.bits, n_used, only, book + 1);
  }
}
