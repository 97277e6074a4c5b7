"""The frozen model acting on tasks: one engine, with the KV cache as an option of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastad.context import CachedContext, Context, RecomputedContext, RecordedContext
from fastad.envs.base import BatchedEnv
from fastad.errors import UserError
from fastad.interact import Transition, episode_returns, interact
from fastad.model.transformer import Transformer
from fastad.steps import Steps

Control = Literal["none", "no-reward", "wiped-context"]


class InContextAgent:
    """A frozen model in `N` environments, each with a context of its own.

    What it remembers is updated in place, so that a step can be captured in a CUDA graph.

    Args:
        context: Of a model in evaluation mode, in as many environments.
        num_actions: `A`.
        num_envs: `N`.
        generator: Draws the actions; on the model's device.
        greedy: Take the most probable action instead of sampling. Freezes undertrained models.
        control: "no-reward" shows rewards of 0; "wiped-context" forgets at every episode.
    """

    def __init__(
        self,
        context: Context,
        num_actions: int,
        num_envs: int,
        *,
        generator: torch.Generator,
        greedy: bool = False,
        control: Control = "none",
    ) -> None:
        self.context, self.num_actions, self.generator = context, num_actions, generator
        self.greedy, self.control = greedy, control
        device = generator.device
        self.previous_action = torch.full((num_envs,), num_actions, device=device)
        self.previous_reward = torch.zeros(num_envs, device=device)
        self.episode_start = torch.ones(num_envs, dtype=torch.bool, device=device)
        self.episode_step = torch.zeros(num_envs, dtype=torch.int64, device=device)
        # As the context reads them, (N, 1): the same memory. Observations come with every step.
        self._shown = [
            field.unsqueeze(1)
            for field in (
                self.previous_action, self.previous_reward, self.episode_start, self.episode_step
            )
        ]  # fmt: skip
        self.logits: Tensor | None = None  # the latest, (N, A)

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """See `Agent.act`; every call takes one step of context.

        A greedy agent acts by a distribution with all mass on one action, not by the softmax.
        Call it without gradients, as `interact` does.
        """
        assert not torch.is_grad_enabled()
        uniform = None
        if not self.greedy:
            # Here PyTorch is still in the processor's caches; the model's step drives it out.
            uniform = torch.rand(
                (observation.shape[0], 1), generator=self.generator, device=observation.device
            )
        logits = self.context.predict(Steps(observation.unsqueeze(1), *self._shown))
        self.logits = logits
        probs = logits.softmax(dim=-1)
        if uniform is not None:
            return self.context.draw(probs, uniform), probs
        action = probs.argmax(dim=-1)
        return action, torch.zeros_like(probs).scatter_(1, action[:, None], 1.0)

    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        """See `Agent.observe`."""
        ended = torch.logical_or(
            transition.terminated, transition.truncated, out=self.episode_start
        )
        self.previous_action.copy_(transition.action)
        if self.control != "no-reward":
            self.previous_reward.copy_(transition.reward)
        self.episode_step.add_(1).masked_fill_(ended, 0)
        if self.control == "wiped-context":
            self.forget(ended)

    def forget(self, mask: Tensor) -> None:
        """Clear the context of the environments in `mask`, (N,) bool, and of no other."""
        self.context.forget(mask)
        self.previous_action.masked_fill_(mask, self.num_actions)
        self.previous_reward.masked_fill_(mask, 0.0)
        self.episode_start.masked_fill_(mask, True)
        self.episode_step.masked_fill_(mask, 0)


@dataclass(frozen=True)
class RolloutResult:
    """What a rollout returned.

    Attributes:
        returns: (N, episodes) float32.
        seconds: Wall time of all steps.
        num_steps: Environment steps taken, over all environments.
    """

    returns: Tensor
    seconds: float
    num_steps: int

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second, over all environments."""
        return self.num_steps / self.seconds


def rollout(
    model: Transformer,
    env: BatchedEnv,
    *,
    num_episodes: int,
    generator: torch.Generator,
    kv_cache: bool = True,
    greedy: bool = False,
    control: Control = "none",
    compile: bool = False,
    cuda_graph: bool = False,
    on_block: Callable[[Transition], None] | None = None,
) -> RolloutResult:
    """Let the frozen model act for `num_episodes` episodes in every environment.

    Args:
        model: Frozen; set to evaluation mode.
        env: On the model's device; reset here.
        num_episodes: At least 1.
        generator: Draws the actions. The same seed gives the same actions with and without cache.
        kv_cache: Whether to keep keys and values in a ring, or to recompute everything that can
            influence a prediction at every step. Both give the same logits.
        greedy: See `InContextAgent`.
        control: See `InContextAgent`.
        compile: On GPUs, compile the cached step with `torch.compile`, in up to half a minute.
        cuda_graph: On GPUs, replay the cached step, environment and sampling included, as one
            graph.
        on_block: Called with each episode's worth of transitions, (N, steps, ...), which are
            inference tensors: progress, or a history writer.

    Raises:
        UserError: If the environment's spaces are not the model's, there are no episodes, or
            `compile` is given where it does not help.
    """
    check_spaces(model, env)
    if num_episodes < 1:
        raise UserError(f"num_episodes={num_episodes} must be at least 1")
    model.eval()
    if compile and not kv_cache:
        raise UserError("compile=True compiles the cached step; use it with --kv-cache")
    if compile and env.device.type == "cpu":
        raise UserError(
            "compile=True is for GPUs; on CPUs the cached step is C++ already, and quicker, where "
            "a compiler is installed (`fastad doctor` tells); leave --compile out"
        )
    # Learned positions are checked against their table on the host, at every step.
    slides = model.config.positions != "learned"
    cuda_graph = cuda_graph and kv_cache and slides and env.device.type == "cuda"
    context: Context = RecomputedContext(model, env.num_envs)
    if kv_cache:
        context = CachedContext(
            model, env.num_envs, device=env.device, compile=compile, untracked=cuda_graph
        )
    agent = InContextAgent(
        context, model.num_actions, env.num_envs, generator=generator, greedy=greedy,
        control=control,
    )  # fmt: skip
    num_steps = num_episodes * env.episode_length
    if control != "wiped-context":
        model.check_length(num_steps * model.config.tokens_per_step)
    rewards, ended = [], []
    began = time.perf_counter()
    blocks = interact(
        env, agent, num_steps=num_steps, block_steps=env.episode_length, generator=generator,
        cuda_graph=cuda_graph,
    )  # fmt: skip
    with torch.inference_mode():  # 4 to 7 % of a step with one environment
        for block in blocks:
            rewards.append(block.reward)
            ended.append(block.terminated | block.truncated)
            if on_block is not None:
                on_block(block)
    returns = episode_returns(torch.cat(rewards, 1), torch.cat(ended, 1), num_episodes).cpu()
    seconds = time.perf_counter() - began  # after the device has answered
    return RolloutResult(returns, seconds, num_steps * env.num_envs)


def check_spaces(model: Transformer, env: BatchedEnv) -> None:
    """Refuse an environment whose spaces are not those that the model was trained for."""
    for name in ("observation_space", "action_space"):
        ours, theirs = getattr(model, name), getattr(env, name)
        if ours != theirs:
            raise UserError(
                f"{name}: the model was trained for {ours}, but env={env.name} has {theirs}; "
                f"choose an environment with the model's spaces, or train on this one"
            )


@torch.no_grad()
def cache_error(
    model: Transformer, env: BatchedEnv, *, num_steps: int, generator: torch.Generator
) -> float:
    """Largest difference between cached and recomputed logits, relative to the largest logit.

    One cached rollout of `num_steps` steps; its inputs are then run through the model at once.
    """
    check_spaces(model, env)
    model.eval()
    context = RecordedContext(CachedContext(model, env.num_envs, device=env.device))
    agent = InContextAgent(context, model.num_actions, env.num_envs, generator=generator)
    for _ in interact(env, agent, num_steps=num_steps, block_steps=num_steps, generator=generator):
        pass
    recomputed, cached = model(context.whole()), torch.stack(list(context.logits), dim=1)
    return ((recomputed - cached).abs().max() / recomputed.abs().max()).item()
