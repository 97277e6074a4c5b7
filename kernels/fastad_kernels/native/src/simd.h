// Vectors of floats, as wide as the machine's registers, by GCC's and Clang's vector extension.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#if defined(__AVX512F__)
#include <immintrin.h>
constexpr int LANES = 16;
#elif defined(__AVX__)
#include <immintrin.h>
constexpr int LANES = 8;
#else
#if defined(__aarch64__)
#include <arm_neon.h>
#endif
constexpr int LANES = 4;
#endif
constexpr bool WIDE = LANES == 16;  // AVX-512 has 32 registers, AVX half as many

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t IntVec __attribute__((vector_size(LANES * 4)));
typedef float UnalignedVec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define INLINE_METHOD inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

// Rows that Python hands over are multiples of this, whatever the registers.
constexpr int BORDER = 16;

// Additions in one chain, each of which rounds the sum so far: longer sums are sums of such sums.
constexpr int CHAIN = 64;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

// Threads for so many pieces of work: none that would only wait for the others.
constexpr int team(int64_t threads, int64_t pieces) {
  return (int)(threads < pieces ? threads : pieces);
}

INLINE Vec load(const float* p) { return *(const UnalignedVec*)p; }
INLINE void store(float* p, Vec x) { *(UnalignedVec*)p = x; }
INLINE Vec splat(float x) { return x - Vec{}; }
INLINE Vec select(IntVec mask, Vec a, Vec b) { return mask ? a : b; }
// a * b + c, rounded once where the processor can. Compilers, left to fuse as they like, do so here
// and not there, and a row's bits would depend on how many rows stand beside it: they are told not
// to (-ffp-contract=off), and it is spelled out.
INLINE Vec fused(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX__) && defined(__FMA__)
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// The larger one. NaN in `x` stays; NaN in `floor` is passed over.
INLINE Vec at_least(Vec x, Vec floor) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)floor, (__m512)x);  // one instruction, which compilers miss
#elif defined(__AVX__)
  return (Vec)_mm256_max_ps((__m256)floor, (__m256)x);
#else
  return floor > x ? floor : x;
#endif
}

INLINE IntVec lane_numbers() {
  IntVec lanes;
  for (int i = 0; i < LANES; i++) lanes[i] = i;
  return lanes;
}

// Lanes first <= i < last of a vector that begins at `start`.
INLINE IntVec lanes_between(int64_t start, int64_t first, int64_t last) {
  const IntVec lanes = lane_numbers();
  const auto clip = [](int64_t i) { return (int32_t)(i < 0 ? 0 : i > LANES ? LANES : i); };
  return (lanes >= clip(first - start)) & (lanes < clip(last - start));
}

INLINE float sum(Vec x) {
#if defined(__AVX__)
  // As below, in registers.
#if defined(__AVX512F__)
  const __m512 wide = (__m512)x;
  __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(wide), _mm256_castpd_ps(
      _mm512_extractf64x4_pd(_mm512_castps_pd(wide), 1)));
#else
  __m256 eight = (__m256)x;
#endif
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
#else
  float lanes[LANES];
  store(lanes, x);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
  return lanes[0];
#endif
}

INLINE float largest(Vec x) {
  float lanes[LANES];
  store(lanes, x);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++)
      if (lanes[i + width] > lanes[i]) lanes[i] = lanes[i + width];
  return lanes[0];
}

constexpr float LOG2_E = 1.442695041f;

// 2^x to about one unit in the last place, for -100 <= x <= 127; 2^-100 below. That is nothing
// beside 1, while products with anything much smaller would be denormal, which takes processors
// a hundred times as long. Of several vectors step by step: each waits for none of the others.
template <int N>
INLINE void exp2(Vec (&x)[N]) {
  Vec shifted[N], r[N], p[N];
  UNROLL for (int i = 0; i < N; i++) {
    x[i] = at_least(x[i], splat(-100.0f));
    // x = n + r: adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
    shifted[i] = x[i] + 12582912.0f;
    r[i] = x[i] - (shifted[i] - 12582912.0f);
    p[i] = splat(1.535336188e-4f);
  }
  // Cephes' polynomial for 2^r on [-1/2, 1/2].
  constexpr float COEFFICIENTS[] = {1.339887440e-3f, 9.618437357e-3f, 5.550332471e-2f,
                                    2.402264791e-1f, 6.931472028e-1f, 1.0f};
  UNROLL for (int k = 0; k < 6; k++)
    UNROLL for (int i = 0; i < N; i++) p[i] = fused(p[i], r[i], splat(COEFFICIENTS[k]));
  UNROLL for (int i = 0; i < N; i++)  // NaN stays, whatever its bits
    x[i] = p[i] * (Vec)(((IntVec)shifted[i] << 23) + 0x3F800000);
}

INLINE Vec exp2(Vec x) {
  Vec one[1] = {x};
  exp2(one);
  return one[0];
}

// erf(x) = 1 - polynomial(1 / (1 + 0.3275911 x)) e^(-x^2) for x >= 0, off by 1.5e-7 at most:
// Abramowitz and Stegun 7.1.26.
INLINE Vec erf_polynomial(Vec t) {
  Vec p = splat(1.061405429f);
  p = fused(p, t, splat(-1.453152027f));
  p = fused(p, t, splat(1.421413741f));
  p = fused(p, t, splat(-0.284496736f));
  p = fused(p, t, splat(0.254829592f));
  return p * t;
}

// x * Phi(x), and Phi(x) + x * phi(x), its derivative.
INLINE void gelu(Vec x, Vec& value, Vec& slope) {
  const Vec y = x * 0.7071067812f;
  const Vec magnitude = select(y < 0.0f, -y, y);
  const Vec bell = exp2(magnitude * magnitude * -LOG2_E);
  const Vec t = 1.0f / fused(splat(0.3275911f), magnitude, splat(1.0f));
  const Vec tail = 0.5f * erf_polynomial(t) * bell;
  const Vec below = select(y < 0.0f, tail, 1.0f - tail);  // Phi(x)
  value = x * below;
  slope = fused(x, bell * 0.3989422804f, below);
}

INLINE Vec gelu(Vec x) {
  Vec value, slope;
  gelu(x, value, slope);
  return value;
}
