"""Trackers of experiments, each an extra: where a run's log goes besides metrics.jsonl.

Whoever adds one writes a class as these and names it in `TRACKERS` and in `TrainConfig.track`.
"""

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from fastad.base.errors import UserError
from fastad.base.extras import how_to_install
from fastad.training.run_files import EVENTS_SUFFIX, TENSORBOARD

PROJECT = "fastad"  # where nobody names another


class Tracked(NamedTuple):
    """What a tracker is told of the run that it follows.

    Attributes:
        path: The run folder.
        identity: Letters and digits that no other run has.
        project: To file it under, where the tracker has projects; None if nobody chose.
        hyperparameters: The config, the dataset and the versions, as plain values.
        done: Updates that the run had done before; None if the tracker does not know it yet.
    """

    path: Path
    identity: str
    project: str | None
    hyperparameters: dict[str, Any]
    done: int | None

    @property
    def name(self) -> str:
        """What the run is called by people."""
        return self.path.resolve().name

    @property
    def group(self) -> str:
        """What the runs beside it are called together, such as those of a comparison."""
        return self.path.resolve().parent.name


class Tracker(Protocol):
    """Follows one run. Whatever it raises ends its part, never the training.

    Attributes:
        takes_back: Whether a tracker that is opened after `done` updates forgets what it was told
            of later ones. What it does not forget is not told again.
    """

    takes_back: bool

    @staticmethod
    def check() -> None:
        """Refuse what cannot track, before any work.

        Raises:
            UserError: If a package or a key is missing.
        """

    def __init__(self, run: Tracked) -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take note of figures after `step` updates; some may come later for the same step."""

    def finish(self) -> None:
        """Write what is left and let go."""


class TensorBoard:
    """Event files in the run's own folder `tensorboard`, flushed with every line."""

    takes_back = True

    @staticmethod
    def check() -> None:
        """See `Tracker.check`."""
        _import("tensorboard", "torch.utils.tensorboard")

    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        # What a killed session wrote beyond the checkpoint is taken back.
        purge = 0 if run.done is None else run.done + 1
        self._writer = SummaryWriter(
            str(run.path / TENSORBOARD), purge_step=purge, filename_suffix=EVENTS_SUFFIX
        )
        if run.done is None:
            shown = {name: _shown(value) for name, value in _flat(run.hyperparameters).items()}
            for summary in hparams(shown, {"loss": 0, "eval_last": 0}):
                self._writer._get_file_writer().add_summary(summary)
            lines = "\n".join(f"    {name}: {value}" for name, value in shown.items())
            self._writer.add_text("hyperparameters", lines)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step, double_precision=True)
        self._writer.flush()

    def finish(self) -> None:
        """See `Tracker.finish`."""
        self._writer.close()


class WandB:
    """Weights & Biases; what it keeps on this machine lies where `wandb` always has it."""

    takes_back = False

    @staticmethod
    def check() -> None:
        """See `Tracker.check`."""
        wandb = _import("wandb", "wandb")
        try:
            if wandb.setup().settings.mode in ("offline", "disabled", "dryrun"):
                return
            known = wandb.login(prompt=False)
        except (wandb.Error, ValueError, OSError) as error:
            raise UserError(f"track=wandb: {error}; {_WITHOUT_KEY}") from error
        if not known:
            raise UserError(f"track=wandb has no key; {_WITHOUT_KEY}")

    def __init__(self, run: Tracked) -> None:
        import wandb

        self._run = wandb.init(
            project=run.project or os.environ.get("WANDB_PROJECT", PROJECT), id=run.identity,
            name=run.name, group=run.group, config=run.hyperparameters, resume="allow",
            # Standard output is the progress bar's; wandb would copy every turn of it.
            settings=wandb.Settings(console="off"),
        )  # fmt: skip

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        """See `Tracker.finish`."""
        self._run.finish()


class Trackio:
    """Trackio's store on this machine (TRACKIO_DIR), or the Space that TRACKIO_SPACE_ID names."""

    takes_back = False

    @staticmethod
    def check() -> None:
        """See `Tracker.check`."""
        _import("trackio", "trackio")

    def __init__(self, run: Tracked) -> None:
        import trackio

        # It resumes by the name, which therefore has to be one of its kind.
        self._run = trackio.init(
            project=run.project or PROJECT, name=f"{run.name}-{run.identity}", group=run.group,
            resume="allow", embed=False,
            config={name: _shown(value) for name, value in _flat(run.hyperparameters).items()},
        )  # fmt: skip

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        """See `Tracker.finish`."""
        self._run.finish()


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}
_WITHOUT_KEY = "run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline and sync later"


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that cannot track; nothing is written.

    Raises:
        UserError: Naming the first of them and the fix.
    """
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"track={' '.join(names)} names {name} twice; once will do")
        TRACKERS[name].check()


def _import(extra: str, module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"track={extra} needs a package that is not installed ({error}); install it with: "
            f"{how_to_install(extra)}"
        ) from error


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under names with dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _shown(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)
