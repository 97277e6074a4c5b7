"""A comparison of seconds: what it does once, what it leaves, and how it goes on."""

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fastad.api.compare
from fastad import presets
from fastad.cli import main
from fastad.methods.ad import AlgorithmDistillation
from fastad.model.config import ModelConfig
from fastad.training.settings import TrainSettings

UPDATES = 6
METHODS = ["--methods", "ad", "expert-distillation", "ad-sampled"]
NAMES = {
    "returns", "interval", "source_returns", "random_return", "optimal_return", "train_seconds",
    "steps_per_second_cached", "seed", "versions",
}  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """A preset whose parts take a moment, from a source of two actors, with a variant."""
    room = presets.PRESETS["dark-room"]
    collect = replace(
        room.collect, env_options=("size=3", "episode_length=4"), source="a2c",
        source_options=("num_actors=2", "width=4"), num_histories=24, num_episodes=6,
        num_test_tasks=2, action_noise=0.0,
    )  # fmt: skip
    train = replace(
        room.train, model=ModelConfig(width=16, num_layers=1, context=24),
        settings=TrainSettings(updates=UPDATES, checkpoint_every=2, eval_every=0),
    )  # fmt: skip
    rollout = replace(room.rollout, run=Path("runs/tiny"), rollouts_per_task=3)
    variants = {"ad-sampled": {"target": "sampled"}}
    chosen = replace(room, collect=collect, train=train, rollout=rollout, variants=variants)
    monkeypatch.setitem(presets.PRESETS, "tiny", chosen)


@pytest.fixture
def done(monkeypatch):
    """Counts the updates that are trained and the rollouts that are rolled out."""
    counts = Counter()
    batch, rollout = AlgorithmDistillation.batch, fastad.api.compare.rollout

    def counted_batch(self, step):
        counts["updates"] += 1
        return batch(self, step)

    def counted_rollout(*arguments, **settings):
        counts["rollouts"] += 1
        return rollout(*arguments, **settings)

    monkeypatch.setattr(AlgorithmDistillation, "batch", counted_batch)
    monkeypatch.setattr(fastad.api.compare, "rollout", counted_rollout)
    return counts


def compare(*words):
    return main(["compare", *map(str, words)])


def figures_in(out):
    return json.loads((out / "comparison.json").read_text())


def test_what_is_there_is_neither_trained_nor_rolled_out_again(tiny, done, tmp_path, capsys):
    out, file = tmp_path / "out", tmp_path / "figures.json"
    options = ["--controls", "no-reward", "--out", out]
    command = ["tiny", *METHODS, *options, "--seeds", 2, "--json", file]
    assert compare(*command) == 0
    assert done == {"updates": 6 * UPDATES, "rollouts": 8}
    shown = capsys.readouterr().out
    assert f"ad, expert-distillation, ad-sampled; seeds 0 to 1; to {out}" in shown
    assert f"next: fastad compare tiny {' '.join(METHODS)} --controls no-reward --seeds 4" in shown
    first = figures_in(out)
    assert first.keys() >= NAMES
    assert first == json.loads(file.read_text())
    (family,) = first["families"]
    assert [line["kind"] for line in family["lines"]] == [
        "method", "method", "method", "control", "source", "source_own_episodes", "random",
    ]  # fmt: skip
    assert [line["method"] for line in family["lines"][:3]] == ["ad", "expert-distillation", "ad"]
    assert [line["seeds"] for line in family["lines"]] == [[0, 1]] * 7
    assert {line["num_episodes"] for line in family["lines"][:4]} == {6}
    assert (out / "comparison-dark-room.png").read_bytes().startswith(b"\x89PNG")
    with (out / "comparison-returns.csv").open(newline="") as stream:
        assert len([*csv.DictReader(stream)]) == 7 * 2 * 2  # lines, seeds, tasks

    done.clear()
    assert compare(*command) == 0
    assert done == {}
    assert "already complete" in capsys.readouterr().out
    assert figures_in(out)["families"] == first["families"]
    # More of it alone is new: a seed with all methods and the control.
    assert compare("tiny", *METHODS, *options, "--seeds", 3) == 0
    assert done == {"updates": 3 * UPDATES, "rollouts": 4}
    # Other rollouts of the same runs.
    done.clear()
    assert compare("tiny", "--seeds", 1, "--methods", "ad", "--episodes", 2, "--out", out) == 0
    assert done == {"rollouts": 1}
    assert figures_in(out)["families"][0]["lines"][0]["num_episodes"] == 2


def test_a_stopped_comparison_goes_on_and_ends_as_an_unbroken_one(
    tiny, done, tmp_path, monkeypatch, capsys
):
    command = ["tiny", "--methods", "ad", "--seeds", 2, "--threads", 1, "--out"]
    assert compare(*command, tmp_path / "whole") == 0
    done.clear()
    counted = AlgorithmDistillation.batch

    def stop_in_the_second_run(self, step):
        if done["updates"] == UPDATES + 4:
            raise KeyboardInterrupt
        return counted(self, step)

    monkeypatch.setattr(AlgorithmDistillation, "batch", stop_in_the_second_run)
    capsys.readouterr()
    assert compare(*command, tmp_path / "cut", "--overwrite") == 130
    assert "what was finished is kept; go on with: fastad compare tiny" in capsys.readouterr().err
    monkeypatch.setattr(AlgorithmDistillation, "batch", counted)
    done.clear()
    assert compare(*command, tmp_path / "cut") == 0
    # The second run went on from its checkpoint of update 2 or 4.
    assert done["updates"] <= UPDATES - 2
    assert done["rollouts"] == 1
    whole, cut = (figures_in(tmp_path / name)["families"][0]["lines"] for name in ("whole", "cut"))
    assert [line["returns_by_seed"] for line in cut] == [line["returns_by_seed"] for line in whole]


def test_seeds_train_and_roll_out_anew_on_the_same_tasks_or_on_tasks_of_their_own(tiny, tmp_path):
    options = ["tiny", "--methods", "ad", "--seed", 5, "--seeds", 2, "--out"]
    assert compare(*options, tmp_path / "shared") == 0
    assert compare(*options, tmp_path / "own", "--data-per-seed") == 0
    tasks = {}
    for name in ("shared", "own"):
        (family,) = figures_in(tmp_path / name)["families"]
        by_seed = family["lines"][0]["returns_by_seed"]
        assert [*by_seed] == ["5", "6"]
        assert by_seed["5"] != by_seed["6"]
        with (tmp_path / name / "comparison-returns.csv").open(newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if row["kind"] == "method"]
        tasks[name] = [{r["task"] for r in rows if r["seed"] == seed} for seed in ("5", "6")]
    assert tasks["shared"][0] == tasks["shared"][1] == tasks["own"][0]
    assert tasks["own"][0] != tasks["own"][1]


def test_runs_that_are_there_are_compared_each_by_its_seed(tiny, done, tmp_path, capsys):
    out = tmp_path / "out"
    methods = ["--methods", "ad", "ad-sampled"]
    assert compare("tiny", *methods, "--seeds", 2, "--out", out) == 0
    runs = sorted(path for path in out.iterdir() if "-seed" in path.name)
    assert len(runs) == 4
    before = figures_in(out)
    done.clear()
    assert compare(*runs, "--rollouts-per-task", 3, "--out", tmp_path / "again") == 0
    assert done == {}  # the very rollouts
    (family,) = figures_in(tmp_path / "again")["families"]
    by_name = {line["label"].split("(")[-1]: line["returns_by_seed"] for line in family["lines"]}
    expected = before["families"][0]["lines"]
    assert by_name["ad-seed0)"] == expected[0]["returns_by_seed"]
    assert by_name["ad-sampled-seed0)"] == expected[1]["returns_by_seed"]
    # Where a checkpoint is another, so is the rollout.
    assert main(["train", "--config", str(runs[0] / "config.yaml"), "--extend", "2"]) == 0
    done.clear()
    assert compare(runs[0], "--rollouts-per-task", 3, "--out", tmp_path / "again") == 0
    assert done == {"rollouts": 1}
    capsys.readouterr()
    assert compare(runs[1], runs[1], "--out", tmp_path / "again") == 2
    assert "is there twice with seed=1; name one" in capsys.readouterr().err


def test_runs_of_two_environments_are_two_families(tiny, tmp_path):
    rooms = ["--source", "frontier", "--num-histories", "12", "--num-episodes", "3"]
    model = ["--width", "16", "--num-layers", "1", "--context", "24", "--updates", "2"]
    for size in (3, 5):
        data, run = tmp_path / f"data-{size}", tmp_path / f"run-{size}"
        options = ["--env-options", f"size={size}", "episode_length=4", "--num-test-tasks", "2"]
        assert main(["collect", str(data), *rooms, *options]) == 0
        assert main(["train", str(data), "--out", str(run), *model]) == 0
    both = (tmp_path / "run-3", tmp_path / "run-5")
    assert compare(*both, "--rollouts-per-task", 2, "--out", tmp_path / "out") == 0
    options = [family["env_options"]["size"] for family in figures_in(tmp_path / "out")["families"]]
    assert options == [3, 5]
    assert len([*(tmp_path / "out").glob("*.png")]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tinny"], "what=tinny: unknown preset 'tinny'; did you mean 'tiny'?"),
        (["tiny", "dark-room"], "tiny is a preset, which is compared by itself"),
        (["tiny", "--methods", "add"], "unknown methods 'add'; did you mean 'ad'?"),
        (["tiny", "--methods", "ad", "ad"], "methods=ad ad: ad is there twice"),
        (["tiny", "--controls", "no-rewards"], "unknown controls 'no-rewards'; did you mean"),
        (["tiny", "--controls", "none"], "unknown controls 'none'"),
        (["tiny", "--seeds", "0"], "seeds=0 must be at least 1"),
        (["runs/x"], "run=runs/x does not exist; train one with"),
        (["."], "holds no config.yaml"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(
    tiny, words, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert compare(*words) == 2
    assert message in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_what_the_data_do_not_allow_is_refused_before_anything_is_trained(
    tiny, done, tmp_path, monkeypatch, capsys
):
    wrong = {"ad-wide": {"window": 999}}
    monkeypatch.setitem(presets.PRESETS, "tiny", replace(presets.PRESETS["tiny"], variants=wrong))
    assert compare("tiny", "--methods", "ad", "ad-wide", "--out", tmp_path / "out") == 2
    assert "window=999" in capsys.readouterr().err
    assert done == {}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data"]


def test_the_source_is_tried_once_for_each_seed_whatever_is_beside_it(tiny, tmp_path, monkeypatch):
    from fastad.evaluate.task_set import TaskSet

    chosen = presets.PRESETS["tiny"]
    reinforced = {"method": "rl2", "updates": 2, "batch_size": 4, "width": 8}
    asked = {"method": "decision-transformer", "updates": 2, "start": "anywhere", "context": 6}
    changed = replace(
        chosen, rollout=replace(chosen.rollout, context=12),
        variants={"rl2": reinforced, "decision-transformer": asked},
    )  # fmt: skip
    monkeypatch.setitem(presets.PRESETS, "tiny", changed)

    tried, original = [], TaskSet.baseline

    def counted(self, source=None, **settings):
        tried.append((source, self.seed))
        return original(self, source, **settings)

    monkeypatch.setattr(TaskSet, "baseline", counted)
    methods = ["--methods", "ad", "decision-transformer", "rl2"]
    assert compare("tiny", *methods, "--seeds", 2, "--out", tmp_path / "out") == 0
    labels = [line["label"] for line in figures_in(tmp_path / "out")["families"][0]["lines"][:3]]
    assert labels == [
        "algorithm distillation", "decision transformer, told the optimum", "RL^2",
    ]  # fmt: skip
    assert sorted(tried, key=str) == [("random", 0), ("random", 1), (None, 0), (None, 1)]
    # The preset's window of rollouts is for models of its own shape.
    windows = {
        name: json.loads(next(tmp_path.glob(f"out/{name}-seed0/rollouts/*.json")).read_text())[
            "context"
        ]
        for name in methods[1:]
    }
    assert windows == {"ad": 12, "decision-transformer": 6, "rl2": None}


def test_settings_of_a_preset_are_refused_for_runs(tiny, tmp_path, capsys):
    assert compare("tiny", "--methods", "ad", "--seeds", 1, "--out", tmp_path / "out") == 0
    capsys.readouterr()
    assert compare(tmp_path / "out" / "ad-seed0", "--methods", "ad") == 2
    assert "methods=('ad',) is for presets" in capsys.readouterr().err


def test_from_python_it_gives_what_the_command_writes(tiny, tmp_path):
    import fastad

    comparison = fastad.compare(
        fastad.preset("tiny"), methods=("ad",), seeds=1, out=tmp_path / "out"
    )
    (family,) = comparison.families
    assert family.seeds == [0]
    assert family.lines[0].tried[0].returns.shape == (6, 6)
    again = fastad.compare([tmp_path / "out" / "ad-seed0"], rollouts_per_task=3)
    np.testing.assert_array_equal(
        again.families[0].lines[0].tried[0].returns, family.lines[0].tried[0].returns
    )


def test_a_varied_setting_has_data_runs_and_lines_for_each_value_on_the_same_tasks(
    tiny, done, tmp_path, monkeypatch, capsys
):
    from fastad.evaluate.task_set import TaskSet

    tried, original = [], TaskSet.baseline

    def counted(self, source=None, **settings):
        tried.append(source)
        return original(self, source, **settings)

    monkeypatch.setattr(TaskSet, "baseline", counted)
    out = tmp_path / "out"
    command = ["tiny", "--methods", "ad", "--seeds", 1, "--out", out, "--vary"]
    assert compare(*command, "num_train_tasks=2,4") == 0
    assert done == {"updates": 2 * UPDATES, "rollouts": 2}
    assert tried == [None, "random"]  # the source does not know how many others learn
    shown = capsys.readouterr().out
    assert "ad, each with num_train_tasks=2,4; seed 0; to" in shown
    assert "algorithm distillation, num_train_tasks=2" in shown
    assert "--vary num_train_tasks=2,4" in shown.rpartition("next: ")[2]
    names = {path.name for path in out.iterdir() if path.is_dir()}
    assert names == {
        f"{name}-num_train_tasks={n}{end}"
        for n in (2, 4)
        for name, end in (("data", ""), ("ad", "-seed0"))
    }
    stored = json.loads((out / "comparison-num_train_tasks.json").read_text())
    lines = stored["families"][0]["lines"]
    assert [line.get("value") for line in lines[:2]] == [2, 4]
    for value in (2, 4):
        info = json.loads(
            (out / f"ad-num_train_tasks={value}-seed0/dataset/dataset.json").read_text()
        )
        assert (info["num_train"], info["num_test"]) == (value, 2)
    # More of it is all that is new.
    assert compare(*command, "num_train_tasks=4,5,2") == 0
    assert done == {"updates": 3 * UPDATES, "rollouts": 3}


def test_a_context_that_is_varied_is_that_of_rollouts_too(tiny, tmp_path, monkeypatch):
    out, chosen = tmp_path / "out", presets.PRESETS["tiny"]
    longer = replace(chosen, rollout=replace(chosen.rollout, context=12))
    monkeypatch.setitem(presets.PRESETS, "tiny", longer)
    words = ["--methods", "ad", "--seeds", 1, "--out", out, "--vary", "context_episodes=0.5,1"]
    assert compare("tiny", *words) == 0
    contexts = {
        json.loads(file.read_text())["context"]: json.loads(file.read_text())["trained_context"]
        for file in out.glob("ad-context_episodes=*/rollouts/*.json")
    }
    assert contexts == {2: 2, 4: 4}


def test_values_that_cannot_be_are_refused_before_anything_is_collected(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    for vary, message in (
        ("num_train_tasks=2,6", "num_train_tasks=6 with"),
        ("num_test_tasks=1,2", "only what is tried on the same tasks can be compared"),
        ("windows=3", "unknown setting to vary 'windows'; did you mean 'window'"),
    ):
        assert compare("tiny", "--methods", "ad", "--out", out, "--vary", vary) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()
