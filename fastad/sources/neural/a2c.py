"""Advantage actor-critic with a network per learner, and several actors that share it."""

import torch
from fastad_kernels import StackedAdam

from fastad.envs.base import BatchedEnv
from fastad.sources.base import number, whole_number
from fastad.sources.neural.inputs import Sees
from fastad.sources.neural.on_policy import OnPolicy


class A2C(OnPolicy):
    """A2C, the synchronous form of A3C (Mnih et al. 2016, arXiv 1602.01783), with GAE and Adam.

    Each learner is an MLP of its own that gives policy and value. Several actors act by it at
    once and all of their steps make one update; the history is the first actor's stream, so that
    an episode of it costs the learner `num_actors`.

    The defaults are tuned on Dark Room 9 x 9 with episodes of 20 steps: an update per episode,
    large steps, much entropy. 100 episodes reach 0.97 of the optimum.

    Args:
        env: Discrete actions; observations numbered or vectors, or of which there are codes.
        num_episodes: Length of the histories.
        generator: Draws weights and actions.
        width: Units of each hidden layer.
        num_layers: Hidden layers, of tanh.
        num_actors: Environments that a learner acts in at once.
        steps_per_update: Steps of every actor between updates (default: an episode's length).
        learning_rate: Of Adam.
        max_grad_norm: Longer gradients of a learner are cut to this.
        gamma: Discount per step, in [0, 1].
        gae_lambda: Of generalised advantage estimation: 0 is TD(0), 1 is Monte Carlo.
        entropy: Weight of the entropy bonus.
        value_weight: Weight of the value loss, a mean squared error.
        sees: "shown", what the environment shows; or "codes" of what it stores, which the learner
            is told in its place (default where images are shown, which this source cannot read).
    """

    name = "a2c"

    def __init__(
        self,
        env: BatchedEnv,
        *,
        num_episodes: int,
        generator: torch.Generator,
        width: int = 32,
        num_layers: int = 1,
        num_actors: int = 4,
        steps_per_update: int | None = None,
        learning_rate: float = 0.03,
        max_grad_norm: float = 0.5,
        gamma: float = 0.95,
        gae_lambda: float = 0.95,
        entropy: float = 0.05,
        value_weight: float = 0.5,
        sees: Sees | None = None,
    ) -> None:
        super().__init__(
            env,
            num_episodes=num_episodes,
            generator=generator,
            networks_per_learner=1,
            width=width,
            num_layers=num_layers,
            num_actors=whole_number("num_actors", num_actors, low=1),
            steps_per_update=steps_per_update,
            gamma=gamma,
            gae_lambda=gae_lambda,
            entropy=entropy,
            value_weight=value_weight,
            sees=sees,
        )
        self._optimizer = StackedAdam(
            self.network.parameters,
            learning_rate=number("learning_rate", learning_rate, low=0.0),
            max_grad_norm=number("max_grad_norm", max_grad_norm, low=0.0),
        )

    def improve(self) -> None:
        """One step of Adam with the gradient of all actors' steps."""
        self._optimizer.step(self.network.gradients)
