// Tokens of training as sums of rows of tables, and the tables' gradient, float32.

#include <omp.h>

#include "embedding.h"

namespace {

// Rows of one table: `count` of them for each token, times a factor.
struct Term {
  const float* table;  // (num_rows, width)
  float* gradient;     // of the table, in the backward pass
  const int64_t* index;  // (tokens, count)
  const float* factor;   // (tokens,), or null for 1
  int64_t num_rows, count;

  float factor_of(int64_t token) const { return factor ? factor[token] : 1.0f; }
};

struct Shape {
  int64_t num_terms, num_tokens, width;
};

}  // namespace

extern "C" {

// `bad` becomes the number of the first term that names a row which its table has not, and `out` is
// left alone; else -1.
void fastad_embed_forward(const Shape* shape, const Term* terms, float* out, int64_t* bad,
                          int threads) {
  const int64_t num_terms = shape->num_terms, num_tokens = shape->num_tokens, width = shape->width;
  for (*bad = 0; *bad < num_terms; ++*bad)
    for (int64_t i = 0; i < num_tokens * terms[*bad].count; i++)
      if (!is_row(terms[*bad].index[i], terms[*bad].num_rows)) return;
  *bad = -1;
  constexpr int64_t PIECE = 64;  // tokens, less than which no thread is woken for
#pragma omp parallel for num_threads(team(threads, divide_up(num_tokens, PIECE))) schedule(static)
  for (int64_t n = 0; n < num_tokens; n++) {
    float* token = out + n * width;
    std::fill_n(token, width, 0.0f);
    for (const Term* term = terms; term < terms + num_terms; term++)
      for (int64_t i = n * term->count; i < (n + 1) * term->count; i++)
        add(token, term->table + term->index[i] * width, width, term->factor_of(n));
  }
}

// Threads share the features, not the tokens: so every sum has one order, whatever their number.
void fastad_embed_backward(const Shape* shape, const Term* terms, const float* grad, int threads) {
  const int64_t num_terms = shape->num_terms, num_tokens = shape->num_tokens, width = shape->width;
  const int64_t slice = round_up(divide_up(width, threads), BORDER);
#pragma omp parallel for num_threads(team(threads, divide_up(width, slice))) schedule(static)
  for (int64_t first = 0; first < width; first += slice) {
    const int64_t size = std::min(slice, width - first);
    for (const Term* term = terms; term < terms + num_terms; term++) {
      float* gradient = term->gradient + first;
      for (int64_t row = 0; row < term->num_rows; row++)
        std::fill_n(gradient + row * width, size, 0.0f);
      for (int64_t n = 0; n < num_tokens; n++)
        for (int64_t i = n * term->count; i < (n + 1) * term->count; i++)
          // Looked at again: nobody knows who else holds the memory that the indices lie in.
          if (is_row(term->index[i], term->num_rows))
            add(gradient + term->index[i] * width, grad + n * width + first, size,
                term->factor_of(n));
    }
  }
}
}
