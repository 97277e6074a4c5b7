"""The one seam between the model and `fastad_kernels`: all that it takes comes from here."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from fastad_kernels import (
    Affine,
    BlockShape,
    BlockWeights,
    FrozenModel,
    Implementation,
    RingCache,
    Sample,
    StepTables,
    alibi_slopes,
    apply_rope,
    attention,
    attention_varlen,
    decode_attention,
    embed,
    make_told,
    projection,
    residual_mlp,
    rope_angles,
    sample,
    softmax,
)
from fastad_kernels.blocks import absorb
from fastad_kernels.cache import Order
from fastad_kernels.dispatch import OPERATIONS, find_implementation, resolve
from fastad_kernels.memory import keeping_freed_memory
from fastad_kernels.native.heads import split_heads
from fastad_kernels.reference import attention_weights
from torch import Tensor, nn

from fastad.base.errors import UserError
from fastad.model.config import ModelConfig

if TYPE_CHECKING:
    from fastad.model.band import Band

__all__ = [
    "Affine",
    "BlockShape",
    "BlockWeights",
    "FrozenModel",
    "Implementation",
    "Positions",
    "RingCache",
    "Sample",
    "StepTables",
    "affine",
    "alibi_slopes",
    "attend",
    "attention_weights",
    "check_kernels",
    "embed",
    "freeze_model",
    "impose_kernels",
    "keeping_freed_memory",
    "make_ring",
    "make_told",
    "projection",
    "residual_mlp",
    "resolve_kernels",
    "rope_angles",
    "sample",
    "softmax",
    "split_heads",
]

Positions = Literal["none", "rope", "alibi", "learned"]
# With 64 environments, context 400, tokens are 1.5 times as quick as keys and values for 4 heads,
# 0.9 to 1.3 times for 8, 0.8 times for 16.
MAX_ABSORBED_HEADS = 8


def attend(q: Tensor, k: Tensor, v: Tensor, band: "Band", cache: RingCache | None = None) -> Tensor:
    """Banded causal attention: over whole sequences, or of new tokens over their ring.

    Args:
        q: (B, T, H, D).
        k: (B, T, Hkv, D).
        v: (B, T, Hkv, D).
        band: What the layers share.
        cache: If given, k and v are appended to it, and queries see the band behind them.

    Returns:
        (B, T, H, D).
    """
    if cache is not None:
        return decode_attention(
            q, k, v, cache, window=band.window, alibi_slopes=band.slopes, rope=band.rope,
            impl=_decoder(band.impl),
        )  # fmt: skip
    if band.rope is not None:
        q, k = apply_rope(q, *band.rope), apply_rope(k, *band.rope)
    out = _attend_whole(q, k, v, band)
    if band.observer is not None:
        band.observer(q, k, v, out)
    return out


def _attend_whole(q: Tensor, k: Tensor, v: Tensor, band: "Band") -> Tensor:
    """Over whole sequences, rotated where they are to be."""
    if band.bounds is None:
        share = band.share if band.dropout > 0.0 else None
        if share is not None:
            # Kernels draw masks of their own, by place in the batch: each row goes where it stands
            # in the whole one. That costs a part the attention of the whole.
            q, k, v = share.spread(q), share.spread(k), share.spread(v)
        out = attention(
            q, k, v, window=band.window, alibi_slopes=band.slopes, dropout=band.dropout,
            impl=band.impl,
        )  # fmt: skip
        return out if share is None else out.index_select(0, share.rows)
    batch, num_tokens = q.shape[:2]
    out = attention_varlen(
        *(x.flatten(0, 1) for x in (q, k, v)), cu_seqlens_q=band.bounds, cu_seqlens_k=band.bounds,
        max_seqlen_q=num_tokens, max_seqlen_k=num_tokens, window=band.window,
        alibi_slopes=band.slopes, dropout=band.dropout, impl=band.impl,
    )  # fmt: skip
    return out.unflatten(0, (batch, num_tokens))


def make_ring(
    impl: str,
    batch_size: int,
    capacity: int,
    num_kv_heads: int,
    head_dim: int,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
) -> RingCache:
    """A ring in the memory order that `impl` reads; see `RingCache` for the sizes."""
    orders: dict[str, Order] = {"triton": "token", "native": "column"}
    return RingCache(
        batch_size, capacity, num_kv_heads, head_dim, dtype=dtype, device=device,
        order=orders.get(impl),
    )  # fmt: skip


def affine(*layers: nn.Linear | nn.LayerNorm) -> Affine:
    """One affine map of all layers' outputs, without a gradient."""
    weight, bias = zip(
        *((layer.weight.detach(), layer.bias.detach()) for layer in layers), strict=True
    )
    return Affine(*(x[0] if len(x) == 1 else torch.cat(x) for x in (weight, bias)))


def freeze_model(
    blocks: Sequence[BlockWeights],
    shape: BlockShape,
    tables: StepTables,
    *,
    norm: Affine | None,
    head: Affine,
    offsets: Tensor | None,
    reward_shift: float,
    reward_scale: float,
    scheme: Positions,
    impl: Implementation,
) -> FrozenModel | None:
    """One kernel for whole steps of a frozen model, where `impl` has one; else None.

    Without rotary positions keys and values are linear in the tokens that they come from: where
    those are fewer numbers, the cache holds tokens instead (`fastad_kernels.blocks`). That takes
    as many times more products as there are heads, so it pays for few of them.

    Args:
        blocks: Their weights.
        shape: Of the blocks.
        tables: See `FrozenModel`, as all that follows.
        norm: Of what the head reads, or None.
        head: (A, width).
        offsets: Of coordinates, (coordinates,) int64; None where observations are features.
        reward_shift: Subtracted from rewards.
        reward_scale: Divides them then.
        scheme: Of positions.
        impl: The model's choice.
    """
    weight = blocks[0].query.weight
    like = weight.new_empty(0, shape.dim)
    if resolve(impl, like, operation="decode") != "native":
        return None
    find_implementation("native", like)  # raises where a named one cannot work
    from fastad_kernels.native import NativeBlocks, NativeModel

    width = weight.shape[1]
    is_smaller = width < 2 * shape.num_kv_heads * shape.dim
    if scheme != "rope" and is_smaller and shape.num_heads <= MAX_ABSORBED_HEADS:
        absorbed = [absorb(block, shape) for block in blocks]
        blocks, shape = [block for block, _ in absorbed], absorbed[0][1]
    slopes = alibi_slopes(shape.num_heads) if scheme == "alibi" else None
    return NativeModel(
        tables, NativeBlocks(list(blocks), shape, alibi_slopes=slopes), norm=norm, head=head,
        offsets=offsets, reward_shift=reward_shift, reward_scale=reward_scale,
    )  # fmt: skip


def check_kernels(
    impl: Implementation,
    config: ModelConfig,
    device: torch.device,
    precision: str = "fp32",
    *,
    kv_cache: bool = False,
    dropout: float = 0.0,
) -> None:
    """Try an implementation on one token, so that a run that cannot work never begins.

    Raises:
        UserError: With the implementation's own reason; so too if one is named for a GRU.
    """
    if config.trunk == "gru":
        if impl != "auto":
            raise UserError(
                f"kernels={impl} computes attention and MLPs, and a GRU has none: PyTorch does all "
                "of its work; leave --kernels out"
            )
        return
    head_dim = config.head_dim
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.zeros(1, 1, 1, head_dim, dtype=dtype, device=device)
    try:
        if kv_cache:
            # As a rollout's: "auto" tried on another ring would name another choice.
            name = resolve(_decoder(impl), x, operation="decode")
            ring = make_ring(name, 1, 1, 1, head_dim, dtype=dtype, device=device)
            with torch.no_grad():
                decode_attention(x, x, x, ring, window=1, impl=_decoder(impl))
        else:
            attention(x, x, x, dropout=dropout, impl=impl)
    except ValueError as error:
        raise UserError(f"kernels={impl} cannot be used here: {error}") from error


def resolve_kernels(
    impl: Implementation,
    *,
    width: int,
    head_dim: int,
    device: torch.device,
    precision: str = "fp32",
    dropout: float = 0.0,
) -> dict[str, str]:
    """What each operation of a model takes on this machine: what a run keeps beside its results.

    Another choice or another library rounds otherwise. So a run that goes on compares this with
    what it was begun with, or makes it the same by `impose_kernels`.

    Args:
        impl: As the user asked; "auto" is resolved by what was measured on this machine, which
            compiles and measures the C++ kernels if that has not been done.
        width: Features of a token.
        head_dim: `D`.
        device: Where the model runs.
        precision: "fp32" or "bf16".
        dropout: Of the attention weights.

    Returns:
        Implementations by operation ("attention", "decode", "projection", "mlp", "embedding"), and,
        where one is "native", the digest of the compiled "library".
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    chosen: dict[str, str] = {}
    for operation in OPERATIONS:
        of_heads = operation in ("attention", "decode")
        x = torch.empty(0, head_dim if of_heads else width, dtype=dtype, device=device)
        asked = _decoder(impl) if operation == "decode" else impl
        name = resolve(
            asked, x, operation=operation, dropout=dropout if operation == "attention" else 0.0
        )
        # What is done row by row is PyTorch's wherever it is not C++.
        chosen[operation] = name if of_heads or name == "native" else "sdpa"
    if "native" in chosen.values():
        from fastad_kernels import native

        chosen["library"] = native.built().manifest.sha256[:12]
    return chosen


def impose_kernels(chosen: Mapping[str, str]) -> None:
    """Let "auto" choose on CPUs what `resolve_kernels` gave before, whatever is quicker here.

    For the rest of the process; {} undoes it.

    Raises:
        UserError: If a choice cannot be taken on this machine, with the reason; nothing has changed
            then. The library is not imposed: compare it.
    """
    from fastad_kernels import native

    try:
        native.impose(chosen)
    except ValueError as error:
        raise UserError(
            f"kernels=auto: the run was begun with other kernels than can be used here; {error}"
        ) from error


def _decoder(impl: Implementation) -> Implementation:
    """Who decodes: flash-attn has no ring cache, and evaluation in training needs one."""
    return "auto" if impl == "flash" else impl
