"""Rollouts kept as a dataset of learning histories, to be distilled in turn."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastad.base.errors import UserError
from fastad.base.outputs import check_folder
from fastad.base.possession import strangers
from fastad.base.provenance import describe_machine
from fastad.evaluate.task_set import TaskSet
from fastad.histories.folder import begin_dataset, discard_dataset
from fastad.histories.reader import load_description
from fastad.histories.writer import ShardWriter
from fastad.methods.registry import told
from fastad.training.run_files import DATASET, run_of, taught


def check_place(folder: Path) -> None:
    """Refuse a place where anything lies, but for the lock of a stopped rollout, or none can."""
    if folder.exists() and (not folder.is_dir() or strangers(folder, lambda name: False)):
        raise UserError(f"save_histories={folder} exists; choose a folder that does not")
    check_folder(f"save_histories={folder}", folder)


@contextmanager
def keep_rollouts(
    out: Path,
    run: Path,
    tasks: TaskSet,
    *,
    num_episodes: int,
    target_return: float | None = None,
    **acting: Any,
) -> Iterator[ShardWriter]:
    """A dataset for rollouts, in the same store as the sources'; gone if they are not finished.

    The tasks rolled out become its train tasks. Its test tasks are still the test tasks or,
    where those were rolled out, the train tasks; its validation tasks stay, unless rolled out.

    Args:
        out: The dataset's folder.
        run: Of the model that acts.
        tasks: What it acts on.
        num_episodes: Of each rollout.
        target_return: That the model is asked for, if not the optimum; for models that are.
        **acting: How the model acts, by name, which the dataset says of its source; None is left
            out.

    Yields:
        Takes the blocks of `rollout`.
    """
    info = tasks.info
    _, all_tasks = load_description(run_of(run) / DATASET)
    test = all_tasks[info.task_rows("train" if tasks.split == "test" else "test")]
    validation = all_tasks[info.task_rows("validation")]
    if tasks.split == "validation":
        validation = validation[:0]
    knows = f"what {info.source} taught it, which knows {info.source_knows}"
    method, target, auxiliary = taught(run)
    acting["target_return"] = target_return
    rollouts = replace(
        info,
        source="algorithm-distillation" if method == "ad" else method,
        source_kwargs={"run": str(run)} | {k: v for k, v in acting.items() if v is not None},
        source_knows="; ".join(
            [knows] * bool(info.source_knows) + told(method, target, target_return, auxiliary)
        ),
        policies=["policy"],
        action_noise=0.0,
        noise_labels="clean",
        num_train=len(tasks.tasks),
        num_validation=len(validation),
        num_test=len(test),
        seed=tasks.seed,
        num_histories=len(tasks.rows),
        num_steps=num_episodes * info.episode_length,
        num_shards=1,
        versions=describe_machine(),
    )
    rows = torch.cat([tasks.tasks, torch.from_numpy(validation), torch.from_numpy(test)])
    learner_ids = list(range(tasks.repeats)) * len(tasks.tasks)
    with begin_dataset(out, rollouts, rows, resume=False, overwrite=False):
        try:
            with ShardWriter(
                out, rollouts, 0, task_ids=tasks.groups.tolist(), learner_ids=learner_ids
            ) as writer:
                yield writer
        except BaseException:
            discard_dataset(out)  # nobody could continue it
            raise
