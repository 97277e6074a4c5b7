"""Algorithm Distillation (Laskin et al. 2022): predict what the source did, over its histories."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fastad.base.errors import UserError, unknown
from fastad.envs.family import TaskFamily
from fastad.envs.registry import ENVS, make_family
from fastad.histories.schema import DatasetInfo
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

        auxiliary_weight: Of a loss by which the encoder learns to tell what `TaskFamily.auxiliary`
            names of the environment, by cross-entropy: privileged, and no part of rollouts.

    Raises:
        UserError: If the histories lack what the target is learned from, or the environment has
            nothing auxiliary.
    """

    follows_weights = False
    has_moments = False

    def __init__(
        self, windows: WindowSampler, target: Target = "policy", *, auxiliary_weight: float = 0.0
    ) -> None:
        self.windows, self.target = windows, target
        self.auxiliary_weight = auxiliary_weight
        self.family = known_family(windows.dataset.info)
        self._check_auxiliary()
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

    def _check_auxiliary(self) -> None:
        has_some = self.family is not None and self.family.auxiliary()
        if self.auxiliary_weight > 0 and not has_some:
            raise UserError(
                f"auxiliary_weight={self.auxiliary_weight}: env={self.windows.dataset.info.env} "
                "tells nothing that could be learned besides; leave it at 0"
            )

    def _model(self, config: ModelConfig, **options: Any) -> SequenceModel:
        info = self.windows.dataset.info
        model = SequenceModel(
            config,
            info.observation_space,
            info.action_space,
            info.episode_length,
            squash=info.squash,
            family=self.family,
            auxiliary=self.auxiliary_weight > 0,
            reward_shift=self.windows.reward_mean,
            reward_scale=self.windows.reward_std,
            **options,
        )
        model.fit(self.windows.observations)
        return model

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
        if self.auxiliary_weight == 0:
            return loss.mean(), {}
        auxiliary = self._auxiliary_loss(output, batch)
        return loss.mean() + self.auxiliary_weight * auxiliary, {"auxiliary": auxiliary.detach()}

    def moments(self, output: Output, batch: Batch) -> Tensor:
        """See `Method.moments`: there are none, every step's loss stands for itself."""
        raise NotImplementedError

    def _auxiliary_loss(self, output: Output, batch: Batch) -> Tensor:
        """The sum over names of cross-entropies, in the mean over steps."""
        assert self.family is not None
        assert output.auxiliary is not None
        targets = self.family.auxiliary_targets(batch.steps.observation)
        losses = [
            -(targets[name] * logits.float().log_softmax(dim=-1)).sum(dim=-1).mean()
            for name, logits in output.auxiliary.items()
        ]
        return torch.stack(losses).sum()


def known_family(info: DatasetInfo) -> TaskFamily | None:
    """The family that histories are of, if it is one of ours: others show what they store."""
    return make_family(info.env, **info.env_kwargs) if info.env in ENVS else None
