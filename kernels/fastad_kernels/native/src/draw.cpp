// Distributions, one per row, and drawing from them.

#include "simd.h"

extern "C" {

// How many entries of each row (rows, size) lie, summed up, within its uniform number's share of
// the whole. Sums are rounded to float32 after every entry and kept in double, as PyTorch's are.
void fastad_draw(const int64_t* sizes, const float* probs, const float* uniform, int64_t* drawn,
                 int) {
  const int64_t rows = sizes[0], size = sizes[1];
  for (int64_t row = 0; row < rows; row++, probs += size) {
    double total = 0.0, sum = 0.0;
    for (int64_t i = 0; i < size; i++) total += probs[i];
    const float bound = uniform[row] * (float)total;
    drawn[row] = 0;
    for (int64_t i = 0; i < size; i++) {
      sum += probs[i];
      drawn[row] += (float)sum <= bound;
    }
  }
}
}

// See `normalise`; SIZE > 0 is the length of a row, known to the compiler.
template <int SIZE>
static void normalise_rows(int64_t rows, int64_t any_size, float* weights) {
  const int64_t size = SIZE > 0 ? SIZE : any_size, whole = size & ~3;
  for (int64_t row = 0; row < rows; row++, weights += size) {
    float sums[4] = {};
    for (int64_t i = 0; i < whole; i++) sums[i % 4] += weights[i];
    for (int64_t i = whole; i < size; i++) sums[0] += weights[i];
    const float sum = ((sums[0] + sums[1]) + sums[2]) + sums[3];
    for (int64_t i = 0; i < size; i++) weights[i] /= sum;
  }
}

extern "C" {

// Divide each row (rows, size) by its sum, added up in the order of PyTorch's: four sums of every
// fourth entry, what is left over to the first of them, then all four. Up to 7 entries.
void fastad_normalise(const int64_t* sizes, float* weights, int) {
  (sizes[1] == 5 ? normalise_rows<5> : normalise_rows<0>)(sizes[0], sizes[1], weights);
}
}

// See `softmax`: weights of scores, all rows together, then normalised. `probs` is contiguous.
template <int SIZE>
static void softmax(const int64_t* sizes, const int64_t* strides, const float* scores,
                    float* probs) {
  const int64_t size = SIZE > 0 ? SIZE : sizes[2], count = sizes[0] * sizes[1] * size;
  float* out = probs;
  for (int64_t m = 0; m < sizes[0]; m++)
    for (int64_t r = 0; r < sizes[1]; r++, out += size) {
      const float* row = scores + m * strides[0] + r * strides[1];
      float top = row[0];
      for (int64_t a = 1; a < size; a++) top = row[a * strides[2]] > top ? row[a * strides[2]] : top;
      for (int64_t a = 0; a < size; a++) out[a] = (row[a * strides[2]] - top) * LOG2_E;
    }
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) store(probs + i, exp2(load(probs + i)));
  float rest[LANES] = {};
  for (int64_t k = i; k < count; k++) rest[k - i] = probs[k];
  store(rest, exp2(load(rest)));
  for (int64_t k = i; k < count; k++) probs[k] = rest[k - i];
  for (int64_t row = 0; row < sizes[0] * sizes[1]; row++, probs += size) {
    float sum = 0.0f;
    for (int64_t a = 0; a < size; a++) sum += probs[a];
    for (int64_t a = 0; a < size; a++) probs[a] /= sum;
  }
}

extern "C" {

// Distributions (M, R, A) by scores with strides.
void fastad_softmax(const int64_t* sizes, const int64_t* strides, const float* scores,
                    float* probs, int) {
  (sizes[2] == 5 ? softmax<5> : softmax<0>)(sizes, strides, scores, probs);
}
}
