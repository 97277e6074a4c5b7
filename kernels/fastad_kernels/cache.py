"""The ring-buffer KV cache of one attention layer."""

from typing import Literal

import torch
from torch import Tensor

from fastad_kernels.quantization import dequantize, quantize

Order = Literal["token", "head", "column"]

# Of keys and of values: their dimensions from the outermost to the innermost, None as they are.
# "head" is as the products of `sdpa.decode_attention` read them, keys as columns, values as rows.
_MEMORY_ORDERS: dict[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]] = {
    "token": (None, None),
    "head": ((0, 2, 3, 1), (0, 2, 1, 3)),
    "column": ((0, 2, 3, 1), (0, 2, 3, 1)),
}

COLUMN_MULTIPLE = 16  # float32 numbers in the widest registers of a CPU

STORAGE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8)


class RingCache:
    """Keys and values of the last `C` tokens of `B` environments; nothing is ever rolled.

    The token at position p lives in slot p mod C until position p + C overwrites it. Attention
    does not depend on the order of its keys, so this is lossless. Environments may be of
    different lengths, and one may be cleared while the others go on.

    Attributes:
        keys: (B, C, Hkv, D). Unwritten slots hold anything, NaN included.
        values: (B, C, Hkv, D).
        key_scales: (B, C, Hkv) fp32 for int8 storage (see `quantization`), else None.
        value_scales: As `key_scales`.
        lengths: (B,) int64, tokens ever appended since the last reset; also the next position.
        lockstep: The common length where it is known on the host without asking the device;
            None once some environments alone were reset or taken back, or after `untrack`.

    Args:
        batch_size: `B`.
        capacity: `C`, at least window + T - 1 for appends of T tokens; order "column" rounds it up
            to whole vectors of `COLUMN_MULTIPLE` slots.
        num_kv_heads: `Hkv`.
        head_dim: `D`.
        dtype: Of the storage; int8 keeps one fp32 scale per token and head beside the codes.
        device: Of the storage.
        order: Of the memory; shapes are the same. "token" keeps a token's heads together, as the
            Triton kernel reads them, "head" a head's tokens, as a CPU's matrix products read
            fastest, "column" a feature's tokens, as the C++ kernels read them. By default "head"
            on CPUs and "token" elsewhere.
        shared: Whether the values are the keys: then they are stored once, and whoever appends
            gives the same tensor for both.

    Raises:
        ValueError: If a size is below 1 or the dtype or order is unknown.
    """

    def __init__(
        self,
        batch_size: int,
        capacity: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        order: Order | None = None,
        shared: bool = False,
    ) -> None:
        if order == "column":
            capacity = -(-capacity // COLUMN_MULTIPLE) * COLUMN_MULTIPLE
        shape = (batch_size, capacity, num_kv_heads, head_dim)
        names = ("batch_size", "capacity", "num_kv_heads", "head_dim")
        for name, value in zip(names, shape, strict=True):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if dtype not in STORAGE_DTYPES:
            raise ValueError(f"dtype={dtype} must be one of {', '.join(map(str, STORAGE_DTYPES))}")
        if order is None:
            order = "head" if torch.device(device).type == "cpu" else "token"
        if order not in _MEMORY_ORDERS:
            raise ValueError(f"order={order!r} must be one of {', '.join(_MEMORY_ORDERS)} or None")
        if shared and dtype == torch.int8:
            raise ValueError("shared=True keeps no int8 codes; take a floating dtype")
        keys, values = _MEMORY_ORDERS[order]
        self._keys = _storage(shape, dtype, device, keys)
        self._values = self._keys if shared else _storage(shape, dtype, device, values)
        self.key_scales: Tensor | None = None
        self.value_scales: Tensor | None = None
        if dtype == torch.int8:
            self.key_scales, self.value_scales = (
                _storage(shape[:3], torch.float32, device, None if order == "token" else (0, 2, 1))
                for _ in range(2)
            )
        self._lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.lockstep: int | None = 0
        self._is_tracked = True

    # These are never others, so that who knows where they lie need not look again.

    @property
    def keys(self) -> Tensor:
        """See `RingCache`."""
        return self._keys

    @property
    def values(self) -> Tensor:
        """See `RingCache`."""
        return self._values

    @property
    def lengths(self) -> Tensor:
        """See `RingCache`."""
        return self._lengths

    @property
    def shared(self) -> bool:
        """Whether the values are the keys."""
        return self.values is self.keys

    @property
    def capacity(self) -> int:
        """`C`, the slots of each environment."""
        return self.keys.shape[1]

    def reset(self, mask: Tensor | None = None) -> None:
        """Forget the context of the environments in `mask`, (B,) bool; of all if None."""
        if mask is not None and mask.device.type == "cpu" and self._is_tracked:
            # Asking costs nothing here, and lockstep is worth keeping.
            if not mask.any():
                return
            mask = None if mask.all() else mask
        if mask is None:
            self.lengths.zero_()
            self.lockstep = 0 if self._is_tracked else None
        else:
            self.lengths.masked_fill_(mask, 0)
            self.lockstep = None

    def take_back(self, mask: Tensor, lengths: Tensor) -> None:
        """Make the environments in `mask`, (B,) bool, as long as they were before the last append.

        Nothing else is undone. What that append overwrote was out of every window already, and the
        next one writes to the same slots.

        Args:
            mask: Whose.
            lengths: (B,) int64, `lengths` as they were then.
        """
        torch.where(mask, lengths, self.lengths, out=self.lengths)
        self.lockstep = None

    def untrack(self) -> None:
        """Know lengths on the device alone: every step then performs the same operations."""
        self._is_tracked, self.lockstep = False, None

    def append(self, k: Tensor, v: Tensor) -> None:
        """Write new tokens k, v (B, T, Hkv, D) at `lengths`, which advances by T."""
        num_new = k.shape[1]
        pairs = self._encode(k, v)
        if self.lockstep is not None:
            # One slice (two where it wraps) is several times quicker than scattered writes.
            start = self.lockstep % self.capacity
            before_wrap = min(num_new, self.capacity - start)
            for ring, new in pairs:
                ring[:, start : start + before_wrap] = new[:, :before_wrap]
                if before_wrap < num_new:
                    ring[:, : num_new - before_wrap] = new[:, before_wrap:]
            self.lockstep += num_new
        else:
            rows = torch.arange(k.shape[0], device=k.device)[:, None]
            slots = self.new_positions(num_new) % self.capacity
            for ring, new in pairs:
                ring[rows, slots] = new.to(ring.dtype)
        self._lengths += num_new

    def _encode(self, k: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each storage tensor with what is to be written into it."""
        if self.key_scales is None or self.value_scales is None:
            return [(self.keys, k)] if self.shared else [(self.keys, k), (self.values, v)]
        (key_codes, key_scales), (value_codes, value_scales) = quantize(k), quantize(v)
        return [
            (self.keys, key_codes),
            (self.values, value_codes),
            (self.key_scales, key_scales),
            (self.value_scales, value_scales),
        ]

    def advance(self, num_new: int) -> None:
        """Note on the host that a kernel has appended `num_new` tokens and moved `lengths`."""
        if self.lengths.is_cuda and torch.cuda.is_current_stream_capturing():
            self.lockstep = None  # a captured step moves `lengths` whenever it is replayed
        elif self.lockstep is not None:
            self.lockstep += num_new

    def read(self, num_slots: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `num_slots` slots, (B, num_slots, Hkv, D) in `dtype`.

        Views of the storage where that is `dtype` already.
        """
        keys, values = self.keys[:, :num_slots], self.values[:, :num_slots]
        if self.key_scales is None or self.value_scales is None:
            return keys.to(dtype), values.to(dtype)
        return (
            dequantize(keys, self.key_scales[:, :num_slots], dtype),
            dequantize(values, self.value_scales[:, :num_slots], dtype),
        )

    def new_positions(self, num_new: int) -> Tensor:
        """Positions (B, T) that the next `num_new` tokens will have."""
        return self.lengths[:, None] + torch.arange(num_new, device=self.lengths.device)

    def slot_positions(self) -> Tensor:
        """Position of the token in each slot, (B, C) int64; negative where none was written."""
        lengths = self.lengths if self.lockstep is None else self.lengths[:1]
        last = lengths[:, None] - 1
        slots = torch.arange(self.capacity, device=lengths.device)
        return (last - (last - slots) % self.capacity).expand(len(self.lengths), -1)


def _storage(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device | str,
    order: tuple[int, ...] | None,
) -> Tensor:
    """Zeros whose dimensions lie in memory in the given order, or in their own."""
    if order is None:
        return torch.zeros(shape, dtype=dtype, device=device)
    stored = torch.zeros([shape[dim] for dim in order], dtype=dtype, device=device)
    return stored.permute([order.index(dim) for dim in range(len(order))])
