// Q-learning in tables: a step of every learner, and the replay of episodes that have ended.
// Every number is rounded as in plain PyTorch, so that what is learned has the same bits.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

// A step as its learner remembers it, in places of its own table.
struct Step {
  int32_t entry, next_row;  // of (S * A), of (S)
  float reward, discount;
};

}  // namespace

extern "C" {

struct QTables {
  float* values;          // (N, S, A)
  Step* memory;           // (T, N)
  int64_t* episode_step;  // (N,) since the episode began
  int64_t num_learners, num_states, num_actions, episode_length, replay_sweeps;
  double learning_rate, gamma;
  int64_t lerp_is_fused;  // whether PyTorch rounds once in an interpolation, or twice
};

// Of (N,) each; a state is a row of all tables together.
struct QSteps {
  const int64_t *state, *action;
  const float* reward;
  const int64_t* next_state;
  const uint8_t *terminated, *truncated;
};

}  // extern "C"

namespace {

constexpr int64_t GROUP = 8;   // learners that are replayed together
constexpr int64_t AHEAD = 16;  // so many learners ahead rows are fetched: tables outgrow the caches

bool within(int64_t index, int64_t size) { return index >= 0 && index < size; }

// A > 0 is the number of actions, known to the compiler.
template <int A>
struct Learning {
  const QTables& t;
  const int64_t num_actions = A > 0 ? A : t.num_actions;
  const int64_t entries = t.num_states * num_actions;
  const float rate = (float)t.learning_rate;
  const bool overwrites = t.learning_rate >= 1.0;
  const bool is_small = std::fabs(rate) < 0.5f;
  const bool is_fused = t.lerp_is_fused;

  float best(const float* row) const {
    float value = row[0];
    for (int64_t a = 1; a < num_actions; a++) value = row[a] > value ? row[a] : value;
    return value;
  }

  // Have the row of a learner to come ready, of states (N,).
  void fetch(const int64_t* states, int64_t n) const {
    if (n + AHEAD < t.num_learners)
      __builtin_prefetch(t.values + states[n + AHEAD] * num_actions);
  }

  // As torch.lerp.
  float between(float start, float end) const {
    const float weight = is_small ? rate : rate - 1.0f, base = is_small ? start : end;
    return is_fused ? std::fma(weight, end - start, base) : weight * (end - start) + base;
  }

  void update(float* table, const Step& step) const {
    const float target = best(table + step.next_row * num_actions) * step.discount + step.reward;
    float& value = table[step.entry];
    value = overwrites ? target : between(value, target);
  }

  // One step of every learner; those whose episodes ended go on in `replay`.
  void learn(const QSteps& in) const {
    std::vector<int64_t> over;
    for (int64_t n = 0; n < t.num_learners; n++) {
      fetch(in.next_state, n);
      const int64_t first = n * t.num_states;
      const Step step{(int32_t)((in.state[n] - first) * num_actions + in.action[n]),
                      (int32_t)(in.next_state[n] - first), in.reward[n],
                      in.terminated[n] ? 0.0f : (float)t.gamma};
      update(t.values + n * entries, step);
      if (t.replay_sweeps == 0) continue;
      t.memory[t.episode_step[n] * t.num_learners + n] = step;
      if (in.terminated[n] | in.truncated[n])
        over.push_back(n);
      else
        t.episode_step[n]++;
    }
    replay(over);
    for (const int64_t n : over) t.episode_step[n] = 0;
  }

  // Several learners in turn, a step each: a step waits for the one behind it, not for another's.
  void replay(const std::vector<int64_t>& learners) const {
    const int64_t* last_step = t.episode_step;
    std::vector<Step> steps(t.episode_length * GROUP);  // (T, GROUP)
    for (size_t begin = 0; begin < learners.size(); begin += GROUP) {
      const int64_t* group = &learners[begin];
      const int64_t size = std::min(learners.size() - begin, (size_t)GROUP);
      int64_t longest = 0;
      for (int64_t g = 0; g < size; g++) longest = std::max(longest, last_step[group[g]]);
      for (int64_t i = 0; i <= longest; i++)
        for (int64_t g = 0; g < size; g++)
          steps[i * GROUP + g] = t.memory[i * t.num_learners + group[g]];
      for (int64_t sweep = 0; sweep < t.replay_sweeps; sweep++)
        for (int64_t i = longest; i >= 0; i--)
          for (int64_t g = 0; g < size; g++)
            if (i <= last_step[group[g]])
              update(t.values + group[g] * entries, steps[i * GROUP + g]);
    }
  }

  void scores(const int64_t* state, float temperature, float least, float* out) const {
    float* score = out;
    for (int64_t n = 0; n < t.num_learners; n++, score += num_actions) {
      fetch(state, n);
      const float* row = t.values + state[n] * num_actions;
      const float top = best(row);
      for (int64_t a = 0; a < num_actions; a++) score[a] = row[a] - top;
    }
    // All together, whatever the number of actions: as many at once as the machine divides.
    for (float* s = out; s < score; s++) *s = std::max(*s / temperature, least);
  }
};

// With the number of actions known where it is a usual one.
template <class Function>
void dispatch(const QTables& t, Function function) {
  switch (t.num_actions) {
    case 2: return function(Learning<2>{t});
    case 4: return function(Learning<4>{t});
    case 5: return function(Learning<5>{t});
    default: return function(Learning<0>{t});
  }
}

bool owns(const QTables& t, int64_t learner, int64_t state) {
  return within(state - learner * t.num_states, t.num_states);
}

}  // namespace

extern "C" {

// Learn from a step of every learner; `wrong` is how many of them are not in the tables, and then
// nothing is learned.
void fastad_q_learn(const QTables* tables, const QSteps* steps, int64_t* wrong, int) {
  const QTables& t = *tables;
  *wrong = 0;
  for (int64_t n = 0; n < t.num_learners; n++)
    *wrong += !(owns(t, n, steps->state[n]) && owns(t, n, steps->next_state[n]) &&
                within(steps->action[n], t.num_actions) &&
                within(t.episode_step[n], t.episode_length));
  if (*wrong) return;
  dispatch(t, [&](auto learning) { learning.learn(*steps); });
}

// (Q - max Q) / temperature of a row per learner, (N, A); `scale` is the temperature, and what is
// the least.
void fastad_q_scores(const QTables* tables, const int64_t* state, const float* scale,
                     float* scores, int64_t* wrong, int) {
  *wrong = 0;
  for (int64_t n = 0; n < tables->num_learners; n++) *wrong += !owns(*tables, n, state[n]);
  if (*wrong) return;
  dispatch(*tables, [&](auto learning) { learning.scores(state, scale[0], scale[1], scores); });
}
}
