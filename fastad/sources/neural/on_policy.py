"""What A2C and A3C share: rollouts of several actors, advantages, gradients by hand."""

from abc import abstractmethod

import torch
from fastad_kernels import StackedMLP, softmax
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.envs.base import BatchedEnv
from fastad.sources.base import Source, number, whole_number
from fastad.sources.neural.actors import Actors
from fastad.sources.neural.inputs import Sees, make_inputs, ways_to_see
from fastad.sources.visited import Visited


class OnPolicy(Source):
    """An actor-critic of one network per learner or per actor; subclasses improve it.

    The `K` actors of a learner act `steps_per_update` steps, T; then gradients are at hand of
    policy loss - entropy * H + value_weight * squared error, mean over a network's steps. The
    activations of acting are those of learning: nothing is passed forward twice. Truncation
    by the time limit bootstraps, termination does not.

    Args:
        env: Discrete actions; observations numbered or vectors, or of which there are codes.
        num_episodes: Length of the histories.
        generator: Draws weights and actions, and is what the further actors' worlds draw from.
        networks_per_learner: 1, or `K` where every actor has parameters of its own.
        width: Units of each hidden layer.
        num_layers: Hidden layers.
        num_actors: `K`.
        steps_per_update: `T`; None is the length of an episode.
        gamma: Discount per step, in [0, 1].
        gae_lambda: Of generalised advantage estimation, in [0, 1].
        entropy: Weight of the entropy bonus.
        value_weight: Weight of the value loss.
        sees: See `make_inputs`.
    """

    def __init__(
        self,
        env: BatchedEnv,
        *,
        num_episodes: int,
        generator: torch.Generator,
        networks_per_learner: int,
        width: int,
        num_layers: int,
        num_actors: int,
        steps_per_update: int | None,
        gamma: float,
        gae_lambda: float,
        entropy: float,
        value_weight: float,
        sees: Sees | None,
    ) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        self.gamma = number("gamma", gamma, low=0.0, high=1.0)
        self.gae_lambda = number("gae_lambda", gae_lambda, low=0.0, high=1.0)
        self.entropy = number("entropy", entropy, low=0.0)
        self.value_weight = number("value_weight", value_weight, low=0.0)
        width = whole_number("width", width, low=1)
        num_layers = whole_number("num_layers", num_layers, low=1)
        steps = env.episode_length if steps_per_update is None else steps_per_update
        self.num_steps = whole_number("steps_per_update", steps, low=1)
        inputs = make_inputs(self.name, env, sees)
        self.actors = Actors(env, num_actors, generator, inputs)
        self.episodes_per_episode = num_actors
        for fact in filter(None, (inputs.fact, self.actors.phases.fact)):
            self.is_told(fact)
        if num_actors > 1:
            others = num_actors - 1
            told = "what another actor experiences"
            self.is_told(told if others == 1 else f"what {others} other actors experience")
        sizes = [inputs.width, *[width] * num_layers, self.num_actions + 1]
        num_networks = self.num_learners * networks_per_learner
        self.network = StackedMLP(num_networks, sizes, device=self.device)
        # Hardly any preference, and values near 0: the first policies are nearly uniform.
        self.network.draw(generator, input_norm=inputs.typical_norm, output_scale=0.1)
        # Rollouts: M networks, T steps, R actors of each network.
        self._shape = (num_networks, self.num_learners * num_actors // num_networks)
        self._passed = [self._empty(size) for size in sizes]
        self._probs = self._empty(self.num_actions)
        self._next_value, self._reward = self._empty(), self._empty()
        self._terminated, self._ended = self._empty(), self._empty()
        self._action = self._empty(dtype=torch.int64)
        self._step = 0

    @classmethod
    def fits(cls, env: BatchedEnv) -> bool:
        """Discrete actions; observations numbered or vectors, or of which there are codes."""
        return env.is_discrete and bool(ways_to_see(env, images=False))

    @abstractmethod
    def improve(self) -> None:
        """Use `network.gradients`, of the rollout just ended."""

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Draw every actor's action; returns the first actors'."""
        vectors = self.actors.see(observation)
        inputs, *out = (buffer[:, self._step] for buffer in self._passed)
        inputs.copy_(vectors.view(*self._shape, -1))
        probs = self._distributions(self.network.forward(inputs, out)[-1])
        self._probs[:, self._step] = probs
        action = self.draw(probs.view(-1, self.num_actions)).view(self.actors.shape)
        self._drawn = action
        return action[:, 0], probs.view(*self.actors.shape, -1)[:, 0]

    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        """Let the other actors act, remember the step; learn where a rollout is complete."""
        outcome = self.actors.step(self._drawn, transition, final_observation)
        step, last = self._step, self._step == self.num_steps - 1
        self._action[:, step] = outcome.action.view(self._shape)
        self._reward[:, step] = outcome.reward.view(self._shape)
        self._terminated[:, step] = outcome.terminated.view(self._shape)
        ended = outcome.terminated | outcome.truncated
        self._ended[:, step] = ended.view(self._shape)
        # Elsewhere the next step's own value will do.
        if last or bool(outcome.truncated.any()):
            passed = self.network.forward(self.actors.led_to().view(*self._shape, -1))
            self._next_value[:, step] = passed[-1][..., -1]
        self._step = 0 if last else step + 1
        if last:
            self.network.backward(self._passed, self._output_gradient())
            self.improve()

    def would_act(self, visited: Visited) -> Tensor:
        """By the first actors' parameters as they are now; see `Source.would_act`."""
        vectors = self.actors.inputs.of(visited)  # (N, T, in)
        every = self.network.num_networks // self.num_learners
        networks = vectors.repeat_interleave(every, dim=0)
        return self._distributions(self.network.forward(networks)[-1])[::every]

    def advantages(self) -> Tensor:
        """Generalised advantage estimates (Schulman et al. 2016, arXiv 1506.02438), (M, T, R)."""
        value = self._passed[-1][..., -1]
        following = self._next_value.clone()
        following[:, :-1] = torch.where(
            self._ended[:, :-1] > 0, self._next_value[:, :-1], value[:, 1:]
        )
        following *= 1 - self._terminated
        advantage = self._reward + self.gamma * following - value
        decay = self.gamma * self.gae_lambda * (1 - self._ended)
        for step in reversed(range(self.num_steps - 1)):
            advantage[:, step] += decay[:, step] * advantage[:, step + 1]
        return advantage

    def _distributions(self, outputs: Tensor) -> Tensor:
        """Softmax over the logits among outputs (..., A + 1)."""
        return softmax(outputs[..., : self.num_actions], impl="auto")

    def _output_gradient(self) -> Tensor:
        """The gradient by logits and value of every step, (M, T, R, A + 1)."""
        advantage, probs = self.advantages(), self._probs
        gradient = torch.empty_like(self._passed[-1])
        # The value's target is advantage + value.
        gradient[..., -1] = advantage * (-2 * self.value_weight)
        policy = probs * advantage[..., None]
        policy.scatter_add_(-1, self._action[..., None], -advantage[..., None])
        if self.entropy > 0:
            surprise = probs.clamp_min(1e-12).log_()
            mean = (probs * surprise).sum(dim=-1, keepdim=True)
            policy.addcmul_(probs, surprise.sub_(mean), value=self.entropy)
        gradient[..., :-1] = policy
        return gradient.div_(self.num_steps * self._shape[1])

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Room for every step of a rollout, (M, T, R, *shape); that of a step is in one piece."""
        size = (self.num_steps, *self._shape, *shape)
        return torch.zeros(size, dtype=dtype, device=self.device).transpose(0, 1)
