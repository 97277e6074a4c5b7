"""What a comparison leaves: JSON, tables as CSV, pictures; and what it prints."""

import csv
import json

import numpy as np
import pytest

from fastad.evaluate.comparison import Entry
from fastad.evaluate.comparison_families import families_of
from fastad.evaluate.comparison_figures import figures_of_family
from fastad.evaluate.comparison_files import Comparison
from fastad.evaluate.comparison_plot import draw_family
from fastad.evaluate.comparison_style import apart
from fastad.evaluate.comparison_table import print_family
from fastad.evaluate.result import Baseline

AD, DT = [[0, 2, 4, 6, 8], [0, 0, 0, 4, 4]], [[1, 2, 3, 3, 3], [1, 1, 1, 1, 1]]


@pytest.fixture
def entries(told):
    baselines = {
        "source": Baseline(np.array([[0, 2, 4, 8], [0, 2, 4, 4]], dtype=np.float32), None, 2),
        "random": Baseline(np.full((2, 4), 2, dtype=np.float32)),
    }
    facts = {"baselines": baselines, "source_knows": "what another actor experiences"}
    other = {"label": "decision transformer, told the optimum", "method": "decision-transformer"}
    return [
        entry
        for seed in (0, 1)
        for entry in (
            Entry("ad", seed, told(AD, **facts), 5.0 + seed),
            Entry("ad", seed, told(DT, control="no-reward", **facts)),
            Entry("dt", seed, told(DT, **other, **facts)),
        )
    ]


def test_the_json_has_the_names_of_a_rollout_s_at_the_top_and_every_line(entries, tmp_path):
    comparison = Comparison(tuple(families_of(entries)))
    files = comparison.save(tmp_path / "out")
    assert [file.name for file in files] == [
        "comparison.json", "comparison.csv", "comparison-returns.csv", "comparison-dark-room.png",
    ]  # fmt: skip
    stored = json.loads(files[0].read_text())
    assert stored["returns"] == [0, 1, 2, 5, 6]
    assert stored["source_returns"] == [0, 0, 2, 2, 4]
    assert (stored["random_return"], stored["optimal_return"]) == (2, 10)
    assert (stored["train_seconds"], stored["seed"], stored["seeds"]) == (5.5, 0, [0, 1])
    assert {"interval", "steps_per_second_cached", "versions"} <= stored.keys()
    (family,) = stored["families"]
    assert [line["kind"] for line in family["lines"]] == [
        "method", "method", "control", "source", "source_own_episodes", "random",
    ]  # fmt: skip
    assert family["lines"][1]["returns_by_seed"]["1"] == [1, 1.5, 2, 2, 2]
    assert files[3].read_bytes().startswith(b"\x89PNG")


def test_the_tables_are_read_back_by_the_csv_module(entries, tmp_path):
    Comparison(tuple(families_of(entries))).save(tmp_path)
    with (tmp_path / "comparison.csv").open(newline="") as stream:
        rows = {row["label"]: row for row in csv.DictReader(stream)}
    other = rows["decision transformer, told the optimum"]
    assert float(other["final"]) == 2
    assert float(other["final_minus_ad"]) == pytest.approx(2 - 13 / 3)
    assert float(other["final_minus_ad_low"]) < 2 - 13 / 3 < float(other["final_minus_ad_high"])
    assert rows["AD"]["final_minus_ad"] == rows["random"]["area_over_source"] == ""
    assert int(rows["source a2c"]["episodes_per_episode"]) == 2
    with (tmp_path / "comparison-returns.csv").open(newline="") as stream:
        returns = list(csv.DictReader(stream))
    assert len(returns) == 6 * 2 * 2  # lines, seeds, tasks
    (row,) = [r for r in returns if (r["label"], r["seed"], r["task"]) == ("AD", "1", "0")]
    assert [float(row[f"episode_{e}"]) for e in range(1, 6)] == AD[0]
    (short,) = [r for r in returns if (r["label"], r["seed"], r["task"]) == ("random", "0", "1")]
    assert (short["episode_4"], short["episode_5"]) == ("2.0", "")


def test_a_picture_per_environment_and_its_options(told, tmp_path):
    entries = [Entry("ad", 0, told(AD, env_options={"size": size})) for size in (5, 7)]
    files = Comparison(tuple(families_of(entries))).save(tmp_path)
    names = [file.name for file in files if file.suffix == ".png"]
    assert names == ["comparison-dark-room.png", "comparison-dark-room-2.png"]


def test_every_line_is_named_where_it_ends_and_sources_count_all_their_actors(entries):
    (family,) = families_of(entries)
    (axes,) = draw_family(family).axes
    curves = {line.get_label(): line for line in axes.lines}
    assert curves["AD"].get_ydata() == pytest.approx([-0.25, -0.125, 0, 0.375, 0.5])
    source = curves["source a2c"]
    assert list(source.get_xdata()) == [2, 4]
    assert source.get_ydata() == pytest.approx([-0.25, 0])
    texts = [text.get_text() for text in axes.texts]
    assert [text.rpartition("  ")[0] for text in texts] == [
        "AD", "decision transformer, told the optimum", "AD, control no-reward", "source a2c",
        "source a2c, by its own episodes",
    ]  # fmt: skip
    assert texts[0].endswith(f"{(13 / 3 - 2) / 8:.2f}")
    assert len({curves[label].get_color() for label in ("AD", "source a2c", "AD, control no-reward",
                "decision transformer, told the optimum")}) == 3  # fmt: skip


def test_long_rollouts_are_drawn_as_means_of_neighbours(told):
    (family,) = families_of([Entry("ad", 0, told([[*range(250)]], optimal_return=None))])
    (axes,) = draw_family(family).axes
    assert axes.lines[0].get_xdata()[:2].tolist() == [5, 10]
    assert axes.lines[0].get_ydata()[:2].tolist() == [2, 7]
    assert len(axes.lines[0].get_xdata()) == 50
    assert axes.get_xlabel() == "environment episodes of one learner, means of 5"


def test_a_line_without_optimum_and_source_is_drawn_by_its_returns(told):
    (family,) = families_of([Entry("ad", 0, told([[1, 2]], optimal_return=None))])
    (axes,) = draw_family(family).axes
    assert list(axes.lines[0].get_ydata()) == [1, 2]
    assert axes.get_ylabel() == "return per episode"


def test_labels_that_would_overlap_move_apart_and_no_further():
    assert apart([0.0, 1.0], 0.5) == [0, 1]
    assert apart([0.5, 0.5], 0.5) == [0.25, 0.75]
    assert apart([2.0, 0.0, 0.1], 0.3) == pytest.approx([2, -0.1, 0.2])


def test_the_tables_say_what_they_show(entries, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    print_family(figures_of_family(families_of(entries)[0]))
    text = capsys.readouterr().out
    assert "source a2c plays 2 episodes for each of its own" in text
    assert "the source a2c knows what another actor experiences" in text
    assert "chance returns 2.00, the optimum 10.00" in text
    assert "mean of the last 3 episodes" in text
    apart = [line for line in text.splitlines() if "-2.33" in line]
    assert [line.split("│")[1].strip() for line in apart] == [
        "decision transformer, told the optimum", "AD, control no-reward",
    ]  # fmt: skip
    one = [entry for entry in entries if entry.seed == 0]
    print_family(figures_of_family(families_of(one)[0]))
    assert "one training seed" in capsys.readouterr().out
