// Banded attention over whole sequences and its gradient, float32.
//
// A task is one sequence of one key/value head. Blocks of queries meet tiles of keys, in the first
// cache, and only those that the band touches. A tile has a row per key and a column per query: the
// lanes of a vector are queries, and nothing is ever summed across lanes. The softmax, to base 2,
// runs on as in FlashAttention; the backward pass recomputes the weights from each query's largest
// score and sum, every product once, and adds in a fixed order.

#include <vector>

#include "band.h"

namespace {

using Tile = Strided<BLOCK_QUERIES, 1>;
using TurnedTile = Strided<1, BLOCK_QUERIES>;

struct Buffers {
  std::vector<float> k_rows, v_rows, dk, dv;              // (keys, features in whole vectors)
  std::vector<float> q_columns, grad_columns, out_columns;  // (features, queries of a block)
  std::vector<float> q_rows, grad_rows, block_rows;       // (queries of a block, features)
  // Apart by no multiple of 4096 bytes: a load would wait for a store at the same place of a page.
  alignas(64) float scores[BLOCK_KEYS * BLOCK_QUERIES + 256];
  alignas(64) float grads[BLOCK_KEYS * BLOCK_QUERIES];
  alignas(64) float top[BLOCK_QUERIES], total[BLOCK_QUERIES], delta[BLOCK_QUERIES];
};

// Scores of a tile of keys, of each of which `vecs` vectors of queries may see.
void score_tile(const AttentionShape& shape, const Block& block, const KeyTile& tile, float slope,
                Buffers& b) {
  const int dim = (int)shape.dim, padded = (int)round_up(dim, LANES);
  multiply<Start::ZERO>(Rows{b.k_rows.data() + tile.start * padded, padded}, tile.keys, dim,
                        b.q_columns.data(), BLOCK_QUERIES, block.vecs, nullptr, b.scores,
                        BLOCK_QUERIES);
  if (shape.slopes) block.add_alibi(tile, slope, b.scores);
  block.mask(tile, b.scores);
}

// The next tile of the softmax, from scores to weights; `fade` is what earlier ones are worth yet.
void weigh_tile(const Block& block, const KeyTile& tile, Buffers& b, float* fade) {
  for (int n = 0; n < block.vecs; n++) {
    float* scores = b.scores + n * LANES;
    const Vec before = load(b.top + n * LANES);
    Vec peak = before;
    for (int j = 0; j < tile.keys; j++) peak = at_least(peak, load(scores + j * BLOCK_QUERIES));
    // Where nothing is seen yet, there is nothing to compare with.
    const Vec base = select(peak == -INFINITY, Vec{}, peak);
    Vec total = {};
    for (int j = 0; j < tile.keys;) {
      Vec part = {};
      const auto weigh = [&](int end, auto masked) __attribute__((always_inline)) {
        in_fours(j, end, [&](int row, auto count) __attribute__((always_inline)) {
          constexpr int N = decltype(count)::value;
          float* score = scores + row * BLOCK_QUERIES;
          Vec x[N], weight[N];
          UNROLL for (int i = 0; i < N; i++)
            weight[i] = x[i] = load(score + i * BLOCK_QUERIES) - base;
          exp2(weight);
          UNROLL for (int i = 0; i < N; i++) {
            if (decltype(masked)::value) weight[i] = select(x[i] == -INFINITY, Vec{}, weight[i]);
            part += weight[i];
            store(score + i * BLOCK_QUERIES, weight[i]);
          }
        });
        j = end;
      };
      tile.by_mask(j, std::min(j + SHORT_CHAIN, tile.keys), weigh);
      total += part;
    }
    const Vec worth = exp2(before - base);
    store(fade + n * LANES, worth);
    store(b.top + n * LANES, peak);
    store(b.total + n * LANES, fused(load(b.total + n * LANES), worth, total));
  }
}

void attend_block(const AttentionShape& shape, const Block& block, float slope, Buffers& b) {
  const int padded = (int)round_up(shape.dim, LANES);
  float* out = b.block_rows.data();
  std::fill_n(b.top, BLOCK_QUERIES, -INFINITY);
  std::fill_n(b.total, BLOCK_QUERIES, 0.0f);
  std::fill_n(out, block.rows * padded, 0.0f);
  alignas(64) float fade[BLOCK_QUERIES];
  block.for_tiles([&](const KeyTile& tile) {
    score_tile(shape, block, tile, slope, b);
    weigh_tile(block, tile, b, fade);
    if (tile.start != block.start)
      for (int m = 0; m < block.rows; m++)
        for (int d = m * padded; d < (m + 1) * padded; d += LANES)
          store(out + d, load(out + d) * fade[m]);
    multiply<Start::ADD>(TurnedTile{b.scores}, block.rows, tile.keys,
                         b.v_rows.data() + tile.start * padded, padded, padded / LANES, nullptr,
                         out, padded);
  });
}

// Of each query: the largest score, to base 2, and the sum of powers of two above it.
struct RowSums {
  float *top, *total;  // sum = 0 for a query that sees no key
};

void forward_head(const AttentionShape& shape, const Sequence& s, int64_t head, const float* q,
                  float* out, const RowSums& sums, Buffers& b) {
  const int dim = (int)shape.dim, padded = (int)round_up(dim, LANES);
  const float slope = shape.slopes ? shape.slopes[head] * LOG2_E : 0.0f;
  for (int64_t start = 0; start < s.num_queries; start += BLOCK_QUERIES) {
    const Block block(s, start);
    const int64_t at = s.first_query + start, row = s.row(shape, head) + start;
    turn(s.at(q, shape.q, at, head), shape.q.token, block.rows, dim, (float)shape.scale * LOG2_E,
         b.q_columns.data(), BLOCK_QUERIES);
    attend_block(shape, block, slope, b);
    for (int m = 0; m < block.rows; m++) {
      const bool blind = b.top[m] == -INFINITY && b.total[m] == 0.0f;
      sums.top[row + m] = b.top[m];
      sums.total[row + m] = b.total[m];
      copy_row(b.block_rows.data() + m * padded, dim, blind ? 0.0f : 1.0f / b.total[m],
               s.at(out, shape.out, at + m, head));
    }
  }
}

struct Gradients {
  const float *q, *k, *v, *out;
  RowSums sums;
  const float* grad_out;
  float *dq, *dk, *dv;
};

// Queries of a block, by rows and columns, what flows back to them, and their sums.
void read_block(const AttentionShape& shape, const Sequence& s, int64_t head, const Gradients& g,
                const Block& block, Buffers& b) {
  const int dim = (int)shape.dim, padded = (int)round_up(dim, LANES);
  const int64_t at = s.first_query + block.first, row = s.row(shape, head) + block.first;
  const float* q = s.at(g.q, shape.q, at, head);
  const float* out = s.at(g.out, shape.out, at, head);
  const float* grad = s.at(g.grad_out, shape.out, at, head);
  pack_rows(q, shape.q.token, block.rows, dim, padded, 1.0f, b.q_rows.data());
  pack_rows(grad, shape.out.token, block.rows, dim, padded, 1.0f, b.grad_rows.data());
  turn(b.q_rows.data(), padded, block.rows, dim, (float)shape.scale * LOG2_E, b.q_columns.data(),
       BLOCK_QUERIES);
  turn(b.grad_rows.data(), padded, block.rows, dim, 1.0f, b.grad_columns.data(), BLOCK_QUERIES);
  turn(out, shape.out.token, block.rows, dim, 1.0f, b.out_columns.data(), BLOCK_QUERIES);
  for (int n = 0; n < block.vecs * LANES; n += LANES) {
    Vec delta = {};
    for (int d = 0; d < dim;) {
      Vec part = {};
      for (const int end = std::min(d + SHORT_CHAIN, dim); d < end; d++)
        part = fused(load(b.out_columns.data() + d * BLOCK_QUERIES + n),
                     load(b.grad_columns.data() + d * BLOCK_QUERIES + n), part);
      delta += part;
    }
    store(b.delta + n, delta);
  }
  for (int m = 0; m < block.vecs * LANES; m++) {
    b.top[m] = b.total[m] = 0.0f;
    if (m >= block.rows) continue;
    if (g.sums.total[row + m] != 0.0f) {
      b.top[m] = g.sums.top[row + m];
      b.total[m] = 1.0f / g.sums.total[row + m];
    } else {  // a query that sees nothing, whatever it holds
      b.delta[m] = 0.0f;
      for (int d = 0; d < dim; d++)
        b.q_columns[d * BLOCK_QUERIES + m] = b.grad_columns[d * BLOCK_QUERIES + m] = 0.0f;
      std::fill_n(b.q_rows.data() + m * padded, padded, 0.0f);
      std::fill_n(b.grad_rows.data() + m * padded, padded, 0.0f);
    }
  }
}

// From scores to weights, and from gradients of weights to those of scores.
void differentiate_tile(const Block& block, const KeyTile& tile, Buffers& b) {
  for (int n = 0; n < block.vecs * LANES; n += LANES) {
    const Vec top = load(b.top + n), share = load(b.total + n), delta = load(b.delta + n);
    int j = 0;
    tile.by_mask(0, tile.keys, [&](int end, auto masked) __attribute__((always_inline)) {
      in_fours(j, end, [&](int row, auto count) __attribute__((always_inline)) {
        constexpr int N = decltype(count)::value;
        float* score = b.scores + row * BLOCK_QUERIES + n;
        float* grad = b.grads + row * BLOCK_QUERIES + n;
        Vec x[N], power[N];
        UNROLL for (int i = 0; i < N; i++)
          power[i] = x[i] = load(score + i * BLOCK_QUERIES) - top;
        exp2(power);
        UNROLL for (int i = 0; i < N; i++) {
          constexpr bool MASKED = decltype(masked)::value;
          const Vec all = power[i] * share;
          const Vec weight = MASKED ? select(x[i] == -INFINITY, Vec{}, all) : all;
          store(score + i * BLOCK_QUERIES, weight);
          const Vec change = weight * (load(grad + i * BLOCK_QUERIES) - delta);
          store(grad + i * BLOCK_QUERIES,
                MASKED ? select(x[i] == -INFINITY, Vec{}, change) : change);
        }
      });
      j = end;
    });
  }
}

// A block of queries of one head: its part of all three gradients.
void backward_block(const AttentionShape& shape, const Sequence& s, int64_t head,
                    const Gradients& g, const Block& block, Buffers& b) {
  const int dim = (int)shape.dim, padded = (int)round_up(dim, LANES);
  const float slope = shape.slopes ? shape.slopes[head] * LOG2_E : 0.0f;
  read_block(shape, s, head, g, block, b);
  float* dq = b.block_rows.data();
  std::fill_n(dq, block.rows * padded, 0.0f);
  block.for_tiles([&](const KeyTile& tile) {
    const int64_t first = tile.start * padded;
    score_tile(shape, block, tile, slope, b);
    multiply<Start::ZERO>(Rows{b.v_rows.data() + first, padded}, tile.keys, dim,
                          b.grad_columns.data(), BLOCK_QUERIES, block.vecs, nullptr, b.grads,
                          BLOCK_QUERIES);
    differentiate_tile(block, tile, b);
    const int vecs = padded / LANES;
    multiply<Start::ADD>(TurnedTile{b.grads}, block.rows, tile.keys, b.k_rows.data() + first,
                         padded, vecs, nullptr, dq, padded);
    multiply<Start::ADD>(Tile{b.grads}, tile.keys, block.rows, b.q_rows.data(), padded, vecs,
                         nullptr, b.dk.data() + first, padded);
    multiply<Start::ADD>(Tile{b.scores}, tile.keys, block.rows, b.grad_rows.data(), padded, vecs,
                         nullptr, b.dv.data() + first, padded);
  });
  copy_rows(dq, padded, block.rows, dim, dim, (float)shape.scale,
            s.at(g.dq, shape.dq, s.first_query + block.first, head), shape.dq.token);
}

// Those that some query sees, where they stand.
void pack_keys(const AttentionShape& shape, const Sequence& s, int64_t kv_head, const float* k,
               const float* v, Buffers& b) {
  const int dim = (int)shape.dim, padded = (int)round_up(dim, LANES);
  const int64_t first = s.num_queries ? std::min(s.first_seen(0), s.num_keys) : s.num_keys;
  const float* keys = s.at(k, shape.k, s.first_key + first, kv_head);
  const float* values = s.at(v, shape.v, s.first_key + first, kv_head);
  const auto rows = [&](std::vector<float>& to, const float* x, int64_t stride) {
    to.resize(s.num_keys * padded);
    pack_rows(x, stride, s.num_keys - first, dim, padded, 1.0f, to.data() + first * padded);
  };
  rows(b.k_rows, keys, shape.k.token);
  rows(b.v_rows, values, shape.v.token);
}

void reserve_block(const AttentionShape& shape, bool backward, Buffers& b) {
  const size_t size = BLOCK_QUERIES * round_up(shape.dim, LANES);
  b.q_columns.resize(size);
  b.block_rows.resize(size);
  if (!backward) return;
  for (auto* x : {&b.grad_columns, &b.out_columns, &b.q_rows, &b.grad_rows}) x->resize(size);
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
    reserve_block(s, false, b);
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < s.num_sequences * s.num_kv_heads; task++) {
      const Sequence sequence(s, task / s.num_kv_heads);
      const int64_t kv_head = task % s.num_kv_heads;
      pack_keys(s, sequence, kv_head, k, v, b);
      for (int64_t head = kv_head * groups; head < (kv_head + 1) * groups; head++)
        forward_head(s, sequence, head, q, out, *sums, b);
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
    reserve_block(s, true, b);
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < s.num_sequences * s.num_kv_heads; task++) {
      const Sequence sequence(s, task / s.num_kv_heads);
      const int64_t kv_head = task % s.num_kv_heads;
      pack_keys(s, sequence, kv_head, g.k, g.v, b);
      b.dk.assign(sequence.num_keys * padded, 0.0f);
      b.dv.assign(sequence.num_keys * padded, 0.0f);
      for (int64_t head = kv_head * groups; head < (kv_head + 1) * groups; head++)
        for (int64_t start = 0; start < sequence.num_queries; start += BLOCK_QUERIES)
          backward_block(s, sequence, head, g, Block(sequence, start), b);
      float* dk = sequence.at(g.dk, s.dkv, sequence.first_key, kv_head);
      float* dv = sequence.at(g.dv, s.dkv, sequence.first_key, kv_head);
      copy_rows(b.dk.data(), padded, sequence.num_keys, dim, dim, (float)s.scale, dk,
                s.dkv.token);
      copy_rows(b.dv.data(), padded, sequence.num_keys, dim, dim, 1.0f, dv, s.dkv.token);
    }
  }
}
}
