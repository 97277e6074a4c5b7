"""What `train` does with its config."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from fastad.api.gather import how_to_finish
from fastad.base.config import to_plain
from fastad.base.errors import UserError
from fastad.base.progress import Report, unwatched
from fastad.base.provenance import __version__
from fastad.base.trust import check_calls
from fastad.configs import TrainConfig
from fastad.envs.registry import check_env
from fastad.evaluate.learning_curve import LearningCurve
from fastad.histories.histories import Histories
from fastad.histories.opening import open_histories
from fastad.histories.reader import HistoryDataset
from fastad.histories.verify import check_columns
from fastad.methods.registry import make_method
from fastad.model.sequence_model import SequenceModel
from fastad.sources.registry import is_at_hand, is_own_class
from fastad.training import trainer
from fastad.training.checkpoint_folder import KEEP, list_checkpoints, step_of, tidy_checkpoints
from fastad.training.numerics import BY_ITSELF, Numerics, settle
from fastad.training.ranks import ALONE, Ranks, local_device, open_ranks
from fastad.training.run import Run
from fastad.training.run_files import begun_numerics, read_config
from fastad.training.run_folder import RunFolder, open_run
from fastad.training.settings import TrainSettings
from fastad.training.trackers import check_trackers
from fastad.training.tracking import Tracking, track

_logger = logging.getLogger(__name__)


class _Opened(NamedTuple):
    """Everything that a training needs, with nothing written yet."""

    config: TrainConfig
    numerics: Numerics
    dataset: Histories
    num_steps: int
    method: Any
    model: SequenceModel
    evaluate: LearningCurve | None


def fit(config: TrainConfig, progress: Report | None) -> Run:
    """Open what is needed, or refuse it; then fit. Each of several ranks calls this."""
    with open_ranks(config.device) as ranks, ExitStack() as stack:
        ranks.check_same(_to_agree_on(config))
        opened = open_training(config, ranks)
        ranks.check_same({"data": opened.dataset.fingerprint()})
        report = progress or unwatched
        # Of the first rank alone: what it opens is closed before the others go on.
        logs: list[Callable[[int, dict[str, Any]], None]] = []

        def begin() -> int:
            run = stack.enter_context(_open_run(opened.config, opened.numerics))
            done, evaluated, tracking = _begin(run, opened)
            logs.extend([run.log, stack.enter_context(tracking).log])
            _announce(opened, ranks, done)
            report(done, opened.config.settings.updates)
            return evaluated

        def log(step: int, metrics: dict[str, Any]) -> None:
            for tell in logs:
                tell(step, metrics)
            report(step, opened.config.settings.updates, **metrics)

        evaluated = ranks.from_first(begin)
        config = opened.config
        trainer.train(
            opened.model, opened.method, config.settings, run=config.folder, log=log,
            evaluate=opened.evaluate, evaluated=evaluated, ranks=ranks, layout=config.parallel,
            accumulate=config.accumulate,
        )  # fmt: skip
    return Run(config.folder)


def _open_run(config: TrainConfig, numerics: Numerics) -> AbstractContextManager[RunFolder]:
    out = config.folder
    return open_run(
        out, replace(config, out=out), data=config.data, numerics=numerics.facts,
        resume=config.resume, overwrite=config.overwrite, extend=config.extend,
    )  # fmt: skip


def _begin(run: RunFolder, opened: _Opened) -> tuple[int, int, AbstractContextManager[Tracking]]:
    """Tidy up; returns the updates done, the last after which it was looked at, the trackers."""
    tidy_checkpoints(run.path, keep=KEEP)
    checkpoints = list_checkpoints(run.path)
    done = (step_of(checkpoints[-1]) or 0) if checkpoints else 0
    records, forgotten = run.forget_metrics_after(done)
    evaluated = max((r["step"] for r in records if "eval_last" in r), default=0)
    config = opened.config
    tracking = track(
        config.track, run, project=config.track_project,
        hyperparameters=to_plain(config) | {"dataset": opened.dataset.info.settings()},
        done=done, records=records, told=forgotten,
    )  # fmt: skip
    return done, evaluated, tracking


def open_training(config: TrainConfig, ranks: Ranks = ALONE) -> _Opened:
    """Open what a training needs, but its run; nothing is written.

    Args:
        config: Of the training.
        ranks: Who trains; all of them call this, and end with the same choices.

    Raises:
        UserError: If settings and data do not go together.
    """
    _check_parts(config, ranks)
    ranks.on_first(lambda: check_trackers(config.track))
    asked = config
    config, begun = ranks.from_first(lambda: _as_begun(asked))
    config = replace(config, data=asked.data, threads=asked.threads)
    numerics = ranks.on_first(lambda: _settle(config, begun, ranks))
    # What is quickest differs from machine to machine, and from moment to moment.
    facts = ranks.from_first(lambda: None if numerics is None else numerics.facts)
    settled = ranks.together(lambda: numerics or _settle(config, facts, ranks))
    return ranks.together(lambda: _open(config, settled, ranks))


def _open(config: TrainConfig, numerics: Numerics, ranks: Ranks) -> _Opened:
    dataset, settings = _open_data(config), config.settings
    check_env(config.env, dataset.info.env, config.data)
    if config.method == "rl2" and settings.window is None:
        # Kept in the run: a rollout is as long.
        settings = replace(settings, window=_trial(dataset))
        config = replace(config, settings=settings)
    num_steps = settings.window or _whole_history(dataset, settings)
    sizes = {
        "num_steps": num_steps, "batch_size": settings.batch_size // ranks.size,
        "seed": settings.seed, "rank": ranks.rank, "world_size": ranks.size,
    }  # fmt: skip
    method = make_method(config.method, dataset, **sizes, **_of_method(config))
    torch.manual_seed(settings.seed)
    model = method.build_model(config.model).to(numerics.device)
    model.kernels = config.kernels
    if settings.activation_checkpointing:
        model.checkpoint_activations()
    model.check_length(num_steps * config.model.tokens_per_step)
    model.check_window(config.eval_context)
    evaluate = _learning_curve(config, dataset, num_steps, model)
    return _Opened(config, numerics, dataset, num_steps, method, model, evaluate)


def _settle(config: TrainConfig, begun: dict[str, Any] | None, ranks: Ranks) -> Numerics:
    layout = BY_ITSELF | {"accumulate": config.accumulate}
    if ranks.size > 1:
        layout |= {"ranks": ranks.size, "parallel": config.parallel}
    return settle(
        config.model, kernels=config.kernels, device=local_device(config.device),
        threads=config.threads, precision=config.settings.precision, begun=begun, layout=layout,
    )  # fmt: skip


def _to_agree_on(config: TrainConfig) -> dict[str, Any]:
    """What has to be the same on every rank, by name; where data and threads are may differ."""
    facts: dict[str, Any] = {"fastad": __version__, "torch": torch.__version__}
    for name, value in to_plain(config).items():
        facts |= value if isinstance(value, dict) else {name: value}
    return {name: value for name, value in facts.items() if name not in ("data", "threads")}


def _check_parts(config: TrainConfig, ranks: Ranks) -> None:
    """Refuse a batch that cannot be dealt out in equal parts, which draw what the whole would."""
    batch_size, parts = config.settings.batch_size, ranks.size * config.accumulate
    dropout = config.model.attention_dropout
    if config.settings.pack and dropout > 0.0 and parts > 1:
        raise ranks.agreed(
            UserError(
                f"pack=True with attention_dropout={dropout} draws by where contexts stand in the "
                f"whole batch, which its {parts} parts do not see; use attention_dropout=0 "
                "(dropout may stay), or one rank and accumulate=1"
            )
        )
    if batch_size % parts == 0:
        return
    low, high = batch_size // parts * parts, (batch_size // parts + 1) * parts
    raise ranks.agreed(
        UserError(
            f"batch_size={batch_size} cannot be dealt out over ranks={ranks.size} x "
            f"accumulate={config.accumulate}; use a multiple of {parts}, as "
            + (f"{low} or {high}" if low else f"{high}")
        )
    )


def _as_begun(config: TrainConfig) -> tuple[TrainConfig, dict[str, Any] | None]:
    """The config, extended if it asks for that, and what decided the bits of a run to continue."""
    config = _extended(config)
    return config, begun_numerics(config.folder) if config.resume else None


def _extended(config: TrainConfig) -> TrainConfig:
    """The config with as many updates in all as `extend` asks for."""
    out = config.folder
    if config.extend is None:
        return config
    if config.overwrite:
        raise UserError("--extend and --overwrite contradict each other; choose one")
    if begun_numerics(out) is None:
        raise UserError(f"extend={config.extend} needs a finished run, and out={out} holds none")
    updates = read_config(out)["settings"]["updates"] + config.extend
    return replace(config, resume=True, settings=replace(config.settings, updates=updates))


def _open_data(config: TrainConfig) -> Histories:
    """The dataset, if it is complete."""
    settings, dataset = config.settings, open_histories(config.data)
    if settings.target == "sampled" and dataset.info.action_noise > 0:
        _logger.info(
            f"target=sampled learns from the executed actions, {dataset.info.action_noise:.0%} of "
            "which are random; --target policy learns from the stored distribution "
            f"({dataset.info.noise_labels})"
        )
    if not dataset.complete:
        fix = f"finish it with: {how_to_finish(config.data, dataset.info)}"
        source = dataset.info.source
        if not (is_own_class(source) or is_at_hand(source)):
            fix = "go on with it by fastad.histories.create(..., resume=True), or write it anew"
        raise UserError(
            f"data={config.data} is not complete ({'; '.join(dataset.unfinished[:3])}); {fix}"
        )
    # Of RL^2 no history is read, and files of others have no digests.
    if config.method != "rl2" and isinstance(dataset, HistoryDataset):
        check_columns(config.data, dataset.info)
    return dataset


def _whole_history(dataset: Histories, settings: TrainSettings) -> int:
    """Steps of a window that shows every k-th episode of a history, first to last.

    Of the shortest, or of the longest where others follow what is shorter.
    """
    every_kth_episode = settings.every_kth_episode
    of_history = int(dataset.lengths.max()) if settings.pack else dataset.num_steps
    num_steps = of_history // every_kth_episode
    if num_steps == 0:
        raise UserError(
            f"every_kth_episode={every_kth_episode} leaves no step of the {of_history} of "
            f"a history; use at most {of_history // dataset.info.episode_length}"
        )
    return num_steps


def _trial(dataset: Histories) -> int:
    """Steps of a trial where nobody chose: 10 episodes, 200 steps of short ones, or a history."""
    return min(dataset.num_steps, max(10 * dataset.info.episode_length, 200))


def _of_method(config: TrainConfig) -> dict[str, Any]:
    """What a method can be told besides sizes."""
    if config.method == "rl2":
        return {"config": config.rl2}
    names = (
        "target", "start", "every_kth_episode", "subsample", "cut", "pack", "auxiliary_weight",
    )  # fmt: skip
    told = {name: getattr(config.settings, name) for name in names}
    if config.method == "dpt":
        told["unordered"] = config.model.layout == "unordered"
    return told


def _learning_curve(
    config: TrainConfig, dataset: Histories, num_steps: int, model: SequenceModel
) -> LearningCurve | None:
    """What is looked at while training, if anything.

    Raises:
        UserError: If somebody asked for it, and the model cannot be rolled out so far.
    """
    settings = config.settings
    by_default = settings.eval_every is None
    if settings.curve_every == 0 or (by_default and dataset.info.num_validation == 0):
        return None
    if dataset.info.num_validation == 0:
        _logger.info(
            f"{config.data} has no validation tasks: what is looked at during training comes from "
            "its test tasks; collect with --num-validation-tasks 1 or more to keep those unseen"
        )
    # Not within the block: without a curve for want of trust, nobody would know why.
    try:
        check_calls(dataset.info.calls(), str(dataset.path))
    except UserError as error:
        raise UserError(f"{error}, or train without a curve: --eval-every 0") from error
    try:
        curve = LearningCurve(
            dataset, num_tasks=config.eval_tasks,
            num_episodes=config.eval_episodes or max(1, num_steps // dataset.info.episode_length),
            seed=settings.seed + 1, context=config.eval_context,
        )  # fmt: skip
        curve.check(model)
    except UserError as error:
        if not by_default:
            raise
        _logger.info(f"no learning curve: {error}")
        return None
    return curve


def _announce(opened: _Opened, ranks: Ranks, done: int) -> None:
    """Say what is trained by what, and what is no longer as the run was begun."""
    config, numerics, settings = opened.config, opened.numerics, opened.config.settings
    info = opened.dataset.info
    parameters = sum(p.numel() for p in opened.model.parameters())
    _logger.info(
        f"train {config.folder}: {parameters:,} parameters, {settings.updates} updates of "
        f"{settings.batch_size} x {opened.num_steps} steps on {numerics.device}"
        + (f", {ranks.size} ranks by {config.parallel}" if ranks.size > 1 else "")
        + (f", continuing after update {done}" if done else "")
    )
    if ranks.size == 1 and config.parallel != "ddp":
        _logger.info(f"parallel={config.parallel} has no other rank to share with; see torchrun")
    if config.method == "rl2":
        _logger.info(
            f"method=rl2 acts in {info.env} by itself, on the {info.num_train} train tasks of "
            f"{config.data}; no history is read"
        )
    elif info.source_knows:
        _logger.info(f"the source {info.source} knows {info.source_knows}")
    if numerics.changed:
        _logger.info(
            f"resumed with {'; '.join(numerics.changed)}: results may differ by rounding from "
            "those of an unbroken run"
        )
