"""The files of a Minari dataset, held to what they may be before Minari reads them.

Minari takes its own files at their word: links and arrays that lie elsewhere, pictures of any kind
and size, parts of Arrow's buffers that end anywhere.
"""

import io
import json
import os
import reprlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from fastad.base.errors import UserError
from fastad.base.extras import import_extra
from fastad.base.files import open_regular
from fastad.histories.formats.hdf5 import check_heaps, check_tree
from fastad.histories.formats.minari_out import FILE, quiet
from fastad.spaces import DTYPES, MAX_DEPTH

AGAIN = "download it again"
JPEG = b"\xff\xd8\xff"
Told = dict[str, Any]


def open_storage(data: Path, metadata: Told, where: str) -> tuple[Any, list[Told]]:
    """Minari's storage of a dataset, and what it tells of every episode.

    Args:
        data: The folder.
        metadata: See `read_metadata`.
        where: Begins errors.

    Raises:
        UserError: If anything is damaged, or lies in another file.
    """
    with reading(where):
        for name in ("observation_space", "action_space"):
            _check_space(json.loads(metadata[name]), f"{where}: {name}")
        from minari.dataset.minari_storage import MinariStorage

        storage = MinariStorage.read(data)
        numbers = range(storage.total_episodes)
        if storage.FORMAT == "hdf5":
            steps = _check_hdf5(storage, data / FILE, numbers, where)
        else:
            steps = [_check_arrow(storage, data / str(number), where) for number in numbers]
        told = list(storage.get_episode_metadata(numbers))
    for number, (entry, num_steps) in enumerate(zip(told, steps, strict=True)):
        claimed = entry.get("total_steps") if isinstance(entry, dict) else None
        if isinstance(claimed, np.generic):
            claimed = claimed.item()
        if type(claimed) is not int or claimed != num_steps or num_steps < 1:
            raise UserError(
                f"{where}: episode {number} has {num_steps} steps and tells total_steps="
                f"{reprlib.repr(claimed)}; {AGAIN}"
            )
    return storage, told


def read_episodes(storage: Any, numbers: list[int], where: str) -> Iterator[Told]:
    """Episodes of an opened storage, one after another.

    Raises:
        UserError: If Minari cannot read them.
    """
    with reading(where):
        episodes = iter(storage.get_episodes(numbers))
    for _ in numbers:
        with reading(where):
            episode = next(episodes)
        yield episode


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Say in one line what Minari, and the libraries below it, stumble over."""
    try:
        with quiet():
            yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged file makes of it
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{where} cannot be read as a Minari dataset, it is cut short or damaged, or of a kind "
            f"that needs more ({reason}); {AGAIN}"
        ) from error


def _check_space(told: Any, where: str, depth: int = 0) -> None:
    """Refuse what NumPy would make room for: dtypes are names of numbers, not text of any width."""
    if not isinstance(told, dict) or depth > MAX_DEPTH:
        raise UserError(f"{where} is no description of a space; {AGAIN}")
    if told.get("dtype", "int64") not in DTYPES:
        raise UserError(f"{where} is of numbers that are none of {', '.join(DTYPES)}")
    parts = told.get("subspaces", [])
    for part in parts.values() if isinstance(parts, dict) else parts:
        _check_space(part, where, depth + 1)


def _check_hdf5(storage: Any, file: Path, numbers: range, where: str) -> list[int]:
    """Refuse what `check_tree` does, and pictures; returns the steps of every episode."""
    h5py = import_extra("h5py", "minari", "Minari")

    def part(group: Any, key: str | int) -> Any:
        return group[f"_index_{key}" if isinstance(key, int) else key]

    def rows(array: Any) -> Iterator[bytes]:
        return (row.tobytes() for row in array[()])

    open_regular(file, fix=AGAIN).close()
    check_heaps(file, where)
    with h5py.File(file, "r") as stream:
        check_tree(stream, where)
        steps = []
        for number in numbers:
            episode = stream[f"episode_{number}"]
            _check_pictures(storage, episode, part, rows, where)
            steps.append(len(episode["rewards"]))
    return steps


def _check_arrow(storage: Any, folder: Path, where: str) -> int:
    """The same of one episode in a folder of its own."""
    dataset = import_extra("pyarrow.dataset", "minari", "Minari")
    with os.scandir(folder) as entries:
        for entry in entries:
            open_regular(Path(entry.path), fix=AGAIN).close()
    ignored = ["_", ".", "metadata.json"]
    opened = dataset.dataset(str(folder), format=storage.FORMAT, ignore_prefixes=ignored)
    batches = []
    for batch in opened.to_batches():
        batch.validate(full=True)
        batches.append(batch)
    if len(batches) != 1:
        raise UserError(
            f"{where}: episode {folder.name} is in {len(batches)} pieces, and Minari reads one"
        )

    def part(array: Any, key: str | int) -> Any:
        return array[key] if array is batches[0] else array.field(str(key))

    _check_pictures(storage, batches[0], part, lambda array: array.to_pylist(), where)
    num_rows: int = batches[0].num_rows
    return num_rows - 1  # the last one is of an observation alone


def _check_pictures(
    storage: Any, episode: Any, part: Callable[[Any, str | int], Any],
    rows: Callable[[Any], Iterator[bytes]], where: str,
) -> None:  # fmt: skip
    """Refuse pictures that are no JPEG of their space's size, unless they are stored as numbers.

    Of any other kind a picture may be anything, a program to be run by another one included.
    """
    if not storage.jpeg_encoding:
        return
    from minari.dataset.minari_storage import is_image_space
    from PIL import Image

    def check(space: Any, held: Any) -> None:
        if isinstance(space, spaces.Dict | spaces.Tuple):
            keys: Any = space.keys() if isinstance(space, spaces.Dict) else range(len(space))
            for key in keys:
                check(space[key], part(held, key))
        elif is_image_space(space):
            for content in rows(held):
                is_right = isinstance(content, bytes) and content.startswith(JPEG)
                if is_right:
                    with Image.open(io.BytesIO(content), formats=["JPEG"]) as picture:
                        is_right = picture.size == (space.shape[1], space.shape[0])
                if not is_right:
                    raise UserError(
                        f"{where} holds a picture that is no JPEG of {space.shape[1]} x "
                        f"{space.shape[0]} points; {AGAIN}"
                    )

    check(storage.observation_space, part(episode, "observations"))
    check(storage.action_space, part(episode, "actions"))


__all__ = ["AGAIN", "open_storage", "read_episodes", "reading"]
