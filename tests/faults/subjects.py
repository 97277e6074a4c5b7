"""What is tried: commands that write, what they must leave, and how they are taken up again."""

import contextlib
import gc
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from safetensors.numpy import load_file

import fastad
from fastad.base import provenance
from fastad.base.locks import LOCK_FILE
from fastad.cli import main
from fastad.histories import jobs
from tests.faults.trials import Duration, Ended, Process

ROOM = ["--env-options", "size=3", "episode_length=4"]
COLLECT = [
    "collect", *ROOM, "--num-histories", "6", "--num-episodes", "5", "--num-test-tasks", "2",
    "--shards", "2",
]  # fmt: skip
# One commit per shard would be all or nothing.
STEPS_PER_COMMIT = 24
TRAIN = [
    "train", "--width", "8", "--num-heads", "1", "--num-layers", "1", "--context", "12",
    "--window", "12", "--updates", "6", "--batch-size", "2", "--checkpoint-every", "2",
    "--log-every", "1", "--threads", "1", "--eval-every", "3", "--eval-episodes", "1",
]  # fmt: skip
ROLLOUT = ["rollout", "--episodes", "2", "--threads", "1"]
TIMES = ("train_seconds", "steps_per_second", "data_wait_share")  # no two runs have the same
ROLLOUT_TIMES = ("seconds", "steps_per_second", "when")

Contents = dict[str, bytes]


@dataclass(frozen=True)
class Subject:
    """Work that is interrupted and taken up.

    Attributes:
        name: In the table.
        begin: Does it in a folder that holds what `prepare` made; returns an exit code.
        resume: Takes it up, or begins again where that is the way on.
        contents: What must be as an unbroken run leaves it.
        check: After an interruption: says what is lost, or nothing.
        prepare: Fills the folder first.
        overwrite: Does it anew, over what is there.
    """

    name: str
    begin: Callable[[Path], int]
    resume: Callable[[Path], int]
    contents: Callable[[Path], Contents]
    check: Callable[[Path], str]
    prepare: Callable[[Path], None] = lambda place: None
    overwrite: Callable[[Path], int] = lambda place: 70


def of_command(name: str, arguments: list[str], contents: Callable[[Path], Contents]) -> Subject:
    """A command that writes a folder, goes on with it by --resume, and has it checked."""

    def run(place: Path, *further: str) -> int:
        return main([*arguments, "--out", str(place / "out"), *further])

    return Subject(
        name,
        begin=run,
        resume=lambda place: run(place, "--resume"),
        contents=lambda place: contents(place / "out"),
        check=lambda place: damage(place / "out"),
        overwrite=lambda place: run(place, "--overwrite"),
    )


class World:
    """A dataset and a run to work on, and everything imported once for all children.

    Args:
        scratch: A folder; left behind.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch.resolve()
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._before = provenance._git, jobs.STEPS_PER_COMMIT, os.environ.get("MPLBACKEND")
        # Which commit it is takes two processes of git, every time.
        provenance._git = lambda *arguments: None  # type: ignore[assignment]
        jobs.STEPS_PER_COMMIT = STEPS_PER_COMMIT
        os.environ["MPLBACKEND"] = "Agg"
        self._expected: dict[str, Contents] = {}
        self.memory: dict[str, Any] = {}  # what trials need more than once
        self.run  # noqa: B018
        gc.collect()
        gc.freeze()  # else every child copies the pages of all that it only looks through

    def close(self) -> None:
        """Put back what was changed of this process."""
        gc.unfreeze()
        provenance._git, jobs.STEPS_PER_COMMIT, backend = self._before
        del os.environ["MPLBACKEND"]
        if backend is not None:
            os.environ["MPLBACKEND"] = backend

    @cached_property
    def data(self) -> Path:
        """A complete dataset."""
        return self._made("data", COLLECT)

    @cached_property
    def run(self) -> Path:
        """A finished run; making it imports whatever a child may need."""
        run = self._made("run", [TRAIN[0], str(self.data), *TRAIN[1:]])
        quietly([*ROLLOUT, str(run), "--plot", str(self.scratch / "warm.png")])
        return run

    def _made(self, name: str, command: list[str]) -> Path:
        place = self.scratch / name
        if not place.exists():
            code, said = quietly([*command, "--out", str(place)])
            if code != 0:
                raise RuntimeError(f"{command}: {said}")
        return place

    def place(self, name: str, *, anew: bool = True) -> Path:
        """An empty folder for a trial."""
        place = self.scratch / name
        if anew:
            shutil.rmtree(place, ignore_errors=True)
        place.mkdir(exist_ok=True)
        return place

    def expected(self, subject: Subject) -> Contents:
        """What an unbroken run of a subject leaves; it is run once."""
        if subject.name not in self._expected:
            place = self.place("unbroken")
            subject.prepare(place)
            ended = self.start(lambda: subject.begin(place)).wait()
            if ended.code != 0:
                raise RuntimeError(f"{subject.name} by itself: {ended}")
            self._expected[subject.name] = subject.contents(place)
        return self._expected[subject.name]

    def duration(self, subject: Subject, before: Callable[[], None] | None = None) -> Duration:
        """How long a subject takes unbroken; it is run once more."""
        key = f"duration of {subject.name} {before}"
        if key not in self.memory:
            self.expected(subject)
            place, began = self.place("timed"), time.perf_counter()
            subject.prepare(place)
            used = self.scratch / "used"

            def work() -> int:
                began, code = time.process_time(), subject.begin(place)
                used.write_text(str(time.process_time() - began))
                return code

            ended = self.start(work, before).wait()
            if ended.code != 0:
                raise RuntimeError(f"{subject.name} by itself: {ended}")
            wall = time.perf_counter() - began
            self.memory[key] = Duration(wall, float(used.read_text()))
        found: Duration = self.memory[key]
        return found

    def start(self, work: Callable[[], int], before: Callable[[], None] | None = None) -> Process:
        """Start work in a child."""
        return Process(work, before)

    def differences(self, subject: Subject, place: Path) -> list[str]:
        """Names of what is not as the unbroken run left it."""
        expected, found = self.expected(subject), subject.contents(place)
        return [n for n in sorted(found.keys() | expected) if found.get(n) != expected.get(n)]

    def finish(self, subject: Subject, place: Path) -> tuple[Ended, list[str]]:
        """Take work up and let it come to its end; what differs then."""
        ended = self.start(lambda: subject.resume(place)).wait()
        return ended, self.differences(subject, place) if ended.code == 0 else []

    @cached_property
    def collect(self) -> Subject:
        """A dataset of two shards, three commits each."""
        return of_command("collect", COLLECT, data_of)

    @cached_property
    def train(self) -> Subject:
        """A training of three checkpoints, with an evaluation in the middle and at the end."""
        data, _ = self.data, self.run
        return of_command("train", [TRAIN[0], str(data), *TRAIN[1:]], run_contents)

    @cached_property
    def create(self) -> Subject:
        """Histories of one's own, which are begun again with `overwrite`."""
        return Subject(
            "histories.create",
            begin=lambda place: write_own(place / "out", overwrite=False),
            resume=lambda place: write_own(place / "out", overwrite=True),
            contents=lambda place: data_of(place / "out"),
            check=lambda place: damage(place / "out"),
        )

    @cached_property
    def rollout(self) -> Subject:
        """A rollout with all of its outputs, which is done again."""
        run = self.run

        def begin(place: Path) -> int:
            return main([
                *ROLLOUT, str(place / "run"), "--json", str(place / "figures.json"),
                "--save-histories", str(place / "histories"),
            ])  # fmt: skip

        def resume(place: Path) -> int:
            histories = place / "histories"
            if histories.exists() and {f.name for f in histories.iterdir()} > {LOCK_FILE}:
                # What was never finished is named, and deleted by whoever owns it.
                code, said = quietly([*ROLLOUT, str(run), "--save-histories", str(histories)])
                if code != 2 or "histories exists; choose a folder that does not" not in said:
                    return 99
                shutil.rmtree(histories)
            return begin(place)

        return Subject(
            "rollout", begin, resume, rollout_contents,
            check=lambda place: damage(place / "run"),
            prepare=lambda place: shutil.copytree(run, place / "run", dirs_exist_ok=True) and None,
        )  # fmt: skip


def quietly(command: list[str]) -> tuple[int, str]:
    """Run a command in this process; its exit code and all that it said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(command)
    return code, said.getvalue()


def damage(folder: Path) -> str:
    """What `fastad inspect --verify` finds damaged; what is unfinished is not."""
    if not folder.exists():
        return ""
    code, said = quietly(["inspect", str(folder), "--verify"])
    return said if code not in (0, 2) else ""


def write_own(out: Path, *, overwrite: bool) -> int:
    """Write histories of one's own, six in one shard."""
    with fastad.histories.create(
        out, env="levers", num_histories=6, num_steps=20, num_tasks=8, num_test=2,
        observation_space=spaces.Discrete(1), action_space=spaces.Discrete(3), episode_length=1,
        policies=(), source="round robin", overwrite=overwrite,
    ) as writer:  # fmt: skip
        for task in range(6):
            lever = np.arange(20) % 3
            writer.append(
                task=task, observation=np.zeros(20, int), action=lever,
                reward=np.where(lever == task % 3, 1.0, 0.0),
                terminated=np.ones(20, bool), truncated=np.zeros(20, bool),
            )  # fmt: skip
    return 0


def data_of(out: Path) -> Contents:
    """All files of a dataset, without how often a shard was begun and who last held a lock."""
    files = (file for file in sorted(out.rglob("*")) if file.is_file())
    found = {str(file.relative_to(out)): file.read_bytes() for file in files}
    for name in found:
        if name.endswith(LOCK_FILE):
            found[name] = b""
        if name.endswith("meta.json"):
            meta = json.loads(found[name])
            found[name] = json.dumps({**meta, "attempt": 0, "digest": ""}).encode()
    return found


def run_contents(out: Path) -> Contents:
    """The names of a run's files, all tensors of its newest checkpoint, and what was logged.

    Which checkpoints lie beside it is not told: what was stopped kept one where it was.
    """
    *older, _ = sorted((out / "checkpoints").iterdir())
    files = [file for file in sorted(out.rglob("*")) if file.is_file()]
    found = {"older": str(len(older)).encode()}
    for file in files:
        name = str(file.relative_to(out))
        if file.parent in older:
            continue
        found[f"name {name}"] = b""
        if file.suffix == ".safetensors":
            tensors = load_file(file).items()
            found |= {f"{name}/{key}": tensor.tobytes() for key, tensor in tensors}
        elif name.startswith("dataset/") or file.name in ("config.yaml", "model.json"):
            found[name] = file.read_bytes().replace(str(out).encode(), b"OUT")
    lines = (out / "metrics.jsonl").read_text().splitlines()
    records = [without(json.loads(line), TIMES) for line in lines]
    return found | {"metrics": json.dumps(records).encode()}


def without(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """All but what is named."""
    return {name: value for name, value in values.items() if name not in names}


def rollout_contents(place: Path) -> Contents:
    """What a rollout returned, wherever it was written; and its histories."""
    found = {f"histories/{n}": c for n, c in data_of(place / "histories").items()}
    del found["histories/dataset.json"]  # it tells where the run lies
    kept = sorted((place / "run" / "rollouts").glob("*.json"))
    for name, file in (("json", place / "figures.json"), ("kept", kept[-1])):
        values = json.loads(file.read_text())
        returns = {key: values[key] for key in ("returns", "source_returns", "random_return")}
        found[name] = json.dumps(returns).encode()
    for file in kept:  # none of them is torn
        json.loads(file.read_text())
    return found
