"""Decoding by the C++ kernels: attention of new tokens to a ring, and whole frozen blocks."""

import ctypes
import math
import weakref
from ctypes import c_double, c_int64, c_void_p

import torch
import torch.nn.functional as F
from torch import Tensor

from fastad_kernels import checks
from fastad_kernels.blocks import Affine, BlockShape, BlockWeights, FrozenBlocks
from fastad_kernels.cache import COLUMN_MULTIPLE, RingCache
from fastad_kernels.native.build import library
from fastad_kernels.positions import apply_rope

LOG2_E = math.log2(math.e)
BORDER = COLUMN_MULTIPLE  # as in simd.h: rows of matrices and tokens are multiples of it, too


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("num_envs", "num_new", "width", "mlp_width", "num_blocks")),
        *((name, c_int64) for name in ("num_heads", "num_kv_heads", "dim", "window")),
        *((name, c_int64) for name in ("pre_norm", "rope_rows")),
        ("epsilon", c_double),
    ]


class _Rings(ctypes.Structure):
    _fields_ = [
        ("keys", c_void_p),
        ("values", c_void_p),
        ("lengths", c_void_p),
        ("capacity", c_int64),
    ]


class _Affine(ctypes.Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p)]


class _Block(ctypes.Structure):
    _fields_ = [*((name, _Affine) for name in BlockWeights._fields), ("rings", _Rings)]


class _Inputs(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in ("x", "cos", "sin", "slopes")]


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
    """As the reference, with the same arguments, on a ring of order "column"."""
    check_ring(cache)
    checks.check_no_grad(q=q, k=k, v=v)
    if rope is not None:
        q, k = apply_rope(q, *rope), apply_rope(k, *rope)
    batch, num_new, num_heads, dim = q.shape
    q, k, v = (q * (scale * LOG2_E)).contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    slopes = _base_two(alibi_slopes)
    shape = _Shape(
        num_envs=batch, num_new=num_new, num_heads=num_heads, num_kv_heads=k.shape[2], dim=dim,
        window=window,
    )  # fmt: skip
    library().fastad_decode_attention(
        ctypes.byref(shape), ctypes.byref(_rings(cache)), _pointer(q), _pointer(k), _pointer(v),
        _pointer(out), _pointer(slopes), torch.get_num_threads(),
    )  # fmt: skip
    cache.advance(num_new)
    return out


class BlockArguments:
    """What the kernels for whole blocks are called with, checked; it must outlive the call.

    It serves as long as rings and shapes stay as they are. Rings are held weakly: they hold the
    blocks, and a cycle would keep both until the collector runs.
    """

    def __init__(
        self,
        rings: list[RingCache],
        x_shape: torch.Size,
        shape: _Shape,
        blocks: ctypes.Array,
        slopes: Tensor | None,
    ) -> None:
        self.rings = [weakref.ref(ring) for ring in rings]
        self.x_shape, self.shape, self.slopes = x_shape, shape, slopes
        self.angles: tuple[Tensor, ...] = ()
        self.x: Tensor | None = None
        self.blocks = type(blocks).from_buffer_copy(blocks)
        for struct, ring in zip(self.blocks, rings, strict=True):
            struct.rings = _rings(ring)
        self.inputs = _Inputs(slopes=_pointer(slopes))
        # The first arguments of the call.
        self.pointers = ctypes.byref(shape), self.blocks, ctypes.byref(self.inputs)

    def fit(self, x: Tensor, rings: list[RingCache]) -> bool:
        """Whether these are the last step's shape and rings, as step after step they are."""
        return x.shape == self.x_shape and [ring() for ring in self.rings] == rings

    def take(self, x: Tensor, angles: tuple[Tensor, ...]) -> None:
        """Point to a step's tokens and its angles."""
        if x is self.x and not angles and not self.angles:
            return
        self.x, self.angles, inputs = x, angles, self.inputs
        inputs.x, self.shape.rope_rows = x.data_ptr(), 0
        if angles:
            inputs.cos, inputs.sin = map(_pointer, angles)
            self.shape.rope_rows = angles[0].shape[:-1].numel() // x.shape[1]


class NativeBlocks(FrozenBlocks):
    """Frozen blocks as the kernels read them: all of a step's blocks are one call.

    Args:
        blocks: Float32 weights on the CPU; copied.
        shape: Of the blocks.
        alibi_slopes: (H,), or None.
    """

    def __init__(
        self, blocks: list[BlockWeights], shape: BlockShape, *, alibi_slopes: Tensor | None = None
    ) -> None:
        self.shape = shape
        self.slopes = _base_two(alibi_slopes)
        weight = blocks[0].query.weight
        if weight.dtype != torch.float32 or weight.device.type != "cpu":
            raise ValueError(
                f"blocks are {weight.dtype} on {weight.device}; the C++ kernels compute in float32 "
                "on CPUs"
            )
        self.width, self.mlp_width = weight.shape[1], len(blocks[0].mlp_in.bias)
        self.packed = [_pack_block(block, shape.scale * LOG2_E) for block in blocks]
        self.structs = (_Block * len(blocks))()
        for struct, block in zip(self.structs, self.packed, strict=True):
            for name, affine in zip(BlockWeights._fields, block, strict=True):
                if affine is not None:
                    setattr(struct, name, _Affine(*map(_pointer, affine)))
        self.holds_tokens = blocks[0].key_value is None
        self._known: BlockArguments | None = None

    def make_rings(self, batch_size: int, capacity: int) -> list[RingCache]:
        """See `FrozenBlocks.make_rings`."""
        return [
            RingCache(
                batch_size, capacity, self.shape.num_kv_heads, self.shape.dim, order="column",
                shared=self.holds_tokens,
            )
            for _ in self.packed
        ]  # fmt: skip

    def decode(
        self, x: Tensor, rings: list[RingCache], *, rope: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """See `FrozenBlocks.decode`."""
        if x.dtype != torch.float32 or x.device.type != "cpu":
            raise ValueError(f"x is {x.dtype} on {x.device}; it must be float32 on a CPU")
        if x.ndim != 3 or x.shape[2] != self.width or 0 in x.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}; it must be (B, T, {self.width})")
        checks.check_no_grad(x=x)
        behind = -self.width % BORDER
        out = (F.pad(x, (0, behind)) if behind else x).clone(memory_format=torch.contiguous_format)
        arguments = self.arguments(out, rings, rope)
        library().fastad_decode_blocks(*arguments.pointers, torch.get_num_threads())
        for ring in rings:
            ring.advance(x.shape[1])
        return out[..., : self.width] if behind else out

    def arguments(
        self, x: Tensor, rings: list[RingCache], rope: tuple[Tensor, Tensor] | None
    ) -> BlockArguments:
        """Check what the kernels will trust, and lay it out as they read it.

        Args:
            x: Memory of the new tokens, (B, T, width rounded up), contiguous; C sees its address.
            rings: See `decode`.
            rope: See `decode`.
        """
        angles: tuple[Tensor, ...] = ()
        if rope is not None:
            heads, _, dim = self.shape[:3]
            checks.check_rope(x[:, :, :1, None].expand(*x.shape[:2], heads, dim), rope)
            if self.holds_tokens:
                raise ValueError("rope is given, but rotated keys cannot be kept as tokens")
            angles = tuple(y.float().contiguous() for y in rope)
        known = self._known
        if known is None or not known.fit(x, rings):
            self._check_rings(x, rings)
            shape = self._shape(*x.shape[:2])
            known = BlockArguments(rings, x.shape, shape, self.structs, self.slopes)
            self._known = known
        known.take(x, angles)
        return known

    def _shape(self, num_envs: int, num_new: int) -> _Shape:
        return _Shape(
            num_envs=num_envs, num_new=num_new, width=self.width, mlp_width=self.mlp_width,
            num_blocks=len(self.packed), num_heads=self.shape.num_heads,
            num_kv_heads=self.shape.num_kv_heads, dim=self.shape.dim, window=self.shape.window,
            pre_norm=self.shape.pre_norm, epsilon=self.shape.epsilon,
        )  # fmt: skip

    def _check_rings(self, x: Tensor, rings: list[RingCache]) -> None:
        if len(rings) != len(self.packed):
            raise ValueError(f"{len(rings)} rings are given; there are {len(self.packed)} blocks")
        batch, num_new, _ = x.shape
        heads, kv_heads, dim = self.shape[:3]
        # As one layer's queries and keys: no memory is taken, shapes alone are looked at.
        q, k = (x[:, :, :1, None].expand(batch, num_new, n, dim) for n in (heads, kv_heads))
        for ring in rings:
            checks.check_ring(q, k, k, ring, self.shape.window)
            check_ring(ring)
            if ring.shared != self.holds_tokens:
                raise ValueError(
                    f"shared={ring.shared} must be {self.holds_tokens}; make_rings makes such rings"
                )


def check_ring(cache: RingCache) -> None:
    """The kernels read float32 columns of whole vectors."""
    if not reads(cache):
        raise ValueError(
            f"impl='native' needs a float32 ring of order='column'; this one is "
            f"{cache.keys.dtype} with strides {cache.keys.stride()}"
        )


def reads(cache: RingCache) -> bool:
    """Whether the kernels read a ring as it lies in memory."""
    columns = all(x.permute(0, 2, 3, 1).is_contiguous() for x in (cache.keys, cache.values))
    return columns and cache.keys.dtype == torch.float32 and cache.capacity % BORDER == 0


def _pack_block(block: BlockWeights, scale: float) -> list[Affine | None]:
    """Norms as they are, matrices as the kernels read them, the scale within the queries."""
    query = Affine(block.query.weight * scale, block.query.bias * scale)
    return [None if affine is None else pack(affine) for affine in block._replace(query=query)]


def pack(affine: Affine) -> Affine:
    """A matrix (out, in) in panels, with a bias of whole vectors; a norm's vectors copied."""
    weight, bias = (x.detach().float().contiguous() for x in affine)
    if weight.ndim == 1:
        return Affine(weight.clone(), bias.clone())
    bias = F.pad(bias, (0, -len(bias) % BORDER))
    packed = torch.empty(weight.shape[1], len(bias), dtype=weight.dtype, device=weight.device)
    library().fastad_pack_panels(
        (c_int64 * 2)(*weight.shape), weight.data_ptr(), packed.data_ptr(), 1
    )
    return Affine(packed, bias)


def _base_two(slopes: Tensor | None) -> Tensor | None:
    """ALiBi's slopes for scores whose softmax is to base 2."""
    return None if slopes is None else (slopes.double() * LOG2_E).float()


def _rings(cache: RingCache) -> _Rings:
    return _Rings(*map(_pointer, (cache.keys, cache.values, cache.lengths)), cache.capacity)


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()
