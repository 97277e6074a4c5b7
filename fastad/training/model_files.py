"""A model's folder as Hugging Face has it: model.safetensors, config.json, README.md.

Beside these lies dataset/, what a run keeps of its dataset: its tasks are what rollouts are on.
Nothing in it is code, nor pickled, and reading it runs none.
"""

import reprlib
import sys
from pathlib import Path
from typing import Any

from fastad.base.errors import UserError
from fastad.base.files import read_json, read_stored

MODEL_CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
MODEL_TYPE, FORMAT = "fastad", 1
MAX_CONFIG_BYTES = 2**24
AGAIN = "download it again, or convert the run again"


def is_model_folder(path: Path) -> bool:
    """Whether a folder is laid out as a model of Hugging Face, fastad's or another's."""
    return (path / MODEL_CONFIG).is_file() and not (path / "config.yaml").exists()


def read_model_config(folder: Path) -> dict[str, Any]:
    """What config.json says, each field held to its kind.

    Raises:
        UserError: If it is another library's model, of a newer fastad, or damaged.
    """
    file = folder / MODEL_CONFIG
    values = read_json(file, fix=AGAIN, limit=MAX_CONFIG_BYTES)
    kind, version = values.get("model_type"), values.get("format_version")
    if kind != MODEL_TYPE:
        raise UserError(
            f"{file}: model_type={reprlib.repr(kind)} is none of fastad's models; name the folder "
            "that `fastad convert RUN FOLDER` wrote"
        )
    if version != FORMAT:
        raise UserError(
            f"{file}: format_version={reprlib.repr(version)}, and this fastad reads {FORMAT}; "
            "upgrade fastad"
        )
    for name in ("model", "training", "weights", "made_by"):
        if not isinstance(values.get(name), dict):
            raise UserError(f"{file}: {name} is missing or damaged; {AGAIN}")
    updates = values.setdefault("updates", None)
    if updates is not None and (type(updates) is not int or updates < 0):
        raise UserError(f"{file}: updates={reprlib.repr(updates)} is no number; {AGAIN}")
    seconds = values.get("train_seconds")
    if not isinstance(seconds, int | float) or not 0 <= seconds <= sys.float_info.max:
        raise UserError(f"{file}: train_seconds={reprlib.repr(seconds)} is no time; {AGAIN}")
    return values


def read_model(folder: Path) -> tuple[dict[str, Any], bytes, int | None]:
    """A model's description, its weights' file, and the updates that it was trained for.

    Raises:
        UserError: If anything is missing or damaged.
    """
    values = read_model_config(folder)
    weights = values["weights"]
    content = read_stored(folder / WEIGHTS, weights.get("bytes"), weights.get("sha256"), fix=AGAIN)
    return values["model"], content, values["updates"]
