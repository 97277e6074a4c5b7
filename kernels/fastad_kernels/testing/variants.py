"""The variants of the kernels that are held to a budget, and how each is launched.

A variant is compiled through the code that launches it on a GPU, so its tiles, its specialisation
and its options are those of a true launch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastad_kernels.positions import alibi_slopes
from fastad_kernels.testing.compile import TARGETS, Compiled, compile_launches

HEAD_DIMS = (16, 32, 64, 128)

PASSES = ("forward", "dq", "dkdv", "decode")

_FEATURES = ("plain", "alibi", "band", "all", "float32", "float32_all")
# Decoding always has a window, so ALiBi alone is not worth a variant.
_DECODE_FEATURES = ("plain", "band", "all", "rows", "float32", "float32_all", "float32_rows")

_WINDOW = 300


@dataclass(frozen=True)
class Variant:
    """One compiled kernel of the family.

    Attributes:
        architecture: A key of `compile.TARGETS`.
        kernel: "forward", "dq", "dkdv" or "decode".
        head_dim: D.
        features: "plain" is causal attention in bfloat16, or decode of 3 tokens; "alibi" adds
            ALiBi; "band" adds a window and ALiBi, or ALiBi and RoPE; "all" adds dropout, packing
            and grouped heads, or int8 storage, splits and grouped heads; "rows" is decode as in
            "all", but with as many rows as a tile takes, and storage like the queries. "float32",
            "float32_all" and "float32_rows" are the same in full precision, which takes no tensor
            cores on NVIDIA.
    """

    architecture: str
    kernel: str
    head_dim: int
    features: str

    @property
    def key(self) -> str:
        """Its name in the budget file: "sm_90/forward/D16/plain"."""
        return f"{self.architecture}/{self.kernel}/D{self.head_dim}/{self.features}"


def all_variants() -> list[Variant]:
    """Every variant with a budget."""
    return [
        Variant(architecture, kernel, head_dim, features)
        for architecture in TARGETS
        for kernel in PASSES
        for head_dim in HEAD_DIMS
        for features in (_DECODE_FEATURES if kernel == "decode" else _FEATURES)
    ]


def compile_variant(variant: Variant) -> Compiled:
    """Compile one variant; both backward kernels are compiled for either of them."""
    head_dim, features = variant.head_dim, variant.features
    if variant.kernel == "forward":
        run, name = _forward(head_dim, features), "_attention_forward_kernel"
    elif variant.kernel == "decode":
        run, name = _decode(head_dim, features), "_decode_kernel"
    else:
        run, name = _backward(head_dim, features), f"_attention_backward_{variant.kernel}_kernel"
    launches = compile_launches(run, variant.architecture)
    (compiled,) = [launch for launch in launches if launch.name == name]
    return compiled


def scores_per_tile(compiled: Compiled) -> int:
    """Scores that the main loop of a kernel computes at a time."""
    options = compiled.options
    rows = options["ROWS"] if compiled.name == "_decode_kernel" else options["BLOCK_M"]
    return int(rows * options["BLOCK_N"])


def bytes_per_tile(variant: Variant, compiled: Compiled) -> int:
    """Bytes of keys and values that the decode kernel streams for one tile."""
    options = compiled.options
    width = options["HEADS"] * options["D"]
    itemsize = 1 if options["INT8"] else _dtype(variant.features).itemsize
    scales = 4 * options["HEADS"] if options["INT8"] else 0
    return int(2 * options["BLOCK_N"] * (width * itemsize + scales))


def _dtype(features: str) -> torch.dtype:
    return torch.float32 if features.startswith("float32") else torch.bfloat16


def _arguments(head_dim: int, features: str) -> tuple[list[Tensor], list[Any]]:
    """q, k, v, and what follows them in `attention_op`."""
    batch, length, num_heads = 2, 1024, 4
    full = features in ("all", "float32_all")
    banded = full or features == "band"
    num_kv_heads = 2 if full else num_heads
    shapes = [(batch, length, heads, head_dim) for heads in (num_heads, num_kv_heads, num_kv_heads)]
    tensors = [torch.zeros(shape, dtype=_dtype(features)) for shape in shapes]
    if full:
        tensors = [x.flatten(0, 1) for x in tensors]
    cu_seqlens = torch.arange(0, batch * length + 1, length, dtype=torch.int32) if full else None
    rest = [
        cu_seqlens, cu_seqlens,
        alibi_slopes(num_heads) if banded or features == "alibi" else None,
        torch.zeros(1, dtype=torch.int64) if full else None,
        length, length, _WINDOW if banded else None, True, 1 / math.sqrt(head_dim),
        0.125 if full else 0.0,
    ]  # fmt: skip
    return tensors, rest


def _forward(head_dim: int, features: str) -> Callable[[], object]:
    from fastad_kernels.triton.attention_ops import attention_op

    tensors, rest = _arguments(head_dim, features)
    return lambda: attention_op(*tensors, *rest)


def _backward(head_dim: int, features: str) -> Callable[[], object]:
    from fastad_kernels.triton.attention_ops import attention_backward_op

    (q, k, v), rest = _arguments(head_dim, features)
    *leading, length, num_heads, _ = q.shape
    lse2 = torch.zeros(*leading, num_heads, length)
    return lambda: attention_backward_op(q, q, k, v, q, lse2, *rest)


def _decode(head_dim: int, features: str) -> Callable[[], object]:
    from fastad_kernels.triton.decode_ops import MAX_ROWS, MAX_WIDTH, decode_attention_op

    batch, num_new, num_kv_heads, capacity, dtype = 64, 3, 4, 320, _dtype(features)
    kind = features.removeprefix("float32_")
    banded, grouped, full = kind not in ("plain", "float32"), kind in ("all", "rows"), kind == "all"
    num_heads = 2 * num_kv_heads if grouped else num_kv_heads
    if kind == "rows":
        tile_heads = max(1, min(num_kv_heads, MAX_WIDTH[dtype.itemsize] // head_dim))
        num_new = MAX_ROWS[dtype.itemsize] // (2 * tile_heads)
    q = torch.zeros(batch, num_new, num_heads, head_dim, dtype=dtype)
    k = torch.zeros(batch, num_new, num_kv_heads, head_dim, dtype=dtype)
    storage = torch.int8 if full else dtype
    ring = torch.zeros(batch, capacity, num_kv_heads, head_dim, dtype=storage)
    scales = torch.zeros(batch, capacity, num_kv_heads) if full else None
    angles = torch.zeros(batch, num_new, head_dim // 2) if banded else None
    lengths = torch.zeros(batch, dtype=torch.int64)
    slopes = alibi_slopes(num_heads) if banded else None
    return lambda: decode_attention_op(
        q, k, k.clone(), ring, ring.clone(), scales, None if scales is None else scales.clone(),
        lengths, slopes, angles, angles, _WINDOW, 1 / math.sqrt(head_dim), 4 if grouped else 1,
    )  # fmt: skip
