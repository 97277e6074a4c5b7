// One query token of an environment against the ring behind it.
//
// Keys and values lie as columns, (dim, capacity), so that a vector holds one feature of LANES
// neighbouring slots. Slots are read in chunks that stay in the second cache for both passes,
// scores and values, with the running softmax of FlashAttention, to base 2, between chunks. A token sees at
// most two runs of slots (the ring may wrap), so nothing is masked but the vectors at their ends.
#pragma once

#include <algorithm>
#include <cmath>

#include "simd.h"

constexpr int CHUNK = 512;  // slots

// Slots first <= s < last; the token in slot s has position s + offset.
struct Run {
  int64_t first, last, offset;
};

struct RingQuery {
  const float* q;  // `heads` rows, scaled by the scale of the scores and log2(e)
  int64_t q_stride;
  float* out;  // as q
  int64_t out_stride;
  int heads;  // that share these keys and values
  const float *keys, *values;
  int64_t capacity;
  int dim;
  int64_t position, window;
  const float* slopes;  // of ALiBi times log2(e), one per head, or null
  int64_t next_keys, next_values;  // from here to what will be read soon: fetched meanwhile
};

// Fetch every line, or every other one if the second pass takes the rest.
template <bool SHARED>
INLINE void fetch(const float* p, bool odd) {
  if (!SHARED || odd) __builtin_prefetch(p, 0, 2);
}

template <int HEADS, int VECS, bool SHARED>
INLINE void score_tile(const RingQuery& a, const float* q, const float* keys, int64_t ahead,
                       float* scores) {
  Vec acc[HEADS][VECS] = {};
  const auto add_features = [&](int first, int last, Vec (&to)[HEADS][VECS])
                                __attribute__((always_inline)) {
    for (int d = first; d < last; d++) {
      Vec k[VECS];
      UNROLL for (int n = 0; n < VECS; n++) {
        const float* key = keys + d * a.capacity + n * LANES;
        k[n] = HEADS > (WIDE ? 2 : 1) ? hold(key) : load(key);  // the other tiles leave no registers
        fetch<SHARED>(keys + d * a.capacity + n * LANES + ahead, d & 1);
      }
      UNROLL for (int h = 0; h < HEADS; h++) {
        const Vec scale = splat(q[h * a.q_stride + d]);
        UNROLL for (int n = 0; n < VECS; n++) to[h][n] = fused(scale, k[n], to[h][n]);
      }
    }
  };
  add_features(0, std::min(a.dim, CHAIN), acc);
  for (int d = CHAIN; d < a.dim; d += CHAIN) {
    Vec part[HEADS][VECS] = {};
    add_features(d, std::min(a.dim, d + CHAIN), part);
    UNROLL for (int h = 0; h < HEADS; h++)
      UNROLL for (int n = 0; n < VECS; n++) acc[h][n] += part[h][n];
  }
  UNROLL for (int h = 0; h < HEADS; h++)
    UNROLL for (int n = 0; n < VECS; n++) store(scores + h * CHUNK + n * LANES, acc[h][n]);
}

template <int HEADS, bool SHARED>
INLINE void score(const RingQuery& a, const float* q, const float* keys, int vecs, int64_t ahead,
                  float* scores) {
  constexpr int VECS = WIDE ? (HEADS == 4 ? 4 : 8) : (HEADS == 4 ? 2 : 4);
  int i = 0;
  for (; i + VECS <= vecs; i += VECS)
    score_tile<HEADS, VECS, SHARED>(a, q, keys + i * LANES, ahead, scores + i * LANES);
  for (; i < vecs; i++)
    score_tile<HEADS, 1, SHARED>(a, q, keys + i * LANES, ahead, scores + i * LANES);
}

// Sums of the lanes of SIZE vectors.
template <int SIZE>
INLINE void sums(Vec (&x)[SIZE], float* out) {
#if defined(REGISTERS_OF_16)
  if constexpr (SIZE == 16) {
    // Halves of two vectors are added into one, four times over: lane i ends as the sum of x[i].
    const auto fold = [](Vec a, Vec b, IntVec low, IntVec high) {
      return (Vec)_mm512_permutex2var_ps((__m512)a, (__m512i)low, (__m512)b) +
             (Vec)_mm512_permutex2var_ps((__m512)a, (__m512i)high, (__m512)b);
    };
    const IntVec low8 = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23};
    const IntVec low4 = {0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27};
    const IntVec low2 = {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29};
    const IntVec low1 = {0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30};
    UNROLL for (int i = 0; i < 8; i++) x[i] = fold(x[i], x[i + 8], low8, low8 + 8);
    UNROLL for (int i = 0; i < 4; i++) x[i] = fold(x[i], x[i + 4], low4, low4 + 4);
    UNROLL for (int i = 0; i < 2; i++) x[i] = fold(x[i], x[i + 2], low2, low2 + 2);
    store(out, fold(x[0], x[1], low1, low1 + 1));
    return;
  }
#elif defined(REGISTERS_OF_8)
  if constexpr (SIZE == 8) {
    // The same, three times over, in the order of `sum`.
    const auto halves = [](Vec a, Vec b) {
      return _mm256_add_ps(_mm256_permute2f128_ps((__m256)a, (__m256)b, 0x20),
                           _mm256_permute2f128_ps((__m256)a, (__m256)b, 0x31));
    };
    const auto pairs = [](__m256 a, __m256 b) {
      const __m256d x = _mm256_castps_pd(a), y = _mm256_castps_pd(b);
      return _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)),
                           _mm256_castpd_ps(_mm256_unpackhi_pd(x, y)));
    };
    const __m256 a = pairs(halves(x[0], x[4]), halves(x[1], x[5]));
    const __m256 b = pairs(halves(x[2], x[6]), halves(x[3], x[7]));
    store(out, (Vec)_mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xDD)));
    return;
  }
#endif
  for (int i = 0; i < SIZE; i++) out[i] = sum(x[i]);
}

template <int HEADS, int DIMS, bool SHARED, bool MASKED>
INLINE void value_tile(const RingQuery& a, const float* weights, const float* values, int first,
                       int last, IntVec mask, int64_t ahead, float* out) {
  Vec acc[DIMS * HEADS] = {};
  for (int i = first; i < last; i++) {
    Vec w[HEADS];
    UNROLL for (int h = 0; h < HEADS; h++) w[h] = hold(weights + h * CHUNK + i * LANES);
    UNROLL for (int d = 0; d < DIMS; d++) {
      Vec v = hold(values + d * a.capacity + i * LANES);
      // What lies in a slot that is not seen may be NaN, which a weight of 0 does not hide.
      if (MASKED) v = select(mask, v, Vec{});
      fetch<SHARED>(values + d * a.capacity + i * LANES + ahead, !(d & 1));
      UNROLL for (int h = 0; h < HEADS; h++) acc[d * HEADS + h] = fused(w[h], v, acc[d * HEADS + h]);
    }
  }
  float total[DIMS * HEADS];
  sums(acc, total);
  UNROLL for (int d = 0; d < DIMS; d++)
    UNROLL for (int h = 0; h < HEADS; h++) out[h * a.out_stride + d] += total[d * HEADS + h];
}

// Vectors [first, last) of the chunk; with MASKED there is one, of which `mask` is seen.
template <int HEADS, bool SHARED, bool MASKED>
INLINE void add_values(const RingQuery& a, const float* weights, const float* values, int first,
                       int last, IntVec mask, int64_t ahead, float* out) {
  constexpr int DIMS = (WIDE ? 16 : 8) / HEADS;
  int d = 0;
  for (; d + DIMS <= a.dim; d += DIMS)
    value_tile<HEADS, DIMS, SHARED, MASKED>(a, weights, values + d * a.capacity, first, last,
                                            mask, ahead, out + d);
  for (; d < a.dim; d++)
    value_tile<HEADS, 1, SHARED, MASKED>(a, weights, values + d * a.capacity, first, last, mask,
                                         ahead, out + d);
}

// From a chunk to what will be read soon, in floats.
struct Ahead {
  int64_t keys, values;
};

// HEADS heads from number `head` on, against the vectors of a chunk that begins at slot `start`.
template <int HEADS, bool SHARED>
static void attend_chunk(const RingQuery& a, int head, const Run& run, int64_t start, int vecs,
                         Ahead ahead, float* scores, float* top, float* total) {
  score<HEADS, SHARED>(a, a.q + head * a.q_stride, a.keys + start, vecs, ahead.keys, scores);
  const int64_t last_vec = start + (vecs - 1) * LANES;
  const IntVec first_mask = lanes_between(start, run.first, run.last);
  const IntVec last_mask = lanes_between(last_vec, run.first, run.last);
  const bool first_partial = start < run.first || start + LANES > run.last;
  const bool last_partial = vecs > 1 && last_vec + LANES > run.last;
  for (int h = 0; h < HEADS; h++) {
    float* row = scores + h * CHUNK;
    if (a.slopes) {
      const int64_t distance = a.position - (start + run.offset);  // of the chunk's first slot
      const Vec lanes = __builtin_convertvector(lane_numbers(), Vec);
      for (int i = 0; i < vecs; i++)
        store(row + i * LANES, fused(splat(-a.slopes[head + h]),
                                     (float)(distance - i * LANES) - lanes,
                                     load(row + i * LANES)));
    }
    const Vec hidden = splat(-INFINITY);
    if (first_partial) store(row, select(first_mask, load(row), hidden));
    if (last_partial) {
      float* end = row + (vecs - 1) * LANES;
      store(end, select(last_mask, load(end), hidden));
    }
    Vec peaks = hidden;
    for (int i = 0; i < vecs; i++) peaks = at_least(peaks, load(row + i * LANES));
    const float peak = std::max(top[head + h], largest(peaks));
    const float fade = std::exp2(top[head + h] - peak);
    Vec part = {};
    for_vectors(vecs * LANES, [&](int64_t first, auto count) __attribute__((always_inline)) {
      constexpr int N = decltype(count)::value;
      Vec weight[N];
      UNROLL for (int i = 0; i < N; i++) weight[i] = load(row + first + i * LANES) - peak;
      exp2(weight);
      UNROLL for (int i = 0; i < N; i++) {
        part += weight[i];
        store(row + first + i * LANES, weight[i]);
      }
    });
    float* out = a.out + (head + h) * a.out_stride;
    if (fade != 1.0f)
      for (int d = 0; d < a.dim; d++) out[d] *= fade;
    total[head + h] = total[head + h] * fade + sum(part);
    top[head + h] = peak;
  }
  const float* values = a.values + start;
  float* out = a.out + head * a.out_stride;
  const int first = first_partial, last = vecs - last_partial;
  add_values<HEADS, SHARED, false>(a, scores, values, first, last, IntVec{}, ahead.values, out);
  if (first_partial)
    add_values<HEADS, SHARED, true>(a, scores, values, 0, 1, first_mask, ahead.values, out);
  if (last_partial)
    add_values<HEADS, SHARED, true>(a, scores, values, vecs - 1, vecs, last_mask, ahead.values, out);
}

template <bool SHARED>
static void attend_run(const RingQuery& a, const Run& run, float* scores, float* top,
                       float* total) {
  const int64_t begin = run.first / LANES * LANES;
  for (int64_t start = begin; start < run.last; start += CHUNK) {
    const int64_t slots = std::min<int64_t>(CHUNK, run.last - start);
    const bool is_last = start + CHUNK >= run.last;
    const Ahead ahead = {is_last ? a.next_keys - (start - begin) : CHUNK,
                         is_last ? a.next_values - (start - begin) : CHUNK};
    int h = 0;
    const int vecs = divide_up(slots, LANES);
    for (; h + 4 <= a.heads; h += 4)
      attend_chunk<4, SHARED>(a, h, run, start, vecs, ahead, scores, top, total);
    for (; h + 2 <= a.heads; h += 2)
      attend_chunk<2, SHARED>(a, h, run, start, vecs, ahead, scores, top, total);
    for (; h < a.heads; h++)
      attend_chunk<1, SHARED>(a, h, run, start, vecs, ahead, scores, top, total);
  }
}

// `state` has room for 2 * heads floats.
static void attend_ring(const RingQuery& a, float* state) {
  alignas(64) float scores[4 * CHUNK];
  float *top = state, *total = state + a.heads;
  for (int h = 0; h < a.heads; h++) {
    top[h] = -INFINITY;
    total[h] = 0.0f;
    for (int d = 0; d < a.dim; d++) a.out[h * a.out_stride + d] = 0.0f;
  }
  const int64_t seen = std::min(a.position + 1, a.window);
  const int64_t oldest = a.position + 1 - seen, slot = oldest % a.capacity;
  Run runs[2] = {{slot, std::min(slot + seen, a.capacity), oldest - slot}, {}};
  int num_runs = 1;
  if (slot + seen > a.capacity) runs[num_runs++] = {0, slot + seen - a.capacity, 0};
  runs[1].offset = runs[0].offset + a.capacity;
  if (seen == a.capacity && !a.slopes) {  // all of it, in any order
    runs[0] = {0, a.capacity, 0};
    num_runs = 1;
  }
  for (int r = 0; r < num_runs; r++) {
    if (a.keys == a.values)
      attend_run<true>(a, runs[r], scores, top, total);
    else
      attend_run<false>(a, runs[r], scores, top, total);
  }
  for (int h = 0; h < a.heads; h++)
    for (int d = 0; d < a.dim; d++) a.out[h * a.out_stride + d] /= total[h];
}
