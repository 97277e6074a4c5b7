"""Further distributions to learn from, stored beside the one that was acted by.

"expert": what the environment's expert, which is told the task, would do in the state.
"final": look-ahead, what the very same learner would do in the state at the end of its history, or
a given number of episodes later.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.base.errors import UserError, unknown
from fastad.envs.base import BatchedEnv
from fastad.histories.learning import Begun, Learning
from fastad.histories.schema import LABELS, POLICIES, DatasetInfo
from fastad.sources.base import Source
from fastad.sources.expert import Expert
from fastad.sources.registry import source_class
from fastad.sources.visited import Follower, Visited

Label = Literal["expert", "final"]
Labelled = dict[str, Tensor]  # a block's fields, (N, steps, ...), by the names of columns


def check_labels(
    labels: Sequence[Label],
    look_ahead: int | None,
    env: BatchedEnv,
    learners: Source,
    num_episodes: int,
) -> None:
    """Refuse labels that cannot be.

    Args:
        labels: To store.
        look_ahead: Of "final", in episodes; None is to the end.
        env: That is acted in.
        learners: That act in it, fresh. Asked to look ahead once, as they might refuse; so is the
            expert, to look back, where they learn in a loop of their own.
        num_episodes: Length of the histories.

    Raises:
        UserError: For unknown labels, an expert that there is not, or a look-ahead that is none.
    """
    for label in labels:
        if label not in get_args(Label):
            raise unknown("labels", label, get_args(Label))
    if "expert" in labels and not Expert.fits(env):
        raise UserError(
            f"labels: env {env.family.name!r} has no expert; leave out expert from the labels"
        )
    if "final" in labels and not learners.has_policy:
        raise UserError(
            f"labels: source {learners.name!r} has no distribution to store; leave out final from "
            "the labels"
        )
    if "final" in labels and not learners.owns_loop:
        none = torch.zeros((env.num_envs, 1), dtype=torch.int64, device=env.device)
        learners.would_act(Visited(env.reset()[:, None], phase=none, episode_step=none))
    if "expert" in labels and learners.owns_loop:
        # In hindsight, as it will be: not all experts can tell of earlier steps.
        env.expert(env.reset(), torch.zeros(env.num_envs, dtype=torch.int64, device=env.device))
    if look_ahead is None:
        return
    if learners.owns_loop:
        raise UserError(
            f"look_ahead={look_ahead} is not possible with source {learners.name!r}, which learns "
            "in a loop of its own; leave it out to look ahead to the end"
        )
    if "final" not in labels:
        raise UserError(f"look_ahead={look_ahead} is of the label final; add final to the labels")
    if not 1 <= look_ahead < num_episodes:
        raise UserError(
            f"look_ahead={look_ahead} must be at least 1 and below num_episodes={num_episodes}; "
            "leave it out to look ahead to the end"
        )


def stored_policies(labels: Sequence[Label], learners: Source) -> list[str]:
    """The distributions that are stored, as `DatasetInfo.policies`."""
    wanted = {name for name, label in LABELS.items() if label in labels}
    return [
        name for name in POLICIES if name in wanted or (name not in LABELS and learners.has_policy)
    ]


def steps_to_take(info: DatasetInfo) -> int:
    """Of a learner, for its history and its labels."""
    twice = "final" in info.labels and not source_class(info.source).owns_loop
    return info.num_steps * (2 if twice else 1)


def label_words(info: DatasetInfo) -> list[str]:
    """What the labels of a dataset are, in words that tell what is privileged."""
    later = "at the end of its history"
    if info.look_ahead:
        later = f"{info.look_ahead:,} episode{'s' * (info.look_ahead > 1)} later"
    words = {
        "expert_policy": "expert labels: the environment's expert; privileged: told the task",
        "final_policy": f"look-ahead labels: the same learner's policy {later}",
    }
    return [words[name] for name in info.policies if name in words]


def labelled_blocks(
    learning: Learning, info: DatasetInfo, *, block_steps: int
) -> Iterator[tuple[Labelled, float]]:
    """What happens to learners, block by block, with the labels that a dataset stores.

    Look-ahead runs the same learners twice: the second time, which nothing tells from the first,
    they are ahead, and are asked what they would do in the states of the first. They are asked
    before an episode of full length begins: in the e-th, after (e + look_ahead) * episode_length
    steps of their histories, or all where there are no more. For a source that learns once per
    episode, K episodes are K updates.

    Args:
        learning: Of the learners.
        info: Of the dataset.
        block_steps: Steps per block, at least an episode's where there are labels.

    Yields:
        Fields by the names of columns, (N, steps, ...), none where there is nothing to store yet;
        and the steps that those who look ahead have taken, each, by then; or, of a source that
        owns its loop, those not yielded yet.
    """
    labels = info.labels
    begun = learning.begin()
    if begun.learners.owns_loop:
        yield from _own_blocks(learning, begun, labels, block_steps)
        return
    if not labels:
        blocks = learning.run(begun, block_steps=block_steps)
        yield from ((block._asdict(), 0) for block in blocks)
        return
    asking = _AskingExpert(begun.env, begun.learners)
    episodes = learning.run(
        begun,
        block_steps=info.episode_length,
        agent=asking if "expert" in labels else None,
    )
    ahead = _Ahead(learning, info.look_ahead) if "final" in labels else None
    follower = Follower(begun.env)
    parts: list[Labelled] = []
    taken = 0
    for index, episode in enumerate(episodes, 1):
        fields: Labelled = episode._asdict()
        if "expert" in labels:
            fields["expert_policy"] = asking.answers()
        if ahead is not None:
            for taken in ahead.go_on_to(index - 1):
                yield {}, taken
            visited = follower.follow(episode)
            fields["final_policy"] = ahead.learners.would_act(visited)
        parts.append(fields)
        steps = len(parts) * info.episode_length
        if steps + info.episode_length > block_steps or index == learning.num_episodes:
            yield _joined(parts), taken
            parts = []


def _own_blocks(
    learning: Learning, begun: Begun, labels: Collection[str], block_steps: int
) -> Iterator[tuple[Labelled, float]]:
    """The same of a source that owns its loop: it has learnt all before its first steps are here.

    So it is at its end whenever it is asked, and the expert is asked in hindsight.
    """
    learners, follower = begun.learners, Follower(begun.env)
    for block in learning.run(begun, block_steps=block_steps):
        if block.reward.shape[1] == 0:
            yield {}, learners.steps_taken / learners.num_learners
            continue
        fields: Labelled = block._asdict()
        if labels:
            visited = follower.follow(block)
        if "expert" in labels:
            fields["expert_policy"] = _answers(begun.env, visited)
        if "final" in labels:
            fields["final_policy"] = learners.would_act(visited)
        yield fields, 0


def _answers(env: BatchedEnv, visited: Visited) -> Tensor:
    """What the expert would have done, (N, T, A)."""
    steps = zip(visited.observation.unbind(1), visited.phase.unbind(1), strict=True)
    answers = [env.expert(observation, phase) for observation, phase in steps]
    assert answers[0] is not None, "check_labels refuses what has no expert"
    return torch.stack(answers, dim=1)  # type: ignore[arg-type]


class _Ahead:
    """The same learners once more, episodes ahead.

    Args:
        learning: Of the learners.
        look_ahead: Episodes; 0 is to the end.
    """

    def __init__(self, learning: Learning, look_ahead: int) -> None:
        begun = learning.begin()
        self.learners = begun.learners
        self._episode_length = begun.env.episode_length
        self._episodes = learning.run(begun, block_steps=self._episode_length)
        self._num_episodes = learning.num_episodes
        self._look_ahead = look_ahead or learning.num_episodes
        self._done = 0

    def go_on_to(self, episode: int) -> Iterator[int]:
        """Have `learners` as they are `look_ahead` episodes after `episode` begins.

        Yields:
            The steps that each has taken, after every episode.
        """
        target = min(episode + self._look_ahead, self._num_episodes)
        while self._done < target:
            next(self._episodes)
            self._done += 1
            yield self._done * self._episode_length


class _AskingExpert:
    """An agent's actions, and what the expert would have done."""

    def __init__(self, env: BatchedEnv, agent: Source) -> None:
        self._env, self._agent = env, agent
        self._answers: list[Tensor] = []

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Let the agent act, the expert only answer."""
        answer = self._env.expert(observation)
        assert answer is not None, "check_labels refuses what has no expert"
        self._answers.append(answer)
        return self._agent.act(observation)

    def observe(self, transition: Transition, final_observation: Tensor) -> None:
        """Tell the agent."""
        self._agent.observe(transition, final_observation)

    def answers(self) -> Tensor:
        """The expert's since this was asked last, (N, steps, A)."""
        answers, self._answers = self._answers, []
        return torch.stack(answers, dim=1)


def _joined(parts: list[Labelled]) -> Labelled:
    return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
