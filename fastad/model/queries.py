"""Steps as queries and transitions: contexts that do not tell their order."""

import torch
from torch import Tensor

from fastad.acting.steps import Steps
from fastad.actions import ActionDistribution


def as_queries(steps: Steps, actions: ActionDistribution, none: Tensor) -> Steps:
    """Two steps for each: what came of the one before, and the query where the agent is now.

    A transition is an observation, the action taken there and its reward. A query is an observation
    without an action, and it alone tells the step within the episode. The prediction at a query is
    for a context of all transitions up to there, of any number (Lee et al. 2023, arXiv 2306.14892,
    sec. 3, with observations of deterministic environments in place of next ones).

    Args:
        steps: (B, T), with previous observations. Where there is no previous action, the query
            stands twice.
        actions: What previous actions are.
        none: Of `actions`, on the device of the steps.

    Returns:
        (B, 2 T), each of which is a token of the fused layout.
    """
    now, before, action = steps.observation, steps.previous_observation, steps.previous_action
    assert before is not None
    first = actions.is_none(action)
    first = first.view(*first.shape, *[1] * (now.ndim - 2))
    pairs = (
        (torch.where(first, now, before), now),
        (action, none.expand_as(action)),
        (steps.previous_reward, torch.zeros_like(steps.previous_reward)),
        (torch.zeros_like(steps.episode_start), steps.episode_start),
        (torch.zeros_like(steps.episode_step), steps.episode_step),
    )
    return Steps(*(_alternating(*pair) for pair in pairs))


def _alternating(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack([first, second], dim=2).flatten(1, 2)
