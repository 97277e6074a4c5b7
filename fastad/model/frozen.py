"""A cached step of the whole model by one kernel, for as long as no weight changes."""

from torch import Tensor

from fastad.acting.steps import Steps
from fastad.model.config import ModelConfig
from fastad.model.encoders import StepEncoder
from fastad.model.heads import Output
from fastad.model.kernels import FrozenModel, RingCache, rope_angles


class FrozenStep:
    """As the model's `forward` on rings, by kernels that compute every row by itself.

    An environment's logits do not depend on who rolls out beside it, to the last bit, where
    PyTorch's products do.

    Args:
        config: Of the model.
        kernel: Of its weights.
        encoder: Of the model.
    """

    def __init__(self, config: ModelConfig, kernel: FrozenModel, encoder: StepEncoder) -> None:
        self.config, self.encoder = config, encoder
        self.decode, self.make_rings, self.draw = kernel.decode, kernel.make_rings, kernel.draw

    def __call__(self, steps: Steps, rings: list[RingCache], positions: Tensor | None) -> Output:
        """Predict for the next steps (B, T), at `positions`, and append them to the rings."""
        config, rope = self.config, None
        if config.positions == "rope":
            assert positions is not None
            rope = rope_angles(positions, config.head_dim, base=config.rope_base)
        steps = self.encoder.laid_out(steps)
        logits = self.decode(
            self.encoder.beside_tables(steps), self.encoder.rows(steps), steps.previous_reward,
            steps.episode_start, steps.episode_step, rings, positions=positions, rope=rope,
        )  # fmt: skip
        return Output(logits[:, 1::2] if self.encoder.unordered else logits)
