// The software driver's other half: a stand-in for libnvrtc.so. It compiles nothing: the kernels are in libcuda.so.1 already, and what it
// returns is only the mark by which that library knows its own images. CUEMU_NVRTC_FAIL=1: compilation fails with a log.
#include <cstdlib>
#include <cstring>
#define API extern "C" __attribute__((visibility("default"))) int
static const char IMAGE[] = "// cuemu";
static const char LOG[] = "injected fault: no compilation";
static bool fails() { const char* s = getenv("CUEMU_NVRTC_FAIL"); return s && *s == '1'; }
API nvrtcVersion(int* a, int* b) { *a = 13; *b = 0; return 0; }
API nvrtcGetErrorString(int) { return 0; }
API nvrtcCreateProgram(void** p, const char*, const char*, int, const char**, const char**) { *p = malloc(1); return 0; }
API nvrtcDestroyProgram(void** p) { free(*p); *p = nullptr; return 0; }
API nvrtcCompileProgram(void*, int, const char**) { return fails() ? 6 : 0; }
API nvrtcGetPTXSize(void*, size_t* n) { *n = sizeof IMAGE; return 0; }
API nvrtcGetPTX(void*, char* out) { memcpy(out, IMAGE, sizeof IMAGE); return 0; }
API nvrtcGetProgramLogSize(void*, size_t* n) { *n = sizeof LOG; return 0; }
API nvrtcGetProgramLog(void*, char* out) { memcpy(out, LOG, sizeof LOG); return 0; }
