"""One rollout by several processes, each of which acts on some of the tasks: the same result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastad.acting.interact import Transition
from fastad.base.errors import UserError
from fastad.executors.abreast import run_abreast
from fastad.model.kernels import impose_kernels, resolve_kernels
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.agent import Control
from fastad.rollouts.engine import RolloutResult, rollout
from fastad.rollouts.part import Part, PartOfEnv
from fastad.rollouts.prompt import Prompt

if TYPE_CHECKING:
    from fastad.evaluate.task_set import TaskSet


def split_rollout(
    model: SequenceModel,
    tasks: TaskSet,
    *,
    workers: int,
    num_episodes: int,
    on_block: Callable[[Transition], None],
    control: Control = "none",
    prompt: Prompt | None = None,
    **options: Any,
) -> RolloutResult:
    """Roll the frozen model out, its rows dealt to `workers` processes; see `rollout`.

    Every process draws what is random for all rows, so that none depends on how they are split.
    On CPUs each has its share of this process's threads, on several GPUs one of them.

    Raises:
        UserError: For rewards that are exchanged between rows, which may be of two workers; and
            see `rollout`.
    """
    if control == "shuffled-rewards":
        raise UserError(
            f"workers={workers} cannot exchange rewards, as control=shuffled-rewards does; leave "
            "--workers out"
        )
    device = next(model.parameters()).device
    kernels = None
    if model.config.trunk != "gru":
        # Whoever measures which are quicker might choose others, which round otherwise.
        kernels = resolve_kernels(
            model.kernels, width=model.config.width, head_dim=model.config.head_dim, device=device
        )
    parts = Part.split(len(tasks.rows), workers)
    everything = {"num_episodes": num_episodes, "control": control, **options}
    model = model if device.type == "cpu" else deepcopy(model).cpu()
    jobs = [
        (model, tasks, part, _device(device, index), kernels,
         None if prompt is None else part.of_prompt(prompt), everything)
        for index, part in enumerate(parts)
    ]  # fmt: skip
    threads = max(1, torch.get_num_threads() // len(parts))
    with closing(run_abreast(_roll_part, jobs, num_threads=threads)) as rounds:
        for told in rounds:
            if not isinstance(told[0], RolloutResult):
                fields = zip(*told, strict=True)
                on_block(Transition(*(torch.from_numpy(np.concatenate(field)) for field in fields)))
                continue
            returns = torch.cat([result.returns for result in told])
            seconds = max(result.seconds for result in told)
            return RolloutResult(returns, seconds, sum(result.num_steps for result in told))
    raise AssertionError("workers end with a result")


def _roll_part(
    tell: Callable[[Any], None],
    model: SequenceModel,
    tasks: TaskSet,
    part: Part,
    device: str,
    kernels: dict[str, str] | None,
    prompt: Prompt | None,
    options: dict[str, Any],
) -> None:
    """What a worker does: tells every block of its rows, then its result."""
    if kernels is not None and model.kernels == "auto":
        impose_kernels(kernels)
    model = model.to(device)
    generator = tasks.generator(device)
    env = PartOfEnv(tasks.make_env(generator), part)

    def on_block(block: Transition) -> None:
        tell(tuple(field.cpu().numpy() for field in block))

    if prompt is not None:
        steps = Transition(*(field.to(device) for field in prompt.steps))
        prompt = Prompt(steps, prompt.lengths.to(device), prompt.num_episodes, prompt.told)
    tell(rollout(model, env, generator=generator, prompt=prompt, on_block=on_block, **options))


def _device(device: torch.device, index: int) -> str:
    """A worker's: unless one GPU was named, they are dealt all that there are."""
    if device.type != "cuda" or device.index is not None:
        return str(device)
    return f"cuda:{index % torch.cuda.device_count()}"
