"""Collecting learning histories: (task, learner) jobs, grouped into shards, on an executor.

A shard is one idempotent job: what it holds follows from dataset.json, tasks.npy and its index
alone, whoever runs it and however often. Complete shards are never run again; an unfinished one
starts over.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from fastad.acting.interact import NoiseLabels
from fastad.base.config import check_seed
from fastad.base.device import one_thread
from fastad.base.errors import UserError
from fastad.base.provenance import describe_machine
from fastad.envs.registry import make_family, stored_options
from fastad.envs.split import Holdout, split_tasks
from fastad.executors.base import Workers
from fastad.executors.lease import Lease
from fastad.executors.registry import make_executor
from fastad.executors.run import run_jobs
from fastad.histories.columns import columns
from fastad.histories.crew import Watched, check_versions, versions_here
from fastad.histories.folder import begin_dataset
from fastad.histories.labels import (
    Label,
    check_labels,
    labelled_blocks,
    steps_to_take,
    stored_policies,
)
from fastad.histories.learning import SHARD_STREAMS, Learning, check_noise
from fastad.histories.meta import shard_path, shard_range
from fastad.histories.reader import HistoryDataset, load_description, load_info
from fastad.histories.schema import INFO_FILE, DatasetInfo
from fastad.histories.writer import ShardWriter, shard_is_complete
from fastad.sources.registry import make_source

STEPS_PER_COMMIT = 500_000  # of all learners of a shard together; some 10 MB on the disk

Progress = Callable[[int, int], None]


def collect(
    out: Path,
    *,
    workers: int = 1,
    executor: str = "local",
    executor_options: Mapping[str, Any] | None = None,
    retries: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> HistoryDataset:
    """Collect a dataset of learning histories.

    Args:
        out: The dataset's folder.
        workers: Shards that are collected at once; 1 with the local executor runs in this process.
            Does not change what is collected.
        executor: Where they are, see `EXECUTORS`.
        executor_options: Of the executor.
        retries: How often a shard whose worker died is begun again.
        progress: See `collect_shards`.
        **settings: Of `prepare`.

    Returns:
        The complete dataset.

    Raises:
        UserError: See `prepare`; and if the executor is not there or does not answer.
    """
    place, lease = make_executor(executor, executor_options or {}), Lease.of(out)
    crew: Workers | None = None
    with ExitStack() as stack:

        def start() -> None:
            nonlocal crew
            if executor != "local" or workers > 1:
                logs = out.absolute().parent
                crew = stack.enter_context(place.start(workers, lease, logs))

        with (
            prepare(out, first=start, **settings) as info,
            lease.held() if crew is not None and crew.is_remote else nullcontext(),
        ):
            collect_shards(
                out, info, crew=crew, workers=workers, retries=retries, progress=progress
            )
            # While nobody may replace it: whoever waits for the lock might.
            return HistoryDataset(out)


@contextmanager
def prepare(
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    first: Callable[[], None] = lambda: None,
    **settings: Any,
) -> Iterator[DatasetInfo]:
    """Check all settings, then begin the dataset or take up the one that is there.

    Within the block this process is the only one that collects into `out`.

    Args:
        out: The dataset's folder.
        resume: Continue the dataset in `out`, if there is one.
        overwrite: Delete the dataset in `out`, if there is one.
        first: Called once all settings are checked, before anything is written or deleted.
        **settings: Of `describe`.

    Yields:
        What is stored as dataset.json.

    Raises:
        UserError: For settings that are not possible, a folder that holds something else, a
            resumed dataset with other settings, or one that another process collects just now.
            Nothing has been written or deleted then.
    """
    info, tasks = describe(out, resume=resume, **settings)
    first()
    with begin_dataset(out, info, tasks, resume=resume, overwrite=overwrite) as stored:
        yield stored


def describe(
    out: Path,
    *,
    env: str,
    source: str,
    num_histories: int,
    num_episodes: int,
    num_test: int,
    num_train: int | None = None,
    num_validation: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
    source_kwargs: dict[str, Any] | None = None,
    holdout: Holdout = "task",
    seed: int = 0,
    action_noise: float = 0.0,
    noise_labels: NoiseLabels = "clean",
    labels: Sequence[Label] = (),
    look_ahead: int | None = None,
    shards: int | None = None,
    resume: bool = False,
) -> tuple[DatasetInfo, torch.Tensor]:
    """Check all settings of a dataset; nothing is written.

    Args:
        out: The dataset's folder.
        env: Name of the environment.
        source: Name of the source.
        num_histories: Histories in all; history `i` is of train task `i % num_train`.
        num_episodes: Length of every history: `num_episodes * episode_length` steps. Where
            episodes may end early, the history has as many steps and therefore more episodes.
        num_test: Tasks held out for reports; they get no history.
        num_train: Tasks that get histories; None takes all the others.
        num_validation: Tasks held out to look at while training; they get no history either.
            None is half as many as for the test, or what the dataset has that is resumed.
        env_kwargs: Options of the environment.
        source_kwargs: Options of the source.
        holdout: What is held out, see `split_tasks`.
        seed: Everything random follows from it.
        action_noise: Probability of executing a random action instead of the source's.
        noise_labels: Whether the stored distribution leaves that noise out, see `NoiseLabels`.
        labels: Further distributions to store with every step, see `labelled_blocks`.
        look_ahead: Episodes that the label "final" looks ahead; None is to the end.
        shards: Files that the histories are spread over, and the unit of parallel work; by
            default one per 1,024 histories, fewer where the source says so. What is collected
            depends on it.
        resume: Whether the dataset in `out` is continued, if there is one.

    Returns:
        What will be stored as dataset.json, and all tasks, (M + V + P, K).

    Raises:
        UserError: For settings that are not possible.
    """
    env_kwargs, source_kwargs = env_kwargs or {}, source_kwargs or {}
    check_seed(seed)
    for field, value in (("num_histories", num_histories), ("num_episodes", num_episodes)):
        if value < 1:
            raise UserError(f"{field}={value} is not possible; use 1 or more")
    if shards is not None and not 1 <= shards <= num_histories:
        raise UserError(f"shards={shards} must lie between 1 and num_histories={num_histories}")
    if num_validation is None:
        num_validation = _default_validation(out, num_test, resume)
    env_kwargs = stored_options(env, env_kwargs)
    family = make_family(env, **env_kwargs)
    family.check()
    split = split_tasks(
        family,
        num_train=num_train,
        num_validation=num_validation,
        num_test=num_test,
        holdout=holdout,
        seed=seed,
    )
    generator = torch.Generator()
    probe = family.make(split.train[:1], generator)
    learner = make_source(
        source, probe, num_episodes=num_episodes, generator=generator, **source_kwargs
    )
    check_noise(action_noise, learner)
    check_labels(labels, look_ahead, probe, learner, num_episodes)
    num_steps = num_episodes * probe.episode_length
    if learner.steps_before_learning >= num_steps:
        raise UserError(
            f"num_episodes={num_episodes} are {num_steps:,} steps, and source {source!r} first "
            f"learns after {learner.steps_before_learning:,}; lengthen the histories, or change "
            "the source options (n_steps, learning_starts)"
        )
    info = DatasetInfo(
        env=env,
        env_kwargs=env_kwargs,
        observation_space=probe.observation_space,
        action_space=probe.action_space,
        squash=learner.squashes,
        source=source,
        source_kwargs=source_kwargs,
        source_knows=learner.knows,
        action_noise=action_noise,
        noise_labels=noise_labels,
        policies=stored_policies(labels, learner),
        look_ahead=look_ahead or 0,
        num_train=len(split.train),
        num_validation=len(split.validation),
        num_test=len(split.test),
        holdout=holdout,
        seed=seed,
        num_histories=num_histories,
        num_steps=num_steps,
        num_shards=shards or -(-num_histories // learner.histories_per_shard),
        episode_length=probe.episode_length,
        fixed_length=probe.fixed_length,
        versions=describe_machine(),
    )
    columns(info)
    return info, split.all


def _default_validation(out: Path, num_test: int, resume: bool) -> int:
    """Validation tasks where none were asked for; a dataset without any keeps none."""
    if resume and (out / INFO_FILE).is_file():
        return load_info(out).num_validation
    return -(-num_test // 2)


def collect_shards(
    out: Path,
    info: DatasetInfo,
    *,
    crew: Workers | None = None,
    workers: int = 1,
    retries: int = 0,
    progress: Progress | None = None,
) -> None:
    """Run every shard that is not complete; within `prepare`, which gives `info`.

    Args:
        out: The dataset's folder.
        info: Its description.
        crew: Who collects; None is this process. Others need an importable main module, as all
            spawned processes do.
        workers: Shards that the crew works on at once.
        retries: See `collect`.
        progress: Called with the steps done and their total, of all histories together. Those
            that look ahead take every step twice, and so it counts; what is committed is done.
    """
    if workers < 1:
        raise UserError(f"workers={workers} is not possible; use 1 or more")
    shards = range(info.num_shards)
    pending = [index for index in shards if not shard_is_complete(out, info, index)]
    sizes = [len(shard_range(info, index)) * steps_to_take(info) for index in shards]
    total = sum(sizes)
    done = total - sum(sizes[index] for index in pending)
    report = progress or (lambda done, total: None)
    report(done, total)
    if crew is None or (len(pending) < 2 and not crew.is_remote):
        with one_thread():  # as every worker has
            for index in pending:
                for steps in shard_steps(out, info, index):
                    report(done + steps, total)
                done += sizes[index]
        return
    watched = [Watched(out, info, index, sizes[index]) for index in pending]
    here, where = versions_here(), out.absolute()
    running = run_jobs(
        crew, shard_for_others, [(where, index, here) for index in pending],
        names=[str(shard_path(out, index)) for index in pending], num_workers=workers,
        retries=retries,
    )  # fmt: skip
    with closing(running):
        for told in running:
            report(done + sum(map(Watched.steps, watched, told)), total)
    for shard in watched:
        shard.wait()
    report(total, total)


def shard_for_others(out: Path, index: int, versions: dict[str, str | None]) -> Iterator[int]:
    """`shard_steps` for a process elsewhere, with `versions`; nothing is written if ours differ."""
    check_versions(versions)
    return shard_steps(out, load_info(out), index)


def shard_steps(out: Path, info: DatasetInfo, index: int) -> Iterator[int]:
    """Collect one shard from its beginning, going on as the result is iterated over.

    Yields:
        The steps done, of all its histories together: committed, or taken by those who look ahead.
    """
    histories = np.array(shard_range(info, index))
    task_ids = histories % info.num_train
    tasks = torch.from_numpy(load_description(out)[1][task_ids])
    # The learners of one task are told apart by their number among them.
    learner_ids = histories // info.num_train
    learning = Learning(
        env=info.env,
        env_kwargs=info.env_kwargs,
        source=info.source,
        source_kwargs=info.source_kwargs,
        num_episodes=info.num_steps // info.episode_length,
        action_noise=info.action_noise,
        noise_labels=cast(NoiseLabels, info.noise_labels),
        tasks=tasks,
        streams=np.random.SeedSequence(info.seed, spawn_key=(SHARD_STREAMS, index)),
    )
    block_steps = max(1, STEPS_PER_COMMIT // len(histories))
    with ShardWriter(out, info, index, task_ids=task_ids, learner_ids=learner_ids) as writer:
        for block, ahead in labelled_blocks(learning, info, block_steps=block_steps):
            if block:
                writer.append(block)
            yield round((writer.committed_steps + ahead) * len(histories))
