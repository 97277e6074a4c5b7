"""fastad's learners as `fastad collect --workers` runs them: processes of one thread each."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch

from benchmarks.peers import jax_a2c, jax_q_learning
from fastad.acting.interact import Transition, interact
from fastad.envs.base import BatchedEnv
from fastad.envs.dark_room import DarkRoom
from fastad.sources.base import Source
from fastad.sources.neural.a2c import A2C
from fastad.sources.q_learning import QLearning

NETWORK = {"width": 64, "num_layers": 2}
NEURAL, TABULAR = jax_a2c.Settings(), jax_q_learning.Settings()


class Learners:
    """Learners of a source in Dark Room, which act for an episode and improve at every call.

    Args:
        num_learners: As many tasks, all goals in turn.
        make: The source, of its environment and a generator.
    """

    def __init__(
        self, num_learners: int, make: Callable[[BatchedEnv, torch.Generator], Source]
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        goals = DarkRoom().tasks()
        env = DarkRoom().make(goals[torch.arange(num_learners) % len(goals)], generator)
        self.tasks, length = env.tasks, env.episode_length
        self.blocks = interact(
            env,
            make(env, generator),
            num_steps=2**40,
            block_steps=length,
            generator=generator,
        )

    def __call__(self) -> Transition:
        """An episode; the first actors' where a learner has several."""
        return next(self.blocks)


class NeuralLearners(Learners):
    """With networks of their own."""

    def __init__(self, num_learners: int) -> None:
        super().__init__(num_learners, self._make)

    def _make(self, env: BatchedEnv, generator: torch.Generator) -> Source:
        settings = NETWORK | NEURAL._asdict()
        self.source = A2C(env, num_episodes=1, generator=generator, **settings)
        return self.source

    def weights(self, tensors: list[torch.Tensor]) -> list[np.ndarray]:
        """Parameters or gradients as JAX has them: (N, in, out), (N, out), layer by layer."""
        arrays = [tensor.detach().numpy().copy() for tensor in tensors]
        arrays[-2] = arrays[-2].swapaxes(1, 2)
        return [array[:, 0] if index % 2 else array for index, array in enumerate(arrays)]


class TabularLearners(Learners):
    """With tables."""

    def __init__(self, num_learners: int) -> None:
        super().__init__(num_learners, self._make)

    def _make(self, env: BatchedEnv, generator: torch.Generator) -> Source:
        settings = TABULAR._asdict()
        self.source = QLearning(env, num_episodes=1, generator=generator, **settings)
        return self.source


class Workers:
    """Processes that share the learners out and keep them from call to call.

    Args:
        num_learners: Of all processes together.
        num_workers: Processes.
        make: A process's learners, of their number.
    """

    def __init__(
        self, num_learners: int, num_workers: int, make: Callable[[int], Learners]
    ) -> None:
        context = get_context("spawn")
        sizes = [len(part) for part in torch.arange(num_learners).chunk(num_workers)]
        self._processes = [
            ProcessPoolExecutor(1, context, initializer=_begin, initargs=(make, size))
            for size in sizes
        ]

    def __call__(self, num_episodes: int = 1) -> None:
        """Episodes of every learner."""
        for done in [process.submit(_go_on, num_episodes) for process in self._processes]:
            done.result()

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.shutdown()


def _begin(make: Callable[[int], Learners], num_learners: int) -> None:
    global _learners
    torch.set_num_threads(1)
    _learners = make(num_learners)


def _go_on(num_episodes: int) -> None:
    for _ in range(num_episodes):
        _learners()
