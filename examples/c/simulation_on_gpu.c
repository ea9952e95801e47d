/*
 * The simulation of simulation.c with its field on a GPU: each step compresses the field where it is, on the stream that made it, and only the
 * archive leaves the device. One archive stays on the device and is restored there. C99, and C++ as well.
 *
 *     cc -std=c99 simulation_on_gpu.c $(pkg-config --cflags --libs residuum) -I$CUDA_HOME/include -lcuda -lm -o simulation_on_gpu && ./simulation_on_gpu
 */
#include <cuda.h>
#include <math.h>
#include <residuum.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 60, COLUMNS = 120, STEPS = 8, READ_BACK = 5 };

static const double BOUND_KELVIN = 0.01;

static void check(residuum_context *context, residuum_status status, const char *what) {
    if (status != RESIDUUM_STATUS_OK) {
        fprintf(stderr, "%s: %s: %s\n", what, residuum_status_text(status), residuum_last_error(context));
        exit(1);
    }
}

static void check_cuda(CUresult result, const char *what) {
    if (result != CUDA_SUCCESS) {
        fprintf(stderr, "%s: CUDA error %d\n", what, (int)result);
        exit(1);
    }
}

static void *allocate(size_t bytes) {
    void *memory = malloc(bytes);
    if (memory == NULL) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    return memory;
}

/* Device addresses are pointers to the library. */
static void *pointer(CUdeviceptr address) {
    return (void *)(uintptr_t)address;
}

/* A warm spot, carried around by a wind. A model would launch its kernels here; this one computes on the host and copies. */
static void step(int s, float *scratch, CUdeviceptr field, CUstream stream) {
    int i, j;
    for (i = 0; i < ROWS; i++) {
        for (j = 0; j < COLUMNS; j++) {
            double y = (i - ROWS / 2) / 6.0, x = ((j + COLUMNS - 3 * s) % COLUMNS - COLUMNS / 2) / 10.0;
            scratch[i * COLUMNS + j] = (float)(280.0 - 0.2 * fabs(i - ROWS / 2.0) + 15.0 * exp(-x * x - y * y));
        }
    }
    check_cuda(cuMemcpyHtoDAsync(field, scratch, (size_t)ROWS * COLUMNS * sizeof *scratch, stream), "step");
}

int main(void) {
    const size_t shape[2] = {ROWS, COLUMNS};
    const size_t n_values = (size_t)ROWS * COLUMNS;
    float *scratch = (float *)allocate(n_values * sizeof *scratch), *copy = (float *)allocate(n_values * sizeof *copy);
    float *restored = (float *)allocate(n_values * sizeof *restored);
    size_t capacity = 0, n_bytes = 0, kept_bytes = 0, total = 0, workspace = 0, i;
    residuum_context *context = NULL;
    unsigned char *buffer;
    CUdevice device;
    CUcontext cuda;
    CUstream stream;
    CUdeviceptr field, kept;
    double largest_error = 0.0;
    int s;

    check_cuda(cuInit(0), "driver");
    check_cuda(cuDeviceGet(&device, 0), "device");
    check_cuda(cuDevicePrimaryCtxRetain(&cuda, device), "context");
    check_cuda(cuCtxSetCurrent(cuda), "context");
    check_cuda(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "stream");
    check_cuda(cuMemAlloc(&field, n_values * sizeof(float)), "field");

    /* Once: settings, working memory on the device, and buffers in which every step has room. */
    check(context, residuum_context_new(&context), "context");
    check(context, residuum_set_bound(context, RESIDUUM_BOUND_ABS, BOUND_KELVIN), "bound");
    check(context, residuum_set_effort(context, RESIDUUM_EFFORT_FAST), "effort");
    check(context, residuum_max_archive_bytes(context, RESIDUUM_TYPE_F32, 2, shape, &capacity), "worst case");
    check(context, residuum_reserve_device(context, 0, RESIDUUM_TYPE_F32, 2, shape), "reserve");
    check(context, residuum_device_workspace_bytes(context, &workspace), "workspace");
    buffer = (unsigned char *)allocate(capacity);
    check_cuda(cuMemAlloc(&kept, capacity), "archive");

    for (s = 0; s < STEPS; s++) {
        step(s, scratch, field, stream);
        /* To the host, where a model would write it to its file. */
        check(context,
              residuum_compress_device(context, RESIDUUM_TYPE_F32, pointer(field), 2, shape, buffer, capacity, &n_bytes, stream),
              "compress");
        total += n_bytes;
        if (s == READ_BACK) {
            /* To memory of the device: a checkpoint that stays there. The library asks the driver what an address is. */
            memcpy(copy, scratch, n_values * sizeof *copy);
            check(context,
                  residuum_compress_device(context, RESIDUUM_TYPE_F32, pointer(field), 2, shape, pointer(kept), capacity,
                                           &kept_bytes, stream),
                  "compress");
        }
    }

    /* Back into the field, on the device. */
    check(context,
          residuum_decompress_device(context, pointer(kept), kept_bytes, 0, RESIDUUM_TYPE_F32, pointer(field), n_values, stream),
          "decompress");
    check_cuda(cuMemcpyDtoHAsync(restored, field, n_values * sizeof *restored, stream), "copy");
    check_cuda(cuStreamSynchronize(stream), "wait");
    for (i = 0; i < n_values; i++) {
        double error = fabs((double)restored[i] - (double)copy[i]);
        largest_error = error > largest_error ? error : largest_error;
    }
    printf("%d steps, %lu bytes of values in %lu, %lu bytes of working memory\n", (int)STEPS,
           (unsigned long)(STEPS * n_values * sizeof(float)), (unsigned long)total, (unsigned long)workspace);
    printf("step %d: largest error %g K, bound %g K\n", (int)READ_BACK, largest_error, BOUND_KELVIN);

    residuum_context_free(context);
    check_cuda(cuMemFree(kept), "free");
    check_cuda(cuMemFree(field), "free");
    check_cuda(cuStreamDestroy(stream), "free");
    check_cuda(cuDevicePrimaryCtxRelease(device), "free");
    free(buffer);
    free(restored);
    free(copy);
    free(scratch);
    if (largest_error > BOUND_KELVIN) {
        fprintf(stderr, "a value left its bound\n");
        return 1;
    }
    return 0;
}
