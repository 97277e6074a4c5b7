// Perceptrons of one shape, each with parameters of its own: layers of tanh, then a linear one.
//
// A network goes through all of its layers at once: its parameters are read once, and what is
// between the layers stays in the caches. Networks share nothing, whichever threads took them.

#include <vector>

#include "rows.h"

namespace {

struct Networks {
  int64_t num_networks, num_blocks, num_rows, num_layers;  // rows of a block; forward has one
  const int64_t* sizes;       // of the input, the hidden layers (whole vectors) and the output
  float* const* parameters;   // weight and bias of each layer, one network's behind another's
  float* const* passed;       // the input, the hidden layers and the output, blocks of (R, size)
  const int64_t* strides;     // of each of those, from a network to the next
  const int64_t* between;     // and from a block of a network to its next
};

// tanh, to two units in the last place: Cephes' polynomial in the middle, e^-2|x| outside.
INLINE Vec tanh(Vec x) {
  const Vec square = x * x, size = select(x < 0.0f, -x, x);
  Vec p = splat(-5.70498872745e-3f);
  p = fused(p, square, splat(2.06390887954e-2f));
  p = fused(p, square, splat(-5.37397155531e-2f));
  p = fused(p, square, splat(1.33314422036e-1f));
  p = fused(p, square, splat(-3.33332819422e-1f));
  const Vec inside = fused(p * square, x, x);
  const Vec bell = exp2(size * (-2.0f * LOG2_E));
  const Vec outside = 1.0f - (bell + bell) / (1.0f + bell);
  return select(size < 0.625f, inside, select(x < 0.0f, -outside, outside));
}

struct Network {
  const Networks& all;
  const int64_t number;
  const int rows = (int)all.num_rows;

  int size(int64_t layer) const { return (int)all.sizes[layer]; }
  float* values(int64_t layer) const { return all.passed[layer] + number * all.strides[layer]; }
  float* weight(float* const* of, int64_t layer) const {
    return of[2 * layer] + number * size(layer) * size(layer + 1);
  }
  float* bias(float* const* of, int64_t layer) const {
    return of[2 * layer + 1] + number * size(layer + 1);
  }

  void forward() const {
    const int64_t last = all.num_layers - 1;
    for (int64_t layer = 0; layer < last; layer++) {
      const int in = size(layer), out = size(layer + 1);
      const float *w = weight(all.parameters, layer), *shift = bias(all.parameters, layer);
      // The next network's weights, a line of 16 after the other, are fetched panel by panel: all at once
      // they would be waited for.
      const float* next = number + 1 < all.num_networks ? w + in * out : w;
      float* y = values(layer + 1);
      for_panels(out / LANES, [&](int n, auto count) __attribute__((always_inline)) {
        constexpr int VECS = decltype(count)::value;
        for (int64_t i = 0; i < VECS * LANES * in; i += BORDER)
          __builtin_prefetch(next + (int64_t)n * LANES * in + i);
        multiply_panel<Start::BIAS, VECS>(Rows{values(layer), in}, rows, in, w + n * LANES, out,
                                          shift + n * LANES, y + n * LANES, out);
      });
      for (int64_t i = 0; i < (int64_t)rows * out; i += LANES) store(y + i, tanh(load(y + i)));
    }
    const int in = size(last), out = size(last + 1);
    const float *x = values(last), *shift = bias(all.parameters, last);
    float* y = values(last + 1);
    for (int r = 0; r < rows; r++, x += in) {
      const float* row = weight(all.parameters, last);  // (out, in)
      for (int o = 0; o < out; o++, row += in) {
        Vec acc = {};
        for (int i = 0; i < in; i += LANES) acc = fused(load(x + i), load(row + i), acc);
        *y++ = sum(acc) + shift[o];
      }
    }
  }
};

// What flows back through a network, of the layer at hand and the one before it, and what passed
// forward.
struct Scratch {
  int64_t stride = 0;
  std::vector<float> flowing, next, turned;
  std::vector<std::vector<float>> gathered;

  explicit Scratch(const Networks& all) {
    int64_t largest = 0;
    for (int64_t layer = 1; layer < all.num_layers; layer++) {
      stride = std::max(stride, apart(all.sizes[layer]));
      largest = std::max(largest, all.sizes[layer] * (layer > 1 ? all.sizes[layer - 1] : 0));
    }
    const int64_t rows = all.num_blocks * all.num_rows;
    flowing.resize(rows * stride);
    next.resize(rows * stride);
    turned.resize(largest);
    if (all.num_blocks > 1)
      for (int64_t layer = 0; layer < all.num_layers; layer++)
        gathered.emplace_back(rows * all.sizes[layer]);
  }

  // All rows of a network, one behind the other.
  const float* rows(const Network& network, int64_t layer) {
    const Networks& all = network.all;
    const float* from = network.values(layer);
    if (gathered.empty()) return from;
    const int64_t count = all.num_rows * all.sizes[layer];
    for (int64_t block = 0; block < all.num_blocks; block++)
      std::copy_n(from + block * all.between[layer], count, &gathered[layer][block * count]);
    return gathered[layer].data();
  }
};

// Gradients of the parameters, by that of the output, (R, out).
void backward(const Network& network, const float* gradient, float* const* gradients, Scratch& t) {
  const Networks& all = network.all;
  const int rows = (int)(all.num_blocks * all.num_rows);
  const auto slope = [&](const float* h, int width) {  // of tanh
    for (int r = 0; r < rows; r++, h += width) {
      float* d = t.flowing.data() + r * t.stride;
      for (int i = 0; i < width; i += LANES) {
        const Vec value = load(h + i), flow = load(d + i);
        store(d + i, fused(value * -value, flow, flow));
      }
    }
  };
  int64_t layer = all.num_layers - 1;
  int in = network.size(layer), out = network.size(layer + 1);
  const float* h = t.rows(network, layer);
  multiply<Start::ZERO>(Turned{gradient, 1, out}, out, rows, h, in, in / LANES, nullptr,
                        network.weight(gradients, layer), in);
  float* sums = network.bias(gradients, layer);
  for (int o = 0; o < out; o++) {
    double total = 0.0;
    for (int r = 0; r < rows; r++) total += gradient[r * out + o];
    sums[o] = (float)total;
  }
  multiply<Start::ZERO>(Rows{gradient, out}, rows, out, network.weight(all.parameters, layer), in,
                        in / LANES, nullptr, t.flowing.data(), t.stride);
  slope(h, in);
  while (layer-- > 0) {
    in = network.size(layer), out = network.size(layer + 1);
    h = t.rows(network, layer);
    multiply<Start::ZERO>(Turned{h, 1, in}, in, rows, t.flowing.data(), t.stride, out / LANES,
                          nullptr, network.weight(gradients, layer), out);
    sums = network.bias(gradients, layer);
    add_rows(t.flowing.data(), t.stride, rows, out, sums);
    if (layer == 0) return;
    pack_panels(network.weight(all.parameters, layer), 1, out, out, in, t.turned.data());
    linear<Start::ZERO>(t.flowing.data(), t.stride, rows, out, t.turned.data(), in, nullptr,
                        t.next.data(), t.stride);
    std::swap(t.flowing, t.next);
    slope(h, in);
  }
}

}  // namespace

extern "C" {

void fastad_stacked_forward(const Networks* all, int threads) {
#pragma omp parallel for num_threads(team(threads, all->num_networks)) schedule(static)
  for (int64_t m = 0; m < all->num_networks; m++) Network{*all, m}.forward();
}

void fastad_stacked_backward(const Networks* all, const float* gradient, float* const* gradients,
                             int threads) {
  const int64_t size = all->num_blocks * all->num_rows * all->sizes[all->num_layers];
#pragma omp parallel num_threads(team(threads, all->num_networks))
  {
    Scratch scratch(*all);
#pragma omp for schedule(static)
    for (int64_t m = 0; m < all->num_networks; m++)
      backward(Network{*all, m}, gradient + m * size, gradients, scratch);
  }
}
}
