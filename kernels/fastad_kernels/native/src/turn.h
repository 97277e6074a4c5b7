// Rows become columns.
#pragma once

#include "simd.h"

#if defined(__AVX__)
// out[d * out_row + r] = scale * x[r * x_row + d] for r, d < 8.
INLINE void turn_8x8(const float* x, int64_t x_row, float scale, float* out, int64_t out_row) {
  __m256 rows[8], pairs[8];
  for (int half = 0; half < 2; half++)
    UNROLL for (int i = 0; i < 4; i++) {  // four features of row i, then of row i + 4
      const float* low = x + i * x_row + 4 * half;
      rows[4 * half + i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)),
                                                _mm_loadu_ps(low + 4 * x_row), 1);
    }
  UNROLL for (int i = 0; i < 8; i += 4) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    pairs[i + 2] = _mm256_unpacklo_ps(rows[i + 2], rows[i + 3]);
    pairs[i + 3] = _mm256_unpackhi_ps(rows[i + 2], rows[i + 3]);
  }
  const __m256 factor = _mm256_set1_ps(scale);
  const auto put = [&](int d, __m256 column) {
    _mm256_storeu_ps(out + d * out_row, _mm256_mul_ps(factor, column));
  };
  UNROLL for (int i = 0; i < 8; i += 4) {
    put(i, _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44));
    put(i + 1, _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xEE));
    put(i + 2, _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44));
    put(i + 3, _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xEE));
  }
}
#endif

// Scaled rows as columns: out[d * out_row + r] = scale * x[r * x_row + d]. Zeros stand behind, up
// to whole vectors of rows.
static void turn(const float* x, int64_t x_row, int rows, int dim, float scale, float* out,
                 int64_t out_row) {
  for (int r = 0; r < rows; r++) __builtin_prefetch(x + (r + rows) * x_row);
  for (int r = 0; r < rows; r += 8) {
    int d = 0;
#if defined(__AVX__)
    if (r + 8 <= rows)
      for (; d + 8 <= dim; d += 8)
        turn_8x8(x + r * x_row + d, x_row, scale, out + d * out_row + r, out_row);
#endif
    for (; d < dim; d++)
      for (int i = r; i < r + 8 && i < rows; i++) out[d * out_row + i] = scale * x[i * x_row + d];
  }
  for (int d = 0; d < dim; d++)
    for (int r = rows; r % LANES; r++) out[d * out_row + r] = 0.0f;
}
