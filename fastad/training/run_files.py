"""What lies in a run folder, and reading it: what was run, what made it, how it went."""

import json
import logging
import re
import reprlib
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from fastad.base.config import from_plain, parse_yaml, to_plain
from fastad.base.errors import UserError
from fastad.base.files import (
    digest,
    is_sealed,
    open_regular,
    read_bytes,
    read_json,
    replace_durably,
    write_json,
)
from fastad.base.possession import is_marked, marker_name
from fastad.histories.reader import load_info
from fastad.histories.schema import INFO_FILE, TASKS_FILE, DatasetInfo
from fastad.methods.ad import known_family
from fastad.model.config import ModelConfig
from fastad.training.model_files import MODEL_CONFIG, is_model_folder, read_model_config
from fastad.training.settings import TrainSettings

_logger = logging.getLogger(__name__)

CONFIG, METRICS, MADE_BY = "config.yaml", "metrics.jsonl", "made_by.json"
CHECKPOINTS = "checkpoints"
CHECKPOINT_NAME = r"step-(\d{8,})"
CHECKPOINT_FILES = (
    "model.safetensors",
    "model.json",
    "optimizer.safetensors",
    "state.json",
    "manifest.json",
)
DATASET = "dataset"  # folder with the description of the dataset, without its histories
ROLLOUTS = "rollouts"
TRACKED = "trackers.json"  # by which identity each tracker knows the run
TENSORBOARD = "tensorboard"  # folder of its event files
EVENTS_SUFFIX = ".fastad"  # at the end of their names
MANIFEST = "manifest.json"  # digests of the files that never change once the run has begun
FIXED = (CONFIG, MADE_BY, f"{DATASET}/{INFO_FILE}", f"{DATASET}/{TASKS_FILE}", marker_name("run"))
ONCE = ("resume", "overwrite", "extend")  # what a training is asked for once, and no run is made of
OF_A_METHOD = ("rl2",)  # groups of settings that the method of this name alone reads
MAX_FILE_BYTES = {CONFIG: 2**18, f"{DATASET}/{TASKS_FILE}": 2**32}
MAX_JSON_BYTES = 2**24
DAMAGED = "restore it from a backup, or train again with --overwrite"


def run_of(path: Path) -> Path:
    """The run folder of a run folder, or of one of its checkpoints."""
    path = path.resolve()
    return path.parent.parent if path.parent.name == CHECKPOINTS else path


def is_ours(path: str) -> bool:
    """Whether fastad writes such a file or folder into a run, a torn temporary one included.

    Args:
        path: Within the run, with "/" at the end of a folder's.
    """
    files = (CONFIG, METRICS, MADE_BY, MANIFEST, TRACKED, *FIXED)
    name = re.escape
    pictures = r"rollout(-no-reward|-wiped-context)?\.png"  # of earlier versions
    checkpoints = f"{CHECKPOINTS}/{CHECKPOINT_NAME}(\\.part)?/"
    kinds = (
        rf"({'|'.join(map(name, files))})(\.tmp)?",
        pictures,
        rf"({DATASET}|{CHECKPOINTS}|{ROLLOUTS}|{TENSORBOARD})/",
        rf"{checkpoints}(({'|'.join(map(name, CHECKPOINT_FILES))})(\.tmp)?)?",
        rf"{TENSORBOARD}/events\.out\.tfevents\.\d+\.[^/]+{name(EVENTS_SUFFIX)}",
        rf"{ROLLOUTS}/\d{{8}}-\d{{6}}[a-z0-9-]*\.(json|png|json\.tmp|png\.tmp)",
    )
    return any(re.fullmatch(kind, path) for kind in kinds)


def seal_run(run: Path, contents: dict[str, bytes]) -> None:
    """Store the digests of the files that never change; the marker's is read from the folder."""
    marker = marker_name("run")
    stored = {name: digest(content) for name, content in contents.items()}
    stored[marker] = digest(_read_fixed(run, marker))
    write_json(run / MANIFEST, {"files": stored}, seal=True)


def replace_config(run: Path, content: bytes) -> None:
    """Give a run a new config; a kill at any moment leaves the old or the new one, sealed."""
    stored, _ = _read_manifest(run)
    new = {CONFIG: digest(content)}
    write_json(run / MANIFEST, {"files": stored, "next": new}, seal=True)
    replace_durably(run / CONFIG, content)
    write_json(run / MANIFEST, {"files": stored | new}, seal=True)


def verify_run(run: Path) -> list[str]:
    """Hold every file that never changes to its digest; returns what is wrong, a line each.

    Runs of fastad before it marked them have no digests: nothing is wrong with them then.
    """
    file = run / MANIFEST
    if not file.exists():
        return [f"{file} is missing; {DAMAGED}"] if is_marked(run, "run") else []
    try:
        stored, coming = _read_manifest(run)
    except UserError as error:
        return [str(error)]
    if not is_sealed(file):
        return [f"{file}: damaged, it lacks its digest; {DAMAGED}"]
    wrong = []
    for name in FIXED:
        try:
            if digest(_read_fixed(run, name)) not in (stored.get(name), coming.get(name)):
                wrong.append(f"{run / name}: damaged, not the content that was stored; {DAMAGED}")
        except FileNotFoundError:
            wrong.append(f"{run / name} is missing; {DAMAGED}")
        except UserError as error:
            wrong.append(str(error))
    return wrong


def _read_manifest(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The digests of the files that never change, and of those that are about to be replaced."""
    file = run / MANIFEST
    manifest = read_json(file, fix=DAMAGED, limit=MAX_JSON_BYTES)
    stored, coming = manifest.get("files"), manifest.get("next", {})
    if not isinstance(stored, dict) or not isinstance(coming, dict):
        raise UserError(f"{file}: damaged, it holds no digests; {DAMAGED}")
    if not stored.keys() >= {*FIXED}:
        raise UserError(f"{file}: damaged, it is not that of a run; {DAMAGED}")
    return stored, coming


def check_run(run: Path) -> None:
    """See `verify_run`.

    Raises:
        UserError: Naming the first file that is wrong.
    """
    wrong = verify_run(run)
    if wrong:
        raise UserError(wrong[0])


def missing_run(path: Path) -> UserError:
    """The error for a run that is not there."""
    out = shlex.quote(str(path))
    return UserError(f"run={path} does not exist; train one with: fastad train DATA --out {out}")


def read_config(run: Path) -> dict[str, Any]:
    """The config that a run was begun with, as plain values.

    Raises:
        UserError: If there is none.
    """
    file = run / CONFIG
    if is_model_folder(run):
        file, content = run / MODEL_CONFIG, read_model_config(run)["training"]
    else:
        try:
            content = parse_yaml(_read_fixed(run, CONFIG), str(file))
        except (FileNotFoundError, UserError) as error:
            raise UserError(f"{file} is missing or damaged; is {run} a run folder?") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no fields; {DAMAGED}")
    for name, kind in (("model", ModelConfig), ("settings", TrainSettings)):
        given = content.get(name, {})
        if not isinstance(given, dict):
            raise UserError(f"{file}: {name}={reprlib.repr(given)} holds no fields; {DAMAGED}")
        # What a later fastad added is let through: a rollout may not need it.
        ours = {field.name for field in fields(kind)}
        known = {key: value for key, value in given.items() if key in ours}
        content[name] = given | to_plain(from_plain(known, kind, f"{file}: {name}"))
    for name in ("data", "method"):
        if not isinstance(content.get(name, ""), str):
            raise UserError(f"{file}: {name}={reprlib.repr(content[name])} is no word; {DAMAGED}")
    return content


def episodes_per_window(run: Path, info: DatasetInfo) -> int:
    """Episodes that the training windows of a run showed."""
    settings = read_config(run_of(run))["settings"]
    num_steps = settings["window"] or info.num_steps // settings["every_kth_episode"]
    return max(1, int(num_steps) // info.episode_length)


class Taught(NamedTuple):
    """How a model was trained.

    Attributes:
        method: By name.
        target: What it was held to.
        auxiliary: What its encoder was told besides, in training, by name.
    """

    method: str
    target: str
    auxiliary: tuple[str, ...] = ()


def taught(run: Path) -> Taught:
    """How a run was trained, or a checkpoint of it."""
    folder = run_of(run)
    config = read_config(folder)
    settings = config["settings"]
    auxiliary: tuple[str, ...] = ()
    if settings.get("auxiliary_weight", 0) > 0:
        family = known_family(load_info(folder / DATASET))
        auxiliary = tuple((family.auxiliary() if family else None) or ())
    return Taught(config.get("method", "ad"), settings["target"], auxiliary)


def read_made_by(run: Path) -> dict[str, Any]:
    """What made a run: versions, hardware, and what decides its bits."""
    if is_model_folder(run):
        made_by: dict[str, Any] = read_model_config(run)["made_by"]
        return made_by
    return read_json(run / MADE_BY, fix=DAMAGED, limit=MAX_JSON_BYTES)


def begun_numerics(run: Path) -> dict[str, Any] | None:
    """What decided the bits of a run when it was begun; None if there is no run to continue.

    Raises:
        UserError: If the run is damaged.
    """
    if not (run / CONFIG).exists() or not is_marked(run, "run"):
        return None
    check_run(run)
    facts = read_made_by(run).get("numerics")
    kinds = {"device": str, "threads": int, "kernels": dict}
    if not isinstance(facts, dict) or any(
        not isinstance(facts.get(name), kind) for name, kind in kinds.items()
    ):
        raise UserError(f"{run / MADE_BY} does not tell what the run computes with; {DAMAGED}")
    return facts


def _read_fixed(run: Path, name: str) -> bytes:
    limit = MAX_FILE_BYTES.get(name, MAX_JSON_BYTES)
    return read_bytes(run / name, fix=DAMAGED, limit=limit)


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """What must not change between a run and its continuation, each under its own name.

    Where things lie, how they are logged and what computes them may, and what another method is
    told; the dataset is compared by its content.
    """
    free = (
        "command", "data", "out", "env", *ONCE, "device", "threads", "kernels", "parallel",
        "accumulate",
        "attention",  # as earlier versions called the kernels
        "activation_checkpointing", "log_every", "eval_every", "checkpoint_every",
        "eval_episodes", "eval_context", "eval_tasks", "track", "track_project",
    )  # fmt: skip
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key not in OF_A_METHOD or key == config.get("method"):
            flat |= value if isinstance(value, dict) else {key: value}
    return {key: value for key, value in flat.items() if key not in free}


def _is_record(record: object) -> bool:
    """Whether a line's value is a step and numbers that were measured then."""
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return False
    if "loss" in record and "train_seconds" not in record:
        return False
    # A curve is a list of numbers.
    measured = (value if isinstance(value, list) else [value] for value in record.values())
    return all(
        type(value) is float or (type(value) is int and abs(value) < 2**63)
        for values in measured
        for value in values
    )


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Records of metrics.jsonl in order; lines that are none are left out, and the log says so.

    A last line that a kill tore is not counted as damaged.
    """
    records: list[dict[str, Any]] = []
    damaged: list[int] = []
    if not file.exists():
        return records
    with open_regular(file, fix="move it elsewhere") as stream:
        content = stream.read()
    *lines, torn = content.split(b"\n")
    for number, line in enumerate([*lines, torn], start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if _is_record(record):
            records.append(record)
        elif number <= len(lines):
            damaged.append(number)
    if damaged:
        shown = ", ".join(map(str, damaged[:3])) + (", ..." if len(damaged) > 3 else "")
        _logger.info(f"{file}: {len(damaged)} damaged, left out: line {shown}")
    return records
