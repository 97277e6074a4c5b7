// LayerNorm of a token.
#pragma once

#include <cmath>

#include "simd.h"

struct Norm {
  const float *weight, *bias;
};

struct Moments {
  float mean, scale;  // scale = 1 / standard deviation
};

static Moments moments(const float* x, int width, float epsilon) {
  Vec part = {};
  int i = 0;
  for (; i + LANES <= width; i += LANES) part += load(x + i);
  float total = sum(part);
  for (; i < width; i++) total += x[i];
  const float mean = total / width;
  Vec squares = {};
  for (i = 0; i + LANES <= width; i += LANES) {
    const Vec centred = load(x + i) - mean;
    squares = fused(centred, centred, squares);
  }
  float variance = sum(squares);
  for (; i < width; i++) variance += (x[i] - mean) * (x[i] - mean);
  return {mean, 1.0f / std::sqrt(variance / width + epsilon)};
}

static Moments layer_norm(const Norm& norm, const float* x, float* y, int width, float epsilon) {
  const Moments m = moments(x, width, epsilon);
  int i = 0;
  for (; i + LANES <= width; i += LANES)
    store(y + i, fused((load(x + i) - m.mean) * m.scale, load(norm.weight + i),
                       load(norm.bias + i)));
  for (; i < width; i++) y[i] = (x[i] - m.mean) * m.scale * norm.weight[i] + norm.bias[i];
  return m;
}
