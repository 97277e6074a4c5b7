"""A dataset of fastad as one of Minari."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from fastad.base.beside import folder_beside
from fastad.base.errors import UserError
from fastad.base.progress import Report
from fastad.envs.gym_in import OPTIONS
from fastad.envs.registry import gymnasium_id, is_known, is_outside
from fastad.histories.formats.described import KEY, check_whole, describe
from fastad.histories.formats.minari_names import DATA, METADATA, id_of, import_minari, root
from fastad.histories.formats.nested import to_nested
from fastad.histories.histories import Histories
from fastad.spaces import is_packed

FILE = "main_data.hdf5"
NAMESPACE = "namespace_metadata.json"


def write_minari(dataset: Histories, word: str, *, progress: Report, overwrite: bool) -> Path:
    """Write a dataset as one of Minari, an episode of it for every episode of every history.

    Policies are infos of each step. What an episode is of is its metadata: history, task, learner,
    and episode of the history. fastad keeps no observation from behind an episode's last step, and
    Minari wants one: the last is repeated, as the last of the policies.

    Args:
        dataset: Complete.
        word: The ID, see `id_of`.
        progress: Told the steps written and their total.
        overwrite: Replace the dataset of this ID, if fastad wrote it.

    Returns:
        The folder of the dataset.

    Raises:
        UserError: If the dataset is not complete, has keys that HDF5 has no name for, or there is
            another of this ID.
    """
    minari, name = import_minari(), id_of(word, "destination")
    check_whole(dataset)
    _check_keys(dataset.info.observation_space)
    info, final = dataset.info, root() / name
    with folder_beside(final, "minari", _is_ours, overwrite=overwrite) as part, quiet():
        from minari.dataset.minari_storage import MinariStorage

        storage = MinariStorage.new(
            part / DATA, info.observation_space, info.action_space, _env_spec(dataset),
            "hdf5", jpeg_encoding=False,
        )  # fmt: skip
        storage.update_metadata(
            {
                "dataset_id": name,
                "minari_version": minari.__version__,
                "algorithm_name": info.source,
                "description": _words(dataset),
                "requirements": ["fastad"],
                KEY: describe(dataset),
            }
        )
        storage.update_episodes(_episodes(dataset, progress))
        storage.update_episode_metadata(_metadata(dataset))
        _make_namespaces(final, name)
    return final


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings of what Minari would also like to know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_keys(space: Any) -> None:
    """Refuse keys of a Dict that are paths to HDF5, or nothing."""
    if isinstance(space, spaces.Dict):
        for key in space:
            if key in ("", ".") or "/" in key or "\0" in key:
                raise UserError(
                    f"key {key!r} of observations is no name in HDF5, as which Minari stores it; "
                    "convert to FILE.parquet instead, or rename it"
                )
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for part in space.values() if isinstance(space, spaces.Dict) else space:
            _check_keys(part)


def _is_ours(path: str) -> bool:
    return path in (f"{DATA}/", f"{DATA}/{METADATA}", f"{DATA}/{FILE}")


def _words(dataset: Histories) -> str:
    info = dataset.info
    return (
        f"Learning histories: {info.num_histories} learners of {info.source}, each from its first "
        f"step on, in {info.env}. Episodes carry history, task, learner and episode as metadata; "
        "observations behind the last step of an episode repeat the last one."
    )


def _env_spec(dataset: Histories) -> Any:
    """What makes the environment, with a task of its own choice; None where Gymnasium cannot."""
    env, options = dataset.info.env, dict(dataset.info.env_kwargs)
    name = gymnasium_id(env) if is_known(env) else ""
    if name not in gymnasium.registry:
        return None
    if is_outside(env):
        options = {key: value for key, value in options.items() if key not in OPTIONS}
    spec = copy.deepcopy(gymnasium.spec(name))
    spec.kwargs |= options
    return spec


def _episodes(dataset: Histories, progress: Report) -> Iterator[Any]:
    """Every episode, one after another, as Minari takes them."""
    space, policies = dataset.info.observation_space, dataset.info.policies
    from minari.data_collector import EpisodeBuffer

    done, total = 0, int(dataset.lengths.sum())
    progress(0, total)
    for history in range(dataset.num_histories):
        bounds = dataset.episode_bounds(history)
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            steps = dataset.read(history, start, stop)
            seen = _and_last(steps["observation"])
            yield EpisodeBuffer(
                observations=to_nested(space, seen) if is_packed(space) else seen,
                actions=steps["action"],
                rewards=steps["reward"],
                terminations=steps["terminated"],
                truncations=steps["truncated"],
                infos={name: _and_last(steps[name]) for name in policies},
            )
            done += stop - start
            progress(done, total)


def _metadata(dataset: Histories) -> Iterator[dict[str, int]]:
    for history in range(dataset.num_histories):
        for episode in range(len(dataset.episode_bounds(history)) - 1):
            yield {
                "history": history,
                "task": int(dataset.task_ids[history]),
                "learner": int(dataset.learner_ids[history]),
                "episode": episode,
            }


def _and_last(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, values[-1:]])


def _make_namespaces(final: Path, name: str) -> None:
    """What Minari wants in every folder above a dataset."""
    folder = final.parent
    for _ in range(name.count("/")):
        file = folder / NAMESPACE
        if not file.exists():
            file.write_text("{}")
        folder = folder.parent
