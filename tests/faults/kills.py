"""SIGKILL at random moments of `fastad collect` and `fastad train`: what is left goes on exactly.

    python -m tests.faults.kills --kills 200 --seed 0

A child is forked with everything imported, so that its whole life is work, and killed after a
random share of the time that the work takes. The same command with --resume is then started again,
and killed again, until one lives to its end; what it leaves must equal an unbroken run: every
column of the data byte for byte, weights and optimiser state bit for bit, one record per logged
step.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

from safetensors.numpy import load_file

from fastad.cli import main

COLLECT = [
    "collect", "--env", "dark-room", "--source", "q-learning", "--num-histories", "48",
    "--num-episodes", "10", "--num-test-tasks", "8", "--shards", "6", "--workers", "1",
]  # fmt: skip
TRAIN = [
    "train", "--updates", "60", "--batch-size", "4", "--window", "40", "--context", "40",
    "--width", "16", "--num-heads", "2", "--num-layers", "1", "--checkpoint-every", "3",
    "--log-every", "3", "--threads", "1",
]  # fmt: skip


@dataclass
class Tally:
    """How the trials of one command went."""

    kills: int = 0
    lives: int = 0  # that came to their end and were compared
    losses: list[str] = field(default_factory=list)  # what differed, or why a resume was refused

    @property
    def survived(self) -> bool:
        """Whether there were trials, and all were equal to the unbroken run."""
        return self.lives > 0 and not self.losses


# What the commands import when they need it, imported once for all children.
EARLY = (
    "fastad.api", "fastad.histories.reader", "rich.progress", "torch._dynamo", "tyro", "yaml",
)  # fmt: skip


def fork(arguments: list[str], complaints: Path) -> int:
    """Start a command in a child process, whose errors go to a file."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        with (
            open(os.devnull, "w") as nowhere,
            complaints.open("w") as errors,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(errors),
        ):
            try:
                status = main(arguments)
            except BaseException:
                traceback.print_exc()
    finally:
        os._exit(status)


def exit_code(child: int) -> int:
    """Wait for a child; negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def unbroken_seconds(arguments: list[str], complaints: Path) -> float:
    """Run a command to its end and say how long it took.

    Raises:
        RuntimeError: If it fails.
    """
    began = time.perf_counter()
    if exit_code(fork(arguments, complaints)) != 0:
        raise RuntimeError(f"fastad {' '.join(arguments)} failed: {complaints.read_text()}")
    return time.perf_counter() - began


def trial(
    arguments: list[str],
    resumed: list[str],
    different: Callable[[], list[str]],
    tally: Tally,
    *,
    complaints: Path,
    seconds: float,
    max_kills: int,
    rng: random.Random,
) -> None:
    """One life: killed and resumed until it ends by itself or `max_kills` are spent, then compared.

    Args:
        arguments: Of the command that begins the work.
        resumed: Of the one that goes on with it.
        different: Names what is not as in the unbroken run.
        tally: Mutated.
        complaints: File for the errors of a life.
        seconds: That the unbroken work takes.
        max_kills: After which the last life is left to its end.
        rng: Draws the moments.
    """
    command = arguments
    for _ in range(max_kills):
        child = fork(command, complaints)
        time.sleep(rng.random() * seconds)
        # A child that ended is still ours to wait for, so its number is nobody else's.
        os.kill(child, signal.SIGKILL)
        code = exit_code(child)
        if code == 0:
            break
        if code != -signal.SIGKILL:
            tally.losses.append(f"exit code {code}: {complaints.read_text()}")
            return
        tally.kills += 1
        command = resumed
    else:
        code = exit_code(fork(command, complaints))
        if code != 0:
            tally.losses.append(f"exit code {code}: {complaints.read_text()}")
            return
    tally.lives += 1
    tally.losses += different()


def data_of(folder: Path) -> dict[str, bytes]:
    """The numbers of a dataset by file; how often a shard was begun is no part of them."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*.npy"))}


def weights_of(run: Path) -> dict[str, bytes]:
    """All tensors of a run's newest checkpoint, and the logged losses and returns."""
    newest = max((run / "checkpoints").glob("step-*"))
    tensors = {
        f"{file.name}/{name}": tensor.tobytes()
        for file in sorted(newest.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return tensors | {
        "metrics": repr(
            [(r["step"], r.get("loss"), r.get("eval_returns")) for r in records]
        ).encode()
    }


def differences(
    out: Path, contents: Callable[[Path], dict[str, bytes]], expected: dict[str, bytes]
) -> list[str]:
    """Names of what `out` holds and the unbroken run does not, or the other way round."""
    found = contents(out)
    return [n for n in sorted(found.keys() | expected) if found.get(n) != expected.get(n)]


def kill_command(
    arguments: list[str],
    contents: Callable[[Path], dict[str, bytes]],
    folder: Path,
    *,
    kills: int,
    rng: random.Random,
) -> Tally:
    """Kill a command `kills` times in all, over as many lives as that takes.

    Args:
        arguments: Without the folder that it writes, which `--out` names.
        contents: What of that folder must be equal.
        folder: Scratch space.
        kills: In all.
        rng: Draws the moments.
    """
    folder.mkdir()
    whole, complaints = folder / "whole", folder / "complaints"
    seconds = unbroken_seconds([*arguments, "--out", str(whole)], complaints)
    expected = contents(whole)
    tally, life = Tally(), 0
    while tally.kills < kills and not tally.losses:
        life += 1
        out = folder / f"life-{life}"
        begin = [*arguments, "--out", str(out)]
        trial(
            begin,
            [*begin, "--resume"],
            partial(differences, out, contents, expected),
            tally,
            complaints=complaints,
            seconds=seconds,
            max_kills=min(10, kills - tally.kills),
            rng=rng,
        )
    return tally


def run(kills: int, seed: int, folder: Path) -> dict[str, Tally]:
    """Kill both commands `kills` times each, and return how that went."""
    for module in EARLY:
        import_module(module)
    rng = random.Random(seed)
    data = folder / "data"
    tallies = {"collect": kill_command(COLLECT, data_of, folder / "c", kills=kills, rng=rng)}
    unbroken_seconds([*COLLECT, "--out", str(data)], folder / "complaints")
    train = [TRAIN[0], str(data), *TRAIN[1:]]
    tallies["train"] = kill_command(train, weights_of, folder / "t", kills=kills, rng=rng)
    return tallies


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="of each command")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = run(asked.kills, asked.seed, Path(scratch))
    for name, tally in results.items():
        print(
            f"{name:8} {tally.kills} kills, {tally.lives} lives compared, "
            f"{len(tally.losses)} losses"
        )
        print(*tally.losses, sep="\n", end="\n" if tally.losses else "")
    sys.exit(not all(tally.survived for tally in results.values()))
