"""Asynchronous advantage actor-critic: actors with parameters of their own, which grow stale."""

import torch
from fastad_kernels import StackedAdam
from torch import Tensor

from fastad.envs.base import BatchedEnv
from fastad.sources.base import number, whole_number
from fastad.sources.neural.inputs import Sees
from fastad.sources.neural.on_policy import OnPolicy


class A3C(OnPolicy):
    """A3C (Mnih et al. 2016, arXiv 1602.01783) in a fixed order, with GAE and a shared Adam.

    Every actor acts by, and reckons its gradient at, parameters that it took from its learner's
    when it last handed in a gradient. They hand in one after the other, in turn, so that by then
    `num_actors` - 1 others have changed the learner: as stale as with processes, and the same
    bits for the same seed. The history is the first actor's stream, so that an episode of it costs
    the learner `num_actors`.

    The defaults are those of A2C with smaller steps, of which there are `num_actors` times as many:
    100 episodes reach 0.96 of the optimum of Dark Room. With steps as large as A2C's, stale ones
    overshoot: 0.68.

    Args:
        env: Discrete actions; observations numbered or vectors, or of which there are codes.
        num_episodes: Length of the histories.
        generator: Draws weights and actions.
        width: Units of each hidden layer.
        num_layers: Hidden layers, of tanh.
        num_actors: Environments that a learner acts in at once.
        steps_per_update: Steps of an actor between its updates (default: an episode's length).
        learning_rate: Of Adam.
        max_grad_norm: Longer gradients of an actor are cut to this.
        gamma: Discount per step, in [0, 1].
        gae_lambda: Of generalised advantage estimation: 0 is TD(0), 1 is Monte Carlo.
        entropy: Weight of the entropy bonus.
        value_weight: Weight of the value loss, a mean squared error.
        sees: "shown", what the environment shows; or "codes" of what it stores, which the learner
            is told in its place (default where images are shown, which this source cannot read).
    """

    name = "a3c"

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
        learning_rate: float = 0.01,
        max_grad_norm: float = 0.5,
        gamma: float = 0.95,
        gae_lambda: float = 0.95,
        entropy: float = 0.05,
        value_weight: float = 0.5,
        sees: Sees | None = None,
    ) -> None:
        num_actors = whole_number("num_actors", num_actors, low=1)
        super().__init__(
            env,
            num_episodes=num_episodes,
            generator=generator,
            networks_per_learner=num_actors,
            width=width,
            num_layers=num_layers,
            num_actors=num_actors,
            steps_per_update=steps_per_update,
            gamma=gamma,
            gae_lambda=gae_lambda,
            entropy=entropy,
            value_weight=value_weight,
            sees=sees,
        )
        # (N, K, ...) each; all begin with the first actor's.
        self._own = [self._by_actor(parameter) for parameter in self.network.parameters]
        self.shared = [parameter[:, 0].clone() for parameter in self._own]  # the learners'
        for parameter, shared in zip(self._own, self.shared, strict=True):
            parameter.copy_(shared[:, None])
        self._optimizer = StackedAdam(
            self.shared,
            learning_rate=number("learning_rate", learning_rate, low=0.0),
            max_grad_norm=number("max_grad_norm", max_grad_norm, low=0.0),
        )

    def improve(self) -> None:
        """Each actor in turn hands in its gradient and takes the learner's parameters."""
        gradients = [self._by_actor(gradient) for gradient in self.network.gradients]
        for actor in range(self.actors.shape[1]):
            self._optimizer.step([gradient[:, actor].contiguous() for gradient in gradients])
            for parameter, shared in zip(self._own, self.shared, strict=True):
                parameter[:, actor] = shared

    def _by_actor(self, stacked: Tensor) -> Tensor:
        """What is of every actor (N * K, ...) as (N, K, ...)."""
        return stacked.view(*self.actors.shape, *stacked.shape[1:])
