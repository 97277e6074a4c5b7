"""The frozen model as an agent: what it is shown, what it draws, what it forgets."""

from typing import Literal

import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.acting.steps import Steps
from fastad.actions import ActionDistribution, Categorical
from fastad.base.errors import UserError
from fastad.model.kernels import make_told
from fastad.model.memory import Memory
from fastad.rollouts.draws import OwnDraws
from fastad.rollouts.part import Part, draw_part
from fastad.rollouts.prompt import Prompt

Control = Literal["none", "no-reward", "shuffled-rewards", "one-episode", "wiped-context"]
# Under these no context is longer than an episode.
FORGETFUL: tuple[Control, ...] = ("one-episode", "wiped-context")


class InContextAgent:
    """A frozen model in `N` environments, each with a context of its own.

    What it remembers is updated in place, so that a step can be captured in a CUDA graph.

    Args:
        memory: Of a model in evaluation mode, in as many environments.
        actions: What the model predicts the parameters of.
        num_envs: `N`.
        generator: Draws the actions; on the model's device.
        greedy: Take the most probable action instead of sampling. Freezes undertrained models.
        control: What is hidden from the model. "no-reward": rewards, it is shown 0.
            "shuffled-rewards": whose they are; every environment is shown the reward of another,
            by a new permutation of all at every step. "one-episode": the steps of all episodes but
            the running one, whose first step still tells the action and the reward before it.
            "wiped-context": those, too; every episode is as the first. A window of one episode,
            which slides, is no control: as an episode begins it shows the end of the last.
        target_return: (N,) float32, what a model that reads returns to go is asked for in every
            episode: it is shown that, less the rewards that it was shown in the episode. None for
            models that read none.
        unordered: Whether the model is shown where the last action was taken, besides where the
            agent is, as the unordered layout has it.
        part: Which of more environments these `N` are, for all of which actions are drawn.
    """

    def __init__(
        self,
        memory: Memory,
        actions: ActionDistribution,
        num_envs: int,
        *,
        generator: torch.Generator,
        greedy: bool = False,
        control: Control = "none",
        target_return: Tensor | None = None,
        unordered: bool = False,
        part: Part | None = None,
    ) -> None:
        self.memory, self.actions, self.generator = memory, actions, generator
        self.greedy, self.control, self.part = greedy, control, part
        device = generator.device
        self._none = actions.none.to(device)
        self.told = make_told(
            self._none.repeat(num_envs, *[1] * self._none.ndim),
            torch.zeros(num_envs, device=device),
            torch.ones(num_envs, dtype=torch.bool, device=device),
            torch.zeros(num_envs, dtype=torch.int64, device=device),
            impl="auto" if memory.has_kernels else "reference",
        )
        self.target_return = target_return
        self.return_to_go = None if target_return is None else target_return.clone()
        self.unordered = unordered
        self.previous_observation: Tensor | None = None  # known from the first one on, if needed
        # As the memory reads them, (N, 1): these very tensors. Observations come with every step.
        told = self.told
        self._shown = (
            told.action.unsqueeze(1), told.reward.unsqueeze(1), told.start.unsqueeze(1),
            told.step.unsqueeze(1),
            None if self.return_to_go is None else self.return_to_go.unsqueeze(1),
        )  # fmt: skip
        # Memory that every step fills anew.
        self._uniform = torch.empty((num_envs if part is None else part.total, 1), device=device)
        self.logits: Tensor | None = None  # the latest, (N, A), parameters of whatever kind
        # One uniform number an action, drawn with kernels where the memory has some.
        self._draws_at_once = isinstance(actions, Categorical) and not greedy
        # Who waits during a step, and what draws once somebody did.
        self._idle: Tensor | None = None
        self._own_draws: OwnDraws | None = None

    def wait(self, idle: Tensor) -> None:
        """See `PatientAgent.wait`."""
        if self.control == "shuffled-rewards":
            raise UserError(
                "control=shuffled-rewards exchanges the rewards of a step, and the environments "
                "are out of step where one resets after the step that ended its episode; make it "
                "with autoreset_mode=AutoresetMode.SAME_STEP, or take another control"
            )
        if self._own_draws is None and not self.greedy:
            self._draws_at_once = False
            self._own_draws = OwnDraws(self.actions, len(idle), self.generator)
        self._idle = idle

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """See `Agent.act`; every call takes one step of context.

        A greedy agent acts by a policy that is sure of one action, not by what the model predicts.
        Call it without gradients, as `interact` does.
        """
        assert not torch.is_grad_enabled()
        if self._draws_at_once:
            # Here PyTorch is still in the processor's caches; the model's step drives it out.
            uniform = self._uniform.uniform_(generator=self.generator)
            if self.part is not None:
                uniform = uniform[self.part.rows]
            action, policy, self.logits = self.memory.sample(self._steps(observation), uniform)
            return action, policy
        logits = self.memory.predict(self._steps(observation), self._idle)
        self.logits = logits
        if self.greedy:
            return self.actions.likeliest(logits)
        if isinstance(self.actions, Categorical):
            policy = self.memory.softmax(logits)
        else:
            policy = self.actions.policy(logits)
        if self._own_draws is not None:
            return self._own_draws.draw(policy, self._idle), policy
        if self.part is not None:
            return draw_part(self.actions, policy, self.generator, self.part), policy
        return self.actions.draw(policy, self.generator), policy

    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        """See `Agent.observe`."""
        if self._idle is None:
            self._note(transition)
            return
        state = [x for x in (*self._shown, self.previous_observation) if x is not None]
        before = [x.clone() for x in state]
        self._note(transition)
        for now, then in zip(state, before, strict=True):
            now.copy_(torch.where(self._idle.view(-1, *[1] * (now.ndim - 1)), then, now))
        self._idle = None

    def _note(self, transition: Transition) -> None:
        """Remember a transition of all."""
        told, reward = self.told, transition.reward
        if self.control == "shuffled-rewards":
            # Sorted, not `randperm`, which asks the device how it went.
            order = self._uniform.uniform_(generator=self.generator).argsort(dim=0)
            reward = reward[order.squeeze(1)]
        elif self.control == "no-reward":
            reward = told.reward
        told.take(transition.action, reward, transition.terminated, transition.truncated)
        if self.previous_observation is not None:
            self.previous_observation.copy_(transition.observation)
        if self.return_to_go is not None:
            self.return_to_go.sub_(told.reward)
            self._ask_anew(told.start)
        if self.control == "one-episode":
            self.memory.forget(told.start)
        elif self.control == "wiped-context":
            self.forget(told.start)

    def live_through(self, prompt: Prompt) -> None:
        """Begin with the episodes of a prompt, as if the actions in them had been the agent's."""
        begins = prompt.begins
        later = set(begins.tolist()) - {0}
        for step in range(prompt.num_steps):
            if step in later:  # prompts end together; what comes before shorter ones is padding
                self.forget(begins == step)
            lived = Transition(*(field[:, step] for field in prompt.steps))
            self.memory.take(self._steps(lived.observation))
            self.observe(lived, lived.observation)

    def forget(self, mask: Tensor) -> None:
        """Clear the context of the environments in `mask`, (N,) bool, and of no other."""
        self.memory.forget(mask)
        each = mask.view(-1, *[1] * self._none.ndim)
        told = self.told
        torch.where(each, self._none, told.action, out=told.action)
        told.reward.masked_fill_(mask, 0.0)
        told.start.masked_fill_(mask, True)
        told.step.masked_fill_(mask, 0)
        self._ask_anew(mask)

    def _steps(self, observation: Tensor) -> Steps:
        """What the memory is shown of an observation (N, ...) and of what came before."""
        steps = Steps(observation.unsqueeze(1), *self._shown)
        if not self.unordered:
            return steps
        if self.previous_observation is None:
            self.previous_observation = observation.clone()
        return steps._replace(previous_observation=self.previous_observation.unsqueeze(1))

    def _ask_anew(self, mask: Tensor) -> None:
        """An episode begins in the environments in `mask`: all of the return is to go."""
        if self.return_to_go is not None:
            assert self.target_return is not None
            torch.where(mask, self.target_return, self.return_to_go, out=self.return_to_go)
