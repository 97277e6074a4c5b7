"""The decision transformer (Chen et al. 2021, arXiv 2106.01345): act for a given return."""

import torch

from fastad.methods.ad import AlgorithmDistillation
from fastad.methods.base import Batch
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel


class DecisionTransformer(AlgorithmDistillation):
    """Imitates the source given, at every step, what its episode was still to return.

    At rollout the model is asked for a return, see `fastad.rollouts.engine.returns_asked_for`, as
    if it were that of a good episode of the source. Unlike the original's, a return to go is no
    token of its own: it is part of the token that predicts, which has the observation.

    A model that sees no more than the running episode cannot improve over episodes. One whose
    layers together look back farther learns from earlier episodes, too, as Algorithm Distillation
    does: the receptive field is longer than the context.
    """

    def build_model(self, config: ModelConfig) -> SequenceModel:
        """As `AlgorithmDistillation.build_model`; returns are at the size of one, too."""
        return self._model(config, return_scale=self.windows.return_scale)

    def batch(self, step: int) -> Batch:
        """See `Method.batch`; independent of the weights."""
        batch = super().batch(step)
        to_go = torch.from_numpy(self.windows.returns_to_go(step))
        return batch._replace(steps=batch.steps._replace(return_to_go=to_go))
