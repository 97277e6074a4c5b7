"""A cached step of the whole model by one kernel, for as long as no weight changes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fastad.acting.steps import Steps
from fastad.model.config import ModelConfig
from fastad.model.encoders import StepEncoder
from fastad.model.heads import Output
from fastad.model.kernels import FrozenModel, Sample, rope_angles

if TYPE_CHECKING:
    from fastad.model.memory import CachedMemory


class FrozenStep:
    """As the model's `forward` on rings, by kernels that compute every row by itself.

    An environment's logits do not depend on who rolls out beside it, to the last bit, where
    PyTorch's products do.

    Args:
        config: Of the model.
        kernel: Of its weights.
        encoder: Of the model.
        positions: Gives those of the next tokens after what is remembered, if there are places
            for them.
    """

    def __init__(
        self,
        config: ModelConfig,
        kernel: FrozenModel,
        encoder: StepEncoder,
        positions: Callable[[Steps, "CachedMemory"], Tensor],
    ) -> None:
        self.config, self.encoder, self.positions = config, encoder, positions
        self.kernel, self.make_rings = kernel, kernel.make_rings

    def __call__(self, steps: Steps, memory: "CachedMemory") -> Output:
        """Predict for the next steps (B, T), and append them to the memory's rings."""
        logits = self.kernel.decode(*self._given(steps, memory))
        return Output(logits[:, 1::2] if self.encoder.unordered else logits)

    def sample(self, steps: Steps, memory: "CachedMemory", uniform: Tensor) -> Sample:
        """As a call; and what each environment does by its newest step, see `Memory.sample`."""
        return self.kernel.sample(uniform, *self._given(steps, memory))

    def _given(self, steps: Steps, memory: "CachedMemory") -> tuple[Any, ...]:
        """Steps, the memory's rings and what is to be known of positions, for the kernel."""
        config, positions, rope = self.config, None, None
        if config.are_tokens_placed:
            positions = self.positions(steps, memory)
        if config.positions == "rope":
            assert positions is not None
            rope = rope_angles(positions, config.head_dim, base=config.rope_base)
        encoder = self.encoder
        steps = encoder.laid_out(steps)
        return (
            encoder.beside_tables(steps), encoder.rows(steps), steps.previous_reward,
            steps.episode_start, steps.episode_step, memory.rings, positions, rope,
        )  # fmt: skip
