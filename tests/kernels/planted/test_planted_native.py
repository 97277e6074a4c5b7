"""Bugs planted in the C++ kernels; their tests find each of them."""

from dataclasses import replace

import pytest
from fastad_kernels.native import why_unavailable

from tests.kernels.planted.planting import Mutation, assert_caught, parameters

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))

DECODE, BLOCKS = "test_native_decode.py", "test_native_blocks.py"
BACKWARD, ROWS, EMBED = "test_backward.py", "test_native_rows.py", "test_native_embed.py"
EDGES, FAR, MODEL = "test_edges.py", "test_far_apart.py", "test_native_model.py"
DRAW, TABLES, STACKED = "test_native_draw.py", "test_q_tables.py", "test_stacked.py"
RING = "decoding_is_as_exact"
EXACT = "native and as_exact_as_those_of_plain and (111 or 130) and 16"
MUTATIONS = [
    Mutation(
        "the window of a cached step is one token short", "ring_attention.h",
        "std::min(a.position + 1, a.window);",
        "std::min(a.position + 1, a.window - (a.window > 1));",
        DECODE, f"{RING} and 15-none-16-4-4", slow=True,
    ),
    Mutation(
        "the newest token is lost where the ring wraps", "ring_attention.h",
        "{0, slot + seen - a.capacity, 0}", "{0, slot + seen - a.capacity - 1, 0}",
        DECODE, f"{RING} and 15-none-16-4-4", slow=True,
    ),
    Mutation(
        "what lies in a slot that is not seen reaches the result", "ring_attention.h",
        "if (MASKED) v = select(mask, v, Vec{});", "",
        DECODE, f"{RING} and 15-none-16-4-4", slow=True,
    ),
    Mutation(
        "distances go wrong behind the end of the ring", "ring_attention.h",
        "runs[1].offset = runs[0].offset + a.capacity;", "runs[1].offset = runs[0].offset;",
        DECODE, f"{RING} and 15-alibi-16-4-4", slow=True,
    ),
    Mutation(
        "a chunk with a larger score does not fade the earlier ones", "ring_attention.h",
        "out[d] *= fade;", "out[d] *= 1.0f;",
        DECODE, f"{RING} and 600-none", slow=True,
    ),
    Mutation(
        "a block forgets its residual connection", "decode.cpp",
        "linear<Start::ADD_BIAS>(attended,", "linear<Start::BIAS>(attended,",
        BLOCKS, "native_blocks_equal and 1-none-False-True", slow=True,
    ),
    Mutation(
        "new tokens go into the slot of another environment", "decode.cpp",
        "slot = env * kv_width * block.rings.capacity;",
        "slot = first * kv_width * block.rings.capacity;",
        BLOCKS, "native_blocks_equal and 1-none-False-True", slow=True,
    ),
    Mutation(
        "the window of whole sequences is one key too long", "band.h",
        "position(query) - window + 1, 0", "position(query) - window, 0",
        BACKWARD, EXACT, slow=True,
    ),
    Mutation(
        "delta is not subtracted", "attention.cpp",
        "weight * (load(grad + i * BLOCK_QUERIES) - delta)",
        "weight * load(grad + i * BLOCK_QUERIES)",
        BACKWARD, EXACT, slow=True,
    ),
    Mutation(
        "a packed sequence writes its gradients into the first one", "attention.cpp",
        "float* dk = sequence.at(g.dk, s.dkv, sequence.first_key, kv_head);",
        "float* dk = sequence.at(g.dk, s.dkv, 0, kv_head);",
        BACKWARD, "native and packed_histories_give_bitwise", slow=True,
    ),
    Mutation(
        "the gradient through the norm lacks its second mean", "rows.h",
        "(scaled - mean_d - normed * mean_dx)", "(scaled - mean_d)",
        ROWS, "results_and_gradients and 70-64-256", slow=True,
    ),
    Mutation(
        "the last token of a block goes nowhere", "rows.h",
        "rows((int)std::min<int64_t>(ROWS, num_tokens - first))",
        "rows((int)std::min<int64_t>(ROWS, num_tokens - first) & ~1)",
        ROWS, "results_and_gradients and 5-32-48", slow=True,
    ),
    Mutation(
        "what GELU takes is kept with another block's tokens", "mlp.cpp",
        "kept ? kept + first * t.hidden_row : t.active.data();\n      fetch<true>(y",
        "kept ? kept + first / 2 * t.hidden_row : t.active.data();\n      fetch<true>(y",
        ROWS, "results_and_gradients and 70-64-256", slow=True,
    ),
    Mutation(
        "the slope of GELU lacks its bell", "simd.h",
        "slope[i] = fused(x[i], bell[i] * 0.3989422804f, below);", "slope[i] = below;",
        ROWS, "results_and_gradients and 70-64-256", slow=True,
    ),
    Mutation(
        "a linear map forgets the residual", "projection.cpp",
        "std::copy_n(residual + (first + r) * s.out, s.out, y_rows + r * ys.stride);",
        "std::fill_n(y_rows + r * ys.stride, s.out, 0.0f);",
        ROWS, "linear_maps_are_as_exact and 45-64-192-True", slow=True,
    ),
    Mutation(
        "a table's gradient forgets the factor", "embed.cpp",
        "add(gradient + term->index[i] * width, grad + n * width + first, size,\n"
        "                term->factor_of(n));",
        "add(gradient + term->index[i] * width, grad + n * width + first, size);",
        EMBED, "gradients_are_as_exact and 1-16", slow=True,
    ),
    Mutation(
        "a table's last feature has no gradient", "embed.cpp",
        "std::min(slice, width - first)", "std::min(slice, width - first - 1)",
        EMBED, "gradients_are_as_exact and 2-100", slow=True,
    ),
    Mutation(
        "the row behind a table's last is one of it", "embedding.h",
        "index >= 0 && index < num_rows", "index >= 0 && index <= num_rows",
        EMBED, "row_that_a_table_lacks and native", slow=True,
    ),
    Mutation(
        "two blocks take one of the tokens", "rows.h",
        "first(block * ROWS)", "first(std::max<int64_t>(block * ROWS - 1, 0))",
        ROWS, "results_and_gradients and 70-64-256", slow=True,
    ),
    Mutation(
        "two groups step one of the environments", "decode.cpp",
        "first = g * group, last = std::min((g + 1) * group, s.num_envs);",
        "first = g * group - (g > 0), last = std::min((g + 1) * group - (g > 0), s.num_envs);",
        BLOCKS, "native_blocks_equal and 1-none-False-True", slow=True,
    ),
    Mutation(
        "logits are read off a step's first token", "decode.cpp",
        "(row + 1) * per_step - 1)", "row * per_step)",
        MODEL, "plain_forward and interleaved-alibi-discrete and 1", slow=True,
    ),
    Mutation(
        "a step's place is that of its first token", "embedding.h",
        "in.position[n * per_step + t] * width", "in.position[n * per_step] * width",
        MODEL, "plain_forward and interleaved-learned-discrete and 1", slow=True,
    ),
    Mutation(
        "a reward counts where there was no action", "embedding.h",
        "in.action[n] == e.num_actions - 1", "in.action[n] == e.num_actions",
        MODEL, "first_reward", slow=True,
    ),
    Mutation(
        "cumulative sums are rounded as they are added", "distributions.h",
        "double total = 0.0, sum = 0.0;", "float total = 0.0f, sum = 0.0f;",
        DRAW, "draws_what_pytorch and 17", slow=True,
    ),
    Mutation(
        "an entry is drawn by a number that only just reaches it", "distributions.h",
        "(float)sum <= bound", "(float)sum < bound",
        DRAW, "draws_what_pytorch and 17", slow=True,
    ),
    Mutation(
        "scores are read as if networks lay one behind the other", "distributions.h",
        "const float* row = scores + m * strides[0] + r * strides[1];",
        "const float* row = scores + m * sizes[1] * strides[1] + r * strides[1];",
        DRAW, "softmax_is_as_exact and 5", slow=True,
    ),
    Mutation(
        "what is done is drawn from a step's first logits", "decode.cpp",
        "(first * steps + steps - 1) * r.num_logits, probs);",
        "first * steps * r.num_logits, probs);",
        MODEL, "what_is_sampled and fused-3-5", slow=True,
    ),
    Mutation(
        "what is done is drawn by another's number", "decode.cpp",
        "r.uniform + first, r.drawn + first", "r.uniform, r.drawn + first",
        MODEL, "what_is_sampled and fused-1-5", slow=True,
    ),
    Mutation(
        "an episode's steps are counted on behind its end", "told.cpp",
        "ended ? 0 : told->step[n] + 1", "told->step[n] + 1",
        "test_native_told.py", "tells_what and 3", slow=True,
    ),
    Mutation(
        "an episode that was terminated goes on", "told.cpp",
        "terminated[n] || truncated[n]", "truncated[n]",
        "test_native_told.py", "tells_what and 3", slow=True,
    ),
    Mutation(
        "everybody has the first one's permutation", "walks.cpp",
        "w.permutation[n * w.num_actions + action[n]]", "w.permutation[action[n]]",
        "test_native_walks.py", "walks_as and 3-True-True-700", slow=True,
    ),
    Mutation(
        "an episode goes on behind its end", "walks.cpp",
        "w.cell[n] = ended ? start[n] : cell;", "w.cell[n] = truncated ? start[n] : cell;",
        "test_native_walks.py", "walks_as and 3-True-False-700", slow=True,
    ),
    Mutation(
        "what was paid for is paid for in the next episode, too", "walks.cpp",
        "w.collected[n] = ended ? 0 : phase + pays;", "w.collected[n] = phase + pays;",
        "test_native_walks.py", "walks_as and 3-False-False-700", slow=True,
    ),
    Mutation(
        "what is observed lies in the cell that was left", "walks.cpp",
        "w.observations[cell * num_features + k]", "w.observations[w.cell[n] * num_features + k]",
        "test_native_walks.py", "walks_as and 1-False-False-700", slow=True,
    ),
    Mutation(
        "an action that does not exist is taken", "walks.cpp",
        "wrong += !(within(action[n], w.num_actions) & ", "wrong += !(",
        "test_native_walks.py", "does_not_exist", slow=True,
    ),
    Mutation(
        "an episode is learned again from its beginning", "q_tables.cpp",
        "for (int64_t i = longest; i >= 0; i--)", "for (int64_t i = 0; i <= longest; i++)",
        TABLES, "learn_what_pytorch and 5-1.0-3", slow=True,
    ),
    Mutation(
        "an interpolation is rounded twice", "q_tables.cpp",
        "is_fused ? std::fma(weight, end - start, base) : weight", "weight",
        TABLES, "learn_what_pytorch and 5-0.6-3", slow=True,
    ),
    Mutation(
        "networks are given the first one's outputs", "stacked.cpp",
        "return of[2 * layer] + number * size(layer) * size(layer + 1);",
        "return of[2 * layer] + (layer ? number : 0) * size(layer) * size(layer + 1);",
        STACKED, "as_exact and 4-sizes0", slow=True,
    ),
    Mutation(
        "the slope of tanh is that of the layer behind", "stacked.cpp",
        "    slope(h, in);\n", "    slope(t.rows(network, layer + 1), in);\n",
        STACKED, "as_exact and 80-sizes0", slow=True,
    ),
    Mutation(
        "tanh changes its sign where it is nearly flat", "stacked.cpp",
        "select(x < 0.0f, -outside, outside)", "outside",
        STACKED, "as_exact and 4-sizes0", slow=True,
    ),
    Mutation(
        "coordinates are looked up in the first one's rows", "embedding.h",
        "in.coordinates[n * e.num_coordinates + c] + e.offsets[c];\n      add",
        "in.coordinates[n * e.num_coordinates + c] + e.offsets[0];\n      add",
        MODEL, "plain_forward and fused-none-coordinates and 1", slow=True,
    ),
    Mutation(
        "values are read with the token stride of the keys", "attention.cpp",
        "rows(b.v_rows, values, shape.v.token);", "rows(b.v_rows, values, shape.k.token);",
        BACKWARD, f"{EXACT} and strided", slow=True,
    ),
    Mutation(
        "what earlier tiles of keys gave does not fade", "attention.cpp",
        "load(out + d) * fade[m]", "load(out + d)",
        # Of more keys than the widest tile has.
        BACKWARD, "native and as_exact_as_those_of_plain and 600 and None", slow=True,
    ),
    Mutation(
        "queries see keys of their block behind the band's end", "band.h",
        "mask_rows(std::max(tile.end_whole, tile.whole), tile.keys);", "",
        BACKWARD, EXACT, slow=True,
    ),
    Mutation(
        "values are found with the head and sequence strides of the keys", "attention.cpp",
        "s.at(v, shape.v, s.first_key + first, kv_head)",
        "s.at(v, {shape.k.sequence, shape.v.token, shape.k.head}, s.first_key + first, kv_head)",
        BACKWARD, f"{EXACT} and strided", slow=True,
    ),
    Mutation(
        "distances go wrong where the window is all of the ring", "ring_attention.h",
        "if (seen == a.capacity && !a.slopes)", "if (seen == a.capacity)",
        EDGES, "all_of_the_ring and native", slow=True,
    ),
    Mutation(
        "all new tokens of a step stand where its first one does", "decode.cpp",
        "(int)s.dim, length + t, s.window,", "(int)s.dim, length, s.window,",
        EDGES, "longer_than_the_window and native", slow=True,
    ),
    Mutation(
        "a token's position loses its upper bits", "decode.cpp",
        "position % capacity", "(uint32_t)position % capacity",
        EDGES, "past_two_to_the_31 and native", slow=True,
    ),
    Mutation(
        "a sequence's offset loses its upper bits", "band.h",
        "tensor + number * strides.sequence", "tensor + (uint32_t)(number * strides.sequence)",
        FAR, "sequences_and_heads and native", slow=True,
    ),
    Mutation(
        "a packed token's offset loses its upper bits", "band.h",
        "first * strides.token", "(int32_t)(first * strides.token)",
        FAR, "packed_sequences and native", slow=True,
    ),
    Mutation(
        "an environment's slots lose the upper bits of their offset", "decode.cpp",
        "const int64_t slot = env * kv_width * rings->capacity;",
        "const int64_t slot = (uint32_t)(env * kv_width * rings->capacity);",
        FAR, "keep_environments_apart and native", slow=True,
    ),
]  # fmt: skip
MUTATIONS = [replace(mutation, folder="native/src") for mutation in MUTATIONS]
MUTATIONS += [
    Mutation(
        "the first block's weight gradients stand for all", "rows.h",
        "first ? from[i] : to[i] + from[i];", "first ? from[i] : to[i];",
        ROWS, "results_and_gradients and 70-64-256", folder="native/src", slow=True,
    ),
    Mutation(
        "a block's gradients are counted again with the next one's", "rows.h",
        "multiply<Start::ZERO>(Turned", "multiply<Start::ADD>(Turned",
        ROWS, "linear_maps_are_as_exact and 45-64-192-True", folder="native/src", slow=True,
    ),
    Mutation(
        "new values lie where the keys' strides lead", "decode.py",
        "k.contiguous(), v.contiguous()", "k.contiguous(), v.as_strided(v.shape, k.stride())",
        EDGES, "all_of_the_ring and native", folder="native",
    ),
    Mutation(
        "a step is read from where the last one lay", "model.py",
        "if not all(map(is_, told, self._told)):", "if self._told[0] is None:",
        MODEL, "shown_in_other_memory", folder="native", slow=True,
    ),
    Mutation(
        "a ring one token too small is taken", "checks.py",
        "capacity < window + num_new - 1", "capacity < window + num_new - 2",
        EDGES, "one_token_too_small and native", folder="",
    ),
]  # fmt: skip


@pytest.mark.parametrize("mutation", parameters(MUTATIONS))
def test_a_planted_bug_is_caught(mutation, test_bench, tmp_path):
    assert_caught(mutation, test_bench, tmp_path)
