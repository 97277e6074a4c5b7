"""RL^2: a learner that is learned by reinforcement learning, over trials of several episodes.

Duan et al. 2016 (arXiv 1611.02779) and Wang et al. 2016 (arXiv 1611.05763): what the model
remembers is kept across the episodes of a trial, all on one task, so that reward teaches it to
explore first and to exploit then.
"""

import torch
from torch import Tensor, nn

from fastad.acting.interact import interact
from fastad.actions import distribution_over
from fastad.envs.family import TaskFamily
from fastad.methods.base import Batch
from fastad.methods.rl2_config import RL2Config
from fastad.model.config import ModelConfig
from fastad.model.heads import Output
from fastad.model.memory import RecordedMemory
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.agent import InContextAgent
from fastad.sources.random import Random

TINY = 1e-8  # what variances are divided by, where they vanish


class RL2:
    """Lets the model act in trials of many tasks, and makes likelier what turned out well.

    Advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783) with generalised advantage
    estimates (Schulman et al. 2016, arXiv 1506.02438), backpropagated through whole trials. It is
    on-policy, an update per batch of trials: so a batch follows from the weights, the seed and the
    update alone.

    Args:
        family: Of the environments.
        tasks: (M, K), to train on; a batch has each of them as often as another, or once more.
        num_steps: `T`, of a trial.
        batch_size: `B`, trials per update that this rank learns from. It acts in those of all
            ranks, which one generator makes.
        seed: Of tasks, environments and actions.
        config: Of the loss.
        rank: Of this process.
        world_size: Processes in all.
    """

    needs: frozenset[str] = frozenset()
    follows_weights = True
    has_moments = True

    def __init__(
        self,
        family: TaskFamily,
        tasks: Tensor,
        *,
        num_steps: int,
        batch_size: int,
        seed: int,
        config: RL2Config,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.family, self.tasks = family, tasks
        self.num_steps, self.batch_size, self.seed = num_steps, batch_size * world_size, seed
        self._mine = slice(rank * batch_size, (rank + 1) * batch_size)
        self.config = config
        self.spec = family.spec()
        self.actions = distribution_over(self.spec.action_space)
        self.model: SequenceModel | None = None

    def build_model(self, config: ModelConfig) -> SequenceModel:
        """A fresh model with a value head, which is the one that acts from then on."""
        spec = self.spec
        self.model = SequenceModel(
            config, spec.observation_space, spec.action_space, spec.episode_length, value=True,
            family=self.family,
        )  # fmt: skip
        self.model.fit(self._observations)
        # Hardly any preference, and values of 0: the first trials explore, and teach no noise.
        heads = self.model.heads
        assert heads.value is not None
        with torch.no_grad():
            heads.policy.weight.mul_(0.1)
            nn.init.zeros_(heads.value.weight)
        return self.model

    def _observations(self) -> Tensor:
        """What is seen by acting by chance on some tasks, (n, ...)."""
        generator = torch.Generator().manual_seed(self.seed)
        env = self.family.make(self.tasks[: self.batch_size], generator)
        source = Random(env, num_episodes=1, generator=generator)
        steps = env.episode_length
        (lived,) = interact(env, source, num_steps=steps, block_steps=steps, generator=generator)
        return lived.observation.flatten(0, 1)

    def batch(self, step: int) -> Batch:
        """See `Method.batch`: trials of the model as it is before update `step`."""
        assert self.model is not None
        model = self.model.eval()
        device = next(model.parameters()).device
        generator = torch.Generator(device).manual_seed(self.seed * 1_000_003 + step)
        order = torch.randperm(len(self.tasks), generator=generator, device=device).cpu()
        rows = order[torch.arange(self.batch_size) % len(order)]
        env = self.family.make(self.tasks[rows].to(device), generator)
        memory = RecordedMemory(model.make_memory(self.batch_size))
        agent = InContextAgent(memory, self.actions, self.batch_size, generator=generator)
        (trial,) = interact(
            env, agent, num_steps=self.num_steps, block_steps=self.num_steps, generator=generator
        )
        mine = self._mine
        steps = memory.whole().map(lambda field: field[mine])
        return Batch(steps, {"action": trial.action[mine], "reward": trial.reward[mine]})

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Of policy, value and entropy, each a mean over all steps.

        Advantages are brought to mean 0 and variance 1, and the error of the values is a share of
        their targets' variance: so rewards of any size are learned from alike.
        """
        assert output.value is not None
        config, params, value = self.config, output.policy.float(), output.value.float()
        reward = batch.targets["reward"]
        advantage, target = self._advantages(output, batch)
        if "moments" in batch.targets:
            mean, variance, spread = _statistics(batch.targets["moments"])
        else:
            mean, variance, spread = advantage.mean(), target.var(), advantage.std()
        value_error = (value - target).square().mean() / (variance + TINY)
        advantage = (advantage - mean) / (spread + TINY)
        entropy = self.actions.entropy(params).mean()
        policy_loss = -(self.actions.log_prob(params, batch.targets["action"]) * advantage).mean()
        loss = policy_loss + config.value_weight * value_error - config.entropy * entropy
        figures = {"reward": reward.mean(), "entropy": entropy, "value_error": value_error}
        return loss, {name: figure.detach() for name, figure in figures.items()}

    def moments(self, output: Output, batch: Batch) -> Tensor:
        """See `Method.moments`: sums by which to normalise advantages and errors of values."""
        advantage, target = (x.detach().double() for x in self._advantages(output, batch))
        count = advantage.new_tensor(advantage.numel())
        sums = (advantage, advantage.square(), target, target.square())
        return torch.stack([count, *(x.sum() for x in sums)])

    def _advantages(self, output: Output, batch: Batch) -> tuple[Tensor, Tensor]:
        """Advantages of trials, and what their values should have been, (B, T) each."""
        assert output.value is not None
        value, config = output.value.detach().float(), self.config
        advantage = advantages(
            batch.targets["reward"], value, gamma=config.gamma, gae_lambda=config.gae_lambda
        )
        return advantage, advantage + value


def _statistics(moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of all trials' advantages the mean; of targets the variance; of advantages the deviation."""
    count, advantage, squares, target, target_squares = moments
    mean = advantage / count
    variance = (squares - advantage * mean) / (count - 1)
    target_variance = (target_squares - target * target / count) / (count - 1)
    return mean.float(), target_variance.float(), variance.clamp(min=0).sqrt().float()


def advantages(reward: Tensor, value: Tensor, *, gamma: float, gae_lambda: float) -> Tensor:
    """Generalised advantage estimates of trials, each one run to its end; episodes end nothing.

    Args:
        reward: (B, T), of each step.
        value: (B, T), predicted before each step; nothing follows the last.
        gamma: Discount per step.
        gae_lambda: 0 is TD(0), 1 is Monte Carlo.

    Returns:
        (B, T).
    """
    following = torch.cat((value[:, 1:], torch.zeros_like(value[:, :1])), dim=1)
    advantage = reward + gamma * following - value
    for step in reversed(range(reward.shape[1] - 1)):
        advantage[:, step] += gamma * gae_lambda * advantage[:, step + 1]
    return advantage
