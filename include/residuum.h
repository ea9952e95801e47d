/*
 * residuum: error-bounded lossy compression of scientific fields. Every value comes back within the bound you name.
 *
 *     residuum_context *context;
 *     residuum_context_new(&context);
 *     residuum_set_bound(context, RESIDUUM_BOUND_ABS, 0.01);
 *     residuum_compress(context, RESIDUUM_TYPE_F32, field, 2, shape, archive, capacity, &archive_bytes);
 *     residuum_decompress(context, archive, archive_bytes, 0, RESIDUUM_TYPE_F32, restored, n_values);
 *     residuum_context_free(context);
 *
 * Status. Functions that can fail return a residuum_status: 0 if all is well. residuum_last_error then has a message for people.
 *
 * Threads. The library may be used from any number of threads at once, each with a context of its own. A context is for one thread at a
 * time: a call with one that is at work in another thread is refused with RESIDUUM_STATUS_USAGE. A call works on several threads itself.
 *
 * Pointers. What is passed as input is initialized and not written by anyone during the call. What is passed for output may be
 * uninitialized and overlaps nothing else of the call. A null pointer is refused with RESIDUUM_STATUS_USAGE, but for buffers of no length.
 * Nothing of the caller's is kept after a call.
 *
 * Memory. Archives and values go to buffers of the caller, or to residuum_bytes that the caller frees. What a call takes beside them stands
 * with it. Where the system has no more memory the process ends, as Rust programs do. Archives that are damaged or made to deceive can
 * not make a call take more than a fixed multiple of the largest tile (256 MiB), and give a status, not a crash.
 *
 * Devices. Functions with `device` in their names work on fields in memory of a CUDA device. Driver and NVRTC are loaded when the first of them
 * is called; without them, and in a library built without CUDA, it gives RESIDUUM_STATUS_DEVICE. Device addresses are pointers here. Nothing is
 * asked of the thread's current context, which is the same after a call.
 *
 * Nothing is printed, but for a bug of the library's (RESIDUUM_STATUS_INTERNAL), which says on stderr where it is.
 *
 * Made by cbindgen from src/capi: change that, then `just header`.
 */

#ifndef RESIDUUM_H
#define RESIDUUM_H

#include <stddef.h>
#include <stdint.h>

/**
 * Version of this interface. It grows when a function, constant or member changes its meaning or goes, not when one is added.
 * `residuum_abi_version` tells that of the library that a program runs with.
 */
#define RESIDUUM_ABI_VERSION 1

/**
 * Most dimensions that a variable may have in an archive.
 */
#define RESIDUUM_MAX_DIMS 64

/**
 * What became of a call: 0 if all is well, else who must act. Those from 0 to 7 are the exit statuses of the command as well.
 */
enum residuum_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Done.
   */
  RESIDUUM_STATUS_OK = 0,
  /**
   * A value left its bound: a bug of the library, please report it.
   */
  RESIDUUM_STATUS_BOUND_VIOLATED = 1,
  /**
   * The call is wrong: an argument, a bound, a shape.
   */
  RESIDUUM_STATUS_USAGE = 2,
  /**
   * What was given to read is no archive.
   */
  RESIDUUM_STATUS_INPUT = 3,
  /**
   * The archive is damaged or was made to deceive.
   */
  RESIDUUM_STATUS_CORRUPT = 4,
  /**
   * The archive needs a feature or a version that this library lacks.
   */
  RESIDUUM_STATUS_UNSUPPORTED = 5,
  /**
   * The operating system refused, a thread for instance.
   */
  RESIDUUM_STATUS_IO = 6,
  /**
   * A GPU, or its driver, failed.
   */
  RESIDUUM_STATUS_DEVICE = 7,
  /**
   * The caller's buffer is too small. What it should have is said.
   */
  RESIDUUM_STATUS_BUFFER_TOO_SMALL = 64,
  /**
   * A bug of the library was stopped at its border: please report it. The context can still be used.
   */
  RESIDUUM_STATUS_INTERNAL = 65,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum residuum_status residuum_status;
#else
typedef int32_t residuum_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Type of the elements of a variable. Fields to compress are `F32` or `F64`; archives of files may hold the others.
 */
enum residuum_type
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * float
   */
  RESIDUUM_TYPE_F32 = 0,
  /**
   * double
   */
  RESIDUUM_TYPE_F64 = 1,
  /**
   * int8_t
   */
  RESIDUUM_TYPE_I8 = 2,
  /**
   * int16_t
   */
  RESIDUUM_TYPE_I16 = 3,
  /**
   * int32_t
   */
  RESIDUUM_TYPE_I32 = 4,
  /**
   * int64_t
   */
  RESIDUUM_TYPE_I64 = 5,
  /**
   * uint8_t
   */
  RESIDUUM_TYPE_U8 = 6,
  /**
   * uint16_t
   */
  RESIDUUM_TYPE_U16 = 7,
  /**
   * uint32_t
   */
  RESIDUUM_TYPE_U32 = 8,
  /**
   * uint64_t
   */
  RESIDUUM_TYPE_U64 = 9,
  /**
   * char
   */
  RESIDUUM_TYPE_CHAR = 10,
  /**
   * Text of any length: described by `residuum_inspect`, not restored here.
   */
  RESIDUUM_TYPE_TEXT = 11,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum residuum_type residuum_type;
#else
typedef int32_t residuum_type;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How a bound is meant, x being a value and y what comes back.
 */
enum residuum_bound
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * |y - x| <= bound, in the units of the data; 0 for lossless.
   */
  RESIDUUM_BOUND_ABS = 0,
  /**
   * |y - x| <= bound * (max - min), over the field's finite values other than fill values and -0.0.
   */
  RESIDUUM_BOUND_REL = 1,
  /**
   * |y - x| <= bound * |x| at every point.
   */
  RESIDUUM_BOUND_PW_REL = 2,
  /**
   * A peak signal-to-noise ratio of at least this many dB: 20 log10((max - min) / rmse).
   */
  RESIDUUM_BOUND_PSNR = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum residuum_bound residuum_bound;
#else
typedef int32_t residuum_bound;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How hard to try.
 */
enum residuum_effort
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Several times faster than the others.
   */
  RESIDUUM_EFFORT_FAST = 0,
  /**
   * The default.
   */
  RESIDUUM_EFFORT_BALANCED = 1,
  /**
   * A few per cent smaller, several times slower to compress.
   */
  RESIDUUM_EFFORT_BEST = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum residuum_effort residuum_effort;
#else
typedef int32_t residuum_effort;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Which predictor to use.
 */
enum residuum_predictor
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The cheapest on samples of the data: the default.
   */
  RESIDUUM_PREDICTOR_AUTO = 0,
  /**
   * No prediction.
   */
  RESIDUUM_PREDICTOR_NONE = 1,
  /**
   * Lorenzo.
   */
  RESIDUUM_PREDICTOR_LORENZO = 2,
  /**
   * Multi-level interpolation.
   */
  RESIDUUM_PREDICTOR_INTERP = 3,
  /**
   * Fitted stencils with contexts, if the last two dimensions have at least 512 values; else the cheaper of the two before.
   */
  RESIDUUM_PREDICTOR_FITTED = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum residuum_predictor residuum_predictor;
#else
typedef int32_t residuum_predictor;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Settings, threads, and what went wrong last. Made by `residuum_context_new`, to be used for any number of calls.
 */
typedef struct residuum_context residuum_context;

/**
 * Memory of the library's. Start with all members 0; free by `residuum_bytes_free`.
 */
typedef struct residuum_bytes {
  /**
   * The bytes; null as long as there is no memory.
   */
  uint8_t *data;
  /**
   * How many there are.
   */
  size_t len;
  /**
   * How many there is memory for. The library's: leave it alone.
   */
  size_t capacity;
} residuum_bytes;

/**
 * What is known of a variable. Later versions may add members at the end.
 */
typedef struct residuum_variable {
  /**
   * Set by the caller: `sizeof(residuum_variable)`.
   */
  size_t struct_bytes;
  /**
   * A `residuum_type`.
   */
  int32_t element_type;
  /**
   * Number of dimensions; 0 for a scalar.
   */
  uint32_t n_dims;
  /**
   * Their lengths, the slowest first; 0 beyond `n_dims`.
   */
  uint64_t shape[RESIDUUM_MAX_DIMS];
  /**
   * Number of values.
   */
  uint64_t n_values;
  /**
   * Bytes that the variable takes in the archive.
   */
  uint64_t stored_bytes;
  /**
   * The bound that was asked for, a `residuum_bound`. For values kept bit for bit `RESIDUUM_BOUND_ABS` with a value of 0.
   */
  int32_t bound_mode;
  /**
   * Whether a value stands for missing data: 0 or 1.
   */
  int32_t has_fill;
  /**
   * The number of the bound that was asked for.
   */
  double bound_value;
  /**
   * What the bound means for these values: the largest |y - x| allowed. 0 if all comes back bit for bit, infinite if it depends on
   * the value (`RESIDUUM_BOUND_PW_REL`).
   */
  double max_abs_error;
  /**
   * The value that stands for missing data, if there is one.
   */
  double fill;
} residuum_variable;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Version of the interface that the library has: compare it with `RESIDUUM_ABI_VERSION` of the header.
 */
uint32_t residuum_abi_version(void);

/**
 * Version of the library as text, such as "0.1.0". Static: never freed.
 */
const char *residuum_version(void);

/**
 * A few words for a status. Static: never freed. `residuum_last_error` says more.
 */
const char *residuum_status_text(int32_t status);

/**
 * The most bytes that the archive of a field of this type and shape can have with the context's settings, whatever its values: a
 * little more than the field itself. With a buffer of that size `residuum_compress` is never short of room.
 *
 * @param element_type         `RESIDUUM_TYPE_F32` or `RESIDUUM_TYPE_F64`
 * @param n_dims               number of dimensions, 1 to 5
 * @param shape                their lengths, the slowest first, as C lays out arrays
 * @param[out] archive_bytes   the bytes
 */
residuum_status residuum_max_archive_bytes(struct residuum_context *context,
                                           int32_t element_type,
                                           size_t n_dims,
                                           const size_t *shape,
                                           size_t *archive_bytes);

/**
 * Compresses a field into the caller's buffer.
 *
 * The field is only read. Beside the buffers of the caller a call takes some ten times the tile size (`residuum_set_tile_bytes`),
 * or some ten times the field if that is less; up to 64 MiB of it is kept by the process for the next call.
 *
 * @param element_type         `RESIDUUM_TYPE_F32` or `RESIDUUM_TYPE_F64`
 * @param values               the field, in C order
 * @param n_dims               number of dimensions, 1 to 5
 * @param shape                their lengths, the slowest first; their product is the number of values
 * @param archive              where the archive is to go; it does not overlap the field
 * @param capacity             bytes that there is room for
 * @param[out] archive_bytes   bytes of the archive. Also set if there was too little room: it is then what there must be
 * @return `RESIDUUM_STATUS_BUFFER_TOO_SMALL` if there was too little room
 */
residuum_status residuum_compress(struct residuum_context *context,
                                  int32_t element_type,
                                  const void *values,
                                  size_t n_dims,
                                  const size_t *shape,
                                  void *archive,
                                  size_t capacity,
                                  size_t *archive_bytes);

/**
 * Compresses a field into memory of the library's. As `residuum_compress`, but for where the archive goes.
 *
 * @param[in,out] archive   all members 0, or from an earlier call: its memory is then used again, and grown if need be. If the call
 *                          fails it is as it was, or empty.
 */
residuum_status residuum_compress_owned(struct residuum_context *context,
                                        int32_t element_type,
                                        const void *values,
                                        size_t n_dims,
                                        const size_t *shape,
                                        struct residuum_bytes *archive);

/**
 * Frees memory of the library's and sets all members to 0, so that it can be used or freed again. Null is allowed.
 */
void residuum_bytes_free(struct residuum_bytes *bytes);

/**
 * Makes a context. It holds settings only; memory and threads come with use. It wants a bound before it compresses.
 *
 * @param[out] context   the context, to be freed by `residuum_context_free`
 */
residuum_status residuum_context_new(struct residuum_context **context);

/**
 * Frees a context and ends its threads. Null is allowed. No other call may be using it.
 */
void residuum_context_free(struct residuum_context *context);

/**
 * What went wrong in the last call with this context, in English and UTF-8; empty if nothing did. The text is the context's:
 * it is good until the next call with it.
 */
const char *residuum_last_error(const struct residuum_context *context);

/**
 * Sets the bound of the fields to come.
 *
 * @param mode   a `residuum_bound`
 * @param value  what it says: 0.01 in the units of the data, 1e-3 of the range, 80 dB; 0 is lossless (infinity for dB)
 */
residuum_status residuum_set_bound(struct residuum_context *context, int32_t mode, double value);

/**
 * Sets how hard to try.
 *
 * @param effort   a `residuum_effort`
 */
residuum_status residuum_set_effort(struct residuum_context *context, int32_t effort);

/**
 * Sets the predictor to use.
 *
 * @param predictor   a `residuum_predictor`
 */
residuum_status residuum_set_predictor(struct residuum_context *context, int32_t predictor);

/**
 * Sets the value that stands for missing data. Values equal to it, rounded to the type of the field, come back bit for bit and do
 * not count towards ranges. NaN and infinities come back bit for bit anyway.
 */
residuum_status residuum_set_fill(struct residuum_context *context,
                                  double fill);

/**
 * No value stands for missing data: the default.
 */
residuum_status residuum_unset_fill(struct residuum_context *context);

/**
 * Sets on how many threads the context's calls work. Archives do not depend on it.
 *
 * @param n_threads   0 for the threads that all contexts of the process share, one a core (the default); else the context gets that
 *                    many of its own, at most 1024, until it is freed. Threads do not survive a fork.
 */
residuum_status residuum_set_threads(struct residuum_context *context,
                                     uint32_t n_threads);

/**
 * Sets how many bytes of values are coded at once, about: a call takes some ten times as much memory beside the caller's buffers.
 * More compress better. The default is 32 MiB.
 */
residuum_status residuum_set_tile_bytes(struct residuum_context *context,
                                        uint64_t tile_bytes);

/**
 * Sets whether everything is decoded and compared before it is written, which costs about half as much time again.
 * The bound holds without; this finds bugs and broken machines.
 *
 * @param verify   0 for no (the default), else yes
 */
residuum_status residuum_set_verify(struct residuum_context *context, int32_t verify);

/**
 * Restores a variable into the caller's buffer.
 *
 * Beside the caller's buffer a call takes some five times the tile size that the archive was made with. If it fails, the buffer may
 * hold some of the values.
 *
 * @param archive         the archive
 * @param archive_bytes   its bytes
 * @param variable        which variable: 0 for a field that `residuum_compress` compressed
 * @param element_type    a `residuum_type`: that of the variable, as a check
 * @param values          where the values are to go, in C order
 * @param capacity        values, not bytes, that there is room for; there may be more room than values
 * @return `RESIDUUM_STATUS_BUFFER_TOO_SMALL` if there is too little room; nothing is written then
 */
residuum_status residuum_decompress(struct residuum_context *context,
                                    const void *archive,
                                    size_t archive_bytes,
                                    size_t variable,
                                    int32_t element_type,
                                    void *values,
                                    size_t capacity);

/**
 * Compresses a field in memory of a CUDA device. The archive is the one that `residuum_compress` makes of the same values.
 *
 * Works on the device that the values are on, in its primary context (which the runtime API, OpenACC and OpenMP use), behind what was
 * launched on `stream` before. An archive for the host is complete when the call returns, after two waits; one for the device is there
 * for what is launched on `stream` after the call, which waits once, for its size. Nothing but the archive and 96 bytes a tile is copied from the
 * device, and below 4 KB to it; values themselves are copied to the host where it may do what the device can not: a bound of 0 or too tight
 * for bins, `residuum_set_verify`, and, but with `RESIDUUM_EFFORT_FAST`, tiles whose codes take more than half of the values' bytes or in which
 * more than one value in 256 is stored exactly.
 *
 * The first call with a context compiles the kernels, or reads them from the user's cache, and takes working memory: some ten times the tile size
 * and once the field (but at most 1 GiB) on the device. It is used again, and grows with larger fields; `residuum_reserve_device` takes it in
 * advance, `residuum_context_free` gives it back, and so does a call that ends with `RESIDUUM_STATUS_DEVICE`.
 *
 * @param element_type         `RESIDUUM_TYPE_F32` or `RESIDUUM_TYPE_F64`
 * @param values               the field, in C order, in memory of a device
 * @param n_dims               number of dimensions, 1 to 5
 * @param shape                their lengths, the slowest first, in memory of the host
 * @param archive              where the archive is to go: memory of the same device, or of the host; the driver knows which
 * @param capacity             bytes that there is room for; `residuum_max_archive_bytes` says what is always enough
 * @param[out] archive_bytes   bytes of the archive, in memory of the host. Also set if there was too little room
 * @param stream               a `cudaStream_t` or `CUstream` of the device; null for its default stream
 * @return `RESIDUUM_STATUS_BUFFER_TOO_SMALL` if there was too little room; `RESIDUUM_STATUS_DEVICE` if there is no device, no driver, or
 *         one of them failed; `RESIDUUM_STATUS_UNSUPPORTED` if there are no kernels for these settings
 */
residuum_status residuum_compress_device(struct residuum_context *context,
                                         int32_t element_type,
                                         const void *values,
                                         size_t n_dims,
                                         const size_t *shape,
                                         void *archive,
                                         size_t capacity,
                                         size_t *archive_bytes,
                                         void *stream);

/**
 * Compresses several fields of one type and shape in memory of a CUDA device, an archive each. As `residuum_compress_device` for each, but
 * waits as often as for one.
 *
 * @param n_fields             how many
 * @param values               their addresses, in memory of the host
 * @param archives             where the archives are to go: addresses in memory of the host, all of memory of the host or all of the device
 * @param capacity             bytes that there is room for at each
 * @param[out] archive_bytes   bytes of each archive: `n_fields` of them, in memory of the host
 */
residuum_status residuum_compress_device_batch(struct residuum_context *context,
                                               int32_t element_type,
                                               size_t n_fields,
                                               const void *const *values,
                                               size_t n_dims,
                                               const size_t *shape,
                                               void *const *archives,
                                               size_t capacity,
                                               size_t *archive_bytes,
                                               void *stream);

/**
 * Restores a variable into memory of a CUDA device.
 *
 * The values are there for what is launched on `stream` after the call. It waits once a tile, to see whether the codes are sound; the host reads what
 * stands before them, so that an archive in memory of the device is copied to the host and back.
 *
 * @param archive         the archive, in memory of the host or of the device
 * @param archive_bytes   its bytes
 * @param variable        which variable: 0 for a field that `residuum_compress_device` compressed
 * @param element_type    `RESIDUUM_TYPE_F32` or `RESIDUUM_TYPE_F64`: that of the variable, as a check
 * @param values          where the values are to go, in C order, in memory of a device
 * @param capacity        values, not bytes, that there is room for; there may be more room than values
 * @param stream          as in `residuum_compress_device`
 * @return `RESIDUUM_STATUS_BUFFER_TOO_SMALL` if there is too little room; nothing is written then
 */
residuum_status residuum_decompress_device(struct residuum_context *context,
                                           const void *archive,
                                           size_t archive_bytes,
                                           size_t variable,
                                           int32_t element_type,
                                           void *values,
                                           size_t capacity,
                                           void *stream);

/**
 * Compiles and loads the kernels and takes the working memory that fields of this type and shape need with the context's settings, so that
 * later calls take no memory of the device.
 *
 * @param device   number of the device, from 0, as the runtime counts them
 */
residuum_status residuum_reserve_device(struct residuum_context *context,
                                        int32_t device,
                                        int32_t element_type,
                                        size_t n_dims,
                                        const size_t *shape);

/**
 * Bytes of working memory that the context holds on devices.
 *
 * @param[out] bytes   the bytes
 */
residuum_status residuum_device_workspace_bytes(struct residuum_context *context, size_t *bytes);

/**
 * Number of variables of an archive: 1 if `residuum_compress` made it.
 *
 * @param archive            the archive
 * @param archive_bytes      its bytes
 * @param[out] n_variables   the number
 */
residuum_status residuum_count_variables(struct residuum_context *context,
                                         const void *archive,
                                         size_t archive_bytes,
                                         size_t *n_variables);

/**
 * Describes a variable of an archive, without restoring its values.
 *
 * @param archive            the archive
 * @param archive_bytes      its bytes
 * @param variable           which one, from 0
 * @param[in,out] described  its `struct_bytes` set by the caller; as many bytes are written, and no member that the library lacks
 */
residuum_status residuum_inspect(struct residuum_context *context,
                                 const void *archive,
                                 size_t archive_bytes,
                                 size_t variable,
                                 struct residuum_variable *described);

/**
 * Copies the name of a variable: "data" if `residuum_compress` made the archive, "t2m" or "group/t2m" in archives of files.
 *
 * @param archive         the archive
 * @param archive_bytes   its bytes
 * @param variable        which one, from 0
 * @param name            where the name is to go, UTF-8, with a closing NUL
 * @param capacity        bytes that there is room for
 * @param[out] name_bytes bytes of the name with the closing NUL. Also set if there was too little room
 * @return `RESIDUUM_STATUS_BUFFER_TOO_SMALL` if there was too little room
 */
residuum_status residuum_variable_name(struct residuum_context *context,
                                       const void *archive,
                                       size_t archive_bytes,
                                       size_t variable,
                                       char *name,
                                       size_t capacity,
                                       size_t *name_bytes);

/**
 * Finds a variable by its name.
 *
 * @param archive         the archive
 * @param archive_bytes   its bytes
 * @param name            the name, UTF-8
 * @param[out] variable   which one it is, from 0
 * @return `RESIDUUM_STATUS_USAGE` if there is none of that name; the message has those that there are
 */
residuum_status residuum_find_variable(struct residuum_context *context,
                                       const void *archive,
                                       size_t archive_bytes,
                                       const char *name,
                                       size_t *variable);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* RESIDUUM_H */
