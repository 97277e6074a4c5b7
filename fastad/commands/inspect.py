"""`fastad inspect`: what is in a dataset, in a run, or in a demo's folder with both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastad.base.errors import CheckFailedError, UserError, printable

if TYPE_CHECKING:
    from fastad.base.verdict import Verdict

MAX_OBSERVATION_VALUES = 64


@dataclass(frozen=True)
class InspectConfig:
    """Show what is in a dataset of learning histories, in a run, or in a demo's folder."""

    path: Path
    """Folder of the dataset, of the run, or of a demo, which holds both."""

    tokens: bool = False
    """Print a history as text, one line per step."""

    history: int = 0
    """Which history to print."""

    steps: int = 40
    """How many of its steps to print."""

    verify: bool = False
    """First hold every file to the digest that was stored with it, and name each that differs
    (exit code 1) or has none (exit code 2)."""

    json: Path | None = None
    """Also write what is shown to this file, as JSON."""


def run_inspect(config: InspectConfig) -> None:
    """Print a summary of what lies at `config.path`.

    Raises:
        UserError: If that is neither dataset nor run, or damaged; after all is shown, if `verify`
            finds anything that no digest vouches for.
        CheckFailedError: If `verify` finds a file that is not what was written.
    """
    if config.json is not None:
        from fastad.base.outputs import check_output

        check_output("json", config.json)
    parts = find_parts(config.path)
    unknown = _verify(config.path, parts) if config.verify else []
    shown = {}
    for number, (kind, path) in enumerate(parts.items()):
        if number > 0:
            print()
        shown[kind] = _show_dataset(config, path) if kind == "data" else _show_run(path)
    if config.json is not None:
        from fastad.base.outputs import write_output

        is_demo = config.path not in parts.values()
        write_output(config.json, shown if is_demo else next(iter(shown.values())))
    if unknown:
        raise UserError(
            f"path={config.path} is not verified in full: of {len(unknown)} named above there is "
            "no digest; what is unfinished gets its own when it is finished, with --resume"
        )


def find_parts(path: Path) -> dict[str, Path]:
    """The dataset, "data", and the run, "run", that lie at a path or, a demo's, right under it.

    Raises:
        UserError: If there is neither.
    """
    from fastad.histories.formats.xland import is_hdf5
    from fastad.training.model_files import is_model_folder

    if path.is_file() and is_hdf5(path):
        return {"data": path}
    files = {"data": "dataset.json", "run": "config.yaml"}
    if is_model_folder(path):
        return {"run": path}
    here = {kind: path for kind, file in files.items() if (path / file).is_file()}
    if here:
        return here
    under = {kind: path / kind for kind, file in files.items() if (path / kind / file).is_file()}
    if under:
        return under
    if not path.exists():
        raise UserError(f"path={path} does not exist; name a dataset or a run")
    raise UserError(
        f"path={path} is neither a dataset (it has no dataset.json) nor a run (it has no "
        "config.yaml), nor does it hold any as data and run, as a demo does; name a folder that "
        "`fastad collect` or `fastad train` wrote"
    )


def _verify(path: Path, parts: dict[str, Path]) -> list[str]:
    """Hold every file to its digest; returns what has none.

    Raises:
        CheckFailedError: If one is not what was written; each is named.
    """
    from fastad.training.verify import verify_whole_run

    wrong: list[str] = []
    unknown: list[str] = []
    for kind, part in parts.items():
        verdict = _verdict_on_dataset(part) if kind == "data" else verify_whole_run(part)
        wrong += verdict.wrong
        unknown += verdict.unknown
    for line in unknown:
        print(printable(f"not verified: {line}"))
    for line in wrong:
        print(printable(line))
    if wrong:
        raise CheckFailedError(f"{path}: {len(wrong)} found that are not what was written")
    if not unknown:
        log = ", but for metrics.jsonl, which has no digest" if "run" in parts else ""
        print(f"{path}: every file is what was written{log}")
    return unknown


def _verdict_on_dataset(path: Path) -> Verdict:
    from fastad.base.progress import progress
    from fastad.base.verdict import Verdict
    from fastad.histories.formats.xland import is_hdf5
    from fastad.histories.reader import load_info
    from fastad.histories.verify import column_bytes, verify_dataset

    if is_hdf5(path):
        return Verdict([], [f"{path}: HDF5 files of others have no digests"])
    with progress(column_bytes(path, load_info(path)), "bytes", "verify") as bar:
        return verify_dataset(path, progress=bar.advance)


def _show_dataset(config: InspectConfig, path: Path) -> dict[str, Any]:
    """Print what a dataset holds, and optionally one history as text.

    Raises:
        UserError: If the dataset is damaged, or has no history `config.history`.
    """
    from rich.console import Console

    from fastad.base.terminal import curve_text, print_rows
    from fastad.histories.opening import open_histories
    from fastad.histories.summary import summarize

    dataset = open_histories(path)
    if not 0 <= config.history < dataset.num_histories:
        raise UserError(
            f"history={config.history} must lie in [0, {dataset.num_histories}), the histories "
            f"of {path}"
        )
    if config.steps < 1:
        raise UserError(f"steps={config.steps} must be at least 1")
    summary, console = summarize(dataset), Console()
    print_rows(console, _dataset_rows(summary))
    returns = summary["source_returns"]
    if returns:
        averaged = summary["source_returns_histories"]
        available = summary["num_histories_available"]
        which = f"{averaged:,} of {available:,}" if averaged < available else f"all {available:,}"
        console.print(f"\nsource's return per episode, mean of {which} histories:")
        console.print(curve_text(console, returns))
        console.print(f"first to last of {len(returns):,} episodes")
    else:
        console.print("no history holds a complete episode yet")
    if config.tokens:
        from fastad.histories.tokens import history_text

        text = history_text(
            dataset, config.history, num_steps=config.steps, max_values=MAX_OBSERVATION_VALUES
        )
        console.print(f"\nhistory {config.history}, task {dataset.task_ids[config.history]}")
        # Plain print: rich would wrap lines and take brackets for markup.
        print(text)
        summary["tokens"] = text
    return summary


def _show_run(path: Path) -> dict[str, Any]:
    """Print how far a run is, what it trains, and how its rollouts went."""
    from rich.console import Console

    from fastad.base.terminal import curve_text, print_rows
    from fastad.training.run import Run

    summary, console = Run(path).summary(), Console()
    print_rows(console, _run_rows(summary))
    curve = summary["eval_last"]
    if curve:
        often = "once" if len(curve) == 1 else f"{len(curve)} times"
        console.print(f"\nreturn in the last episode of rollouts while training, {often}:")
        console.print(curve_text(console, curve))
    return summary


def _run_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    config, made_by = summary["config"], summary["made_by"]
    model, settings = config["model"], config["settings"]
    source = _call(summary["source"], summary["source_kwargs"])
    if summary["source_knows"]:
        source += f", which knows {summary['source_knows']}"
    loss = "-" if summary["loss"] is None else f"{summary['loss']:.4f}"
    return [
        ("run", summary["path"]),
        ("dataset", config.get("data", "-")),
        ("environment", _call(summary["env"], summary["env_kwargs"])),
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
            ", ".join(f"{name} {made_by.get(name)}" for name in ("fastad", "torch", "commit")),
        ),
        ("seed", str(settings["seed"])),
    ]


def _dataset_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
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
        ("actions", _actions(summary)),
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
        ("policies stored", ", ".join(summary["policies"]) or "none"),
        *(("", words) for words in summary["label_words"]),
        ("shards", shards),
        ("size", f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"),
        ("seed", str(summary["seed"])),
    ]


def _call(name: str, kwargs: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in kwargs.items())})"


def _actions(summary: dict[str, Any]) -> str:
    """Their space, and how draws come into it, if it is a box."""
    space = _space(summary["action_space"])
    if summary["action_space"]["type"] != "Box":
        return space
    return f"{space}, {'squashed' if summary['squash'] else 'clipped'} to its bounds"


def _space(description: dict[str, Any]) -> str:
    kind = description["type"]
    if kind == "Dict":
        return f"Dict({', '.join(f'{key}: {_space(part)}' for key, part in description['spaces'])})"
    if kind == "Tuple":
        return f"Tuple({', '.join(map(_space, description['spaces']))})"
    if kind == "Box":
        shape = "x".join(map(str, description["shape"])) or "scalar"
        return f"Box, {shape} {description['dtype']}"
    return f"{kind}({description['n' if kind == 'Discrete' else 'nvec']})"
