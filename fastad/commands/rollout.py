"""`fastad rollout`: the frozen model learns unseen tasks in its context."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastad.config import Attention, check_seed
from fastad.errors import UserError

if TYPE_CHECKING:
    import torch

    from fastad.evaluate.held_out import TaskSet
    from fastad.histories.schema import DatasetInfo
    from fastad.histories.writer import ShardWriter


@dataclass(frozen=True)
class RolloutConfig:
    """Roll a frozen model out on tasks it never saw, and show its return per episode.

    No weight changes: whatever improves from episode to episode is learned in context. The
    table and the picture show the source, chance and the optimum on the same tasks.
    """

    run: Path = Path("runs/dark-room")
    """Run folder that `fastad train` wrote, or one checkpoint of it."""
    kv_cache: bool = True
    """Keep keys and values in a ring (--kv-cache), or recompute everything that can influence a
    prediction at every step (--no-kv-cache). Same actions, very different speed."""
    episodes: int | None = None
    """Episodes per task (default: as many as a training window showed)."""
    split: Literal["test", "validation", "train"] = "test"
    """Tasks held out for reports, those held out to look at while training, or those trained
    on."""
    tasks: int | None = None
    """Tasks to take from the split (default: all, at most 512)."""
    rollouts_per_task: int | None = None
    """Rollouts on each task (default: enough for 128 in all)."""
    greedy: bool = False
    """Take the most probable action instead of sampling; freezes undertrained models."""
    control: Literal["none", "no-reward", "wiped-context"] = "none"
    """no-reward: the model is shown rewards of 0. wiped-context: it forgets at every episode.
    Learning in context must vanish in both, unless the episode's end gives the reward away."""
    attention: Attention = "auto"
    """Attention implementation; a named one never falls back. auto: triton on GPUs, native on
    CPUs with a C++ compiler wherever it was measured to be no slower, else sdpa. triton: our
    kernels for GPUs (on a CPU only with TRITON_INTERPRET=1, which is slow). native: our C++ kernels
    for CPUs, compiled at first use. sdpa: PyTorch's. flash: the flash-attn package, 16-bit GPUs
    only, without a KV cache. reference: the plain specification."""
    compile: bool = False
    """On GPUs, compile the cached step with torch.compile, in up to half a minute. On CPUs it is
    C++ already."""
    cuda_graph: Literal["auto", "always", "never"] = "auto"
    """On GPUs, record one step of model, sampling and environment as a CUDA graph and replay it.
    auto: where benchmarks/gpu_check.py has passed on this very GPU, torch and fastad."""
    seed: int = 0
    """Of the environments and the actions."""
    plot: Path | None = None
    """Where to write the picture: .png, .pdf or .svg (default: beside the figures, which every
    rollout leaves in the run, as rollouts/WHEN-SPLIT.json)."""
    json: Path | None = None
    """Also write every figure here."""
    save_histories: Path | None = None
    """Also store the rollouts as a dataset of learning histories, to be distilled in turn."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""
    threads: int | None = None
    """CPU threads (default: all cores)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_seed(self.seed)


def run_rollout(config: RolloutConfig) -> dict[str, Any]:
    """Roll out, write the figures, print a table, draw it; returns every figure by name."""
    from fastad.attention import check_attention
    from fastad.device import choose_device
    from fastad.evaluate.held_out import try_model
    from fastad.evaluate.summary import figures_of, print_table, save_picture
    from fastad.progress import progress
    from fastad.train.checkpoint import load_model

    device = choose_device(config.device, config.threads)
    results = _check_outputs(config)
    model = load_model(config.run).to(device)
    model.attention = config.attention
    check_attention(config.attention, model.config.head_dim, device, kv_cache=config.kv_cache)
    info, tasks = load_task_set(config)
    episodes = episodes_per_window(config.run, info) if config.episodes is None else config.episodes
    steps = episodes * info.episode_length * len(tasks.rows)
    with ExitStack() as stack:
        bar = stack.enter_context(progress(steps, "steps", "rollout"))
        writer = None

        def on_block(block: Any) -> None:
            nonlocal writer
            bar.advance(block.reward.numel())
            if config.save_histories is not None:
                # Begun with the first block: a rollout that cannot start leaves no dataset.
                if writer is None:
                    writer = stack.enter_context(_history_writer(config, info, tasks, episodes))
                writer.append(block)

        trial = try_model(
            model, tasks, num_episodes=episodes, kv_cache=config.kv_cache, greedy=config.greedy,
            control=config.control, compile=config.compile, cuda_graph=_takes_graph(config, device),
            on_block=on_block,
        )  # fmt: skip
    figures = figures_of(trial, tasks, kv_cache=config.kv_cache)
    figures |= {"control": config.control, "greedy": config.greedy, "run": str(config.run)}
    picture = _write_figures(config, results, figures)
    print_table(figures, tasks)
    save_picture(picture, figures, tasks)
    print(f"picture: {picture}")
    return figures


def _takes_graph(config: RolloutConfig, device: torch.device) -> bool:
    """Whether a step is replayed as a CUDA graph; says so where one could be and is not."""
    from fastad.gpu_proof import is_proven

    if config.cuda_graph != "auto":
        return config.cuda_graph == "always"
    if device.type == "cuda" and config.kv_cache and not is_proven(device):
        print(
            "no CUDA graph: benchmarks/gpu_check.py has not passed on this GPU with this torch and "
            "fastad; run it, or take one all the same with --cuda-graph always"
        )
    return is_proven(device)


def _check_outputs(config: RolloutConfig) -> Path | None:
    """Make sure that all results can be written, before any work is done for them.

    Returns:
        The run's folder of results; None if it cannot be written to and `json` stands in for it.
    """
    from fastad.base.outputs import check_folder, check_output
    from fastad.evaluate.plots import PICTURE_SUFFIXES, import_matplotlib
    from fastad.tracking import ROLLOUTS
    from fastad.train.checkpoint_folder import find_checkpoint

    import_matplotlib()
    if config.plot is not None:
        check_output("plot", config.plot, suffixes=PICTURE_SUFFIXES)
    if config.json is not None:
        check_output("json", config.json)
    if config.save_histories is not None:
        _check_unused(config.save_histories)
        check_folder(f"save_histories={config.save_histories}", config.save_histories)
    results = run_folder(find_checkpoint(config.run)) / ROLLOUTS
    try:
        check_folder(f"run={config.run}", results)
    except UserError as error:
        if config.json is None:
            raise UserError(f"{error}; or name a file for the results with --json") from error
        print(f"the run keeps no results ({error}); they go to {config.json}")
        return None
    return results


def _check_unused(folder: Path) -> None:
    """Refuse a place for histories where anything lies, but for the lock of a stopped rollout."""
    from fastad.base.possession import strangers

    if folder.exists() and (not folder.is_dir() or strangers(folder, lambda name: False)):
        raise UserError(f"save_histories={folder} exists; choose a folder that does not")


def _write_figures(config: RolloutConfig, results: Path | None, figures: dict[str, Any]) -> Path:
    """Write the figures where they are kept and where the user wants them.

    Returns:
        Where the picture goes.
    """
    from fastad.base.outputs import write_output, write_result

    if config.json is not None:
        write_output(config.json, figures)
    if results is None:
        assert config.json is not None
        return config.plot or config.json.with_suffix(".png")
    control = "" if config.control == "none" else f"-{config.control}"
    stem = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{config.split}{control}"
    kept = write_result(results, stem, figures)
    print(f"results: {kept}")
    return config.plot or kept.with_suffix(".png")


def run_folder(path: Path) -> Path:
    """The run folder of a run folder, or of one of its checkpoints."""
    path = path.resolve()
    return path.parent.parent if path.parent.name == "checkpoints" else path


def episodes_per_window(run: Path, info: DatasetInfo) -> int:
    """Episodes that the training windows of a run showed."""
    from fastad.tracking import read_config

    settings = read_config(run_folder(run))["settings"]
    num_steps = settings["window"] or info.num_steps // settings["every_kth_episode"]
    return max(1, int(num_steps) // info.episode_length)


def load_task_set(config: RolloutConfig) -> tuple[DatasetInfo, TaskSet]:
    """The tasks that a rollout shall try, from the description kept in the run folder."""
    import torch

    from fastad.evaluate.held_out import TaskSet
    from fastad.histories.reader import load_description
    from fastad.tracking import DATASET, check_run

    run = run_folder(config.run)
    check_run(run)
    info, tasks = load_description(run / DATASET)
    chosen = tasks[info.task_rows(config.split)]
    if len(chosen) and config.tasks is not None and not 1 <= config.tasks <= len(chosen):
        raise UserError(
            f"tasks={config.tasks} must lie between 1 and {len(chosen)}, the {config.split} tasks"
        )
    chosen = chosen[: config.tasks or 512]
    repeats = config.rollouts_per_task
    if repeats is None:
        repeats = max(1, 128 // max(len(chosen), 1))
    return info, TaskSet(info, torch.from_numpy(chosen), repeats, config.seed, config.split)


@contextmanager
def _history_writer(
    config: RolloutConfig, info: DatasetInfo, tasks: TaskSet, episodes: int
) -> Iterator[ShardWriter]:
    """A dataset for the rollouts, in the same store as the sources'; gone if they are not finished.

    The tasks rolled out become its train tasks. Its test tasks are still the test tasks or,
    where those were rolled out, the train tasks; its validation tasks stay, unless rolled out.
    """
    from dataclasses import replace

    import torch

    from fastad.dataset_folder import begin_dataset, discard_dataset
    from fastad.histories.reader import load_description
    from fastad.histories.writer import ShardWriter
    from fastad.tracking import DATASET, describe_machine

    assert config.save_histories is not None
    _, all_tasks = load_description(run_folder(config.run) / DATASET)
    test = all_tasks[info.task_rows("train" if config.split == "test" else "test")]
    validation = all_tasks[info.task_rows("validation")][
        : 0 if config.split == "validation" else None
    ]
    knows = f"what {info.source} taught it, which knows {info.source_knows}"
    rollouts = replace(
        info,
        source="algorithm-distillation",
        source_kwargs={"run": str(config.run), "greedy": config.greedy, "control": config.control},
        source_knows=knows if info.source_knows else "",
        action_noise=0.0,
        noise_labels="clean",
        num_train=len(tasks.tasks),
        num_validation=len(validation),
        num_test=len(test),
        seed=config.seed,
        num_histories=len(tasks.rows),
        num_steps=episodes * info.episode_length,
        num_shards=1,
        versions=describe_machine(),
    )
    rows = torch.cat([tasks.tasks, torch.from_numpy(validation), torch.from_numpy(test)])
    groups, seeds = tasks.groups.tolist(), [config.seed] * len(tasks.groups)
    out = config.save_histories
    with begin_dataset(out, rollouts, rows, resume=False, overwrite=False):
        try:
            with ShardWriter(out, rollouts, 0, task_ids=groups, seeds=seeds) as writer:
                yield writer
        except BaseException:
            discard_dataset(out)  # nobody could continue it
            raise
