"""Learning histories on disk: memory-mapped .npy columns, validated when opened.

`create` begins a dataset of histories of one's own; `from_pandas` writes one from a table.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastad.histories.formats.frames import from_pandas
    from fastad.histories.own import create
    from fastad.histories.own_writer import HistoryWriter

__all__ = ["HistoryWriter", "create", "from_pandas"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: PyTorch comes along."""
    if name not in __all__:
        raise AttributeError(f"module 'fastad.histories' has no attribute {name!r}")
    from importlib import import_module

    where = "formats.frames" if name == "from_pandas" else "own"
    return getattr(import_module(f"fastad.histories.{where}"), name)
