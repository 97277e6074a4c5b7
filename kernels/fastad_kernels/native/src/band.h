// What whole-sequence attention, forward and backward, have in common.
#pragma once

#include <algorithm>

#include "multiply.h"

constexpr int BLOCK_QUERIES = 32, BLOCK_KEYS = 128;
static_assert(BLOCK_KEYS % LANES == 0);

// Tensors are (sequences, tokens, heads, dim) with dim contiguous, or packed without the first.
struct Strides {
  int64_t sequence, token, head;
};

struct AttentionShape {
  int64_t num_sequences, num_heads, num_kv_heads, dim;
  int64_t num_queries, num_keys;           // of each sequence, unless packed
  const int32_t *cu_queries, *cu_keys;     // packed: where sequences begin, or null
  int64_t window;                          // 0: none
  int64_t causal;
  double scale;
  const float* slopes;                     // of ALiBi, (heads), or null
  Strides q, k, v, out;                    // gradients are laid out as `out`, of keys in their own
  int64_t row_sequence, row_head;          // of numbers per query, (sequences, heads, tokens)
};

// One sequence of one head, and which keys each query sees.
struct Sequence {
  int64_t num_queries, num_keys, first_query, first_key, number;
  int64_t window;
  bool causal;

  Sequence(const AttentionShape& s, int64_t number) : number(number) {
    first_query = s.cu_queries ? s.cu_queries[number] : 0;
    first_key = s.cu_keys ? s.cu_keys[number] : 0;
    num_queries = s.cu_queries ? s.cu_queries[number + 1] - first_query : s.num_queries;
    num_keys = s.cu_keys ? s.cu_keys[number + 1] - first_key : s.num_keys;
    window = s.window ? s.window : num_queries + num_keys + 1;
    causal = s.causal;
  }

  // The last query stands at the last key.
  int64_t position(int64_t query) const { return query + num_keys - num_queries; }
  // Keys first_seen <= j < end_seen; possibly none.
  int64_t first_seen(int64_t query) const {
    return std::max<int64_t>(position(query) - window + 1, 0);
  }
  int64_t end_seen(int64_t query) const {
    return causal ? std::max<int64_t>(position(query) + 1, 0) : num_keys;
  }

  // Where the numbers per query of a head begin.
  int64_t row(const AttentionShape& s, int64_t head) const {
    return number * s.row_sequence + head * s.row_head + first_query;
  }

  template <class T>
  T* at(T* tensor, const Strides& strides, int64_t first, int64_t head) const {
    return tensor + number * strides.sequence + first * strides.token + head * strides.head;
  }
};

// Scaled rows of `dim` features, from one stride to another; what is beyond `dim` becomes zero.
// Rows are far apart in memory, so those of the next block are fetched now.
INLINE void copy_rows(const float* x, int64_t x_row, int64_t rows, int dim, int padded, float scale,
                      float* out, int64_t out_row) {
  for (int64_t r = 0; r < rows; r++) {
    __builtin_prefetch(x + (r + rows) * x_row);
    __builtin_prefetch(out + (r + rows) * out_row, 1);
    int d = 0;
    for (; d + LANES <= dim; d += LANES)
      store(out + r * out_row + d, scale * load(x + r * x_row + d));
    for (; d < dim; d++) out[r * out_row + d] = scale * x[r * x_row + d];
    for (; d < padded; d++) out[r * out_row + d] = 0.0f;
  }
}

// Rows of a head in whole vectors.
static void pack_rows(const float* x, int64_t stride, int64_t rows, int dim, int padded,
                      float scale, float* out) {
  copy_rows(x, stride, rows, dim, padded, scale, out, padded);
}

// Keys [start, end) that some query of a block sees, from where the block's tiles begin.
struct KeyRange {
  int64_t start, end;

  KeyRange(const Sequence& s, int64_t first_query, int64_t end_query) {
    start = s.first_seen(first_query) / LANES * LANES;
    end = s.end_seen(end_query - 1);
  }
};

// Whether every query of [first, end) sees every key of a tile.
INLINE bool sees_all(const Sequence& s, int64_t first, int64_t end, int64_t start, int64_t keys) {
  return start >= s.first_seen(end - 1) && start + keys <= s.end_seen(first);
}
