"""The verbs: what a program asks of fastad. The commands call them, too, and print.

They are quiet: what there is to say goes to the logger "fastad", how far they are to `progress`.
"""

import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastad.acting.interact import Transition
from fastad.base.config import parse_options, with_settings
from fastad.base.device import choose_device
from fastad.base.errors import UserError
from fastad.base.progress import Report
from fastad.configs import CollectConfig, RolloutConfig, TrainConfig, how_to_finish
from fastad.evaluate.kept_rollouts import check_place, keep_rollouts
from fastad.evaluate.learning_curve import LearningCurve
from fastad.evaluate.measure import measure
from fastad.evaluate.result import Result
from fastad.evaluate.task_set import load_task_set, try_model
from fastad.histories import jobs
from fastad.histories.reader import HistoryDataset
from fastad.histories.writer import ShardWriter
from fastad.methods.windows import WindowSampler
from fastad.model.kernels import check_kernels
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.gpu_proof import takes_graph
from fastad.training import trainer
from fastad.training.checkpoint import load_model
from fastad.training.checkpoint_folder import list_checkpoints, step_of
from fastad.training.numerics import Numerics, settle
from fastad.training.run import Run
from fastad.training.run_files import begun_numerics, episodes_per_window
from fastad.training.run_folder import open_run

_logger = logging.getLogger(__name__)


def collect(
    config: CollectConfig | None = None, *, progress: Report | None = None, **settings: Any
) -> HistoryDataset:
    """Let a source learn every task from scratch, and store its learning histories.

    >>> import fastad
    >>> dataset = fastad.collect(
    ...     out="data/room", env_options={"size": 3, "episode_length": 4}, num_histories=24,
    ...     num_episodes=5, num_test_tasks=2,
    ... )
    >>> dataset.num_histories, dataset.num_steps
    (24, 20)

    Args:
        config: What to collect, and where to; the defaults if left out.
        progress: Told the committed steps and their total, of all histories together.
        **settings: Fields of `CollectConfig` that shall differ from `config`.

    Returns:
        The complete dataset.

    Raises:
        UserError: For settings that are not possible, or a folder that holds something else.
            Nothing has been written or deleted then.
    """
    config = with_settings(config or CollectConfig(), settings, "fastad.collect")
    jobs.collect(
        config.folder,
        workers=config.workers,
        progress=progress,
        env=config.env,
        source=config.source,
        num_histories=config.num_histories,
        num_episodes=config.num_episodes,
        num_train=config.num_train_tasks,
        num_validation=config.num_validation_tasks,
        num_test=config.num_test_tasks,
        env_kwargs=parse_options("env_options", config.env_options),
        source_kwargs=parse_options("source_options", config.source_options),
        holdout=config.holdout,
        seed=config.seed,
        action_noise=config.action_noise,
        noise_labels=config.noise_labels,
        shards=config.shards,
        resume=config.resume,
        overwrite=config.overwrite,
    )
    return HistoryDataset(config.folder)


def train(
    config: TrainConfig | None = None,
    *,
    data: HistoryDataset | str | Path | None = None,
    progress: Report | None = None,
    **settings: Any,
) -> Run:
    """Train a transformer on learning histories, from its newest checkpoint if there is one.

    >>> import fastad
    >>> run = fastad.train(data="data/room", out="runs/room", updates=40, width=16, context=20)
    >>> [record["step"] for record in run.metrics]
    [20, 40]

    Args:
        config: What to train, and where to; the defaults if left out.
        data: The dataset, if not that of `config`.
        progress: Told the updates done, their total, and the metrics as they are logged.
        **settings: Fields of `TrainConfig`, `ModelConfig` and `TrainSettings` that shall differ
            from `config`, each by its bare name, as on the command line: `width=64, updates=300`.

    Raises:
        UserError: For settings that are not possible, data that do not fit them, or a folder that
            holds something else. Nothing has been written or deleted then.
    """
    if data is not None:
        settings["data"] = data.path if isinstance(data, HistoryDataset) else data
    return _train(with_settings(config or TrainConfig(), settings, "fastad.train"), progress)


def _train(config: TrainConfig, progress: Report | None) -> Run:
    """Open what is needed, or refuse it; then fit."""
    settings, out = config.settings, config.folder
    numerics = settle(
        config.model, kernels=config.kernels, device=config.device, threads=config.threads,
        precision=settings.precision,
        begun=begun_numerics(out) if config.resume else None,
    )  # fmt: skip
    dataset = _open_data(config)
    _check_env(config.env, dataset.info.env, config.data)
    sampler = WindowSampler(
        dataset,
        num_steps=settings.window or _whole_history(dataset, settings.every_kth_episode),
        batch_size=settings.batch_size,
        seed=settings.seed,
        start=settings.start,
        every_kth_episode=settings.every_kth_episode,
    )
    torch.manual_seed(settings.seed)
    model = trainer.build_model(config.model, sampler).to(numerics.device)
    model.kernels = config.kernels
    model.check_length(sampler.num_steps * config.model.tokens_per_step)
    evaluate = _learning_curve(config, sampler, model) if settings.eval_every else None
    with open_run(
        out, replace(config, out=out), data=config.data, numerics=numerics.facts,
        resume=config.resume, overwrite=config.overwrite,
    ) as run:  # fmt: skip
        checkpoints = list_checkpoints(out)
        done = (step_of(checkpoints[-1]) or 0) if checkpoints else 0
        records = run.forget_metrics_after(done)
        _announce(config, model, sampler, numerics, done)
        report = progress or _nobody_looks
        report(done, settings.updates)

        def log(step: int, metrics: dict[str, Any]) -> None:
            run.log(step, metrics)
            report(step, settings.updates, **metrics)

        trainer.train(
            model, sampler, settings, run=out, log=log, evaluate=evaluate,
            evaluated=max((r["step"] for r in records if "eval_last" in r), default=0),
        )  # fmt: skip
    return Run(out)


def rollout(
    run: Run | str | Path,
    config: RolloutConfig | None = None,
    *,
    actions: bool = False,
    progress: Report | None = None,
    **settings: Any,
) -> Result:
    """Let a frozen model act on tasks of its dataset, in episode after episode.

    >>> import fastad
    >>> result = fastad.rollout("runs/room", episodes=3, rollouts_per_task=4)
    >>> result.returns.shape  # 4 rollouts on each of 2 test tasks, 3 episodes
    (8, 3)

    Args:
        run: Whose newest checkpoint acts: a run, its folder, or that of one of its checkpoints.
        config: On which tasks, and how; the defaults if left out.
        actions: Whether the result shall hold every action.
        progress: Told the steps taken and their total, of all environments together.
        **settings: Fields of `RolloutConfig` that shall differ from `config`.

    Raises:
        UserError: For a run that is damaged, or settings that are not possible.
    """
    settings["run"] = run.path if isinstance(run, Run) else run
    config = with_settings(config or RolloutConfig(), settings, "fastad.rollout")
    for name, method in (("plot", "plot"), ("json", "save")):
        if getattr(config, name) is not None:
            raise UserError(
                f"fastad.rollout writes no files, and {name}={getattr(config, name)} is one; "
                f"call {method} of the result that it returns"
            )
    return _rollout(config, actions, progress)


def _rollout(config: RolloutConfig, actions: bool, progress: Report | None) -> Result:
    """Open what is needed, or refuse it; then act."""
    device = choose_device(config.device, config.threads)
    if config.save_histories is not None:
        check_place(config.save_histories)
    model = load_model(config.run).to(device)
    model.kernels = config.kernels
    check_kernels(config.kernels, model.config.head_dim, device, kv_cache=config.kv_cache)
    tasks = load_task_set(
        config.run, split=config.split, num_tasks=config.tasks, repeats=config.rollouts_per_task,
        seed=config.seed,
    )  # fmt: skip
    _check_env(config.env, tasks.info.env, config.run)
    trained_episodes = episodes_per_window(config.run, tasks.info)
    episodes = trained_episodes if config.episodes is None else config.episodes
    done, total = 0, episodes * tasks.info.episode_length * len(tasks.rows)
    report = progress or _nobody_looks
    report(done, total)
    writer: ShardWriter | None = None
    with ExitStack() as stack:

        def on_block(block: Transition) -> None:
            nonlocal done, writer
            done += block.reward.numel()
            report(done, total)
            if config.save_histories is not None:
                # Begun with the first block: a rollout that cannot start leaves no dataset.
                if writer is None:
                    kept = keep_rollouts(
                        config.save_histories, config.run, tasks, num_episodes=episodes,
                        greedy=config.greedy, control=config.control,
                    )  # fmt: skip
                    writer = stack.enter_context(kept)
                writer.append(block)

        trial = try_model(
            model, tasks, num_episodes=episodes, kv_cache=config.kv_cache, greedy=config.greedy,
            control=config.control, compile=config.compile,
            cuda_graph=takes_graph(config.cuda_graph, device, kv_cache=config.kv_cache),
            on_block=on_block,
        )  # fmt: skip
    return measure(
        trial, run=str(config.run), control=config.control, greedy=config.greedy,
        kv_cache=config.kv_cache, trained_episodes=trained_episodes, keep_actions=actions,
    )  # fmt: skip


def _nobody_looks(done: int, total: int, **figures: Any) -> None:
    pass


def _whole_history(dataset: HistoryDataset, every_kth_episode: int) -> int:
    """Steps of a window that shows every k-th episode of a history, first to last."""
    num_steps = dataset.num_steps // every_kth_episode
    if num_steps == 0:
        raise UserError(
            f"every_kth_episode={every_kth_episode} leaves no step of the {dataset.num_steps} of "
            f"a history; use at most {dataset.num_steps // dataset.info.episode_length}"
        )
    return num_steps


def _check_env(wanted: str | None, found: str, where: Path) -> None:
    """Refuse data of another environment than the settings are for."""
    if wanted not in (None, found):
        raise UserError(
            f"env={wanted} is what these settings are for, and {where} is of {found}; choose a "
            f"preset for that (`fastad presets` lists them), or use them all the same with "
            f"--env {found}"
        )


def _open_data(config: TrainConfig) -> HistoryDataset:
    """The dataset, complete and with what the target needs."""
    settings, dataset = config.settings, HistoryDataset(config.data)
    if settings.target == "policy" and not dataset.info.has_action_probs:
        raise UserError(
            f"target=policy needs action_probs, which {config.data} lacks; use --target sampled"
        )
    if settings.target == "sampled" and dataset.info.action_noise > 0:
        _logger.info(
            f"target=sampled learns from the executed actions, {dataset.info.action_noise:.0%} of "
            "which are random; --target policy learns from the stored distribution "
            f"({dataset.info.noise_labels})"
        )
    if not dataset.complete:
        raise UserError(
            f"data={config.data} is not complete ({'; '.join(dataset.unfinished[:3])}); finish it "
            f"with: {how_to_finish(config.data, dataset.info)}"
        )
    return dataset


def _learning_curve(
    config: TrainConfig, sampler: WindowSampler, model: SequenceModel
) -> LearningCurve:
    """What is looked at while training, refused now if the model cannot be rolled out so far."""
    dataset = sampler.dataset
    if dataset.info.num_validation == 0:
        _logger.info(
            f"{config.data} has no validation tasks: what is looked at during training comes from "
            "its test tasks; collect with --num-validation-tasks 1 or more to keep those unseen"
        )
    episode_length = dataset.info.episode_length
    episodes = config.eval_episodes or max(1, sampler.num_steps // episode_length)
    model.check_length(episodes * episode_length * model.config.tokens_per_step)
    return LearningCurve(
        dataset, num_tasks=config.eval_tasks, num_episodes=episodes, seed=config.settings.seed + 1
    )


def _announce(
    config: TrainConfig, model: SequenceModel, sampler: WindowSampler, numerics: Numerics, done: int
) -> None:
    """Say what is trained by what, and what is no longer as the run was begun."""
    settings, info = config.settings, sampler.dataset.info
    parameters = sum(p.numel() for p in model.parameters())
    _logger.info(
        f"train {config.folder}: {parameters:,} parameters, {settings.updates} updates of "
        f"{settings.batch_size} x {sampler.num_steps} steps on {numerics.device}"
        + (f", continuing after update {done}" if done else "")
    )
    if info.source_knows:
        _logger.info(f"the source {info.source} knows {info.source_knows}")
    if numerics.changed:
        _logger.info(
            f"resumed with {'; '.join(numerics.changed)}: results may differ by rounding from "
            "those of an unbroken run"
        )
