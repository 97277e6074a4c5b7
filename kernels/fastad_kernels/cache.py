"""The ring-buffer KV cache of one attention layer."""

import torch
from torch import Tensor


class RingCache:
    """Keys and values of the last `C` tokens of `B` environments; nothing is ever rolled.

    The token at position p lives in slot p mod C until position p + C overwrites it. Attention
    does not depend on the order of its keys, so this is lossless. Environments may be of
    different lengths, and one may be cleared while the others go on.

    Attributes:
        keys: (B, C, Hkv, D). Unwritten slots hold anything, NaN included.
        values: (B, C, Hkv, D).
        lengths: (B,) int64, tokens ever appended since the last reset; also the next position.
        lockstep: The common length where it is known on the host without asking the device;
            None once some environments alone were reset.

    Args:
        batch_size: `B`.
        capacity: `C`, at least window + T - 1 for appends of T tokens.
        num_kv_heads: `Hkv`.
        head_dim: `D`.
        dtype: Of the storage.
        device: Of the storage.
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
    ) -> None:
        for name, value in (("batch_size", batch_size), ("capacity", capacity)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        shape = (batch_size, capacity, num_kv_heads, head_dim)
        # Stored as the products of `sdpa.decode_attention` read them fastest: a head's keys as
        # columns, its values as rows. On GPUs a token's row is contiguous over heads, as the
        # decode kernel reads it.
        by_head = torch.device(device).type == "cpu"
        self.keys = _storage(shape, (0, 2, 3, 1) if by_head else (0, 1, 2, 3), dtype, device)
        self.values = _storage(shape, (0, 2, 1, 3) if by_head else (0, 1, 2, 3), dtype, device)
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.lockstep: int | None = 0

    @property
    def capacity(self) -> int:
        """`C`, the slots of each environment."""
        return self.keys.shape[1]

    def reset(self, mask: Tensor | None = None) -> None:
        """Forget the context of the environments in `mask`, (B,) bool; of all if None."""
        if mask is not None and mask.device.type == "cpu":
            # Asking costs nothing here, and lockstep is worth keeping.
            if not mask.any():
                return
            mask = None if mask.all() else mask
        if mask is None:
            self.lengths.zero_()
            self.lockstep = 0
        else:
            self.lengths.masked_fill_(mask, 0)
            self.lockstep = None

    def append(self, k: Tensor, v: Tensor) -> None:
        """Write new tokens k, v (B, T, Hkv, D) at `lengths`, which advances by T."""
        num_new = k.shape[1]
        if self.lockstep is not None:
            # One slice (two where it wraps) is several times quicker than scattered writes.
            start = self.lockstep % self.capacity
            before_wrap = min(num_new, self.capacity - start)
            for ring, new in ((self.keys, k), (self.values, v)):
                ring[:, start : start + before_wrap] = new[:, :before_wrap]
                if before_wrap < num_new:
                    ring[:, : num_new - before_wrap] = new[:, before_wrap:]
            self.lockstep += num_new
        else:
            rows = torch.arange(k.shape[0], device=k.device)[:, None]
            slots = self.new_positions(num_new) % self.capacity
            self.keys[rows, slots] = k.to(self.keys.dtype)
            self.values[rows, slots] = v.to(self.values.dtype)
        self.lengths += num_new

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
    order: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    """Allocate a tensor of this shape whose dimensions lie in memory in the given order."""
    stored = torch.zeros([shape[dim] for dim in order], dtype=dtype, device=device)
    return stored.permute([order.index(dim) for dim in range(len(order))])
