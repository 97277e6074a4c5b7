"""Damaged files: flipped bits, cut, grown, missing, swapped and doubled ones.

None may go unnoticed: `fastad inspect --verify` names the file, and training on it, going on with
it and rolling it out either name it too or end as if nothing had happened. Logs of metrics are
left out: a line that cannot be read any more is reported, one whose number changed cannot be told
from a true one.
"""

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.numpy import load_file

import fastad
from fastad.base.errors import UserError
from fastad.cli import main
from tests.faults.subjects import TRAIN, World, quietly
from tests.faults.trials import Fault, Outcome

FLIPS, TRIALS = 250, 25
# As with what is whole; in one line, or done with a line that says what is missing.
SAME, REFUSED = "same", "refused"
UNPROTECTED = ("metrics.jsonl", ".fastad-lock")


class Damage(NamedTuple):
    """What was done to a folder."""

    what: str
    names: list[str]  # of which a complaint must mention one


def faults(world: World) -> list[Fault]:
    """Every kind of damage, to a dataset and to a run."""
    kinds: list[tuple[str, Callable[[Path, random.Random], Damage], int]] = [
        ("a flipped bit", flip, FLIPS),
        ("a file cut or grown", cut, TRIALS),
        ("a missing file", remove, TRIALS),
        ("two files swapped", swap, TRIALS),
        ("a file over another", double, TRIALS),
    ]
    found = []
    for name, damage, trials in kinds:
        on_data = partial(trial, world, world.data, damage, _uses_of_data(world))
        on_run = partial(trial, world, world.run, damage, _uses_of_run(world))
        found.append(Fault(f"{name}: dataset", on_data, trials))
        found.append(Fault(f"{name}: run", on_run, trials))
    return found


def files_of(folder: Path) -> list[Path]:
    """Every file that promises to notice."""
    found = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return [f for f in found if f.name not in UNPROTECTED and f.parent.name != "rollouts"]


def flip(folder: Path, rng: random.Random) -> Damage:
    """One bit; half of the trials draw a file first, so that small ones get their share."""
    files = files_of(folder)
    weights = [f.stat().st_size for f in files] if rng.random() < 0.5 else None
    file = rng.choices(files, weights)[0]
    content = bytearray(file.read_bytes())
    byte, bit = rng.randrange(len(content)), rng.randrange(8)
    content[byte] ^= 1 << bit
    file.write_bytes(content)
    return Damage(f"bit {bit} of byte {byte} of {file.relative_to(folder)}", [file.name])


def cut(folder: Path, rng: random.Random) -> Damage:
    """Another length: shorter, or with something behind."""
    file = rng.choice(files_of(folder))
    content = file.read_bytes()
    length = rng.randrange(len(content) + len(content) // 4 + 1)
    changed = content[:length] + rng.randbytes(max(0, length - len(content)))
    if changed == content:
        changed = content[:-1]
    file.write_bytes(changed)
    return Damage(
        f"{len(changed)} of {len(content)} bytes of {file.relative_to(folder)}", [file.name]
    )


def remove(folder: Path, rng: random.Random) -> Damage:
    """A file, or a folder of them."""
    files = files_of(folder)
    # Sorted: a set has another order in every process, and a seed shall tell what is damaged.
    gone = rng.choice([*files, *sorted({f.parent for f in files if f.parent != folder})])
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()
    return Damage(f"{gone.relative_to(folder)} is gone", [gone.name])


def swap(folder: Path, rng: random.Random) -> Damage:
    """Two files of the same kind, often of the same name; or two folders."""
    first, second = _pair(folder, rng)
    aside = folder.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    return Damage(
        f"{first.relative_to(folder)} and {second.relative_to(folder)} swapped",
        [first.name, second.name, first.parent.name],
    )


def double(folder: Path, rng: random.Random) -> Damage:
    """A file or folder copied over another, or a folder to a name that it might have."""
    first, second = _pair(folder, rng)
    if second.is_dir():
        if rng.random() < 0.5:
            second = second.with_name(second.name[:-1] + "9")
        shutil.rmtree(second, ignore_errors=True)
        shutil.copytree(first, second)
    else:
        shutil.copy(first, second)
    return Damage(
        f"{first.relative_to(folder)} copied to {second.relative_to(folder)}", [second.name]
    )


def _pair(folder: Path, rng: random.Random) -> tuple[Path, Path]:
    """Two different files of one suffix, of one name in half of the trials, or two folders."""
    files = files_of(folder)
    folders = sorted({f.parent for f in files if f.parent.name[-5:].isdigit()})
    while True:
        pool = folders if rng.random() < 0.2 else files
        first = rng.choice(pool)
        same = [f for f in pool if f != first and f.suffix == first.suffix]
        if rng.random() < 0.5:
            same = [f for f in same if f.name == first.name]
        if same:
            second = rng.choice(same)
            if first.is_dir() or first.read_bytes() != second.read_bytes():
                return first, second


# --- what is asked of a damaged folder


def trial(
    world: World, whole: Path, damage: Callable[[Path, random.Random], Damage],
    uses: dict[str, Callable[[Path], str]], index: int, rng: random.Random,
) -> Outcome:  # fmt: skip
    """Damage a copy, and ask everything of it that it can be used for."""
    folder = world.place("trial") / "out"
    shutil.copytree(whole, folder)
    done = damage(folder, rng)
    code, said = quietly(["inspect", str(folder), "--verify"])
    named = any(name in said for name in done.names)
    if "Traceback" in said or (code != 0 and not named):
        return Outcome("lost", f"{done.what}: inspect --verify, exit code {code}: {said[-500:]}")
    found = {name: use(folder) for name, use in uses.items()}
    wrong = {
        n: text for n, text in found.items() if text != SAME and (code == 0 or text != REFUSED)
    }
    if wrong:
        return Outcome("lost", f"{done.what}: inspect --verify, exit code {code}; then {wrong}")
    # What nobody reads, or an older checkpoint, may be gone or doubled.
    return Outcome("survived") if code == 0 else Outcome("refused", said.splitlines()[-1])


def _uses_of_data(world: World) -> dict[str, Callable[[Path], str]]:
    return {"train": partial(_train, world)}


def _uses_of_run(world: World) -> dict[str, Callable[[Path], str]]:
    return {"rollout": partial(_roll_out, world), "train --resume": partial(_go_on, world)}


def _train(world: World, data: Path) -> str:
    """Whether it is refused, or the same as with the whole dataset; else what went wrong."""
    out = data.with_name("trained")
    command = [TRAIN[0], str(data), *TRAIN[1:], "--out", str(out)]
    ended = world.start(lambda: main(command)).wait()
    if ended.code != 0:
        return REFUSED if ended.refused else str(ended)
    return SAME if tensors(out) == tensors(world.run) else "silently different"


def _go_on(world: World, run: Path) -> str:
    """The same of a finished run that is resumed."""
    command = [TRAIN[0], str(world.data), *TRAIN[1:], "--out", str(run), "--resume"]
    before = newest(run)
    ended = world.start(lambda: main(command)).wait()
    if ended.code != 0:
        return REFUSED if ended.refused else str(ended)
    return SAME if tensors(run) == tensors(world.run) else f"silently different, from {before}"


def tensors(run: Path) -> dict[str, bytes]:
    """Those of the newest checkpoint."""
    files = sorted((run / "checkpoints" / newest(run)).glob("*.safetensors"))
    return {f"{f.name}/{n}": t.tobytes() for f in files for n, t in load_file(f).items()}


def newest(run: Path) -> str:
    """Its newest checkpoint."""
    return max((c.name for c in run.glob("checkpoints/step-*")), default="none")


def _roll_out(world: World, run: Path) -> str:
    """The same of a rollout."""
    try:
        result = fastad.rollout(run, episodes=2, threads=1)
    except UserError:
        return REFUSED
    if (result.returns == _returns(world)).all():
        return SAME
    # An older checkpoint is as good as one of a training that was stopped there, if it is told.
    _, said = quietly(["rollout", str(run), "--episodes", "2", "--threads", "1"])
    return REFUSED if "the newest checkpoint of" in said else "silently different"


def _returns(world: World) -> Any:
    if "rollout" not in world.memory:
        world.memory["rollout"] = fastad.rollout(world.run, episodes=2, threads=1).returns
    return world.memory["rollout"]
