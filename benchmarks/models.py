"""The model and the tasks that the benchmarks share: Dark Room, 4 layers, width 64."""

from typing import Any

import torch
from gymnasium import spaces

from fastad.acting.steps import Steps
from fastad.envs.base import BatchedEnv
from fastad.envs.dark_room import DarkRoom
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NUM_LAYERS, EPISODE_LENGTH = 4, 20


def dark_room(num_envs: int, *, seed: int = 0) -> tuple[BatchedEnv, torch.Generator]:
    """`num_envs` rooms with all goals in turn, and the generator that actions are drawn from."""
    goals = DarkRoom().tasks()
    goals = goals[torch.arange(num_envs) % len(goals)].to(DEVICE)
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return DarkRoom().make(goals, generator), generator


def make_model(context: int, **settings: Any) -> SequenceModel:
    """An untrained model, the same one for the same settings."""
    torch.manual_seed(0)
    config = ModelConfig(num_layers=NUM_LAYERS, context=context, **settings)
    space = spaces.MultiDiscrete([9, 9])
    model = SequenceModel(config, space, spaces.Discrete(5), episode_length=EPISODE_LENGTH)
    return model.to(DEVICE).eval()


def random_steps(num_envs: int, num_steps: int) -> Steps:
    """Steps (num_envs, num_steps) as a random agent would meet them."""
    generator = torch.Generator().manual_seed(1)
    shape = (num_envs, num_steps)
    episode_step = (torch.arange(num_steps) % EPISODE_LENGTH).expand(shape).contiguous()
    steps = Steps(
        torch.randint(9, (*shape, 2), generator=generator),
        torch.randint(5, shape, generator=generator),
        torch.randint(2, shape, generator=generator).float(),
        episode_step == 0,
        episode_step,
    )
    return steps.map(lambda field: field.to(DEVICE))
