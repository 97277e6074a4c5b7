"""What CONTRIBUTING.md says of adding things is all it takes: each is one short file and a line."""

import warnings
from pathlib import Path

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import fastad
from fastad.base.errors import UserError
from fastad.commands.collect import print_summary
from fastad.envs.registry import register_envs
from fastad.evaluate.table import print_table

TESTS = Path(__file__).parent
MODEL = {"width": 16, "num_layers": 1, "context": 16}

pytestmark = pytest.mark.usefixtures("added")


def collect(tmp_path, source, **changes):
    settings = {"env": "combination-lock", "num_histories": 30, "num_test_tasks": 3} | changes
    return fastad.collect(out=tmp_path / source, source=source, **settings)


@pytest.mark.parametrize("name", ["envs/combination_lock.py", "sources/win_stay.py"])
def test_each_is_one_file_of_at_most_sixty_lines(name):
    assert len((TESTS / name).read_text().splitlines()) <= 60


def test_an_environment_and_a_source_go_all_the_way_to_a_result(tmp_path, capsys):
    dataset = collect(tmp_path, "win-stay", num_episodes=40, source_options={"epsilon": 0.05})
    print_summary(dataset)
    assert "in the first episode" in capsys.readouterr().out

    run = fastad.train(data=dataset, out=tmp_path / "run", updates=3, window=80, **MODEL)
    result = fastad.rollout(run, episodes=4, rollouts_per_task=2)
    assert result.returns.shape == (6, 4)
    assert result.optimal_return is None
    print_table(result)
    assert "optimal -" in capsys.readouterr().out
    result.plot(tmp_path / "returns.png")
    assert (tmp_path / "returns.png").exists()
    result.save(tmp_path / "result.json")
    assert fastad.Result.load(tmp_path / "result.json").optimal_return is None


def test_an_added_source_learns_an_added_environment(tmp_path):
    dataset = collect(tmp_path, "win-stay", num_episodes=200, source_options={"epsilon": 0.0})
    returns = dataset.returns(range(30)).mean
    # At random a lock is opened in 8 presses more often than not; once opened, always.
    assert 0.3 < returns[:3].mean() < 0.8
    assert (returns[-5:] == 1.0).all()


def test_sources_that_are_there_learn_an_added_environment(tmp_path):
    returns = collect(tmp_path, "q-learning", num_episodes=60).returns(range(30)).mean
    assert returns[-5:].mean() > 0.9


def test_sources_that_need_to_know_more_refuse_an_added_environment(tmp_path):
    for source in ("frontier", "ucbvi", "thompson"):
        fitting = "choose one of: q-learning, actor-critic, a2c, a3c, dqn, random, win-stay"
        with pytest.raises(UserError, match=f"cannot learn env 'combination-lock'; {fitting}"):
            collect(tmp_path, source)


def test_options_of_an_added_environment_are_checked(tmp_path):
    with pytest.raises(UserError, match="'lenght'; did you mean 'length'"):
        collect(tmp_path, "random", env_options={"lenght": 3})
    with pytest.raises(UserError, match="length=1 is not possible; use 2 or more"):
        collect(tmp_path, "random", env_options={"length": 1})


def test_gymnasium_knows_an_added_environment():
    register_envs()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(gymnasium.make("fastad/CombinationLock-v0").unwrapped)
        env = gymnasium.make("fastad/CombinationLock-v0", task=[2, 1], render_mode="ansi")
        env.reset()
        assert [env.step(button)[:3] for button in (2, 1)] == [(1, 0.0, False), (2, 1.0, True)]
        assert env.render() == "2 in task [2, 1]\n"
        assert env.metadata["render_modes"] == ["ansi"]
        with pytest.raises(UserError, match="unknown render_mode 'rgb_array'; choose one of: ansi"):
            gymnasium.make("fastad/CombinationLock-v0", render_mode="rgb_array")
    finally:
        del gymnasium.registry["fastad/CombinationLock-v0"]
