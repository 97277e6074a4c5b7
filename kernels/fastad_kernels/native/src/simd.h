// Vectors of floats, as wide as the machine's registers, by GCC's and Clang's vector extension.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// -DFASTAD_LANES=16 takes the tiles, blocks and sums of AVX-512 on any processor: the compiler makes a
// vector of whatever registers there are. Slow, and for tests.
#if defined(FASTAD_LANES)
constexpr int LANES = FASTAD_LANES;
#elif defined(__AVX512F__)
#define REGISTERS_OF_16
constexpr int LANES = 16;
#elif defined(__AVX__)
#define REGISTERS_OF_8
constexpr int LANES = 8;
#elif defined(__aarch64__)
#define REGISTERS_OF_NEON
constexpr int LANES = 4;
#else
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
// As `load`, into a register. GCC would rather read what few products share once for each of them, and
// processors read two vectors a cycle at most.
INLINE Vec hold(const float* p) {
  Vec x = load(p);
#if defined(REGISTERS_OF_16)
  asm("" : "+v"(x));
#elif defined(REGISTERS_OF_8)
  asm("" : "+x"(x));
#endif
  return x;
}
INLINE Vec splat(float x) { return x - Vec{}; }
INLINE Vec select(IntVec mask, Vec a, Vec b) { return mask ? a : b; }
// a * b + c, rounded once where the processor can. Compilers, left to fuse as they like, do so here
// and not there, and a row's bits would depend on how many rows stand beside it: they are told not
// to (-ffp-contract=off), and it is spelled out.
INLINE Vec fused(Vec a, Vec b, Vec c) {
#if defined(REGISTERS_OF_16)
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(REGISTERS_OF_8) && defined(__FMA__)
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(REGISTERS_OF_NEON)
  return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// The larger one. NaN in `x` stays; NaN in `floor` is passed over.
INLINE Vec at_least(Vec x, Vec floor) {
#if defined(REGISTERS_OF_16)
  return (Vec)_mm512_max_ps((__m512)floor, (__m512)x);  // one instruction, which compilers miss
#elif defined(REGISTERS_OF_8)
  return (Vec)_mm256_max_ps((__m256)floor, (__m256)x);
#else
  return floor > x ? floor : x;
#endif
}

// Call `use(first number, how many vectors as a constant)` for `size` numbers, whole vectors.
template <class Use>
INLINE void for_vectors(int64_t size, Use use) {
  int64_t i = 0;
  for (; i + 4 * LANES <= size; i += 4 * LANES) use(i, std::integral_constant<int, 4>());
  for (; i < size; i += LANES) use(i, std::integral_constant<int, 1>());
}

INLINE Vec magnitude(Vec x) { return (Vec)((IntVec)x & 0x7FFFFFFF); }

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
#if defined(REGISTERS_OF_16) || defined(REGISTERS_OF_8)
  // As below, in registers.
#if defined(REGISTERS_OF_16)
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

// x * Phi(x), and Phi(x) + x * phi(x), its derivative, of several vectors step by step as above.
// Phi(-|x|) = polynomial(t) e^(-x^2 / 2), t = 1 / (1 + 0.3275911 |x| / sqrt(2)), off by 0.8e-7 at
// most: Abramowitz and Stegun 7.1.26, halved.
template <int N>
INLINE void gelu(const Vec (&x)[N], Vec (&value)[N], Vec (&slope)[N]) {
  Vec t[N], bell[N], p[N];
  UNROLL for (int i = 0; i < N; i++) {
    t[i] = 1.0f / fused(splat(0.2316418883f), magnitude(x[i]), splat(1.0f));
    bell[i] = x[i] * x[i] * (-0.5f * LOG2_E);
  }
  exp2(bell);
  constexpr float COEFFICIENTS[] = {-0.726576014f, 0.710706871f, -0.142248368f, 0.127414796f};
  UNROLL for (int i = 0; i < N; i++) p[i] = splat(0.530702715f);
  UNROLL for (int k = 0; k < 4; k++)
    UNROLL for (int i = 0; i < N; i++) p[i] = fused(p[i], t[i], splat(COEFFICIENTS[k]));
  UNROLL for (int i = 0; i < N; i++) {
    const Vec tail = p[i] * t[i] * bell[i];
    const Vec below = select((IntVec)x[i] < 0, tail, 1.0f - tail);  // Phi(x)
    value[i] = x[i] * below;
    slope[i] = fused(x[i], bell[i] * 0.3989422804f, below);
  }
}

// gelu(x) to `to`, of `size` numbers, whole vectors.
INLINE void gelu(const float* x, int64_t size, float* to) {
  for_vectors(size, [&](int64_t first, auto count) __attribute__((always_inline)) {
    constexpr int N = decltype(count)::value;
    Vec h[N], value[N], slope[N];
    UNROLL for (int i = 0; i < N; i++) h[i] = load(x + first + i * LANES);
    gelu(h, value, slope);
    UNROLL for (int i = 0; i < N; i++) store(to + first + i * LANES, value[i]);
  });
}

// The same, and what flows back to gelu(x) becomes what flows back to x.
INLINE void gelu_backward(const float* x, int64_t size, float* to, float* gradient) {
  for_vectors(size, [&](int64_t first, auto count) __attribute__((always_inline)) {
    constexpr int N = decltype(count)::value;
    Vec h[N], value[N], slope[N];
    UNROLL for (int i = 0; i < N; i++) h[i] = load(x + first + i * LANES);
    gelu(h, value, slope);
    UNROLL for (int i = 0; i < N; i++) {
      store(to + first + i * LANES, value[i]);
      float* d = gradient + first + i * LANES;
      store(d, load(d) * slope[i]);
    }
  });
}
