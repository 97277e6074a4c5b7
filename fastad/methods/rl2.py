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
        batch_size: `B`, trials per update.
        seed: Of tasks, environments and actions.
        config: Of the loss.
    """

    needs: frozenset[str] = frozenset()
    follows_weights = True

    def __init__(
        self,
        family: TaskFamily,
        tasks: Tensor,
        *,
        num_steps: int,
        batch_size: int,
        seed: int,
        config: RL2Config,
    ) -> None:
        self.family, self.tasks = family, tasks
        self.num_steps, self.batch_size, self.seed = num_steps, batch_size, seed
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
        return Batch(memory.whole(), {"action": trial.action, "reward": trial.reward})

    def loss(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Of policy, value and entropy, each a mean over all steps.

        Advantages are brought to mean 0 and variance 1, and the error of the values is a share of
        their targets' variance: so rewards of any size are learned from alike.
        """
        assert output.value is not None
        config, params, value = self.config, output.policy.float(), output.value.float()
        reward = batch.targets["reward"]
        advantage = advantages(
            reward, value.detach(), gamma=config.gamma, gae_lambda=config.gae_lambda
        )
        target = advantage + value.detach()
        value_error = (value - target).square().mean() / (target.var() + TINY)
        advantage = (advantage - advantage.mean()) / (advantage.std() + TINY)
        entropy = self.actions.entropy(params).mean()
        policy_loss = -(self.actions.log_prob(params, batch.targets["action"]) * advantage).mean()
        loss = policy_loss + config.value_weight * value_error - config.entropy * entropy
        figures = {"reward": reward.mean(), "entropy": entropy, "value_error": value_error}
        return loss, {name: figure.detach() for name, figure in figures.items()}


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
