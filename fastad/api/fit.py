"""What `train` does with its config."""

import logging
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from fastad.api.gather import how_to_finish
from fastad.base.errors import UserError
from fastad.base.progress import Report, unwatched
from fastad.configs import TrainConfig, check_env
from fastad.evaluate.learning_curve import LearningCurve
from fastad.histories.reader import HistoryDataset
from fastad.methods.registry import make_method
from fastad.model.sequence_model import SequenceModel
from fastad.sources.registry import is_at_hand
from fastad.training import trainer
from fastad.training.checkpoint_folder import list_checkpoints, step_of
from fastad.training.numerics import Numerics, settle
from fastad.training.run import Run
from fastad.training.run_files import begun_numerics, read_config
from fastad.training.run_folder import open_run

_logger = logging.getLogger(__name__)


class _Opened(NamedTuple):
    """Everything that a training needs, with nothing written yet."""

    config: TrainConfig
    numerics: Numerics
    dataset: HistoryDataset
    num_steps: int
    method: Any
    model: SequenceModel
    evaluate: LearningCurve | None


def fit(config: TrainConfig, progress: Report | None) -> Run:
    """Open what is needed, or refuse it; then fit."""
    config, numerics, dataset, num_steps, method, model, evaluate = open_training(config)
    settings, out = config.settings, config.folder
    with open_run(
        out, replace(config, out=out), data=config.data, numerics=numerics.facts,
        resume=config.resume, overwrite=config.overwrite, extend=config.extend,
    ) as run:  # fmt: skip
        checkpoints = list_checkpoints(out)
        done = (step_of(checkpoints[-1]) or 0) if checkpoints else 0
        records = run.forget_metrics_after(done)
        _announce(config, dataset, num_steps, model, numerics, done)
        report = progress or unwatched
        report(done, settings.updates)

        def log(step: int, metrics: dict[str, Any]) -> None:
            run.log(step, metrics)
            report(step, settings.updates, **metrics)

        trainer.train(
            model, method, settings, run=out, log=log, evaluate=evaluate,
            evaluated=max((r["step"] for r in records if "eval_last" in r), default=0),
        )  # fmt: skip
    return Run(out)


def open_training(config: TrainConfig) -> _Opened:
    """Open what a training needs, but its run; nothing is written.

    Raises:
        UserError: If settings and data do not go together.
    """
    config = _extended(config)
    settings, out = config.settings, config.folder
    numerics = settle(
        config.model, kernels=config.kernels, device=config.device, threads=config.threads,
        precision=settings.precision,
        begun=begun_numerics(out) if config.resume else None,
    )  # fmt: skip
    dataset = _open_data(config)
    check_env(config.env, dataset.info.env, config.data)
    if config.method == "rl2" and settings.window is None:
        # Kept in the run: a rollout is as long.
        settings = replace(settings, window=_trial(dataset))
        config = replace(config, settings=settings)
    num_steps = settings.window or _whole_history(dataset, settings.every_kth_episode)
    sizes = {"num_steps": num_steps, "batch_size": settings.batch_size, "seed": settings.seed}
    method = make_method(config.method, dataset, **sizes, **_of_method(config))
    torch.manual_seed(settings.seed)
    model = method.build_model(config.model).to(numerics.device)
    model.kernels = config.kernels
    model.check_length(num_steps * config.model.tokens_per_step)
    model.check_window(config.eval_context)
    evaluate = _learning_curve(config, dataset, num_steps, model)
    return _Opened(config, numerics, dataset, num_steps, method, model, evaluate)


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


def _open_data(config: TrainConfig) -> HistoryDataset:
    """The dataset, if it is complete."""
    settings, dataset = config.settings, HistoryDataset(config.data)
    if settings.target == "sampled" and dataset.info.action_noise > 0:
        _logger.info(
            f"target=sampled learns from the executed actions, {dataset.info.action_noise:.0%} of "
            "which are random; --target policy learns from the stored distribution "
            f"({dataset.info.noise_labels})"
        )
    if not dataset.complete:
        fix = f"finish it with: {how_to_finish(config.data, dataset.info)}"
        if not is_at_hand(dataset.info.source):
            fix = "nothing here can go on with it; write it anew"
        raise UserError(
            f"data={config.data} is not complete ({'; '.join(dataset.unfinished[:3])}); {fix}"
        )
    return dataset


def _whole_history(dataset: HistoryDataset, every_kth_episode: int) -> int:
    """Steps of a window that shows every k-th episode of a history, first to last."""
    num_steps = dataset.num_steps // every_kth_episode
    if num_steps == 0:
        raise UserError(
            f"every_kth_episode={every_kth_episode} leaves no step of the {dataset.num_steps} of "
            f"a history; use at most {dataset.num_steps // dataset.info.episode_length}"
        )
    return num_steps


def _trial(dataset: HistoryDataset) -> int:
    """Steps of a trial where nobody chose: 10 episodes, 200 steps of short ones, or a history."""
    return min(dataset.num_steps, max(10 * dataset.info.episode_length, 200))


def _of_method(config: TrainConfig) -> dict[str, Any]:
    """What a method can be told besides sizes."""
    if config.method == "rl2":
        return {"config": config.rl2}
    names = ("target", "start", "every_kth_episode", "subsample", "cut", "auxiliary_weight")
    told = {name: getattr(config.settings, name) for name in names}
    if config.method == "dpt":
        told["unordered"] = config.model.layout == "unordered"
    return told


def _learning_curve(
    config: TrainConfig, dataset: HistoryDataset, num_steps: int, model: SequenceModel
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


def _announce(
    config: TrainConfig,
    dataset: HistoryDataset,
    num_steps: int,
    model: SequenceModel,
    numerics: Numerics,
    done: int,
) -> None:
    """Say what is trained by what, and what is no longer as the run was begun."""
    settings, info = config.settings, dataset.info
    parameters = sum(p.numel() for p in model.parameters())
    _logger.info(
        f"train {config.folder}: {parameters:,} parameters, {settings.updates} updates of "
        f"{settings.batch_size} x {num_steps} steps on {numerics.device}"
        + (f", continuing after update {done}" if done else "")
    )
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
