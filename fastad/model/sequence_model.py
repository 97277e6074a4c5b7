"""The model: reads environment steps and predicts the next action, by slots that can be swapped.

steps -> encoder -> tokens -> trunk -> features -> heads -> output

"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from fastad.acting.steps import Steps
from fastad.base.errors import UserError
from fastad.model.config import ModelConfig
from fastad.model.encoders import StepEncoder
from fastad.model.frozen import FrozenStep
from fastad.model.gru import GRU
from fastad.model.heads import Heads, Output
from fastad.model.kernels import Implementation, freeze_model
from fastad.model.memory import CachedMemory, Memory, RecomputedMemory, RecurrentMemory
from fastad.model.transformer import Transformer


class SequenceModel(nn.Module):
    """Predicts, at every step of a learning history, what to do next.

    Args:
        config: Sizes and schemes.
        observation_space: Of one environment.
        action_space: Discrete.
        episode_length: Longest episode.
        reward_shift: Subtracted from rewards before they are embedded.
        reward_scale: Divides them then.
        value: Whether values are predicted, too.
        return_scale: Returns to go are divided by it; None: the model reads none.
    """

    def __init__(
        self,
        config: ModelConfig,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        episode_length: int,
        *,
        reward_shift: float = 0.0,
        reward_scale: float = 1.0,
        value: bool = False,
        return_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.observation_space, self.action_space = observation_space, action_space
        self.episode_length = episode_length
        self.reward_shift, self.reward_scale = reward_shift, reward_scale
        self.return_scale = return_scale
        self.num_actions = int(action_space.n)
        self.kernels: Implementation = "auto"  # a choice of the machine, not of the model
        self.window = config.context  # `W`; `seeing` changes it for a while
        # In this order, which decides the weights that a seed draws.
        self.encoder = StepEncoder(
            config, observation_space, self.num_actions, episode_length, reward_shift,
            reward_scale, return_scale,
        )  # fmt: skip
        self.trunk: GRU | Transformer = (
            GRU(config) if config.trunk == "gru" else Transformer(config)
        )
        self.heads = Heads(config, self.num_actions, value=value)
        self.apply(_initialise)

    def forward(self, steps: Steps, memory: CachedMemory | RecurrentMemory | None = None) -> Output:
        """Predict for whole sequences, or for the next steps of remembered ones.

        Args:
            steps: (B, T).
            memory: If given, the steps follow what it holds and are appended to it.

        Returns:
            Predictions at step t see steps up to t.

        Raises:
            UserError: If learned positions run out: they cannot slide.
        """
        if isinstance(self.trunk, GRU):
            assert not isinstance(memory, CachedMemory)
            state = None if memory is None else memory.state
            return self._predict(self.trunk(self.encoder(steps), state))
        assert not isinstance(memory, RecurrentMemory)
        positions = None
        if self.config.positions in ("rope", "learned"):
            positions = self._positions(steps, memory)
        if memory is not None and memory.frozen is not None:
            return memory.frozen(steps, memory.rings, positions)
        tokens = self.encoder(steps, positions)
        rings = None if memory is None else memory.rings
        return self._predict(
            self.trunk(tokens, positions, rings, window=self.window, impl=self.kernels)
        )

    def _predict(self, features: Tensor) -> Output:
        """From features of all tokens, (B, T * tokens_per_step, width), to predictions."""
        # The last token of each step, the observation, is the one that predicts.
        per_step = self.config.tokens_per_step
        output: Output = self.heads(features[:, per_step - 1 :: per_step])
        return output

    def _positions(self, steps: Steps, memory: CachedMemory | None) -> Tensor:
        """Of the tokens of steps (B, T), (tokens,) or (B, tokens), if there are places for them."""
        num_tokens = steps.previous_action.shape[1] * self.config.tokens_per_step
        if self.config.positions == "learned":
            self.check_length(num_tokens if memory is None else memory.longest() + num_tokens)
        if memory is not None:
            return memory.positions(num_tokens)
        return torch.arange(num_tokens, device=steps.previous_action.device)

    @property
    def receptive_field(self) -> int | None:
        """Tokens that can influence a prediction, through all layers: L * (W - 1) + 1.

        None: all of them, through the state of a GRU.
        """
        if isinstance(self.trunk, GRU):
            return None
        return self.config.num_layers * (self.window - 1) + 1

    @contextmanager
    def seeing(self, window: int | None) -> Iterator[None]:
        """Let queries see another number of tokens within the block than the model is trained with.

        What is made in it, such as a memory, is for use in it.

        Args:
            window: `W`; None leaves it as it is.

        Raises:
            UserError: See `check_window`.
        """
        self.check_window(window)
        before = self.window
        self.window = before if window is None else window
        try:
            yield
        finally:
            self.window = before

    def check_window(self, window: int | None) -> None:
        """Refuse attention windows that the model cannot have; None is its own."""
        config = self.config
        if window is not None and config.trunk == "gru":
            raise UserError(
                f"context={window}: a GRU has no attention window, it carries all that it "
                "remembers in its state; leave --context out"
            )
        if window in (None, config.context):
            return
        if config.positions == "learned":
            raise UserError(
                f"context={window}: positions=learned has context={config.context} places and "
                "cannot slide, so its window cannot be another; leave --context out, or train "
                "with rope, alibi or none"
            )
        if window < config.tokens_per_step:
            raise UserError(
                f"context={window} must hold at least one step; the {config.layout} layout takes "
                f"{config.tokens_per_step} tokens"
            )

    def make_memory(
        self,
        num_envs: int,
        *,
        kv_cache: bool = True,
        prompt_steps: int = 1,
        compile: bool = False,
        untracked: bool = False,
    ) -> Memory:
        """An empty memory of environments, on the model's device; weights must no longer change.

        Args:
            num_envs: `N`.
            kv_cache: Keep keys and values in rings, or the state of a GRU, which `forward` takes,
                too. Else keep the steps that can influence a prediction: a query sees `W` tokens,
                but through L layers L * (W - 1) + 1 of them reach it, and through a GRU all.
            prompt_steps: Steps appended to rings at once, at most.
            compile: Compile PyTorch's step with `torch.compile`, which takes a while at the first
                one, instead of taking the kernels for whole steps where there are any.
            untracked: Keep the rings' lengths on the device alone, so that every step performs the
                same operations on the same memory and can be replayed as a CUDA graph.
        """
        per_step = self.config.tokens_per_step
        if not kv_cache:
            field = self.receptive_field
            return RecomputedMemory(
                self, num_envs, None if field is None else -(-field // per_step)
            )
        # Not the module's own call, which looks for hooks at every step.
        forward = torch.compile(self) if compile else self.forward
        if isinstance(self.trunk, GRU):
            return RecurrentMemory(self.trunk.make_state(num_envs), forward)
        frozen = None if compile else self.freeze()
        capacity = self.window + prompt_steps * per_step - 1
        if frozen is not None:
            rings = frozen.make_rings(num_envs, capacity)
        else:
            rings = self.trunk.make_rings(num_envs, capacity, impl=self.kernels)
        if untracked:
            for ring in rings:
                ring.untrack()
        return CachedMemory(rings, forward, frozen=frozen)

    def matrix_names(self) -> list[str]:
        """Parameters that map tokens to tokens: what an optimiser of matrices, as Muon, is for.

        What leads into the trunk and out of it is not: those rows stand for themselves.
        """
        return [f"trunk.{name}" for name in self.trunk.matrix_names()]

    def freeze(self) -> FrozenStep | None:
        """The cached step as one kernel, for as long as no weight changes.

        None where the model's implementation of attention has no such kernel on this device, and
        for a GRU.
        """
        if isinstance(self.trunk, GRU):
            return None
        blocks, shape = self.trunk.weights(self.window)
        norm, head = self.heads.weights()
        kernel = freeze_model(
            blocks, shape, self.encoder.tables(), norm=norm, head=head,
            offsets=self.encoder.offsets(), reward_shift=self.reward_shift,
            reward_scale=self.reward_scale, scheme=self.config.positions, impl=self.kernels,
        )  # fmt: skip
        if kernel is None:
            return None
        return FrozenStep(self.config, kernel, self.encoder)

    def check_length(self, num_tokens: int) -> None:
        """Refuse sequences of more tokens than learned positions have places for."""
        if self.config.positions == "learned" and num_tokens > self.config.context:
            raise UserError(
                f"positions=learned has context={self.config.context} places and cannot slide, "
                f"but {num_tokens} tokens were asked for; use rope, alibi or none, or fewer steps"
            )


def _initialise(module: nn.Module) -> None:
    """Embeddings at 0.2, projections at half the variance-preserving size, biases at 0."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.2)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.5 / math.sqrt(module.in_features))
        nn.init.zeros_(module.bias)
