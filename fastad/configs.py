"""What `collect`, `train` and `rollout` can be told; the docstrings are the commands' help.

Light to import: nothing here waits for PyTorch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastad.base.config import Kernels, Track, check_seed, to_plain
from fastad.base.errors import UserError
from fastad.methods.rl2_config import RL2Config, check_method
from fastad.model.config import ModelConfig
from fastad.training.settings import TrainSettings

# Fields of a `RolloutConfig` that change no return.
NOT_ASKED = (
    "run", "env", "plot", "json", "save_histories", "device", "threads", "kernels", "compile",
    "cuda_graph", "workers", "watch", "watch_speed",
)  # fmt: skip


@dataclass(frozen=True)
class CollectConfig:
    """Collect learning histories: a source algorithm learns every task from scratch.

    Continue a stopped or killed collection with the same command and --resume: it ends with the
    same data, byte for byte.
    """

    out: Path | None = None
    """Folder to write the dataset to (default: data/ENV)."""
    env: str = "dark-room"
    """Environment, one of those that `fastad envs` lists with their options; any of Gymnasium, as
    gym:CartPole-v1; or your own, as package.module:callable."""
    env_options: tuple[str, ...] = ()
    """Its options as KEY=VALUE, as size=11; `fastad envs ENV` explains them. --env-kwargs is the
    same: others are the environment's own, and 'tasks={gravity: [5, 15]}' says how tasks differ."""
    source: str = "frontier"
    """What learns, one of those that `fastad sources` lists with their options and what each is
    told beyond what it experiences, which stands beside all its results; or one of
    Stable-Baselines3's, as sb3:PPO."""
    source_options: tuple[str, ...] = ()
    """Its options as KEY=VALUE, as learning_rate=0.5; `fastad sources SOURCE` explains them."""
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
    labels: tuple[Literal["expert", "final"], ...] = ()
    """Further distributions to store with every step. expert: what the environment's expert would
    do, which is told the task: privileged. final: look-ahead, what the same learner would do in
    that state at the end of its history; collecting takes the source twice. Neither knows of
    action noise."""
    look_ahead: int | None = None
    """With the label final: what the learner would do so many episodes later, if not at the end.
    For sources that learn once per episode these are as many updates."""
    seed: int = 0
    """Of tasks, split and histories."""
    shards: int | None = None
    """Files that the histories are spread over, the unit of parallel work and of --resume
    (default: one per 1,024 histories; of sb3:PPO, 8). Changes the random streams, so the data."""
    workers: int = 1
    """Shards at once, each in a process of its own. Does not change the data; worth their start-up
    from some 10 million steps on."""
    executor: Literal["local", "ray", "slurm"] = "local"
    """Where they run. local: on this machine. ray: on a Ray cluster. slurm: as jobs of a SLURM
    cluster, by submitit. The last two need their extras, and a folder that all hosts share; see
    docs/clusters.md."""
    executor_options: tuple[str, ...] = ()
    """Its options as KEY=VALUE. ray: address, cpus and memory_gb of a worker. slurm: partition,
    account, qos, constraint, time (minutes) and memory_gb of a shard's job, logs (a folder), and
    cluster=local to try it without SLURM."""
    retries: int = 2
    """How often a shard is begun again whose worker died, before all stop."""
    resume: bool = False
    """Continue the dataset in `out`, if there is one."""
    overwrite: bool = False
    """Delete the dataset in `out` and start anew."""

    def __post_init__(self) -> None:
        """Check the ranges that nobody else checks before anything is written."""
        if self.workers < 1:
            raise UserError(f"workers={self.workers} is not possible; use 1 or more")
        if self.retries < 0:
            raise UserError(f"retries={self.retries} is not possible; use 0 or more")

    @property
    def folder(self) -> Path:
        """Where the dataset goes."""
        return self.out or Path("data") / re.sub(r"[^\w.-]+", "-", self.env)


@dataclass(frozen=True)
class TrainConfig:
    """Train a transformer on learning histories.

    Writes a run folder: config.yaml, metrics.jsonl, checkpoints, and what made it. Continue a
    stopped or killed run with the same command and --resume: on a CPU it ends with the same
    weights, bit for bit.
    """

    data: Path = Path("data/dark-room")
    """Dataset that `fastad collect` wrote, or an .hdf5 file in XLand-100B's layout, which is read
    where it lies (docs/formats.md)."""
    out: Path | None = None
    """Run folder to write (default: runs/NAME for data called NAME)."""
    method: Literal["ad", "expert-distillation", "decision-transformer", "dpt", "rl2"] = "ad"
    """What is learnt; `fastad methods` lists them with their defaults.
    ad: Algorithm Distillation, the source's whole learning.
    expert-distillation: the last `window` steps of every history alone, the source as it ended.
    decision-transformer: the source, given what its episodes return (arXiv 2106.01345); at rollout
    it is asked for the optimal return. By default it learns from the actions taken, wherever in a
    history `window` steps may begin.
    dpt: what an expert would do at every step (arXiv 2306.14892), who is told the task; with
    --layout unordered each context is a set of transitions, as in the paper. The data need
    expert labels.
    rl2: reinforcement learning over trials of several episodes, in the environment itself; of the
    data it takes the split of the tasks, and reads no history. Its defaults are others: a GRU, and
    batch_size and optimiser to suit (`--method rl2 --help` shows them)."""
    env: str | None = None
    """Environment that these settings are for, as a preset says it: data of another are refused
    (default: whichever the data are of)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model."""
    settings: TrainSettings = field(default_factory=TrainSettings)
    """The training."""
    rl2: RL2Config = field(default_factory=RL2Config)
    """What is reinforced, with method=rl2."""
    eval_episodes: int | None = None
    """Episodes of each rollout on validation tasks, see eval_every (default: as many as a window
    shows)."""
    eval_context: int | None = None
    """Attention window of those rollouts in tokens, for instance to look back over more episodes
    than a training window shows (default: the model's own)."""
    eval_tasks: int = 16
    """Rollouts of each such evaluation, on as many validation tasks as there are."""
    kernels: Kernels = "auto"
    """What computes attention, linear maps and MLPs; what is named never falls back. auto: triton
    on GPUs, native on CPUs with a C++ compiler wherever it was measured to be no slower, else sdpa.
    triton: our kernels for GPUs (on a CPU only with TRITON_INTERPRET=1, which is slow). native: our
    C++ kernels for CPUs, compiled at first use. sdpa: PyTorch's. flash: the flash-attn package,
    16-bit GPUs only, without a KV cache. reference: the plain specification."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""
    threads: int | None = None
    """CPU threads (default: all cores)."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """How several processes, which torchrun starts, share the model. ddp: each has all of it.
    fsdp2: each has a part of its weights, gradients and optimiser states. The batch, dealt out over
    them, is the same."""
    accumulate: int = 1
    """Parts, one after another, in which each process takes its windows of an update: as much less
    memory, for the same results within rounding."""
    track: tuple[Track, ...] = ()
    """Where the log goes besides metrics.jsonl: TensorBoard's files in the run folder, Weights &
    Biases, Trackio; several are possible. Each needs its extra; see docs/trackers.md."""
    track_project: str | None = None
    """The project that wandb and trackio file the run under (default: fastad, or WANDB_PROJECT)."""
    resume: bool = False
    """Continue from the newest checkpoint in `out`, if there is one."""
    extend: int | None = None
    """Go on with the finished run in `out` for as many more updates, by the same command or with
    --config RUN/config.yaml. The learning rate is from there on that of a run of the new length:
    it rises again before it falls to the new end."""
    overwrite: bool = False
    """Delete the run in `out` and start anew."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.extend is not None and self.extend < 1:
            raise UserError(f"extend={self.extend} must be at least 1")
        for name in ("eval_tasks", "eval_episodes", "eval_context", "accumulate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value} must be at least 1")
        check_method(self.method, self.model, self.settings, self.rl2)

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        return self.out or Path("runs") / re.sub(r"\.(hdf5|h5)$", "", self.data.resolve().name)

    @classmethod
    def begin_with(cls, settings: Mapping[str, Any]) -> TrainConfig:
        """What settings, by name, change where no config is named: their method's defaults."""
        return DEFAULTS.get(str(settings.get("method"))) or cls()


# Where a method has defaults of its own.
DEFAULTS = {
    "decision-transformer": TrainConfig(
        method="decision-transformer",
        settings=TrainSettings(start="anywhere", target="sampled"),
    ),
    "dpt": TrainConfig(method="dpt", settings=TrainSettings(target="expert")),
    "rl2": TrainConfig(
        method="rl2",
        model=ModelConfig(trunk="gru", num_layers=1),
        settings=TrainSettings(updates=1000, batch_size=64, optimizer="adamw", learning_rate=5e-3),
    ),
}


@dataclass(frozen=True)
class RolloutConfig:
    """Roll a frozen model out on tasks it never saw, and show its return per episode.

    No weight changes: whatever improves from episode to episode is learned in context. The
    table and the picture show the source, chance and the optimum on the same tasks.
    """

    run: Path = Path("runs/dark-room")
    """Run folder that `fastad train` wrote, or one checkpoint of it."""
    env: str | None = None
    """Environment that these settings are for, as a preset says it: runs of another are refused
    (default: whichever the run is of). For a run on histories from elsewhere, the one to act in."""
    env_options: tuple[str, ...] = ()
    """Of the latter, as KEY=VALUE."""
    kv_cache: bool = True
    """Keep keys and values in a ring (--kv-cache), or recompute everything that can influence a
    prediction at every step (--no-kv-cache). Same actions, very different speed."""
    episodes: int | None = None
    """Episodes per task (default: as many as a training window showed)."""
    context: int | None = None
    """Attention window in tokens: what the model may look back on, for instance over more episodes
    than a training window showed (default: as it was trained). Learned positions have no other."""
    split: Literal["test", "validation", "train"] = "test"
    """Tasks held out for reports, those held out to look at while training, or those trained
    on."""
    tasks: int | None = None
    """Tasks to take from the split (default: all, at most 512)."""
    rollouts_per_task: int | None = None
    """Rollouts on each task (default: enough for 128 in all)."""
    greedy: bool = False
    """Take the most probable action instead of sampling; freezes undertrained models."""
    control: Literal["none", "no-reward", "shuffled-rewards", "one-episode", "wiped-context"] = (
        "none"
    )
    """What is hidden from the model. no-reward: it is shown rewards of 0. shuffled-rewards: at
    every step those of other tasks, dealt out anew. one-episode: it sees the steps of the running
    episode alone, the first of which tells the action and the reward before it. wiped-context: not
    even those. Learning in context must vanish in each, unless the episode's end gives the reward
    away, or an episode is one step, as a bandit's. A context of one episode that slides (--context)
    is no control: it shows the end of the episode before."""
    prompt_from: Path | None = None
    """Begin every context with episodes of a learning history of its very task. source: the run's
    source learns the tasks from scratch. A folder: a dataset that has histories of them, such as
    one of --save-histories. They are no part of the returns."""
    prompt_episodes: str | None = None
    """Which of its episodes, from 0 and without the last, as FIRST:LAST, for example 0:5, or from
    the end, written --prompt-episodes=-5: (default: all)."""
    target_return: float | None = None
    """What a decision transformer is asked for in every episode (default: the task's optimal
    return, which it is told)."""
    kernels: Kernels = "auto"
    """What computes attention, linear maps and MLPs; what is named never falls back. auto: triton
    on GPUs, native on CPUs with a C++ compiler wherever it was measured to be no slower, else sdpa.
    triton: our kernels for GPUs (on a CPU only with TRITON_INTERPRET=1, which is slow). native: our
    C++ kernels for CPUs, compiled at first use. sdpa: PyTorch's. flash: the flash-attn package,
    16-bit GPUs only, without a KV cache. reference: the plain specification."""
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
    workers: int = 1
    """Processes that the rollouts are dealt to, each with its share of the threads, or with a GPU
    of its own. The same results, for the source and chance as well, which are not split."""
    watch: bool = False
    """Play the first rollout in the terminal while it happens. The figures are the same."""
    watch_speed: float = 15.0
    """Steps a second that --watch plays."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_seed(self.seed)
        for name in ("episodes", "context", "tasks", "rollouts_per_task", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value} must be at least 1")
        if not 0 < self.watch_speed < math.inf:
            raise UserError(f"watch_speed={self.watch_speed:g} must be above 0: steps a second")
        if self.prompt_episodes is not None and self.prompt_from is None:
            raise UserError(
                f"prompt_episodes={self.prompt_episodes} are of no history; name one, or its "
                "source, with --prompt-from"
            )
        if self.prompt_from is not None and self.control in ("one-episode", "wiped-context"):
            raise UserError(
                f"control={self.control} forgets the prompt before the first step; leave "
                "--prompt-from or --control out"
            )
        _ = self.prompt_slice

    @property
    def prompt_slice(self) -> slice:
        """The episodes of the prompt."""
        text = ":" if self.prompt_episodes is None else self.prompt_episodes
        found = re.fullmatch(r"(-?\d+)?:(-?\d+)?", text)
        if found is None:
            raise UserError(
                f"prompt_episodes={text} is not of the form FIRST:LAST, such as 0:5 or -5:"
            )
        first, last = (None if end is None else int(end) for end in found.groups())
        return slice(first, last)

    @property
    def asked(self) -> dict[str, Any]:
        """What may change a return, as plain values: neither files nor what computes it."""
        plain = to_plain(self)
        return {name: value for name, value in plain.items() if name not in NOT_ASKED}
