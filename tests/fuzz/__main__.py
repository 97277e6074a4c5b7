"""Fuzzers of every file that fastad reads: atheris drives, mutations keep the files' form.

    python -m tests.fuzz --target meta --seconds 600

What is found is written to tests/fuzz/regressions/TARGET, one input for each kind of error, and
`tests/fuzz/test_regressions.py` reads it from then on.
"""

import argparse
import hashlib
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fastad"]):
    from tests.fuzz.harness import Samples, limited, samples_of, timed
    from tests.fuzz.targets import TARGETS

REGRESSIONS = Path(__file__).parent / "regressions"


class Findings:
    """Inputs that broke a promise, one for each kind of error.

    Args:
        samples: What inputs are of.
        folder: Where they go.
        seconds: After these the search ends, and this process with it.
        scratch: Folders to delete then.
    """

    def __init__(
        self, samples: Samples, folder: Path, seconds: float, scratch: Sequence[Path]
    ) -> None:
        self.samples, self.folder, self.scratch = samples, folder, scratch
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
        try:
            with limited(), timed():
                self.loaded += self.samples.run(data)
        except BaseException as error:
            kind = kind_of(error)
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
            if self.kinds[kind] == 1:
                self.folder.mkdir(parents=True, exist_ok=True)
                name = hashlib.sha256(kind.encode()).hexdigest()[:12]
                (self.folder / name).write_bytes(data)
                print(f"finding {name}: {kind}", flush=True)
                traceback.print_exc(limit=-6)

    def report(self) -> None:
        """How many inputs there were, and what was found."""
        print(f"{self.runs:,} inputs, {self.loaded:,} loaded, {len(self.kinds)} kinds of errors")
        for kind, count in self.kinds.items():
            print(f"  {count:,} times {kind}")
        sys.stdout.flush()


def kind_of(error: BaseException) -> str:
    """An error by its type and where it was raised, in fastad as far as it passed there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/fastad/" in f.filename or "/tests/fuzz/targets" in f.filename]
    last = (own or frames)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}, {last.name}, line {last.lineno}"


def main() -> None:
    """Fuzz one target, or read single inputs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=TARGETS, required=True)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=REGRESSIONS, help="folder for what is found")
    asked = parser.parse_args()
    with samples_of(asked.target) as samples, tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(samples.inputs()):
            Path(corpus, f"sample-{number}").write_bytes(data)
            assert samples.run(data), f"a valid sample is refused: {data[:80]!r}"
        findings = Findings(
            samples, asked.out / asked.target, asked.seconds, (samples.folder, Path(corpus))
        )

        def mutate(data: bytes, max_size: int, seed: int) -> bytes:
            rng = random.Random(seed)
            new = samples.mutate(data, rng) if rng.random() < 0.85 else None
            if new is None:
                head, _, content = data.partition(b"\n")
                room = max(1, max_size - len(head) - 1)
                new = head + b"\n" + atheris.Mutate(content, min(room, len(content) + 64))
            return new[:max_size]

        atheris.Setup(
            [sys.argv[0], f"-seed={asked.seed}", "-max_len=65536", "-len_control=0", "-timeout=120",
             "-rss_limit_mb=0", f"-artifact_prefix={corpus}/", "-print_final_stats=1", corpus],
            findings.try_input,
            custom_mutator=mutate,
        )  # fmt: skip
        atheris.Fuzz()


if __name__ == "__main__":
    main()
