// Episodes in worlds that are tables; see `Walks`.

#include <cstdint>

namespace {

struct Walks {
  const int64_t *moves, *observations, *targets;  // (S, A), (S, K), (N, P)
  const int64_t* permutation;                     // (N, A), or null
  int64_t *cell, *time, *collected;               // (N,), of the running episodes
  int64_t num_walkers, num_cells, num_actions, num_features, num_phases, episode_length;
  // Results, (N, ...) each: what is observed where the step ended, and which cell that is. With
  // `terminated` episodes end by the last payment; else it is null.
  int64_t *seen, *end;
  float* reward;
  bool *truncated, *terminated;
  int64_t num_ended, wrong;  // returned: of the walkers
};

// F > 0 is the number of features, known to the compiler. Returns how many episodes have ended.
template <int F>
int64_t walk(const Walks& w, const int64_t* action, const int64_t* start) {
  const int64_t num_features = F > 0 ? F : w.num_features;
  int64_t num_ended = 0;
  for (int64_t n = 0; n < w.num_walkers; n++) {
    const int64_t move = w.permutation ? w.permutation[n * w.num_actions + action[n]] : action[n];
    const int64_t cell = w.moves[w.cell[n] * w.num_actions + move];
    const int64_t phase = w.num_phases > 1 ? w.collected[n] : 0;
    const bool pays = cell == w.targets[n * w.num_phases + phase];
    const bool terminated = w.terminated && phase + pays == w.num_phases - 1;
    const bool truncated = w.time[n] + 1 == w.episode_length;
    const bool ended = terminated || truncated;
    for (int64_t k = 0; k < num_features; k++)
      w.seen[n * num_features + k] = w.observations[cell * num_features + k];
    w.end[n] = cell;
    w.reward[n] = pays;
    w.truncated[n] = truncated;
    if (w.terminated) w.terminated[n] = terminated;
    w.cell[n] = ended ? start[n] : cell;
    w.time[n] = ended ? 0 : w.time[n] + 1;
    if (w.num_phases > 1) w.collected[n] = ended ? 0 : phase + pays;
    num_ended += ended;
  }
  return num_ended;
}

}  // namespace

extern "C" {

// A step of everybody, by actions (N,) and with cells to begin in, (N,). `wrong` is how many of
// these do not exist, and then nobody moves.
void fastad_walk(Walks* walks, const int64_t* action, const int64_t* start, int) {
  const Walks w = *walks;  // which no array can be part of
  const auto within = [](int64_t index, int64_t size) { return index >= 0 && index < size; };
  int64_t wrong = 0;
  for (int64_t n = 0; n < w.num_walkers; n++)
    wrong += !(within(action[n], w.num_actions) & within(start[n], w.num_cells));
  walks->wrong = wrong;
  if (wrong == 0)
    walks->num_ended = w.num_features == 2 ? walk<2>(w, action, start) : walk<0>(w, action, start);
}
}
