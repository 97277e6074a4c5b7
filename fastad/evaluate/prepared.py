"""All that a run's rollout needs, opened or refused before anybody acts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastad.acting.interact import Transition
from fastad.envs.family import Split
from fastad.evaluate.prompts import load_prompt
from fastad.evaluate.task_set import TaskSet, Trial, load_task_set, try_model
from fastad.model.kernels import Implementation, check_kernels
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.agent import Control
from fastad.rollouts.prompt import Prompt
from fastad.training.checkpoint import load_model_of_update
from fastad.training.run_files import episodes_per_window


@dataclass(frozen=True)
class Prepared:
    """A frozen model, tasks, and how the one is to act on the others.

    Attributes:
        model: On its device.
        updates: Of the checkpoint that acts; None where it does not tell.
        tasks: Rollouts of one task in a row.
        trained_episodes: Episodes that the training windows showed.
        episodes: Of each rollout.
        prompt: What every context begins with.
        greedy: See `InContextAgent`, as the next.
        control: What is hidden from the model.
        context: Attention window in tokens, if another than in training.
        target_return: See `returns_asked_for`.
    """

    model: SequenceModel
    updates: int | None
    tasks: TaskSet
    trained_episodes: int
    episodes: int
    prompt: Prompt | None = None
    greedy: bool = False
    control: Control = "none"
    context: int | None = None
    target_return: float | None = None

    def act(self, *, on_block: Callable[[Transition], None] | None = None, **options: Any) -> Trial:
        """Let the model act; see `try_model` for the options."""
        return try_model(
            self.model, self.tasks, num_episodes=self.episodes, greedy=self.greedy,
            control=self.control, context=self.context, prompt=self.prompt,
            target_return=self.target_return, on_block=on_block, **options,
        )  # fmt: skip


def prepare(
    run: Path,
    device: torch.device,
    *,
    env: str | None = None,
    env_options: Mapping[str, Any] | None = None,
    split: Split = "test",
    tasks: int | None = None,
    rollouts_per_task: int | None = None,
    seed: int = 0,
    episodes: int | None = None,
    context: int | None = None,
    prompt_from: Path | None = None,
    prompt_episodes: slice = slice(None),
    kernels: Implementation = "auto",
    kv_cache: bool = True,
    greedy: bool = False,
    control: Control = "none",
    target_return: float | None = None,
) -> Prepared:
    """Open a run, its tasks and a prompt; arguments as the fields of `RolloutConfig`.

    Raises:
        UserError: For a run that is damaged, or settings that are not possible.
    """
    model, updates = load_model_of_update(run)
    model = model.to(device)
    model.kernels = kernels
    model.check_window(context)
    check_kernels(kernels, model.config, device, kv_cache=kv_cache)
    task_set = load_task_set(
        run, split=split, num_tasks=tasks, repeats=rollouts_per_task, seed=seed, env=env,
        env_options=env_options,
    )  # fmt: skip
    trained_episodes = episodes_per_window(run, task_set.info)
    prepared = Prepared(
        model, updates, task_set, trained_episodes,
        episodes=trained_episodes if episodes is None else episodes, greedy=greedy,
        control=control, context=context, target_return=target_return,
    )  # fmt: skip
    if prompt_from is None:
        return prepared
    history = None if str(prompt_from) == "source" else prompt_from
    return replace(prepared, prompt=load_prompt(history, prompt_episodes, task_set, device))
