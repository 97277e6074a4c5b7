"""Where a result comes from: versions, commit and hardware, to be kept beside it."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def versions() -> str:
    """Of fastad, PyTorch and Python in one line, without waiting for any import."""
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "missing"
    return f"fastad {__version__}, torch {torch}, Python {platform.python_version()}"


def describe_machine() -> dict[str, Any]:
    """Versions, commit and hardware, to be kept beside every result."""
    import numpy
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "fastad": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def _commit() -> str | None:
    """The commit of the source tree that runs, if it runs from one."""
    here = Path(__file__)
    # An installed copy may lie inside somebody else's repository, whose commit says nothing.
    tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name)
    return _git(here.parent, "describe", "--always", "--dirty") if tracked else None


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
