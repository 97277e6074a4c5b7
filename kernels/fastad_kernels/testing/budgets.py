"""What every variant of the kernels may take, held to a committed file.

    python -m fastad_kernels.testing.budgets                    # measure all and write the file
    python -m fastad_kernels.testing.budgets --check            # measure all and compare
    python -m fastad_kernels.testing.budgets --show sm_90/dkdv  # measure some, print a table

No GPU is needed: the variants are compiled ahead of time (`compile`) and their binaries read
(`sass`). A variant fails if it

- spills registers, or asks for more shared memory than a block can have, whatever the file says;
- takes 5 % more instructions per score in its main loop than the file says;
- needs a larger class of registers (they are handed out by 8), or fewer of its warps fit on a
  multiprocessor;
- no longer uses the tensor-core instruction of the file.

Counts differ between releases of Triton, so each row names the release it was made with, and the
last three are compared against rows of the installed release alone. A gain is taken over by
writing the file again.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import triton

from fastad_kernels.testing import sass
from fastad_kernels.testing.compile import KERNEL_ERRORS
from fastad_kernels.testing.variants import (
    Variant,
    all_variants,
    bytes_per_tile,
    compile_variant,
    scores_per_tile,
)

BUDGET_FILE = Path(__file__).parents[2] / "budgets.json"
_MAX_GROWTH = 1.05
_REGISTER_CLASS = 8


@dataclass(frozen=True)
class Row:
    """The measured resources of one variant.

    Attributes:
        variant: Its key: "sm_90/forward/D16/plain".
        triton: The release that compiled it.
        tile: Rows and columns of scores, warps and pipeline stages: "128x64 w4 s3".
        instructions_per_score: Of the main loop, per thread.
        exponentials_per_score: Little above 1; 2 means that warps compute the same scores.
        registers: Per thread.
        spills: As in `compile.Resources`.
        stack_bytes: Per thread.
        shared_bytes: Per block.
        shared_limit: Most that a block of this architecture may ask for.
        blocks: Resident per multiprocessor.
        warps: Resident per multiprocessor.
        limiter: Of the resident blocks.
        matrix_operation: The widest tensor-core instruction.
        memory_headroom: Decode alone: time to stream a tile at full memory bandwidth over time to
            issue its instructions. Below 1, instructions keep it from that bandwidth.
    """

    variant: str
    triton: str
    tile: str
    instructions_per_score: float
    exponentials_per_score: float
    registers: int
    spills: int
    stack_bytes: int
    shared_bytes: int
    shared_limit: int
    blocks: int
    warps: int
    limiter: str
    matrix_operation: str | None
    memory_headroom: float | None


def measure(variant: Variant) -> Row:
    """Compile a variant and read its binary: 0.5 to 5 s, then cached by Triton.

    Raises:
        RuntimeError: If `TRITON_INTERPRET` is set.
    """
    compiled = compile_variant(variant)
    resources, options, device = compiled.resources, compiled.options, compiled.device
    scores = scores_per_tile(compiled)
    loop = sass.main_loop(compiled.assembly, scores / (resources.num_warps * device.warp_size))
    headroom = None
    if variant.kernel == "decode":
        num_bytes = bytes_per_tile(variant, compiled)
        headroom = sass.issue_headroom(loop, resources.num_warps, num_bytes, device)
    tile = f"{scores // options['BLOCK_N']}x{options['BLOCK_N']}"
    return Row(
        variant=variant.key,
        triton=triton.__version__,
        tile=f"{tile} w{resources.num_warps} s{options['num_stages']}",
        instructions_per_score=round(loop.instructions_per_score, 3),
        exponentials_per_score=round(loop.exponentials_per_score, 3),
        registers=resources.registers,
        spills=resources.spills,
        stack_bytes=resources.stack_bytes,
        shared_bytes=resources.shared_bytes,
        shared_limit=device.max_shared_bytes,
        blocks=resources.occupancy.blocks,
        warps=resources.occupancy.warps,
        limiter=resources.occupancy.limiter,
        matrix_operation=resources.matrix_operation,
        memory_headroom=None if headroom is None else round(headroom, 2),
    )


def defects(row: Row) -> list[str]:
    """What is wrong with a variant whatever its budget says; empty if nothing is."""
    found = []
    if row.spills or row.stack_bytes:
        found.append(f"spills: {row.spills}, {row.stack_bytes} bytes of stack per thread")
    if row.shared_bytes > row.shared_limit:
        found.append(f"shared_bytes={row.shared_bytes} exceeds {row.shared_limit}: cannot launch")
    if row.matrix_operation is None and "/float32" not in row.variant:
        found.append("no tensor-core instruction")
    return found


def excesses(row: Row, budget: Row) -> list[str]:
    """Where a variant exceeds its budget; empty if nowhere.

    Args:
        row: As measured.
        budget: Of the same variant and Triton release.
    """
    assert (row.variant, row.triton) == (budget.variant, budget.triton)
    found = []
    growth = row.instructions_per_score / budget.instructions_per_score
    if growth > _MAX_GROWTH:
        found.append(
            f"instructions_per_score={row.instructions_per_score} exceeds "
            f"{budget.instructions_per_score} by {100 * (growth - 1):.0f} %"
        )
    if -(-row.registers // _REGISTER_CLASS) > -(-budget.registers // _REGISTER_CLASS):
        found.append(f"registers={row.registers} exceeds the class of {budget.registers}")
    if row.warps < budget.warps:
        found.append(f"warps={row.warps} fit, by {row.limiter}; the budget says {budget.warps}")
    if row.matrix_operation != budget.matrix_operation:
        found.append(f"{row.matrix_operation} is used; the budget says {budget.matrix_operation}")
    return found


def read_budgets(path: Path = BUDGET_FILE) -> dict[tuple[str, str], Row]:
    """Rows of a budget file by variant and Triton release; none if there is no file."""
    if not path.exists():
        return {}
    rows = [Row(**row) for row in json.loads(path.read_text())["rows"]]
    return {(row.variant, row.triton): row for row in rows}


def write_budgets(rows: Iterable[Row], path: Path = BUDGET_FILE) -> None:
    """Write or replace rows; those of other variants and releases stay. One row a line."""
    merged = read_budgets(path) | {(row.variant, row.triton): row for row in rows}
    lines = [json.dumps(asdict(row)) for row in merged.values()]
    note = "Static figures of compiled kernels; written by python -m fastad_kernels.testing.budgets"
    body = ",\n".join(f"  {line}" for line in lines)
    path.write_text(f'{{\n"note": {json.dumps(note)},\n"rows": [\n{body}\n]\n}}\n')


def _table(row: Row) -> str:
    headroom = "" if row.memory_headroom is None else f" {row.memory_headroom:.1f}x memory headroom"
    return (
        f"{row.variant:28s} {row.tile:14s} {row.instructions_per_score:6.2f} instr/score "
        f"{row.exponentials_per_score:4.2f} exp/score "
        f"{row.registers:3d} reg {row.spills:2d} spills {row.shared_bytes / 1024:6.1f} KiB "
        f"{row.warps:2d} warps ({row.limiter}) {row.matrix_operation}{headroom}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring.

    Returns:
        1 if a variant cannot be compiled, has a defect or exceeds its budget, else 0.
    """
    parser = argparse.ArgumentParser(prog="python -m fastad_kernels.testing.budgets")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    parser.add_argument("--show", action="store_true", help="print, compare and write nothing")
    parser.add_argument("--json", action="store_true", help="print rows as JSON, one a line")
    parser.add_argument("--file", type=Path, default=BUDGET_FILE)
    parser.add_argument("patterns", nargs="*", help="parts of keys; a variant matches any of them")
    options = parser.parse_args(arguments)
    if os.environ.pop("TRITON_INTERPRET", "") not in ("", "0"):
        print("TRITON_INTERPRET is ignored: budgets are of compiled kernels", file=sys.stderr)

    budgets = read_budgets(options.file)
    rows, failed = [], False
    for variant in all_variants():
        if options.patterns and not _matches(variant.key, options.patterns):
            continue
        try:
            row = measure(variant)
        except KERNEL_ERRORS as error:
            failed = True
            print(f"{variant.key}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        rows.append(row)
        print(json.dumps(asdict(row)) if options.json else _table(row), flush=True)
        problems = defects(row)
        budget = budgets.get((row.variant, row.triton))
        if options.check:
            problems += excesses(row, budget) if budget else [f"no budget for Triton {row.triton}"]
        failed |= bool(problems)
        for problem in problems:
            print(f"{row.variant}: {problem}", file=sys.stderr)
    if not (options.check or options.show or options.json):
        write_budgets(rows, options.file)
    return int(failed)


def _matches(key: str, patterns: Sequence[str]) -> bool:
    """Whether all parts of some pattern, cut at "/", are parts of the key."""
    parts = key.split("/")
    return any(all(part in parts for part in pattern.split("/")) for pattern in patterns)


if __name__ == "__main__":
    sys.exit(main())
