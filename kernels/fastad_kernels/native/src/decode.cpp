// Decoding on CPUs: attention of new tokens to their rings, whole blocks of them, whole models.

#include <omp.h>

#include <algorithm>
#include <vector>

#include "distributions.h"
#include "embedding.h"
#include "multiply.h"
#include "norm.h"
#include "ring_attention.h"

namespace {

struct Rings {
  float *keys, *values;  // (environments, heads, dim, capacity); the same for shared storage
  int64_t* lengths;      // (environments,), which new tokens advance
  int64_t capacity;
};

// Matrices are (in, out) in panels, out rounded up to BORDER; biases are as long.
struct Affine {
  const float *weight, *bias;
};

struct Block {
  Norm attention_norm;
  Affine query;
  Affine key_value;  // (width, 2 * kv_heads * dim); null where a token is its own key and value
  Affine out;
  Norm mlp_norm;
  Affine mlp_in, mlp_out;
  Rings rings;
};

struct Readout {
  Norm norm;  // null for none
  Affine head;
  int64_t num_logits;
  float* logits;  // (environments, steps, num_logits)
  // (environments,): an entry is drawn from the distribution of each one's last logits; or null.
  const float* uniform;
  float* probs;    // (environments, num_logits)
  int64_t* drawn;  // (environments,)
};

struct Shape {
  int64_t num_envs, num_new, width, mlp_width, num_blocks;
  int64_t num_heads, num_kv_heads, dim, window;
  int64_t pre_norm, rope_rows;  // rows of cos and sin: 0, 1, or one per environment
  double epsilon;
};

void rotate(float* x, int heads, int dim, const float* cos, const float* sin) {
  const int half = dim / 2;
  for (int h = 0; h < heads; h++, x += dim)
    for (int i = 0; i < half; i++) {
      const float first = x[i], second = x[i + half];
      x[i] = first * cos[i] - second * sin[i];
      x[i + half] = second * cos[i] + first * sin[i];
    }
}

// Write a token's (heads * dim) features into its slot.
void append(float* ring, int64_t features, int64_t capacity, int64_t position, const float* x) {
  float* column = ring + position % capacity;
  for (int64_t i = 0; i < features; i++) column[i * capacity] = x[i];
}

// Which environment's ring, of which block, will be read soon: fetched while another is used.
struct Soon {
  const Rings* rings;
  int64_t env;
};

// The new tokens of one environment, which are in its rings, attend.
void attend(const Shape& s, const Rings& rings, int64_t env, int64_t length, const float* q,
            float* out, const float* slopes, const Soon& soon, float* state) {
  const int64_t group = s.num_heads / s.num_kv_heads, size = s.dim * rings.capacity;
  for (int64_t t = 0; t < s.num_new; t++)
    for (int64_t h = 0; h < s.num_kv_heads; h++) {
      const int64_t row = (t * s.num_heads + h * group) * s.dim;
      const int64_t ring = (env * s.num_kv_heads + h) * size;
      const int64_t next = (soon.env * s.num_kv_heads + h) * size;
      const float *keys = rings.keys + ring, *values = rings.values + ring;
      attend_ring({q + row, s.dim, out + row, s.dim, (int)group, keys, values, rings.capacity,
                   (int)s.dim, length + t, s.window, slopes ? slopes + h * group : nullptr,
                   soon.rings->keys + next - keys, soon.rings->values + next - values},
                  state);
    }
}

struct Scratch {
  std::vector<float> tokens, queries, key_values, attended, hidden, state, logits;
};

// The next environment of the group or, after the last, the first one in the next block.
Soon soon_after(const Block& block, const Block* next, int64_t env, int64_t first, int64_t last) {
  if (env + 1 < last) return {&block.rings, env + 1};
  return {next ? &next->rings : &block.rings, next ? first : env};
}

struct Inputs {
  float* x;  // (environments, new tokens, width rounded up), replaced by the last block's output
  const float *cos, *sin, *slopes;
};

void run_block(const Shape& s, const Block& block, const Inputs& in, int64_t first, int64_t last,
               const Block* next, Scratch& scratch) {
  const int rows = (int)((last - first) * s.num_new), width = (int)s.width;
  const int64_t padded = round_up(width, BORDER), hidden = round_up(s.mlp_width, BORDER);
  const int64_t q_width = s.num_heads * s.dim, q_padded = round_up(q_width, BORDER);
  const int64_t kv_width = s.num_kv_heads * s.dim, kv_padded = round_up(2 * kv_width, BORDER);
  float* x = in.x + first * s.num_new * padded;
  float* tokens = s.pre_norm ? scratch.tokens.data() : x;
  if (s.pre_norm)
    for (int r = 0; r < rows; r++)
      layer_norm(block.attention_norm, x + r * padded, tokens + r * padded, width,
                 (float)s.epsilon);
  float *q = scratch.queries.data(), *kv = scratch.key_values.data();
  linear<Start::BIAS>(tokens, padded, rows, width, block.query.weight, (int)q_padded, block.query.bias, q,
                q_padded);
  const bool has_kv = block.key_value.weight != nullptr;
  if (has_kv)
    linear<Start::BIAS>(tokens, padded, rows, width, block.key_value.weight, (int)kv_padded,
                  block.key_value.bias, kv, kv_padded);
  float* attended = scratch.attended.data();
  for (int64_t env = first; env < last; env++) {
    const int64_t length = block.rings.lengths[env], slot = env * kv_width * block.rings.capacity;
    for (int64_t t = 0; t < s.num_new; t++) {
      const int64_t row = (env - first) * s.num_new + t;
      if (s.rope_rows) {
        const int64_t angles = ((s.rope_rows == 1 ? 0 : env) * s.num_new + t) * (s.dim / 2);
        rotate(q + row * q_padded, (int)s.num_heads, (int)s.dim, in.cos + angles, in.sin + angles);
        rotate(kv + row * kv_padded, (int)s.num_kv_heads, (int)s.dim, in.cos + angles,
               in.sin + angles);
      }
      const float* key = has_kv ? kv + row * kv_padded : tokens + row * padded;
      append(block.rings.keys + slot, kv_width, block.rings.capacity, length + t, key);
      if (block.rings.values != block.rings.keys)
        append(block.rings.values + slot, kv_width, block.rings.capacity, length + t,
               key + kv_width);
      // One environment's rows need not be padded for `attend`.
      if (q_padded != q_width)
        std::copy_n(q + row * q_padded, q_width, q + row * q_width);
    }
    const int64_t row = (env - first) * s.num_new;
    attend(s, block.rings, env, length, q + row * q_width, attended + row * q_width, in.slopes,
           soon_after(block, next, env, first, last), scratch.state.data());
    block.rings.lengths[env] += s.num_new;
  }
  linear<Start::ADD_BIAS>(attended, q_width, rows, (int)q_width, block.out.weight, (int)padded, block.out.bias, x,
               padded);
  if (s.pre_norm) {
    for (int r = 0; r < rows; r++)
      layer_norm(block.mlp_norm, x + r * padded, tokens + r * padded, width, (float)s.epsilon);
  } else {
    for (int r = 0; r < rows; r++)
      layer_norm(block.attention_norm, x + r * padded, x + r * padded, width, (float)s.epsilon);
  }
  float* h = scratch.hidden.data();
  linear<Start::BIAS>(tokens, padded, rows, width, block.mlp_in.weight, (int)hidden, block.mlp_in.bias, h,
                hidden);
  gelu(h, rows * hidden, h);
  linear<Start::ADD_BIAS>(h, hidden, rows, (int)s.mlp_width, block.mlp_out.weight, (int)padded,
               block.mlp_out.bias, x, padded);
  if (!s.pre_norm)
    for (int r = 0; r < rows; r++)
      layer_norm(block.mlp_norm, x + r * padded, x + r * padded, width, (float)s.epsilon);
}

// What a whole model has around its blocks.
struct Ends {
  const Embedding& embedding;
  const Fields& fields;
  const Readout& readout;
};

// Logits of what a step's last token has become.
void read_out(const Shape& s, const Ends& ends, const float* x, int64_t first, int64_t last,
              Scratch& scratch) {
  const Readout& r = ends.readout;
  const int64_t per_step = ends.embedding.per_step(), steps = s.num_new / per_step;
  const int64_t padded = round_up(s.width, BORDER), logits_padded = round_up(r.num_logits, BORDER);
  const int64_t rows = (last - first) * steps;
  float *tokens = scratch.tokens.data(), *logits = scratch.logits.data();
  for (int64_t row = 0; row < rows; row++) {
    const float* token = x + (first * s.num_new + (row + 1) * per_step - 1) * padded;
    if (r.norm.weight)
      layer_norm(r.norm, token, tokens + row * padded, (int)s.width, (float)s.epsilon);
    else
      std::copy_n(token, s.width, tokens + row * padded);
  }
  linear<Start::BIAS>(tokens, padded, (int)rows, (int)s.width, r.head.weight, (int)logits_padded,
                      r.head.bias, logits, logits_padded);
  for (int64_t row = 0; row < rows; row++)
    std::copy_n(logits + row * logits_padded, r.num_logits,
                r.logits + (first * steps + row) * r.num_logits);
  if (!r.uniform) return;
  const int64_t sizes[3] = {1, last - first, r.num_logits};
  const int64_t strides[3] = {0, steps * r.num_logits, 1};
  float* probs = r.probs + first * r.num_logits;
  softmax<0>(sizes, strides, r.logits + (first * steps + steps - 1) * r.num_logits, probs);
  draw(sizes + 1, probs, r.uniform + first, r.drawn + first);
}

// Rows that go through a block together: enough to use its matrices well, few enough to leave the
// second cache to keys and values.
constexpr int64_t GROUP_ROWS = 32;

// All blocks for the new tokens of all environments, or the whole model if `ends` are given.
// Nothing is shared between environments, so a thread takes its own through everything without
// waiting for the others.
void decode(const Shape& s, const Block* blocks, const Inputs& in, const Ends* ends, int threads) {
  const int64_t fair = divide_up(s.num_envs, threads);
  const int64_t group = std::min(std::max<int64_t>(GROUP_ROWS / s.num_new, 1), fair);
  const int64_t num_groups = divide_up(s.num_envs, group), rows = group * s.num_new;
  const int64_t padded = round_up(s.width, BORDER);
#pragma omp parallel num_threads(team(threads, num_groups))
  {
    Scratch scratch;
    scratch.tokens.resize(rows * padded);
    scratch.queries.resize(rows * round_up(s.num_heads * s.dim, BORDER));
    scratch.key_values.resize(rows * round_up(2 * s.num_kv_heads * s.dim, BORDER));
    scratch.attended.resize(rows * s.num_heads * s.dim);
    scratch.hidden.resize(rows * round_up(s.mlp_width, BORDER));
    scratch.state.resize(2 * s.num_heads);
    if (ends) scratch.logits.resize(rows * round_up(ends->readout.num_logits, BORDER));
#pragma omp for schedule(dynamic, 1)
    for (int64_t g = 0; g < num_groups; g++) {
      const int64_t first = g * group, last = std::min((g + 1) * group, s.num_envs);
      if (ends) {
        const int64_t per_step = ends->embedding.per_step(), steps = s.num_new / per_step;
        for (int64_t n = first * steps; n < last * steps; n++)
          embed(ends->embedding, ends->fields, n, s.width, padded, in.x + n * per_step * padded);
      }
      for (int64_t b = 0; b < s.num_blocks; b++)
        run_block(s, blocks[b], in, first, last, b + 1 < s.num_blocks ? &blocks[b + 1] : nullptr,
                  scratch);
      if (ends) read_out(s, *ends, in.x, first, last, scratch);
    }
  }
}

}  // namespace

extern "C" {

// A matrix (out, in), as PyTorch has it, as the products above read it.
void fastad_pack_panels(const int64_t* sizes, const float* weight, float* packed, int) {
  const int out = (int)sizes[0], in = (int)sizes[1];
  pack_panels(weight, 1, in, in, out, packed);
}

// Append k and v (environments, new tokens, kv_heads * dim) to the rings, then attend.
void fastad_decode_attention(const Shape* shape, const Rings* rings, const float* q,
                             const float* k, const float* v, float* out, const float* slopes,
                             int threads) {
  const Shape& s = *shape;
  const int64_t kv_width = s.num_kv_heads * s.dim, width = s.num_heads * s.dim;
#pragma omp parallel for num_threads(team(threads, s.num_envs)) schedule(static)
  for (int64_t env = 0; env < s.num_envs; env++) {
    std::vector<float> state(2 * s.num_heads);
    const int64_t slot = env * kv_width * rings->capacity;
    const int64_t length = rings->lengths[env];
    for (int64_t t = 0; t < s.num_new; t++) {
      const int64_t token = (env * s.num_new + t) * kv_width;
      append(rings->keys + slot, kv_width, rings->capacity, length + t, k + token);
      if (rings->values != rings->keys)
        append(rings->values + slot, kv_width, rings->capacity, length + t, v + token);
    }
    attend(s, *rings, env, length, q + env * s.num_new * width,
           out + env * s.num_new * width, slopes, {rings, std::min(env + 1, s.num_envs - 1)}, state.data());
    rings->lengths[env] += s.num_new;
  }
}

void fastad_decode_blocks(const Shape* shape, const Block* blocks, const Inputs* inputs,
                          int threads) {
  decode(*shape, blocks, *inputs, nullptr, threads);
}

// `wrong`: how many steps have an index without a row; if any, nothing else has been done.
void fastad_decode_steps(const Shape* shape, const Block* blocks, const Inputs* inputs,
                         const Embedding* embedding, const Fields* fields, const Readout* readout,
                         int64_t* wrong, int threads) {
  const int64_t num_steps = shape->num_envs * shape->num_new / embedding->per_step();
  *wrong = 0;
  for (int64_t n = 0; n < num_steps; n++) *wrong += !has_rows(*embedding, *fields, n);
  const Ends ends{*embedding, *fields, *readout};
  if (!*wrong) decode(*shape, blocks, *inputs, &ends, threads);
}
}
