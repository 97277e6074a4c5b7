// Distributions, one per row, and drawing from one.
#pragma once

#include <algorithm>

#include "simd.h"

constexpr int64_t SHORT_SUM = 16;  // sums of more entries are sums of sums, or they would round more

// A row of (rows, size); SIZE > 0 is its length, known to the compiler.
template <int SIZE>
struct Row {
  const int64_t any_size;
  const int64_t size = SIZE > 0 ? SIZE : any_size;

  // Divide by the sum, added up in the order of PyTorch's: four sums of every fourth entry, what is
  // left over to the first of them, then all four. `mixed` is what is kept of that, and added.
  void normalise(float* weights, const float* mixed) const {
    const int64_t whole = size & ~3;
    float sums[4] = {};
    for (int64_t i = 0; i < whole; i++) sums[i % 4] += weights[i];
    for (int64_t i = whole; i < size; i++) sums[0] += weights[i];
    const float sum = ((sums[0] + sums[1]) + sums[2]) + sums[3];
    for (int64_t i = 0; i < size; i++) weights[i] = weights[i] / sum * mixed[0] + mixed[1];
  }

  // How many entries lie, summed up, within the uniform number's share of the whole. Sums are
  // rounded to float32 after every entry and kept in double, as PyTorch's are.
  int64_t draw(const float* probs, float uniform) const {
    double total = 0.0, sum = 0.0;
    for (int64_t i = 0; i < size; i++) total += probs[i];
    const float bound = uniform * (float)total;
    int64_t drawn = 0;
    for (int64_t i = 0; i < size; i++) {
      sum += probs[i];
      drawn += (float)sum <= bound;
    }
    return drawn;
  }
};

// Call function(number, row) for every row, with its size known where that is a usual one.
template <class Function>
static void for_rows(const int64_t* sizes, Function function) {
  for (int64_t number = 0; number < sizes[0]; number++)
    sizes[1] == 5 ? function(number, Row<5>{5}) : function(number, Row<0>{sizes[1]});
}

// An entry of each row (rows, size), by its uniform number.
static void draw(const int64_t* sizes, const float* probs, const float* uniform, int64_t* drawn) {
  for_rows(sizes, [&](int64_t i, auto row) { drawn[i] = row.draw(probs + i * row.size, uniform[i]); });
}

// Distributions (M, R, A) by scores with strides, see `softmax` in drawing.py: weights, all rows
// together, then normalised. `probs` is contiguous.
template <int SIZE>
static void softmax(const int64_t* sizes, const int64_t* strides, const float* scores,
                    float* probs) {
  const int64_t size = SIZE > 0 ? SIZE : sizes[2], count = sizes[0] * sizes[1] * size;
  float* out = probs;
  for (int64_t m = 0; m < sizes[0]; m++)
    for (int64_t r = 0; r < sizes[1]; r++, out += size) {
      const float* row = scores + m * strides[0] + r * strides[1];
      float top = row[0];
      for (int64_t a = 1; a < size; a++) top = row[a * strides[2]] > top ? row[a * strides[2]] : top;
      for (int64_t a = 0; a < size; a++) out[a] = (row[a * strides[2]] - top) * LOG2_E;
    }
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) store(probs + i, exp2(load(probs + i)));
  float rest[LANES] = {};
  for (int64_t k = i; k < count; k++) rest[k - i] = probs[k];
  store(rest, exp2(load(rest)));
  for (int64_t k = i; k < count; k++) probs[k] = rest[k - i];
  for (int64_t row = 0; row < sizes[0] * sizes[1]; row++, probs += size) {
    float sum = 0.0f;
    for (int64_t first = 0; first < size; first += SHORT_SUM) {
      float part = 0.0f;
      for (int64_t a = first; a < std::min(size, first + SHORT_SUM); a++) part += probs[a];
      sum += part;
    }
    for (int64_t a = 0; a < size; a++) probs[a] /= sum;
  }
}
