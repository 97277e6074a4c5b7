"""A demo of seconds: its figures, its folder, and that it shows the same again."""

import json
from dataclasses import replace

import pytest

from fastad import presets
from fastad.cli import main
from fastad.evaluate.result import Result
from fastad.model.config import ModelConfig
from fastad.training.settings import TrainSettings

NAMES = {
    "returns", "interval", "source_returns", "random_return", "optimal_return", "train_seconds",
    "steps_per_second_cached", "steps_per_second_uncached", "max_logit_difference", "seed",
    "versions",
}  # fmt: skip


@pytest.fixture
def demo(monkeypatch):
    """Run the demo of a preset that takes a second."""
    room = presets.PRESETS["dark-room"]
    collect = replace(
        room.collect, env_options=("size=3", "episode_length=4"), num_histories=24,
        num_test_tasks=2, num_episodes=5,
    )  # fmt: skip
    train = replace(
        room.train, model=ModelConfig(width=16, num_layers=1, context=12),
        settings=TrainSettings(updates=4, log_every=2),
    )  # fmt: skip
    tiny = replace(room, collect=collect, train=train)
    monkeypatch.setitem(presets.PRESETS, "tiny", tiny)
    return lambda *options: main(["demo", "tiny", *map(str, options)])


def test_a_demo_writes_every_figure_and_shows_the_same_again(demo, tmp_path, capsys):
    out, file = tmp_path / "demo", tmp_path / "figures.json"
    assert demo("--out", out, "--json", file, "--seed", "3") == 0
    text = capsys.readouterr().out
    assert "the same actions" in text
    figures = json.loads(file.read_text())
    assert figures.keys() >= NAMES
    assert figures["seed"] == 3
    assert figures["max_logit_difference"] < 1e-5
    assert Result.load(file).figures()["returns"] == figures["returns"]
    assert (out / "returns.png").read_bytes().startswith(b"\x89PNG")
    assert demo("--out", out, "--json", file, "--seed", "3") == 0
    assert "already complete" in capsys.readouterr().out
    again = json.loads(file.read_text())
    for name in ("returns", "source_returns", "random_return", "train_seconds"):
        assert again[name] == figures[name], name
