"""Configs as YAML: round trips, refusals, comparison."""

from dataclasses import replace
from pathlib import Path

import pytest

from fastad.base.config import differences, dump_config, load_config, to_plain
from fastad.base.errors import UserError
from fastad.configs import TrainConfig
from fastad.model.config import ModelConfig
from fastad.presets import PRESETS, preset_for
from fastad.training.run_files import settings_of


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_the_way_through_a_file(name, tmp_path):
    file = tmp_path / "config.yaml"
    for command in ("collect", "train", "rollout"):
        config = preset_for(name, command)
        file.write_text(dump_config(command, to_plain(config)))
        assert load_config(file, command, type(config)) == config


def test_fields_left_out_keep_their_defaults(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("data: somewhere\nmodel:\n  num_layers: 3\n")
    expected = TrainConfig(data=Path("somewhere"), model=ModelConfig(num_layers=3))
    assert load_config(file, "train", TrainConfig) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("modle: {}", r"unknown field in .*config.yaml: 'modle'; did you mean 'model'\?"),
        ("model: {num_layer: 3}", r"model: 'num_layer'; did you mean 'num_layers'\?"),
        ("model: {num_layers: two}", r"model.num_layers='two'"),
        ("model: {positions: ropes}", r"model.positions='ropes': Input should be 'none', 'rope'"),
        ("model: {width: 10}", "width=10 must be a multiple of num_heads=4"),
        ("command: collect", "is for `fastad collect`, not `fastad train`"),
        ("- 1", "must hold fields"),
        ("a: [", "is not YAML"),
        ("model: [1, 2]", r"model=\[1, 2\]: Input should be a dictionary"),
        ("1: 2", "'1'"),
        ('"\\e[31mred": 1', r"'\\x1b\[31mred'"),
        ('out: "\\e[31m"\nmodel: {width: "\\e[2J"}', r"model.width='\\x1b\[2J'"),
        ("out: \x1b[31m", "is not YAML: unacceptable character"),
        ("seed: " + 5000 * "9", "is not YAML: Exceeds the limit"),
        ("data: 2026-99-99", "is not YAML: month must be in 1..12"),
        ("model: {width: " + 1000 * "x" + "}", r"model.width='x{79}\.\.\.: Input should be"),
        ("data: " + 300_000 * "x", "is longer than 262,144 bytes; that is no config"),
        (100_000 * "[", "line 1: nested deeper than 16; no field is"),
        ("a: " + 50_000 * "{b: ", "line 1: nested deeper than 16; no field is"),
        (
            "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]",
            r"line 2: alias \*a is not read; write the value out",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, content, message):
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        load_config(file, "train", TrainConfig)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config=.*gone.yaml cannot be read: No such file"):
        load_config(tmp_path / "gone.yaml", "train", TrainConfig)


def test_differences_name_the_nested_field_and_both_values():
    old = {"a": 1, "model": {"width": 64, "num_layers": 2}}
    new = {"a": 1, "model": {"width": 32, "num_layers": 2}, "b": True}
    assert differences(old, new) == ["b: None -> True", "model.width: 64 -> 32"]


def test_the_papers_preset_has_the_papers_sizes():
    config = preset_for("paper-dark", "train")
    model, settings = config.model, config.settings
    assert (model.num_layers, model.width, model.num_heads, model.mlp_width) == (4, 64, 4, 2048)
    assert (model.norm, model.positions, model.layout) == ("post", "learned", "interleaved")
    assert (model.dropout, model.attention_dropout, model.token_mask) == (0.1, 0.5, 0.3)
    assert (settings.batch_size, settings.clip, settings.target) == (128, 1.0, "sampled")
    assert settings.learning_rate * settings.final_learning_rate == pytest.approx(2e-6)


def test_learned_positions_of_the_papers_preset_have_room_for_its_windows():
    train, rollout = (preset_for("paper-dark", command) for command in ("train", "rollout"))
    assert train.settings.window * train.model.tokens_per_step <= train.model.context
    assert rollout.episodes * 20 * train.model.tokens_per_step <= train.model.context


def test_changing_where_a_run_goes_is_no_change_of_settings():
    config = TrainConfig()
    moved = replace(config, out=Path("elsewhere"), resume=True)
    assert differences(settings_of(to_plain(config)), settings_of(to_plain(moved))) == []
