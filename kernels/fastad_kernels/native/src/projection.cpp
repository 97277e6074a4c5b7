// A linear map of training, y = W norm(x) + b or y = residual + W x + b, and its gradient, float32.
//
// As the MLP: a few tokens at a time, and of norm(x) nothing is kept.

#include <vector>

#include "rows.h"

namespace {

struct Shape {
  int64_t num_tokens, in, out;  // in and out are whole vectors
  double epsilon;
};

struct Weights {
  Norm norm;  // null for none
  const float *weight, *bias;  // (out, in), as PyTorch's
};

struct Sums {
  NormSums norm;
  float *weight, *bias;
};

// norm(x) of some rows, or x itself.
const float* normed(const Shape& s, const Weights& w, const float* x, int rows, float* tokens) {
  if (!w.norm.weight) return x;
  for (int r = 0; r < rows; r++)
    layer_norm(w.norm, x + r * s.in, tokens + r * s.in, (int)s.in, (float)s.epsilon);
  return tokens;
}

}  // namespace

extern "C" {

void fastad_projection_forward(const Shape* shape, const Weights* weights, const float* x,
                               const float* residual, float* y, int threads) {
  const Shape& s = *shape;
  const Weights& w = *weights;
  const int in = (int)s.in, out = (int)s.out;
  std::vector<float> packed(s.in * s.out);
  pack_panels(w.weight, 1, in, in, out, packed.data());
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> tokens(ROWS * in);
    const Share share(s.num_tokens);
    for (int64_t first = share.first; first < share.last; first += ROWS) {
      const int rows = (int)std::min<int64_t>(ROWS, share.last - first);
      const float* input = normed(s, w, x + first * in, rows, tokens.data());
      float* y_rows = y + first * out;
      if (residual) {
        std::copy_n(residual + first * out, rows * out, y_rows);
        linear<Start::ADD_BIAS>(input, in, rows, in, packed.data(), out, w.bias, y_rows, out);
      } else {
        linear<Start::BIAS>(input, in, rows, in, packed.data(), out, w.bias, y_rows, out);
      }
    }
  }
}

// `sums` has one set of gradients per thread, zeros at first; the caller adds them up.
void fastad_projection_backward(const Shape* shape, const Weights* weights, const float* x,
                                const float* dy, float* dx, const Sums* sums, int threads) {
  const Shape& s = *shape;
  const Weights& w = *weights;
  const int in = (int)s.in, out = (int)s.out;
  std::vector<float> packed(s.in * s.out);
  pack_panels(w.weight, in, 1, out, in, packed.data());
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> tokens(ROWS * in), dtokens(ROWS * in);
    const Sums mine = sums[omp_get_thread_num()];
    const Share share(s.num_tokens);
    for (int64_t first = share.first; first < share.last; first += ROWS) {
      const int rows = (int)std::min<int64_t>(ROWS, share.last - first);
      const float *x_rows = x + first * in, *dy_rows = dy + first * out;
      float* dx_rows = dx + first * in;
      const float* input = normed(s, w, x_rows, rows, tokens.data());
      multiply<Start::ADD>(Turned{dy_rows, 1, out}, out, rows, input, in, in / LANES, nullptr,
                           mine.weight, in);
      add_rows(dy_rows, rows, out, mine.bias);
      float* to = w.norm.weight ? dtokens.data() : dx_rows;
      linear<Start::ZERO>(dy_rows, out, rows, out, packed.data(), in, nullptr, to, in);
      if (!w.norm.weight) continue;
      std::fill_n(dx_rows, rows * in, 0.0f);
      for (int r = 0; r < rows; r++)
        norm_backward(w.norm, x_rows + r * in, dtokens.data() + r * in, in, (float)s.epsilon,
                      dx_rows + r * in, mine.norm);
    }
  }
}
}
