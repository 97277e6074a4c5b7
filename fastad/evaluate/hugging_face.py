"""A run as a model of Hugging Face: its folder, with a card that says what it is."""

import json
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save

from fastad.base.beside import folder_beside
from fastad.base.errors import printable
from fastad.base.files import as_json, digest, write_new
from fastad.base.provenance import __version__
from fastad.evaluate.kept_results import kept_results
from fastad.evaluate.result import Result
from fastad.histories.schema import INFO_FILE, TASKS_FILE
from fastad.methods.registry import label
from fastad.training.checkpoint import load_model_of_update
from fastad.training.checkpoint_folder import find_checkpoint
from fastad.training.description import describe
from fastad.training.model_files import (
    CARD,
    FORMAT,
    MODEL_CONFIG,
    MODEL_TYPE,
    WEIGHTS,
)
from fastad.training.run import Run
from fastad.training.run_files import DATASET, ROLLOUTS, is_ours, run_of, taught

MACHINE = ("platform", "cpus", "threads", "gpu")  # of `made_by`, that a published model keeps back
SHOWN_EPISODES = 5


def write_model_folder(source: Path, folder: Path, *, overwrite: bool) -> None:
    """Write a model's folder: model.safetensors, config.json, a card README.md, and dataset/.

    Args:
        source: A run, whose newest checkpoint is taken, or one of its checkpoints.
        folder: Absent or empty.
        overwrite: Replace a folder that fastad wrote.

    Raises:
        UserError: If the run is damaged or has no checkpoint, or `folder` holds something else.
    """
    model, updates = load_model_of_update(find_checkpoint(source))
    run = Run(run_of(find_checkpoint(source)))
    weights = save(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        metadata={"format": "pt"},
    )
    config = as_json(
        {
            "model_type": MODEL_TYPE,
            "architectures": ["SequenceModel"],
            "format_version": FORMAT,
            "fastad_version": __version__,
            "updates": updates,
            "train_seconds": run.train_seconds,
            "weights": {"bytes": len(weights), "sha256": digest(weights)},
            "model": describe(model),
            "training": _published(run.config),
            "made_by": {k: v for k, v in run.made_by.items() if k not in MACHINE},
        }
    )
    contents = {
        WEIGHTS: weights,
        MODEL_CONFIG: f"{json.dumps(config, indent=2)}\n".encode(),
        CARD: card(run, _result(run, updates), updates, folder.name).encode(),
        **{
            f"{DATASET}/{n}": (run.path / DATASET / n).read_bytes() for n in (INFO_FILE, TASKS_FILE)
        },
    }
    with folder_beside(folder, "model", _is_of_folder, overwrite=overwrite) as part:
        (part / DATASET).mkdir()
        for name, content in contents.items():
            write_new(part / name, content)


def card(run: Run, result: Result | None, updates: int | None, name: str) -> str:
    """The model card, Markdown under a YAML header.

    Args:
        run: What the model is of.
        result: Its newest rollout; None if there is none.
        updates: That it was trained for.
        name: Of its folder.
    """
    info, config = run.dataset_info, run.config
    method, target, auxiliary = taught(run.path)
    what = label(method, target, auxiliary=auxiliary)
    knows = info.source_knows or "nothing but what it experiences"
    model = config["model"]
    header = _header(run, result, name)
    lines = [
        f"# {_plain(name)}",
        "",
        f"{what[:1].upper()}{what[1:]}, trained with fastad. With frozen weights it learns new "
        "tasks in its context, from episode to episode.",
        "",
        "## What it was trained on",
        "",
        f"- Environment: {_code(info.env, info.env_kwargs)}",
        f"- Learning histories: {info.num_histories:,} of {info.num_steps:,} steps, of "
        f"{_code(info.source, info.source_kwargs)}",
        f"- The source knows: {_plain(knows)}",
        f"- Tasks: {info.num_train:,} to train on, {info.num_validation:,} for validation, "
        f"{info.num_test:,} held out for tests",
        f"- Model: {model['num_layers']} layers of width {model['width']}, "
        f"{model['num_heads']} heads, a context of {model['context']} tokens",
        f"- Training: {updates or 0:,} updates, {run.train_seconds:.0f} s, seed "
        f"{config['settings']['seed']}",
        "",
        "## What it does",
        "",
        *_figures(result),
        "",
        "## How to load it",
        "",
        "```python",
        "import fastad",
        "",
        f"run = fastad.Run({name!r})  # this folder; nothing in it is code",
        "model = run.model()",
        f"result = fastad.rollout(run)  # or: fastad rollout {_plain(name)}",
        "```",
        "",
    ]
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n" + "\n".join(lines)


def _header(run: Run, result: Result | None, name: str) -> dict[str, Any]:
    header: dict[str, Any] = {
        "library_name": "fastad",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["reinforcement-learning", "in-context-learning", "algorithm-distillation"],
    }
    if result is not None:
        env = printable(run.dataset_info.env)
        mean = float(result.task_returns.mean(axis=0)[-1])
        measured = {"type": "mean_reward", "name": "return in the last episode", "value": mean}
        header["model-index"] = [
            {
                "name": printable(name),
                "results": [
                    {
                        "task": {"type": "reinforcement-learning"},
                        "dataset": {"name": f"{env}, {result.split} tasks", "type": env},
                        "metrics": [measured],
                    }
                ],
            }
        ]
    return header


def _figures(result: Result | None) -> list[str]:
    """What a rollout returned, episode by episode."""
    if result is None:
        return ["No rollout of it was kept: `fastad rollout` on this folder measures it."]
    figures = result.figures()
    returns, interval = figures["returns"], figures["interval"]
    last = len(returns) - 1
    shown = sorted({round(i * last / (SHOWN_EPISODES - 1)) for i in range(SHOWN_EPISODES)})
    rows = [
        f"| {i + 1} | {returns[i]:.2f} | "
        + (f"{interval[0][i]:.2f} to {interval[1][i]:.2f} |" if interval else "- |")
        for i in shown
    ]
    beside = [
        f"{name} {figures[f'{name}_return']:.2f}"
        for name in ("random", "optimal")
        if figures.get(f"{name}_return") is not None
    ]
    if figures.get("source_returns"):
        beside.append(f"its source at the end {figures['source_returns'][-1]:.2f}")
    return [
        f"Return per episode on {result.num_tasks} {result.split} tasks, frozen weights, seed "
        f"{result.seed}:",
        "",
        "| episode | return | 95 % interval |",
        "|---|---|---|",
        *rows,
        "",
        f"Beside it: {', '.join(beside)}." if beside else "",
    ]


def _result(run: Run, updates: int | None) -> Result | None:
    """The newest result of this very model, with nothing hidden from it."""
    for result in kept_results(run.path):
        if result.control == "none" and result.updates == updates:
            return result
    return None


def _published(config: dict[str, Any]) -> dict[str, Any]:
    """The config without where things lay on the machine that trained."""
    kept = {key: value for key, value in config.items() if key not in ("out", "command")}
    return kept | {"data": Path(str(config.get("data", ""))).name}


def _is_of_folder(path: str) -> bool:
    files = (MODEL_CONFIG, WEIGHTS, CARD, f"{DATASET}/{INFO_FILE}", f"{DATASET}/{TASKS_FILE}")
    return path in (*files, f"{DATASET}/") or (path.startswith(ROLLOUTS) and is_ours(path))


def _code(name: str, options: dict[str, Any]) -> str:
    given = ", ".join(f"{key}={value!r}" for key, value in options.items())
    text = f"{name}({given})" if given else name
    text = text if len(text) <= 200 else f"{text[:200]}..."
    return f"`{printable(text).replace('`', chr(39))}`"


def _plain(text: str) -> str:
    """Of text from anywhere, what Markdown and HTML take for nothing but text."""
    escaped = printable(text).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{c}" if c in "\\`*[]|" else c for c in escaped)
