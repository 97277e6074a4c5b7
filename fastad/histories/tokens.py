"""Learning histories as text: `<obs>4,4</obs><act>2</act><rew>0</rew>`, one line per step.

The first step of an episode is preceded by the episode's number, `<ep>3</ep>`.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastad.base.errors import UserError
from fastad.histories.schema import DatasetInfo, columns

if TYPE_CHECKING:
    from fastad.histories.reader import HistoryDataset

LINE = re.compile(
    r"(?:<ep>(?P<episode>\d+)</ep>)?"
    r"<obs>(?P<observation>.*)</obs><act>(?P<action>.*)</act><rew>(?P<reward>.*)</rew>"
)


class ParsedHistory(NamedTuple):
    """What the text of a history says."""

    observations: np.ndarray  # (steps, ...) as the dataset stores them
    actions: np.ndarray  # (steps,)
    rewards: np.ndarray  # (steps,) float32
    episodes: np.ndarray  # (steps,) int64, the episode that each step belongs to


def history_text(
    dataset: "HistoryDataset", history: int, *, num_steps: int, max_values: int | None = None
) -> str:
    """The first `num_steps` steps of a history as text, or all of it if it is shorter.

    Args:
        dataset: Where the history is.
        history: Its number in the dataset.
        num_steps: How much to write.
        max_values: Observations of more values than this (images) are summarised as their shape;
            such text cannot be parsed. None writes every value.
    """
    stop = min(num_steps, int(dataset.lengths[history]))
    bounds = dataset.episode_bounds(history)
    episodes = np.searchsorted(bounds, np.arange(stop), side="right") - 1
    return format_steps(dataset.read(history, 0, stop), episodes, max_values=max_values)


def format_steps(
    steps: Mapping[str, np.ndarray], episodes: np.ndarray, *, max_values: int | None = None
) -> str:
    """Write steps as text.

    Args:
        steps: "observations" (steps, ...), "actions" and "rewards" (steps,).
        episodes: (steps,) the episode that each step belongs to.
        max_values: See `history_text`.
    """
    lines = []
    values = (steps["observations"], steps["actions"], steps["rewards"], episodes)
    previous = None
    for observation, action, reward, episode in zip(*values, strict=True):
        start = f"<ep>{episode}</ep>" if episode != previous else ""
        shown = _observation_text(np.asarray(observation), max_values)
        lines.append(
            f"{start}<obs>{shown}</obs><act>{action}</act><rew>{_number_text(reward)}</rew>"
        )
        previous = episode
    return "\n".join(lines)


def parse_text(text: str, info: DatasetInfo) -> ParsedHistory:
    """Read back what `history_text` wrote.

    Raises:
        UserError: Naming the line that is no step of a history of `info`.
    """
    observation_column = columns(info)["observations"]
    observations, actions, rewards = [], [], []
    episodes: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        match = LINE.fullmatch(line.strip())
        if match is None or (number == 1 and match["episode"] is None):
            raise UserError(f"line {number}, {line!r}, is no step; write <ep>0</ep><obs>...")
        try:
            values = np.array(match["observation"].split(","), dtype=observation_column.dtype)
            observations.append(values.reshape(observation_column.shape))
            actions.append(int(match["action"]))
            rewards.append(np.float32(match["reward"]))
        except ValueError as error:
            raise UserError(f"line {number}, {line!r}: {error}") from error
        episodes.append(episodes[-1] if match["episode"] is None else int(match["episode"]))
    return ParsedHistory(
        np.array(observations, dtype=observation_column.dtype),
        np.array(actions, dtype=columns(info)["actions"].dtype),
        np.array(rewards, dtype=np.float32),
        np.array(episodes, dtype=np.int64),
    )


def _observation_text(observation: np.ndarray, max_values: int | None) -> str:
    if max_values is not None and observation.size > max_values:
        return f"{'x'.join(map(str, observation.shape))} {observation.dtype}"
    return ",".join(_number_text(value) for value in observation.ravel())


def _number_text(value: np.generic) -> str:
    """The shortest text that reads back as the same number."""
    return str(value).removesuffix(".0")
