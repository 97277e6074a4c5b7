"""Learning histories as text: `<obs>4,4</obs><act>2</act><rew>0</rew>`, one line per step.

The first step of an episode is preceded by the episode's number, `<ep>3</ep>`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from fastad.spaces import Leaf, is_packed, leaves

if TYPE_CHECKING:
    from fastad.histories.histories import Histories


def history_text(
    dataset: "Histories", history: int, *, num_steps: int, max_values: int | None = None
) -> str:
    """The first `num_steps` steps of a history as text, or all of it if it is shorter.

    Args:
        dataset: Where the history is.
        history: Its number in the dataset.
        num_steps: How much to write.
        max_values: Observations of more values than this (images) are summarised as their shape.
            None writes every value.
    """
    stop = min(num_steps, int(dataset.lengths[history]))
    bounds = dataset.episode_bounds(history)
    episodes = np.searchsorted(bounds, np.arange(stop), side="right") - 1
    space = dataset.info.observation_space
    return format_steps(
        dataset.read(history, 0, stop), episodes, max_values=max_values, space=space
    )


def format_steps(
    steps: Mapping[str, np.ndarray],
    episodes: np.ndarray,
    *,
    max_values: int | None = None,
    space: spaces.Space[Any] | None = None,
) -> str:
    """Write steps as text.

    Args:
        steps: "observation" (steps, ...), "action" and "reward" (steps,).
        episodes: (steps,) the episode that each step belongs to.
        max_values: See `history_text`.
        space: Of the observations; those of a Dict or Tuple are written part by part.
    """
    parts = leaves(space) if space is not None and is_packed(space) else None
    lines = []
    values = (steps["observation"], steps["action"], steps["reward"], episodes)
    previous = None
    for observation, action, reward, episode in zip(*values, strict=True):
        start = f"<ep>{episode}</ep>" if episode != previous else ""
        shown = _observation_text(np.asarray(observation), max_values, parts)
        lines.append(
            f"{start}<obs>{shown}</obs><act>{action}</act><rew>{_number_text(reward)}</rew>"
        )
        previous = episode
    return "\n".join(lines)


def _observation_text(
    observation: np.ndarray, max_values: int | None, parts: Sequence[Leaf] | None = None
) -> str:
    if parts is not None:
        named = ((leaf.name, leaf.read(observation)) for leaf in parts)
        return " ".join(f"{name}={_observation_text(part, max_values)}" for name, part in named)
    if max_values is not None and observation.size > max_values:
        return f"{'x'.join(map(str, observation.shape))} {observation.dtype}"
    return ",".join(_number_text(value) for value in observation.ravel())


def _number_text(value: np.generic) -> str:
    """The shortest text that reads back as the same number."""
    return str(value).removesuffix(".0")
