"""The training loop: short, deterministic, resumable at any update."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fastad.base.errors import UserError
from fastad.methods.base import Batch, Method
from fastad.model.heads import Output
from fastad.model.kernels import keeping_freed_memory
from fastad.model.sequence_model import SequenceModel
from fastad.model.share import Share, take_share
from fastad.training.checkpoint import (
    TrainingState,
    read_training_state,
    restore_optimizers,
    restore_weights,
    save_checkpoint,
)
from fastad.training.checkpoint_folder import list_checkpoints
from fastad.training.optimizers import make_optimizers, set_learning_rate
from fastad.training.parallel import Layout, make_trained
from fastad.training.ranks import ALONE, Ranks
from fastad.training.read_ahead import ReadAhead
from fastad.training.schedule import learning_rate_factor
from fastad.training.settings import TrainSettings

Evaluation = Callable[[SequenceModel], dict[str, Any]]


class Log(Protocol):
    """Receives what happens during training."""

    def __call__(self, step: int, metrics: dict[str, Any]) -> None:
        """Take note of `metrics` after `step` updates."""
        ...


def train(
    model: SequenceModel,
    method: Method,
    settings: TrainSettings,
    *,
    run: Path,
    log: Log,
    evaluate: Evaluation | None = None,
    evaluated: int = 0,
    ranks: Ranks = ALONE,
    layout: Layout = "ddp",
    accumulate: int = 1,
) -> float:
    """Fit `model` to the batches of `method`, from the newest checkpoint of `run` if any.

    On a CPU, with the same number of threads, a run that was killed and started again ends with
    the same weights, bit for bit, as one that was not: batches and dropout depend on
    weights, seed and update alone. On GPUs some of PyTorch's kernels add in no fixed order.

    Args:
        model: On the device to train on; mutated.
        method: Gives batches and losses, and figures of its own for the log.
        settings: See `TrainSettings`.
        run: The run folder, where checkpoints are written and resumed from.
        log: Called every `log_every` updates and after every evaluation.
        evaluate: Called with the model in evaluation mode every `curve_every` updates, and at
            the end.
        evaluated: The last update after which an earlier session called it: one that was stopped
            between its last update and the evaluation owes this one.
        ranks: Who trains; all of them call this, and the first alone logs, evaluates and writes.
        layout: How they share the model; see `make_trained`.
        accumulate: Parts that each of them takes its rows of a batch in. As ranks do, it changes
            results by rounding only.

    Returns:
        Seconds spent on updates, evaluation excluded, over all sessions.

    Raises:
        UserError: If a loss or gradient is not finite; the last good checkpoint stays.
    """
    parallel = (ranks, layout, accumulate)
    return _Training(model, method, settings, run, log, evaluate, evaluated, *parallel).fit()


class _Training:
    """The state of one call of `train`."""

    def __init__(
        self,
        model: SequenceModel,
        method: Method,
        settings: TrainSettings,
        run: Path,
        log: Log,
        evaluate: Evaluation | None,
        evaluated: int,
        ranks: Ranks,
        layout: Layout,
        accumulate: int,
    ) -> None:
        self.model, self.method, self.settings = model, method, settings
        self.run, self.log, self.evaluate, self.evaluated = run, log, evaluate, evaluated
        self.ranks, self.accumulate = ranks, accumulate
        self.device = next(model.parameters()).device
        self.batches = ReadAhead(method, self.device, stop=settings.updates)
        kept = ranks.from_first(self._newest)
        if kept is not None:
            ranks.together(lambda: restore_weights(model, kept))
        self.trained = make_trained(
            model, ranks, layout=layout, compile=settings.compile, acts=method.follows_weights
        )
        self.share = self._make_share()
        self.optimizers = make_optimizers(self.trained.model, settings)
        self.step, self.seconds = 0, 0.0
        if kept is not None:
            ranks.together(lambda: restore_optimizers(self.trained.model, self.optimizers, kept))
            self.step, self.seconds = kept.step, kept.train_seconds
        self.clock = time.perf_counter()  # up to where `seconds` has been counted
        # Since the last line of the log.
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.figures: list[dict[str, Tensor]] = []
        self.num_steps = 0
        self.is_whole = True  # no update is half done, nor lacks its line in the log

    def _newest(self) -> TrainingState | None:
        checkpoints = list_checkpoints(self.run)
        return read_training_state(checkpoints[-1]) if checkpoints else None

    def _make_share(self) -> Share | None:
        """Room for the numbers of the rows that the model is shown at once, where not all are."""
        if self.ranks.size * self.accumulate == 1:
            return None
        total = self.settings.batch_size
        rows = torch.zeros(total // self.ranks.size // self.accumulate, dtype=torch.int64)
        share = Share(rows.to(self.device), total)
        take_share(self.trained.model, share)
        return share

    def fit(self) -> float:
        settings = self.settings
        self._note_logged()
        self.clock = time.perf_counter()
        with (
            keeping_freed_memory(), self.ranks.training(), self._checkpoint_on_interrupt(),
            self.batches,
        ):  # fmt: skip
            if self.step > 0:
                self._evaluate_if_due()
            while self.step < settings.updates:
                # Its line of the log too: the checkpoint of this update will say it is written.
                with self.ranks.update():
                    norm = self._update()
                    last = self.step == settings.updates
                    if last or self.step % settings.log_every == 0:
                        self._log_updates(norm)
                # Before the checkpoint: a kill in between repeats the evaluation.
                self._evaluate_if_due()
                if last or _due(self.step, settings.checkpoint_every):
                    self._checkpoint()
        return self.seconds

    def _log_updates(self, norm: Tensor) -> None:
        """Log what happened since the last line, or since this session began.

        Args:
            norm: Of the last update's gradient.
        """
        loss = self._check_finite()
        seconds = self.seconds - self.logged_seconds
        metrics = {
            "loss": loss,
            **{name: self._mean_figure(name) for name in self.figures[-1]},
            "learning_rate": self.optimizers[-1].param_groups[0]["lr"],
            "gradient_norm": norm.item(),
            "steps_per_second": self.num_steps / seconds,
            "data_wait_share": (self.batches.waited - self.logged_wait) / seconds,
            "train_seconds": self.seconds,
        }
        try:
            self.ranks.on_first(lambda: self.log(self.step, metrics))
        except OSError as error:
            # A file, not a terminal: whoever went on after this update would never write its line.
            self.is_whole = error.filename is None
            raise
        self.losses, self.norms, self.figures, self.num_steps = [], [], [], 0
        self._note_logged()

    def _mean_figure(self, name: str) -> float:
        mean = torch.stack([figures[name] for figures in self.figures]).mean()
        return self.ranks.mean(mean).item()

    def _note_logged(self) -> None:
        self.logged_seconds = self.seconds
        self.logged_wait = self.batches.waited

    def _update(self) -> Tensor:
        """One gradient update; returns the gradient's norm before clipping."""
        settings = self.settings
        if self.method.follows_weights:
            self.trained.write_to(self.model, everywhere=True)
        batch = self.batches.batch(self.step)
        if not self.trained.model.training:
            self.trained.model.train()
        set_learning_rate(self.optimizers, learning_rate_factor(self.step, settings))
        if self.trained.is_unsettled:
            self._gradient(batch)
            self._forget_gradient()
            self.trained.is_unsettled = False
        loss, figures = self._gradient(batch)
        norm = self.trained.clip(settings.clip if settings.clip > 0 else float("inf"))
        self.is_whole = False
        for optimizer in self.optimizers:
            optimizer.step()
        self._forget_gradient()
        self.losses.append(loss)
        self.norms.append(norm)
        self.figures.append(figures)
        self.num_steps += batch.steps.previous_action.numel() * self.ranks.size
        self.step += 1
        self.is_whole = True
        return norm

    def _gradient(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Leave the gradient of the whole batch with the parameters; returns its loss and figures.

        Both are of this rank's rows, to be averaged over ranks.
        """
        parts = batch.split(self.accumulate)
        has_moments = self.method.has_moments and self.share is not None
        moments = self._moments(parts) if has_moments and len(parts) > 1 else None
        losses, figures = [], []
        for index, part in enumerate(parts):
            with self.trained.exchanging(index == len(parts) - 1):
                output = self._predict(part, index)
                if has_moments and moments is None:
                    moments = self.ranks.total(self.method.moments(output, part))
                told = {} if moments is None else {"moments": moments}
                told = {**part.targets, **told}
                loss, figure = self.method.loss(output, part._replace(targets=told))
                (loss / len(parts)).backward()
            losses.append(loss.detach())
            figures.append(figure)
        if len(parts) == 1:
            return losses[0], figures[0]
        means = {name: torch.stack([f[name] for f in figures]).mean() for name in figures[0]}
        return torch.stack(losses).mean(), means

    def _forget_gradient(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _moments(self, parts: list[Batch]) -> Tensor:
        """What the loss of each part has to know of all: found by looking at all of them first."""
        with torch.no_grad():
            outputs = (self._predict(part, index) for index, part in enumerate(parts))
            pairs = zip(outputs, parts, strict=True)
            found = torch.stack([self.method.moments(output, part) for output, part in pairs])
        return self.ranks.total(found.sum(dim=0))

    def _predict(self, part: Batch, index: int) -> Output:
        """The model's output for a part of this rank's rows."""
        if self.share is not None:
            size = len(self.share.rows)
            first = (self.ranks.rank * self.accumulate + index) * size
            torch.arange(first, first + size, out=self.share.rows)
        # Dropout depends on the update alone, so that a resumed run repeats it; and all parts of a
        # batch have theirs of the same draw.
        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)
        with self._autocast():
            return self.trained.forward(part.steps)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _check_finite(self) -> float:
        """Mean loss since the last line of the log; one question to the device for all of them.

        Waiting for the answer also makes the time that the updates took known.

        Raises:
            UserError: If a loss or a gradient was not finite: the weights are lost.
        """
        if not self.losses:
            return float("nan")
        losses, norms = self.ranks.mean(torch.stack(self.losses)), torch.stack(self.norms)
        finite = losses.isfinite() & norms.isfinite()
        all_finite = bool(finite.all())
        now = time.perf_counter()
        self.seconds += now - self.clock
        self.clock = now
        if not all_finite:
            first = int((~finite).nonzero()[0])
            kept = list_checkpoints(self.run)
            error = UserError(
                f"loss={losses[first].item()}, gradient_norm={norms[first].item()} at update "
                f"{self.step - len(losses) + first}: training stopped; "
                + (f"last good checkpoint: {kept[-1]}; " if kept else "no checkpoint yet; ")
                + "lower learning_rate or muon_learning_rate and train into a new --out"
            )
            raise self.ranks.agreed(error)
        return losses.mean().item()

    def _checkpoint(self) -> None:
        self._check_finite()
        save_checkpoint(
            self.run, self.step, self.model, self.optimizers, train_seconds=self.seconds,
            trained=self.trained, ranks=self.ranks,
        )  # fmt: skip
        self.clock = time.perf_counter()

    def _evaluate_if_due(self) -> None:
        settings = self.settings
        is_due = self.step == settings.updates or _due(self.step, settings.curve_every)
        if self.evaluate is None or not is_due or self.evaluated == self.step:
            return
        self._check_finite()
        self.trained.write_to(self.model, everywhere=False)
        self.ranks.on_first(self._evaluate, long=True)
        self.evaluated = self.step
        self.clock = time.perf_counter()

    def _evaluate(self) -> None:
        assert self.evaluate is not None
        self.model.eval()
        self.log(self.step, self.evaluate(self.model))

    @contextmanager
    def _checkpoint_on_interrupt(self) -> Iterator[None]:
        """When a signal or a lost output ends the training, keep every whole update."""
        try:
            yield
        except (KeyboardInterrupt, OSError):
            if self.is_whole:
                self._checkpoint()
            raise


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
