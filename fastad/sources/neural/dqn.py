"""Deep Q-learning, by thousands of learners at once."""

import torch
from fastad_kernels import StackedAdam, StackedCNN, StackedMLP
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.envs.base import BatchedEnv, uniform_over
from fastad.sources.base import Source, annealed, number, switch, whole_number
from fastad.sources.neural.inputs import Sees, make_inputs, ways_to_see
from fastad.sources.neural.replay import Replay
from fastad.sources.phases import Phases
from fastad.sources.visited import Visited


class DQN(Source):
    """Double DQN with n-step returns: a network, a target network and a replay per learner.

    After Mnih et al. 2015 (doi 10.1038/nature14236) and van Hasselt et al. 2016 (arXiv 1509.06461).
    Acts greedily by Q-values, uniformly among equals, but with probability epsilon at random;
    epsilon falls linearly from 1 over the first steps of the history. Learns the Huber loss on
    steps drawn uniformly from the last `replay_size`, with Adam. Truncation by the time limit
    bootstraps, termination does not. The networks are MLPs, behind convolutions where images are
    seen. A replay holds what histories store, and inputs are made of it when it is drawn.

    With the defaults 100 episodes reach 0.94 of the optimum of Dark Room, and 200 reach 0.98 of
    that of Key-to-Door. Watermaze wants learning_rate=0.003, width=64 and num_layers=2: returns
    per episode rise from 1.2 to 32 in 150 episodes, from codes of the pose. From frames of 16 x 24,
    with sees="shown", learning_rate=0.001, width=64 and steps_per_update=4, to 22.

    Args:
        env: Discrete actions; observations numbered, vectors or images, or of which there are
            codes.
        num_episodes: Length of the histories.
        generator: Draws weights, actions and what is replayed.
        width: Units of each hidden layer.
        num_layers: Hidden layers, of tanh; behind convolutions rectified.
        filters: Of the first convolution, where images are seen; the others have twice as many.
        learning_rate: Of Adam.
        max_grad_norm: Longer gradients of a learner are cut to this.
        gamma: Discount per step, in [0, 1].
        num_steps: Rewards in a return, before values are trusted.
        double: Let the network choose the action whose value the target network gives.
        replay_size: Steps that a learner remembers.
        batch_size: Steps replayed per update, and before the first.
        steps_per_update: Steps between updates.
        target_rate: Share of the way that the target network goes to the network at each update.
        final_epsilon: Where epsilon ends.
        decay_fraction: The part of the history's steps after which it is there, in (0, 1].
        sees: "shown", what the environment shows; or "codes" of what it stores, which the learner
            is told in its place (default where there are such codes of what images are drawn from).
    """

    name = "dqn"

    def __init__(
        self,
        env: BatchedEnv,
        *,
        num_episodes: int,
        generator: torch.Generator,
        width: int = 32,
        num_layers: int = 1,
        filters: int = 16,
        learning_rate: float = 0.015,
        max_grad_norm: float = 10.0,
        gamma: float = 0.95,
        num_steps: int = 5,
        double: bool = True,
        replay_size: int = 2000,
        batch_size: int = 32,
        steps_per_update: int = 2,
        target_rate: float = 0.05,
        final_epsilon: float = 0.02,
        decay_fraction: float = 0.4,
        sees: Sees | None = None,
    ) -> None:
        super().__init__(env, num_episodes=num_episodes, generator=generator)
        self.gamma = number("gamma", gamma, low=0.0, high=1.0)
        self.num_steps = whole_number("num_steps", num_steps, low=1)
        self.double = switch("double", double)
        self.batch_size = whole_number("batch_size", batch_size, low=1)
        self.steps_per_update = whole_number("steps_per_update", steps_per_update, low=1)
        self.target_rate = number("target_rate", target_rate, low=0.0, high=1.0)
        self.final_epsilon = number("final_epsilon", final_epsilon, low=0.0, high=1.0)
        fraction = number("decay_fraction", decay_fraction, low=1e-6, high=1.0)
        all_steps = num_episodes * env.episode_length
        self._decay_steps = fraction * all_steps
        replay_size = whole_number("replay_size", replay_size, low=self.num_steps)
        hidden = [whole_number("width", width, low=1)] * whole_number(
            "num_layers", num_layers, low=1
        )
        self.inputs = inputs = make_inputs(self.name, env, sees, images=True)
        self._phases = Phases(self.num_learners, inputs.num_phases, self.device)
        for fact in filter(None, (inputs.fact, self._phases.fact)):
            self.is_told(fact)
        self.is_told("how many steps there will be")
        filters = whole_number("filters", filters, low=1)
        sizes = [*hidden, self.num_actions]
        self.network, self._target = (self._networks(sizes, filters) for _ in range(2))
        self.network.draw(generator, input_norm=inputs.typical_norm, output_scale=0.1)
        self._follow(1.0)
        self._optimizer = StackedAdam(
            self.network.parameters,
            learning_rate=number("learning_rate", learning_rate, low=0.0),
            max_grad_norm=number("max_grad_norm", max_grad_norm, low=0.0),
        )
        self._replay = Replay(
            self.num_learners,
            max(self.num_steps, min(replay_size, all_steps)),
            inputs.kept_size,
            inputs.kept_dtype,
            self.device,
        )
        self._step = 0

    @classmethod
    def fits(cls, env: BatchedEnv) -> bool:
        """Discrete actions; numbers, vectors or images to see, or codes of what is stored."""
        return env.is_discrete and bool(ways_to_see(env, images=True))

    def _networks(self, sizes: list[int], filters: int) -> StackedMLP | StackedCNN:
        """One for each learner, of its inputs, that ends in layers of these sizes."""
        shape = self.inputs.shape
        if len(shape) == 1:
            return StackedMLP(self.num_learners, [*shape, *sizes], device=self.device)
        return StackedCNN(
            self.num_learners, shape, filters=filters, sizes=sizes, device=self.device
        )

    @property
    def epsilon(self) -> float:
        """Probability of a uniformly random action at the next step."""
        return annealed(self._step, self._decay_steps, self.final_epsilon)

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Draw from the greedy policy mixed with epsilon uniform."""
        self._seen = self.inputs.keep(observation, self._phases.now)
        inputs = self.inputs(observation, self._phases.now)
        probs = self._distributions(inputs[:, None])[:, 0]
        return self.draw(probs), probs

    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        """Remember the step; every `steps_per_update` of them, learn."""
        _, action, reward, terminated, truncated, _ = transition
        phase = self._phases.after(reward)
        led_to = self.inputs.keep(final_observation, phase)
        self._replay.write(self._seen, action, reward, terminated, truncated, led_to)
        self._phases.move_on(phase, terminated | truncated)
        self._step += 1
        enough = self._replay.filled >= max(self.batch_size, self.num_steps)
        if enough and self._step % self.steps_per_update == 0:
            self._learn()

    def would_act(self, visited: Visited) -> Tensor:
        """By network and epsilon as they are now; see `Source.would_act`."""
        # Images of many steps take much room: a few at a time.
        size = self.batch_size if len(self.inputs.shape) > 1 else visited.phase.shape[1]
        parts = zip(*(field.split(size, dim=1) for field in visited), strict=True)
        some = [self._distributions(self.inputs.of(Visited(*part))) for part in parts]
        return torch.cat(some, dim=1)

    def _distributions(self, inputs: Tensor) -> Tensor:
        """Distributions (N, R, A) where the learners see inputs (N, R, ...)."""
        q = self.network.forward(inputs)[-1]
        greedy = uniform_over(q == q.amax(dim=-1, keepdim=True))
        return greedy.mul_(1 - self.epsilon).add_(self.epsilon / self.num_actions)

    def _learn(self) -> None:
        """One update on a batch of every learner's steps."""
        sample = self._replay.sample(self.batch_size, self.num_steps, self.gamma, self.generator)
        following = self.inputs.recall(sample.following)
        target = self._target.forward(following)[-1]
        judge = target
        if self.double:
            judge = self.network.forward(following)[-1]
        best = target.gather(-1, judge.argmax(dim=-1, keepdim=True))[..., 0]
        passed = self.network.forward(self.inputs.recall(sample.seen))
        action = sample.action[..., None]
        error = passed[-1].gather(-1, action)[..., 0] - (sample.reward + sample.discount * best)
        # Of the Huber loss, mean over the batch.
        slope = error.clamp_(-1.0, 1.0).div_(self.batch_size)
        gradient = torch.zeros_like(passed[-1]).scatter_(-1, action, slope[..., None])
        self.network.backward(passed, gradient)
        self._optimizer.step(self.network.gradients)
        self._follow(self.target_rate)

    def _follow(self, share: float) -> None:
        """Let the target network go a share of the way to the network."""
        pairs = zip(self._target.parameters, self.network.parameters, strict=True)
        for target, parameter in pairs:
            target.lerp_(parameter, share)
