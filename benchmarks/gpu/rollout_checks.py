"""The whole step of a rollout: through the kernels, and replayed as a CUDA graph."""

import torch
from torch import Tensor

from gpu.common import DEVICE, HAS_GPU, Check, check_equal, guarded

CONTEXT, NUM_EPISODES = 20, 4  # episodes of 20 steps: the ring is full four times


def run() -> list[Check]:
    """Both checks; the second needs a GPU."""
    checks = guarded("rollout", 16, "through the kernels", _check_kernels)
    return checks + (guarded("rollout", 16, "CUDA graph", _check_graph) if HAS_GPU else [])


def _check_kernels() -> list[Check]:
    """The kernels choose the actions that the reference chooses."""
    return [check_equal("rollout", 16, "through the kernels", play("triton"), play("reference"))]


def _check_graph() -> list[Check]:
    """A replayed step does what a true one does, dice included."""
    graphed, eager = (play("triton", cuda_graph=flag) for flag in (True, False))
    return [check_equal("rollout", 16, "CUDA graph", graphed, eager)]


def play(kernels: str, *, cuda_graph: bool = False) -> Tensor:
    """Sampled actions of a small untrained model in Dark Room, (4, steps)."""
    from fastad.envs.dark_room import DarkRoom
    from fastad.model.config import ModelConfig
    from fastad.model.sequence_model import SequenceModel
    from fastad.rollouts.engine import rollout

    generator = torch.Generator(DEVICE).manual_seed(0)
    goals = torch.tensor([[0, 0], [2, 7], [5, 1], [8, 8]], device=DEVICE)
    env = DarkRoom().make(goals, generator)
    torch.manual_seed(0)
    config = ModelConfig(context=CONTEXT, width=32, num_heads=2, positions="rope")
    model = SequenceModel(config, env.observation_space, env.action_space, env.episode_length)
    model.kernels = kernels
    blocks = []
    rollout(
        model.to(DEVICE), env, num_episodes=NUM_EPISODES, generator=generator,
        cuda_graph=cuda_graph, on_block=lambda block: blocks.append(block.action),
    )  # fmt: skip
    return torch.cat(blocks, dim=1)
