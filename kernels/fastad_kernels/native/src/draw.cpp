// Drawing from distributions, one per row.

#include <cstdint>

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
