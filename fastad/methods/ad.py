"""Algorithm Distillation (Laskin et al. 2022): predict what the source did, over its histories."""

from typing import Literal

from gymnasium import spaces
from torch import Tensor

from fastad.actions import distribution_over
from fastad.methods.base import Batch
from fastad.methods.windows import SHOWN, WindowSampler, check_columns
from fastad.model.config import ModelConfig
from fastad.model.heads import Output
from fastad.model.sequence_model import SequenceModel

Target = Literal["policy", "sampled"]
# Stored distributions that a target is learned from; the action taken is always at hand.
POLICIES: dict[Target, tuple[str, ...]] = {"policy": ("policy",), "sampled": ()}


class AlgorithmDistillation:
    """Imitates the source at every step of windows of its histories.

    Args:
        windows: Of train tasks' histories.
        target: "policy": the source's action distribution, by Kullback-Leibler divergence, whose
            gradient is the cross-entropy's. "sampled": the action taken, by its negative
            log-likelihood (Laskin et al. 2022, eq. 2).

    Raises:
        UserError: If the histories lack what the target is learned from.
    """

    follows_weights = False

    def __init__(self, windows: WindowSampler, target: Target = "policy") -> None:
        self.windows, self.target = windows, target
        self.needs = SHOWN | frozenset(POLICIES[target])
        check_columns(
            windows.dataset, self.needs, wanted_by=f"target={target}", fix="use --target sampled"
        )
        self.actions = distribution_over(windows.dataset.info.action_space)

    def build_model(self, config: ModelConfig) -> SequenceModel:
        """A fresh model for the spaces of the histories, with rewards at the size of one."""
        info = self.windows.dataset.info
        assert isinstance(info.action_space, spaces.Discrete)
        return SequenceModel(
            config,
            info.observation_space,
            info.action_space,
            info.episode_length,
            reward_shift=self.windows.reward_mean,
            reward_scale=self.windows.reward_std,
        )

    def batch(self, step: int) -> Batch:
        """See `Method.batch`; independent of the weights."""
        return self.windows.batch(step, POLICIES[self.target])

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over every step of every window."""
        params = output.policy.float()
        if self.target == "policy":
            loss = self.actions.divergence(batch.targets["policy"], params)
        else:
            loss = -self.actions.log_prob(params, batch.targets["action"])
        return loss.mean(), {}
