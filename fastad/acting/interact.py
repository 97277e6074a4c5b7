"""The one loop in which anything acts: source learners and the frozen model alike."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from fastad.acting.lived import Lived
from fastad.base.errors import UserError
from fastad.envs.base import BatchedEnv


class Transition(NamedTuple):
    """One step of `N` environments; as a block from `interact`, every field gains a step axis.

    In a block the shapes are (N, steps, ...): the order in which histories are stored.
    """

    observation: Tensor  # (N, ...) seen before acting
    action: Tensor  # (N,) int64, or (N, d), the action that was executed
    reward: Tensor  # (N,) float32
    terminated: Tensor  # (N,) bool
    truncated: Tensor  # (N,) bool
    policy: Tensor  # (N, A) float32, what to learn from, see `NoiseLabels` and `fastad.actions`


# What is learned from a step whose action was noised: the agent's own distribution ("clean"), or
# the one that the executed action was drawn from, noise included ("executed").
NoiseLabels = Literal["clean", "executed"]


class _Step(NamedTuple):
    """The observation after a transition, then the transition's own fields."""

    next_observation: Tensor
    observation: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    policy: Tensor


# From a step, and all generators that it draws from, to what does the same.
Recorder = Callable[
    [Callable[[Tensor], _Step], Iterable[torch.Generator]], Callable[[Tensor], _Step]
]


class Agent(Protocol):
    """Whatever chooses actions for `N` environments at once."""

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Choose actions for observations (N, ...).

        Returns:
            Actions (N, ...) and the policy they were drawn from, (N, A) float32.
        """
        ...

    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        """Take note of what the executed action led to.

        Args:
            transition: What just happened.
            final_observation: (N, ...) where the step really ended, before any auto-reset.
        """
        ...


@runtime_checkable
class PatientAgent(Agent, Protocol):
    """An agent that can act in some environments while others wait."""

    def wait(self, idle: Tensor) -> None:
        """Leave no trace of the coming step in the environments `idle`, (N,) bool.

        To be called before `act`, which answers for all, and `observe`. What is drawn for an
        environment's k-th step that leaves a trace is as if all took that step together.
        """
        ...


def interact(
    env: BatchedEnv,
    agent: Agent,
    *,
    num_steps: int,
    block_steps: int,
    generator: torch.Generator,
    action_noise: float = 0.0,
    noise_labels: NoiseLabels = "clean",
    record: Recorder | None = None,
) -> Iterator[Transition]:
    """Let `agent` act in `env` from a fresh reset and yield what happened, block by block.

    Blocks are the same whether environments reset within the step that ends an episode, or wait,
    see `BatchedEnv.waiting`: then more steps are taken, until every environment has its own.

    Args:
        env: Reset here; auto-resets inside its own step.
        agent: Acts, then observes, once per step.
        num_steps: Steps per environment in all.
        block_steps: Steps per yielded block (the last may be shorter).
        generator: Draws the action noise.
        action_noise: Probability that a uniformly random action is executed instead of the
            agent's.
        noise_labels: Which distribution the blocks hold as `policy`, see `NoiseLabels`. The
            agent is always told the executed action and its own distribution. The code of arXiv
            2312.12275, which proposed such noise, learns from the executed actions: draws from
            what "executed" holds.
        record: Makes of a step of agent and environment together what is called in its place,
            such as `GraphedStep`, which replays it on a GPU.

    Yields:
        Blocks with fields of shape (N, steps, ...).

    Raises:
        UserError: If environments wait, and the agent cannot, or actions are noised.
    """
    actions = env.actions

    def act_and_observe(observation: Tensor) -> _Step:
        action, policy = agent.act(observation)
        if action_noise > 0.0:
            num, each = len(action), (-1, *[1] * len(actions.shape))
            noisy = torch.rand(num, generator=generator, device=action.device) < action_noise
            action = torch.where(noisy.view(each), actions.random(num, generator), action)
        next_observation, reward, terminated, truncated = env.step(action)
        transition = Transition(observation, action, reward, terminated, truncated, policy)
        agent.observe(transition, env.final_observation)
        if noise_labels == "executed":
            # A new tensor: the agent may keep its own.
            transition = transition._replace(policy=actions.mix(policy, action_noise))
        return _Step(next_observation, *transition)

    take_step: Callable[[Tensor], _Step] = act_and_observe
    if record is not None:
        env.untrack()
        take_step = record(act_and_observe, (generator, env.generator))
    observation, lived = env.reset(), Lived(num_steps)
    for begun in range(0, num_steps, block_steps):
        num = min(block_steps, num_steps - begun)
        # An agent that learns by gradients asks for them. They are back when others have a block.
        with torch.no_grad():
            while not lived.have(num):
                idle = lived.idle(env.waiting)
                if idle is not None:
                    _patient(agent, env, action_noise).wait(idle)
                observation, *transition = take_step(observation)
                lived.add(transition, idle)
        yield Transition(*lived.take(num))


def _patient(agent: Agent, env: BatchedEnv, action_noise: float) -> PatientAgent:
    if isinstance(agent, PatientAgent) and action_noise == 0.0:
        return agent
    who = type(agent).__name__ if action_noise == 0.0 else f"action_noise={action_noise}"
    raise UserError(
        f"env={env.family.name} resets in the step after an episode's end, while others go on, "
        f"which {who} cannot wait for; make it with autoreset_mode=AutoresetMode.SAME_STEP"
    )


class Joined:
    """Blocks of steps, put behind one another as they come.

    A list of them would cost a kilobyte a block, for as long as a rollout lasts.

    Args:
        num_steps: T, of all blocks together.
    """

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self._whole: Tensor | None = None
        self._taken = 0

    def append(self, block: Tensor) -> None:
        """Copy a block, (N, steps, ...)."""
        if self._whole is None:
            with torch.inference_mode(False):  # whoever gets it may do with it what they want
                self._whole = torch.empty(
                    (len(block), self.num_steps, *block.shape[2:]),
                    dtype=block.dtype, device=block.device,
                )  # fmt: skip
        self._whole[:, self._taken : self._taken + block.shape[1]] = block
        self._taken += block.shape[1]

    @property
    def whole(self) -> Tensor:
        """All of them, (N, T, ...)."""
        assert self._whole is not None
        assert self._taken == self.num_steps, f"{self._taken} of {self.num_steps} steps are there"
        return self._whole


def episode_returns(reward: Tensor, ended: Tensor, num_episodes: int) -> Tensor:
    """Sum rewards over each environment's first episodes.

    Args:
        reward: (N, T) float32.
        ended: (N, T) bool, terminated or truncated.
        num_episodes: Episodes to sum; every environment must have ended that many.

    Returns:
        (N, num_episodes) float32.
    """
    episode = ended.long().cumsum(dim=1) - ended.long()  # of each step
    returns = reward.new_zeros((len(reward), num_episodes + 1))
    # Whatever comes after the last wanted episode goes to a column that is dropped.
    returns.scatter_add_(1, episode.clamp(max=num_episodes), reward)
    return returns[:, :num_episodes]
