"""Settings that work, by name: what `--config NAME` and `fastad demo NAME` use."""

from typing import Any

from fastad.base.config import to_plain
from fastad.base.errors import UserError, unknown
from fastad.presets.paper import PAPER
from fastad.presets.preset import Preset as Preset
from fastad.presets.quick import QUICK
from fastad.presets.science import SCIENCE
from fastad.presets.worlds import WORLDS

CONFIGURED = ("collect", "train", "rollout")  # the commands that a preset has settings for
PRESETS = QUICK | WORLDS | SCIENCE | PAPER


def preset(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        UserError: If there is none; the message proposes the nearest name.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


def preset_for(name: str, command: str) -> Any:
    """The config that a preset has for one command.

    Raises:
        UserError: If the preset does not exist, or has none for this command.
    """
    chosen = preset(name)
    if command not in CONFIGURED:
        raise UserError(f"config={name}: presets configure collect, train and rollout only")
    return getattr(chosen, command)


def as_yaml(name: str) -> str:
    """A preset as YAML: a section for each command, which --config reads back as it was.

    Raises:
        UserError: If there is no such preset.
    """
    import yaml

    chosen = preset(name)
    configs = {command: getattr(chosen, command) for command in CONFIGURED}
    sections = {c: _without_off(to_plain(v), to_plain(type(v)())) for c, v in configs.items()}
    text: str = yaml.safe_dump(sections, sort_keys=False)
    return f"# {chosen.summary}\n{text}"


def _without_off(plain: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A config without what is off, and is so by default: nobody misses it in the file."""
    kept = {}
    for key, value in plain.items():
        if isinstance(value, dict):
            kept[key] = _without_off(value, defaults[key])
        elif value != defaults[key] or not (value is None or value is False or value == []):
            kept[key] = value
    return kept
