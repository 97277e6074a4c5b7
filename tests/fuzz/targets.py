"""What is done with a fuzzed file: everything that reads it, without a command around it."""

import io
import math
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

import fastad
from fastad.base.config import from_plain, load_config, to_plain
from fastad.base.errors import UserError
from fastad.base.files import as_json
from fastad.commands.inspect import InspectConfig, run_inspect
from fastad.compare_config import CompareConfig
from fastad.configs import CollectConfig, RolloutConfig, TrainConfig
from fastad.evaluate.result import Result
from fastad.evaluate.task_set import load_task_set
from fastad.histories.formats.xland import COLUMNS
from fastad.histories.histories import Histories
from fastad.histories.opening import description_files, open_histories
from fastad.histories.reader import HistoryDataset
from fastad.histories.summary import learned, summarize
from fastad.histories.verify import verify_dataset
from fastad.training.checkpoint import (
    load_model,
    read_training_state,
    restore_optimizers,
    restore_weights,
)
from fastad.training.optimizers import make_optimizers
from fastad.training.run import Run
from fastad.training.run_files import begun_numerics, episodes_per_window, taught
from fastad.training.run_folder import _check_continued
from fastad.training.settings import TrainSettings
from fastad.training.verify import verify_whole_run
from tests.fuzz.foreign import MINARI, MODEL, PARQUET, XLAND
from tests.fuzz.samples import CHECKPOINT, DATA, RESULT, RUN

OUT = "out"  # where conversions go
COMMANDS = {
    "collect": CollectConfig,
    "train": TrainConfig,
    "rollout": RolloutConfig,
    "compare": CompareConfig,
}


@dataclass(frozen=True)
class Target:
    """Files of one kind, and what reads them.

    Attributes:
        files: Patterns of paths in the folder of samples.
        read: Given that folder and the changed file's path in it; raises UserError, or nothing.
        notices: Given that folder; whether a change that no digest was fitted to is noticed.
    """

    files: tuple[str, ...]
    read: Callable[[Path, str], object]
    notices: Callable[[Path], bool]


def _read_dataset(folder: Path, name: str) -> None:
    _check(HistoryDataset(folder / DATA))


def _check(dataset: Histories) -> None:
    """What is consistent in itself, of histories that were opened."""
    for history in range(min(dataset.num_histories, 8)):
        steps = dataset.read(history, 0, int(dataset.lengths[history]))
        assert {len(column) for column in steps.values()} == {int(dataset.lengths[history])}
        bounds = dataset.episode_bounds(history)
        assert bounds[0] == 0
        assert bounds[-1] == dataset.lengths[history]
    summarize(dataset)
    again = type(dataset.info).from_json(dataset.info.to_json())
    assert again.settings() == dataset.info.settings()
    learned(dataset)


def _read_parquet(folder: Path, name: str) -> None:
    _convert(folder / name, folder / OUT)


def _read_minari(folder: Path, name: str) -> None:
    _convert(folder / Path(*Path(name).parts[:2]), folder / OUT)


def _read_xland(folder: Path, name: str) -> None:
    """As it lies, as a run keeps it, and converted."""
    histories = open_histories(folder / name)
    _check_own(folder / name, [f"{group}/{column}" for group in range(2) for column in COLUMNS])
    with suppress(UserError):  # of code that the file names
        _check(histories)
    last = histories.num_histories - 1
    steps = histories.read(last, 0, int(histories.lengths[last]))
    into = {name: np.zeros((1, *column.shape), column.dtype) for name, column in steps.items()}
    histories.gather(np.array([last]), np.arange(histories.lengths[last])[None], into)
    for column, values in steps.items():
        np.testing.assert_array_equal(into[column][0], values)
    assert len(histories.fingerprint()) == 12
    description_files(folder / name)
    _convert(folder / name, folder / OUT)
    again = HistoryDataset(folder / OUT).read(last, 0, int(histories.lengths[last]))
    for column, values in steps.items():
        np.testing.assert_array_equal(again[column], values)


def _check_own(file: Path, names: list[str]) -> None:
    """Whether what was read of an HDF5 file lies in it."""
    with h5py.File(file) as stream:
        for name in (name for name in names if name.partition("/")[0] in stream):
            group, _, last = name.rpartition("/")
            links = [stream.get(group, getlink=True), stream[group].get(last, getlink=True)]
            assert {type(link) for link in links} == {h5py.HardLink}
            assert not stream[name].is_virtual
            assert not stream[name].external


def _convert(source: Path, out: Path) -> None:
    fastad.convert(source, out)
    dataset = HistoryDataset(out)
    assert dataset.complete
    assert not verify_dataset(out).wrong
    with suppress(UserError):  # of an environment that is not possible
        _check(dataset)


def _read_model(folder: Path, name: str) -> None:
    """As `rollout` and `inspect` read the folder of a model."""
    path = folder / MODEL
    run = Run(path)
    model = run.model()
    assert model.actions.num_params > 0
    load_task_set(path, split="test", num_tasks=None, repeats=None, seed=0)
    episodes_per_window(path, run.dataset_info)
    taught(path)
    assert run.summary()["updates_done"] == run.updates >= 0
    assert len(run.train_tasks) == run.dataset_info.num_train
    assert math.isfinite(run.train_seconds)
    assert isinstance(run.kind, str)
    assert run.seed >= 0
    _inspect(path)


def _inspect(path: Path) -> None:
    with redirect_stdout(io.StringIO()):
        run_inspect(InspectConfig(path))


def _read_checkpoint(folder: Path, name: str) -> None:
    model = load_model(folder / RUN)
    optimizers = make_optimizers(model, TrainSettings())
    state = read_training_state(folder / CHECKPOINT)
    restore_weights(model, state)
    restore_optimizers(model, optimizers, state)
    assert isinstance(state.step, int)
    assert isinstance(state.train_seconds, float)


def _read_run(folder: Path, name: str) -> None:
    run = folder / RUN
    summary = Run(run).summary()
    episodes_per_window(run, Run(run).dataset_info)
    taught(run)
    begun_numerics(run)
    load_task_set(run, split="test", num_tasks=None, repeats=None, seed=0)
    with suppress(UserError):
        _check_continued(run, TrainConfig(), run / "dataset", True, None)
    assert isinstance(summary["updates_done"], int)
    _read_config(folder)


def _read_config(folder: Path) -> None:
    """As `--config` of every command reads it."""
    for command, kind in COMMANDS.items():
        try:
            config = load_config(folder / RUN / "config.yaml", command, kind)
        except UserError:
            continue
        assert from_plain(to_plain(config), kind, "again") == config


def _read_result(folder: Path, name: str) -> None:
    result = Result.load(folder / RESULT)
    result.conditions  # noqa: B018
    again = Result._of_json(as_json(result.to_json()))
    np.testing.assert_array_equal(again.returns, result.returns)
    assert again.conditions == result.conditions


def _dataset_notices(folder: Path) -> bool:
    verdict = verify_dataset(folder / DATA)
    return bool(verdict.wrong or verdict.unknown)


def _run_notices(folder: Path) -> bool:
    verdict = verify_whole_run(folder / RUN)
    return bool(verdict.wrong or verdict.unknown)


def _everything(folder: Path) -> bool:
    return True


TARGETS = {
    "dataset": Target((f"{DATA}/dataset.json",), _read_dataset, _dataset_notices),
    "meta": Target((f"{DATA}/shard-00000/meta.json",), _read_dataset, _dataset_notices),
    "npy": Target((f"{DATA}/*.npy", f"{DATA}/shard-00000/*.npy"), _read_dataset, _dataset_notices),
    "checkpoint": Target((f"{CHECKPOINT}/*",), _read_checkpoint, _run_notices),
    "config": Target(
        tuple(
            f"{RUN}/{name}"
            for name in (
                *("config.yaml", "made_by.json", "manifest.json", "metrics.jsonl"),
                "dataset/*",
            )
        ),
        _read_run,
        _run_notices,
    ),
    "result": Target((RESULT,), _read_result, _everything),
    "parquet": Target((f"{PARQUET}/*.parquet",), _read_parquet, _everything),
    "minari": Target(
        (f"{MINARI}/*/data/*.hdf5", f"{MINARI}/*/data/*.json", f"{MINARI}/*/data/*/*"),
        _read_minari,
        _everything,
    ),
    "xland": Target((XLAND,), _read_xland, _everything),
    "hugging-face": Target(
        (f"{MODEL}/config.json", f"{MODEL}/*.safetensors", f"{MODEL}/dataset/*"),
        _read_model,
        _everything,
    ),
}
