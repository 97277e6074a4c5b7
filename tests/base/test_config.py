"""Configs as YAML: round trips, refusals, comparison."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from fastad.base.config import (
    differences,
    dump_config,
    format_options,
    load_config,
    parse_options,
    to_plain,
    with_settings,
)
from fastad.base.errors import UserError
from fastad.configs import CollectConfig, TrainConfig
from fastad.model.config import ModelConfig
from fastad.presets import PRESETS, preset_for
from fastad.training.run_files import settings_of
from fastad.training.settings import TrainSettings


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


def test_a_value_out_of_range_is_named_without_all_that_stands_beside_it(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("model: {width: 10}")
    with pytest.raises(UserError, match=r"config.yaml: width=10 must be a multiple of num_heads"):
        load_config(file, "train", TrainConfig)


def test_settings_reach_nested_configs_by_their_bare_names_as_flags_do():
    config = TrainConfig(data=Path("d"), model=ModelConfig(width=32, num_layers=3))
    changed = with_settings(config, {"width": 64, "updates": 5, "out": "runs/x"}, "train")
    assert changed == replace(
        config, out=Path("runs/x"), model=ModelConfig(width=64, num_layers=3),
        settings=replace(config.settings, updates=5),
    )  # fmt: skip
    assert config.model.width == 32


def test_a_nested_config_is_given_whole_and_bare_names_change_it():
    settings = {"width": 64, "model": ModelConfig(width=32, num_layers=3)}
    changed = with_settings(TrainConfig(), settings, "train")
    assert changed.model == ModelConfig(width=64, num_layers=3)


def test_options_are_given_as_a_dict():
    options = {"size": 3, "learning_rate": 1e-5, "slow": True, "name": "x"}
    changed = with_settings(CollectConfig(), {"env_options": options}, "collect")
    assert parse_options("env_options", changed.env_options) == options


def test_options_may_be_nested_and_come_back_as_they_were():
    typed = ("tasks={length: [3e-1, 1.5], n: [1, 9]}", 'names=["12", "4x4"]')
    options = {"tasks": {"length": [0.3, 1.5], "n": [1, 9]}, "names": ["12", "4x4"]}
    assert parse_options("env_options", typed) == options
    assert parse_options("env_options", format_options(options)) == options


def test_every_setting_has_a_name_of_its_own():
    own = [
        field.name for kind in (TrainConfig, ModelConfig, TrainSettings) for field in fields(kind)
    ]
    assert len(own) == len(set(own))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widht": 64}, r"unknown setting of fastad.train: 'widht'; did you mean 'width'\?"),
        ({"updates": "many"}, r"fastad.train: settings.updates='many': Input should be a valid"),
        ({"updates": 0}, r"fastad.train: updates=0 must be at least 1"),
        ({"model": 5}, r"fastad.train: model=5: Input should be"),
        ({"width": {"a": 1}}, r"fastad.train: model.width=\{'a': 1\}: Input should be"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        with_settings(TrainConfig(), settings, "fastad.train")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config=.*gone.yaml cannot be read: No such file"):
        load_config(tmp_path / "gone.yaml", "train", TrainConfig)


def test_differences_name_the_nested_field_and_both_values():
    old = {"a": 1, "model": {"width": 64, "num_layers": 2}}
    new = {"a": 1, "model": {"width": 32, "num_layers": 2}, "b": True}
    assert differences(old, new) == ["b: None -> True", "model.width: 64 -> 32"]


def test_the_papers_preset_has_the_papers_sizes():
    config = preset_for("dark-room-full", "train")
    model, settings = config.model, config.settings
    assert (model.num_layers, model.width, model.num_heads, model.mlp_width) == (4, 64, 4, 2048)
    assert (model.norm, model.positions, model.layout) == ("post", "learned", "interleaved")
    assert (model.dropout, model.attention_dropout, model.token_mask) == (0.1, 0.5, 0.3)
    assert (settings.batch_size, settings.clip, settings.target) == (128, 1.0, "sampled")
    assert settings.learning_rate * settings.final_learning_rate == pytest.approx(2e-6)


def test_learned_positions_of_the_papers_preset_have_room_for_its_windows():
    train, rollout = (preset_for("dark-room-full", command) for command in ("train", "rollout"))
    assert train.settings.window * train.model.tokens_per_step <= train.model.context
    assert rollout.episodes * 20 * train.model.tokens_per_step <= train.model.context


def test_changing_where_a_run_goes_is_no_change_of_settings():
    config = TrainConfig()
    moved = replace(config, out=Path("elsewhere"), resume=True)
    assert differences(settings_of(to_plain(config)), settings_of(to_plain(moved))) == []


@pytest.mark.parametrize(("method", "changed"), [("ad", []), ("rl2", ["gamma: 0.95 -> 0.5"])])
def test_another_default_of_another_method_changes_no_run(method, changed):
    config = to_plain(TrainConfig()) | {"method": method}
    other = config | {"rl2": config["rl2"] | {"gamma": 0.5}}
    assert differences(settings_of(config), settings_of(other)) == changed
