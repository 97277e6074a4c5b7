"""Configs of any values: refused in one line, or the same after a round trip through YAML."""

from pathlib import Path

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from fastad.base.config import dump_config, from_plain, load_config, parse_yaml, to_plain
from fastad.base.errors import UserError
from fastad.commands.bench import BenchConfig
from fastad.commands.demo import DemoConfig
from fastad.compare_config import CompareConfig
from fastad.configs import CollectConfig, RolloutConfig, TrainConfig
from fastad.methods.rl2_config import RL2Config
from fastad.model.config import ModelConfig
from fastad.training.settings import TrainSettings

COMMANDS = {
    "collect": CollectConfig,
    "train": TrainConfig,
    "rollout": RolloutConfig,
    "compare": CompareConfig,
    "demo": DemoConfig,
    "bench": BenchConfig,
}
PARTS = (ModelConfig, TrainSettings, RL2Config)
WORDS = st.text(st.sampled_from("aZ0_.:=~\x1b\u202e\n é{["), max_size=6)
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-4, 300), st.integers(), st.floats(), WORDS,
        st.sampled_from(["gru", "rope", "dpt", "expert", "sampled", "test", "auto", "3", "1e3"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@st.composite
def contents(draw, kind):
    """Some fields of a config with values of any kind, or near those that they have."""
    plain = to_plain(kind())
    names = draw(st.sets(st.sampled_from(sorted(plain)), max_size=4))
    content = {}
    for name in names:
        value = plain[name]
        if isinstance(value, dict) and draw(st.booleans()):
            inner = draw(st.sets(st.sampled_from(sorted(value)), max_size=3))
            content[name] = {key: draw(VALUES | st.just(value[key])) for key in inner}
        else:
            content[name] = draw(VALUES | st.just(value))
    return content


def read_twice(content, kind):
    """A config from plain values; None if they are refused."""
    try:
        config = from_plain(content, kind, "here")
    except UserError:
        return None
    again = from_plain(to_plain(config), kind, "again")
    # NaN is no number that equals itself, and no setting that anybody wants.
    assert again == config or "nan" in repr(config)
    return config


@given(st.data())
def test_any_values_are_refused_or_come_back_the_same(data):
    kind = data.draw(st.sampled_from([*COMMANDS.values(), *PARTS]))
    read_twice(data.draw(contents(kind)), kind)


@given(st.data())
def test_what_a_run_keeps_of_its_config_is_what_it_was_begun_with(tmp_path_factory, data):
    command = data.draw(st.sampled_from(sorted(COMMANDS)))
    kind = COMMANDS[command]
    config = read_twice(data.draw(contents(kind)), kind)
    if config is None or "nan" in repr(config):
        return
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    file.write_text(dump_config(command, to_plain(config)))
    assert load_config(file, command, kind) == config


YAML = st.one_of(
    VALUES.map(lambda value: yaml.safe_dump(value).encode()),
    st.binary(max_size=60),
    st.text(st.sampled_from("{}[]:,-&*!|>'\"#%@`?ab01. \n\t"), max_size=60).map(str.encode),
)


@given(YAML, st.sampled_from(sorted(COMMANDS)))
@example(b"a: &a [x]\nb: *a\n", "train")
@example(b"!!python/object/apply:os.system ['true']", "train")
@example(b"command: train\n? [a]\n: 1\n", "train")
@example(b"seed: 2001-01-01\n", "collect")
@example(b"1: 2\n", "collect")
@example(b"- " * 20, "rollout")
@example(b"out: " + b"[" * 4000, "collect")
@example(b"\xef\xbb\xbf\x00", "train")
def test_any_file_of_settings_is_refused_or_comes_back_the_same(tmp_path_factory, content, command):
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    file.write_bytes(content)
    try:
        config = load_config(file, command, COMMANDS[command])
    except UserError:
        return
    assert read_twice(to_plain(config), COMMANDS[command]) == config


@given(YAML)
def test_yaml_gives_plain_values_alone(content):
    try:
        value = parse_yaml(content, "here")
    except UserError:
        return
    stack = [value]
    while stack:
        item = stack.pop()
        assert isinstance(item, dict | list | str | bytes | int | float | set | tuple | None) or (
            type(item).__module__ == "datetime"
        )
        if isinstance(item, dict):
            stack += [*item, *item.values()]
        elif isinstance(item, list | set | tuple):
            stack += item


def test_paths_stay_paths():
    config = from_plain({"data": "a/b", "out": None}, TrainConfig, "here")
    assert config.data == Path("a/b")
