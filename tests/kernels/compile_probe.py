"""Run by test_testing_compile.py in a process of its own: a compiled kernel needs TRITON_INTERPRET
unset, the rest of the suite needs it set. Prints what it found as JSON.
"""

import dataclasses
import json

import torch
import triton
import triton.language as tl
from fastad_kernels.testing import sass
from fastad_kernels.testing.compile import TARGETS, Compiled, compile_for, compile_launches

BLOCK_M, BLOCK_N, D, NUM_WARPS = 64, 64, 32, 4


@triton.jit
def _tile(p_k, b_q, b_sum, start, n, MASKED: tl.constexpr, BLOCK_N: tl.constexpr, D: tl.constexpr):
    keys = start + tl.arange(0, BLOCK_N)
    offsets = keys[:, None] * D + tl.arange(0, D)[None, :]
    b_k = tl.load(p_k + offsets, mask=keys[:, None] < n) if MASKED else tl.load(p_k + offsets)
    b_s = tl.dot(b_q, tl.trans(b_k))
    if MASKED:
        b_s = tl.where(keys[None, :] < n, b_s, float("-inf"))
    return b_sum + tl.sum(tl.exp2(b_s), 1)


@triton.jit
def _two_loops_kernel(
    p_q, p_k, p_out, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, D: tl.constexpr
):
    rows, dims = tl.arange(0, BLOCK_M), tl.arange(0, D)
    b_q = tl.load(p_q + rows[:, None] * D + dims[None, :])
    b_sum = tl.zeros([BLOCK_M], tl.float32)
    full = n // BLOCK_N * BLOCK_N
    for start in range(0, full, BLOCK_N):
        b_sum = _tile(p_k, b_q, b_sum, start, n, False, BLOCK_N, D)
    for start in range(full, n, BLOCK_N):
        b_sum = _tile(p_k, b_q, b_sum, start, n, True, BLOCK_N, D)
    tl.store(p_out + rows, b_sum)


@triton.jit
def _add_kernel(p_x, p_out, n, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(p_out + index, tl.load(p_x + index, mask=index < n) + 1, mask=index < n)


def compile_two_loops(architecture: str, **options: int) -> Compiled:
    q = torch.empty(BLOCK_M, D, dtype=torch.bfloat16, device="meta")
    return compile_for(
        _two_loops_kernel, (q, q, q, 4096), architecture, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, D=D,
        num_warps=NUM_WARPS, enable_fp_fusion=True, **options,
    )  # fmt: skip


def probe_two_loops(architecture: str) -> dict:
    compiled = compile_two_loops(architecture)
    scores = BLOCK_M * BLOCK_N / (NUM_WARPS * TARGETS[architecture].warp_size)
    return dataclasses.asdict(compiled.resources) | {
        "main": sass.main_loop(compiled.assembly, scores).instructions_per_score,
        "loops": [
            loop.instructions_per_score for loop in sass.tile_loops(compiled.assembly, scores)
        ],
    }


def probe_vector_width(num_elements: int) -> bool:
    """Whether a launch over so many elements moves 16 bytes per instruction."""
    x = torch.empty(num_elements)
    launches = compile_launches(
        lambda: _add_kernel[(1,)](
            x, torch.empty_like(x), num_elements, BLOCK=1024, enable_fp_fusion=True
        ),
        "sm_90",
    )
    assert [launch.name for launch in launches] == ["_add_kernel"]
    return "LDG.E.128" in launches[0].assembly


def main() -> None:
    spilling = compile_two_loops("sm_80", maxnreg=32)
    print(
        json.dumps(
            {
                "two_loops": {name: probe_two_loops(name) for name in TARGETS},
                "spilling": dataclasses.asdict(spilling.resources),
                "wide_with_multiple_of_16": probe_vector_width(4096),
                "wide_with_odd_length": probe_vector_width(4097),
            }
        )
    )


if __name__ == "__main__":
    main()
