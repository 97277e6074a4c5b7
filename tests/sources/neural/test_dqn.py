"""DQN on probes with known values, and as it acts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastad.base.errors import UserError
from fastad.sources.neural.dqn import DQN
from fastad.sources.visited import Visited
from tests.sources.neural.probes import PictureProbe, Probe, assert_learned, probe

QUICK = {"steps_per_update": 1, "batch_size": 32, "target_rate": 0.2}
# Tries every action to the end: what is learned is off policy.
RANDOM = QUICK | {"final_epsilon": 1.0}


def q_values(learner: DQN) -> Tensor:
    """Of both observations and both actions, (M, 2, 2)."""
    vectors = learner.inputs(torch.tensor([0, 1]), torch.zeros(2, dtype=torch.int64))
    return learner.network.forward(vectors.expand(learner.num_learners, -1, -1))[-1]


def test_the_value_of_a_reward_that_always_comes_is_that_reward() -> None:
    learner, _ = probe(DQN, Probe("always"), num_episodes=300, **RANDOM)
    assert_learned(q_values(learner), torch.ones(16, 2, 2))


@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_reward_is_discounted_by_the_steps_to_it(num_steps: int) -> None:
    family = Probe("end", episode_length=2)
    learner, _ = probe(DQN, family, num_episodes=300, gamma=0.5, num_steps=num_steps, **RANDOM)
    expected = torch.tensor([[0.5, 0.5], [1.0, 1.0]]).expand(16, 2, 2)
    assert_learned(q_values(learner), expected)


@pytest.mark.parametrize("double", [True, False])
def test_a_time_limit_bootstraps_where_termination_does_not(double: bool) -> None:
    family = Probe("always", truncates=True)
    learner, _ = probe(DQN, family, num_episodes=400, gamma=0.5, double=double, **RANDOM)
    # 1 + 0.5 + 0.25 + ... = 2, more where the maximum is taken of noisy values.
    assert_learned(q_values(learner), torch.full((16, 2, 2), 2.0))


def test_the_value_of_an_action_is_what_it_pays_in_the_learner_s_own_task() -> None:
    learner, _ = probe(DQN, Probe("action"), num_episodes=300, **RANDOM)
    tasks = torch.tensor([0, 1]).repeat(8)
    expected = torch.nn.functional.one_hot(tasks, 2).float()[:, None].expand(16, 2, 2)
    assert_learned(q_values(learner), expected)


@pytest.mark.parametrize("box", [False, True])
def test_every_learner_finds_the_action_that_its_observation_asks_for(box: bool) -> None:
    _, history = probe(DQN, Probe("seen", box=box), num_episodes=300, **QUICK)
    assert history.reward[:, -40:].mean() > 0.95


@pytest.mark.parametrize("stores_pictures", [False, True])
def test_every_learner_finds_the_action_that_a_picture_asks_for(stores_pictures: bool) -> None:
    family = PictureProbe(stores_pictures=stores_pictures)
    options = QUICK | {"learning_rate": 0.003, "filters": 4, "width": 16}
    learner, history = probe(DQN, family, num_episodes=300, sees="shown", **options)
    assert learner.knows == "how many steps there will be"
    assert history.reward[:, -40:].mean() > 0.95
    # Asked again, it would do so in every state that it was in.
    none = torch.zeros(16, 300, dtype=torch.int64)
    would = learner.would_act(Visited(history.observation, phase=none, episode_step=none))
    paid = (history.reward == 1)[..., None]
    acted = torch.nn.functional.one_hot(history.action, 2).bool()
    assert would.masked_select(acted == paid).mean() > 0.95


def test_codes_are_learned_from_by_default_and_said_to_be_told() -> None:
    learner, history = probe(DQN, PictureProbe(), num_episodes=300, **QUICK)
    assert learner.knows == "bit, as codes; how many steps there will be"
    assert history.reward[:, -40:].mean() > 0.95


def test_acts_greedily_but_for_epsilon_which_falls_by_steps() -> None:
    options = {"final_epsilon": 0.2, "decay_fraction": 0.5, "learning_rate": 0.0}
    _, history = probe(DQN, Probe("action"), num_episodes=10, **options)
    # Half of ten steps: from 1 to 0.2 in five. Half of epsilon falls to the other action.
    least = history.policy.amin(dim=-1)
    expected = torch.tensor([0.5, 0.42, 0.34, 0.26, 0.18, 0.1, 0.1, 0.1, 0.1, 0.1])
    torch.testing.assert_close(least, expected.expand(16, 10))


def test_returns_rise_in_dark_room(learn: Callable[..., Any]) -> None:
    shape = {"size": 5, "episode_length": 10}
    run = learn("dark-room", "dqn", env_kwargs=shape, num_episodes=100)
    means = run.returns.mean(dim=0)
    optimum = run.env.optimal_return().mean()  # 8.5
    assert means[:3].mean() < 0.2 * optimum
    assert means[-10:].mean() > 0.8 * optimum


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"double": 1}, "double=1 must be true or false"),
        ({"num_steps": 0}, "num_steps=0 must be a whole number, at least 1"),
        ({"replay_size": 4}, "replay_size=4 must be a whole number, at least 5"),
        ({"target_rate": 1.5}, "target_rate=1.5 must be a number between 0 and 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        probe(DQN, Probe(), num_episodes=1, **options)
