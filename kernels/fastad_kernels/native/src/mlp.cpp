// A residual MLP of training, y = x + W2 gelu(W1 norm(x) + b1) + b2, and its gradient, float32.
//
// A few tokens at a time go through all of it within the caches. Only x is kept for the backward
// pass, which computes the rest again. Tokens are divided among threads in the same way every
// time, and their sums added in the order of threads, so that results repeat bit for bit.

#include <omp.h>

#include <algorithm>
#include <vector>

#include "multiply.h"
#include "norm.h"

namespace {

constexpr int ROWS = 32;
using Turned = Strided<1, 0>;

struct Shape {
  int64_t num_tokens, width, hidden;  // width and hidden are whole vectors
  double epsilon;
};

struct Weights {
  const float *norm_weight, *norm_bias;
  const float *in_weight, *in_bias, *out_weight, *out_bias;  // matrices (out, in), as PyTorch's
};

// Matrices as the products read them, in either direction.
struct Packed {
  std::vector<float> in, out;

  Packed(const Shape& s, const Weights& w, bool backward)
      : in(s.width * s.hidden), out(s.width * s.hidden) {
    const int width = (int)s.width, hidden = (int)s.hidden;
    if (!backward) {
      pack_panels(w.in_weight, 1, width, width, hidden, in.data());
      pack_panels(w.out_weight, 1, hidden, hidden, width, out.data());
    } else {
      pack_panels(w.in_weight, width, 1, hidden, width, in.data());
      pack_panels(w.out_weight, hidden, 1, width, hidden, out.data());
    }
  }
};

struct Sums {
  float *norm_weight, *norm_bias, *in_weight, *in_bias, *out_weight, *out_bias;
};

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

void add_rows(const float* x, int rows, int64_t width, float* total) {
  for (int64_t i = 0; i < width; i += LANES) {
    Vec part = {};
    for (int r = 0; r < rows; r++) part += load(x + r * width + i);
    store(total + i, load(total + i) + part);
  }
}

// Through the norm: d(token) to d(x), which is added to `dx`; sums of the norm's own gradient.
void norm_backward(const Weights& w, const float* x, const float* dtoken, int width,
                   float epsilon, float* dx, Sums& sums) {
  const Moments m = moments(x, width, epsilon);
  Vec sum_d = {}, sum_dx = {};
  for (int i = 0; i < width; i += LANES) {
    const Vec normed = (load(x + i) - m.mean) * m.scale, d = load(dtoken + i);
    store(sums.norm_weight + i, load(sums.norm_weight + i) + d * normed);
    store(sums.norm_bias + i, load(sums.norm_bias + i) + d);
    const Vec scaled = d * load(w.norm_weight + i);
    sum_d += scaled;
    sum_dx += scaled * normed;
  }
  const float mean_d = sum(sum_d) / width, mean_dx = sum(sum_dx) / width;
  for (int i = 0; i < width; i += LANES) {
    const Vec normed = (load(x + i) - m.mean) * m.scale;
    const Vec scaled = load(dtoken + i) * load(w.norm_weight + i);
    store(dx + i, load(dx + i) + m.scale * (scaled - mean_d - normed * mean_dx));
  }
}

}  // namespace

extern "C" {

void fastad_mlp_forward(const Shape* shape, const Weights* weights, const float* x, float* y,
                        int threads) {
  const Shape& s = *shape;
  const Weights& w = *weights;
  const int width = (int)s.width, hidden = (int)s.hidden;
  const Packed to_right(s, w, false);
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> tokens(ROWS * width), h(ROWS * hidden);
    const Share share(s.num_tokens);
    for (int64_t first = share.first; first < share.last; first += ROWS) {
      const int rows = (int)std::min<int64_t>(ROWS, share.last - first);
      const float* x_rows = x + first * width;
      float* y_rows = y + first * width;
      for (int r = 0; r < rows; r++)
        layer_norm({w.norm_weight, w.norm_bias}, x_rows + r * width, tokens.data() + r * width,
                   width, (float)s.epsilon);
      linear<Start::BIAS>(tokens.data(), width, rows, width, to_right.in.data(), hidden, w.in_bias,
                          h.data(), hidden);
      for (int i = 0; i < rows * hidden; i += LANES)
        store(h.data() + i, gelu(load(h.data() + i)));
      std::copy_n(x_rows, rows * width, y_rows);
      linear<Start::ADD_BIAS>(h.data(), hidden, rows, hidden, to_right.out.data(), width, w.out_bias,
                              y_rows, width);
    }
  }
}

// `sums` has one set of gradients per thread, zeros at first; the caller adds them up.
void fastad_mlp_backward(const Shape* shape, const Weights* weights, const float* x,
                         const float* dy, float* dx, const Sums* sums, int threads) {
  const Shape& s = *shape;
  const Weights& w = *weights;
  const int width = (int)s.width, hidden = (int)s.hidden;
  const Packed to_right(s, w, false), to_left(s, w, true);
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> tokens(ROWS * width), dtokens(ROWS * width);
    std::vector<float> h(ROWS * hidden), dh(ROWS * hidden);
    Sums mine = sums[omp_get_thread_num()];
    const Share share(s.num_tokens);
    for (int64_t first = share.first; first < share.last; first += ROWS) {
      const int rows = (int)std::min<int64_t>(ROWS, share.last - first);
      const float *x_rows = x + first * width, *dy_rows = dy + first * width;
      float* dx_rows = dx + first * width;
      for (int r = 0; r < rows; r++)
        layer_norm({w.norm_weight, w.norm_bias}, x_rows + r * width, tokens.data() + r * width,
                   width, (float)s.epsilon);
      linear<Start::BIAS>(tokens.data(), width, rows, width, to_right.in.data(), hidden, w.in_bias,
                          h.data(), hidden);
      linear<Start::ZERO>(dy_rows, width, rows, width, to_left.out.data(), hidden, nullptr, dh.data(),
                          hidden);
      for (int i = 0; i < rows * hidden; i += LANES) {
        Vec value, slope;
        gelu(load(h.data() + i), value, slope);
        store(h.data() + i, value);
        store(dh.data() + i, load(dh.data() + i) * slope);
      }
      multiply<Start::ADD>(Turned{dy_rows, 1, width}, width, rows, h.data(), hidden, hidden / LANES,
                           nullptr, mine.out_weight, hidden);
      multiply<Start::ADD>(Turned{dh.data(), 1, hidden}, hidden, rows, tokens.data(), width,
                           width / LANES, nullptr, mine.in_weight, width);
      add_rows(dy_rows, rows, width, mine.out_bias);
      add_rows(dh.data(), rows, hidden, mine.in_bias);
      linear<Start::ZERO>(dh.data(), hidden, rows, hidden, to_left.in.data(), width, nullptr,
                          dtokens.data(), width);
      std::copy_n(dy_rows, rows * width, dx_rows);
      for (int r = 0; r < rows; r++)
        norm_backward(w, x_rows + r * width, dtokens.data() + r * width, width, (float)s.epsilon,
                      dx_rows + r * width, mine);
    }
  }
}
}
