// out = start + a @ b for small matrices in the caches: the one product of all kernels.
#pragma once

#include <algorithm>

#include "turn.h"

enum class Start { ZERO, BIAS, ADD, ADD_BIAS };  // what the product is added to

// A matrix, possibly transposed: element (m, k) is data[m * row + k * column]. Strides known to the
// compiler (not 0) become part of the instructions instead of taking registers.
template <int ROW, int COLUMN>
struct Strided {
  const float* data;
  int64_t any_row = ROW, any_column = COLUMN;

  INLINE_METHOD const float* at(int64_t m, int64_t k) const {
    return data + m * (ROW ? ROW : any_row) + k * (COLUMN ? COLUMN : any_column);
  }
};
using Rows = Strided<0, 1>;

constexpr int PANEL = WIDE ? 4 : 2;  // vectors

// Panels are `b_panel` apart, which matters to those who take several at once.
template <int ROWS, int VECS, class Matrix>
INLINE void add_products(Matrix a, int first, int last, const float* b, int64_t b_row,
                         int64_t b_panel, Vec (&acc)[ROWS][VECS]) {
  for (int k = first; k < last; k++) {
    Vec x[VECS];
    UNROLL for (int n = 0; n < VECS; n++) {
      const float* from = b + n / PANEL * b_panel + k * b_row + n % PANEL * LANES;
      x[n] = ROWS > 1 ? hold(from) : load(from);
    }
    UNROLL for (int m = 0; m < ROWS; m++) {
      const Vec scale = splat(*a.at(m, k));
      UNROLL for (int n = 0; n < VECS; n++) acc[m][n] = fused(scale, x[n], acc[m][n]);
    }
  }
}

// Every element of the result takes the same steps in a tile of any shape: its bits depend neither
// on the rows beside it nor on their number.
template <Start START, int ROWS, int VECS, class Matrix>
INLINE void multiply_tile(Matrix a, int inner, const float* b, int64_t b_row,
                          const float* bias, float* out, int64_t out_row, int64_t b_panel = 0) {
  Vec acc[ROWS][VECS] = {};
  add_products(a, 0, inner < CHAIN ? inner : CHAIN, b, b_row, b_panel, acc);
  for (int k = CHAIN; k < inner; k += CHAIN) {
    Vec part[ROWS][VECS] = {};
    add_products(a, k, inner - k < CHAIN ? inner : k + CHAIN, b, b_row, b_panel, part);
    UNROLL for (int m = 0; m < ROWS; m++)
      UNROLL for (int n = 0; n < VECS; n++) acc[m][n] += part[m][n];
  }
  // What the product is added to joins last, or every step of the sum would round at its size.
  constexpr bool BIAS = START == Start::BIAS || START == Start::ADD_BIAS;
  constexpr bool ADD = START == Start::ADD || START == Start::ADD_BIAS;
  UNROLL for (int n = 0; n < VECS; n++) {
    const Vec shift = BIAS ? load(bias + n * LANES) : Vec{};
    UNROLL for (int m = 0; m < ROWS; m++) {
      float* to = out + m * out_row + n * LANES;
      const Vec x = BIAS ? acc[m][n] + shift : acc[m][n];
      store(to, ADD ? load(to) + x : x);
    }
  }
}

// A panel of columns, which stays in the first cache for all rows.
template <Start START, int VECS, class Matrix>
static __attribute__((noinline)) void multiply_panel(  // on its own, it has all registers
    Matrix a, int rows, int inner, const float* b, int64_t b_row, const float* bias, float* out,
    int64_t out_row) {
  // As many accumulators as registers leave room for, and enough to hide a product's latency.
  constexpr int ROWS = VECS == 1 ? (WIDE ? 16 : 8) : VECS == 2 ? (WIDE ? 8 : 6) : 6;
  int m = 0;
  const auto tile = [&](auto count) __attribute__((always_inline)) {
    constexpr int COUNT = decltype(count)::value;
    // 8 and 9 rows are better shared by two tiles of 4: one of 2 waits for its products.
    for (; m + COUNT <= rows && !(COUNT == 6 && (rows - m == 8 || rows - m == 9)); m += COUNT)
      multiply_tile<START, COUNT, VECS>(Matrix{a.at(m, 0), a.any_row, a.any_column}, inner, b,
                                        b_row, bias, out + m * out_row, out_row);
  };
  tile(std::integral_constant<int, ROWS>());
  tile(std::integral_constant<int, 4>());
  if constexpr (VECS > 1) tile(std::integral_constant<int, 2>());
  tile(std::integral_constant<int, 1>());
}

// Call `use(first vector, number of vectors as a constant)` for the panels of a matrix.
template <class Use>
INLINE void for_panels(int vecs, Use use) {
  int n = 0;
  for (; n + PANEL <= vecs; n += PANEL) use(n, std::integral_constant<int, PANEL>());
  if constexpr (PANEL > 2)
    for (; n + 2 <= vecs; n += 2) use(n, std::integral_constant<int, 2>());
  for (; n < vecs; n++) use(n, std::integral_constant<int, 1>());
}

// out (rows, vecs * LANES) from a (rows, inner) and b (inner, vecs * LANES).
template <Start START, class Matrix>
INLINE void multiply(Matrix a, int rows, int inner, const float* b, int64_t b_row,
                     int vecs, const float* bias, float* out, int64_t out_row) {
  for_panels(vecs, [&](int n, auto count) __attribute__((always_inline)) {
    multiply_panel<START, decltype(count)::value>(a, rows, inner, b + n * LANES, b_row,
                                                  bias ? bias + n * LANES : nullptr,
                                                  out + n * LANES, out_row);
  });
}

// A matrix (in, out) panel after panel, each (in, vectors of the panel): read from end to end,
// where rows of a wide matrix would compete for the same places in the first cache.
static void pack_panels(const float* weight, int64_t in_stride, int64_t out_stride, int in,
                        int out, float* packed) {
  for_panels((int)(round_up(out, BORDER) / LANES), [&](int n, auto count) {
    constexpr int WIDTH = decltype(count)::value * LANES;
    const int first = n * LANES;
    float* panel = packed + (int64_t)first * in;
    const float* columns = weight + first * out_stride;
    if (first + WIDTH <= out && in_stride == 1)
      turn(columns, out_stride, WIDTH, in, 1.0f, panel, WIDTH);
    else if (first + WIDTH <= out && out_stride == 1)
      for (int k = 0; k < in; k++) std::copy_n(columns + k * in_stride, WIDTH, panel + k * WIDTH);
    else
      for (int k = 0; k < in; k++)
        for (int i = 0; i < WIDTH; i++)
          panel[k * WIDTH + i] =
              first + i < out ? columns[k * in_stride + i * out_stride] : 0.0f;
  });
}

// One or two rows against as many panels at once as hide a product's latency; returns the vectors of
// each row that are done.
template <Start START, int ROWS>
static __attribute__((noinline)) int multiply_few(Rows x, int in, const float* weight, int vecs,
                                                  const float* bias, float* y, int64_t y_row) {
  constexpr int VECS = 8 / ROWS;
  int n = 0;
  if constexpr (VECS > PANEL)
    for (; n + VECS <= vecs; n += VECS)
      multiply_tile<START, ROWS, VECS>(x, in, weight + (int64_t)n * LANES * in, PANEL * LANES,
                                       bias ? bias + n * LANES : nullptr, y + n * LANES, y_row,
                                       (int64_t)in * PANEL * LANES);
  return n;
}

// y = x W + bias for rows of x, with W (in, out) in panels and `out` whole vectors.
template <Start START>
INLINE void linear(const float* x, int64_t x_row, int rows, int in, const float* weight, int out,
                   const float* bias, float* y, int64_t y_row) {
  const Rows all{x, x_row};
  const int vecs = out / LANES;
  const int done = rows == 1 ? multiply_few<START, 1>(all, in, weight, vecs, bias, y, y_row)
                 : rows == 2 ? multiply_few<START, 2>(all, in, weight, vecs, bias, y, y_row) : 0;
  for_panels(vecs - done, [&](int n, auto count) __attribute__((always_inline)) {
    n += done;
    multiply_panel<START, decltype(count)::value>(
        all, rows, in, weight + (int64_t)n * LANES * in, decltype(count)::value * LANES,
        bias ? bias + n * LANES : nullptr, y + n * LANES, y_row);
  });
}
