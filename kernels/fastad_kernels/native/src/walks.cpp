// Episodes in worlds that are tables; see `Walks`.

#include <cstdint>

namespace {

// Memory of `num_slots` steps, each of which fills a slot of its own.
struct Walks {
  const int64_t *moves, *observations, *targets;  // (S, A), (S, K), (N, P)
  const int64_t* permutation;                     // (N, A), or null
  int64_t *cell, *time, *collected;               // (N,), of the running episodes
  // Where a step ended, and where the next one begins, (2, slots, N, K) and (2, slots, N); the
  // latter are there only if an episode ended.
  int64_t *seen, *cells;
  float* reward;                 // (slots, N)
  bool *terminated, *truncated;  // (slots, N); the former is null if none ever is
  int64_t num_walkers, num_cells, num_actions, num_features, num_phases, episode_length;
  int64_t num_slots, slot;
  int64_t num_ended, wrong;  // returned: of the walkers
};

void look(const Walks& w, int64_t cell, int64_t* seen) {
  for (int64_t k = 0; k < w.num_features; k++) seen[k] = w.observations[cell * w.num_features + k];
}

}  // namespace

extern "C" {

// A step of everybody, by actions (N,) and with cells to begin in, (N,). `wrong` is how many of
// these do not exist, and then nobody moves.
void fastad_walk(Walks* walks, const int64_t* action, const int64_t* start, int) {
  Walks& w = *walks;
  const auto within = [](int64_t index, int64_t size) { return index >= 0 && index < size; };
  w.num_ended = w.wrong = 0;
  for (int64_t n = 0; n < w.num_walkers; n++)
    w.wrong += !(within(action[n], w.num_actions) && within(start[n], w.num_cells));
  if (w.wrong) return;

  const int64_t first = w.slot * w.num_walkers, next = first + w.num_slots * w.num_walkers;
  for (int64_t n = 0; n < w.num_walkers; n++) {
    const int64_t move = w.permutation ? w.permutation[n * w.num_actions + action[n]] : action[n];
    const int64_t cell = w.moves[w.cell[n] * w.num_actions + move];
    const bool pays = cell == w.targets[n * w.num_phases + w.collected[n]];
    if (w.num_phases > 1) w.collected[n] += pays;
    const bool terminated = w.terminated && w.collected[n] == w.num_phases - 1;
    const bool truncated = ++w.time[n] == w.episode_length;
    look(w, cell, w.seen + (first + n) * w.num_features);
    w.cells[first + n] = cell;
    w.reward[first + n] = pays;
    if (w.terminated) w.terminated[first + n] = terminated;
    w.truncated[first + n] = truncated;
    const bool ended = terminated || truncated;
    w.cell[n] = ended ? start[n] : cell;
    if (ended) w.time[n] = w.collected[n] = 0;
    w.num_ended += ended;
  }
  if (w.num_ended == 0) return;
  for (int64_t n = 0; n < w.num_walkers; n++) {
    look(w, w.cell[n], w.seen + (next + n) * w.num_features);
    w.cells[next + n] = w.cell[n];
  }
}
}
