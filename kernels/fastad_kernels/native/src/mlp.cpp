// A residual MLP of training, y = x + W2 gelu(W1 norm(x) + b1) + b2, and its gradient, float32.
//
// A few tokens at a time go through all of it within the caches. The backward pass needs x, and
// what GELU is applied to: kept where the caller gave room for it, else computed again, to the same
// bits.

#include <vector>

#include "rows.h"

namespace {

struct Shape {
  int64_t num_tokens, width, hidden, hidden_row;  // from a token's hidden features to the next's
  double epsilon;
};

struct Weights {
  Norm norm;
  const float *in_weight, *in_bias, *out_weight, *out_bias;  // matrices (out, in), as PyTorch's
};

struct Sums {
  NormSums norm;
  float *in_weight, *in_bias, *out_weight, *out_bias;
};

// Vectors in whole vectors of the machine's, and matrices as the products read them.
struct Packed {
  std::vector<float> scale, in_bias, out_bias;
  std::vector<float> in, out;  // to the right, y = x W
  std::vector<float> in_back, out_back;  // to the left, of the backward pass

  Packed(const Shape& s, const Weights& w, bool backward)
      : scale(whole(w.norm.weight, s.width)), in_bias(whole(w.in_bias, s.hidden)),
        out_bias(whole(w.out_bias, s.width)), in(s.width * round_up(s.hidden, BORDER)) {
    const int width = (int)s.width, hidden = (int)s.hidden;
    pack_panels(w.in_weight, 1, width, width, hidden, in.data());
    if (!backward) {
      out.resize(s.hidden * round_up(s.width, BORDER));
      pack_panels(w.out_weight, 1, hidden, hidden, width, out.data());
    } else {
      in_back.resize(s.hidden * round_up(s.width, BORDER));
      out_back.resize(in.size());
      pack_panels(w.in_weight, width, 1, hidden, width, in_back.data());
      pack_panels(w.out_weight, hidden, 1, width, hidden, out_back.data());
    }
  }
};

// Of some tokens, in the caches: norm(x), hidden features, and what the gradient needs beside them.
struct Scratch {
  const Shape& s;
  const int width, hidden, whole_width, whole_hidden;
  const int64_t row, hidden_row;
  Moments of_rows[ROWS];
  std::vector<float> tokens, active, dtokens, dh;

  Scratch(const Shape& s, bool backward)
      : s(s), width((int)s.width), hidden((int)s.hidden),
        whole_width((int)round_up(width, BORDER)), whole_hidden((int)round_up(hidden, BORDER)),
        row(apart(width)), hidden_row(s.hidden_row), tokens(ROWS * row),
        active(ROWS * hidden_row), dtokens(backward ? tokens.size() : 0),
        dh(backward ? active.size() : 0) {}

  void normalise(const Norm& norm, const float* x, int64_t x_row, int rows) {
    for (int r = 0; r < rows; r++)
      of_rows[r] =
          layer_norm(norm, x + r * x_row, tokens.data() + r * row, width, (float)s.epsilon);
  }

  // What GELU is applied to, of tokens that are normalised.
  void enter(const Packed& packed, int rows, float* h) const {
    linear<Start::BIAS>(tokens.data(), row, rows, width, packed.in.data(), whole_hidden,
                        packed.in_bias.data(), h, hidden_row);
  }
};

}  // namespace

extern "C" {

void fastad_mlp_forward(const Shape* shape, const Weights* weights, const float* x, float* y,
                        float* kept, int threads) {
  const Shape& s = *shape;
  const Weights& w = *weights;
  const int64_t width = s.width;
  const Packed packed(s, w, false);
#pragma omp parallel num_threads(threads)
  {
    Scratch t(s, false);
    WholeRows ys(width);
#pragma omp for schedule(dynamic, 1)
    for (int64_t block = 0; block < num_blocks(s.num_tokens); block++) {
      const auto [first, rows] = Span(block, s.num_tokens);
      const float* x_rows = x + first * width;
      float* y_rows = ys.take(y + first * width);
      float* h = kept ? kept + first * t.hidden_row : t.active.data();
      fetch<true>(y + first * width, rows * width);
      t.normalise(w.norm, x_rows, width, rows);
      t.enter(packed, rows, h);
      fetch<false>(x_rows + rows * width, ROWS * width);
      for (int r = 0; r < rows; r++) {
        gelu(h + r * t.hidden_row, t.whole_hidden, t.active.data() + r * t.hidden_row);
        std::copy_n(x_rows + r * width, width, y_rows + r * ys.stride);
      }
      linear<Start::ADD_BIAS>(t.active.data(), t.hidden_row, rows, t.hidden, packed.out.data(),
                              t.whole_width, packed.out_bias.data(), y_rows, ys.stride);
      ys.give(y + first * width, rows);
    }
  }
}

void fastad_mlp_backward(const Shape* shape, const Weights* weights, const float* x,
                         const float* dy, const float* kept, float* dx, const Sums* sums,
                         int threads) {
  const Shape& s = *shape;
  const Weights& w = *weights;
  const int width = (int)s.width, hidden = (int)s.hidden;
  const Packed packed(s, w, true);
#pragma omp parallel num_threads(threads)
  {
    Scratch t(s, true);
    WholeRows xs(width), dys(width), dxs(width);
    Gathered dscale(sums->norm.weight, 1, width), dshift(sums->norm.bias, 1, width);
    Gathered din(sums->in_weight, hidden, width), din_bias(sums->in_bias, 1, hidden);
    Gathered dout(sums->out_weight, width, hidden), dout_bias(sums->out_bias, 1, width);
#pragma omp for schedule(dynamic, 1) ordered
    for (int64_t block = 0; block < num_gathered(s.num_tokens); block++) {
      const auto [first, rows] = Span(block, s.num_tokens);
      const float *x_rows = xs(x + first * width, rows), *dy_rows = dys(dy + first * width, rows);
      float* dx_rows = dxs.take(dx + first * width);
      fetch<false>(dy + first * width, rows * width);
      t.normalise(w.norm, x_rows, xs.stride, rows);
      if (!kept) t.enter(packed, rows, t.active.data());
      const float* h = kept ? kept + first * t.hidden_row : t.active.data();
      fetch<true>(dx + first * width, rows * width);
      fetch<false>(x + (first + rows) * width, ROWS * width);
      linear<Start::ZERO>(dy_rows, dys.stride, rows, width, packed.out_back.data(),
                          t.whole_hidden, nullptr, t.dh.data(), t.hidden_row);
      for (int r = 0; r < rows; r++)
        gelu_backward(h + r * t.hidden_row, t.whole_hidden, t.active.data() + r * t.hidden_row,
                      t.dh.data() + r * t.hidden_row);
      gather({dy_rows, dys.stride}, width, {t.active.data(), t.hidden_row}, t.whole_hidden, rows,
             dout.data(), dout.stride());
      gather({t.dh.data(), t.hidden_row}, hidden, {t.tokens.data(), t.row}, t.whole_width, rows,
             din.data(), din.stride());
      add_rows(dy_rows, dys.stride, rows, width, dout_bias.data());
      add_rows(t.dh.data(), t.hidden_row, rows, hidden, din_bias.data());
      linear<Start::ZERO>(t.dh.data(), t.hidden_row, rows, t.hidden, packed.in_back.data(),
                          t.whole_width, nullptr, t.dtokens.data(), t.row);
      std::copy_n(dy_rows, rows * dys.stride, dx_rows);  // both are as far apart
      norm_backward({packed.scale.data(), nullptr}, t.of_rows, {x_rows, xs.stride},
                    {t.dtokens.data(), t.row}, rows, width, dx_rows, dxs.stride,
                    {dscale.data(), dshift.data()});
      dxs.give(dx + first * width, rows);
#pragma omp ordered
      for (const Gathered* sum : {&dscale, &dshift, &din, &din_bias, &dout, &dout_bias})
        sum->move(block == 0);
    }
  }
}
}
