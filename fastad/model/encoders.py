"""The first slot of the model: from environment steps to tokens."""

import torch
from torch import Tensor, nn

from fastad.acting.steps import Steps
from fastad.actions import ActionDistribution
from fastad.model.config import ModelConfig
from fastad.model.kernels import Implementation, StepTables
from fastad.model.observations import CoordinateEncoder, ObservationEncoder
from fastad.model.previous_actions import ChoiceEncoder, action_encoder
from fastad.model.queries import as_queries
from fastad.model.share import Share
from fastad.model.terms import Rows, add_up


class StepEncoder(nn.Module):
    """Tokens of environment steps, in any layout.

    fused: the sum of everything known when acting is one token. interleaved: previous action,
    previous reward, observation, in this order, so that a step is always three tokens and the
    last of them predicts the action. unordered: see `as_queries`.

    Args:
        config: Of the model.
        observation: Encodes observations.
        actions: What previous actions are.
        episode_length: Longest episode; later steps share the last step's embedding.
        reward_scale: Rewards are divided by it, so that they enter at the size of one.
        return_scale: Returns to go are divided by it; None: the model reads none.
    """

    none: Tensor
    share: Share | None = None  # of the batch

    def __init__(
        self,
        config: ModelConfig,
        observation: ObservationEncoder,
        actions: ActionDistribution,
        episode_length: int,
        reward_shift: float,
        reward_scale: float,
        return_scale: float | None = None,
    ) -> None:
        super().__init__()
        width = config.width
        self.unordered = config.layout == "unordered"
        self.token_mask = config.token_mask
        self.reward_shift, self.reward_scale = reward_shift, reward_scale
        self.last_step = episode_length - 1
        self.actions = actions
        self.register_buffer("none", actions.none, persistent=False)
        self.observation = observation
        self.action = action_encoder(actions, width)
        # A reward means something different after each action: bandits need their product.
        self.reward = action_encoder(actions, width)
        self.start = nn.Embedding(2, width)
        self.step = nn.Embedding(episode_length, width) if config.episode_step else None
        self.kind = nn.Embedding(3, width) if config.layout == "interleaved" else None
        self.place = nn.Embedding(config.context, width) if config.positions == "learned" else None
        self.return_scale = return_scale
        self.return_to_go = None if return_scale is None else nn.Embedding(1, width)
        # Of modules PyTorch makes every look at one a search.
        self._has_choices = isinstance(self.action, ChoiceEncoder)
        self._has_coordinates = self._in_tables() is not None

    def observe(self, steps: Steps, impl: Implementation = "sdpa") -> Tensor:
        """Features (B, T, width) of the observations of steps that are `laid_out`."""
        out: Tensor = self.observation(steps.observation, impl)
        return out

    def forward(
        self,
        steps: Steps,
        features: Tensor | None,
        positions: Tensor | None = None,
        *,
        impl: Implementation = "sdpa",
    ) -> Tensor:
        """Embed B sequences of T steps.

        Args:
            steps: (B, T), `laid_out`.
            features: Of their observations, see `observe`; None where nobody else needs them.
            positions: Of the tokens, (T * tokens_per_step,) or (B, T * tokens_per_step); for
                learned positions alone.
            impl: What sums up rows of tables; products of the encoder are PyTorch's in training.

        Returns:
            (B, T * tokens_per_step, width).
        """
        action, reward = self._done(steps)
        start = Rows.one(self.start.weight, steps.episode_start)
        state = [*self._told(steps, features), start]
        if self.step is not None:
            step = steps.episode_step.clamp(max=self.last_step)
            state.append(Rows.one(self.step.weight, step))
        if self.kind is None:
            tokens = add_up([action, reward, *state], impl)
        else:
            of_kinds = [add_up(terms, impl) for terms in ([action], [reward], state)]
            tokens = (torch.stack(of_kinds, dim=2) + self.kind.weight).flatten(1, 2)
        if self.training and self.token_mask > 0.0:
            keep = self._random(tokens.shape[:2], tokens.device) >= self.token_mask
            tokens = tokens * keep.unsqueeze(-1)
        if self.place is not None:
            assert positions is not None
            tokens = tokens + self.place(positions)
        return tokens

    def _random(self, shape: torch.Size, device: torch.device) -> Tensor:
        """Uniform numbers (B, tokens)."""
        if self.share is None:
            return torch.rand(shape, device=device)
        return self.share.of(lambda whole: torch.rand(whole, device=device), shape)

    def laid_out(self, steps: Steps) -> Steps:
        """What one token stands for, or three interleaved ones: steps (B, T), or (B, 2 T)."""
        return as_queries(steps, self.actions, self.none) if self.unordered else steps

    def _done(
        self, steps: Steps, impl: Implementation = "sdpa"
    ) -> tuple[Rows | Tensor, Rows | Tensor]:
        """Previous actions, and the rewards that they gave."""
        none = self.actions.is_none(steps.previous_action)
        reward = (steps.previous_reward - self.reward_shift) / self.reward_scale
        reward = reward.masked_fill(none, 0.0)
        return (
            self.action.term(steps.previous_action, None, impl),
            self.reward.term(steps.previous_action, reward, impl),
        )

    @property
    def can_be_frozen(self) -> bool:
        """Whether a frozen model's tables, and features beside them, say all of a step.

        Actions without rows are features, which belong to one token of a step: the only one.
        """
        return self._has_choices or self.kind is None

    def _in_tables(self) -> CoordinateEncoder | None:
        """Whose rows a frozen model sums up by itself; None: it is given features."""
        encoder = self.observation
        has_rows = self._has_choices and self.return_to_go is None
        return encoder if has_rows and isinstance(encoder, CoordinateEncoder) else None

    def _told(self, steps: Steps, features: Tensor | None) -> list[Rows | Tensor]:
        """Observations, their features (B, T, width) if they are known, and returns to go.

        A number times a vector, as rewards: element by element, so that no sequence's bits depend
        on another.
        """
        told: list[Rows | Tensor] = []
        if features is not None:
            told.append(features)
        elif isinstance(self.observation, CoordinateEncoder):
            told.append(self.observation.term(steps.observation))
        else:
            told.append(self.observe(steps))
        if self.return_to_go is not None:
            assert steps.return_to_go is not None
            assert self.return_scale is not None
            share = (steps.return_to_go / self.return_scale).unsqueeze(-1)
            told.append(share * self.return_to_go.weight[0])
        return told

    def beside_tables(self, steps: Steps) -> Tensor:
        """What a frozen model is given of steps (B, T) beside its tables' fields.

        Coordinates, or features where a table has no rows for what is observed or done.
        """
        if self._has_coordinates:
            coordinates = steps.observation
            return coordinates if coordinates.dtype == torch.int64 else coordinates.long()
        # Sums of rows have the same bits in every batch by themselves, and these are few.
        told = add_up(self._told(steps, self.observe(steps, "native")), "sdpa")
        if self._has_choices:
            return told
        action, reward = (add_up([term], "sdpa") for term in self._done(steps, "native"))
        return told + action + reward

    def rows(self, steps: Steps) -> Tensor:
        """The rows of previous actions in a frozen model's tables, (B, T) int64."""
        if self._has_choices:
            return steps.previous_action
        return torch.zeros_like(steps.episode_step)

    def offsets(self) -> Tensor | None:
        """What a frozen model adds to coordinates, (coordinates,); None where it has features."""
        coordinates = self._in_tables()
        return None if coordinates is None else coordinates.offsets

    def tables(self) -> StepTables:
        """What a frozen model sums its steps from; see `beside_tables` for the rest."""
        coordinates = self._in_tables()
        optional = (self.step, self.kind, self.place)
        step, kind, place = (None if x is None else x.weight.detach() for x in optional)
        start = self.start.weight.detach()
        if isinstance(self.action, ChoiceEncoder) and isinstance(self.reward, ChoiceEncoder):
            action, reward = self.action.weight.detach(), self.reward.weight.detach()
        else:  # they are features, beside the tables
            action = reward = torch.zeros_like(start[:1])
        observation = None if coordinates is None else coordinates.table.weight.detach()
        return StepTables(action, reward, observation, start, step, kind, place)
