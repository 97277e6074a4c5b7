"""A run's learning curve: rollouts on tasks that it is not trained on, while it trains."""

from typing import Any

import torch

from fastad.envs.family import Split
from fastad.evaluate.task_set import TaskSet, try_model
from fastad.histories.histories import Histories
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.engine import returns_asked_for


class LearningCurve:
    """Called with the model, gives one point of the curve.

    Args:
        dataset: Of whose validation tasks the model is tried; of test tasks where it has none.
        num_tasks: Tasks to take, at most; fewer are rolled out several times each.
        num_episodes: Of each rollout.
        seed: Of environments and actions, the same at every call.
        context: Attention window of the rollouts in tokens; the model's own if left out.
    """

    def __init__(
        self,
        dataset: Histories,
        *,
        num_tasks: int,
        num_episodes: int,
        seed: int,
        context: int | None = None,
    ) -> None:
        split: Split = "test" if dataset.info.num_validation == 0 else "validation"
        chosen = torch.from_numpy(dataset.tasks[dataset.info.task_rows(split)])[:num_tasks]
        repeats = max(1, num_tasks // max(len(chosen), 1))
        self.tasks = TaskSet(dataset.info, chosen, repeats, seed=seed, split=split)
        self.num_episodes, self.context = num_episodes, context

    def check(self, model: SequenceModel) -> None:
        """Refuse a model that cannot be rolled out so.

        Raises:
            UserError: If its positions run out, or it is asked for an optimum that nobody knows.
        """
        num_steps = self.num_episodes * self.tasks.info.episode_length
        model.check_length(num_steps * model.config.tokens_per_step)
        returns_asked_for(model, self.tasks.make_env(self.tasks.generator("cpu")), None)

    def __call__(self, model: SequenceModel) -> dict[str, Any]:
        """Mean returns of the first, the last and every episode; regret of bandits."""
        trial = try_model(model, self.tasks, num_episodes=self.num_episodes, context=self.context)
        mean = trial.mean.tolist()
        figures = {"eval_first": mean[0], "eval_last": mean[-1], "eval_returns": mean}
        if trial.regret is not None:
            figures["eval_regret"] = trial.regret.mean().item()
        return figures
