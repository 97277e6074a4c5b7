"""What has been shown to work on this machine's GPU, kept in the user's cache."""

import logging
import os
from pathlib import Path
from typing import Literal

import torch

from fastad.base import provenance
from fastad.base.files import digest, write_json

_logger = logging.getLogger(__name__)


def is_proven(device: torch.device) -> bool:
    """Whether `benchmarks/gpu_check.py` has passed on this GPU, with this torch and this fastad.

    What never ran on a machine is no default there.
    """
    if device.type != "cuda":
        return False
    try:
        return _proof(device).is_file()
    except (OSError, RuntimeError):  # a cache that cannot be looked at, or no home
        return False


def takes_graph(
    choice: Literal["auto", "always", "never"], device: torch.device, *, kv_cache: bool
) -> bool:
    """Whether a step is replayed as a CUDA graph; says so where one could be and is not.

    Args:
        choice: "auto" takes one where that is proven.
        device: Of the model.
        kv_cache: Without one there is no graph.
    """
    if choice != "auto":
        return choice == "always"
    proven = is_proven(device)
    if device.type == "cuda" and kv_cache and not proven:
        _logger.info(
            "no CUDA graph: benchmarks/gpu_check.py has not passed on this GPU with this torch and "
            "fastad; run it, or take one all the same with --cuda-graph always"
        )
    return proven


def keep_proof(device: torch.device, *, passed: bool) -> Path:
    """Remember in the user's cache whether all that needs a GPU works on this one.

    Returns:
        The file that says so, or that is gone.

    Raises:
        OSError: If the cache cannot be written.
    """
    file = _proof(device)
    if passed:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, _versions(device))
    else:
        file.unlink(missing_ok=True)
    return file


def _versions(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device)
    return {"gpu": name, "torch": str(torch.__version__), "fastad": provenance.__version__}


def _proof(device: torch.device) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    key = digest(repr(sorted(_versions(device).items())).encode())
    return cache / "fastad" / f"gpu-check-{key[:16]}.json"
