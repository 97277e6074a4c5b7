"""fastad's learners as `fastad collect --workers` runs them: processes of one thread each."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch

from benchmarks.peers.jax_a2c import EPISODE_LENGTH, Settings
from fastad.acting.interact import Transition, interact
from fastad.envs.dark_room import DarkRoom
from fastad.sources.neural.a2c import A2C

NETWORK = {"width": 64, "num_layers": 2}
SETTINGS = Settings()


class Learners:
    """fastad's learners, which act for an episode and improve at every call."""

    def __init__(self, num_learners: int) -> None:
        generator = torch.Generator().manual_seed(0)
        goals = DarkRoom().tasks()
        tasks = goals[torch.arange(num_learners) % len(goals)]
        env = DarkRoom().make(tasks, generator)
        self.tasks = env.tasks
        self.source = A2C(env, num_episodes=1, generator=generator, **NETWORK, **SETTINGS._asdict())
        self.blocks = interact(
            env,
            self.source,
            num_steps=2**40,
            block_steps=EPISODE_LENGTH,
            generator=generator,
        )

    def __call__(self) -> Transition:
        """The first actors' episode."""
        return next(self.blocks)

    def weights(self, tensors: list[torch.Tensor]) -> list[np.ndarray]:
        """Parameters or gradients as JAX has them: (N, in, out), (N, out), layer by layer."""
        arrays = [tensor.detach().numpy().copy() for tensor in tensors]
        arrays[-2] = arrays[-2].swapaxes(1, 2)
        return [array[:, 0] if index % 2 else array for index, array in enumerate(arrays)]


class Workers:
    """Processes that share the learners out and keep them from call to call.

    Args:
        num_learners: Of all processes together.
        num_workers: Processes.
    """

    def __init__(self, num_learners: int, num_workers: int) -> None:
        context = get_context("spawn")
        sizes = [len(part) for part in torch.arange(num_learners).chunk(num_workers)]
        self._processes = [
            ProcessPoolExecutor(1, context, initializer=_begin, initargs=(size,)) for size in sizes
        ]

    def __call__(self) -> None:
        """An episode of every learner's actors, and an update."""
        for done in [process.submit(_go_on) for process in self._processes]:
            done.result()

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.shutdown()


def _begin(num_learners: int) -> None:
    global _learners
    torch.set_num_threads(1)
    _learners = Learners(num_learners)


def _go_on() -> None:
    _learners()
