// What the fits of the fitted predictor have in common. Twins: src/predict/fitted/{fit,guess,learn}.rs.
#pragma once
#include "number.cuh"
#include "predict.cuh"

// Samples whose products are taken at once.
#define BATCH 256
// Samples of a guess at most, and rows of them: features, the size, the band of rows.
#define GUESS_SAMPLES 8192
#define FEATURE_ROWS 14

// Which part of a phase is sampled: pieces of rows, all of one length.
struct Pieces {
  u32 of_rows, first_row, len, n, columns, turn;
  __device__ __forceinline__ u32 row(u32 piece) const { return first_row + piece * of_rows; }
  __device__ __forceinline__ u32 start(u32 piece) const {
    // Golden ratio: evenly spread, whatever the number of rows.
    return (u32)((u64)(turn + piece * 0x9e3779b9u) * (columns - len + 1) >> 32);
  }
  // The first piece in band `band` of `n_bands` or later.
  __device__ u32 first_in_band(u32 rows, u32 band, u32 n_bands) const {
    u32 from = (band * rows + n_bands - 1) / n_bands;
    u32 piece = from <= first_row ? 0 : (from - first_row + of_rows - 1) / of_rows;
    return piece < n ? piece : n;
  }
};
__device__ __forceinline__ Pieces pieces_of(u32 rows, u32 columns, u32 every, u32 turn) {
  Pieces p;
  u32 most = columns / 48 > 1 ? columns / 48 : 1, of_columns = every / 3;
  of_columns = of_columns < 1 ? 1 : of_columns > most ? most : of_columns;
  p.of_rows = (every + of_columns - 1) / of_columns;
  if (p.of_rows < 1) p.of_rows = 1;
  p.len = (columns + of_columns - 1) / of_columns;
  p.first_row = (u32)((u64)turn * p.of_rows >> 32);
  p.n = p.first_row < rows ? (rows - p.first_row + p.of_rows - 1) / p.of_rows : 0;
  p.columns = columns;
  p.turn = turn;
  return p;
}

// The larger, as `f64::max`: what is not a number loses.
__device__ __forceinline__ double not_below(double v, double least) { return v > least ? v : least; }
