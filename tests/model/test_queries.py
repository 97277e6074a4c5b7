"""The unordered layout: transitions and queries, in whose order nothing is told."""

import pytest
import torch
from fastad_kernels import native
from gymnasium import spaces

from fastad.acting.steps import Steps
from fastad.actions import Categorical
from fastad.base.errors import UserError
from fastad.envs.dark_room import DarkRoom
from fastad.model.config import ModelConfig
from fastad.model.queries import as_queries
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.engine import cache_error, rollout

SPACES = {
    "coordinates": spaces.MultiDiscrete([9, 9]),
    "index": spaces.Discrete(6, start=2),
    "vector": spaces.Box(-1.0, 1.0, (7,)),
}
EPISODE, CONTEXT, NUM_ENVS = 5, 13, 3  # an odd window begins with a query
TOLERANCE = 1e-5  # relative to the largest logit, in float32
NATIVE = pytest.param(
    "native",
    marks=pytest.mark.skipif(
        native.why_unavailable() is not None, reason="the C++ kernels are not here"
    ),
)


def make_model(space="coordinates", **changes):
    torch.manual_seed(0)
    sizes = {"layout": "unordered", "context": CONTEXT, "num_layers": 3, "width": 32}
    model = SequenceModel(
        ModelConfig(**(sizes | changes)), SPACES[space], spaces.Discrete(5), EPISODE,
        reward_shift=0.3,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3.0)  # as sharp as a trained model: errors would show
    return model


def make_steps(length, space="coordinates", batch=NUM_ENVS):
    """Steps one after another, each with the observation of the one before."""
    generator = torch.Generator().manual_seed(0)
    action = torch.randint(5, (batch, length), generator=generator)
    action[:, 0] = 5
    step = (torch.arange(length) % EPISODE).expand(batch, length)
    observation = {
        "coordinates": torch.randint(9, (batch, length, 2), generator=generator),
        "index": torch.randint(2, 8, (batch, length), generator=generator),
        "vector": torch.rand((batch, length, 7), generator=generator),
    }[space]
    return Steps(
        observation,
        action,
        torch.rand((batch, length), generator=generator),
        step == 0,
        step,
        previous_observation=observation.roll(1, dims=1),
    )


def assert_close(actual, expected):
    assert (actual - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_a_step_is_what_came_of_the_last_one_and_the_query_where_the_agent_is():
    steps = Steps(
        torch.tensor([[[1, 2], [3, 4], [5, 6]]]),
        torch.tensor([[5, 0, 2]]),
        torch.tensor([[0.0, 0.5, 1.0]]),
        torch.tensor([[True, False, True]]),
        torch.tensor([[0, 1, 0]]),
        previous_observation=torch.tensor([[[9, 9], [1, 2], [3, 4]]]),
    )
    shown = as_queries(steps, Categorical(5), torch.tensor(5))
    # Nothing was before the first step: its query stands twice.
    assert shown.observation.tolist() == [[[1, 2], [1, 2], [1, 2], [3, 4], [3, 4], [5, 6]]]
    assert shown.previous_action.tolist() == [[5, 5, 0, 5, 2, 5]]
    assert shown.previous_reward.tolist() == [[0, 0, 0.5, 0, 1, 0]]
    assert shown.episode_start.tolist() == [[False, True, False, False, False, True]]
    assert shown.episode_step.tolist() == [[0, 0, 0, 1, 0, 0]]


@pytest.mark.parametrize("impl", ["sdpa", NATIVE])
@pytest.mark.parametrize("space", SPACES)
@torch.no_grad()
def test_cached_logits_equal_recomputed_after_three_windows(space, impl):
    model = make_model(space)
    length = 2 * CONTEXT  # steps: four windows
    steps = make_steps(length, space)
    model.kernels = "reference"
    expected = model(steps).policy
    assert expected.shape == (NUM_ENVS, length, 5)
    model.kernels = impl
    memory = model.make_memory(NUM_ENVS)
    assert (memory.frozen is not None) == (impl == "native")
    shown = (steps.part(t, t + 1) for t in range(length))
    cached = torch.stack([memory.predict(step) for step in shown], dim=1)
    assert_close(cached, expected)


@torch.no_grad()
def test_contexts_that_begin_at_different_times_are_recomputed_from_what_they_were_shown():
    model = make_model()
    length, forgotten = 40, {17: [1], 31: [0, 2]}
    steps = make_steps(length)
    kept, recomputed = (model.make_memory(NUM_ENVS, kv_cache=kv) for kv in (True, False))
    for t in range(length):
        for memory in (kept, recomputed) if t in forgotten else ():
            memory.forget(torch.isin(torch.arange(NUM_ENVS), torch.tensor(forgotten[t])))
        step = steps.part(t, t + 1)
        assert_close(kept.predict(step), recomputed.predict(step))


@torch.no_grad()
def test_one_block_does_not_see_in_which_order_transitions_came():
    # Through further blocks order shows: a token's features know what stood before it.
    model, length = make_model(num_layers=1, context=100), 20
    steps = make_steps(length)
    order = torch.cat([torch.tensor([0]), torch.randperm(length - 2) + 1, torch.tensor([19])])
    shuffled = steps._replace(
        previous_observation=steps.previous_observation[:, order],
        previous_action=steps.previous_action[:, order],
        previous_reward=steps.previous_reward[:, order],
    )
    predicted, other = model(steps).policy, model(shuffled).policy
    assert_close(other[:, -1], predicted[:, -1])
    assert (other[:, 5] - predicted[:, 5]).abs().max() > 0.01  # shown others so far


@pytest.mark.parametrize("control", ["none", "no-reward", "one-episode", "wiped-context"])
def test_agents_show_where_the_last_action_was_taken(control):
    generator = torch.Generator().manual_seed(0)
    env = DarkRoom(size=3, episode_length=6).make(torch.tensor([[2, 1], [0, 1]]), generator)
    torch.manual_seed(0)
    config = ModelConfig(layout="unordered", context=17, width=16, num_heads=2)
    model = SequenceModel(config, env.observation_space, env.action_space, env.episode_length)
    with torch.no_grad():
        model.heads.policy.weight.mul_(4.0)
    assert cache_error(model, env, num_steps=60, generator=generator) < TOLERANCE
    returns = [
        rollout(
            model, env, num_episodes=10, kv_cache=kept, control=control,
            generator=torch.Generator().manual_seed(1),
        ).returns
        for kept in (True, False)
    ]  # fmt: skip
    assert torch.equal(*returns)
    assert returns[0].std() > 0


@pytest.mark.parametrize(
    ("changes", "named"), [({"positions": "rope"}, "positions=rope"), ({"trunk": "gru"}, "gru")]
)
def test_what_tells_the_order_is_refused(changes, named):
    with pytest.raises(UserError, match=rf"layout=unordered shows steps in no order.*{named}"):
        ModelConfig(layout="unordered", **changes)
