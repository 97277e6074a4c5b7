"""The model: reads environment steps and predicts the next action, by slots that can be swapped.

steps -> encoder -> tokens -> trunk -> features -> heads -> output

"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from fastad.acting.steps import Steps
from fastad.actions import distribution_over
from fastad.base.errors import UserError
from fastad.envs.family import TaskFamily
from fastad.model.config import ModelConfig
from fastad.model.encoders import StepEncoder
from fastad.model.frozen import FrozenStep
from fastad.model.gru import GRU
from fastad.model.heads import Heads, Output
from fastad.model.kernels import Implementation, freeze_model
from fastad.model.memory import CachedMemory, Memory, RecomputedMemory, RecurrentMemory
from fastad.model.observations import ObservationEncoder, Scale, ShownEncoder, observation_encoder
from fastad.model.transformer import Transformer


class SequenceModel(nn.Module):
    """Predicts, at every step of a learning history, what to do next.

    Args:
        config: Sizes and schemes.
        observation_space: Of one environment.
        action_space: Discrete, MultiDiscrete or a Box of vectors.
        episode_length: Longest episode.
        squash: Whether actions in a box are squashed to it, see `DiagonalGaussian`.
        family: Of the environments, where what they show is not what is stored, see
            `TaskFamily.show`, or where something auxiliary is predicted.
        auxiliary: Whether the encoder is taught what `TaskFamily.auxiliary` names; it is for
            training only.
        reward_shift: Subtracted from rewards before they are embedded.
        reward_scale: Divides them then.
        value: Whether values are predicted, too.
        return_scale: Returns to go are divided by it; None: the model reads none.
    """

    def __init__(
        self,
        config: ModelConfig,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        episode_length: int,
        *,
        squash: bool = False,
        family: TaskFamily | None = None,
        auxiliary: bool = False,
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
        self.actions = distribution_over(action_space, squash=squash)
        self.squash, self.family = squash, family
        self.kernels: Implementation = "auto"  # a choice of the machine, not of the model
        self.window = config.context  # `W`; `seeing` changes it for a while
        # In this order, which decides the weights that a seed draws.
        self.encoder = StepEncoder(
            config, _observation_encoder(observation_space, config.width, family), self.actions,
            episode_length, reward_shift, reward_scale, return_scale,
        )  # fmt: skip
        self.trunk: GRU | Transformer = (
            GRU(config) if config.trunk == "gru" else Transformer(config)
        )
        self.heads = Heads(config, self.actions.num_params, value=value)
        self.auxiliary = nn.ModuleDict(
            {
                name: nn.Linear(config.width, codes)
                for name, codes in _auxiliary(family if auxiliary else None).items()
            }
        )
        self.apply(_initialise)

    def forward(self, steps: Steps, memory: CachedMemory | RecurrentMemory | None = None) -> Output:
        """Predict for whole sequences, or for the next steps of remembered ones.

        Args:
            steps: (B, T).
            memory: If given, the steps follow what it holds and are appended to it; contexts begin
                with it then, and not within the steps.

        Returns:
            Predictions at step t see steps up to t.

        Raises:
            UserError: If learned positions run out: they cannot slide.
        """
        if isinstance(memory, CachedMemory) and memory.frozen is not None:
            return memory.frozen(steps, memory)
        bounds = self._bounds(steps.context_start)
        assert bounds is None or memory is None
        if isinstance(self.trunk, GRU):
            assert not isinstance(memory, CachedMemory)
            state = None if memory is None else memory.state
            steps, features = self._observe(steps)
            tokens = self.encoder(steps, features, impl="sdpa")
            carried = self.trunk(tokens, state, bounds)
            return self._predict(carried, features)
        assert not isinstance(memory, RecurrentMemory)
        positions = None
        if self.config.are_tokens_placed:
            positions = self._positions(steps, memory)
        steps, features = self._observe(steps)
        tokens = self.encoder(steps, features, positions, impl=self.kernels)
        rings = None if memory is None else memory.rings
        attended = self.trunk(
            tokens, positions, rings, window=self.window, bounds=bounds, impl=self.kernels
        )
        return self._predict(attended, features)

    def _observe(self, steps: Steps) -> tuple[Steps, Tensor | None]:
        """Steps as they are laid out, and what `_predict` wants of their observations."""
        steps = self.encoder.laid_out(steps)
        are_wanted = self.training and len(self.auxiliary) > 0
        return steps, self.encoder.observe(steps) if are_wanted else None

    def _predict(self, tokens: Tensor, features: Tensor | None) -> Output:
        """From what the trunk made of all tokens, (B, T * tokens_per_step, width), to predictions.

        What is auxiliary is predicted from features of the observations alone, (B, T, width).
        """
        # The last token of each step, the observation, is the one that predicts.
        per_step = self.config.tokens_per_step
        impl = "sdpa" if isinstance(self.trunk, GRU) else self.kernels
        output: Output = self.heads(tokens[:, per_step - 1 :: per_step], impl=impl)
        if features is None:
            return output
        active = F.gelu(features)
        taught = {name: head(active) for name, head in self.auxiliary.items()}
        return output._replace(auxiliary=taught)

    def _positions(self, steps: Steps, memory: CachedMemory | None) -> Tensor:
        """Of the tokens of steps (B, T), (tokens,) or (B, tokens), if there are places for them."""
        num_tokens = steps.previous_action.shape[1] * self.config.tokens_per_step
        if self.config.positions == "learned":
            self.check_length(num_tokens if memory is None else memory.longest() + num_tokens)
        if memory is not None:
            return memory.positions(num_tokens)
        places = torch.arange(num_tokens, device=steps.previous_action.device)
        if steps.context_start is None:
            return places
        starts = steps.context_start.repeat_interleave(self.config.tokens_per_step, dim=1)
        step = places // self.config.tokens_per_step * self.config.tokens_per_step
        return places - (step * starts).cummax(dim=1).values

    def _bounds(self, starts: Tensor | None) -> Tensor | None:
        """Of contexts that begin where a mask (B, T) says, and at every row; see `Band`."""
        if starts is None:
            return None
        first = torch.cat([torch.ones_like(starts[:, :1]), starts[:, 1:]], dim=1).flatten()
        bounds = F.pad(first.nonzero().squeeze(1), (0, 1), value=first.numel())
        return (bounds * self.config.tokens_per_step).to(torch.int32)

    def checkpoint_activations(self) -> None:
        """Let training compute activations again instead of keeping them; see `Transformer`.

        Raises:
            UserError: For a GRU.
        """
        if isinstance(self.trunk, GRU):
            raise UserError(
                "activation_checkpointing=True is for blocks of a transformer, and a GRU has none; "
                "leave it out, or use trunk=transformer"
            )
        self.trunk.activation_checkpointing = True

    def fit(self, sample: Callable[[], Tensor]) -> None:
        """Learn the size of observations, where the encoder scales any; before anything else.

        Args:
            sample: Gives some, (n, ...), if asked.
        """
        if any(isinstance(module, Scale) for module in self.encoder.modules()):
            self.encoder.observation.fit(sample())

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
        return CachedMemory(rings, frozen or forward, frozen=frozen)

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
        if isinstance(self.trunk, GRU) or not self.encoder.can_be_frozen:
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
        return FrozenStep(self.config, kernel, self.encoder, self._positions)

    def check_length(self, num_tokens: int) -> None:
        """Refuse sequences of more tokens than learned positions have places for."""
        if self.config.positions == "learned" and num_tokens > self.config.context:
            raise UserError(
                f"positions=learned has context={self.config.context} places and cannot slide, "
                f"but {num_tokens} tokens were asked for; use rope, alibi or none, or fewer steps"
            )


def _observation_encoder(
    space: spaces.Space[Any], width: int, family: TaskFamily | None
) -> ObservationEncoder:
    """Of observations as they are, or as the family shows them."""
    shown = None if family is None else family.spec().shown_space
    if shown is None:
        return observation_encoder(space, width)
    assert family is not None
    return ShownEncoder(family.show, observation_encoder(shown, width))


def _auxiliary(family: TaskFamily | None) -> Mapping[str, int]:
    """What is predicted besides, and by how many codes."""
    return {} if family is None else family.auxiliary() or {}


def _initialise(module: nn.Module) -> None:
    """Embeddings at 0.2, projections at half the variance-preserving size, biases at 0."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.2)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.5 / math.sqrt(module.in_features))
        nn.init.zeros_(module.bias)
