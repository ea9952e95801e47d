/*
 * A small simulation that stores its field compressed: a warm spot carried around by a wind and smoothed on the way.
 *
 * Each step compresses the field from where the simulation has it, into one buffer that is made once. All steps are kept, compressed;
 * one is read back at the end and compared with a copy. C99, and C++ as well.
 *
 *     cc -std=c99 simulation.c $(pkg-config --cflags --libs residuum) -lm -o simulation && ./simulation
 */
#include <math.h>
#include <residuum.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 120, COLUMNS = 240, STEPS = 20, READ_BACK = 13 };

static const double BOUND_KELVIN = 0.01;

/* Whatever went wrong, the context has a message. */
static void check(residuum_context *context, residuum_status status, const char *what) {
    if (status != RESIDUUM_STATUS_OK) {
        fprintf(stderr, "%s: %s: %s\n", what, residuum_status_text(status), residuum_last_error(context));
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

static void start(float *field) {
    int i, j;
    for (i = 0; i < ROWS; i++) {
        for (j = 0; j < COLUMNS; j++) {
            double y = (i - ROWS / 2) / 12.0, x = (j - COLUMNS / 4) / 20.0;
            field[i * COLUMNS + j] = (float)(280.0 - 0.2 * fabs(i - ROWS / 2.0) + 15.0 * exp(-x * x - y * y));
        }
    }
}

/* One step of advection (upwind) and diffusion; rows end at walls, columns go around. */
static void step(const float *now, float *next) {
    const float wind = 0.4f, diffusivity = 0.1f;
    int i, j;
    for (i = 0; i < ROWS; i++) {
        const float *north = now + (i > 0 ? i - 1 : 0) * COLUMNS;
        const float *south = now + (i < ROWS - 1 ? i + 1 : i) * COLUMNS;
        const float *here = now + i * COLUMNS;
        for (j = 0; j < COLUMNS; j++) {
            float west = here[(j + COLUMNS - 1) % COLUMNS], east = here[(j + 1) % COLUMNS];
            float laplacian = west + east + north[j] + south[j] - 4.0f * here[j];
            next[i * COLUMNS + j] = here[j] - wind * (here[j] - west) + diffusivity * laplacian;
        }
    }
}

int main(void) {
    const size_t shape[2] = {ROWS, COLUMNS};
    const size_t n_values = (size_t)ROWS * COLUMNS;
    float *field = (float *)allocate(n_values * sizeof *field), *next = (float *)allocate(n_values * sizeof *next);
    float *copy = (float *)allocate(n_values * sizeof *copy), *restored = (float *)allocate(n_values * sizeof *restored);
    void *steps[STEPS];
    size_t step_bytes[STEPS], capacity = 0, total = 0, i;
    residuum_variable described;
    residuum_context *context = NULL;
    unsigned char *buffer;
    double largest_error = 0.0;
    int s;

    if (residuum_abi_version() != RESIDUUM_ABI_VERSION) {
        fprintf(stderr, "residuum.h and the library are of different versions\n");
        return 1;
    }
    /* Once: settings, and a buffer in which every step has room. */
    check(context, residuum_context_new(&context), "context");
    check(context, residuum_set_bound(context, RESIDUUM_BOUND_ABS, BOUND_KELVIN), "bound");
    check(context, residuum_set_effort(context, RESIDUUM_EFFORT_FAST), "effort");
    check(context, residuum_max_archive_bytes(context, RESIDUUM_TYPE_F32, 2, shape, &capacity), "worst case");
    buffer = (unsigned char *)allocate(capacity);

    start(field);
    for (s = 0; s < STEPS; s++) {
        float *swapped = field;
        check(context,
              residuum_compress(context, RESIDUUM_TYPE_F32, field, 2, shape, buffer, capacity, &step_bytes[s]),
              "compress");
        /* Where a model would write to its file or send the bytes away. */
        steps[s] = memcpy(allocate(step_bytes[s]), buffer, step_bytes[s]);
        total += step_bytes[s];
        if (s == READ_BACK) {
            memcpy(copy, field, n_values * sizeof *copy);
        }
        step(field, next);
        field = next;
        next = swapped;
    }

    /* Read one back. The archive says what it holds. */
    memset(&described, 0, sizeof described);
    described.struct_bytes = sizeof described;
    check(context, residuum_inspect(context, steps[READ_BACK], step_bytes[READ_BACK], 0, &described), "inspect");
    if (described.n_dims != 2 || described.shape[0] != ROWS || described.shape[1] != COLUMNS
        || described.element_type != RESIDUUM_TYPE_F32) {
        fprintf(stderr, "the archive holds something else\n");
        return 1;
    }
    check(context,
          residuum_decompress(context, steps[READ_BACK], step_bytes[READ_BACK], 0, RESIDUUM_TYPE_F32, restored, n_values),
          "decompress");
    for (i = 0; i < n_values; i++) {
        double error = fabs((double)restored[i] - (double)copy[i]);
        largest_error = error > largest_error ? error : largest_error;
    }
    printf("%d steps, %lu bytes of values in %lu, a ratio of %.1f\n", (int)STEPS,
           (unsigned long)(STEPS * n_values * sizeof(float)), (unsigned long)total,
           (double)(STEPS * n_values * sizeof(float)) / (double)total);
    printf("step %d: largest error %g K, bound %g K\n", (int)READ_BACK, largest_error, described.max_abs_error);

    for (s = 0; s < STEPS; s++) {
        free(steps[s]);
    }
    free(buffer);
    free(restored);
    free(copy);
    free(next);
    free(field);
    residuum_context_free(context);
    if (largest_error > BOUND_KELVIN) {
        fprintf(stderr, "a value left its bound\n");
        return 1;
    }
    return 0;
}
