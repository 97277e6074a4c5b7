"""`fastad train`: learning histories to a run folder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastad.config import Attention
from fastad.errors import UserError
from fastad.model.config import ModelConfig
from fastad.train.settings import TrainSettings

if TYPE_CHECKING:
    from fastad.envs.base import Split
    from fastad.histories.reader import HistoryDataset
    from fastad.model.transformer import Transformer
    from fastad.windows import WindowSampler

# Metrics that the progress bar has room for; all of them go to metrics.jsonl.
SHOWN = ("loss", "steps_per_second", "eval_first", "eval_last", "eval_regret")


@dataclass(frozen=True)
class TrainConfig:
    """Train a transformer on learning histories.

    Writes a run folder: config.yaml, metrics.jsonl, checkpoints, and what made it. Continue a
    stopped or killed run with the same command and --resume: on a CPU it ends with the same
    weights, bit for bit.
    """

    data: Path = Path("data/dark-room")
    """Dataset that `fastad collect` wrote."""
    out: Path = Path("runs/dark-room")
    """Run folder to write."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The transformer."""
    settings: TrainSettings = field(default_factory=TrainSettings)
    """The training."""
    eval_episodes: int | None = None
    """Episodes of each rollout on validation tasks, with eval_every (default: as many as a window
    shows)."""
    eval_tasks: int = 32
    """Validation tasks that are rolled out during training, at most, with eval_every."""
    attention: Attention = "auto"
    """Attention implementation; a named one never falls back. auto: triton on GPUs, native on
    CPUs with a C++ compiler wherever it was measured to be no slower, else sdpa. triton: our
    kernels for GPUs (on a CPU only with TRITON_INTERPRET=1, which is slow). native: our C++ kernels
    for CPUs, compiled at first use. sdpa: PyTorch's. flash: the flash-attn package, 16-bit GPUs
    only, without a KV cache. reference: the plain specification."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""
    threads: int | None = None
    """CPU threads (default: all cores)."""
    resume: bool = False
    """Continue from the newest checkpoint in `out`, if there is one."""
    overwrite: bool = False
    """Delete the run in `out` and start anew."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.eval_tasks < 1:
            raise UserError(f"eval_tasks={self.eval_tasks} must be at least 1")
        if self.eval_episodes is not None and self.eval_episodes < 1:
            raise UserError(f"eval_episodes={self.eval_episodes} must be at least 1")


def run_train(config: TrainConfig) -> float:
    """Train; returns the seconds spent on updates, evaluation excluded."""
    import torch

    from fastad.histories.reader import HistoryDataset
    from fastad.progress import progress
    from fastad.run_folder import open_run
    from fastad.tracking import begun_numerics
    from fastad.train.checkpoint_folder import list_checkpoints, step_of
    from fastad.train.numerics import settle
    from fastad.train.trainer import train
    from fastad.windows import WindowSampler

    settings = config.settings
    numerics = settle(
        config.model, attention=config.attention, device=config.device, threads=config.threads,
        precision=settings.precision,
        begun=begun_numerics(config.out) if config.resume else None,
    )  # fmt: skip
    dataset = HistoryDataset(config.data)
    if settings.target == "policy" and not dataset.info.has_action_probs:
        raise UserError(
            f"target=policy needs action_probs, which {config.data} lacks; use --target sampled"
        )
    if settings.target == "sampled" and dataset.info.action_noise > 0:
        print(
            f"target=sampled learns from the executed actions, {dataset.info.action_noise:.0%} of "
            "which are random; --target policy learns from the stored distribution "
            f"({dataset.info.noise_labels})"
        )
    if not dataset.complete:
        raise UserError(
            f"data={config.data} is not complete ({'; '.join(dataset.unfinished[:3])}); finish it "
            "with `fastad collect ... --resume`"
        )
    sampler = WindowSampler(
        dataset,
        num_steps=settings.window or dataset.num_steps // settings.every_kth_episode,
        batch_size=settings.batch_size,
        seed=settings.seed,
        start=settings.start,
        every_kth_episode=settings.every_kth_episode,
    )
    torch.manual_seed(settings.seed)
    model = build_model(config.model, dataset, sampler).to(numerics.device)
    model.attention = config.attention
    model.check_length(sampler.num_steps * config.model.tokens_per_step)
    evaluate = _evaluation(config, dataset, sampler, model) if settings.eval_every else None
    with ExitStack() as stack:
        run = stack.enter_context(
            open_run(
                config.out, config, data=config.data, numerics=numerics.facts,
                resume=config.resume, overwrite=config.overwrite,
            )
        )  # fmt: skip
        checkpoints = list_checkpoints(config.out)
        done = (step_of(checkpoints[-1]) or 0) if checkpoints else 0
        records = run.forget_metrics_after(done)
        parameters = sum(p.numel() for p in model.parameters())
        print(
            f"train {config.out}: {parameters:,} parameters, {settings.updates} updates of "
            f"{settings.batch_size} x {sampler.num_steps} steps on {numerics.device}"
            + (f", continuing after update {done}" if done else "")
        )
        if dataset.info.source_knows:
            print(f"the source {dataset.info.source} knows {dataset.info.source_knows}")
        if numerics.changed:
            print(
                f"resumed with {'; '.join(numerics.changed)}: results may differ by rounding from "
                "those of an unbroken run"
            )
        # One line per step of the log, where there is no terminal.
        bar = stack.enter_context(
            progress(settings.updates, "updates", "train", completed=done, interval=0.0)
        )

        def log(step: int, metrics: dict[str, Any]) -> None:
            run.log(step, metrics)
            shown = {k: v for k, v in metrics.items() if k in SHOWN}
            bar.update(step, **shown)

        return train(
            model, sampler, settings, run=config.out, log=log, evaluate=evaluate,
            evaluated=max((r["step"] for r in records if "eval_last" in r), default=0),
        )  # fmt: skip


def build_model(
    config: ModelConfig, dataset: HistoryDataset, sampler: WindowSampler
) -> Transformer:
    """A fresh model for the spaces of `dataset`, with rewards at the size of one."""
    from gymnasium import spaces

    from fastad.model.transformer import Transformer

    info = dataset.info
    assert isinstance(info.action_space, spaces.Discrete)
    return Transformer(
        config,
        info.observation_space,
        info.action_space,
        info.episode_length,
        reward_shift=sampler.reward_mean,
        reward_scale=sampler.reward_std,
    )


def _evaluation(
    config: TrainConfig, dataset: HistoryDataset, sampler: WindowSampler, model: Transformer
) -> Callable[[Transformer], dict[str, Any]]:
    """Roll out on validation tasks: the learning curve over training."""
    import torch

    from fastad.evaluate.held_out import TaskSet, try_model

    split: Split = "validation"
    if dataset.info.num_validation == 0:
        split = "test"
        print(
            f"{config.data} has no validation tasks: what is looked at during training comes from "
            "its test tasks; collect with --num-validation-tasks 1 or more to keep those unseen"
        )
    chosen = torch.from_numpy(dataset.tasks[dataset.info.task_rows(split)])[: config.eval_tasks]
    repeats = max(1, config.eval_tasks // max(len(chosen), 1))
    tasks = TaskSet(dataset.info, chosen, repeats, seed=config.settings.seed + 1, split=split)
    episodes = config.eval_episodes or max(1, sampler.num_steps // dataset.info.episode_length)
    steps = episodes * dataset.info.episode_length
    model.check_length(steps * model.config.tokens_per_step)

    def evaluate(model: Transformer) -> dict[str, Any]:
        trial = try_model(model, tasks, num_episodes=episodes)
        mean = trial.mean.tolist()
        figures = {"eval_first": mean[0], "eval_last": mean[-1], "eval_returns": mean}
        if trial.regret is not None:
            figures["eval_regret"] = trial.regret.mean().item()
        return figures

    return evaluate
