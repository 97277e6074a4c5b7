"""The KV cache of a whole model: one ring per layer."""

import torch
from torch import Tensor

from fastad.model.config import ModelConfig
from fastad.model.kernels import FrozenModel, Implementation, RingCache, make_ring


class ModelCache(list[RingCache]):
    """Rings of all layers, which always hold the same positions.

    Args:
        config: Of the model.
        batch_size: `N`, environments.
        prompt_steps: Steps appended at once, at most; the capacity is the context plus the tokens
            of so many steps, less one.
        dtype: Of the storage.
        device: Of the storage.
        kernels: The implementation that will read it, which decides the order in memory.
        frozen: If given, this decodes whole steps in one call, from rings of its own kind.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        *,
        prompt_steps: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        kernels: Implementation = "auto",
        frozen: FrozenModel | None = None,
    ) -> None:
        self.frozen = frozen
        capacity = config.context + prompt_steps * config.tokens_per_step - 1
        if frozen is not None:
            assert dtype == torch.float32
            assert torch.device(device).type == "cpu"
            super().__init__(frozen.make_rings(batch_size, capacity))
            return
        super().__init__(
            make_ring(
                kernels,
                batch_size,
                capacity,
                config.kv_heads,
                config.head_dim,
                dtype=dtype,
                device=device,
            )
            for _ in range(config.num_layers)
        )

    def positions(self, num_new: int) -> Tensor:
        """Positions (N, T) that the next `num_new` tokens will have."""
        return self[0].new_positions(num_new)

    def longest(self) -> int:
        """Tokens of the longest context since its last reset."""
        lockstep = self[0].lockstep
        return int(self[0].lengths.max()) if lockstep is None else lockstep

    def untrack(self) -> None:
        """See `RingCache.untrack`."""
        for ring in self:
            ring.untrack()

    def forget(self, mask: Tensor | None = None) -> None:
        """Clear the context of the environments in `mask`, (N,) bool; of all if None."""
        for ring in self:
            ring.reset(mask)
