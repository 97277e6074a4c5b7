"""The frozen model acting on tasks: one engine, with the KV cache as an option of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastad.acting.interact import Joined, Transition, episode_returns, interact
from fastad.base.errors import UserError
from fastad.envs.base import BatchedEnv
from fastad.model.memory import RecordedMemory
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.agent import FORGETFUL, Control, InContextAgent
from fastad.rollouts.graph import GraphedStep
from fastad.rollouts.part import PartOfEnv
from fastad.rollouts.prompt import Prompt


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
    model: SequenceModel,
    env: BatchedEnv,
    *,
    num_episodes: int,
    generator: torch.Generator,
    kv_cache: bool = True,
    greedy: bool = False,
    control: Control = "none",
    context: int | None = None,
    prompt: Prompt | None = None,
    target_return: float | None = None,
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
        context: Attention window in tokens, another than the model was trained with.
        prompt: What every environment's context begins with; no part of the returns.
        target_return: See `returns_asked_for`.
        compile: On GPUs, compile the cached step with `torch.compile`, in up to half a minute.
        cuda_graph: On GPUs, replay the cached step, environment and sampling included, as one
            graph.
        on_block: Called with each episode's worth of transitions, (N, steps, ...), which are
            inference tensors: progress, or a history writer.

    Raises:
        UserError: If the environment's spaces are not the model's, there are no episodes, the
            model cannot have the window or reads no returns to go, or reads them and nobody
            knows the optimum, rewards cannot be shuffled among tasks, or `compile` is given where
            it does not help.
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
    cuda_graph = cuda_graph and not env.on_host
    num_steps = num_episodes * env.episode_length
    in_context = num_steps if prompt is None else prompt.num_steps + num_steps
    if control in FORGETFUL:
        in_context = env.episode_length
    model.check_length(in_context * model.config.tokens_per_step)
    check_control(control, env)
    asked_for = returns_asked_for(model, env, target_return)
    if prompt is not None and control in FORGETFUL:
        raise UserError(f"control={control} forgets the prompt before the first step")
    rewards, ended = Joined(num_steps), Joined(num_steps)
    with model.seeing(context):
        memory = model.make_memory(
            env.num_envs, kv_cache=kv_cache, compile=compile, untracked=cuda_graph
        )
        agent = InContextAgent(
            memory, model.actions, env.num_envs, generator=generator, greedy=greedy,
            control=control, target_return=asked_for, unordered=model.encoder.unordered,
            part=env.part if isinstance(env, PartOfEnv) else None,
        )  # fmt: skip
        blocks = interact(
            env, agent, num_steps=num_steps, block_steps=env.episode_length, generator=generator,
            record=GraphedStep if cuda_graph else None,
        )  # fmt: skip
        with torch.inference_mode():  # 4 to 7 % of a step with one environment
            if prompt is not None:
                agent.live_through(prompt)
            began = time.perf_counter()
            for block in blocks:
                rewards.append(block.reward)
                ended.append(block.terminated | block.truncated)
                if on_block is not None:
                    on_block(block)
    returns = episode_returns(rewards.whole, ended.whole, num_episodes).cpu()
    seconds = time.perf_counter() - began  # after the device has answered
    return RolloutResult(returns, seconds, num_steps * env.num_envs)


def returns_asked_for(
    model: SequenceModel, env: BatchedEnv, target_return: float | None
) -> Tensor | None:
    """What a model that reads returns to go is asked for in every episode, (N,) float32.

    Args:
        model: None is the answer for one that reads none.
        env: Each environment is asked for its task's optimal return.
        target_return: Instead of that, the same for all.

    Raises:
        UserError: If the model reads none and is to be asked, or the optimum is not known.
    """
    if model.return_scale is None:
        if target_return is None:
            return None
        raise UserError(
            f"target_return={target_return} is for models that read returns to go, as "
            "--method decision-transformer trains them; leave --target-return out"
        )
    if target_return is not None:
        return torch.full((env.num_envs,), target_return, device=env.device)
    optimal = env.optimal_return()
    if optimal is None:
        raise UserError(
            "target_return is needed: the model is asked for a return, and the optimal one of "
            f"env={env.family.name} is not known; say which with --target-return of "
            "fastad rollout, and train with --eval-every 0"
        )
    return optimal.float()


def check_control(control: Control, env: BatchedEnv) -> None:
    """Refuse a control that would hide nothing."""
    if control == "shuffled-rewards" and len(env.tasks.unique(dim=0)) < 2:
        raise UserError(
            "control=shuffled-rewards shows the rewards of other tasks, and there is one task; "
            "take 2 or more, or another control"
        )


def check_spaces(model: SequenceModel, env: BatchedEnv) -> None:
    """Refuse an environment whose spaces are not those that the model was trained for."""
    for name in ("observation_space", "action_space"):
        ours, theirs = getattr(model, name), getattr(env, name)
        if ours != theirs:
            raise UserError(
                f"{name}: the model was trained for {ours}, but env={env.family.name} has "
                f"{theirs}; choose an environment with the model's spaces, or train on this one"
            )


@torch.no_grad()
def cache_error(
    model: SequenceModel,
    env: BatchedEnv,
    *,
    num_steps: int,
    generator: torch.Generator,
    context: int | None = None,
) -> float:
    """Largest difference between cached and recomputed logits, relative to the largest logit.

    One cached rollout of `num_steps` steps; its inputs are then run through the model at once.
    """
    check_spaces(model, env)
    model.eval()
    asked_for = returns_asked_for(model, env, None)
    with model.seeing(context):
        memory = RecordedMemory(model.make_memory(env.num_envs))
        agent = InContextAgent(
            memory, model.actions, env.num_envs, generator=generator, target_return=asked_for,
            unordered=model.encoder.unordered,
        )  # fmt: skip
        for _ in interact(
            env, agent, num_steps=num_steps, block_steps=num_steps, generator=generator
        ):
            pass
        recomputed = model(memory.whole()).policy
    cached = torch.stack(list(memory.logits), dim=1)
    return ((recomputed - cached).abs().max() / recomputed.abs().max()).item()
