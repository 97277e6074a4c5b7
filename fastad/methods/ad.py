"""Algorithm Distillation (Laskin et al. 2022): predict what the source did, over its histories."""

from typing import Any, Literal, get_args

from torch import Tensor

from fastad.base.errors import unknown
from fastad.methods.base import Batch
from fastad.methods.windows import SHOWN, WindowSampler, check_columns
from fastad.model.config import ModelConfig
from fastad.model.heads import Output
from fastad.model.sequence_model import SequenceModel

Target = Literal["policy", "sampled", "final", "expert"]
# The stored distribution that a target is, and how to have it; the action taken is always at hand.
COLUMNS: dict[Target, tuple[str, str]] = {
    "policy": ("policy", "use --target sampled"),
    "final": ("final_policy", "collect them with --labels final"),
    "expert": ("expert_policy", "collect them with --labels expert"),
}


class AlgorithmDistillation:
    """Imitates the source at every step of windows of its histories.

    Args:
        windows: Of train tasks' histories.
        target: "policy": the source's action distribution, by Kullback-Leibler divergence, whose
            gradient is the cross-entropy's. "sampled": the action taken, by its negative
            log-likelihood (Laskin et al. 2022, eq. 2). "final": as "policy", the distribution that
            the same learner had at the end of its history, at every state that it visited before
            (look-ahead labels). "expert": as "policy", that of an expert who is told the task.

    Raises:
        UserError: If the histories lack what the target is learned from.
    """

    follows_weights = False

    def __init__(self, windows: WindowSampler, target: Target = "policy") -> None:
        self.windows, self.target = windows, target
        if target not in get_args(Target):
            raise unknown("target", target, get_args(Target))
        # The one that is learned from, if any is.
        self.column: str | None
        self.column, fix = COLUMNS.get(target, (None, ""))
        self.needs = SHOWN if self.column is None else SHOWN | {self.column}
        check_columns(windows.dataset, self.needs, wanted_by=f"target={target}", fix=fix)
        self.actions = windows.actions

    def build_model(self, config: ModelConfig) -> SequenceModel:
        """A fresh model for the spaces of the histories, with rewards at the size of one."""
        return self._model(config)

    def _model(self, config: ModelConfig, **options: Any) -> SequenceModel:
        info = self.windows.dataset.info
        return SequenceModel(
            config,
            info.observation_space,
            info.action_space,
            info.episode_length,
            squash=info.squash,
            reward_shift=self.windows.reward_mean,
            reward_scale=self.windows.reward_std,
            **options,
        )

    def batch(self, step: int) -> Batch:
        """See `Method.batch`; independent of the weights."""
        return self.windows.batch(step, () if self.column is None else (self.column,))

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over every step of every window."""
        params = output.policy.float()
        if self.column is None:
            loss = -self.actions.log_prob(params, batch.targets["action"])
        else:
            loss = self.actions.divergence(batch.targets[self.column], params)
        return loss.mean(), {}
