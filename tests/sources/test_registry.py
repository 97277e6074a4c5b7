from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastad.base.errors import UserError
from fastad.envs.grid import GridEnv
from fastad.envs.registry import make_family
from fastad.sources.base import Source
from fastad.sources.registry import SOURCES, make_source, source_options

BANDIT_RULES = ["ucb1", "epsilon-greedy", "thompson"]
GRID_LEARNERS = ["q-learning", "actor-critic", "ucbvi", "frontier"]
NEURAL = ["a2c", "a3c", "dqn"]
EXPERTS = ["expert", "noise"]
GRIDS = ["dark-room", "dark-room-hard", "dark-room-permuted", "dark-key-to-door"]
FIELDS = {"dark-room-permuted": 3, "dark-key-to-door": 4}


def make(source: str, env: str, **options: Any) -> Source:
    generator = torch.Generator().manual_seed(0)
    if env.endswith("bandit"):
        tasks = torch.rand(2, 10, generator=generator)
    else:
        tasks = torch.zeros(2, FIELDS.get(env, 2), dtype=torch.int64)
    batch = make_family(env).make(tasks, generator)
    return make_source(source, batch, num_episodes=2, generator=generator, **options)


def test_an_unknown_source_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="unknown source 'q-lerning'; did you mean 'q-learning'"):
        make("q-lerning", "dark-room")


def test_an_unknown_option_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="'learnig_rate'; did you mean 'learning_rate'"):
        make("q-learning", "dark-room", learnig_rate=1.0)
    with pytest.raises(UserError, match="'frontier' has no options; remove 'depth'"):
        make("frontier", "dark-room", depth=1)


@pytest.mark.parametrize("source", BANDIT_RULES)
def test_bandit_rules_refuse_grids_and_name_what_fits(source: str) -> None:
    with pytest.raises(UserError, match="choose one of: q-learning, actor-critic, ucbvi, frontier"):
        make(source, "dark-room")


@pytest.mark.parametrize("source", GRID_LEARNERS)
def test_grid_learners_refuse_bandits_and_name_what_fits(source: str) -> None:
    with pytest.raises(UserError, match="choose one of: ucb1, epsilon-greedy, thompson"):
        make(source, "gaussian-bandit")


def test_eliminate_learns_watermaze_alone() -> None:
    with pytest.raises(UserError, match="source 'eliminate' cannot learn env 'dark-room'"):
        make("eliminate", "dark-room")
    with pytest.raises(UserError, match=r"choose one of: .*eliminate, expert, noise, random"):
        make("frontier", "watermaze")


def test_every_source_is_tested_here() -> None:
    assert list(SOURCES) == [
        *(*BANDIT_RULES, *GRID_LEARNERS, *NEURAL),
        *("eliminate", *EXPERTS, "random"),
    ]


def test_options_are_those_of_the_constructor() -> None:
    assert source_options("ucbvi") == {"bonus": 0.5}
    assert source_options("frontier") == {}


@pytest.mark.parametrize("env", GRIDS)
@pytest.mark.parametrize("source", [*GRID_LEARNERS, *NEURAL, *EXPERTS, "random"])
def test_distributions_sum_to_one_and_allow_the_action(
    learn: Callable[..., Any], env: str, source: str
) -> None:
    tasks = torch.tensor([[0, 1, 2, 0][: FIELDS.get(env, 2)]]).repeat(30, 1)
    run = learn(env, source, tasks=tasks, num_episodes=3)
    probs = run.history.policy
    torch.testing.assert_close(probs.sum(-1), torch.ones(probs.shape[:2]))
    assert (probs.gather(-1, run.history.action[..., None]) > 0).all()


@pytest.mark.parametrize("source", [*BANDIT_RULES, *NEURAL, *EXPERTS, "random"])
def test_bandit_distributions_sum_to_one_and_allow_the_action(
    learn: Callable[..., Any], source: str
) -> None:
    tasks = torch.rand(30, 10, generator=torch.Generator().manual_seed(1))
    probs = (run := learn("bernoulli-bandit", source, tasks=tasks, num_episodes=40)).history[5]
    torch.testing.assert_close(probs.sum(-1), torch.ones(30, 40))
    assert (probs.gather(-1, run.history.action[..., None]) > 0).all()


@pytest.mark.parametrize("source", ["q-learning", "actor-critic", "ucbvi"])
def test_tabula_rasa_learners_are_told_no_rules(
    learn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    def told(self: GridEnv) -> None:
        raise AssertionError("asked for the rules")

    monkeypatch.setattr(GridEnv, "_transitions", told)
    learn("dark-room", source, num_episodes=2)


ONCE, TWICE = (f"that an episode pays {often} at most" for often in ("once", "2 times"))
EXPERT = "the task, as the environment's expert"
PRIOR = "; the prior Beta(1, 1) of the arms' means"


@pytest.mark.parametrize(
    ("source", "env", "knows"),
    [
        ("ucb1", "gaussian-bandit", "the standard deviation of the rewards"),
        ("ucb1", "bernoulli-bandit", "that rewards lie in [0, 1]"),
        ("ucb1", "adversarial-bandit", "that rewards lie in [0, 1]"),
        ("epsilon-greedy", "gaussian-bandit", "how many pulls there will be"),
        ("epsilon-greedy", "bernoulli-bandit", "how many pulls there will be"),
        (
            "thompson",
            "gaussian-bandit",
            "the standard deviation of the rewards; the mean and variance, 1/2 and 1/12, of the "
            "arms' means",
        ),
        ("thompson", "bernoulli-bandit", "that rewards are 0 or 1" + PRIOR),
        ("thompson", "adversarial-bandit", "that rewards are 0 or 1" + PRIOR),
        ("q-learning", "dark-room", ""),
        ("q-learning", "dark-room-hard", ONCE),
        ("q-learning", "dark-key-to-door", TWICE),
        ("actor-critic", "dark-room-permuted", ""),
        ("actor-critic", "dark-key-to-door", TWICE),
        ("ucbvi", "dark-room", "that rules and rewards are deterministic; how long episodes last"),
        (
            "ucbvi",
            "dark-key-to-door",
            f"that rules and rewards are deterministic; how long episodes last; {TWICE}",
        ),
        ("frontier", "dark-room", "the movement rules, not the reward"),
        ("frontier", "dark-key-to-door", f"the movement rules, not the reward; {TWICE}"),
        ("a2c", "dark-room", "what 3 other actors experience"),
        ("a2c", "dark-room-hard", f"{ONCE}; what 3 other actors experience"),
        ("dqn", "dark-room", "how many steps there will be"),
        (
            "a2c",
            "watermaze",
            "place and heading, as codes; what 3 other actors experience",
        ),
        ("dqn", "watermaze", "place and heading, as codes; how many steps there will be"),
        ("expert", "dark-room", EXPERT),
        ("expert", "bernoulli-bandit", EXPERT),
        ("noise", "dark-key-to-door", f"{EXPERT}; how many steps there will be"),
        (
            "eliminate",
            "watermaze",
            "its pose, the movement rules and how large the platform is, not where",
        ),
        ("expert", "watermaze", EXPERT),
        ("random", "dark-key-to-door", ""),
        ("random", "gaussian-bandit", ""),
    ],
)
def test_sources_say_what_they_are_told_beyond_what_they_experience(
    source: str, env: str, knows: str
) -> None:
    assert make(source, env).knows == knows


@pytest.mark.parametrize("source", GRID_LEARNERS)
def test_learners_are_independent_though_episodes_differ_in_length(
    learn: Callable[..., Any], source: str
) -> None:
    # The first learner's own task stays; the others' goals move, and with them the moments at
    # which their episodes end.
    shape = {"size": 5, "episode_length": 12, "terminate_on_goal": True}
    near = torch.tensor([[0, 1], [2, 1], [2, 3], [1, 2]])
    far = torch.tensor([[0, 1], [0, 0], [4, 4], [4, 0]])
    one, other = (
        learn("dark-room-hard", source, tasks=tasks, env_kwargs=shape, num_episodes=30)
        for tasks in (near, far)
    )
    assert not torch.equal(one.history.terminated[1], other.history.terminated[1])
    for mine, theirs in zip(one.history, other.history, strict=True):
        assert torch.equal(mine[0], theirs[0])


def test_bandit_learners_are_independent(learn: Callable[..., Any]) -> None:
    tasks = torch.rand(3, 4, generator=torch.Generator().manual_seed(1))
    changed = torch.cat((tasks[:1], 1 - tasks[1:]))
    for source in BANDIT_RULES:
        one, other = (
            learn(
                "gaussian-bandit", source, tasks=t, env_kwargs={"num_arms": 4}, num_episodes=50
            ).history
            for t in (tasks, changed)
        )
        assert torch.equal(one.action[0], other.action[0])
        assert not torch.equal(one.reward[1], other.reward[1])


def test_random_acts_uniformly_from_first_to_last(learn: Callable[..., Any]) -> None:
    history = learn("dark-room", "random", num_episodes=40).history
    assert (history.policy == 0.2).all()
    frequency = torch.bincount(history.action.flatten(), minlength=5) / history.action.numel()
    # Five standard deviations: 5 * sqrt(0.2 * 0.8 / 64,000) = 0.008.
    torch.testing.assert_close(frequency, torch.full((5,), 0.2), atol=0.008, rtol=0)
