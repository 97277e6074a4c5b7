// Distributions, one per row, and drawing from them, for those who are in Python.

#include "distributions.h"

extern "C" {

void fastad_draw(const int64_t* sizes, const float* probs, const float* uniform, int64_t* drawn,
                 int) {
  draw(sizes, probs, uniform, drawn);
}

// Divide each row (rows, size) by its sum, then mix: times mixed[0], plus mixed[1]. Up to 7 entries.
void fastad_normalise(const int64_t* sizes, float* weights, const float* mixed, int) {
  for_rows(sizes, [&](int64_t i, auto row) { row.normalise(weights + i * row.size, mixed); });
}

// Both, in one pass.
void fastad_normalise_and_draw(const int64_t* sizes, float* weights, const float* mixed,
                               const float* uniform, int64_t* drawn, int) {
  for_rows(sizes, [&](int64_t i, auto row) {
    row.normalise(weights + i * row.size, mixed);
    drawn[i] = row.draw(weights + i * row.size, uniform[i]);
  });
}

void fastad_softmax(const int64_t* sizes, const int64_t* strides, const float* scores,
                    float* probs, int) {
  (sizes[2] == 5 ? softmax<5> : softmax<0>)(sizes, strides, scores, probs);
}
}
