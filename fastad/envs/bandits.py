"""Multi-armed bandits: one pull per episode; a trial is a run of episodes."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from fastad.base.errors import UserError, unknown
from fastad.envs.base import BatchedEnv, uniform_over
from fastad.envs.family import EnvSpec, Split, TaskFamily
from fastad.envs.pictures import draw_bars
from fastad.envs.scene import Arms, Mark

Variant = Literal["a", "b", "c"]
VARIANTS: tuple[Variant, ...] = ("a", "b", "c")


@dataclass(frozen=True)
class BanditFamily(TaskFamily):
    """Bandits of `num_arms` arms; a task is the vector of their mean rewards, float32."""

    num_arms: int = 10
    """Arms of each bandit, 2 or more."""

    task_arguments: ClassVar = {"means": "num_arms"}
    bounded_means: ClassVar[bool] = True  # whether means must be probabilities

    def __post_init__(self) -> None:
        """Refuse bandits without a choice."""
        if self.num_arms < 2:
            raise UserError(f"num_arms={self.num_arms} is not possible; use 2 or more")

    def spec(self) -> EnvSpec:
        """See `TaskFamily.spec`."""
        return EnvSpec(spaces.Discrete(1), spaces.Discrete(self.num_arms), episode_length=1)

    def sample(self, num_tasks: int, split: Split, generator: torch.Generator) -> Tensor:
        """Draw means from U(0, 1), whatever the split, (num_tasks, num_arms) float32."""
        shape = (num_tasks, self.num_arms)
        return torch.rand(shape, generator=generator, device=generator.device)

    def words(self, task: Tensor) -> str:
        """See `TaskFamily.words`: the best arm, as there may be many."""
        best = int(task.argmax())
        return f"{self.num_arms} arms, the best is {best}, with mean {task[best]:.3g}"

    def scene(self) -> Arms:
        """See `TaskFamily.scene`."""
        return Arms(self.num_arms)

    def marks(self, task: Tensor) -> tuple[Mark, ...]:
        """The arms' means; see `Arms`."""
        return tuple(Mark(f"arm {arm}", arm, mean) for arm, mean in enumerate(task.tolist()))

    def make(self, tasks: Tensor, generator: torch.Generator) -> "BanditEnv":
        """See `TaskFamily.make`."""
        return BanditEnv(self, tasks, generator)

    def check_tasks(self, tasks: Tensor) -> None:
        """Refuse tasks (N, K) that are not the means of that many arms."""
        if tasks.ndim != 2 or tasks.shape[1] != self.num_arms or tasks.shape[0] == 0:
            raise UserError(
                f"tasks of shape {tuple(tasks.shape)} do not fit num_arms={self.num_arms}; "
                f"give the arms' means as (N, {self.num_arms}) with N >= 1"
            )
        means = tasks.float()
        possible = ((means >= 0) & (means <= 1)) if self.bounded_means else means.isfinite()
        if not possible.all():
            row, arm = (~possible).nonzero()[0].tolist()
            must = "lie in [0, 1]" if self.bounded_means else "be finite"
            raise UserError(
                f"tasks[{row}] gives arm {arm} the mean {means[row, arm]}; it must {must}"
            )


class BanditEnv(BatchedEnv):
    """Bandits whose arms pay 1 with their mean as the probability, else 0.

    Every step is an episode, terminated. The observation is always 0, int64, (N,).

    Args:
        family: Says how many arms there are, and what means are possible.
        tasks: (N, num_arms) float32, the arms' means.
        generator: Draws the rewards.
    """

    def __init__(self, family: BanditFamily, tasks: Tensor, generator: torch.Generator) -> None:
        family.check_tasks(tasks)
        super().__init__(family, tasks.float(), generator)

    def reset(self) -> Tensor:
        """Begin a new episode everywhere; returns zeros, (N,)."""
        return torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pull one arm each; see `BatchedEnv.step`."""
        reward = self._reward(self.tasks.gather(1, action[:, None])[:, 0])
        self.final_observation = self.reset()
        terminated = torch.ones_like(reward, dtype=torch.bool)
        return self.reset(), reward, terminated, torch.zeros_like(terminated)

    def optimal_return(self) -> Tensor:
        """The mean of the best arm, (N,) float32."""
        return self.tasks.amax(dim=1)

    def expert(self, observation: Tensor, phase: Tensor | None = None) -> Tensor:
        """Uniform over the arms of the highest mean; see `BatchedEnv.expert`."""
        return uniform_over(self.tasks == self.tasks.amax(dim=1, keepdim=True))

    def regret(self, action: Tensor) -> Tensor:
        """See `BatchedEnv.regret`."""
        missed = self.tasks.amax(dim=1, keepdim=True) - self.tasks.gather(1, action)
        return missed.sum(dim=1)

    def render_text(self, observation: Tensor, index: int) -> str:
        """The means, which are hidden."""
        return " ".join(f"{mean:.2f}" for mean in self.tasks[index].tolist()) + "\n"

    def render_picture(self, observation: Tensor, index: int) -> np.ndarray:
        """See `draw_bars`."""
        return draw_bars(self.tasks[index].tolist())

    def _reward(self, mean: Tensor) -> Tensor:
        """Rewards (N,) float32 of arms with these means."""
        noise = torch.rand(mean.shape, generator=self.generator, device=self.device)
        return (noise < mean).float()


@dataclass(frozen=True)
class BernoulliBandit(BanditFamily):
    """Arms that pay 1 with probability U(0, 1) = Beta(1, 1), else 0."""

    name = "bernoulli-bandit"


@dataclass(frozen=True)
class GaussianBandit(BanditFamily):
    """Arms that pay a normal reward around a mean drawn from U(0, 1)."""

    reward_std: float = 0.3
    """Standard deviation of the reward of every arm."""

    name = "gaussian-bandit"
    bounded_means = False

    def __post_init__(self) -> None:
        """Refuse negative deviations, and what every bandit refuses."""
        if not 0.0 <= self.reward_std < float("inf"):
            raise UserError(
                f"reward_std={self.reward_std} is not possible; use 0 or more, such as 0.3"
            )
        super().__post_init__()

    def make(self, tasks: Tensor, generator: torch.Generator) -> "GaussianEnv":
        """See `TaskFamily.make`."""
        return GaussianEnv(self, tasks, generator)


class GaussianEnv(BanditEnv):
    """Bandits whose arms pay normal rewards."""

    family: GaussianBandit

    def _reward(self, mean: Tensor) -> Tensor:
        noise = torch.randn(mean.shape, generator=self.generator, device=self.device)
        return mean + self.family.reward_std * noise


@dataclass(frozen=True)
class AdversarialBandit(BanditFamily):
    """A Bernoulli bandit whose good arms are the odd ones in training, the even ones in test.

    Arms are numbered from 0, as the actions are. Public readings of the paper's sentence differ:

    - "a" (default): the favoured arms' probabilities are U(.5, 1), the others' U(0, .5). In 5 %
      of the tasks the two are swapped. We read "95 % of the time" as holding on both sides:
      95 % of training tasks favour the odd arms, 95 % of test tasks the even ones.
    - "b": favoured .95 U(0, 1), others .05 U(0, 1): all of one trial's arms may be poor.
    - "c": favoured 1 - U(0, .1), others U(0, .1): every favoured arm is nearly as good.
    """

    variant: Variant = "a"
    """How tasks are drawn, "a", "b" or "c"; the dynamics do not depend on it."""

    name = "adversarial-bandit"
    swapped_share: ClassVar[float] = 0.05

    def __post_init__(self) -> None:
        """Refuse variants that there are not, and what every bandit refuses."""
        if self.variant not in VARIANTS:
            raise unknown("variant", self.variant, VARIANTS)
        super().__post_init__()

    def sample(self, num_tasks: int, split: Split, generator: torch.Generator) -> Tensor:
        """Draw probabilities that favour even arms for "test", odd ones for the other splits.

        Returns:
            (num_tasks, num_arms) float32.
        """
        uniform = super().sample(num_tasks, split, generator)
        device = generator.device
        favoured = torch.arange(self.num_arms, device=device) % 2 == (0 if split == "test" else 1)
        if self.variant == "b":
            return torch.where(favoured, 0.95 * uniform, 0.05 * uniform)
        if self.variant == "c":
            return torch.where(favoured, 1.0 - 0.1 * uniform, 0.1 * uniform)
        swapped = torch.rand((num_tasks, 1), generator=generator, device=device)
        favoured = favoured ^ (swapped < self.swapped_share)
        return 0.5 * uniform + 0.5 * favoured
