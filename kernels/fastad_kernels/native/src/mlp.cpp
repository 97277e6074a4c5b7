// A residual MLP of training, y = x + W2 gelu(W1 norm(x) + b1) + b2, and its gradient, float32.
//
// A few tokens at a time go through all of it within the caches. Only x is kept for the backward
// pass, which computes the rest again.

#include <vector>

#include "rows.h"

namespace {

struct Shape {
  int64_t num_tokens, width, hidden;  // width and hidden are whole vectors
  double epsilon;
};

struct Weights {
  Norm norm;
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
  NormSums norm;
  float *in_weight, *in_bias, *out_weight, *out_bias;
};

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
        layer_norm(w.norm, x_rows + r * width, tokens.data() + r * width,
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
        layer_norm(w.norm, x_rows + r * width, tokens.data() + r * width,
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
        norm_backward(w.norm, x_rows + r * width, dtokens.data() + r * width, width,
                      (float)s.epsilon, dx_rows + r * width, mine.norm);
    }
  }
}
}
