"""How quick the C++ kernels are beside PyTorch's own operations, on the machine that runs this."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastad_kernels import reference, sdpa
from fastad_kernels.blocks import Affine, BlockShape, BlockWeights
from fastad_kernels.cache import RingCache
from fastad_kernels.memory import keeping_freed_memory
from fastad_kernels.native.attention import attention
from fastad_kernels.native.decode import NativeBlocks
from fastad_kernels.native.embed import embed
from fastad_kernels.native.mlp import residual_mlp
from fastad_kernels.native.projection import projection

# Sweeps over all cases: so many seconds of them, so many at least, and at most.
SECONDS, MIN_SWEEPS, MAX_SWEEPS = 2.5, 10, 100
PATIENCE = 60.0  # seconds, then those there are must do: where Arm is emulated one takes 100
AGREEMENT = 0.8  # of turns
WINDOW = 200
HEAD_DIMS, WIDTHS = (16, 32, 64, 128), (64, 128, 256)
# For every two threads. Calls of a few milliseconds: short ones are more often left undisturbed,
# shorter ones would fit into caches that training does not fit into.
NUM_SEQUENCES = 4  # of two windows
NUM_FEATURES, MIN_TOKENS = 2**16, 512  # tokens times width

Call = Callable[[], object]


def measure() -> dict[str, float]:
    """How many times as fast as PyTorch our kernels are, by case: the operation and its size.

    In training, forward and backward; in decoding, a step of a block. Both sides take turns, sweep
    after sweep over all cases.
    """
    with keeping_freed_memory():  # as training does
        return _measure(dict(_cases()))


def _measure(cases: dict[str, tuple[Call, Call]]) -> dict[str, float]:
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in cases}
    began, spent, sweeps = time.perf_counter(), 0.0, 0
    while spent < (PATIENCE if sweeps < MIN_SWEEPS else SECONDS) and sweeps < MAX_SWEEPS:
        for name, calls in cases.items():
            for side, call in enumerate(calls):
                start = time.perf_counter()
                call()
                times[name][side].append(time.perf_counter() - start)
        spent, sweeps = time.perf_counter() - began, sweeps + 1
    return {name: _ratio(*of_sides) for name, of_sides in times.items()}


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """How much quicker ours are, from their times, by turns.

    The least time of each side counts: whoever else uses the machine can make a call slower, but
    not quicker. Beside several others, though, one side may have been left undisturbed and the
    other never. Calls that follow one another are equally disturbed: unless most of those agree, it
    is a tie.
    """
    least = min(theirs) / min(ours)
    turns = [(their < our) == (least < 1) for our, their in zip(ours, theirs, strict=True)]
    # A single turn, all that the slowest machines have time for, was not even a warm one.
    return least if len(turns) > 1 and statistics.mean(turns) >= AGREEMENT else 1.0


def _cases() -> Iterator[tuple[str, tuple[Call, Call]]]:
    """Name of a case; ours and PyTorch's."""
    for dim in HEAD_DIMS:
        yield f"attention {dim}", _attention(dim)
    for width in WIDTHS:
        yield f"projection {width}", _projections(width)
        yield f"mlp {width}", _mlp(width)
        yield f"embedding {width}", _embedding(width)
    for dim in HEAD_DIMS[:2]:
        yield f"decode {dim}", _decode(dim)


def _pairs() -> int:
    return -(-torch.get_num_threads() // 2)


def _tokens(width: int) -> int:
    """Enough to outweigh what is done once for all of them, such as packing matrices."""
    return max(NUM_FEATURES // width, MIN_TOKENS) * _pairs()


def _random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator) / math.sqrt(shape[-1])


def _training(
    function: Callable[..., Tensor | tuple[Tensor, ...]], inputs: list[Tensor], **settings: Any
) -> Call:
    leaves = [x.clone().requires_grad_() for x in inputs]

    def call() -> None:
        out = function(*leaves, **settings)
        outs = (out,) if isinstance(out, Tensor) else out
        torch.autograd.grad(outs, leaves, [torch.ones_like(y) for y in outs])

    return call


def _attention(dim: int) -> tuple[Call, Call]:
    """Sequences of two windows and 4 heads."""
    inputs = [_random(NUM_SEQUENCES * _pairs(), 2 * WINDOW, 4, dim) for _ in range(3)]
    settings = {
        "window": WINDOW, "causal": True, "scale": dim**-0.5, "alibi_slopes": None,
        "dropout": 0.0, "dropout_seed": None,
    }  # fmt: skip
    return _training(attention, inputs, **settings), _training(sdpa.attention, inputs, **settings)


def _projections(width: int) -> tuple[Call, Call]:
    """To queries, keys and values, norm first, and from the heads back to the residual.

    Twice the tokens of other cases: these calls are short.
    """
    num_tokens = 2 * _tokens(width)
    x, attended = (_random(num_tokens, width) for _ in range(2))
    inward = [_random(3 * width, width), _random(3 * width), _random(width), _random(width)]
    outward = [_random(width, width), _random(width)]

    def both(project: Callable[..., Tensor]) -> Call:
        def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
            x, attended, weight, bias, scale, shift, out_weight, out_bias = tensors
            heads = project(x, weight, bias, norm=(scale, shift), residual=None, epsilon=1e-5)
            # As a block has them: in memory without gaps, and what the norm reads is the residual.
            out = project(attended, out_weight, out_bias, norm=None, residual=x, epsilon=1e-5)
            return heads, out

        return _training(function, [x, attended, *inward, *outward])

    return both(projection), both(reference.projection)


def _mlp(width: int) -> tuple[Call, Call]:
    hidden = 4 * width
    inputs = [
        _random(_tokens(width), width), _random(width), _random(width),
        _random(hidden, width), _random(hidden), _random(width, hidden), _random(width),
    ]  # fmt: skip
    ours, theirs = (
        _training(function, inputs, epsilon=1e-5)
        for function in (residual_mlp, reference.residual_mlp)
    )
    return ours, theirs


def _embedding(width: int) -> tuple[Call, Call]:
    """Tokens of Dark Room: action, reward, two coordinates, start and step of an episode."""
    num_tokens = _tokens(width)
    tables = [_random(rows, width) for rows in (6, 6, 18, 2, 20)]
    numbers = torch.arange(num_tokens).unsqueeze(1)
    indices = [numbers % len(table) for table in tables]
    indices[2] = torch.cat([numbers % 9, 9 + numbers % 7], dim=1)
    factors = [None, _random(num_tokens), None, None, None]
    ours, theirs = (
        _training(lambda *t, by=by: by(t, indices, factors), tables)
        for by in (embed, reference.embed)
    )
    return ours, theirs


def _decode(dim: int) -> tuple[Call, Call]:
    """A step of 16 environments through a block of 4 heads, behind a full window."""
    width, envs = 4 * dim, 16
    norm = Affine(torch.ones(width), torch.zeros(width))

    def affine(out: int, size: int) -> Affine:
        return Affine(_random(out, size), _random(out))

    query, key_value = affine(width, width), affine(2 * width, width)
    into = Affine(*(torch.cat(pair) for pair in zip(query, key_value, strict=True)))
    out, mlp_in, mlp_out = affine(width, width), affine(4 * width, width), affine(width, 4 * width)
    block = BlockWeights(norm, query, key_value, out, norm, mlp_in, mlp_out)
    frozen = NativeBlocks([block], BlockShape(4, 4, dim, dim**-0.5, WINDOW))
    rings, ring = frozen.make_rings(envs, WINDOW), RingCache(envs, WINDOW, 4, dim)
    x = _random(envs, 1, width)

    def ours() -> None:
        with torch.inference_mode():
            frozen.decode(x, rings)

    def theirs() -> None:
        with torch.inference_mode():
            heads = reference.projection(x, *into, norm=norm, residual=None, epsilon=1e-5)
            q, k, v = heads.unflatten(-1, (3, 4, dim)).unbind(2)
            attended = sdpa.decode_attention(
                q, k, v, ring, window=WINDOW, scale=dim**-0.5, alibi_slopes=None, rope=None
            ).flatten(2)
            y = reference.projection(attended, *out, norm=None, residual=x, epsilon=1e-5)
            reference.residual_mlp(y, *norm, *mlp_in, *mlp_out, 1e-5)

    for _ in range(WINDOW):
        ours()
        theirs()
    return ours, theirs
