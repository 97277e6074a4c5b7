// A linear map of training, y = W norm(x) + b or y = residual + W x + b, and its gradient, float32.
//
// As the MLP: a few tokens at a time, and of norm(x) nothing is kept.

#include <vector>

#include "rows.h"

namespace {

struct Shape {
  int64_t num_tokens, in, out;
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
Rows normed(const Shape& s, const Weights& w, const float* x, int64_t x_row, int rows,
            float* tokens, Moments* of_rows) {
  if (!w.norm.weight) return {x, x_row};
  for (int r = 0; r < rows; r++)
    of_rows[r] =
        layer_norm(w.norm, x + r * x_row, tokens + r * apart(s.in), (int)s.in, (float)s.epsilon);
  return {tokens, apart(s.in)};
}

}  // namespace

extern "C" {

void fastad_projection_forward(const Shape* shape, const Weights* weights, const float* x,
                               const float* residual, float* y, int threads) {
  const Shape& s = *shape;
  const Weights& w = *weights;
  const int in = (int)s.in, whole_out = (int)round_up(s.out, BORDER);
  const std::vector<float> bias = whole(w.bias, s.out);
  std::vector<float> packed(s.in * whole_out);
  pack_panels(w.weight, 1, in, in, (int)s.out, packed.data());
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> tokens(w.norm.weight ? ROWS * apart(in) : 0);
    Moments of_rows[ROWS];
    WholeRows ys(s.out);
#pragma omp for schedule(dynamic, 1)
    for (int64_t block = 0; block < num_blocks(s.num_tokens); block++) {
      const auto [first, rows] = Span(block, s.num_tokens);
      const Rows input = normed(s, w, x + first * in, in, rows, tokens.data(), of_rows);
      float* y_rows = ys.take(y + first * s.out);
      fetch<true>(y + first * s.out, rows * s.out);
      if (residual) {
        for (int r = 0; r < rows; r++)
          std::copy_n(residual + (first + r) * s.out, s.out, y_rows + r * ys.stride);
        linear<Start::ADD_BIAS>(input.data, input.any_row, rows, in, packed.data(), whole_out,
                                bias.data(), y_rows, ys.stride);
      } else {
        linear<Start::BIAS>(input.data, input.any_row, rows, in, packed.data(), whole_out,
                            bias.data(), y_rows, ys.stride);
      }
      ys.give(y + first * s.out, rows);
    }
  }
}

void fastad_projection_backward(const Shape* shape, const Weights* weights, const float* x,
                                const float* dy, float* dx, const Sums* sums, int threads) {
  const Shape& s = *shape;
  const Weights& w = *weights;
  const int in = (int)s.in, out = (int)s.out, whole_in = (int)round_up(in, BORDER);
  const bool has_norm = w.norm.weight;
  const std::vector<float> scale = whole(w.norm.weight, has_norm ? in : 0);
  std::vector<float> packed(s.out * whole_in);
  pack_panels(w.weight, in, 1, out, in, packed.data());
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> tokens(ROWS * apart(in)), dtokens(ROWS * apart(in));
    Moments of_rows[ROWS];
    WholeRows xs(in), dys(out), dxs(in);
    Gathered dscale(sums->norm.weight, 1, in), dshift(sums->norm.bias, 1, in);
    Gathered dweight(sums->weight, out, in), dbias(sums->bias, 1, out);
#pragma omp for schedule(dynamic, 1) ordered
    for (int64_t block = 0; block < num_gathered(s.num_tokens); block++) {
      const auto [first, rows] = Span(block, s.num_tokens);
      const float *x_rows = xs(x + first * in, rows), *dy_rows = dys(dy + first * out, rows);
      float* dx_rows = dxs.take(dx + first * in);
      fetch<false>(dy + first * out, rows * out);
      const Rows input = normed(s, w, x_rows, xs.stride, rows, tokens.data(), of_rows);
      gather({dy_rows, dys.stride}, out, input, whole_in, rows, dweight.data(),
             dweight.stride());
      fetch<true>(dx + first * in, rows * in);
      fetch<false>(x + (first + rows) * in, ROWS * in);
      add_rows(dy_rows, dys.stride, rows, out, dbias.data());
      float* to = has_norm ? dtokens.data() : dx_rows;
      const int64_t to_row = has_norm ? apart(in) : dxs.stride;
      linear<Start::ZERO>(dy_rows, dys.stride, rows, out, packed.data(), whole_in, nullptr, to,
                          to_row);
      if (has_norm) {
        std::fill_n(dx_rows, rows * dxs.stride, 0.0f);
        norm_backward({scale.data(), nullptr}, of_rows, {x_rows, xs.stride}, {to, to_row}, rows,
                      in, dx_rows, dxs.stride, {dscale.data(), dshift.data()});
      }
      dxs.give(dx + first * in, rows);
#pragma omp ordered
      for (const Gathered* sum : {&dscale, &dshift, &dweight, &dbias}) sum->move(block == 0);
    }
  }
}
}
