// What every kernel starts from: short names of the types, and the only place that knows whether a GPU is meant.
//
// Compiled by NVRTC (the library), by nvcc (CI) and by g++ for the software driver (tests/cuda-emulator, CUEMU): no header of
// the standard library, no inline PTX, no libm.
#pragma once
#ifdef CUEMU
#include "cuemu.h"
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

// Threads of a block, of all kernels but those of one block.
#ifndef BLOCK
#define BLOCK 256
#endif
// Threads of kernels of one block, which are bound by latency.
#ifndef WIDE
#define WIDE 512
#endif
static_assert(BLOCK % 32 == 0 && BLOCK >= 64 && BLOCK <= 1024, "whole warps");
static_assert(WIDE % 32 == 0 && WIDE >= BLOCK && WIDE <= 1024, "whole warps");

// Values that one thread of a compaction looks at, one after the other.
#define ITEMS 8
#define SEGMENT (BLOCK * ITEMS)

#define ALL_LANES 0xffffffffu
