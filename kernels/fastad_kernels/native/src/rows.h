// What kernels of training that take tokens a few at a time have in common.
//
// Tokens are divided among threads in the same way every time, and sums of threads are added in
// their order, so that results repeat bit for bit.
#pragma once

#include <omp.h>

#include <algorithm>

#include "multiply.h"
#include "norm.h"

constexpr int ROWS = 32;  // tokens that go through a kernel together
using Turned = Strided<1, 0>;

// Tokens [first, last) of a thread.
struct Share {
  int64_t first, last;

  Share(int64_t num_tokens) {
    const int64_t count = divide_up(num_tokens, ROWS), thread = omp_get_thread_num();
    const int64_t threads = omp_get_num_threads();
    first = std::min(count * thread / threads * ROWS, num_tokens);
    last = std::min(count * (thread + 1) / threads * ROWS, num_tokens);
  }
};

static void add_rows(const float* x, int rows, int64_t width, float* total) {
  for (int64_t i = 0; i < width; i += LANES) {
    Vec part = {};
    for (int r = 0; r < rows; r++) part += load(x + r * width + i);
    store(total + i, load(total + i) + part);
  }
}

struct NormSums {
  float *weight, *bias;
};

// Through the norm: d(token) to d(x), which is added to `dx`; sums of the norm's own gradient.
static void norm_backward(const Norm& norm, const float* x, const float* dtoken, int width,
                          float epsilon, float* dx, const NormSums& sums) {
  const Moments m = moments(x, width, epsilon);
  Vec sum_d = {}, sum_dx = {};
  for (int i = 0; i < width; i += LANES) {
    const Vec normed = (load(x + i) - m.mean) * m.scale, d = load(dtoken + i);
    store(sums.weight + i, fused(d, normed, load(sums.weight + i)));
    store(sums.bias + i, load(sums.bias + i) + d);
    const Vec scaled = d * load(norm.weight + i);
    sum_d += scaled;
    sum_dx = fused(scaled, normed, sum_dx);
  }
  const float mean_d = sum(sum_d) / width, mean_dx = sum(sum_dx) / width;
  for (int i = 0; i < width; i += LANES) {
    const Vec normed = (load(x + i) - m.mean) * m.scale;
    const Vec scaled = load(dtoken + i) * load(norm.weight + i);
    store(dx + i, load(dx + i) + m.scale * (scaled - mean_d - normed * mean_dx));
  }
}
