"""Which Minari dataset is meant, and where it lies."""

import json
import os
import re
from pathlib import Path
from typing import Any

from fastad.base.errors import UserError
from fastad.base.extras import import_extra
from fastad.base.files import read_json

PREFIX = "minari:"
ID = re.compile(r"(?:[-_\w]+/)*[-_\w]+-v\d+")
DATA, METADATA = "data", "metadata.json"
MAX_METADATA_BYTES = 2**28  # the tasks of a dataset of fastad stand in it


def import_minari() -> Any:
    """Minari, with what stores its data."""
    import_extra("h5py", "minari", "Minari")
    return import_extra("minari", "minari", "Minari")


def id_of(word: str, field: str) -> str:
    """The ID that a word names, "minari:NAMESPACE/NAME-v0", the prefix left out or not.

    Raises:
        UserError: If it is none.
    """
    name = word.removeprefix(PREFIX)
    if not ID.fullmatch(name):
        raise UserError(
            f"{field}={word} is no ID of Minari; write {PREFIX}NAME-v0, or {PREFIX}SPACE/NAME-v0"
        )
    return name


def root() -> Path:
    """Where Minari keeps its datasets; nothing is made there."""
    given = os.environ.get("MINARI_DATASETS_PATH")
    return Path(given) if given else Path.home() / ".minari" / "datasets"


def is_minari_folder(path: Path) -> bool:
    """Whether a folder holds a Minari dataset, or its data."""
    return any((path / data / METADATA).is_file() for data in (DATA, "."))


def find_data(word: str) -> Path:
    """The folder of the data of a Minari dataset, named by its ID or by a folder.

    Raises:
        UserError: If there is none.
    """
    path = Path(word)
    if not is_minari_folder(path):
        name = id_of(word, "source")
        path = root() / name
        if not is_minari_folder(path):
            raise UserError(
                f"source={word} is not among Minari's local datasets ({root()}); download it with: "
                f"minari download {name}"
            )
    return path / DATA if (path / DATA / METADATA).is_file() else path


def read_metadata(data: Path, where: str) -> dict[str, Any]:
    """The metadata of a Minari dataset, without making its environment.

    Raises:
        UserError: If it is damaged, or does not tell its spaces: Minari would then make the
            environment that it names, which runs code.
    """
    metadata = read_json(data / METADATA, fix="download it again", limit=MAX_METADATA_BYTES)
    for name in ("observation_space", "action_space"):
        if not isinstance(metadata.get(name), str):
            raise UserError(
                f"{where}: {METADATA} lacks {name}, which only its environment would tell; let "
                "Minari write it again with its spaces"
            )
    return metadata


def env_name(metadata: dict[str, Any]) -> str | None:
    """The Gymnasium ID of the environment that a dataset is of; None if it does not tell."""
    try:
        name = json.loads(metadata["env_spec"])["id"]
    except (KeyError, TypeError, ValueError):
        return None
    return name if isinstance(name, str) else None
