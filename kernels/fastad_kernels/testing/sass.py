"""Loops of a compiled kernel, and how many instructions they spend on one attention score.

At head dims of 16 to 64 the tensor cores wait: an attention kernel is bound by the exponential unit
and by issue slots, one instruction per cycle and scheduler. So instructions per score of the main
loop is the figure to watch, and it can be read from the binary:

    compiled = compile_for(kernel, args, "sm_90", BLOCK_M=128, BLOCK_N=64, num_warps=4, ...)
    loop = main_loop(compiled.assembly, scores_per_thread=128 * 64 / (4 * 32))
    loop.instructions_per_score

Works on SASS as `nvdisasm -c` prints it, and on AMD's assembly.

How loops are found: the text is cut into basic blocks, an edge whose target dominates its source
closes a loop, and the loop's body is every block that reaches that edge without passing the target
(natural loops). Looking for backward branches alone is not enough: compilers put the waits on
barriers behind the kernel's end, from where they jump back into the middle of the loops.

How the main loop is told from the others: a kernel has an edge loop (masked by the window), an
interior loop and a diagonal loop (masked by causality). Each computes one exponential per score of
its tile and nothing else computes as many. Of the loops with at least 0.9 exponentials per score,
those that contain another such loop are dropped (the loop over query heads, say); of the rest, the
one with the fewest instructions per score is the interior, because masks only add to it.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from fastad_kernels.testing.devices import Device

_NVIDIA = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*?);")
_NVIDIA_LABEL = re.compile(r"^(\.L_x?_?\d+|[$\w.]+):\s*$")
_AMD = re.compile(r"^\t()([a-z]+_[a-z0-9_]+)\b(.*)$")
_AMD_LABEL = re.compile(r"^(\.LBB\d+_\d+|[\w.$]+):")
_NVIDIA_TARGET = re.compile(r"`\((\.[\w.]+)\)")
_AMD_TARGET = re.compile(r"(\.LBB\d+_\d+)")

# Widest first: of a warp group or more, then of a warp.
_MATRIX_PREFIXES = (
    "UTCHMMA", "UTCQMMA", "HGMMA", "QGMMA", "HMMA", "QMMA", "IMMA", "DMMA", "v_mfma",
)  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    """One line of assembly.

    Attributes:
        name: With its modifiers: "HMMA.16816.F32.BF16", "v_exp_f32_e32".
        target: The label that it branches to, or None.
        falls_through: Whether the next line may follow it.
    """

    name: str
    target: str | None
    falls_through: bool

    @property
    def operation(self) -> str:
        """The name without modifiers: "HMMA"; on AMD without the encoding: "v_exp_f32"."""
        return re.sub(r"_(e32|e64|dpp|sdwa)$", "", self.name.split(".")[0])


@dataclass(frozen=True)
class Loop:
    """A natural loop: what one turn of it issues, all branches inside taken to be run.

    Attributes:
        header: Index of its first instruction in the kernel.
        instructions: Of the body, in order.
        blocks: Indices of the basic blocks; a loop inside another has a subset of its blocks.
    """

    header: int
    instructions: tuple[Instruction, ...]
    blocks: frozenset[int]

    @cached_property
    def mix(self) -> Counter[str]:
        """Instructions per turn by operation."""
        return Counter(instruction.operation for instruction in self.instructions)

    @property
    def num_exponentials(self) -> int:
        """Exponentials per turn and thread."""
        names = [instruction.name for instruction in self.instructions]
        return sum(name.startswith(("MUFU.EX2", "v_exp_f32")) for name in names)

    @property
    def num_matrix_operations(self) -> int:
        """Tensor-core instructions per turn and warp."""
        return sum(self.mix[name] for name in self.mix if name.startswith(_MATRIX_PREFIXES))


@dataclass(frozen=True)
class TileLoop:
    """A loop over tiles of scores, one tile per turn.

    Attributes:
        loop: The loop.
        scores_per_thread: In one tile.
    """

    loop: Loop
    scores_per_thread: float

    @property
    def instructions_per_score(self) -> float:
        """Of each thread; comparable between tile shapes and numbers of warps."""
        return len(self.loop.instructions) / self.scores_per_thread

    @property
    def exponentials_per_score(self) -> float:
        """Little above 1, for the rescaling; 2 means that two warps compute the same scores.

        That happens where a tile has too few rows for its warps, and doubles everything.
        """
        return self.loop.num_exponentials / self.scores_per_thread


def operations(assembly: str) -> Counter[str]:
    """Instructions of the whole kernel by operation."""
    return Counter(instruction.operation for instruction in _parse(assembly)[0])


def matrix_operation(mix: Counter[str]) -> str | None:
    """The widest tensor-core operation in a mix; None if there is none."""
    for prefix in _MATRIX_PREFIXES:
        if any(name.startswith(prefix) for name in mix):
            return prefix.removeprefix("v_").upper()
    return None


def main_loop(assembly: str, scores_per_thread: float) -> TileLoop:
    """The interior loop of an attention kernel; the rule is in this module's docstring.

    Args:
        assembly: Of the compiled kernel.
        scores_per_thread: BLOCK_M * BLOCK_N / (num_warps * warp size); times the number of tiles
            per turn, where a loop is unrolled.

    Raises:
        ValueError: If no loop computes an exponential per score.
    """
    loops = tile_loops(assembly, scores_per_thread)
    if not loops:
        raise ValueError(
            f"no loop has an exponential for each of scores_per_thread={scores_per_thread:g}; "
            "is the tile's size right?"
        )
    return min(loops, key=lambda loop: loop.instructions_per_score)


def tile_loops(assembly: str, scores_per_thread: float) -> list[TileLoop]:
    """All loops over tiles, masked ones included, in the order of the text."""
    loops = [
        loop for loop in find_loops(assembly) if loop.num_exponentials >= 0.9 * scores_per_thread
    ]
    innermost = [a for a in loops if not any(b.blocks < a.blocks for b in loops)]
    return [TileLoop(loop, scores_per_thread) for loop in innermost]


def issue_headroom(tile_loop: TileLoop, num_warps: int, num_bytes: float, device: Device) -> float:
    """By how much memory is slower than issuing the instructions, for a loop that streams memory.

    Below 1 the loop is bound by its instructions and cannot reach the memory's bandwidth.

    Args:
        tile_loop: Of a decode kernel.
        num_warps: Of the block.
        num_bytes: Which one turn over one tile reads: keys and values.
        device: Its clock and bandwidth.
    """
    issue = device.issue_cycles(len(tile_loop.loop.instructions), num_warps)
    return device.memory_cycles(num_bytes) / issue


def find_loops(assembly: str) -> list[Loop]:
    """All natural loops, in the order of their first instructions; loops of one header are one."""
    instructions, labels = _parse(assembly)
    starts = _block_starts(instructions, labels)
    ends = [*starts[1:], len(instructions)]
    block_at = {start: block for block, start in enumerate(starts)}
    successors = [_successors(instructions, labels, block_at, last - 1) for last in ends]
    predecessors: list[list[int]] = [[] for _ in starts]
    for block, after in enumerate(successors):
        for other in after:
            predecessors[other].append(block)
    dominators = _dominators(successors, predecessors)
    bodies: dict[int, set[int]] = {}
    for block, after in enumerate(successors):
        for header in after:
            if block in dominators and header in dominators[block]:
                bodies.setdefault(header, {header}).update(_body(header, block, predecessors))
    return [
        Loop(
            starts[header],
            tuple(i for b in sorted(body) for i in instructions[starts[b] : ends[b]]),
            frozenset(body),
        )
        for header, body in sorted(bodies.items())
    ]


def _parse(assembly: str) -> tuple[list[Instruction], dict[str, int]]:
    """Instructions, and for each label the index of the instruction behind it."""
    is_amd = "amdgcn" in assembly or "s_endpgm" in assembly
    line_of, label_of = (_AMD, _AMD_LABEL) if is_amd else (_NVIDIA, _NVIDIA_LABEL)
    target_of = _AMD_TARGET if is_amd else _NVIDIA_TARGET
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in assembly.splitlines():
        if label := label_of.match(line):
            labels[label[1]] = len(instructions)
        elif found := line_of.match(line):
            predicate, name, operands = found.groups()
            is_branch = name.startswith(("BRA", "s_branch", "s_cbranch"))
            target = target_of.search(operands) if is_branch else None
            if is_amd:
                ends = name in ("s_branch", "s_endpgm", "s_setpc_b64")
            else:
                # BRA.U UP0 and BRA P0 test a register without a predicate in front.
                tested = predicate or re.match(r"\s*!?U?P\d", operands)
                ends = not tested and name.startswith(("BRA", "EXIT", "RET", "BRX", "JMP"))
            instructions.append(Instruction(name, target[1] if target else None, not ends))
    return instructions, labels


def _block_starts(instructions: list[Instruction], labels: dict[str, int]) -> list[int]:
    starts = {0, *labels.values()}
    for index, instruction in enumerate(instructions):
        if instruction.target is not None or not instruction.falls_through:
            starts.add(index + 1)
    return sorted(start for start in starts if start < len(instructions))


def _successors(
    instructions: list[Instruction], labels: dict[str, int], block_at: dict[int, int], last: int
) -> list[int]:
    instruction = instructions[last]
    after = {block_at[last + 1]} if instruction.falls_through and last + 1 in block_at else set()
    if instruction.target in labels and labels[instruction.target] in block_at:
        after.add(block_at[labels[instruction.target]])
    return sorted(after)


def _dominators(successors: list[list[int]], predecessors: list[list[int]]) -> dict[int, set[int]]:
    """For each block reachable from the first: the blocks on every path to it, itself included."""
    order: list[int] = []
    seen, stack = {0}, [(0, iter(successors[0]))]
    while stack:
        block, rest = stack[-1]
        following = next((b for b in rest if b not in seen), None)
        if following is None:
            order.append(block)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(successors[following])))
    order.reverse()
    dominators = {block: set(order) for block in order}
    dominators[0] = {0}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            before = [dominators[p] for p in predecessors[block] if p in dominators]
            new = set.intersection(*before) | {block}
            changed |= new != dominators[block]
            dominators[block] = new
    return dominators


def _body(header: int, source: int, predecessors: list[list[int]]) -> set[int]:
    body, stack = {header, source}, [source] if source != header else []
    while stack:
        for block in predecessors[stack.pop()]:
            if block not in body:
                body.add(block)
                stack.append(block)
    return body
