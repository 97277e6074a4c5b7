"""What RL^2 can be told; light to import, as all that commands show in their help."""

from dataclasses import dataclass, fields
from typing import Any

from fastad.base.errors import UserError

# Settings of what is learned from histories, and of a model that is another in training.
OF_HISTORIES = ("start", "every_kth_episode", "subsample", "cut", "pack", "target")
NOISE = ("dropout", "attention_dropout", "token_mask")


@dataclass(frozen=True)
class RL2Config:
    """Reinforcement learning over trials of several episodes."""

    gamma: float = 0.95
    """Discount per step of method=rl2. Trials are discounted as one, whatever ends in them, so that
    exploring in one episode is worth what it brings in the next."""
    gae_lambda: float = 0.9
    """Lambda of generalised advantage estimation, of method=rl2: 0 trusts the values that the model
    predicts, 1 the rewards of the trial."""
    entropy: float = 0.02
    """Weight of the policy's entropy, of method=rl2: against policies that settle too soon."""
    value_weight: float = 0.5
    """Weight of the squared error of predicted values, a share of the variance of what they
    predict, of method=rl2."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for field in ("gamma", "gae_lambda"):
            if not 0.0 <= getattr(self, field) <= 1.0:
                raise UserError(f"{field}={getattr(self, field)} must be in [0, 1]")
        for field in ("entropy", "value_weight"):
            if not getattr(self, field) >= 0.0:
                raise UserError(f"{field}={getattr(self, field)} must be at least 0")


def check_method(method: str, model: Any, settings: Any, rl2: RL2Config) -> None:
    """Refuse settings that do not suit a method; what only others use has to be as by default.

    Args:
        method: By name.
        model: A `ModelConfig`.
        settings: A `TrainSettings`.
        rl2: Of RL^2.

    Raises:
        UserError: Naming the first of them.
    """
    if method == "rl2":
        _refuse(settings, OF_HISTORIES, "chooses from histories, and method=rl2 reads none")
        _refuse(
            model,
            NOISE,
            "makes the policy that learns another than the one that acted, for method=rl2",
        )
    else:
        names = tuple(field.name for field in fields(rl2))
        _refuse(rl2, names, f"is for method=rl2, and this is method={method}")
    if method == "dpt" and settings.target != "expert":
        raise UserError(
            f"method=dpt learns what an expert would do, and target={settings.target} is another; "
            "use --target expert, or --method ad"
        )
    if method != "dpt" and model.layout == "unordered":
        raise UserError(
            f"layout=unordered is for method=dpt, which shuffles, and method={method} learns from "
            "steps in their order; use layout=fused or interleaved"
        )


def _refuse(part: Any, names: tuple[str, ...], reason: str) -> None:
    for name in names:
        value, usual = getattr(part, name), getattr(type(part)(), name)
        if value != usual:
            raise UserError(f"{name}={value} {reason}; leave it at {usual}")
