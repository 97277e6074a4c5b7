// What kernels of training that take tokens a few at a time have in common.
//
// Gradients of weights are gathered block by block and added up in the order of the blocks, whichever
// threads took them: results have the same bits every time, with any number of threads.
#pragma once

#include <omp.h>

#include <algorithm>
#include <vector>

#include "multiply.h"
#include "norm.h"

constexpr int ROWS = 48;  // tokens that go through a kernel together, a block: whole tiles
using Turned = Strided<1, 0>;

// The tokens of a block, from `first` on.
struct Span {
  int64_t first;
  int rows;

  Span(int64_t block, int64_t num_tokens)
      : first(block * ROWS), rows((int)std::min<int64_t>(ROWS, num_tokens - first)) {}
};

constexpr int64_t num_blocks(int64_t num_tokens) { return divide_up(num_tokens, ROWS); }
// One at least: it brings the zeros of no tokens.
constexpr int64_t num_gathered(int64_t num_tokens) {
  return std::max<int64_t>(num_blocks(num_tokens), 1);
}

// From a row to the next, in whole vectors, and with other places in the first cache: rows that
// are powers of two apart would drive each other out.
constexpr int64_t apart(int64_t width) { return round_up(width, 2 * BORDER) + BORDER; }

// Rows as whole vectors: as they are if they are so, else in room of their own, zeros behind.
struct WholeRows {
  int64_t width, stride;
  std::vector<float> room;

  explicit WholeRows(int64_t width)
      : width(width), stride(width % BORDER ? apart(width) : width),
        room(width % BORDER ? ROWS * stride : 0) {}

  const float* operator()(const float* x, int rows) {
    if (room.empty()) return x;
    for (int r = 0; r < rows; r++) std::copy_n(x + r * width, width, room.data() + r * stride);
    return room.data();
  }
  // Where to write rows that `give` then brings to their place.
  float* take(float* x) { return room.empty() ? x : room.data(); }
  void give(float* x, int rows) const {
    if (room.empty()) return;
    for (int r = 0; r < rows; r++) std::copy_n(room.data() + r * stride, width, x + r * width);
  }
};

// A vector of weights with zeros behind, up to whole vectors.
static std::vector<float> whole(const float* x, int64_t width) {
  std::vector<float> y(round_up(width, BORDER));
  std::copy_n(x, width, y.data());
  return y;
}

// A matrix that a block's part of a gradient is gathered in, and its place in the caller's memory.
struct Gathered {
  float* total;  // (rows, width), or null for none
  int64_t rows, width;
  std::vector<float> part;

  Gathered(float* total, int64_t rows, int64_t width)
      : total(total), rows(rows), width(width), part(total ? rows * stride() : 0) {}

  int64_t stride() const { return round_up(width, BORDER); }
  float* data() { return part.data(); }

  // Add a block's part to the total; that of the first one is the total.
  void move(bool first) const {
    if (!total) return;
    for (int64_t r = 0; r < rows; r++) {
      float* to = total + r * width;
      const float* from = part.data() + r * stride();
      for (int64_t i = 0; i < width; i++) to[i] = first ? from[i] : to[i] + from[i];
    }
  }
};

// Rows in memory that will be needed soon, to be read or written over.
template <bool WRITTEN>
INLINE void fetch(const float* x, int64_t size) {
  for (int64_t i = 0; i < size; i += BORDER) __builtin_prefetch(x + i, WRITTEN, 2);
}

// left^T right, a gradient of weights: both of them rows, of (left, right) features. The narrower
// ones stay in the first cache, the wider ones pass through it once.
INLINE void gather(Rows left, int left_width, Rows right, int right_width, int rows, float* out,
                   int64_t out_row) {
  constexpr int GROUP = 48;  // features of `left`: whole tiles, whole lines of a cache
  const int group = left_width > right_width ? GROUP : left_width;
  for (int m = 0; m < left_width; m += group)
    multiply<Start::ZERO>(Turned{left.data + m, 1, left.any_row}, std::min(group, left_width - m),
                          rows, right.data, right.any_row, right_width / LANES, nullptr,
                          out + m * out_row, out_row);
}

// The total of what `row` gives of each row, as sums of short chains.
template <class Row>
INLINE void add_up(int rows, float* total, Row row) {
  constexpr int SHORT = 8;
  Vec all = {};
  for (int r = 0; r < rows;) {
    Vec part = {};
    for (const int end = std::min(r + SHORT, rows); r < end; r++) part = row(r, part);
    all += part;
  }
  store(total, all);
}

static void add_rows(const float* x, int64_t stride, int rows, int64_t width, float* total) {
  for (int64_t i = 0; i < width; i += LANES)
    add_up(rows, total + i, [&](int r, Vec part) { return part + load(x + r * stride + i); });
}

struct NormSums {
  float *weight, *bias;
};

// Through the norm: d(token) to d(x), which is added to `dx`; sums of the norm's own gradient.
// Rows are whole vectors, of which `width` features count; behind them dtoken and weight are 0.
static void norm_backward(const Norm& norm, const Moments* of_rows, Rows x, Rows dtoken, int rows,
                          int width, float* dx, int64_t dx_row, const NormSums& sums) {
  for (int r = 0; r < rows; r++) {
    const Moments m = of_rows[r];
    Vec sum_d = {}, sum_dx = {};
    for (int i = 0; i < width; i += LANES) {
      const Vec normed = (load(x.at(r, i)) - m.mean) * m.scale;
      const Vec scaled = load(dtoken.at(r, i)) * load(norm.weight + i);
      sum_d += scaled;
      sum_dx = fused(scaled, normed, sum_dx);
    }
    const float mean_d = sum(sum_d) / width, mean_dx = sum(sum_dx) / width;
    float* to = dx + r * dx_row;
    for (int i = 0; i < width; i += LANES) {
      const Vec normed = (load(x.at(r, i)) - m.mean) * m.scale;
      const Vec scaled = load(dtoken.at(r, i)) * load(norm.weight + i);
      store(to + i, load(to + i) + m.scale * (scaled - mean_d - normed * mean_dx));
    }
  }
  for (int i = 0; i < width; i += LANES)
    add_up(rows, sums.weight + i, [&](int r, Vec part) {
      const Vec normed = (load(x.at(r, i)) - of_rows[r].mean) * of_rows[r].scale;
      return fused(load(dtoken.at(r, i)), normed, part);
    });
  add_rows(dtoken.data, dtoken.any_row, rows, width, sums.bias);
}
