"""Files from anywhere run no code: real attempts, through the commands that a user types."""

import json
import os
from pathlib import Path

import pytest
import yaml

import fastad
from fastad.base.errors import UserError
from fastad.base.files import digest, read_json, write_json
from fastad.base.trust import VARIABLE
from fastad.cli import main
from fastad.envs.registry import runs_code
from fastad.training.run_files import FIXED, MANIFEST
from tests.conftest import build_dataset

TRAP = """
import pathlib
pathlib.Path({mark!r}).touch()

def run(*arguments, **options):
    pathlib.Path({mark!r}).touch()
"""
SMALL = {"updates": 2, "width": 8, "num_heads": 2, "num_layers": 1, "context": 8, "window": 8}


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A module that leaves this mark lies where the commands are typed: nothing may import it."""
    mark = tmp_path / "pwned"
    (tmp_path / "trap.py").write_text(TRAP.format(mark=str(mark)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(VARIABLE, raising=False)
    yield mark
    assert not mark.exists(), "code ran that a file named"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A dataset and a run of it, harmless as yet."""
    where = tmp_path_factory.mktemp("harmless")
    fastad.collect(
        out=where / "data", env_options={"size": 3, "episode_length": 4}, num_histories=8,
        num_episodes=3, num_test_tasks=2, num_validation_tasks=2,
    )  # fmt: skip
    fastad.train(data=where / "data", out=where / "run", batch_size=2, kernels="sdpa", **SMALL)
    return where


def forge(folder: Path, **changes: object) -> None:
    """Change what a dataset.json says, as somebody would who wants it to look whole."""
    file = folder / "dataset.json"
    write_json(file, read_json(file, fix="") | changes, seal=True)


def forge_run(run: Path, **changes: object) -> None:
    forge(run / "dataset", **changes)
    digests = {name: digest((run / name).read_bytes()) for name in FIXED}
    write_json(run / MANIFEST, {"files": digests}, seal=True)


@pytest.fixture
def copies(folders, tmp_path, mark):
    """Copies of both, to be forged."""
    import shutil

    for name in ("data", "run"):
        shutil.copytree(folders / name, tmp_path / name)
    return tmp_path


PWNED = {"command": "touch pwned"}
CALLS = {
    "a function": {"env": "os:system", "env_kwargs": PWNED},
    "a module that lies there": {"env": "trap:run", "env_kwargs": {}},
    "one that registers environments": {"env": "gym:trap:Trap-v0", "env_kwargs": {}},
    "a source": {"source": "sb3:trap:run", "source_kwargs": {}},
    "an option of a source": {
        "source": "sb3:PPO",
        "source_kwargs": {"policy_kwargs": {"features_extractor_class": "trap:run"}},
    },
    "one within lists": {
        "source": "sb3:PPO",
        "source_kwargs": {"policy_kwargs": {"net_arch": [{"pi": ["trap:run"]}]}},
    },
}


@pytest.mark.parametrize("changes", CALLS.values(), ids=CALLS)
def test_code_that_a_dataset_or_a_run_names_is_shown_and_not_run(copies, capsys, changes):
    forge(copies / "data", **changes)
    forge_run(copies / "run", **changes)
    name = next(n for n in ("os:system", "gym:trap:Trap-v0", "sb3:trap:run", "trap:run")
                if n in json.dumps(changes))  # fmt: skip
    for folder in ("data", "run"):
        assert main(["inspect", folder, *(["--tokens"] if folder == "data" else [])]) == 0
        assert name.split(":")[-1] in capsys.readouterr().out
        assert main(["inspect", folder, "--verify"]) == 0
    for command in (
        ["train", "data", "--out", "new", "--updates", "1"],
        ["rollout", "run", "--json", "out.json"],
        ["compare", "run"],
        ["rollout", "run", "--prompt-from", "data", "--json", "out.json"],
    ):
        capsys.readouterr()
        assert main(command) == 2, command
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"--trust {name}" in line
        assert not (copies / "new").exists()
        assert not (copies / "out.json").exists()


def test_a_config_that_names_code_is_refused_until_it_is_typed(copies, capsys):
    Path("config.yaml").write_text(
        yaml.safe_dump({"command": "collect", "env": "trap:run", "env_options": ["size=3"]})
    )
    assert main(["collect", "new", "--config", "config.yaml"]) == 2
    assert "--trust trap:run" in capsys.readouterr().err
    # A folder may be called anything; what is typed as a path is no name of code.
    Path("trap:run").mkdir()
    assert main(["collect", "trap:run", "--config", "config.yaml"]) == 2
    assert "--trust trap:run" in capsys.readouterr().err


def test_a_file_cannot_say_that_it_is_to_be_trusted(copies, capsys):
    Path("config.yaml").write_text(yaml.safe_dump({"env": "trap:run", "trust": "trap:run"}))
    assert main(["collect", "new", "--config", "config.yaml"]) == 2
    assert "trust" in capsys.readouterr().err


def test_a_model_is_of_no_environment_but_ours(copies, capsys):
    (checkpoint,) = (copies / "run" / "checkpoints").iterdir()
    description = json.loads((checkpoint / "model.json").read_bytes())
    content = json.dumps(description | {"env": "trap:run", "env_kwargs": {}}).encode()
    (checkpoint / "model.json").write_bytes(content)
    manifest = read_json(checkpoint / MANIFEST, fix="")
    manifest["files"]["model.json"] = {"bytes": len(content), "digest": digest(content)}
    write_json(checkpoint / MANIFEST, manifest, seal=True)
    assert main(["rollout", "run", "--json", "out.json"]) == 2
    assert "unknown env 'trap:run'" in capsys.readouterr().err


OWN = """
import gymnasium as gym

class Corridor(gym.Env):
    observation_space, action_space = gym.spaces.Discrete(4), gym.spaces.Discrete(2)

    def __init__(self, goal=3):
        self.goal = goal

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return 0, {}

    def step(self, action):
        self.place = min(3, max(0, self.place + (1 if action else -1)))
        return self.place, float(self.place == self.goal), False, False, {}
"""
COLLECT = [
    "collect", "data", "--env", "corridor:Corridor", "--env-options",
    "tasks=[{goal: 0}, {goal: 1}, {goal: 2}, {goal: 3}]", "episode_length=4", "--source",
    "q-learning", "--num-histories", "4", "--num-episodes", "4", "--num-test-tasks", "1",
]  # fmt: skip
TRAIN = [
    "train", "data", "--out", "run", "--updates", "1", "--width", "8", "--num-layers", "1",
    "--num-heads", "2", "--batch-size", "2", "--kernels", "sdpa", "--context", "8",
    "--eval-every", "0",
]  # fmt: skip
ROLLOUT = [
    "rollout",
    "run",
    "--episodes",
    "1",
    "--rollouts-per-task",
    "1",
    "--kernels",
    "sdpa",
    "--json",
    "out.json",
]


def test_what_the_user_collected_needs_no_flag_and_what_comes_from_elsewhere_needs_it_once(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "corridor.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for command in (COLLECT, TRAIN, ROLLOUT):
        assert main(command) == 0
    capsys.readouterr()
    # As it looks to somebody else.
    for folder, kept in (("other", True), ("another", False)):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / folder))
        monkeypatch.setattr("fastad.base.trust._asked", set())
        assert main(ROLLOUT) == 2
        assert "env=corridor:Corridor" in capsys.readouterr().err
        flag = ["--trust", "corridor:Corridor"] if kept else ["--env", "corridor:Corridor"]
        assert main([*ROLLOUT, *flag]) == 0
        assert main(ROLLOUT) == 0


def test_the_same_name_with_other_arguments_or_in_another_place_is_other_code(
    tmp_path, monkeypatch
):
    from fastad.base.trust import Call

    def call(**arguments: object) -> str:
        return Call("env", ("corridor:Corridor",), arguments).digest

    monkeypatch.setattr("sys.path", [])  # other tests' folders are there, too
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "corridor.py").write_text(OWN)
    monkeypatch.chdir(tmp_path / "here")
    here = call(goal=1)
    assert here == call(goal=1) != call(goal=2)
    monkeypatch.chdir(tmp_path / "there")
    assert call(goal=1) != here


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_what_others_may_write_to_is_not_believed(tmp_path, monkeypatch):
    from fastad.base import trust

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(trust, "_asked", set())
    call = trust.Call("env", ("a:b",), {})
    trust.remember([call])
    monkeypatch.setattr(trust, "_asked", set())
    trust.check_calls([call], "here")
    (tmp_path / "fastad" / "calls").chmod(0o666)
    with pytest.raises(UserError, match="names code"):
        trust.check_calls([call], "here")


def test_gymnasiums_own_small_environments_need_no_trust():
    assert not runs_code("dark-room")
    assert not runs_code("gym:CartPole-v1")
    assert runs_code("gym:Ant-v5")  # reads files that its arguments name
    assert runs_code("gym:Nobody-v0")
    assert runs_code("gym:trap:CartPole-v1")
    assert runs_code("gymnasium:make")


def test_tasks_in_a_file_elsewhere_are_not_read(tmp_path, capsys):
    build_dataset(tmp_path / "data", env="gym:CartPole-v1", env_kwargs={"tasks": "/etc/tasks.json"})
    assert main(["inspect", str(tmp_path / "data")]) == 2
    assert "is a file elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize("link", ["tasks.npy", "dataset.json"])
def test_links_out_of_a_dataset_are_not_followed(tmp_path, capsys, link):
    build_dataset(tmp_path / "data")
    (tmp_path / "outside").write_bytes((tmp_path / "data" / link).read_bytes())
    (tmp_path / "data" / link).unlink()
    (tmp_path / "data" / link).symlink_to(tmp_path / "outside")
    assert main(["inspect", str(tmp_path / "data")]) == 2
    assert "symbolic link" in capsys.readouterr().err
