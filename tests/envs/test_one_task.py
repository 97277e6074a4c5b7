import pytest
import torch
from gymnasium.utils.env_checker import check_env

from fastad.envs.one_task import OneTask
from fastad.envs.registry import make_family

FAMILIES = ["gaussian-bandit", "dark-room", "dark-key-to-door", "point-mass", "watermaze"]


def a_task(name, **options):
    family = make_family(name, **options)
    tasks = family.tasks()
    return family, (family.sample(1, "train", torch.Generator()) if tasks is None else tasks)[0]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore:.*render.*:UserWarning")
def test_gymnasium_finds_nothing_wrong(name):
    check_env(OneTask(*a_task(name)), skip_render_check=True)


def test_episodes_are_those_of_the_batched_environment():
    """In Key-to-Door an episode begins where it is drawn to, and ends when the door is opened."""
    family, task = a_task("dark-key-to-door", size=5, episode_length=3)
    generator = torch.Generator()
    batch, env = family.make(task[None], generator), OneTask(family, task)
    generator.manual_seed(7)
    seen, expected = env.reset(seed=7)[0], batch.reset()
    for action in [1, 2, 3, 4, 0, 1, 2, 3]:
        assert seen.tolist() == expected[0].tolist() == env.stored[0].tolist()
        expected, _, terminated, truncated = batch.step(torch.tensor([action]))
        seen, _, *flags, _ = env.step(action)
        assert flags == [terminated.item(), truncated.item()]
        if any(flags):
            assert seen.tolist() == batch.final_observation[0].tolist()
            seen = env.reset()[0]


def test_what_is_seen_is_shown_and_what_is_stored_is_not():
    env = OneTask(*a_task("watermaze"))
    frame = env.reset(seed=0)[0]
    assert env.observation_space.contains(frame)
    assert env.stored[0].shape == env._env.observation_space.shape != frame.shape
