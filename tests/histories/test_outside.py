"""Histories of environments from outside, from their collection to a rollout."""

from pathlib import Path

import pytest
import torch

from fastad.api.gather import how_to_finish
from fastad.base.errors import UserError
from fastad.configs import CollectConfig
from fastad.envs.registry import make_family
from fastad.histories.jobs import collect
from fastad.histories.reader import HistoryDataset, load_info
from fastad.spaces import unpack

CARTPOLE = {"tasks": {"length": [0.3, 1.5], "masspole": [0.05, 0.5]}, "episode_length": 60}


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "envs")


def gather(path, env="gym:CartPole-v1", env_kwargs=CARTPOLE, **changes):
    settings = {
        "source": "random", "num_histories": 6, "num_episodes": 4, "num_train": 3, "num_test": 2,
    } | changes  # fmt: skip
    collect(path, env=env, env_kwargs=env_kwargs, **settings)
    return HistoryDataset(path)


@pytest.mark.parametrize("source", ["random", "dqn", "a2c"])
def test_sources_learn_cartpole_of_varied_physics(source, tmp_path):
    dataset = gather(tmp_path / "data", source=source)
    assert dataset.complete
    assert dataset.tasks.shape == (3 + 1 + 2, 2)
    steps = dataset.read(0, 0, 240)
    assert steps["observation"].shape == (240, 4)
    assert (steps["reward"] == 1).all()
    # Poles fall: every history has more than its four full-length episodes.
    assert len(dataset.episode_bounds(0)) > 4
    assert dataset.info.env_kwargs == CARTPOLE


def test_tables_learn_what_is_numbered(tmp_path):
    """A corridor's goal is a step or two to the left, or nowhere: every source goes left."""
    kwargs = {"tasks": [{"goal": 0, "reward": 1 + n / 100} for n in range(6)], "episode_length": 8}
    learner = {"source": "q-learning", "num_episodes": 60}
    dataset = gather(tmp_path, env="outside:Corridor", env_kwargs=kwargs, **learner)
    for history in range(6):
        last = dataset.read(history, 400, 480)
        # From cells 1, 2 and 3 in turn the goal is 2 steps away, on average.
        assert last["reward"].mean() > 0.3


def test_the_same_again_byte_for_byte_and_in_several_processes(tmp_path):
    first = gather(tmp_path / "a", source="dqn", shards=2)
    gather(tmp_path / "b", source="dqn", shards=2, workers=2)
    for file in first.path.rglob("*.npy"):
        other = tmp_path / "b" / file.relative_to(first.path)
        assert file.read_bytes() == other.read_bytes()


def test_a_file_of_tasks_may_be_gone_when_the_histories_are_read(tmp_path):
    file = tmp_path / "tasks.yaml"
    file.write_text("".join(f"- {{masspole: 0.{n}}}\n" for n in range(1, 8)))
    kwargs = {"tasks": str(file), "episode_length": 20}
    dataset = gather(tmp_path / "data", env_kwargs=kwargs)
    file.unlink()
    info = load_info(tmp_path / "data")
    assert info.env_kwargs["tasks"][6] == {"masspole": 0.7}
    row = torch.from_numpy(dataset.tasks[0])
    built = make_family(info.env, **info.env_kwargs).build(row)
    assert built.unwrapped.masspole == 0.1 * (1 + row.item())
    assert 'tasks=[{"masspole": 0.1}' in how_to_finish(tmp_path, info).replace("'", "")


def test_packed_observations_are_stored(tmp_path):
    kwargs = {"tasks": "seeds", "observe": "cell,picture,pose", "episode_length": 9}
    dataset = gather(tmp_path, env="outside:Mixed", env_kwargs=kwargs)
    packed = torch.tensor(dataset.read(0, 0, 36)["observation"])
    seen = unpack(dataset.info.observation_space, packed)
    assert seen["picture"].shape == (36, 2, 3)
    assert torch.equal(seen["picture"][:, 0, 0].long(), 10 * seen["cell"])
    assert torch.equal(seen["pose.0"][:, 0], seen["cell"] / 4)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"episode_length": 60}, "tasks is needed: gym:CartPole-v1 alone is one task"),
        (CARTPOLE | {"lenght": 3}, "did you mean 'length'"),
    ],
)
def test_what_cannot_be_learned_is_refused_before_anything_is_written(kwargs, words, tmp_path):
    with pytest.raises(UserError, match=words):
        gather(tmp_path / "data", env_kwargs=kwargs)
    assert not (tmp_path / "data").exists()


def test_the_folder_of_an_environment_has_a_plain_name():
    assert CollectConfig(env="gym:CartPole-v1").folder == Path("data/gym-CartPole-v1")
    assert CollectConfig(env="my_envs:Maze").folder == Path("data/my_envs-Maze")
