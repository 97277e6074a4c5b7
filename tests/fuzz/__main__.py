"""Fuzzers of every file that fastad reads: atheris drives, mutations keep the files' form.

    python -m tests.fuzz --target meta --seconds 600

What is found is written to tests/fuzz/regressions/TARGET, one input for each kind of error, and
`tests/fuzz/test_regressions.py` reads it from then on. The search is a process of its own: where a
library crashes it, or hangs, the input is kept just so, and the search goes on in another.
"""

import argparse
import faulthandler
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import atheris

with atheris.instrument_imports(include=["fastad"]):
    from tests.fuzz.harness import MEMORY, Samples, limited, samples_of, timed
    from tests.fuzz.targets import TARGETS

REGRESSIONS = Path(__file__).parent / "regressions"
CURRENT, STACK = "current", "stack"  # the input that is read just now; where a crash happened
HANG = 60  # seconds in which nothing interrupts a library: the search ends, and says where
PATIENCE = 120  # of waiting for a search that shall have ended


class Findings:
    """Inputs that broke a promise, one for each kind of error.

    Args:
        samples: What inputs are of.
        folder: Where they go.
        seconds: After these the search ends, and this process with it.
        current: File that always holds the input that is read.
        stack: Where a hang tells its place.
        scratch: Folders to delete then.
    """

    def __init__(
        self, samples: Samples, folder: Path, seconds: float, current: Path, stack: TextIO,
        scratch: Sequence[Path],
    ) -> None:  # fmt: skip
        self.samples, self.folder, self.scratch = samples, folder, scratch
        self.current, self.stack = current, stack
        self.kinds: dict[str, int] = {}
        self.runs = self.loaded = 0
        self.end = time.monotonic() + seconds

    def try_input(self, data: bytes) -> None:
        """Read one input; an error that is none of the user's is kept, and the search goes on."""
        if time.monotonic() > self.end:
            self.report()
            for folder in self.scratch:
                shutil.rmtree(folder, ignore_errors=True)
            os._exit(bool(self.kinds))  # libFuzzer's own way out reports the last input as a crash
        self.runs += 1
        self.current.write_bytes(data)
        faulthandler.dump_traceback_later(HANG, exit=True, file=self.stack)
        try:
            with limited(), timed():
                self.loaded += self.samples.run(data)
        except BaseException as error:
            kind = kind_of(error)
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
            if self.kinds[kind] == 1:
                keep(self.folder, kind, data)
                traceback.print_exc(limit=-6)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def report(self) -> None:
        """How many inputs there were, and what was found."""
        print(f"{self.runs:,} inputs, {self.loaded:,} loaded, {len(self.kinds)} kinds of errors")
        for kind, count in self.kinds.items():
            print(f"  {count:,} times {kind}")
        sys.stdout.flush()


def keep(folder: Path, kind: str, data: bytes) -> None:
    """Write an input that broke a promise, under a name of its kind of error."""
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(kind.encode()).hexdigest()[:12]
    (folder / name).write_bytes(data)
    print(f"finding {name}: {kind}", flush=True)


def kind_of(error: BaseException) -> str:
    """An error by its type and where it was raised, in fastad as far as it passed there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/fastad/" in f.filename or "/tests/fuzz/targets" in f.filename]
    last = (own or frames)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}, {last.name}, line {last.lineno}"


def is_hang(stack: str) -> bool:
    """Whether a search ended because nothing came back from a library."""
    return stack.startswith("Timeout")


def crash_of(status: int, stack: str) -> str:
    """A crash by its signal and where Python was, or a hang."""
    name = signal.Signals(-status).name if status < 0 else f"status {status}"
    name = "hang" if is_hang(stack) else name
    places = re.findall(r'File "(.*?)", line (\d+) in (\w+)', stack)
    own = [place for place in places if "/fastad/" in place[0]]
    file, line, function = (own or places or [("nowhere", "0", "nothing")])[0]
    return f"{name} in {Path(file).name}, {function}, line {line}"


def main() -> None:
    """Fuzz one target: begin searches until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=TARGETS, required=True)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=REGRESSIONS, help="folder for what is found")
    parser.add_argument("--scratch", type=Path, help="of a search: what tells of its end")
    asked = parser.parse_args()
    if asked.scratch is not None:
        search(asked)
    end, is_right, seed = time.monotonic() + asked.seconds, True, asked.seed
    # All that a search makes lies here, so that nothing stays of one that crashed.
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="fastad-fuzz-") as scratch:
        while (left := end - time.monotonic()) > 0:
            command = [sys.executable, "-m", "tests.fuzz", "--target", asked.target, "--seconds",
                       str(left), "--seed", str(seed), "--out", str(asked.out),
                       "--scratch", scratch]  # fmt: skip
            try:
                status = subprocess.run(command, timeout=left + PATIENCE).returncode
            except subprocess.TimeoutExpired:
                status = -signal.SIGKILL
            current, stack = Path(scratch, CURRENT), Path(scratch, STACK)
            if status in (0, 1) and not is_hang(stack.read_text()):
                is_right &= status == 0
                break
            if not current.exists():
                sys.exit(f"a search ended with {status} before it began")
            kind = crash_of(status, stack.read_text())
            if "/tests/fuzz/mutations.py" in stack.read_text():
                print(f"not of fastad, while an input was changed: {kind}")
            else:
                is_right = False
                keep(asked.out / asked.target, kind, current.read_bytes())
            current.unlink()
            seed += 1
    sys.exit(not is_right)


def search(asked: argparse.Namespace) -> None:
    """Fuzz one target in this process, until the time is over or a library crashes it."""
    stack = Path(asked.scratch, STACK).open("w")  # noqa: SIM115  (until the end)
    faulthandler.enable(stack)
    current = Path(asked.scratch, CURRENT)
    with (
        samples_of(asked.target, asked.scratch) as samples,
        tempfile.TemporaryDirectory(dir=asked.scratch) as corpus,
    ):
        for number, data in enumerate(samples.inputs()):
            Path(corpus, f"sample-{number}").write_bytes(data)
            assert samples.run(data), f"a valid sample is refused: {data[:80]!r}"
        findings = Findings(
            samples, asked.out / asked.target, asked.seconds, current,
            stack, (samples.folder, Path(corpus)),
        )  # fmt: skip

        def mutate(data: bytes, max_size: int, seed: int) -> bytes:
            rng = random.Random(seed)
            current.write_bytes(data)  # a library that changes it may crash, too
            faulthandler.dump_traceback_later(HANG, exit=True, file=stack)
            new = samples.mutate(data, rng) if rng.random() < 0.85 else None
            if new is None:
                head, _, content = data.partition(b"\n")
                room = max(1, max_size - len(head) - 1)
                new = head + b"\n" + atheris.Mutate(content, min(room, len(content) + 64))
            return new[:max_size]

        signals = [f"-handle_{name}=0" for name in ("segv", "bus", "abrt", "ill", "fpe")]
        atheris.Setup(
            [sys.argv[0], f"-seed={asked.seed}", "-max_len=262144", "-len_control=0",
             "-timeout=600", "-rss_limit_mb=0", f"-artifact_prefix={corpus}/",
             "-print_final_stats=1", *signals, corpus],
            findings.try_input,
            custom_mutator=mutate,
        )  # fmt: skip
        atheris.Fuzz()


if __name__ == "__main__":
    main()
