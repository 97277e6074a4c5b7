"""`fastad inspect`: what is in a dataset or a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastad.base.errors import CheckFailedError, UserError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from fastad.histories.reader import HistoryDataset

CURVE_WIDTH = 60
MAX_OBSERVATION_VALUES = 64


@dataclass(frozen=True)
class InspectConfig:
    """Show what is in a dataset of learning histories, or in a run."""

    path: Path
    """Folder of the dataset or of the run."""

    tokens: bool = False
    """Print a history as text, one line per step."""

    history: int = 0
    """Which history to print."""

    steps: int = 40
    """How many of its steps to print."""

    verify: bool = False
    """First hold every file to the digest that was stored with it, and name each that differs."""

    json: Path | None = None
    """Also write what is shown to this file, as JSON."""


def run_inspect(config: InspectConfig) -> None:
    """Print a summary of the dataset or the run at `config.path`.

    Raises:
        UserError: If the folder holds neither, or is damaged.
        CheckFailedError: If `verify` finds a file that is not what was written.
    """
    if config.json is not None:
        from fastad.base.outputs import check_output

        check_output("json", config.json)
    if (config.path / "dataset.json").is_file():
        if config.verify:
            verify_whole_dataset(config.path)
        inspect_dataset(config)
        return
    if (config.path / "config.yaml").is_file():
        if config.verify:
            verify_whole_run(config.path)
        inspect_run(config)
        return
    if not config.path.exists():
        raise UserError(f"path={config.path} does not exist; name a dataset or a run")
    raise UserError(
        f"path={config.path} is neither a dataset (it has no dataset.json) nor a run (it has no "
        "config.yaml); name a folder that `fastad collect` or `fastad train` wrote"
    )


def inspect_dataset(config: InspectConfig) -> None:
    """Print what the dataset at `config.path` holds, and optionally one history as text.

    Raises:
        UserError: If the dataset is damaged, or has no history `config.history`.
    """
    from rich.console import Console

    from fastad.base.outputs import write_output
    from fastad.histories.reader import HistoryDataset

    dataset = HistoryDataset(config.path)
    if not 0 <= config.history < dataset.num_histories:
        raise UserError(
            f"history={config.history} must lie in [0, {dataset.num_histories}), the histories "
            f"of {config.path}"
        )
    if config.steps < 1:
        raise UserError(f"steps={config.steps} must be at least 1")
    summary = summarize(dataset)
    console = Console()
    _print_summary(console, summary)
    if config.tokens:
        from fastad.histories.tokens import history_text

        text = history_text(
            dataset, config.history, num_steps=config.steps, max_values=MAX_OBSERVATION_VALUES
        )
        console.print(f"\nhistory {config.history}, task {dataset.task_ids[config.history]}")
        # Plain print: rich would wrap lines and take brackets for markup.
        print(text)
        summary["tokens"] = text
    if config.json is not None:
        write_output(config.json, summary)


def verify_whole_dataset(path: Path) -> None:
    """Hold every file of a dataset to its digest; what has none is named, too.

    Raises:
        CheckFailedError: If one is not what was written; each is named.
    """
    from fastad.base.progress import progress
    from fastad.histories.reader import load_info
    from fastad.histories.verify import column_bytes, verify_dataset

    with progress(column_bytes(path, load_info(path)), "bytes", "verify") as bar:
        verdict = verify_dataset(path, progress=bar.advance)
    for line in verdict.unknown:
        print(printable(f"not verified: {line}"))
    _report(path, verdict.wrong, "every file that has a digest is what was written")


def verify_whole_run(run: Path) -> None:
    """Hold every file of a run to its digest, but metrics.jsonl, which has none.

    Raises:
        CheckFailedError: If one is not what was written; each is named.
    """
    from fastad.training.checkpoint_folder import verify_checkpoints
    from fastad.training.run_files import verify_run

    _report(run, verify_run(run) + verify_checkpoints(run), "every file is what was written")


def _report(path: Path, wrong: Sequence[str], success: str) -> None:
    for line in wrong:
        print(printable(line))
    if wrong:
        raise CheckFailedError(f"{path}: {len(wrong)} found that are not what was written")
    print(f"{path}: {success}")


def inspect_run(config: InspectConfig) -> None:
    """Print how far the run at `config.path` is, what it trains, and how its rollouts went."""
    from rich.console import Console

    from fastad.base.outputs import write_output

    summary = summarize_run(config.path)
    console = Console()
    _print_rows(console, _run_rows(summary))
    curve = summary["eval_last"]
    if curve:
        levels = _levels(console)
        console.print(
            f"\nreturn in the last episode of rollouts while training, {len(curve)} times:"
        )
        console.print(f"{curve[0]:.3g} {sparkline(curve, levels=levels)} {curve[-1]:.3g}")
    if config.json is not None:
        write_output(config.json, summary)


def summarize_run(path: Path) -> dict[str, Any]:
    """Everything that `inspect` shows of a run, as plain JSON values."""
    from fastad.histories.reader import load_description
    from fastad.training.checkpoint_folder import list_checkpoints
    from fastad.training.run_files import (
        DATASET,
        METRICS,
        check_run,
        read_config,
        read_made_by,
        read_metrics,
    )

    check_run(path)
    info, tasks = load_description(path / DATASET)
    records, damaged = read_metrics(path / METRICS)
    if damaged:
        print(f"{path / METRICS}: {len(damaged)} damaged, left out, the first line {damaged[0]}")
    losses = [record for record in records if "loss" in record]
    return {
        "path": str(path),
        "config": read_config(path),
        "made_by": read_made_by(path),
        "env": _call(info.env, info.env_kwargs),
        "source": _call(info.source, info.source_kwargs),
        "source_knows": info.source_knows,
        "num_tasks": len(tasks),
        "updates_done": losses[-1]["step"] if losses else 0,
        "loss": losses[-1]["loss"] if losses else None,
        "train_seconds": losses[-1]["train_seconds"] if losses else 0.0,
        "eval_last": [record["eval_last"] for record in records if "eval_last" in record],
        "checkpoints": [checkpoint.name for checkpoint in list_checkpoints(path)],
    }


def summarize(dataset: HistoryDataset) -> dict[str, Any]:
    """Everything that `inspect` shows of a dataset, as plain JSON values."""
    info = dataset.info
    curve = dataset.returns()
    files = [file for file in dataset.path.rglob("*") if file.is_file()]
    return {
        "path": str(dataset.path),
        **info.to_json(),
        "complete": dataset.complete,
        "num_shards_complete": dataset.num_shards_complete,
        "num_histories_available": dataset.num_histories,
        "num_histories_train": len(dataset.train_histories),
        "num_steps_available": dataset.num_steps,
        "bytes": sum(file.stat().st_size for file in files),
        "source_returns": [round(value, 6) for value in curve.mean.tolist()],
        "source_returns_histories": curve.num_histories,
    }


def sparkline(values: Sequence[float], *, width: int = CURVE_WIDTH, levels: str) -> str:
    """A curve of at most `width` characters, lowest value to highest; longer ones are binned.

    Args:
        values: In order; at least one.
        width: Characters at most.
        levels: Characters from low to high.
    """
    import numpy as np

    binned = [part.mean() for part in np.array_split(np.asarray(values), min(width, len(values)))]
    low, span = min(binned), max(binned) - min(binned)
    top = len(levels) - 1
    return "".join(levels[round((v - low) / span * top) if span > 0 else 0] for v in binned)


def _print_summary(console: Console, summary: dict[str, Any]) -> None:
    from rich.text import Text

    _print_rows(console, _rows(summary))
    returns = summary["source_returns"]
    if not returns:
        console.print("no history holds a complete episode yet")
        return
    curve = sparkline(returns, levels=_levels(console))
    averaged, available = summary["source_returns_histories"], summary["num_histories_available"]
    sampled = f"{averaged:,} of {available:,}" if averaged < available else f"all {available:,}"
    console.print(f"\nsource's return per episode, mean of {sampled} histories:")
    console.print(Text(f"{returns[0]:.3g} {curve} {returns[-1]:.3g}"))
    console.print(f"first to last of {len(returns):,} episodes")


def _print_rows(console: Console, rows: list[tuple[str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(printable(value)))
    console.print(table)


def _levels(console: Console) -> str:
    """Characters of a sparkline, from low to high."""
    return "▁▂▃▄▅▆▇█" if console.encoding.lower().startswith("utf") else "_.-=+*#@"


def _run_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    config, made_by = summary["config"], summary["made_by"]
    model, settings = config["model"], config["settings"]
    source = summary["source"]
    if summary["source_knows"]:
        source += f", which knows {summary['source_knows']}"
    loss = "-" if summary["loss"] is None else f"{summary['loss']:.4f}"
    return [
        ("run", summary["path"]),
        ("dataset", config["data"]),
        ("environment", summary["env"]),
        ("source", source),
        ("tasks", f"{summary['num_tasks']:,}"),
        (
            "model",
            f"{model['num_layers']} layers, width {model['width']}, {model['num_heads']} heads, "
            f"context {model['context']}, positions {model['positions']}, {model['layout']}",
        ),
        ("updates", f"{summary['updates_done']:,} of {settings['updates']:,}, loss {loss}"),
        ("trained", f"{summary['train_seconds']:.1f} s"),
        ("checkpoints", ", ".join(summary["checkpoints"]) or "none yet"),
        (
            "made by",
            f"fastad {made_by['fastad']}, torch {made_by['torch']}, commit {made_by['commit']}",
        ),
        ("seed", str(settings["seed"])),
    ]


def _rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values of the summary's table."""
    shards = f"{summary['num_shards_complete']} of {summary['num_shards']} complete"
    histories = f"{summary['num_histories']:,}"
    steps = f"{summary['num_steps']:,} per history"
    if not summary["complete"]:
        histories += f" planned, {summary['num_histories_available']:,} available"
        steps += f" planned, {summary['num_steps_available']:,} committed in all available"
    kind = "exactly" if summary["fixed_length"] else "at most"
    rows = [
        ("dataset", summary["path"]),
        ("environment", _call(summary["env"], summary["env_kwargs"])),
        ("observations", _space(summary["observation_space"])),
        ("actions", _space(summary["action_space"])),
        ("source", _call(summary["source"], summary["source_kwargs"])),
    ]
    if summary["source_knows"]:
        rows.append(("", f"source knows: {summary['source_knows']}"))
    if summary["action_noise"] > 0:
        rows.append(("action noise", f"{summary['action_noise']:g} of actions are random"))
        rows.append(("", f"labels: {summary['noise_labels']}"))
    size = summary["bytes"]
    return [
        *rows,
        (
            "tasks",
            f"{summary['num_train']:,} train, {summary['num_validation']:,} validation, "
            f"{summary['num_test']:,} test",
        ),
        ("held out", summary["holdout"]),
        ("histories", f"{histories}; {summary['num_histories_train']:,} of train tasks"),
        ("steps", f"{steps}; episodes of {kind} {summary['episode_length']}"),
        ("policy stored", "yes" if summary["has_action_probs"] else "no"),
        ("shards", shards),
        ("size", f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"),
        ("seed", str(summary["seed"])),
    ]


def _call(name: str, kwargs: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in kwargs.items())})"


def _space(description: dict[str, Any]) -> str:
    kind = description["type"]
    if kind == "Box":
        shape = "x".join(map(str, description["shape"])) or "scalar"
        return f"Box, {shape} {description['dtype']}"
    return f"{kind}({description['n' if kind == 'Discrete' else 'nvec']})"
