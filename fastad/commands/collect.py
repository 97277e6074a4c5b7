"""`fastad collect`: a source learns many tasks; its learning histories are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastad.errors import UserError

AVERAGED_HISTORIES = 1024  # in the summary


@dataclass(frozen=True)
class CollectConfig:
    """Collect learning histories: a source algorithm learns every task from scratch.

    Continue a stopped or killed collection with the same command and --resume: it ends with the
    same data, byte for byte.
    """

    out: Path = Path("data/dark-room")
    """Folder to write the dataset to."""
    env: str = "dark-room"
    """Environment: bernoulli-bandit, gaussian-bandit, adversarial-bandit, dark-room,
    dark-room-hard, dark-room-permuted or dark-key-to-door."""
    env_options: tuple[str, ...] = ()
    """Its options as KEY=VALUE, for example: size=11 episode_length=30."""
    source: str = "frontier"
    """What learns. Bandits: ucb1, epsilon-greedy, thompson. Grids: q-learning, actor-critic,
    ucbvi (optimistic value iteration; knows that all is deterministic), frontier (explores
    systematically; knows the movement rules, not the reward). Anywhere: random, which never
    learns. What it is told beyond what it experiences stands beside all its results."""
    source_options: tuple[str, ...] = ()
    """Its options as KEY=VALUE, for example: learning_rate=0.5."""
    num_histories: int = 3840
    """Histories in all, dealt out to the train tasks in turn. Each learner starts from nothing."""
    num_episodes: int = 10
    """Episodes per history, or the steps of as many full-length episodes where they may end
    early. Enough for the source to settle: the frontier source needs 6 to 10 in Dark Room."""
    num_train_tasks: int | None = None
    """Tasks that get histories (default: all but those held out). A model memorises few tasks
    instead of learning to learn: 24 goals of Dark Room are too few, 56 suffice."""
    num_validation_tasks: int | None = None
    """Tasks held out to look at while training; they get no history (default: half as many as
    test tasks; with --resume, those that the dataset has)."""
    num_test_tasks: int = 16
    """Tasks held out for rollouts; they get no history."""
    holdout: Literal["task", "cell"] = "task"
    """Hold out single tasks, or grid cells: then no train task uses a cell of a held-out task."""
    action_noise: float = 0.0
    """Probability of executing a random action instead of the source's: the model sees more
    states. 0.05 helps on grids."""
    noise_labels: Literal["clean", "executed"] = "clean"
    """Which distribution is stored to learn from, with action_noise. clean: the source's own.
    executed: that of the executed action, noise included. (train --target sampled learns from
    the executed action itself, as the code of arXiv 2312.12275 does.)"""
    seed: int = 0
    """Of tasks, split and histories."""
    shards: int | None = None
    """Files that the histories are spread over, the unit of parallel work and of --resume
    (default: one per 1,024 histories). Changes the random streams, and so the data."""
    workers: int = 1
    """Processes. Does not change the data; worth its start-up from some 10 million steps on."""
    resume: bool = False
    """Continue the dataset in `out`, if there is one."""
    overwrite: bool = False
    """Delete the dataset in `out` and start anew."""


def run_collect(config: CollectConfig) -> None:
    """Collect, show progress, and say what came of it."""
    from fastad.collect import collect_shards, prepare, steps_in_complete_shards
    from fastad.progress import progress

    if config.workers < 1:
        raise UserError(f"workers={config.workers} is not possible; use 1 or more")
    with prepare(
        config.out,
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
    ) as info:
        done = steps_in_complete_shards(config.out, info)
        total = info.num_histories * info.num_steps
        if done == total:
            print(f"collect steps={done} total={total}: already complete")
        else:
            with progress(total, "steps", "collect", completed=done) as bar:
                collect_shards(
                    config.out,
                    info,
                    workers=config.workers,
                    progress=lambda done, total: bar.update(done),
                )
    print_summary(config.out)


def parse_options(field: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Turn KEY=VALUE strings into keyword arguments; values are YAML: 11, 0.5, true, text.

    Raises:
        UserError: For a string of another form, or a key given twice.
    """
    import yaml

    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals or not text:
            raise UserError(f"{field}: {pair!r} is not of the form KEY=VALUE, such as size=11")
        if key in options:
            raise UserError(f"{field}: {key!r} is given twice; keep one")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"{field}: the value of {pair!r} cannot be read; try quotes") from error
        options[key] = _as_number(value)
    return options


def _as_number(value: Any) -> Any:
    """YAML 1.1 takes 1e-1 for text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def print_summary(out: Path) -> None:
    """Say what the dataset at `out` holds and what to do with it."""
    import numpy as np
    import torch

    from fastad.envs.registry import make_env
    from fastad.histories.reader import HistoryDataset

    dataset = HistoryDataset(out)
    info = dataset.info
    # Histories visit the tasks in turn: whole rounds show every task equally often.
    rounds = max(1, AVERAGED_HISTORIES // info.num_train)
    histories = np.arange(min(info.num_histories, rounds * info.num_train, AVERAGED_HISTORIES))
    returns = dataset.returns(histories, max_histories=len(histories)).mean
    tasks = torch.from_numpy(dataset.tasks[dataset.task_ids[histories]])
    env = make_env(info.env, tasks, generator=torch.Generator(), **info.env_kwargs)
    noise = ""
    if info.action_noise:
        noise = f" with {info.action_noise:.0%} random actions, labels {info.noise_labels}"
    print(
        f"{out}: {info.num_histories:,} histories of {info.num_steps:,} steps, {info.env} "
        f"learned by {info.source}{noise}; tasks: {info.num_train:,} train, "
        f"{info.num_validation:,} validation, {info.num_test:,} test\n"
        f"mean return: {returns[0]:.2f} in the first episode, {returns[-1]:.2f} in the last; "
        f"optimum {env.optimal_return().mean().item():.2f}"
    )
    if info.source_knows:
        print(f"source knows: {info.source_knows}")
    print(f"next: fastad train {out}")
