"""The rule that sets the model: a cached rollout gives the logits of the full forward pass."""

import itertools

import pytest
import torch
from fastad_kernels import native
from gymnasium import spaces

from fastad.acting.steps import Steps
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel

LAYOUTS, SCHEMES = ("fused", "interleaved"), ("none", "rope", "alibi")
LAYOUT_AND_SCHEME = list(itertools.product(LAYOUTS, SCHEMES))
# Who decodes: PyTorch, layer by layer, or the C++ kernels, whole steps at once.
DECODERS = ("sdpa", "native")
EPISODE = 5
TOLERANCE = 1e-5  # relative to the largest logit, in float32


def make_model(**changes):
    torch.manual_seed(0)
    config = ModelConfig(**({"context": 12, "num_layers": 3, "width": 32} | changes))
    space = spaces.MultiDiscrete([9, 9])
    model = SequenceModel(config, space, spaces.Discrete(5), EPISODE, reward_shift=0.3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3.0)  # as sharp as a trained model: errors would show
    return model


def make_memory(model, num_envs, **sizes):
    """The memory of a frozen model, as a rollout has it, full of NaN."""
    memory = model.make_memory(num_envs, **sizes)
    poison(memory)
    return memory


def make_steps(batch, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    action = torch.randint(5, (batch, length), generator=generator)
    action[:, 0] = 5
    step = (torch.arange(length) % EPISODE).expand(batch, length)
    return Steps(
        torch.randint(9, (batch, length, 2), generator=generator),
        action,
        torch.randint(2, (batch, length), generator=generator).float(),
        step == 0,
        step,
    )


def poison(memory, rows=slice(None)):
    for ring in memory.rings:
        ring.keys[rows] = float("nan")
        ring.values[rows] = float("nan")


def assert_close(actual, expected):
    assert (actual - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("impl", [*DECODERS, "reference"])
@pytest.mark.parametrize(("layout", "positions"), LAYOUT_AND_SCHEME)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("norm", ["pre", "post"])
@torch.no_grad()
def test_cached_logits_equal_recomputed_after_three_windows(
    layout, positions, impl, kv_heads, norm
):
    model = make_model(layout=layout, positions=positions, num_kv_heads=kv_heads, norm=norm)
    length = 4 * 12  # steps: four windows fused, twelve interleaved
    steps = make_steps(3, length)
    model.kernels = "reference"
    expected = model(steps).policy
    model.kernels = impl
    memory = make_memory(model, 3)
    assert (memory.frozen is not None) == (impl == "native")
    cached = torch.cat([model(steps.part(t, t + 1), memory).policy for t in range(length)], dim=1)
    assert_close(cached, expected)
    assert_close(model(steps).policy, expected)


@pytest.mark.parametrize("impl", DECODERS)
@pytest.mark.parametrize(("layout", "positions"), LAYOUT_AND_SCHEME)
@torch.no_grad()
def test_environments_re_tasked_at_different_times_keep_exact_contexts(layout, positions, impl):
    model = make_model(layout=layout, positions=positions)
    model.kernels = impl
    length, starts = 50, [0, 17, 31]
    steps = make_steps(3, length)
    memory = make_memory(model, 3)
    cached = []
    for t in range(length):
        for row, start in enumerate(starts):
            if t == start > 0:
                memory.forget(torch.arange(3) == row)
                poison(memory, [row])
        rows = [
            steps.part(t - s if t >= s else t, (t - s if t >= s else t) + 1, slice(row, row + 1))
            for row, s in enumerate(starts)
        ]
        cached.append(model(Steps.join(rows, dim=0), memory).policy)
    logits = torch.cat(cached, dim=1)
    for row, start in enumerate(starts):
        expected = model(steps.part(0, length - start, slice(row, row + 1))).policy
        assert_close(logits[row : row + 1, start:], expected)


@pytest.mark.parametrize("impl", DECODERS)
@pytest.mark.parametrize(("layout", "positions"), LAYOUT_AND_SCHEME)
@pytest.mark.parametrize("prompt", [0, 1, 11, 12, 13])
@torch.no_grad()
def test_a_prompt_may_be_appended_at_once(layout, positions, prompt, impl):
    model = make_model(layout=layout, positions=positions)
    model.kernels = impl
    steps = make_steps(2, prompt + 30)
    memory = make_memory(model, 2, prompt_steps=max(prompt, 1))
    pieces = [(0, prompt)] * (prompt > 0) + [(t, t + 1) for t in range(prompt, prompt + 30)]
    cached = torch.cat(
        [model(steps.part(first, last), memory).policy for first, last in pieces], dim=1
    )
    assert_close(cached, model(steps).policy)


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_the_receptive_field_is_all_that_matters_and_no_less(layout):
    model = make_model(layout=layout, context=6, num_layers=2, episode_step=False)
    per_step = model.config.tokens_per_step
    field = -(-model.receptive_field // per_step)  # in steps
    steps = make_steps(2, 40)
    last = model(steps).policy[:, -1]
    # Steps farther back than the field change nothing; the last token inside it does.
    changed = steps._replace(observation=steps.observation.clone())
    changed.observation[:, : 40 - field] = 0
    assert_close(model(changed).policy[:, -1], last)
    changed.observation[:, : 40 - field + 1] = 8 - changed.observation[:, : 40 - field + 1]
    assert (model(changed).policy[:, -1] - last).abs().max() > 0


@torch.no_grad()
def test_predictions_never_see_the_future():
    model = make_model(layout="interleaved", positions="rope")
    steps = make_steps(2, 30)
    before = model(steps).policy[:, :20]
    changed = steps.map(torch.clone)
    changed.observation[:, 20:] = 0
    changed.previous_reward[:, 20:] = 7.0
    changed.previous_action[:, 20:] = 0
    assert torch.equal(model(changed).policy[:, :20], before)


@torch.no_grad()
def test_the_interleaved_layout_predicts_from_the_observation_token():
    # A public defect: reading the action token's output, which precedes the observation.
    model = make_model(layout="interleaved", context=3, num_layers=1)
    steps = make_steps(1, 4)
    changed = steps._replace(observation=steps.observation.clone())
    changed.observation[:, -1] = 8 - changed.observation[:, -1]
    assert (model(changed).policy[:, -1] - model(steps).policy[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("impl", DECODERS)
@torch.no_grad()
def test_learned_positions_refuse_to_slide(impl):
    model = make_model(positions="learned")
    model.kernels = impl
    steps = make_steps(1, 13)
    memory = make_memory(model, 1)
    cached = torch.cat([model(steps.part(t, t + 1), memory).policy for t in range(12)], dim=1)
    assert_close(cached, model(steps.part(0, 12)).policy)
    for call in (lambda: model(steps), lambda: model(steps.part(12, 13), memory)):
        with pytest.raises(ValueError, match=r"learned has context=12 places and cannot slide"):
            call()


@pytest.mark.skipif(native.why_unavailable() is not None, reason="the C++ kernels are not here")
@torch.no_grad()
def test_a_frozen_cache_holds_tokens_where_those_are_fewer_numbers_than_keys_and_values():
    for positions, kv_heads, shared in (
        ("none", 4, True), ("alibi", 4, True), ("rope", 4, False), ("none", 2, False),
    ):  # fmt: skip
        model = make_model(positions=positions, num_kv_heads=kv_heads)
        model.kernels = "native"
        ring = make_memory(model, 1).rings[0]
        assert ring.shared == shared
        # 32 features of a token, or keys and values of as many heads of 8.
        assert ring.keys.shape[2:] == ((1, 32) if shared else (kv_heads, 8))


SPACES = {
    "coordinates": spaces.MultiDiscrete([9, 9]),
    "vector": spaces.Box(-1.0, 1.0, (7,)),
}


@pytest.mark.skipif(native.why_unavailable() is not None, reason="the C++ kernels are not here")
@pytest.mark.parametrize(("space", "norm"), [("coordinates", "pre"), ("vector", "post")])
@pytest.mark.parametrize(("layout", "scheme"), LAYOUT_AND_SCHEME)
def test_an_environment_s_logits_do_not_depend_on_who_rolls_beside_it(layout, scheme, norm, space):
    """Bit for bit, in a batch of any size, on one thread and on two."""
    config = ModelConfig(
        context=12, num_layers=2, width=32, layout=layout, positions=scheme, norm=norm
    )
    torch.manual_seed(0)
    model = SequenceModel(config, SPACES[space], spaces.Discrete(5), EPISODE).eval()
    model.kernels = "native"
    largest, length = 70, 14
    steps = make_steps(largest, length)
    if space == "vector":
        steps = steps._replace(observation=torch.randn(largest, length, 7).clamp(-1, 1))

    @torch.no_grad()
    def logits(rows):
        memory = make_memory(model, len(rows))
        shown = (steps.part(t, t + 1, rows) for t in range(length))
        return torch.cat([model(step, memory).policy for step in shown], dim=1)

    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            together = logits(torch.arange(largest))
            for size in (1, 3, 16, 17):
                assert torch.equal(logits(torch.arange(size)), together[:size])
            assert torch.equal(logits(torch.tensor([69])), together[69:])
    finally:
        torch.set_num_threads(before)
