// Tokens of environment steps: sums of rows of tables, every step by itself.

#include <omp.h>

#include <algorithm>
#include <vector>

#include "simd.h"

namespace {

// Each (rows, width); null where a model has none.
struct Tables {
  const float *action, *reward, *observation, *start, *step, *kind, *place;
};

// Of one step each; contiguous.
struct Fields {
  const int64_t* action;
  const float* reward;
  const int64_t* coordinates;  // (steps, coordinates)
  const float* features;       // (steps, width): observations that are no coordinates; else null
  const uint8_t* start;
  const int64_t *step, *position;  // positions: one per token
  const int64_t* offsets;          // (coordinates,), of each one's rows in the observation's table
};

struct Shape {
  int64_t num_steps, width, num_coordinates;
  int64_t num_actions, num_cells, episode_length, num_places;  // rows of the tables
  double reward_shift, reward_scale;
};

INLINE void add(float* sum, const float* row, int64_t width, float factor = 1.0f) {
  for (int64_t i = 0; i < width; i++) sum[i] += factor * row[i];
}

bool is_row(int64_t index, int64_t num_rows) { return index >= 0 && index < num_rows; }

// Whether every index of a step has a row.
bool fits(const Shape& s, const Tables& tables, const Fields& in, int64_t n) {
  const int64_t per_step = tables.kind ? 3 : 1;
  bool good = is_row(in.action[n], s.num_actions);
  if (!in.features)
    for (int64_t c = 0; c < s.num_coordinates; c++)
      good &= is_row(in.coordinates[n * s.num_coordinates + c] + in.offsets[c], s.num_cells);
  if (tables.step) good &= in.step[n] >= 0;  // those past the last share its row
  if (tables.place)
    for (int64_t t = n * per_step; t < (n + 1) * per_step; t++)
      good &= is_row(in.position[t], s.num_places);
  return good;
}

void add_state(const Shape& s, const Tables& tables, const Fields& in, int64_t n, float* state) {
  const int64_t width = s.width;
  if (in.features) add(state, in.features + n * width, width);
  else
    for (int64_t c = 0; c < s.num_coordinates; c++) {
      const int64_t cell = in.coordinates[n * s.num_coordinates + c] + in.offsets[c];
      add(state, tables.observation + cell * width, width);
    }
  add(state, tables.start + (in.start[n] != 0) * width, width);
  if (tables.step)
    add(state, tables.step + std::min(in.step[n], s.episode_length - 1) * width, width);
}

void embed(const Shape& s, const Tables& tables, const Fields& in, int64_t n, float* out) {
  const int64_t width = s.width, per_step = tables.kind ? 3 : 1;
  // The last action is none: there was no reward then.
  const float reward = in.action[n] == s.num_actions - 1
      ? 0.0f : (in.reward[n] - (float)s.reward_shift) / (float)s.reward_scale;
  float* tokens = out + n * per_step * width;
  std::fill_n(tokens, per_step * width, 0.0f);
  const int64_t next = tables.kind ? width : 0;  // in one token all are summed
  add(tokens, tables.action + in.action[n] * width, width);
  add(tokens + next, tables.reward + in.action[n] * width, width, reward);
  add_state(s, tables, in, n, tokens + 2 * next);
  if (tables.kind) add(tokens, tables.kind, 3 * width);
  if (tables.place)
    for (int64_t t = 0; t < per_step; t++)
      add(tokens + t * width, tables.place + in.position[n * per_step + t] * width, width);
}

constexpr int64_t PIECE = 64;  // steps that are worth a thread

}  // namespace

extern "C" {

// `wrong`: how many steps have an index without a row; what they become is undefined.
void fastad_embed_steps(const Shape* shape, const Tables* tables, const Fields* fields, float* out,
                        int64_t* wrong, int threads) {
  const Shape& s = *shape;
  int64_t count = 0;
#pragma omp parallel for num_threads(team(threads, divide_up(s.num_steps, PIECE))) \
    reduction(+ : count)
  for (int64_t n = 0; n < s.num_steps; n++)
    if (fits(s, *tables, *fields, n)) embed(s, *tables, *fields, n, out);
    else count++;
  *wrong = count;
}
}
