"""Acting where histories from elsewhere were lived: the user names the environment."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fastad.base.errors import UserError
from fastad.envs.registry import is_known, is_outside, stored_options
from fastad.histories.schema import DatasetInfo


def put_into(
    info: DatasetInfo, tasks: np.ndarray, env: str | None, options: Mapping[str, Any]
) -> tuple[DatasetInfo, np.ndarray]:
    """The description of a dataset whose environment is a label, with one to act in instead.

    Tasks keep their order. Of an environment from outside they are its `tasks`, a list of
    arguments as long as the dataset has tasks; left out, what the dataset says an argument is
    called, as XLand's ruleset_id, is given to it; of one task alone it need have none.

    Args:
        info: Of the dataset.
        tasks: (num_tasks, K).
        env: Its name; None leaves everything as it is.
        options: Of the environment.

    Raises:
        UserError: If it is no environment, or its spaces or tasks are not the dataset's.
    """
    if env is None or env == info.env:
        return info, tasks
    chosen = dict(options)
    if is_outside(env):
        chosen.setdefault("episode_length", info.episode_length)
        chosen["tasks"] = _arguments(info, tasks, env, stored_options(env, chosen).get("tasks"))
        tasks = np.arange(len(tasks))[:, None]
    acted = replace(info, env=env, env_kwargs=chosen)
    if not is_known(env):
        return acted, tasks
    family = acted.family("--env")
    spec = family.spec()
    for name in ("observation_space", "action_space"):
        wanted, found = getattr(info, name), getattr(spec, name)
        if wanted != found:
            raise UserError(
                f"env={env} has the {name} {found}, and the histories {wanted}; give one with the "
                "same"
            )
    family.make(torch.from_numpy(tasks[:1]), torch.Generator())  # refuses what is no task of it
    return replace(acted, episode_length=spec.episode_length), tasks


def _arguments(info: DatasetInfo, tasks: np.ndarray, env: str, given: Any) -> list[dict[str, Any]]:
    """What the environment of every task is made with."""
    if given is not None:
        if not isinstance(given, list) or len(given) != len(tasks):
            raise UserError(
                f"env={env}: tasks must list the arguments of each of the {len(tasks)} tasks, in "
                "the order of the dataset's"
            )
        return given
    name = info.env_kwargs.get("task")
    if isinstance(name, str) and tasks.shape[1] == 1:
        return [{name: row} for row in tasks[:, 0].tolist()]
    if len(tasks) == 1:
        return [{}]
    raise UserError(
        f"env={env} needs tasks: the dataset does not say what its {len(tasks)} tasks are called; "
        "list their arguments with --env-options 'tasks=[{...}, ...]'"
    )
