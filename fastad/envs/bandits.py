"""Multi-armed bandits: one pull per episode; a trial is a run of episodes."""

from typing import Any, ClassVar, Literal

import torch
from gymnasium import spaces
from torch import Tensor

from fastad.base.errors import UserError, unknown
from fastad.envs.base import BatchedEnv, Split

Variant = Literal["a", "b", "c"]
VARIANTS: tuple[Variant, ...] = ("a", "b", "c")


class Bandit(BatchedEnv):
    """`num_arms` arms; a task is the vector of their mean rewards.

    Every step is an episode, terminated. The observation is always 0, int64, (N,). Neither
    `reset` nor `step` waits for the device.

    Args:
        tasks: (N, num_arms) float32, the arms' means.
        generator: Draws the rewards.
        num_arms: Arms of each bandit, 2 or more.
        bounded_means: Whether means must be probabilities.
    """

    observation_space = spaces.Discrete(1)
    episode_length = 1

    def __init__(
        self,
        tasks: Tensor,
        *,
        generator: torch.Generator,
        num_arms: int,
        bounded_means: bool,
    ) -> None:
        check_num_arms(num_arms)
        if tasks.ndim != 2 or tasks.shape[1] != num_arms or tasks.shape[0] == 0:
            raise UserError(
                f"tasks of shape {tuple(tasks.shape)} do not fit num_arms={num_arms}; "
                f"give the arms' means as (N, {num_arms}) with N >= 1"
            )
        means = tasks.float()
        possible = ((means >= 0) & (means <= 1)) if bounded_means else means.isfinite()
        if not possible.all():
            row, arm = (~possible).nonzero()[0].tolist()
            must = "lie in [0, 1]" if bounded_means else "be finite"
            raise UserError(
                f"tasks[{row}] gives arm {arm} the mean {means[row, arm]}; it must {must}"
            )
        super().__init__(means, generator=generator)
        self.action_space = spaces.Discrete(num_arms)
        self.final_observation = self.reset()

    @classmethod
    def enumerate_tasks(cls, **kwargs: Any) -> None:
        """None: there are infinitely many vectors of means."""
        return

    @classmethod
    def sample_tasks(
        cls,
        num_tasks: int,
        *,
        split: Split,
        generator: torch.Generator,
        num_arms: int = 10,
        **kwargs: Any,
    ) -> Tensor:
        """Draw means from U(0, 1), whatever the split, (num_tasks, num_arms) float32."""
        check_num_arms(num_arms)
        return torch.rand((num_tasks, num_arms), generator=generator, device=generator.device)

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

    def _reward(self, mean: Tensor) -> Tensor:
        """Rewards (N,) float32: 1 with probability `mean`, else 0."""
        noise = torch.rand(mean.shape, generator=self.generator, device=self.device)
        return (noise < mean).float()


class BernoulliBandit(Bandit):
    """Arms that pay 1 with probability U(0, 1) = Beta(1, 1), else 0.

    Args:
        tasks: (N, num_arms) float32, the arms' probabilities.
        generator: Draws the rewards.
        num_arms: Arms of each bandit, 2 or more.
    """

    name = "bernoulli-bandit"

    def __init__(self, tasks: Tensor, *, generator: torch.Generator, num_arms: int = 10) -> None:
        super().__init__(tasks, generator=generator, num_arms=num_arms, bounded_means=True)


class GaussianBandit(Bandit):
    """Arms that pay a normal reward around a mean drawn from U(0, 1).

    Args:
        tasks: (N, num_arms) float32, the arms' means.
        generator: Draws the rewards.
        num_arms: Arms of each bandit, 2 or more.
        reward_std: Standard deviation of the reward of every arm.
    """

    name = "gaussian-bandit"

    def __init__(
        self,
        tasks: Tensor,
        *,
        generator: torch.Generator,
        num_arms: int = 10,
        reward_std: float = 0.3,
    ) -> None:
        if not 0.0 <= reward_std < float("inf"):
            raise UserError(f"reward_std={reward_std} is not possible; use 0 or more, such as 0.3")
        super().__init__(tasks, generator=generator, num_arms=num_arms, bounded_means=False)
        self.reward_std = reward_std

    def _reward(self, mean: Tensor) -> Tensor:
        noise = torch.randn(mean.shape, generator=self.generator, device=self.device)
        return mean + self.reward_std * noise


class AdversarialBandit(Bandit):
    """A Bernoulli bandit whose good arms are the odd ones in training, the even ones in test.

    Arms are numbered from 0, as the actions are. Public readings of the paper's sentence differ:

    - "a" (default): the favoured arms' probabilities are U(.5, 1), the others' U(0, .5). In 5 %
      of the tasks the two are swapped. We read "95 % of the time" as holding on both sides:
      95 % of training tasks favour the odd arms, 95 % of test tasks the even ones.
    - "b": favoured .95 U(0, 1), others .05 U(0, 1): all of one trial's arms may be poor.
    - "c": favoured 1 - U(0, .1), others U(0, .1): every favoured arm is nearly as good.

    Args:
        tasks: (N, num_arms) float32, the arms' probabilities.
        generator: Draws the rewards.
        num_arms: Arms of each bandit, 2 or more.
        variant: How `sample_tasks` draws tasks; the dynamics do not depend on it.
    """

    name = "adversarial-bandit"
    swapped_share: ClassVar[float] = 0.05

    def __init__(
        self,
        tasks: Tensor,
        *,
        generator: torch.Generator,
        num_arms: int = 10,
        variant: Variant = "a",
    ) -> None:
        check_variant(variant)
        super().__init__(tasks, generator=generator, num_arms=num_arms, bounded_means=True)
        self.variant = variant

    @classmethod
    def sample_tasks(
        cls,
        num_tasks: int,
        *,
        split: Split,
        generator: torch.Generator,
        num_arms: int = 10,
        variant: Variant = "a",
        **kwargs: Any,
    ) -> Tensor:
        """Draw probabilities that favour even arms for "test", odd ones for the other splits.

        Returns:
            (num_tasks, num_arms) float32.
        """
        check_num_arms(num_arms)
        check_variant(variant)
        device = generator.device
        uniform = torch.rand((num_tasks, num_arms), generator=generator, device=device)
        favoured = torch.arange(num_arms, device=device) % 2 == (0 if split == "test" else 1)
        if variant == "b":
            return torch.where(favoured, 0.95 * uniform, 0.05 * uniform)
        if variant == "c":
            return torch.where(favoured, 1.0 - 0.1 * uniform, 0.1 * uniform)
        swapped = torch.rand((num_tasks, 1), generator=generator, device=device)
        favoured = favoured ^ (swapped < cls.swapped_share)
        return 0.5 * uniform + 0.5 * favoured


def check_num_arms(num_arms: int) -> None:
    """Refuse bandits without a choice."""
    if num_arms < 2:
        raise UserError(f"num_arms={num_arms} is not possible; use 2 or more")


def check_variant(variant: str) -> None:
    """Refuse variants of the adversarial bandit that do not exist."""
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
