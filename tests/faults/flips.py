"""Single bits flipped at random in a dataset and in a run: none may go unnoticed.

    python -m tests.faults.flips --flips 250 --seed 0

Every trial flips one bit of one file, asks `fastad inspect --verify`, and flips it back. Half of
the trials draw a file first, so that small files get their share, half a byte of all. Logs of
metrics are left out: a line that cannot be read any more is reported, one whose number changed
cannot be told from a true one.
"""

import argparse
import contextlib
import io
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastad.cli import main
from tests.faults.kills import COLLECT, TRAIN

UNPROTECTED = ("metrics.jsonl",)


@dataclass
class Tally:
    """How the trials on one folder went."""

    flips: int = 0
    silent: list[str] = field(default_factory=list)  # file, byte and bit of those unnoticed


def files_of(folder: Path) -> list[Path]:
    """Every file with content that promises to notice."""
    found = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return [file for file in found if file.stat().st_size and file.name not in UNPROTECTED]


def is_intact(folder: Path) -> bool:
    """What `fastad inspect --verify` says of a folder."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return main(["inspect", str(folder), "--verify"]) == 0


@contextlib.contextmanager
def flipped(file: Path, byte: int, bit: int) -> Iterator[None]:
    """A file with one bit changed in place, within the block."""
    content = bytearray(file.read_bytes())
    content[byte] ^= 1 << bit
    file.write_bytes(content)
    try:
        yield
    finally:
        content[byte] ^= 1 << bit
        file.write_bytes(content)


def flip(folder: Path, flips: int, rng: random.Random) -> Tally:
    """Flip `flips` bits of the files of `folder`, one at a time.

    Raises:
        RuntimeError: If the folder is refused as it is.
    """
    if not is_intact(folder):
        raise RuntimeError(f"{folder} is refused without any flip")
    files, tally = files_of(folder), Tally()
    sizes = [file.stat().st_size for file in files]
    for trial in range(flips):
        weights = sizes if trial % 2 else None
        file = rng.choices(files, weights)[0]
        byte, bit = rng.randrange(file.stat().st_size), rng.randrange(8)
        with flipped(file, byte, bit):
            noticed = not is_intact(folder)
        tally.flips += 1
        if not noticed:
            tally.silent.append(f"{file.relative_to(folder)}, byte {byte}, bit {bit}")
    if not is_intact(folder):
        raise RuntimeError(f"{folder} is refused although every flip was undone")
    return tally


def run(flips: int, seed: int, folder: Path) -> dict[str, Tally]:
    """Make a dataset and a run, and flip `flips` bits of each."""
    data, trained = folder / "data", folder / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        for command in ([*COLLECT, "--out", str(data)],
                        [TRAIN[0], str(data), *TRAIN[1:], "--out", str(trained)]):  # fmt: skip
            if main(command) != 0:
                raise RuntimeError(f"fastad {' '.join(command)} failed")
    rng = random.Random(seed)
    return {"dataset": flip(data, flips, rng), "run": flip(trained, flips, rng)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=250, help="of each folder")
    parser.add_argument("--seed", type=int, default=0, help="of files, bytes and bits")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = run(asked.flips, asked.seed, Path(scratch))
    for name, tally in results.items():
        print(f"{name:8} {tally.flips} flips, {len(tally.silent)} silent")
        print(*tally.silent, sep="\n", end="\n" if tally.silent else "")
    sys.exit(any(tally.silent for tally in results.values()))
