"""Clocks that jump, files from the future, and formats of a later fastad."""

import datetime
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fastad.base.locks
from fastad.base.files import digest, read_json, write_json
from tests.faults.at_operations import kill_at, operations_of, taken_up
from tests.faults.subjects import COLLECT, ROLLOUT, TRAIN, Subject, World, quietly
from tests.faults.trials import Fault, Outcome

TRIALS = 20
YEAR = 365 * 86400.0


def faults(world: World) -> list[Fault]:
    """A jumping clock for what writes, then every version that a file tells."""
    subjects = (world.collect, world.train, world.rollout)
    jumps = [
        Fault(f"the clock jumps by years: {subject.name}", partial(_jumped, world, subject), trials)
        for subject, trials in zip(subjects, (TRIALS, TRIALS, TRIALS // 2), strict=True)
    ]
    return [*jumps, Fault("a format of a later fastad", partial(_newer, world), len(NEWER))]


# --- the clock


def _jumped(world: World, subject: Subject, index: int, rng: random.Random) -> Outcome:
    """Killed, with the clock anywhere; taken up with it anywhere else."""
    place = world.place("trial")
    subject.prepare(place)
    points = world.memory.setdefault(f"operations of {subject.name}", None)
    if points is None:
        points = world.memory[f"operations of {subject.name}"] = operations_of(world, subject)
    number = rng.randrange(len(points))
    _jump(rng)
    try:
        kill_at(world, subject, place, number, "before")
        for file in place.rglob("*"):
            moment = time.time() + rng.uniform(-20, 20) * YEAR
            os.utime(file, (moment, moment), follow_symlinks=False)
        _jump(rng)
        return taken_up(world, subject, place, f"{subject.name} and jumping clocks", kills=1)
    finally:
        _put_back()


_true = time.time, time.time_ns, time.gmtime, time.strftime


def _jump(rng: random.Random) -> None:
    """Give this process and its children a clock that jumps with every look at it."""
    generator = random.Random(rng.random())

    def now() -> float:
        return _true[0]() + generator.uniform(-20, 20) * YEAR

    time.time = now
    time.time_ns = lambda: int(now() * 1e9)
    time.gmtime = lambda seconds=None: _true[2](now() if seconds is None else seconds)  # type: ignore[assignment]

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.fromtimestamp(now(), tz)

    fastad.base.locks.datetime = Jumping  # type: ignore[misc]


def _put_back() -> None:
    time.time, time.time_ns, time.gmtime, time.strftime = _true
    fastad.base.locks.datetime = datetime.datetime  # type: ignore[misc]


# --- versions


def _reseal(file: Path, **changes: Any) -> None:
    write_json(file, {**read_json(file, fix="no"), **changes}, seal=True)


def _newer_dataset(data: Path, run: Path) -> None:
    _reseal(data / "dataset.json", schema_version=99)


def _newer_dataset_field(data: Path, run: Path) -> None:
    _reseal(data / "dataset.json", schema_version=99, hologram=True)


def _newer_shard(data: Path, run: Path) -> None:
    _reseal(data / "shard-00000" / "meta.json", schema_version=99)


def _newer_shard_field(data: Path, run: Path) -> None:
    _reseal(data / "shard-00001" / "meta.json", schema_version=99, hologram=[1])


def _change_checkpoints(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    for folder in (run / "checkpoints").iterdir():
        file = folder / "model.json"
        values = json.loads(file.read_text())
        change(values)
        file.write_text(json.dumps(values))
        manifest = read_json(folder / "manifest.json", fix="no")
        manifest["files"]["model.json"] = {
            "bytes": file.stat().st_size, "digest": digest(file.read_bytes())
        }  # fmt: skip
        write_json(folder / "manifest.json", manifest, seal=True)


def _newer_checkpoint(data: Path, run: Path) -> None:
    _change_checkpoints(run, lambda values: values.update(format_version=99))


def _newer_checkpoint_field(data: Path, run: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["format_version"] = 99
        values["config"]["hologram"] = 3

    _change_checkpoints(run, change)


def _newer_config(data: Path, run: Path) -> None:
    file = run / "config.yaml"
    file.write_text(re.sub("settings:", "settings:\n  hologram: 3", file.read_text(), count=1))
    manifest = read_json(run / "manifest.json", fix="no")
    manifest["files"]["config.yaml"] = digest(file.read_bytes())
    write_json(run / "manifest.json", manifest, seal=True)


def _newer_kept_dataset(data: Path, run: Path) -> None:
    file = run / "dataset" / "dataset.json"
    _reseal(file, schema_version=99)
    manifest = read_json(run / "manifest.json", fix="no")
    manifest["files"]["dataset/dataset.json"] = digest(file.read_bytes())
    write_json(run / "manifest.json", manifest, seal=True)


Change = Callable[[Path, Path], None]
# What changes, and the commands that must refuse it: of the dataset or of the run.
NEWER: list[tuple[Change, tuple[str, ...]]] = [
    (_newer_dataset, ("inspect data", "verify data", "train", "collect")),
    (_newer_dataset_field, ("inspect data", "verify data", "train", "collect")),
    (_newer_shard, ("inspect data", "verify data", "train", "collect")),
    (_newer_shard_field, ("inspect data", "verify data", "train", "collect")),
    (_newer_checkpoint, ("rollout", "train --resume")),
    (_newer_checkpoint_field, ("rollout", "train --resume")),
    (_newer_config, ("train --resume",)),
    (_newer_kept_dataset, ("inspect run", "rollout", "train --resume")),
]


def _newer(world: World, index: int, rng: random.Random) -> Outcome:
    change, refusing = NEWER[index]
    place = world.place("trial")
    data, run = place / "data", place / "run"
    shutil.copytree(world.data, data)
    shutil.copytree(world.run, run)
    change(data, run)
    commands = {
        "inspect data": ["inspect", str(data)],
        "verify data": ["inspect", str(data), "--verify"],
        "inspect run": ["inspect", str(run)],
        "collect": [*COLLECT, "--out", str(data), "--resume"],
        "train": [TRAIN[0], str(data), *TRAIN[1:], "--out", str(place / "new")],
        "rollout": [*ROLLOUT, str(run)],
        "train --resume": [TRAIN[0], str(world.data), *TRAIN[1:], "--out", str(run), "--resume"],
    }
    said = ""
    for name in refusing:
        code, said = quietly(commands[name])
        if code not in (1, 2) or "upgrade fastad" not in said:
            return Outcome("lost", f"{change.__name__}: {name}: exit code {code}: {said[-400:]}")
    return Outcome("refused", said.strip().splitlines()[-1])
