"""`fastad collect`: a source learns many tasks; its learning histories are stored."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from fastad.base.errors import UserError
from fastad.configs import CollectConfig

if TYPE_CHECKING:
    from fastad.histories.reader import HistoryDataset


def run_collect(config: CollectConfig, *, is_part: bool = False) -> None:
    """Collect, show progress, say what came of it and, unless it `is_part` of more, what next."""
    from fastad.api import collect
    from fastad.base.progress import reporting

    _check_typed(config)
    with reporting("steps", "collect") as report:
        dataset = collect(config, progress=report)
    print_summary(dataset)
    if not is_part:
        print(f"next: {shlex.join(['fastad', 'train', *_what_to_train(config)])}")


def _check_typed(config: CollectConfig) -> None:
    """Refuse code that nobody typed: a file of settings, from anywhere, names it."""
    from fastad.base.config import parse_options
    from fastad.base.trust import trusted
    from fastad.envs.registry import runs_code
    from fastad.sources.registry import code_within

    options = parse_options("source_options", config.source_options)
    names = [*([config.env] if runs_code(config.env) else []), *code_within(config.source, options)]
    missing = [name for name in dict.fromkeys(names) if name not in trusted()]
    if missing:
        raise UserError(
            f"config names code to be run, {' '.join(missing)}; if you trust it, add --trust "
            f"{','.join(missing)}"
        )


def print_summary(dataset: HistoryDataset) -> None:
    """Say what the dataset holds."""
    from fastad.histories.labels import label_words
    from fastad.histories.summary import learned

    info, source = dataset.info, learned(dataset)
    noise = ""
    if info.action_noise:
        noise = f" with {info.action_noise:.0%} random actions, labels {info.noise_labels}"
    print(
        f"{dataset.path}: {info.num_histories:,} histories of {info.num_steps:,} steps, {info.env} "
        f"learned by {info.source}{noise}; tasks: {info.num_train:,} train, "
        f"{info.num_validation:,} validation, {info.num_test:,} test"
    )
    if source is not None:
        optimum = "" if source.optimum is None else f"; optimum {source.optimum:.2f}"
        print(
            f"mean return: {source.first:.2f} in the first episode, {source.last:.2f} in the last"
            f"{optimum}"
        )
    if info.source_knows:
        print(f"source knows: {info.source_knows}")
    for words in label_words(info):
        print(words)


def _what_to_train(config: CollectConfig) -> list[str]:
    """The data, and the preset that they were collected by: it has settings to train with, too."""
    from fastad.presets import PRESETS

    where = ("out", "seed", "shards", "workers", "executor", "executor_options", "retries")
    alike = {name: getattr(CollectConfig(), name) for name in (*where, "resume", "overwrite")}
    asked = replace(config, **alike)
    for name, preset in PRESETS.items():
        if replace(preset.collect, out=None) == asked:
            return [str(config.folder), "--config", name]
    # Who asked for labels that look ahead wants to learn from them.
    return [str(config.folder), *(["--target", "final"] if "final" in config.labels else [])]
