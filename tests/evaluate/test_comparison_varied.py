"""Lines by the value of a setting, and the picture of how they end."""

import csv
import json

import numpy as np
import pytest

from fastad.evaluate.comparison import Entry, Setting
from fastad.evaluate.comparison_families import families_of
from fastad.evaluate.comparison_figures import figures_of_family
from fastad.evaluate.comparison_files import Comparison
from fastad.evaluate.comparison_plot import draw_family
from fastad.evaluate.comparison_varied import draw_varied, is_geometric
from fastad.evaluate.plots import LEVEL_COLOUR
from fastad.evaluate.result import Baseline

# Two tasks, three episodes: the final return is the mean of all.
RETURNS = {8: [[0, 0, 0], [0, 3, 6]], 16: [[3, 6, 9], [0, 6, 6]], 32: [[8, 8, 8], [9, 9, 9]]}


def baselines(source=5):
    return {
        "source": Baseline(np.full((2, 3), source, dtype=np.float32)),
        "random": Baseline(np.zeros((2, 3), dtype=np.float32)),
    }


@pytest.fixture
def entries(told):
    return [
        Entry(
            "ad",
            seed,
            told(RETURNS[value], baselines=baselines(), **facts),
            None,
            Setting("num_train_tasks", value),
        )
        for seed in (0, 1)
        for value in RETURNS
        for facts in ({}, {"control": "no-reward"})
    ]


def test_every_value_is_a_line_of_a_series_beside_one_source(entries):
    (family,) = families_of(entries)
    figures = figures_of_family(family)
    assert figures["varied"] == "num_train_tasks"
    told = [(line["label"], line["series"], line.get("value")) for line in figures["lines"]]
    assert told == [
        ("AD, num_train_tasks=8", "AD", 8),
        ("AD, num_train_tasks=16", "AD", 16),
        ("AD, num_train_tasks=32", "AD", 32),
        ("AD, num_train_tasks=8, control no-reward", "AD, control no-reward", 8),
        ("AD, num_train_tasks=16, control no-reward", "AD, control no-reward", 16),
        ("AD, num_train_tasks=32, control no-reward", "AD, control no-reward", 32),
        ("source a2c", "source a2c", None),
        ("random", "", None),
    ]  # fmt: skip
    assert figures["lines"][3]["of"] == "AD, num_train_tasks=8"
    assert [line["seeds"] for line in figures["lines"]] == [[0, 1]] * 8


def test_sources_that_differ_by_value_are_lines_by_value(told):
    entries = [
        Entry(
            "ad",
            0,
            told(RETURNS[8], baselines=baselines(value), source_action_noise=value / 10),
            None,
            Setting("action_noise", value / 10),
        )
        for value in (1, 2)
    ]
    (family,) = families_of(entries)
    lines = {line.label: line for line in family.lines}
    for value in (1, 2):
        line = lines[f"source a2c, action_noise=0.{value}"]
        assert line.final(0).tolist() == [value, value]
        assert line.setting == Setting("action_noise", value / 10)
        assert lines[f"AD, action_noise=0.{value}"].source == line.label
    axes = draw_varied(family).axes[0]
    (source,) = (
        line for line in axes.lines if line.get_color() == "#222222" and line.get_marker() == "o"
    )
    assert [*source.get_xdata()] == [0.1, 0.2]
    assert [*source.get_ydata()] == pytest.approx([0.1, 0.2])


def test_sources_of_runs_that_differ_are_told_apart_by_the_names_of_their_lines(told):
    short, long = (
        baselines() | {"source": Baseline(np.ones((2, n), dtype=np.float32))} for n in (3, 9)
    )
    entries = [
        Entry("a", 0, told(RETURNS[8], baselines=short)),
        Entry("b", 0, told(RETURNS[8], baselines=long)),
    ]
    labels = [line.label for line in families_of(entries)[0].of_kind("source")]
    assert labels == ["source a2c (a)", "source a2c (b)"]


def test_the_picture_shows_ends_and_what_was_found_by_value_beside_the_source(entries):
    (family,) = families_of(entries)
    final, found = draw_varied(family).axes
    curve = final.lines[0]
    assert [*curve.get_xdata()] == [8, 16, 32]
    assert [*curve.get_ydata()] == pytest.approx([0.15, 0.5, 0.85])
    assert [*found.lines[0].get_ydata()] == pytest.approx([0.5, 1, 1])
    assert (final.get_xscale(), found.get_xscale()) == ("log", "log")
    assert [text.get_text() for text in final.get_xticklabels()] == ["8", "16", "32"]
    assert final.get_xlabel() == "num_train_tasks"
    levels = [line.get_ydata()[0] for line in final.lines if line.get_color() == "#222222"]
    assert levels == [0.5]
    assert [text.get_text() for text in found.texts] == [
        "1.00  AD", "1.00  AD, control no-reward", "1.00  source a2c",
    ]  # fmt: skip
    assert [text.get_text() for text in final.texts] == ["0.85", "0.85", "0.50"]


def test_what_chance_finds_is_a_level_where_it_was_tried(told):
    lucky = baselines() | {"random": Baseline(np.array([[0, 0, 0], [0, 0, 1]], dtype=np.float32))}
    for tried, levels in ((lucky, [0.5, 1]), ({}, [1])):
        entry = Entry("ad", 0, told(RETURNS[8], baselines=tried), None, Setting("updates", 3))
        _, found = draw_varied(families_of([entry])[0]).axes
        drawn = [line.get_ydata()[0] for line in found.lines if line.get_color() == LEVEL_COLOUR]
        assert drawn == levels
        assert ("chance" in found.get_title(loc="left")) == (len(levels) > 1)


def test_later_values_are_darker_and_only_lines_by_episode_have_no_bands(entries):
    (family,) = families_of(entries)
    (axes,) = draw_family(family).axes
    colours = [line.get_color() for line in axes.lines[:3]]
    assert colours[2] == "#0072b2"
    reds = [int(colour[1:3], 16) for colour in colours]
    assert reds == sorted(reds, reverse=True)
    assert len(set(reds)) == 3
    assert not axes.collections


def test_words_stand_side_by_side_and_are_not_joined(told):
    entries = [
        Entry("ad", 0, told(RETURNS[8]), None, Setting("positions", word))
        for word in ("rope", "none", "alibi")
    ]
    axes = draw_varied(families_of(entries)[0]).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["rope", "none", "alibi"]
    assert [*axes.lines[0].get_xdata()] == [0, 1, 2]
    assert axes.lines[0].get_linestyle() == "None"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([8, 16, 32, 56], True),
        ([0.25, 0.5, 1, 2, 4, 8], True),
        ([8, 2, 32], True),
        ([10, 20, 30], False),
        ([5, 10, 16], False),
        ([1, 100], False),
        ([0, 1, 10, 100], False),
    ],
)
def test_values_that_grow_by_a_factor_stand_on_a_logarithmic_axis(values, expected):
    assert is_geometric(values) == expected


def test_files_carry_the_setting_s_name_and_tables_its_values(entries, tmp_path):
    files = Comparison(tuple(families_of(entries))).save(tmp_path)
    stem = "comparison-num_train_tasks"
    assert [file.name for file in files] == [
        f"{stem}.json", f"{stem}.csv", f"{stem}-returns.csv", f"{stem}-dark-room.png",
        f"{stem}-dark-room-final.png",
    ]  # fmt: skip
    assert files[-1].read_bytes().startswith(b"\x89PNG")
    with files[1].open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["kind"] == "method"]
    assert [row["num_train_tasks"] for row in rows] == ["8", "16", "32"]
    (family,) = json.loads(files[0].read_text())["families"]
    for row, line in zip(rows, family["lines"], strict=False):
        assert float(row["final_score"]) == line["final_score"]["mean"]
        assert float(row["found"]) == line["found"]["mean"]
