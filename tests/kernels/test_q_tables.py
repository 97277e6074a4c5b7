"""Q-learning in tables: the C++ kernels learn to the bit what plain PyTorch learns."""

import pytest
import torch
from fastad_kernels import EpisodeMemory, QSettings, QTables, draw, make_q_tables, native
from fastad_kernels.native import NativeQTables, lerp_is_fused

needs_kernels = pytest.mark.skipif(
    native.why_unavailable() is not None, reason=str(native.why_unavailable())
)

NUM_LEARNERS, NUM_STATES, LENGTH = 203, 7, 6
FIRST = torch.arange(NUM_LEARNERS) * NUM_STATES
FIELDS = ("state", "action", "reward", "next_state", "terminated", "truncated")


def settings(**changes):
    defaults = QSettings(
        NUM_LEARNERS, LENGTH, learning_rate=1.0, gamma=0.9, replay_sweeps=3
    )  # fmt: skip
    return defaults._replace(**changes)


def make_values(num_actions=5):
    return torch.full((NUM_LEARNERS * NUM_STATES, num_actions), 0.3)


def make_steps(num_actions=5, num_steps=4 * LENGTH, ends_early=0.2):
    """Steps of random walks, whose episodes end early here and there."""
    generator = torch.Generator().manual_seed(num_actions)

    def draw(size):
        return torch.randint(size, (NUM_LEARNERS,), generator=generator)

    episode_step = torch.zeros(NUM_LEARNERS, dtype=torch.int64)
    for _ in range(num_steps):
        terminated = torch.rand(NUM_LEARNERS, generator=generator) < ends_early
        truncated = (episode_step == LENGTH - 1) & ~terminated
        states = FIRST + draw(NUM_STATES), FIRST + draw(NUM_STATES)
        reward = (draw(4) == 0).float() - 0.1
        yield states[0], draw(num_actions), reward, states[1], terminated, truncated
        episode_step = (episode_step + 1).masked_fill(terminated | truncated, 0)


@needs_kernels
@pytest.mark.parametrize("replay_sweeps", [0, 3])
@pytest.mark.parametrize("learning_rate", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("num_actions", [1, 2, 4, 5, 9])
def test_the_kernels_learn_what_pytorch_learns(num_actions, learning_rate, replay_sweeps):
    if learning_rate < 1 and lerp_is_fused() is None:
        pytest.skip("torch.lerp rounds now so, now so on this processor")
    chosen = settings(learning_rate=learning_rate, replay_sweeps=replay_sweeps)
    ours = NativeQTables(make_values(num_actions), chosen)
    plain = QTables(make_values(num_actions), chosen)
    for step in make_steps(num_actions):
        state = step[0]
        assert torch.equal(ours.scores(state, 0.02), plain.scores(state, 0.02))
        uniform = torch.rand((NUM_LEARNERS, 1), generator=torch.Generator().manual_seed(0))
        for how in ((0.02, 0.0), (0.5, 0.3), (0.0, 0.1)):  # temperature, epsilon
            policy = plain.policy(state, *how)
            assert torch.equal(ours.policy(state, *how), policy)
            for tables in (ours, plain):
                action, probs = tables.act(state, uniform, *how)
                assert torch.equal(probs, policy)
                assert torch.equal(action, draw(policy, uniform))
        ours.learn(*step)
        plain.learn(*step)
        assert torch.equal(ours.values, plain.values)
    assert len(plain.values.unique()) > 10  # something was learned


@needs_kernels
def test_episodes_that_all_end_together_are_replayed_as_well():
    ours, plain = NativeQTables(make_values(), settings()), QTables(make_values(), settings())
    for step in make_steps(ends_early=0.0):
        ours.learn(*step)
        plain.learn(*step)
    assert torch.equal(ours.values, plain.values)


@needs_kernels
@pytest.mark.parametrize(
    ("field", "learner", "value"),
    [
        ("state", 3, 3 * NUM_STATES - 1),  # another learner's
        ("state", NUM_LEARNERS - 1, NUM_LEARNERS * NUM_STATES),
        ("next_state", 0, -1),
        ("action", 0, 5),
        ("action", 0, -1),
    ],
)
def test_what_is_not_in_the_tables_is_refused_and_nothing_is_learned(field, learner, value):
    tables = NativeQTables(make_values(), settings())
    step = dict(zip(FIELDS, next(make_steps()), strict=True))
    step[field][learner] = value
    with pytest.raises(IndexError, match="1 of 203 learners"):
        tables.learn(**step)
    assert torch.equal(tables.values, make_values())
    if field == "state":
        with pytest.raises(IndexError, match="1 of 203 learners"):
            tables.scores(step[field], 0.02)


@needs_kernels
def test_an_episode_that_does_not_end_is_refused():
    tables, (*step, _) = NativeQTables(make_values(), settings()), next(make_steps(ends_early=0.0))
    goes_on = torch.zeros(NUM_LEARNERS, dtype=torch.bool)
    ends = goes_on.clone()
    ends[3:] = True
    for truncated in (goes_on, goes_on, ends, goes_on, goes_on, goes_on):
        tables.learn(*step, truncated)
    learned = tables.values.clone()
    with pytest.raises(IndexError, match=r"3 of 203 learners have .* an episode that should have"):
        tables.learn(*step, goes_on)
    assert torch.equal(tables.values, learned)


@needs_kernels
@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("action", torch.Tensor.int), ("reward", torch.Tensor.double),
        ("truncated", torch.Tensor.long), ("state", lambda x: x[1:]),
        ("state", lambda x: x[:, None]),
    ],
)  # fmt: skip
def test_what_the_kernels_cannot_read_is_refused(field, change):
    tables = NativeQTables(make_values(), settings())
    step = dict(zip(FIELDS, next(make_steps()), strict=True))
    step[field] = change(step[field])
    with pytest.raises(ValueError, match="a step of 203 learners is"):
        tables.learn(**step)


def test_tables_are_the_kernels_where_these_can_be_used(monkeypatch):
    if native.why_unavailable() is None:
        assert type(make_q_tables(make_values(), settings())) is NativeQTables
    assert type(make_q_tables(make_values().double(), settings())) is QTables
    assert type(make_q_tables(make_values().to("meta"), settings())) is QTables
    monkeypatch.setattr(native, "why_unavailable", lambda: "no compiler")
    assert type(make_q_tables(make_values(), settings())) is QTables


def test_episodes_of_different_lengths_are_replayed_from_their_own_ends():
    memory = EpisodeMemory(3, (torch.zeros(3),))
    everyone = torch.arange(3)
    for step in range(3):
        values = torch.tensor([10.0, 20.0, 30.0]) + step
        memory.write(torch.full((3,), step), everyone, values)
    replay = memory.backwards(torch.tensor([0, 2]), torch.tensor([0, 2]))
    seen = [(rows.tolist(), values[0].tolist()) for rows, values in replay]
    assert seen == [([1], [32.0]), ([1], [31.0]), ([0, 1], [10.0, 30.0])]
