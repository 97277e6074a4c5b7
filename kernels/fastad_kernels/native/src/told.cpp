// What a model is told of the step before; see `Told`.

#include <cstdint>

namespace {

struct Told {
  int64_t* action;
  float* reward;
  bool* start;
  int64_t* step;
  int64_t num_envs;
};

}  // namespace

extern "C" {

// Arrays are as long as there are environments. What is told may be what is given.
void fastad_tell(const Told* told, const int64_t* action, const float* reward,
                 const bool* terminated, const bool* truncated, int) {
  for (int64_t n = 0; n < told->num_envs; n++) {
    const bool ended = terminated[n] || truncated[n];
    told->action[n] = action[n];
    told->reward[n] = reward[n];
    told->start[n] = ended;
    told->step[n] = ended ? 0 : told->step[n] + 1;
  }
}
}
