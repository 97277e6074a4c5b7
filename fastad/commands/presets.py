"""`fastad presets`: which there are, and one as YAML."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PresetsConfig:
    """List the presets, or print one as YAML that --config takes.

    To change one: fastad presets dark-room > mine.yaml, then --config mine.yaml with collect, train
    and rollout.
    """

    name: str | None = None
    """Which to print (default: list all)."""


def run_presets(config: PresetsConfig) -> None:
    """Print a line per preset, or one preset as YAML."""
    from fastad.presets import PRESETS, as_yaml

    if config.name is not None:
        print(as_yaml(config.name), end="")
        return
    rows = [
        (name, preset.collect.env, preset.collect.source, preset.summary)
        for name, preset in PRESETS.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for *words, summary in rows:
        print(
            *(f"{word:{width}}" for word, width in zip(words, widths, strict=True)),
            summary,
            sep="  ",
        )
    print("\none of them as YAML: fastad presets NAME; with collect, train, rollout: --config NAME")
