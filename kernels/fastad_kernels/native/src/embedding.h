// Tokens of environment steps: sums of rows of tables, every step by itself.
#pragma once

#include <algorithm>

#include "simd.h"

// Each (rows, width); null where a model has none.
struct Tables {
  const float *action, *reward, *observation, *start, *step, *kind, *place;
};

struct Embedding {
  Tables tables;
  const int64_t* offsets;  // (coordinates,), of each one's rows in the observation's table
  int64_t num_coordinates;
  int64_t num_actions, num_cells, episode_length, num_places;  // rows of the tables
  double reward_shift, reward_scale;

  int64_t per_step() const { return tables.kind ? 3 : 1; }  // tokens
};

// Of one step each; contiguous.
struct Fields {
  const int64_t* action;
  const float* reward;
  const int64_t* coordinates;  // (steps, coordinates)
  const float* features;       // (steps, width): observations that are no coordinates; else null
  const uint8_t* start;
  const int64_t *step, *position;  // positions: one per token
};

INLINE void add(float* sum, const float* row, int64_t width, float factor = 1.0f) {
  for (int64_t i = 0; i < width; i++) sum[i] += factor * row[i];
}

static bool is_row(int64_t index, int64_t num_rows) { return index >= 0 && index < num_rows; }

// Whether every index of step n has a row.
static bool has_rows(const Embedding& e, const Fields& in, int64_t n) {
  bool good = is_row(in.action[n], e.num_actions);
  if (!in.features)
    for (int64_t c = 0; c < e.num_coordinates; c++)
      good &= is_row(in.coordinates[n * e.num_coordinates + c] + e.offsets[c], e.num_cells);
  if (e.tables.step) good &= in.step[n] >= 0;  // those past the last share its row
  if (e.tables.place)
    for (int64_t t = n * e.per_step(); t < (n + 1) * e.per_step(); t++)
      good &= is_row(in.position[t], e.num_places);
  return good;
}

// Step n's tokens into rows of `padded` features, of which those past `width` become 0.
static void embed(const Embedding& e, const Fields& in, int64_t n, int64_t width, int64_t padded,
                  float* out) {
  const Tables& tables = e.tables;
  const int64_t per_step = e.per_step();
  // Where the last action is none, there was no reward.
  const float reward = in.action[n] == e.num_actions - 1
      ? 0.0f : (in.reward[n] - (float)e.reward_shift) / (float)e.reward_scale;
  std::fill_n(out, per_step * padded, 0.0f);
  const int64_t next = tables.kind ? padded : 0;  // in one token all are summed
  add(out, tables.action + in.action[n] * width, width);
  add(out + next, tables.reward + in.action[n] * width, width, reward);
  float* state = out + 2 * next;
  if (in.features) add(state, in.features + n * width, width);
  else
    for (int64_t c = 0; c < e.num_coordinates; c++) {
      const int64_t cell = in.coordinates[n * e.num_coordinates + c] + e.offsets[c];
      add(state, tables.observation + cell * width, width);
    }
  add(state, tables.start + (in.start[n] != 0) * width, width);
  if (tables.step)
    add(state, tables.step + std::min(in.step[n], e.episode_length - 1) * width, width);
  for (int64_t t = 0; t < per_step; t++) {
    if (tables.kind) add(out + t * padded, tables.kind + t * width, width);
    if (tables.place)
      add(out + t * padded, tables.place + in.position[n * per_step + t] * width, width);
  }
}
