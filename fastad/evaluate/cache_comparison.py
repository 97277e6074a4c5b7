"""The same rollout with and without the KV cache."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from fastad.evaluate.task_set import TaskSet, try_model
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.engine import cache_error

ENVIRONMENTS, STEPS = 64, 200  # at most: recomputing is slow
NEAR = 1e-3  # of the largest action: what rounding may come to over so many steps


def compare_cache(
    model: SequenceModel, tasks: TaskSet, *, context: int | None = None
) -> dict[str, Any]:
    """Speed, actions and logits with and without the KV cache, by name.

    Args:
        model: Frozen.
        tasks: Of these, `ENVIRONMENTS` at most are rolled out, through as many steps as the
            histories have, at most `STEPS`.
        context: Attention window in tokens, if not the model's own.
    """
    info, chosen = tasks.info, tasks.tasks[:ENVIRONMENTS]
    tasks = replace(tasks, tasks=chosen, repeats=max(1, ENVIRONMENTS // len(chosen)))
    steps = min(info.num_steps, STEPS)
    if model.config.positions == "learned":
        steps = min(steps, model.config.context // model.config.tokens_per_step)
    episodes = max(1, steps // info.episode_length)
    cached, uncached = (
        try_model(model, tasks, num_episodes=episodes, kv_cache=kv_cache, context=context)
        for kv_cache in (True, False)
    )
    generator = tasks.generator(next(model.parameters()).device)
    difference = cache_error(
        model, tasks.make_env(generator), num_steps=episodes * info.episode_length,
        generator=generator, context=context,
    )  # fmt: skip
    return {
        "steps_per_second_cached": cached.result.steps_per_second,
        "steps_per_second_uncached": uncached.result.steps_per_second,
        "max_logit_difference": difference,
        "same_actions": same_actions(cached.actions, uncached.actions),
        "cache_comparison": {"environments": len(tasks.rows), "episodes": episodes},
    }


def same_actions(first: Tensor, second: Tensor) -> bool:
    """Whether actions (N, T, ...) are the same: choices each, numbers to a thousandth.

    Numbers are drawn around what the model predicts, and so are rounded as that is.
    """
    if not first.is_floating_point():
        return first.equal(second)
    return bool((first - second).abs().max() <= NEAR * first.abs().max())
