// The software driver: a stand-in for libcuda.so.1 that runs our kernels, compiled by g++ from kernels/*.cu, on the CPU.
// CUDA threads are fibers, blocks go to OS threads, streams run at once. What it checks and counts is in README.md.
//
// Environment:
//   CUEMU_THREADS  OS threads                        CUEMU_SEED    not 0: random order of fibers, blocks and yields
//   CUEMU_GUARD    4 or 16: each allocation ends at an unmapped page     CUEMU_STRICT  1: call sites of a barrier must agree
//   CUEMU_STACK    KiB a CUDA thread                 CUEMU_SM      compute capability, e.g. 80
//   CUEMU_TRACE    1: a line a launch                CUEMU_TIMEOUT seconds for spin waits
//   CUEMU_FAIL     KIND:N, read at cuProfilerStart: the Nth call (from 1) of a kind fails: alloc, launch, module, copy, sync; lost: from the
//                  Nth call of any kind on every call fails, as after the loss of a device
//   CUEMU_REPORT   file that gets a line of counters, since cuProfilerStart, at each cuProfilerStop
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csetjmp>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>
#include <pthread.h>
#include "cuemu.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#undef __shared__
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define ASAN 1
#else
#define ASAN 0
#endif
#ifdef CUEMU_TSAN
extern "C" { void* __tsan_get_current_fiber(); void* __tsan_create_fiber(unsigned); void __tsan_destroy_fiber(void*); void __tsan_switch_to_fiber(void*, unsigned); void __tsan_acquire(void*); void __tsan_release(void*); }
#define TSAN 1
#else
#define TSAN 0
static inline void* __tsan_get_current_fiber() { return nullptr; } static inline void* __tsan_create_fiber(unsigned) { return nullptr; }
static inline void __tsan_destroy_fiber(void*) {} static inline void __tsan_switch_to_fiber(void*, unsigned) {} static inline void __tsan_acquire(void*) {} static inline void __tsan_release(void*) {}
#endif

static long env(const char* n, long d) { const char* s = getenv(n); return s && *s ? strtol(s, nullptr, 0) : d; }

namespace cuemu {
thread_local Thread* cur = nullptr;

struct Stack { char* lo; size_t size; unsigned colour; void* fake = nullptr; void* tsan = nullptr; };   // colour: spreads stack tops over cache sets
struct Coll { unsigned mask, arrived, valid[2], gen; const char* op; int line; uint64_t buf[2][32]; };
struct Warp { unsigned alive, ready, at_barrier; int ncoll; Coll coll[4]; };   // up to 4 distinct masks in flight
struct Fail { std::string msg; };

struct Launch {
  std::string name; void (*fn)(void**); void** args; dim3 grid, block; unsigned dyn;
  std::atomic<unsigned long> next{0}; unsigned long nblocks; std::vector<unsigned> order; uint64_t seed;
  std::atomic<bool> failed{false}; std::mutex mu; std::string msg;
  std::atomic<unsigned long long> switches{0};
  char end_tok = 0; std::vector<void*> garbage;     // TSan: freed only after the launch
  std::chrono::steady_clock::time_point t0 = std::chrono::steady_clock::now();
};

struct Block : BlockInfo {
  Launch* L; unsigned n, alive, arrived, bar_gen; int bar_kind, bar_line; unsigned bar_acc[2]; unsigned cur_warp;
  unsigned started; uint64_t rng; unsigned long long switches; char bar_tok[2], start_tok;
  std::vector<Thread> th; std::vector<Warp> warps;
  std::vector<Stack*> free_stacks; std::vector<Stack*> all_stacks;   // pool, kept across blocks
  Stack main; void* main_sp; void* main_tsan; std::vector<unsigned char> dynbuf; bool abandon;
  uint64_t rnd() { rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17; return rng; }
};

extern "C" void cuemu_switch(void** save, void* load);
__asm__(R"(.text
.globl cuemu_switch
.hidden cuemu_switch
.type cuemu_switch,@function
cuemu_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size cuemu_switch,.-cuemu_switch
)");

static size_t stack_bytes() { static size_t s = (size_t)env("CUEMU_STACK", ASAN || TSAN ? 256 : 64) << 10; return s; }
static Stack* new_stack() {
  size_t s = stack_bytes(); char* p = (char*)mmap(nullptr, s + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) abort();
  mprotect(p, 4096, PROT_NONE);
  auto* st = new Stack; st->lo = p + 4096; st->size = s; static std::atomic<unsigned> k{0}; st->colour = (k++ * 320) & 0xfc0;
  // TSan: a fiber goes with its stack, as making one takes a millisecond. So a thread comes after the one thread of an earlier block that had
  // its stack, which hides races of those two.
  if (TSAN) st->tsan = __tsan_create_fiber(0);
  return st;
}
static void fiber_main();
static thread_local void* dead_sp;

// Switch from `from` (null: the finished fiber's stack is dropped) to thread t, which has a stack; t==null: scheduler.
static void jump(Block* b, void** save, Stack* from, bool from_dies, Thread* t) {
  ++b->switches;
#if ASAN
  Stack* to = t ? t->stack : &b->main;
  void* fs = nullptr; __sanitizer_start_switch_fiber(from_dies ? nullptr : &fs, to->lo, to->size);
  if (!from_dies) from->fake = fs;
#endif
  __tsan_switch_to_fiber(t ? t->tsan : b->main_tsan, 1);
  cur = t;
  cuemu_switch(save, t ? t->sp : b->main_sp);
#if ASAN
  __sanitizer_finish_switch_fiber(from->fake, nullptr, nullptr);
#endif
}
static Thread* pick(Block* b) {                       // next ready CUDA thread, or null
  unsigned nw = (unsigned)b->warps.size();
  if (b->chaos) {
    unsigned s = (unsigned)(b->rnd() % nw);
    for (unsigned i = 0; i < nw; ++i) { unsigned w = (s + i) % nw, r = b->warps[w].ready; if (!r) continue;
      for (unsigned k = (unsigned)(b->rnd() % __builtin_popcount(r)); k; --k) r &= r - 1;
      return &b->th[w * 32 + __builtin_ctz(r)]; }
    return nullptr;
  }
  for (unsigned i = 0; i < nw; ++i) { unsigned w = b->cur_warp + i; if (w >= nw) w -= nw; unsigned r = b->warps[w].ready;
    if (r) { if (w != b->cur_warp) b->cur_warp = w;
      unsigned above = cur && cur->warp == &b->warps[w] ? r & ~((2u << cur->lane) - 1) : r;      // round robin in the warp
      return &b->th[w * 32 + __builtin_ctz(above ? above : r)]; } }
  return nullptr;
}
static void prepare(Block* b, Thread* t) {            // give a not yet started thread a stack
  if (t->stack) return;
  if (b->free_stacks.empty()) { auto* s = new_stack(); b->all_stacks.push_back(s); b->free_stacks.push_back(s); }
  Stack* s = b->free_stacks.back(); b->free_stacks.pop_back(); s->fake = nullptr;
#if ASAN
  ASAN_UNPOISON_MEMORY_REGION(s->lo, s->size);
#endif
  void** top = (void**)(s->lo + s->size - s->colour); *--top = nullptr; *--top = (void*)&fiber_main;
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  t->stack = s; t->sp = top; t->tsan = s->tsan;
}
static void describe(Block* b, std::string& m) {
  char z[256]; int shown = 0;
  for (auto& t : b->th) if (t.where && shown < 6) { snprintf(z, sizeof z, "\n    thread (%u,%u,%u) waits at %s, line %d", t.tid.x, t.tid.y, t.tid.z, t.where, t.line); m += z; ++shown; }
}
[[noreturn]] static void fail(Block* b, std::string msg) {   // abandon the block: every other fiber is dropped where it stands
  char z[160]; snprintf(z, sizeof z, " [block (%u,%u,%u)", b->bid.x, b->bid.y, b->bid.z); msg += z;
  if (cur) { snprintf(z, sizeof z, " thread (%u,%u,%u)", cur->tid.x, cur->tid.y, cur->tid.z); msg += z; }
  msg += "]"; describe(b, msg);
  { std::lock_guard<std::mutex> g(b->L->mu); if (!b->L->failed.exchange(true)) b->L->msg = msg; }
  b->abandon = true; jump(b, &dead_sp, cur->stack, true, nullptr); __builtin_unreachable();
}
static void block_switch(const char* where, int line) {      // current thread stops here; run someone else
  Block* b = cur->blk; Thread* me = cur; me->where = where; me->line = line;
  Thread* t = pick(b);
  if (!t) fail(b, "deadlock: no thread can run");
  if (t != me) { prepare(b, t); jump(b, &me->sp, me->stack, false, t); }
  me->where = nullptr;
}
void yield() {
  Block* b = cur->blk;
  if (b->L->failed.load(std::memory_order_relaxed)) fail(b, "launch failed elsewhere");
  static const long limit = env("CUEMU_TIMEOUT", 60);
  if ((++b->switches & 1023) == 0 && std::chrono::steady_clock::now() - b->L->t0 > std::chrono::seconds(limit)) fail(b, "spinning for longer than CUEMU_TIMEOUT seconds: livelock, or a wait on a block that has not been scheduled");
  Thread* t = pick(b);
  if (t && t != cur) block_switch("yield", 0); else std::this_thread::yield();
}
void chaos_point() { if ((cur->blk->rnd() & 3) == 0) yield(); }
void trap(const char* what) { fail(cur->blk, what); }

static void release_barrier(Block* b) {
  for (auto& w : b->warps) { w.ready |= w.at_barrier; w.at_barrier = 0; }
  b->arrived = 0; ++b->bar_gen; b->bar_acc[b->bar_gen & 1] = b->bar_kind == 2;   // overwritten by the first arriver
}
unsigned barrier(int kind, int pred, int line) {
  Thread* me = cur; Block* b = me->blk; Warp* w = me->warp; unsigned bit = 1u << me->lane, g = b->bar_gen & 1;
  static const bool strict = env("CUEMU_STRICT", 0);
  if (!b->arrived) { b->bar_kind = kind; b->bar_line = line; b->bar_acc[g] = kind == 2; }
  else if (b->bar_kind != kind || (strict && b->bar_line != line)) fail(b, "__syncthreads divergence: lines " + std::to_string(b->bar_line) + " and " + std::to_string(line));
  if (kind == 1) b->bar_acc[g] += pred; else if (kind == 2) b->bar_acc[g] &= pred; else if (kind == 3) b->bar_acc[g] |= pred;
  __tsan_release(&b->bar_tok[g]);
  w->ready &= ~bit; w->at_barrier |= bit;
  if (++b->arrived == b->alive) { release_barrier(b); if (b->chaos) block_switch("__syncthreads", line); }
  else block_switch("__syncthreads", line);
  __tsan_acquire(&b->bar_tok[g]);
  return b->bar_acc[g];
}
static void complete(Warp* w, Coll* c) { c->valid[c->gen & 1] = c->arrived; w->ready |= c->arrived; c->arrived = 0; ++c->gen; }
const uint64_t* collect(unsigned mask, uint64_t v, const char* op, int line, unsigned* valid) {
  Thread* me = cur; Block* b = me->blk; Warp* w = me->warp; unsigned bit = 1u << me->lane;
  if (!(mask & bit)) fail(b, std::string(op) + ", line " + std::to_string(line) + ": calling lane is not in the mask");
  Coll* c = nullptr;
  for (int i = 0; i < w->ncoll; ++i) if (w->coll[i].mask == mask) { c = &w->coll[i]; break; }
  if (!c) {
    for (int i = 0; i < w->ncoll && !c; ++i) if (!w->coll[i].arrived) { bool reading = false; for (unsigned l = 0; l < 32; ++l) if (w->coll[i].mask >> l & 1) { Thread& t = b->th[(me - b->th.data()) / 32 * 32 + l]; reading |= t.where && (w->ready >> l & 1); } if (!reading) { c = &w->coll[i]; c->gen = 0; } }
    if (!c) { if (w->ncoll == (int)(sizeof w->coll / sizeof *w->coll)) fail(b, "too many distinct warp masks in flight"); c = &w->coll[w->ncoll++]; c->gen = 0; c->arrived = 0; }
    c->mask = mask;
  }
  if (!c->arrived) { c->op = op; c->line = line; }
  else if (c->op != op && strcmp(c->op, op)) fail(b, std::string("warp divergence: ") + c->op + " line " + std::to_string(c->line) + " meets " + op + " line " + std::to_string(line));
  unsigned g = c->gen & 1; c->buf[g][me->lane] = v; c->arrived |= bit; w->ready &= ~bit;
  if ((c->arrived & w->alive) == (mask & w->alive)) { complete(w, c); if (b->chaos) block_switch(op, line); }
  else block_switch(op, line);
  *valid = c->valid[g];
  return c->buf[g];
}
void syncwarp(unsigned mask, int line) {   // the only warp operation that orders memory
  unsigned ok; Warp* w = cur->warp; __tsan_release(w); collect(mask, 0, "__syncwarp", line, &ok); __tsan_acquire(w);
}
static void thread_exit(Block* b, Thread* me) {
  Warp* w = me->warp; unsigned bit = 1u << me->lane; w->alive &= ~bit; w->ready &= ~bit; --b->alive;
  for (int i = 0; i < w->ncoll; ++i) { Coll* c = &w->coll[i]; if (c->arrived && (c->arrived & w->alive) == (c->mask & w->alive)) complete(w, c); }
  if (b->alive && b->arrived == b->alive) release_barrier(b);
}
static void fiber_main() {                 // a fiber runs CUDA threads until one has to be resumed elsewhere
#if ASAN
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  for (;;) {
    Thread* me = cur; Block* b = me->blk; Stack* st = me->stack;
    __tsan_acquire(&b->start_tok);
    b->L->fn(b->L->args);
    __tsan_release(&b->L->end_tok);
    thread_exit(b, me);
    Thread* t = b->alive ? pick(b) : nullptr;
    if (b->alive && !t) fail(b, "deadlock: no thread can run");
    if (!TSAN && t && !t->stack) { t->stack = st; t->sp = nullptr; __tsan_switch_to_fiber(t->tsan, 1); cur = t; continue; }  // reuse this stack, no switch
    if (t) prepare(b, t);
    if (!TSAN) b->free_stacks.push_back(st);
    jump(b, &dead_sp, st, true, t);
  }
}
static void run_block(Block* b, Launch* L, unsigned long idx) {
  unsigned n = L->block.x * L->block.y * L->block.z, nw = (n + 31) / 32;
  b->L = L; b->bid = {(unsigned)(idx % L->grid.x), (unsigned)(idx / L->grid.x % L->grid.y), (unsigned)(idx / L->grid.x / L->grid.y)};
  b->bdim = L->block; b->gdim = L->grid; b->n = b->alive = n; b->arrived = b->bar_gen = 0; b->cur_warp = 0; b->switches = 0; b->abandon = false;
  b->chaos = L->seed != 0; b->rng = (L->seed ^ (idx + 1)) * 0x9E3779B97F4A7C15ull | 1;
#if ASAN || TSAN
  unsigned char* dyn = (unsigned char*)aligned_alloc(16, 16 + (L->dyn + 15) / 16 * 16); b->dyn = dyn;   // fresh memory for every block
#if ASAN
  ASAN_POISON_MEMORY_REGION(dyn + (L->dyn + 15) / 16 * 16, 16);   // red zone right behind it
  if (L->dyn % 16) { ASAN_POISON_MEMORY_REGION(dyn + L->dyn, 16 - L->dyn % 16); }
#else
  while (b->all_stacks.size() < n) { b->all_stacks.reserve(1024); b->free_stacks.reserve(1024); b->all_stacks.push_back(new_stack()); b->free_stacks.push_back(b->all_stacks.back()); }
#endif
#else
  b->dynbuf.resize(L->dyn + 1024); b->dyn = (unsigned char*)(((uintptr_t)b->dynbuf.data() + 255) & ~(uintptr_t)255);
#endif
  memset(b->dyn, b->chaos ? (int)(b->rnd() & 255) : 0xCB, L->dyn);   // shared memory starts as garbage
  b->th.resize(nw * 32); b->warps.resize(nw);
  for (unsigned w = 0; w < nw; ++w) { Warp& W = b->warps[w]; unsigned k = n - w * 32; W.alive = W.ready = k >= 32 ? ~0u : (1u << k) - 1; W.at_barrier = 0; W.ncoll = 0; }
  for (unsigned i = 0; i < n; ++i) { Thread& t = b->th[i]; t.tid = {i % L->block.x, i / L->block.x % L->block.y, i / L->block.x / L->block.y};
    t.lane = i & 31; t.warp = &b->warps[i >> 5]; t.blk = b; t.sp = nullptr; t.stack = nullptr; t.where = nullptr; t.tsan = nullptr; }
  for (unsigned i = n; i < nw * 32; ++i) b->th[i].where = nullptr;
  b->main_tsan = __tsan_get_current_fiber(); __tsan_release(&b->start_tok);
#if ASAN
  { pthread_attr_t a; void* lo; size_t sz; pthread_getattr_np(pthread_self(), &a); pthread_attr_getstack(&a, &lo, &sz); pthread_attr_destroy(&a); b->main.lo = (char*)lo; b->main.size = sz; }
#endif
  cur = nullptr; Thread* t = pick(b); prepare(b, t); jump(b, &b->main_sp, &b->main, false, t); cur = nullptr;
  L->switches += b->switches;
  if (b->abandon) b->free_stacks = b->all_stacks;
#if ASAN
  ASAN_UNPOISON_MEMORY_REGION(b->dyn, (L->dyn + 15) / 16 * 16 + 16);
#endif
#if TSAN
  b->free_stacks = b->all_stacks;
  L->garbage.push_back(b->dyn);
#elif ASAN
  free(b->dyn);
#endif
}
static Block* my_block() { static thread_local Block* b = nullptr; if (!b) b = new Block; return b; }
static void work(Launch* L) {
  Block* b = my_block();
  for (;;) { unsigned long i = L->next++; if (i >= L->nblocks || L->failed) return; if (!L->order.empty()) i = L->order[i];
    if (TSAN) std::thread([=] { run_block(b, L, i); }).join();    // fresh thread = fresh __shared__ (TLS), no ordering between blocks
    else run_block(b, L, i); }
}
struct Pool {                                   // persistent workers; the launching thread takes part too
  std::mutex mu; std::condition_variable go, done; Launch* job = nullptr; int active = 0; unsigned long epoch = 0; std::vector<std::thread> ts;
  void run(Launch* L, int extra) {
    if (extra <= 0) { work(L); return; }
    { std::unique_lock<std::mutex> l(mu);
      while ((int)ts.size() < extra) { int id = (int)ts.size(); unsigned long e0 = epoch; ts.emplace_back([this, id, e0] { loop(id, e0); }); ts.back().detach(); }
      job = L; active = (int)ts.size(); ++epoch; }
    go.notify_all(); work(L);
    std::unique_lock<std::mutex> l(mu); done.wait(l, [&] { return active == 0; }); job = nullptr;
  }
  void loop(int, unsigned long seen) {
    for (;;) { Launch* L; { std::unique_lock<std::mutex> l(mu); go.wait(l, [&] { return epoch != seen; }); seen = epoch; L = job; }
      work(L); { std::lock_guard<std::mutex> l(mu); if (--active == 0) done.notify_one(); } }
  }
};
struct KernelInfo { void (*fn)(void**); std::vector<size_t> sizes; };
static std::map<std::string, KernelInfo>& kernels() { static auto* m = new std::map<std::string, KernelInfo>; return *m; }
void reg(const char* n, void (*fn)(void**), const size_t* s, int k) { kernels()[n] = {fn, std::vector<size_t>(s, s + k)}; }
}  // namespace cuemu

// ================================ driver API ================================
using namespace cuemu;
typedef int R; typedef unsigned long long Ptr;
enum { OK = 0, INVALID_VALUE = 1, OOM = 2, NOT_INIT = 3, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CTX = 201, NO_BINARY = 209, INVALID_PTX = 218,
       FILE_NOT_FOUND = 301, INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, OUT_OF_RESOURCES = 701, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801 };
struct Fn { std::string name; KernelInfo* k; long max_dyn = 48 << 10; };
struct Mod { bool any; std::map<std::string, std::vector<size_t>> entries; std::map<std::string, Fn*> fns; };
struct Event { std::chrono::steady_clock::time_point t; };
static std::mutex g_mu; static std::map<Ptr, size_t> g_mem; static size_t g_used, g_peak, g_launches; static int g_ctx_obj; static thread_local void* g_cur;
static const size_t TOTAL = 16ull << 30;
static Pool& pool() { static auto* p = new Pool; return *p; }
static bool trace() { static bool t = env("CUEMU_TRACE", 0); return t; }
static size_t guard() { static size_t g = ASAN ? 0 : (size_t)env("CUEMU_GUARD", 0); return g; }   // value = alignment of the end (4 or 16)
// ---- counters and injected faults -----------------------------------------------------------------
struct Counters { std::atomic<unsigned long long> htod{0}, dtoh{0}, dtod{0}, launches{0}, syncs{0}, allocs{0}, modules{0}, copies{0}, calls{0}; };
static Counters& counters() { static auto* c = new Counters; return *c; }
enum { DEVICE_LOST = 719 };                            // CUDA_ERROR_LAUNCH_FAILED, which sticks
static std::atomic<bool> g_lost{false};
static std::string g_fail_kind; static unsigned long long g_fail_at = 0;
// Counts a call; gives the error that was asked for it, or 0.
static R call(const char* kind, std::atomic<unsigned long long>* of_kind, R error) {
  unsigned long long n = ++*of_kind, all = ++counters().calls;
  if (g_lost) return DEVICE_LOST;
  if (!g_fail_at) return OK;
  if (g_fail_kind == "lost" && all >= g_fail_at) { g_lost = true; return DEVICE_LOST; }
  return g_fail_kind == kind && n == g_fail_at ? error : OK;
}
#define FAULT(kind, field, error) do { R r_ = call(kind, &counters().field, error); if (r_ != OK) return r_; } while (0)
static void start_counting() {
  Counters& c = counters(); c.htod = c.dtoh = c.dtod = c.launches = c.syncs = c.allocs = c.modules = c.copies = c.calls = 0;
  g_lost = false; g_fail_at = 0; { std::lock_guard<std::mutex> l(g_mu); g_peak = g_used; }
  if (const char* f = getenv("CUEMU_FAIL")) if (const char* colon = strchr(f, ':')) { g_fail_kind.assign(f, colon); g_fail_at = strtoull(colon + 1, nullptr, 10); }
}
static size_t pg(size_t n) { return (n + 4095) & ~(size_t)4095; }
static R mem_alloc(Ptr* p, size_t n) {
  if (!n) return INVALID_VALUE;
  FAULT("alloc", allocs, OOM);
  std::lock_guard<std::mutex> l(g_mu);
  if (g_used + n > TOTAL) return OOM;
  char* q;
  if (guard()) { size_t body = pg(n); char* m = (char*)mmap(nullptr, body + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); if (m == MAP_FAILED) return OOM;
    mprotect(m + body, 4096, PROT_NONE); q = m + body - (n + guard() - 1) / guard() * guard(); }
  else q = (char*)(ASAN ? malloc(n) : aligned_alloc(256, (n + 255) & ~(size_t)255));
  if (!q) return OOM;
  memset(q, 0xA5, n);                            // cuMemAlloc does not zero
  g_mem[(Ptr)q] = n; g_used += n; if (g_used > g_peak) g_peak = g_used; *p = (Ptr)q; return OK;
}
static R mem_free(Ptr p) {
  if (!p) return OK;
  std::lock_guard<std::mutex> l(g_mu); auto it = g_mem.find(p); if (it == g_mem.end()) return INVALID_VALUE;
  size_t n = it->second; g_used -= n; g_mem.erase(it);
  if (guard()) { size_t body = pg(n); mprotect((char*)(p + (n + guard() - 1) / guard() * guard() - body), body, PROT_NONE); }   // use after free faults
  else free((void*)p);
  return OK;
}
static bool in_range(Ptr p, size_t n) {
  std::lock_guard<std::mutex> l(g_mu); auto it = g_mem.upper_bound(p); if (it == g_mem.begin()) return n == 0; --it;
  bool ok = p >= it->first && p + n <= it->first + it->second;
  if (!ok && n) fprintf(stderr, "cuemu: copy or memset of %zu bytes at %#llx is outside every live allocation\n", n, p);
  return ok || n == 0; }
// PTX -> entry names with parameter sizes
static bool parse_ptx(const char* s, Mod* m) {
  if (!strstr(s, ".version")) return false;
  for (const char* p = s; (p = strstr(p, ".entry ")); ) {
    p += 7; const char* e = p; while (*e && (isalnum((unsigned char)*e) || *e == '_' || *e == '$')) ++e;
    std::string name(p, e); std::vector<size_t> sz; const char* close = strchr(e, ')');
    if (*e == '(' || (close && strchr(e, '(') && strchr(e, '(') < close))
      for (const char* q = e; (q = strstr(q, ".param")) && q < close; q += 6) {
        const char* end = q; while (*end && *end != ',' && end < close) ++end; std::string d(q + 6, end); size_t b = 4;
        if (d.find(".b8") != std::string::npos) { size_t k = d.find('['); b = k == std::string::npos ? 1 : (size_t)atol(d.c_str() + k + 1); }
        else { size_t k = d.find_first_of("0123456789"); b = k == std::string::npos ? 4 : (size_t)atol(d.c_str() + k) / 8; }
        sz.push_back(b); }
    m->entries[name] = sz; p = e; }
  return true;
}
// In guard mode an access outside an allocation faults: report kernel and CUDA thread, then die as a sanitizer would.
static void on_segv(int sig, siginfo_t* si, void*) {
  char z[512]; Thread* t = cur; int k;
  if (t) k = snprintf(z, sizeof z, "cuemu: illegal address %p in kernel %s, block (%u,%u,%u), thread (%u,%u,%u)\n", si->si_addr, t->blk->L->name.c_str(), t->blk->bid.x, t->blk->bid.y, t->blk->bid.z, t->tid.x, t->tid.y, t->tid.z);
  else k = snprintf(z, sizeof z, "cuemu: illegal address %p in host code (device pointer used on the host?)\n", si->si_addr);
  if (write(2, z, k) < 0) {} signal(sig, SIG_DFL); raise(sig);
}
static R launch(Fn* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned dyn, void** args) {
  if (!f) return INVALID_HANDLE;
  FAULT("launch", launches, OUT_OF_RESOURCES);
  unsigned long long n = (unsigned long long)bx * by * bz;
  if (!gx || !gy || !gz || !n || n > 1024 || bz > 64 || gy > 65535 || gz > 65535 || (long)dyn > f->max_dyn) { fprintf(stderr, "cuemu: %s: invalid launch configuration (%u,%u,%u)x(%u,%u,%u) smem %u\n", f->name.c_str(), gx, gy, gz, bx, by, bz, dyn); return INVALID_VALUE; }
  Launch L; L.name = f->name; L.fn = f->k->fn; L.args = args; L.grid = {gx, gy, gz}; L.block = {bx, by, bz}; L.dyn = dyn; L.nblocks = (unsigned long)gx * gy * gz;
  L.seed = (uint64_t)env("CUEMU_SEED", 0); if (L.seed) { L.seed += 1000003 * ++g_launches; uint64_t r = L.seed * 0x9E3779B97F4A7C15ull | 1;
    L.order.resize(L.nblocks); for (unsigned long i = 0; i < L.nblocks; ++i) L.order[i] = (unsigned)i;
    for (unsigned long i = L.nblocks; i > 1; --i) { r ^= r << 13; r ^= r >> 7; r ^= r << 17; std::swap(L.order[i - 1], L.order[r % i]); } }
#if TSAN || defined(CUEMU_STATIC_SHARED)
  int threads = 1;
#else
  static const int threads = (int)env("CUEMU_THREADS", (long)std::thread::hardware_concurrency());
#endif
  static std::mutex one; std::lock_guard<std::mutex> g(one);
  static bool segv = false; if (guard() && !segv) { segv = true; struct sigaction sa = {}; sa.sa_sigaction = on_segv; sa.sa_flags = SA_SIGINFO | SA_ONSTACK; sigaction(SIGSEGV, &sa, nullptr); }
  auto t0 = std::chrono::steady_clock::now(); timespec c0, c1; clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &c0);
  pool().run(&L, (int)std::min<unsigned long>(threads, L.nblocks) - 1); __tsan_acquire(&L.end_tok); for (void* p : L.garbage) free(p);
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &c1); double cpu = (c1.tv_sec - c0.tv_sec) * 1e3 + (c1.tv_nsec - c0.tv_nsec) / 1e6;
  if (trace()) fprintf(stderr, "cuemu: %-18s grid %lu block %llu smem %u: cpu %.3f ms (%.2f M threads/cpu-s), wall %.3f ms, %llu switches\n", f->name.c_str(), L.nblocks, n, dyn, cpu, L.nblocks * n / cpu / 1e3, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - t0).count(), (unsigned long long)L.switches);
  if (L.failed) { fprintf(stderr, "cuemu: kernel %s failed: %s\n", f->name.c_str(), L.msg.c_str()); return LAUNCH_FAILED; }
  return OK;
}
static const struct { int c; const char* n; const char* s; } ERR[] = {{0, "CUDA_SUCCESS", "no error"}, {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"}, {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}, {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}, {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}, {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"}, {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"}, {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"}, {301, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"}, {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}, {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"}, {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}, {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"}, {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"}, {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"}};
#define API extern "C" __attribute__((visibility("default"))) R
API cuInit(unsigned) { return OK; }
API cuDriverGetVersion(int* v) { *v = 13000; return OK; }
API cuGetErrorName(int e, const char** s) { for (auto& x : ERR) if (x.c == e) { *s = x.n; return OK; } *s = "CUDA_ERROR_UNKNOWN"; return OK; }
API cuGetErrorString(int e, const char** s) { for (auto& x : ERR) if (x.c == e) { *s = x.s; return OK; } *s = "unknown error"; return OK; }
API cuDeviceGetCount(int* n) { *n = 1; return OK; }
API cuDeviceGet(int* d, int i) { if (i) return INVALID_DEVICE; *d = 0; return OK; }
API cuDeviceGetName(char* s, int n, int) { snprintf(s, n, "cuemu (CUDA on CPU, test only)"); return OK; }
API cuDeviceTotalMem_v2(size_t* n, int) { *n = TOTAL; return OK; }
API cuDeviceGetUuid_v2(void* u, int) { memset(u, 0xE0, 16); return OK; }
API cuDeviceGetUuid(void* u, int) { memset(u, 0xE0, 16); return OK; }
API cuDeviceGetAttribute(int* v, int a, int) {
  int sm = (int)env("CUEMU_SM", 80);
  switch (a) { case 1: case 2: case 3: *v = 1024; break; case 4: *v = 64; break; case 5: *v = 2147483647; break; case 6: case 7: *v = 65535; break; case 8: *v = 49152; break; case 9: *v = 65536; break;
    case 10: *v = 32; break; case 12: case 82: *v = 65536; break; case 13: *v = 1000000; break; case 16: *v = 8; break; case 38: *v = 4 << 20; break; case 39: *v = 2048; break;
    case 75: *v = sm / 10; break; case 76: *v = sm % 10; break; case 81: *v = 164 << 10; break; case 97: *v = 163 << 10; break; case 115: *v = 1; break; default: *v = 0; }
  return OK; }
API cuDevicePrimaryCtxRetain(void** c, int) { *c = &g_ctx_obj; return OK; }
API cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API cuCtxSetCurrent(void* c) { g_cur = c; return OK; }
API cuCtxGetCurrent(void** c) { *c = g_cur; return OK; }
API cuCtxDestroy_v2(void*) { return OK; }
API cuCtxGetDevice(int* d) { *d = 0; return OK; }
API cuCtxSynchronize() { FAULT("sync", syncs, LAUNCH_FAILED); return OK; }
API cuCtxSetFlags(unsigned) { return OK; }
API cuCtxGetLimit(size_t* v, int) { *v = 1024; return OK; }
API cuCtxSetLimit(int, size_t) { return OK; }
API cuCtxSetCacheConfig(int) { return OK; }
API cuCtxGetStreamPriorityRange(int* a, int* b) { *a = *b = 0; return OK; }
API cuModuleLoadData(void** m, const void* img) {
  FAULT("module", modules, INVALID_IMAGE);
  auto* mod = new Mod; const unsigned char* p = (const unsigned char*)img; static const unsigned char elf[] = {0x7f, 'E', 'L', 'F'}, fat[] = {0x50, 0xed, 0x55, 0xba};
  mod->any = !strncmp((const char*)img, "// cuemu", 8) || !memcmp(p, elf, 4) || !memcmp(p, fat, 4);                                  // cubin/fatbin: names not checked
  if (!mod->any && !parse_ptx((const char*)img, mod)) { delete mod; return INVALID_PTX; }
  if (!mod->any) { const char* t = strstr((const char*)img, ".target sm_"); if (t && atol(t + 11) > env("CUEMU_SM", 80)) { delete mod; return NO_BINARY; } }
  *m = mod; return OK; }
API cuModuleLoadDataEx(void** m, const void* img, unsigned, void*, void**) { return cuModuleLoadData(m, img); }
API cuModuleLoad(void** m, const char* path) { FILE* f = fopen(path, "rb"); if (!f) return FILE_NOT_FOUND; std::string s; char z[4096]; size_t k; while ((k = fread(z, 1, sizeof z, f))) s.append(z, k); fclose(f); return cuModuleLoadData(m, s.c_str()); }
API cuModuleUnload(void* m) { delete (Mod*)m; return OK; }
API cuModuleGetFunction(void** f, void* m, const char* n) {
  Mod* mod = (Mod*)m; auto e = mod->entries.find(n); if (!mod->any && e == mod->entries.end()) return NOT_FOUND;
  auto k = kernels().find(n); if (k == kernels().end()) { fprintf(stderr, "cuemu: kernel %s is in the PTX but has no CPU build\n", n); return NOT_FOUND; }
  if (!mod->any && e->second != k->second.sizes) { fprintf(stderr, "cuemu: kernel %s: PTX parameters differ from the CPU build's (stale PTX?)\n", n); return INVALID_IMAGE; }
  Fn*& x = mod->fns[n]; if (!x) { x = new Fn; x->name = n; x->k = &k->second; } *f = x; return OK; }
API cuModuleGetGlobal_v2(Ptr*, size_t*, void*, const char*) { return NOT_FOUND; }
API cuFuncGetAttribute(int* v, int a, void* f) { *v = a == 0 ? 1024 : a == 8 ? (int)((Fn*)f)->max_dyn : a == 4 ? 32 : 0; return OK; }
API cuFuncSetAttribute(void* f, int a, int v) { if (a == 8) { if (v > 163 << 10) return INVALID_VALUE; ((Fn*)f)->max_dyn = v; } return OK; }
API cuFuncSetCacheConfig(void*, int) { return OK; }
API cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned dyn, void*, void** args, void** extra) { if (extra) return NOT_SUPPORTED; return launch((Fn*)f, gx, gy, gz, bx, by, bz, dyn, args); }
API cuLaunchCooperativeKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**) { return NOT_SUPPORTED; }
API cuLaunchHostFunc(void*, void (*fn)(void*), void* u) { fn(u); return OK; }
API cuMemAlloc_v2(Ptr* p, size_t n) { return mem_alloc(p, n); }
API cuMemAllocAsync(Ptr* p, size_t n, void*) { return mem_alloc(p, n); }
API cuMemAllocManaged(Ptr* p, size_t n, unsigned) { return mem_alloc(p, n); }
API cuMemFree_v2(Ptr p) { return mem_free(p); }
API cuMemFreeAsync(Ptr p, void*) { return mem_free(p); }
API cuMemHostAlloc(void** p, size_t n, unsigned) { *p = malloc(n ? n : 1); return *p ? OK : OOM; }
API cuMemFreeHost(void* p) { free(p); return OK; }
// Of attributes of addresses those that say which memory it is: 2 the kind (2: of the device), 9 the number of the device.
API cuPointerGetAttribute(void* out, int attribute, Ptr p) {
  std::lock_guard<std::mutex> l(g_mu); auto it = g_mem.upper_bound(p); if (it == g_mem.begin()) return INVALID_VALUE; --it;
  if (p >= it->first + it->second) return INVALID_VALUE;
  if (attribute == 2) *(unsigned*)out = 2; else if (attribute == 9) *(int*)out = 0; else return NOT_SUPPORTED;
  return OK; }
API cuMemGetInfo_v2(size_t* f, size_t* t) { *t = TOTAL; *f = TOTAL - g_used; return OK; }
static R htod(Ptr d, const void* s, size_t n) { FAULT("copy", copies, LAUNCH_FAILED); counters().htod += n; if (!in_range(d, n)) return INVALID_VALUE; memcpy((void*)d, s, n); return OK; }
static R dtoh(void* d, Ptr s, size_t n) { FAULT("copy", copies, LAUNCH_FAILED); counters().dtoh += n; if (!in_range(s, n)) return INVALID_VALUE; memcpy(d, (void*)s, n); return OK; }
static R dtod(Ptr d, Ptr s, size_t n) { FAULT("copy", copies, LAUNCH_FAILED); counters().dtod += n; if (!in_range(d, n) || !in_range(s, n)) return INVALID_VALUE; memmove((void*)d, (void*)s, n); return OK; }
static R setd(Ptr d, int v, size_t n) { FAULT("copy", copies, LAUNCH_FAILED); if (!in_range(d, n)) return INVALID_VALUE; memset((void*)d, v, n); return OK; }
API cuMemcpyHtoD_v2(Ptr d, const void* s, size_t n) { return htod(d, s, n); }
API cuMemcpyHtoDAsync_v2(Ptr d, const void* s, size_t n, void*) { return htod(d, s, n); }
API cuMemcpyDtoH_v2(void* d, Ptr s, size_t n) { return dtoh(d, s, n); }
API cuMemcpyDtoHAsync_v2(void* d, Ptr s, size_t n, void*) { return dtoh(d, s, n); }
API cuMemcpyDtoD_v2(Ptr d, Ptr s, size_t n) { return dtod(d, s, n); }
API cuMemcpyDtoDAsync_v2(Ptr d, Ptr s, size_t n, void*) { return dtod(d, s, n); }
API cuMemcpyPeerAsync(Ptr d, void*, Ptr s, void*, size_t n, void*) { return dtod(d, s, n); }
API cuMemsetD8_v2(Ptr d, unsigned char v, size_t n) { return setd(d, v, n); }
API cuMemsetD8Async(Ptr d, unsigned char v, size_t n, void*) { return setd(d, v, n); }
API cuMemsetD32_v2(Ptr d, unsigned v, size_t n) { if (!in_range(d, n * 4)) return INVALID_VALUE; for (size_t i = 0; i < n; ++i) ((unsigned*)d)[i] = v; return OK; }
API cuStreamCreate(void** s, unsigned) { *s = new int; return OK; }
API cuStreamCreateWithPriority(void** s, unsigned, int) { *s = new int; return OK; }
API cuStreamDestroy_v2(void* s) { delete (int*)s; return OK; }
API cuStreamSynchronize(void*) { FAULT("sync", syncs, LAUNCH_FAILED); return OK; }
API cuStreamQuery(void*) { return OK; }
API cuStreamWaitEvent(void*, void*, unsigned) { return OK; }
API cuStreamIsCapturing(void*, int* v) { *v = 0; return OK; }
API cuStreamAttachMemAsync(void*, Ptr, size_t, unsigned) { return OK; }
API cuStreamBeginCapture_v2(void*, int) { return NOT_SUPPORTED; }
API cuStreamEndCapture(void*, void**) { return NOT_SUPPORTED; }
API cuEventCreate(void** e, unsigned) { *e = new Event{std::chrono::steady_clock::now()}; return OK; }
API cuEventDestroy_v2(void* e) { delete (Event*)e; return OK; }
API cuEventRecord(void* e, void*) { ((Event*)e)->t = std::chrono::steady_clock::now(); return OK; }
API cuEventSynchronize(void*) { FAULT("sync", syncs, LAUNCH_FAILED); return OK; }
API cuEventQuery(void*) { return OK; }
API cuEventElapsedTime_v2(float* ms, void* a, void* b) { *ms = std::chrono::duration<float, std::milli>(((Event*)b)->t - ((Event*)a)->t).count(); return OK; }
API cuEventElapsedTime(float* ms, void* a, void* b) { return cuEventElapsedTime_v2(ms, a, b); }
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, void*, int b, size_t) { *n = 2048 / (b > 0 ? b : 1); return OK; }
API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, void* f, int b, size_t s, unsigned) { return cuOccupancyMaxActiveBlocksPerMultiprocessor(n, f, b, s); }
API cuOccupancyMaxPotentialBlockSize(int* g, int* b, void*, void*, size_t, int) { *g = 16; *b = 256; return OK; }
API cuOccupancyMaxPotentialBlockSizeWithFlags(int* g, int* b, void*, void*, size_t, int, unsigned) { *g = 16; *b = 256; return OK; }
API cuProfilerStart() { start_counting(); return OK; }
API cuProfilerStop() {
  if (const char* path = getenv("CUEMU_REPORT")) if (FILE* f = fopen(path, "a")) {
    Counters& c = counters(); std::lock_guard<std::mutex> l(g_mu);
    fprintf(f, "htod=%llu dtoh=%llu dtod=%llu launches=%llu syncs=%llu allocs=%llu modules=%llu copies=%llu calls=%llu live=%zu live_bytes=%zu peak_bytes=%zu\n", (unsigned long long)c.htod, (unsigned long long)c.dtoh, (unsigned long long)c.dtod, (unsigned long long)c.launches, (unsigned long long)c.syncs, (unsigned long long)c.allocs, (unsigned long long)c.modules, (unsigned long long)c.copies, (unsigned long long)c.calls, g_mem.size(), g_used, g_peak);
    fclose(f); }
  g_fail_at = 0; g_lost = false; return OK; }
