"""What defines a training run, apart from the model and the data."""

from dataclasses import dataclass
from typing import Literal

from fastad.base.config import check_seed
from fastad.base.errors import UserError


@dataclass(frozen=True)
class TrainSettings:
    """How the model is fitted to learning histories."""

    updates: int = 700
    """Gradient updates in all; the schedule ends exactly here."""
    batch_size: int = 12
    """Windows per update. Many small updates are at least as good as few large ones."""
    window: int | None = None
    """Environment steps per training sequence (default: the whole history, or its length divided
    by every_kth_episode). May exceed the context: attention is banded. Twice the context shows the
    model how to go on when the beginning is out of its sight, which rollouts of many more episodes
    may need."""
    start: Literal["history", "anywhere", "end"] = "history"
    """Where windows begin: at step 0 of the history, which shows learning from scratch, at a
    random episode, or as late as they fit."""
    every_kth_episode: int = 1
    """Show every k-th episode only, for sources that learn slowly."""
    subsample: Literal["every-kth", "cut", "random"] = "every-kth"
    """Which episodes a window of `window` steps shows. every-kth: see every_kth_episode. random:
    any, in order. cut: none or some of the history's early part, then some of its late part, in
    order, as if the learner had searched for any length of time and then found out."""
    cut: tuple[float, float] = (0.16, 0.5)
    """For subsample=cut: where the early part of the history ends and its late part begins, as
    shares of its episodes."""
    pack: bool = False
    """Fill every row of `window` steps with histories, one after another, each a context of its
    own; the last is cut where the row ends. For histories of different lengths: those shorter than
    the window are used, not refused, and nothing is computed for steps that are not there."""
    target: Literal["policy", "sampled", "final", "expert"] = "policy"
    """policy: the source's own action distribution (less noise). sampled: the action taken (the
    paper's likelihood). final: look-ahead labels, what the same learner would do at the end of its
    history. expert: what an expert would do that is told the task. (`fastad collect --labels final
    expert` stores the last two.)"""
    auxiliary_weight: float = 0.0
    """Weight of a loss by which the encoder also learns to tell what the environment knows of
    itself, such as place and heading in Watermaze: privileged, and in training only. 0: none."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """muon: Muon on the matrices of the blocks and AdamW on the rest. adamw: AdamW alone."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of Muon."""
    weight_decay: float = 0.0
    """Decoupled weight decay, on matrices only."""
    adam_betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's moment decay rates."""
    warmup_updates: int = 30
    """Updates over which the learning rate climbs from 0; a run that is no longer only climbs."""
    decay: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    final_learning_rate: float = 0.03
    """Share of the peak that is left at the last update."""
    clip: float = 1.0
    """Largest gradient norm; 0 turns clipping off."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs matrix products under autocast; faster on GPUs, slower on most CPUs."""
    activation_checkpointing: bool = False
    """Keep the input of every block of the transformer alone and compute the rest of it again in
    the backward pass: the same gradients for less memory and about a third more time. For long
    windows, wide models and many layers."""
    compile: bool = False
    """Compile the model with torch.compile. Pays on GPUs and for long runs."""
    log_every: int = 20
    """Updates between lines of the log."""
    eval_every: int | None = None
    """Updates between rollouts on validation tasks, which draw the run's learning curve and change
    no weight; 0: none (default: a tenth of the updates, at least 100, and one at the end, in all
    some 2 % of the time; none where the data have no validation tasks)."""
    checkpoint_every: int = 200
    """Updates between checkpoints; the last update always has one."""
    seed: int = 0
    """Of the weights, the windows and the dropout."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for field in ("updates", "batch_size", "every_kth_episode", "log_every"):
            self._require(field, getattr(self, field) >= 1, "at least 1")
        not_negative = ("warmup_updates", "eval_every", "checkpoint_every", "clip", "weight_decay")
        for field in (*not_negative, "auxiliary_weight"):
            self._require(field, (getattr(self, field) or 0) >= 0, "at least 0")
        for field in ("learning_rate", "muon_learning_rate"):
            self._require(field, getattr(self, field) > 0, "above 0")
        self._require("window", self.window is None or self.window >= 1, "at least 1")
        self._require("final_learning_rate", 0 <= self.final_learning_rate <= 1, "in [0, 1]")
        self._require("adam_betas", all(0 <= beta < 1 for beta in self.adam_betas), "in [0, 1)")
        check_seed(self.seed)
        early, late = self.cut
        self._require("cut", 0 <= early <= late < 1, "two shares, the first no larger, below 1")
        if self.subsample != "every-kth" and self.window is None:
            raise UserError(
                f"subsample={self.subsample} needs a window, the steps that it shows; set --window"
            )

    @property
    def curve_every(self) -> int:
        """`eval_every`, or what is taken where nobody chose: an evaluation is worth 2 updates."""
        if self.eval_every is None:
            return max(100, -(-self.updates // 10))
        return self.eval_every

    def _require(self, field: str, holds: bool, rule: str) -> None:
        if not holds:
            raise UserError(f"{field}={getattr(self, field)} must be {rule}")
