// What whole-sequence attention, forward and backward, have in common.
#pragma once

#include <algorithm>

#include "multiply.h"

// Two vectors of queries fill a panel of products. Small blocks waste little where the band ends; a
// window of 200 is one tile.
constexpr int BLOCK_QUERIES = WIDE ? 32 : 16, BLOCK_KEYS = WIDE ? 128 : 224;
constexpr int SHORT_CHAIN = 16;  // sums over keys and features that no product takes
static_assert(BLOCK_QUERIES % LANES == 0);

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
  Strides q, k, v, out;
  Strides dq, dkv;                         // of the gradients, of keys as of values
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

// A row of `dim` features times a number; what is beyond `dim`, up to `padded`, becomes zero.
INLINE void copy_row(const float* x, int dim, float scale, float* out, int padded = 0) {
  int d = 0;
  for (; d + LANES <= dim; d += LANES) store(out + d, scale * load(x + d));
  for (; d < dim; d++) out[d] = scale * x[d];
  for (; d < padded; d++) out[d] = 0.0f;
}

// Rows from one stride to another. They are far apart in memory, so those of the next block, or some
// further on, are fetched now.
INLINE void copy_rows(const float* x, int64_t x_row, int64_t rows, int dim, int padded, float scale,
                      float* out, int64_t out_row) {
  for (int64_t r = 0; r < rows; r++) {
    __builtin_prefetch(x + (r + 32) * x_row);
    __builtin_prefetch(out + (r + 32) * out_row, 1);
    copy_row(x + r * x_row, dim, scale, out + r * out_row, padded);
  }
}

// Rows of a head in whole vectors.
static void pack_rows(const float* x, int64_t stride, int64_t rows, int dim, int padded,
                      float scale, float* out) {
  copy_rows(x, stride, rows, dim, padded, scale, out, padded);
}

// Call `use(first, how many as a constant)` for numbers [first, end), four at a time.
template <class Use>
INLINE void in_fours(int first, int end, Use use) {
  for (; first + 4 <= end; first += 4) use(first, std::integral_constant<int, 4>());
  for (; first < end; first++) use(first, std::integral_constant<int, 1>());
}

// Some keys that a block of queries meets. Those of [whole, end_whole) are seen by all of them.
struct KeyTile {
  int64_t start;
  int keys, whole, end_whole;

  // Call `use(end, whether queries may be blind for a key)` for the parts of keys [first, end).
  template <class Use>
  INLINE_METHOD void by_mask(int first, int end, Use use) const {
    const int middle = std::min(std::max(whole, first), end);
    const int last = std::max(std::min(end_whole, end), middle);
    use(middle, std::true_type());
    use(last, std::false_type());
    use(end, std::true_type());
  }
};

// A block of queries, and the keys [start, end) that some of them see.
struct Block {
  int64_t first, start, end;
  int rows, vecs;
  int64_t distance;  // from `start` to where the first query stands
  int64_t whole, end_whole;
  // Of each query, from `start`: the first key that it sees, and the one behind the last.
  alignas(64) int32_t first_seen[BLOCK_QUERIES], end_seen[BLOCK_QUERIES];

  Block(const Sequence& s, int64_t first)
      : first(first), rows((int)std::min<int64_t>(BLOCK_QUERIES, s.num_queries - first)),
        vecs((int)divide_up(rows, LANES)) {
    const int64_t last = first + rows - 1;
    start = s.first_seen(first);
    end = s.end_seen(last);
    distance = s.position(first) - start;
    whole = s.first_seen(last), end_whole = s.end_seen(first);
    for (int m = 0; m < vecs * LANES; m++) {
      const int64_t query = std::min(first + m, last);
      first_seen[m] = (int32_t)(s.first_seen(query) - start);
      end_seen[m] = (int32_t)(s.end_seen(query) - start);
    }
  }

  // Call `use(tile)` for tiles of about the same size.
  template <class Use>
  INLINE_METHOD void for_tiles(Use use) const {
    const int64_t count = divide_up(end - start, BLOCK_KEYS);
    for (int64_t at = start, left = count; left > 0; left--) {
      const int keys = (int)std::min(round_up(divide_up(end - at, left), 2), end - at);
      const auto within = [&](int64_t key) {
        return (int)std::min<int64_t>(std::max<int64_t>(key - at, 0), keys);
      };
      use(KeyTile{at, keys, within(whole), within(end_whole)});
      at += keys;
    }
  }

  void add_alibi(const KeyTile& tile, float slope, float* scores) const {
    const Vec lanes = __builtin_convertvector(lane_numbers(), Vec);
    for (int j = 0; j < tile.keys; j++)
      for (int n = 0; n < vecs * LANES; n += LANES) {
        float* score = scores + j * BLOCK_QUERIES + n;
        const Vec away = lanes + (float)(distance + n - (tile.start - start + j));
        store(score, fused(splat(-slope), away, load(score)));
      }
  }

  // -inf where a query sees no key.
  void mask(const KeyTile& tile, float* scores) const {
    const auto mask_rows = [&](int j, int end) {
      for (; j < end; j++) {
        const int32_t key = (int32_t)(tile.start - start + j);
        for (int n = 0; n < vecs * LANES; n += LANES) {
          float* score = scores + j * BLOCK_QUERIES + n;
          const IntVec seen = (*(const IntVec*)(first_seen + n) <= key) &
                              (*(const IntVec*)(end_seen + n) > key);
          store(score, select(seen, load(score), splat(-INFINITY)));
        }
      }
    };
    mask_rows(0, std::min(tile.whole, tile.keys));
    mask_rows(std::max(tile.end_whole, tile.whole), tile.keys);
  }
};
