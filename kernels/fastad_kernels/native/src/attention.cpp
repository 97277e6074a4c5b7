// Banded attention over whole sequences and its gradient, float32.
//
// A task is one sequence of one key/value head. Its keys and values are laid out as columns and
// rows in whole vectors; blocks of queries meet tiles of keys, in the first cache, and only those
// that the band touches. The softmax, to base 2, runs on as in FlashAttention; the backward pass
// recomputes the weights from each row's largest score and sum, every product once, and adds in a
// fixed order.

#include <vector>

#include "band.h"

namespace {

using Tile = Strided<BLOCK_KEYS, 1>;
using TurnedTile = Strided<1, BLOCK_KEYS>;

// Scores of a tile: what ALiBi takes away, and -inf where a query sees no key.
void mask_tile(const AttentionShape& shape, const Sequence& s, int64_t first_query, int rows,
               int64_t start, int vecs, float slope, bool whole, float* tile) {
  const Vec lanes = __builtin_convertvector(lane_numbers(), Vec);
  for (int m = 0; m < rows; m++) {
    const int64_t query = first_query + m;
    float* row = tile + m * BLOCK_KEYS;
    if (shape.slopes) {
      const int64_t distance = s.position(query) - start;
      for (int n = 0; n < vecs; n++)
        store(row + n * LANES, fused(splat(-slope), (float)(distance - n * LANES) - lanes,
                                     load(row + n * LANES)));
    }
    if (whole) continue;
    const int64_t first = s.first_seen(query), end = s.end_seen(query);
    for (int n = 0; n < vecs; n++) {
      const int64_t at = start + n * LANES;
      if (at >= first && at + LANES <= end) continue;
      store(row + n * LANES, select(lanes_between(at, first, end), load(row + n * LANES),
                                    splat(-INFINITY)));
    }
  }
}

struct Buffers {
  std::vector<float> q, plain_q, k_columns, v_columns, k_rows, v_rows;
  std::vector<float> out_rows, grad_rows, dq, dk, dv;
  // Apart by no multiple of 4096 bytes: a load would wait for a store at the same place of a page.
  alignas(64) float scores[BLOCK_QUERIES * BLOCK_KEYS + 256];
  alignas(64) float grads[BLOCK_QUERIES * BLOCK_KEYS];
  alignas(64) float top[BLOCK_QUERIES], total[BLOCK_QUERIES], delta[BLOCK_QUERIES];
};

void attend_block(const AttentionShape& shape, const Sequence& s, int64_t first, int rows,
                  int padded, int64_t length, float slope, Buffers& b, float* out) {
  const KeyRange range(s, first, first + rows);
  std::fill_n(b.top, rows, -INFINITY);
  std::fill_n(b.total, rows, 0.0f);
  std::fill_n(out, rows * padded, 0.0f);
  for (int64_t start = range.start; start < range.end; start += BLOCK_KEYS) {
    const int vecs = divide_up(std::min<int64_t>(BLOCK_KEYS, range.end - start), LANES);
    multiply<Start::ZERO>(Rows{b.q.data(), padded}, rows, (int)shape.dim,
                          b.k_columns.data() + start, length, vecs, nullptr, b.scores, BLOCK_KEYS);
    const bool whole = sees_all(s, first, first + rows, start, vecs * LANES);
    if (!whole || shape.slopes)
      mask_tile(shape, s, first, rows, start, vecs, slope, whole, b.scores);
    for (int m = 0; m < rows; m++) {
      float* row = b.scores + m * BLOCK_KEYS;
      Vec peaks = load(row);
      for (int n = 1; n < vecs; n++) peaks = at_least(peaks, load(row + n * LANES));
      const float best = largest(peaks), peak = std::max(b.top[m], best);
      if (best == -INFINITY && peak == best) {  // nothing is seen yet
        for (int n = 0; n < vecs; n++) store(row + n * LANES, Vec{});
        continue;
      }
      Vec part = {};
      for (int n = 0; n < vecs; n++) {
        const Vec x = load(row + n * LANES) - peak;
        const Vec weight = whole ? exp2(x) : select(x == -INFINITY, Vec{}, exp2(x));
        part += weight;
        store(row + n * LANES, weight);
      }
      const float fade = std::exp2(b.top[m] - peak);
      b.top[m] = peak;
      b.total[m] = b.total[m] * fade + sum(part);
      if (fade != 1.0f)
        for (int d = 0; d < padded; d += LANES)
          store(out + m * padded + d, load(out + m * padded + d) * fade);
    }
    multiply<Start::ADD>(Tile{b.scores}, rows, vecs * LANES,
                         b.v_rows.data() + start * padded, padded, padded / LANES, nullptr, out,
                         padded);
  }
}

// Of each query: the largest score, to base 2, and the sum of powers of two above it.
struct RowSums {
  float *top, *total;  // sum = 0 for a query that sees no key
};

void forward_head(const AttentionShape& shape, const Sequence& s, int64_t head, const float* q,
                  float* out, const RowSums& sums, int64_t length, Buffers& b) {
  const int dim = (int)shape.dim, padded = (int)round_up(dim, LANES);
  const float slope = shape.slopes ? shape.slopes[head] * LOG2_E : 0.0f;
  const float* queries = s.at(q, shape.q, s.first_query, head);
  float* outs = s.at(out, shape.out, s.first_query, head);
  const int64_t at = s.row(shape, head);
  float* rows_out = b.out_rows.data();
  for (int64_t start = 0; start < s.num_queries; start += BLOCK_QUERIES) {
    const int rows = (int)std::min<int64_t>(BLOCK_QUERIES, s.num_queries - start);
    pack_rows(queries + start * shape.q.token, shape.q.token, rows, dim, padded,
              (float)shape.scale * LOG2_E, b.q.data());
    attend_block(shape, s, start, rows, padded, length, slope, b, rows_out);
    for (int m = 0; m < rows; m++) {
      const bool blind = b.top[m] == -INFINITY && b.total[m] == 0.0f;
      for (int d = 0; d < dim; d++)
        outs[(start + m) * shape.out.token + d] =
            blind ? 0.0f : rows_out[m * padded + d] / b.total[m];
      sums.top[at + start + m] = b.top[m];
      sums.total[at + start + m] = b.total[m];
    }
  }
}

struct Gradients {
  const float *q, *k, *v, *out;
  RowSums sums;
  const float* grad_out;
  float *dq, *dk, *dv;  // contiguous: (sequences, tokens, heads, dim)
};

// A block of queries of one head: its part of all three gradients.
void backward_block(const AttentionShape& shape, const Sequence& s, int64_t head,
                    const Gradients& g, int64_t first, int rows, int64_t length, Buffers& b) {
  const int dim = (int)shape.dim, padded = (int)round_up(dim, LANES);
  const float slope = shape.slopes ? shape.slopes[head] * LOG2_E : 0.0f;
  const float scale = (float)shape.scale;
  const Strides of_queries = shape.out;
  const int64_t at = s.first_query + first;
  const int64_t row = s.row(shape, head) + first;
  const float* out = s.at(g.out, of_queries, at, head);
  const float* grad = s.at(g.grad_out, of_queries, at, head);
  pack_rows(s.at(g.q, shape.q, at, head), shape.q.token, rows, dim, padded,
            scale * LOG2_E, b.q.data());
  pack_rows(s.at(g.q, shape.q, at, head), shape.q.token, rows, dim, padded, 1.0f,
            b.plain_q.data());
  pack_rows(grad, of_queries.token, rows, dim, padded, 1.0f, b.grad_rows.data());
  pack_rows(out, of_queries.token, rows, dim, padded, 1.0f, b.out_rows.data());
  for (int m = 0; m < rows; m++) {
    Vec product = {};
    for (int d = m * padded; d < (m + 1) * padded; d += LANES)
      product = fused(load(b.out_rows.data() + d), load(b.grad_rows.data() + d), product);
    b.delta[m] = sum(product);
    b.top[m] = g.sums.top[row + m];
    b.total[m] = 1.0f / g.sums.total[row + m];
    if (g.sums.total[row + m] == 0.0f) {  // a query that sees nothing, whatever it holds
      b.top[m] = b.total[m] = 0.0f;
      std::fill_n(b.q.data() + m * padded, padded, 0.0f);
      std::fill_n(b.plain_q.data() + m * padded, padded, 0.0f);
      std::fill_n(b.grad_rows.data() + m * padded, padded, 0.0f);
      b.delta[m] = 0.0f;
    }
  }
  std::fill_n(b.dq.data(), rows * padded, 0.0f);
  const KeyRange range(s, first, first + rows);
  for (int64_t start = range.start; start < range.end; start += BLOCK_KEYS) {
    const int vecs = divide_up(std::min<int64_t>(BLOCK_KEYS, range.end - start), LANES);
    const int keys = vecs * LANES;
    multiply<Start::ZERO>(Rows{b.q.data(), padded}, rows, dim, b.k_columns.data() + start, length,
                          vecs, nullptr, b.scores, BLOCK_KEYS);
    multiply<Start::ZERO>(Rows{b.grad_rows.data(), padded}, rows, dim, b.v_columns.data() + start,
                          length, vecs, nullptr, b.grads, BLOCK_KEYS);
    const bool whole = sees_all(s, first, first + rows, start, keys);
    if (!whole || shape.slopes)
      mask_tile(shape, s, first, rows, start, vecs, slope, whole, b.scores);
    for (int m = 0; m < rows; m++) {
      const float top = b.top[m], share = b.total[m], delta = b.delta[m];
      for (int n = 0; n < vecs; n++) {
        float *score = b.scores + m * BLOCK_KEYS + n * LANES,
              *grad = b.grads + m * BLOCK_KEYS + n * LANES;
        const Vec x = load(score) - top, power = exp2(x) * share;
        const Vec weight = whole ? power : select(x == -INFINITY, Vec{}, power);
        store(score, weight);
        const Vec change = weight * (load(grad) - delta);
        store(grad, whole ? change : select(x == -INFINITY, Vec{}, change));
      }
    }
    const int feature_vecs = padded / LANES;
    multiply<Start::ADD>(Tile{b.grads}, rows, keys, b.k_rows.data() + start * padded,
                         padded, feature_vecs, nullptr, b.dq.data(), padded);
    multiply<Start::ADD>(TurnedTile{b.grads}, keys, rows, b.plain_q.data(), padded, feature_vecs,
                         nullptr, b.dk.data() + start * padded, padded);
    multiply<Start::ADD>(TurnedTile{b.scores}, keys, rows, b.grad_rows.data(), padded,
                         feature_vecs, nullptr, b.dv.data() + start * padded, padded);
  }
  copy_rows(b.dq.data(), padded, rows, dim, dim, scale, s.at(g.dq, of_queries, at, head),
            of_queries.token);
}

// Keys and values outside of [first, end) are seen by no query: zeros stand for what they hold.
void pack_keys(const AttentionShape& shape, const Sequence& s, int64_t kv_head, const float* k,
               const float* v, int64_t length, bool backward, Buffers& b) {
  const int dim = (int)shape.dim, padded = (int)round_up(dim, LANES);
  const int64_t first = s.num_queries ? std::min(s.first_seen(0), s.num_keys) : s.num_keys;
  const int64_t seen = s.num_keys - first;
  const float* keys = s.at(k, shape.k, s.first_key + first, kv_head);
  const float* values = s.at(v, shape.v, s.first_key + first, kv_head);
  const auto columns = [&](std::vector<float>& to, const float* x, int64_t stride) {
    to.resize(dim * length);
    for (int d = 0; d < dim; d++) std::fill_n(to.data() + d * length, first, 0.0f);
    // Columns of the part that is seen, in place: `length` is theirs, too.
    for (int64_t r = 0; r < seen; r++)
      for (int d = 0; d < dim; d++) to[d * length + first + r] = x[r * stride + d];
    for (int d = 0; d < dim; d++)
      std::fill_n(to.data() + d * length + s.num_keys, length - s.num_keys, 0.0f);
  };
  const auto rows = [&](std::vector<float>& to, const float* x, int64_t stride) {
    to.resize(length * padded);
    std::fill_n(to.data(), first * padded, 0.0f);
    pack_rows(x, stride, seen, dim, padded, 1.0f, to.data() + first * padded);
    std::fill_n(to.data() + s.num_keys * padded, (length - s.num_keys) * padded, 0.0f);
  };
  columns(b.k_columns, keys, shape.k.token);
  if (backward) {
    columns(b.v_columns, values, shape.v.token);
    rows(b.k_rows, keys, shape.k.token);
  } else {
    rows(b.v_rows, values, shape.v.token);
  }
}

void reserve_block(const AttentionShape& shape, Buffers& b) {
  const size_t size = BLOCK_QUERIES * round_up(shape.dim, LANES);
  b.q.resize(size);
  b.plain_q.resize(size);
  b.out_rows.resize(size);
  b.grad_rows.resize(size);
  b.dq.resize(size);
}

}  // namespace

extern "C" {

void fastad_attention_forward(const AttentionShape* shape, const float* q, const float* k,
                              const float* v, float* out, const RowSums* sums, int threads) {
  const AttentionShape& s = *shape;
  const int64_t groups = s.num_heads / s.num_kv_heads;
#pragma omp parallel num_threads(threads)
  {
    Buffers b;
    reserve_block(s, b);
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < s.num_sequences * s.num_kv_heads; task++) {
      const Sequence sequence(s, task / s.num_kv_heads);
      const int64_t kv_head = task % s.num_kv_heads;
      const int64_t length = round_up(sequence.num_keys, LANES);
      pack_keys(s, sequence, kv_head, k, v, length, false, b);
      for (int64_t head = kv_head * groups; head < (kv_head + 1) * groups; head++)
        forward_head(s, sequence, head, q, out, *sums, length, b);
    }
  }
}

void fastad_attention_backward(const AttentionShape* shape, const Gradients* gradients,
                               int threads) {
  const AttentionShape& s = *shape;
  const Gradients& g = *gradients;
  const int64_t groups = s.num_heads / s.num_kv_heads;
  const int dim = (int)s.dim, padded = (int)round_up(dim, LANES);
#pragma omp parallel num_threads(threads)
  {
    Buffers b;
    reserve_block(s, b);
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < s.num_sequences * s.num_kv_heads; task++) {
      const Sequence sequence(s, task / s.num_kv_heads);
      const int64_t kv_head = task % s.num_kv_heads;
      const int64_t length = round_up(sequence.num_keys, LANES);
      pack_keys(s, sequence, kv_head, g.k, g.v, length, true, b);
      b.dk.assign(length * padded, 0.0f);
      b.dv.assign(length * padded, 0.0f);
      for (int64_t head = kv_head * groups; head < (kv_head + 1) * groups; head++)
        for (int64_t start = 0; start < sequence.num_queries; start += BLOCK_QUERIES)
          backward_block(s, sequence, head, g, start,
                         (int)std::min<int64_t>(BLOCK_QUERIES, sequence.num_queries - start),
                         length, b);
      const int64_t row = s.num_kv_heads * s.dim;
      const Strides of_keys = {s.cu_keys ? 0 : s.num_keys * row, row, s.dim};
      float* dk = sequence.at(g.dk, of_keys, sequence.first_key, kv_head);
      float* dv = sequence.at(g.dv, of_keys, sequence.first_key, kv_head);
      copy_rows(b.dk.data(), padded, sequence.num_keys, dim, dim, (float)s.scale, dk,
                of_keys.token);
      copy_rows(b.dv.data(), padded, sequence.num_keys, dim, dim, 1.0f, dv, of_keys.token);
    }
  }
}
}
