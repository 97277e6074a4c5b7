"""A result keeps what was measured, and gives it back as a file, a table and a picture."""

import builtins
import json
from dataclasses import fields, replace

import numpy as np
import pytest

from fastad.base.errors import UserError
from fastad.evaluate.result import Result


@pytest.fixture
def noisy(rooms, result_on):
    rooms = replace(rooms, info=replace(rooms.info, action_noise=0.5))
    return result_on(rooms, 3, run="runs/x", trained_episodes=2, keep_actions=True)


def same(one, other):
    """Whether two values are equal, arrays to the last bit and by their dtypes."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if hasattr(one, "returns"):
        return same(one.returns, other.returns) and same(one.regret, other.regret)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


def test_a_file_gives_back_the_very_result(noisy, tmp_path):
    noisy.save(tmp_path / "new" / "result.json")
    loaded = Result.load(tmp_path / "new" / "result.json")
    for field in fields(Result):
        assert same(getattr(noisy, field.name), getattr(loaded, field.name)), field.name
    assert loaded.figures() == noisy.figures()


def test_a_file_of_bandits_gives_back_regret_and_arm_means(arms, result_on, tmp_path):
    result = result_on(arms, 5)
    result.save(tmp_path / "result.json")
    loaded = Result.load(tmp_path / "result.json")
    assert loaded.tasks.tolist() == [[0.0, 1.0]]
    assert same(loaded.regret, result.regret)
    assert same(loaded.baselines["source"].regret, result.baselines["source"].regret)
    assert loaded.actions is None


def test_returns_are_those_of_every_rollout_and_actions_those_of_every_step(noisy):
    assert noisy.returns.shape == (6, 3)
    assert (noisy.num_tasks, noisy.rollouts_per_task, noisy.num_episodes) == (2, 3, 3)
    assert noisy.task_returns.shape == (2, 3)
    assert noisy.actions.shape == (6, 18)
    assert {*noisy.actions.ravel().tolist()} <= {0, 1, 2, 3, 4}
    assert noisy.baselines.keys() == {"source", "source_clean", "random"}


def test_a_data_frame_has_a_row_per_rollout_and_episode(noisy):
    pytest.importorskip("pandas")
    frame = noisy.to_pandas()
    assert len(frame) == 6 * 3
    row = frame.query("task == 1 and rollout == 2 and episode == 3")
    assert row["return"].tolist() == [noisy.returns[5, 2]]
    assert row["method"].tolist() == ["ad"]
    np.testing.assert_allclose(
        frame.groupby(["episode", "task"])["return"].mean().unstack().T, noisy.task_returns
    )


def test_without_pandas_the_way_to_install_it_is_told(noisy, monkeypatch):
    original = builtins.__import__

    def refuse(name, *arguments, **settings):
        if name == "pandas":
            raise ImportError("No module named 'pandas'")
        return original(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"tables need pandas.* -m pip install .*\[pandas\]"):
        noisy.to_pandas()


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_a_picture_is_written_as_its_name_says(noisy, tmp_path, suffix):
    file = tmp_path / "new" / f"returns{suffix}"
    figure = noisy.plot(file)
    start = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[suffix]
    assert file.read_bytes().startswith(start)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "episode in context"


def test_a_picture_shows_ours_the_source_the_levels_and_what_lies_beyond_training(noisy):
    (axes,) = noisy.plot().axes
    curves = {line.get_label(): line for line in axes.lines}
    ours = curves["algorithm distillation, 95 % interval"]
    assert list(ours.get_ydata()) == noisy.figures()["returns"]
    assert any("50% random actions" in label for label in curves)
    assert "the same source without random actions" in curves
    texts = [text.get_text() for text in axes.texts]
    assert "optimal 5.50" in texts
    assert "beyond training windows" in texts
    assert any(text.startswith("random ") for text in texts)


def test_a_picture_of_many_times_the_training_windows_has_a_logarithmic_axis(rooms, result_on):
    result = result_on(rooms, 21, trained_episodes=2)
    (axes,) = result.plot().axes
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "5", "10", "20"]
    assert axes.get_xlim()[1] > 21
    assert axes.get_xlabel() == "episode in context"
    (axes,) = replace(result, trained_episodes=3).plot().axes
    assert axes.get_xscale() == "linear"


def test_a_long_rollout_is_drawn_as_means_of_neighbouring_episodes(rooms, result_on):
    result = result_on(rooms, 2, trained_episodes=1)
    rising = np.tile(np.arange(1.0, 401.0, dtype=np.float32), (6, 1))  # episode e returns e
    (axes,) = replace(result, returns=rising).plot().axes
    (ours,) = (line for line in axes.lines if line.get_label().startswith("algorithm"))
    episodes, returns = ours.get_data()
    assert len(returns) <= 100
    assert list(returns[:4]) == [1, 2, 3, 4]
    np.testing.assert_allclose(returns, episodes)
    assert 380 < episodes[-1] < 400
    assert axes.get_xlabel() == "episode in context, neighbours averaged"


def test_a_source_that_knows_much_is_told_in_lines(noisy):
    legend = replace(noisy, source_knows="everything " * 20).plot().legends[0]
    lines = [line for text in legend.get_texts() for line in text.get_text().splitlines()]
    assert max(map(len, lines)) <= 95
    assert any("50% random actions" in line for line in lines)


def test_conditions_that_are_long_are_drawn_in_lines(noisy):
    prompted = replace(noisy, prompt=f"episodes 0:5 of {'x' * 60}", prompt_return=1.0)
    (axes,) = prompted.plot().axes
    lines = axes.get_title(loc="left").splitlines()
    assert " ".join(lines) == prompted.conditions
    assert max(map(len, lines)) <= 95


def test_a_picture_of_one_task_without_source_optimum_and_chance_is_drawn(rooms, result_on):
    result = result_on(replace(rooms, tasks=rooms.tasks[:1]), 2)
    (axes,) = replace(result, optimal_return=None, baselines={}).plot().axes
    assert [line.get_label() for line in axes.lines] == ["algorithm distillation"]
    assert not axes.texts


def test_a_picture_of_another_kind_is_refused_before_it_is_drawn(noisy, tmp_path):
    with pytest.raises(UserError, match=r"path=.*returns.gif is of no kind"):
        noisy.plot(tmp_path / "returns.gif")


def test_a_file_that_holds_no_result_says_what_to_do(noisy, tmp_path):
    file = tmp_path / "result.json"
    with pytest.raises(UserError, match="does not exist; name a file that `fastad rollout`"):
        Result.load(file)
    file.write_text('{"config": 1}')
    with pytest.raises(UserError, match=r"holds no result \('rollout_returns'\)"):
        Result.load(file)
    file.write_text(json.dumps({"returns": [1.0], "task_returns": [[1.0]], "tasks": [[0, 0]]}))
    with pytest.raises(UserError, match="kept means alone, not every rollout; roll out again"):
        Result.load(file)


def test_a_result_whose_rollouts_do_not_fit_its_tasks_is_refused(noisy, tmp_path):
    with pytest.raises(UserError, match="5 rollouts are not as many for each of 2 tasks"):
        replace(noisy, returns=noisy.returns[:5])
    with pytest.raises(UserError, match=r"returns \(6, 0\) and tasks \(2, 2\) must be"):
        replace(noisy, returns=noisy.returns[:, :0])
