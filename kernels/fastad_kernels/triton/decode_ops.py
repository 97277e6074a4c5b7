"""Decode attention as a PyTorch operator: planning, launching, registration.

Nothing here asks the device for a value: the lengths stay there, and the grid follows from shapes
alone, so a step can be captured in a CUDA graph.
"""

from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from fastad_kernels.cache import RingCache
from fastad_kernels.checks import check_no_grad, check_ring_layout, check_rows
from fastad_kernels.triton.combine import _combine_kernel
from fastad_kernels.triton.decode import _decode_kernel
from fastad_kernels.triton.tiles import Tile, current_architecture, dot_precision, find_tile

# Wider tiles of key/value heads (heads * head dim) spill; by the size of an element.
MAX_WIDTH = {1: 128, 2: 128, 4: 64}
# Narrower shares than this make warps compute the same, or (int8) spill; likewise.
WIDTH_OF_WARP = {1: 32, 2: 16, 4: 16}
# Tiles of more rows than this spill; likewise.
MAX_ROWS = {1: 32, 2: 32, 4: 16}
# More new tokens than this are appended chunk by chunk.
MAX_NEW = 16
MAX_SPLITS = 32
COMBINE_ROWS = 16
# Left to itself, NVIDIA's assembler spills a few registers to fit one more block.
MAX_REGISTERS = 255
MIN_DOT = 16  # tl.dot takes no shorter side


@dataclass(frozen=True)
class DecodePlan:
    """How one launch divides its work; from shapes alone.

    Attributes:
        heads: Key/value heads of a tile, a power of two.
        rows: Rows of a tile: its query heads times the new tokens, padded to a power of two.
        block_t: New tokens, padded likewise.
        num_tiles: Tiles of an environment.
        num_splits: Programs among which a tile's band is divided.
        tile: Keys of a block, warps and stages.
    """

    heads: int
    rows: int
    block_t: int
    num_tiles: int
    num_splits: int
    tile: Tile


def plan_decode(
    q_shape: tuple[int, int, int, int],
    num_kv_heads: int,
    *,
    window: int,
    element_size: int,
    int8: bool = False,
    architecture: str,
    num_multiprocessors: int,
    num_splits: int = 0,
) -> DecodePlan:
    """Plan a launch.

    Args:
        q_shape: (B, T, H, D).
        num_kv_heads: `Hkv`.
        window: Tokens that a query sees.
        element_size: 1, 2 or 4 bytes, as `find_element_size` chooses.
        int8: Whether the storage is int8; with float32 queries the size does not tell.
        architecture: As `tiles.current_architecture` gives it.
        num_multiprocessors: Of the device.
        num_splits: 0 to choose.
    """
    batch, num_new, num_heads, head_dim = q_shape
    group = num_heads // num_kv_heads
    # Tiles have a power of two heads, and all tiles as many: the largest such divisor.
    heads = min(num_kv_heads & -num_kv_heads, max(1, MAX_WIDTH[element_size] // head_dim))
    while heads > 1 and heads * group * num_new > MAX_ROWS[element_size]:
        heads //= 2
    num_tiles = num_kv_heads // heads
    which = "decode_int8" if int8 else "decode"
    tile = find_tile(architecture, head_dim, which, element_size)
    num_warps = max(1, min(tile.num_warps, heads * head_dim // WIDTH_OF_WARP[element_size]))
    if num_splits == 0:
        num_splits = choose_num_splits(window, batch * num_tiles, num_multiprocessors, tile.block_n)
    return DecodePlan(
        heads=heads,
        rows=max(MIN_DOT, triton.next_power_of_2(heads * group * num_new)),
        block_t=max(MIN_DOT, triton.next_power_of_2(num_new)),
        num_tiles=num_tiles,
        num_splits=num_splits,
        tile=replace(tile, num_warps=num_warps),
    )


def find_element_size(q: Tensor, keys: Tensor) -> int:
    """What tiles go by: bytes of the wider of queries and storage, up to 4; 1 for int8 storage."""
    if keys.dtype == torch.int8 and q.element_size() == 2:
        return 1
    return min(4, max(q.element_size(), keys.element_size()))


def choose_num_splits(
    window: int, num_programs: int, num_multiprocessors: int, block_n: int
) -> int:
    """Splits that give every multiprocessor two programs, of at least two blocks each."""
    wanted = triton.cdiv(2 * num_multiprocessors, num_programs)
    useful = triton.cdiv(window - 1, 2 * block_n)
    return max(1, min(wanted, useful, MAX_SPLITS))


def chunk_length(group: int, element_size: int) -> int:
    """Most new tokens that one launch takes, for `group` query heads per key/value head."""
    return max(1, min(MAX_NEW, MAX_ROWS[element_size] // group))


@torch.library.custom_op(
    "fastad::decode_attention",
    mutates_args=("keys", "values", "key_scales", "value_scales", "lengths"),
)
def decode_attention_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
    lengths: Tensor,
    alibi_slopes: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    window: int,
    scale: float,
    num_splits: int = 0,
) -> Tensor:
    """Append k and v (B, T, Hkv, D) to the ring's storage and attend from q (B, T, H, D).

    Args:
        q: Queries; features contiguous, as in k and v.
        k: New keys.
        v: New values.
        keys: Storage (B, C, Hkv, D), contiguous; mutated, as are the four that follow.
        values: As `keys`.
        key_scales: (B, C, Hkv) fp32 beside int8 storage, else None.
        value_scales: As `key_scales`.
        lengths: (B,) int64, tokens appended before; advances by T.
        alibi_slopes: (H,) or None.
        cos: (B or 1, T, D / 2), or None for no rotation.
        sin: As `cos`, with its strides.
        window: Tokens that a query sees, itself included.
        scale: Of the scores.
        num_splits: Programs among which the band of one environment is divided; 0 to choose.

    Returns:
        (B, T, H, D), dtype of q, contiguous.
    """
    ring = (keys, values, key_scales, value_scales, lengths)
    chunk = chunk_length(q.shape[2] // k.shape[2], find_element_size(q, keys))
    chunks = [slice(start, start + chunk) for start in range(0, q.shape[1], chunk)]
    # Triton launches on the current device, whatever the tensors are on.
    with torch.cuda.device_of(q):
        outputs = [
            _launch(
                q[:, part], k[:, part], v[:, part], *ring, alibi_slopes,
                None if cos is None else cos[:, part], None if sin is None else sin[:, part],
                window, scale, num_splits,
            )
            for part in chunks
        ]  # fmt: skip
    if not outputs:
        return q.new_empty(q.shape)  # no tokens
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


@decode_attention_op.register_fake
def _(q: Tensor, *args: object) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cache: RingCache,
    *,
    window: int,
    scale: float,
    alibi_slopes: Tensor | None,
    rope: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """As the reference, with the same arguments; one launch for append, rotation and attention.

    Raises:
        ValueError: If the ring is not of order "token", a feature dimension is strided, or a
            gradient would be needed.
    """
    check_no_grad(q=q, k=k, v=v)
    check_rows(q=q, k=k, v=v)
    check_ring_layout(cache)
    cos, sin = (None, None) if rope is None else (_with_batch(x) for x in rope)
    out = decode_attention_op(
        q, k, v, cache.keys, cache.values, cache.key_scales, cache.value_scales, cache.lengths,
        alibi_slopes, cos, sin, window, scale,
    )  # fmt: skip
    cache.advance(q.shape[1])
    return out


def _with_batch(angles: Tensor) -> Tensor:
    return (angles[None] if angles.ndim == 2 else angles).contiguous()


def _launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
    lengths: Tensor,
    alibi_slopes: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    window: int,
    scale: float,
    num_splits: int,
) -> Tensor:
    """Launch the decode kernel for one chunk and whatever has to follow it."""
    batch, num_new, num_heads, head_dim = q.shape
    num_kv_heads, capacity = k.shape[2], keys.shape[1]
    architecture = current_architecture()
    plan = plan_decode(
        (batch, num_new, num_heads, head_dim), num_kv_heads, window=window,
        element_size=find_element_size(q, keys), int8=keys.dtype == torch.int8,
        architecture=architecture, num_multiprocessors=_num_multiprocessors(q.device),
        num_splits=num_splits,
    )  # fmt: skip
    split = plan.num_splits > 1
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    partial, lse = out, lengths  # neither is touched unless the band is split
    if split:
        accumulator = torch.float64 if q.dtype == torch.float64 else torch.float32
        shape = (batch, plan.num_splits, num_new, num_heads)
        partial = torch.empty(*shape, head_dim, dtype=accumulator, device=q.device)
        lse = torch.empty(shape, dtype=accumulator, device=q.device)
    alone = not split and plan.num_tiles == 1
    _decode_kernel[(batch * plan.num_tiles, plan.num_splits)](
        q, k, v, keys, values,
        keys if key_scales is None else key_scales,
        values if value_scales is None else value_scales,
        lengths,
        q if alibi_slopes is None else alibi_slopes,
        q if cos is None else cos,
        q if sin is None else sin,
        partial, lse,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *_rope_strides(cos, batch),
        window, capacity, plan.num_splits,
        SCALE=scale, NUM_KV_HEADS=num_kv_heads, GROUP=num_heads // num_kv_heads,
        HEADS=plan.heads, D=head_dim, NUM_NEW=num_new, ROWS=plan.rows, BLOCK_T=plan.block_t,
        BLOCK_N=plan.tile.block_n, ROPE=cos is not None, ALIBI=alibi_slopes is not None,
        INT8=key_scales is not None, SPLIT=split, ADVANCE=alone, PRECISION=dot_precision(q.dtype),
        num_warps=plan.tile.num_warps, num_stages=plan.tile.num_stages, enable_fp_fusion=True,
        **({"maxnreg": MAX_REGISTERS} if architecture.startswith("sm_") else {}),
    )  # fmt: skip
    if split:
        num_rows = num_new * num_heads
        _combine_kernel[(batch, triton.cdiv(num_rows, COMBINE_ROWS))](
            partial, lse, out, lengths, plan.num_splits, num_new, num_rows,
            D=head_dim, ROWS=COMBINE_ROWS, num_warps=4, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip
    elif not alone:
        # Several programs of an environment read its length, so none of them may move it.
        lengths += num_new
    return out


def _rope_strides(cos: Tensor | None, batch: int) -> tuple[int, int, int]:
    if cos is None:
        return 0, 0, 0
    along_batch, along_tokens, along_features = cos.stride()
    return along_batch if cos.shape[0] == batch else 0, along_tokens, along_features


def _num_multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
