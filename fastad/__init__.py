"""Algorithm Distillation: learning histories in, in-context reinforcement learning out.

    dataset = fastad.collect(env="dark-room", out="data/room")
    run = fastad.train(data=dataset, out="runs/room", updates=1300)
    result = fastad.rollout(run, episodes=20)
    comparison = fastad.compare(fastad.preset("dark-room"), seeds=3)

    with fastad.histories.create("data/own", ...) as writer:  # data of whatever learned elsewhere
        writer.append(task=0, observation=..., action=..., reward=..., ...)

Importing fastad registers its environments with Gymnasium; it does not import torch, whose threads
it makes wait without spinning. The verbs are imported when they are first named.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastad.base.processors import wait_passively

wait_passively()

import fastad.envs  # noqa: E402, F401  registers
from fastad.base.provenance import __version__ as __version__  # noqa: E402

if TYPE_CHECKING:
    from fastad import histories
    from fastad.api import collect, rollout, train
    from fastad.api.compare import compare
    from fastad.api.convert import convert
    from fastad.api.report import report
    from fastad.compare_config import CompareConfig
    from fastad.configs import CollectConfig, RolloutConfig, TrainConfig
    from fastad.evaluate.comparison_files import Comparison
    from fastad.evaluate.result import Result
    from fastad.histories.reader import HistoryDataset
    from fastad.model.config import ModelConfig
    from fastad.presets import Preset, preset
    from fastad.report_config import ReportConfig
    from fastad.training.run import Run
    from fastad.training.settings import TrainSettings

__all__ = [
    "CollectConfig",
    "CompareConfig",
    "Comparison",
    "HistoryDataset",
    "ModelConfig",
    "Preset",
    "ReportConfig",
    "Result",
    "RolloutConfig",
    "Run",
    "TrainConfig",
    "TrainSettings",
    "collect",
    "compare",
    "convert",
    "histories",
    "preset",
    "report",
    "rollout",
    "train",
]

_MODULES = {
    "CollectConfig": "fastad.configs",
    "CompareConfig": "fastad.compare_config",
    "Comparison": "fastad.evaluate.comparison_files",
    "HistoryDataset": "fastad.histories.reader",
    "ModelConfig": "fastad.model.config",
    "Preset": "fastad.presets",
    "ReportConfig": "fastad.report_config",
    "Result": "fastad.evaluate.result",
    "RolloutConfig": "fastad.configs",
    "Run": "fastad.training.run",
    "TrainConfig": "fastad.configs",
    "TrainSettings": "fastad.training.settings",
    "collect": "fastad.api",
    "compare": "fastad.api.compare",
    "convert": "fastad.api.convert",
    "preset": "fastad.presets",
    "report": "fastad.api.report",
    "rollout": "fastad.api",
    "train": "fastad.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name == "histories":
        return import_module("fastad.histories")
    if name not in _MODULES:
        raise AttributeError(f"module 'fastad' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
