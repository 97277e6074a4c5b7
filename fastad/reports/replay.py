"""Replays: what a frozen model did on held-out tasks, step by step, for people to look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.actions import DiagonalGaussian
from fastad.base.device import choose_device
from fastad.base.errors import UserError
from fastad.envs.scene import Mark, Scene, scene_json
from fastad.evaluate.prepared import Prepared, prepare
from fastad.histories.bounds import find_bounds
from fastad.reports.attention import Attention, attention_of, steps_in_window
from fastad.reports.choices import choice_names, choice_sizes
from fastad.reports.shown_steps import shown_steps

ATTENTION_BYTES = 300_000  # of a rollout, at most: one for every weight


@dataclass(frozen=True)
class LivedRollout:
    """One rollout, of `T` steps in `E` whole episodes.

    Attributes:
        task: In words; privileged, as `marks`: the model is told neither.
        marks: What lies where in the scene.
        place: (T, 2) or (T, 3), x and y and perhaps the heading before each step's action; None
            where the scene has no places.
        action: (T, *shape).
        policy: (T, A), what each action was drawn from, see `fastad.actions`.
        reward: (T,) float32.
        episode_start: (E,) int64, the first step of each episode.
        returns: (E,) float32.
        optimal: Return of an optimal policy that knows the task; None where nobody knows it.
        attention: None where the model has none.
    """

    task: str
    marks: tuple[Mark, ...]
    place: np.ndarray | None
    action: np.ndarray
    policy: np.ndarray
    reward: np.ndarray
    episode_start: np.ndarray
    returns: np.ndarray
    optimal: float | None
    attention: Attention | None = None


@dataclass(frozen=True)
class Replay:
    """Rollouts of one run, and what there is to say of all of them.

    Attributes:
        env: The environment's name.
        scene: Where they take place; None: nothing can be drawn but steps.
        actions: Names of the options, of all choices one after another; None: they are numbers.
        choices: How many options each choice has: one choice for Discrete actions; None as above.
        spread: From policies (..., A) of continuous actions to middles and deviations.
        layers: Of attention; 0: the model has none.
        window: Steps that a query sees, its own included.
        prompt: What came first in the context, no part of the rollouts; "" for nothing.
        rollouts: On as many tasks as there are, if possible.
    """

    env: str
    scene: Scene | None
    actions: tuple[str, ...] | None
    choices: tuple[int, ...] | None
    spread: Callable[[Tensor], tuple[Tensor, Tensor]] | None
    layers: int
    window: int
    prompt: str
    rollouts: tuple[LivedRollout, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values.

        `scene` is `{"kind": "grid" | "disc" | "plane" | "arms" | "steps", ...}` with the fields of
        `fastad.envs.scene`. Where there are several choices per step (`choices` has more than one
        entry), an action is a list of indices, and `actions` and `probabilities` hold those of the
        first choice, then the second, ... Where `actions` is null, an action is a list of numbers,
        and there are `mean` and `deviation` instead of `probabilities`. A rollout's `x`, `y` and
        `heading` are null where there are none; its marks are privileged, and of bandits `means`
        are those of the arms. `attention`, null for a GRU, is of the steps in `query`: byte
        `[q][layer][j]` of `data`, times `scale[q][layer] / 255`, is the mean over heads of the
        weight on step `query[q] - window + 1 + j`. A step below 0 is one of the prompt.
        """
        return {
            "env": self.env,
            "scene": scene_json(self.scene),
            "actions": None if self.actions is None else list(self.actions),
            "choices": None if self.choices is None else list(self.choices),
            "layers": self.layers,
            "window": self.window,
            "prompt": self.prompt,
            "rollouts": [self._rollout_json(rollout) for rollout in self.rollouts],
        }

    def _rollout_json(self, lived: LivedRollout) -> dict[str, Any]:
        place = None if lived.place is None else lived.place.T
        has_heading = place is not None and len(place) > 2
        is_bandit = self.scene is not None and self.scene.kind == "arms"
        told: dict[str, Any] = {
            "task": lived.task,
            "marks": [] if is_bandit else [asdict(mark) for mark in lived.marks],
            "means": [round(mark.y, 4) for mark in lived.marks] if is_bandit else None,
            "episode_start": lived.episode_start.tolist(),
            "x": None if place is None else _short(place[0]),
            "y": None if place is None else _short(place[1]),
            "heading": _short(place[2]) if place is not None and has_heading else None,
            "action": _short(lived.action),
            "reward": _short(lived.reward),
            "returns": _short(lived.returns),
            "optimal": lived.optimal,
            "attention": None if lived.attention is None else lived.attention.to_json(),
        }
        if self.spread is None:
            return {**told, "probabilities": _short(lived.policy)}
        middle, deviation = self.spread(torch.from_numpy(lived.policy))
        return {**told, "mean": _short(middle.numpy()), "deviation": _short(deviation.numpy())}


def record(
    run: Path,
    *,
    rollouts: int = 3,
    attention: bool = True,
    device: str = "auto",
    threads: int | None = None,
    kv_cache: bool = True,
    **settings: Any,
) -> Replay:
    """Roll a run out as `fastad rollout` does, and keep everything of a few rollouts.

    All rollouts of the task set are lived, so that the kept ones are the very ones that `fastad
    rollout` makes of the same settings, and return the same.

    Args:
        run: Run folder, or a checkpoint in one.
        rollouts: To keep, at most: of distinct tasks, evenly spread over the task set.
        attention: Whether to keep what the model attended to. It is recomputed, for every step if
            that takes few bytes, else for steps evenly spread.
        device: As in `RolloutConfig`, as all that follows.
        threads: As there.
        kv_cache: As there.
        **settings: Of `prepare`.

    Raises:
        UserError: If the run is damaged, or settings are not possible; so too if attention is
            wanted where rewards are exchanged among rollouts.
    """
    if rollouts < 1:
        raise UserError(f"rollouts={rollouts} must be at least 1")
    prepared = prepare(run, choose_device(device, threads), kv_cache=kv_cache, **settings)
    if attention and prepared.control == "shuffled-rewards":
        raise UserError(
            "control=shuffled-rewards shows a rollout the rewards of others, of which a replay "
            "keeps few; record it without attention"
        )
    return record_prepared(prepared, rollouts=rollouts, attention=attention, kv_cache=kv_cache)


def record_prepared(
    prepared: Prepared, *, rollouts: int, attention: bool = True, **options: Any
) -> Replay:
    """See `record`; options are those of `try_model`."""
    tasks = prepared.tasks
    num_tasks = min(rollouts, len(tasks.tasks))
    rows = [index * len(tasks.tasks) // num_tasks * tasks.repeats for index in range(num_tasks)]
    blocks: list[Transition] = []

    def keep(block: Transition) -> None:
        blocks.append(Transition(*(field[rows] for field in block)))

    trial = prepared.act(on_block=keep, **options)
    # Clones: those of an inference are of no use to whoever computes with them.
    lived = Transition(*(torch.cat(field, dim=1).clone() for field in zip(*blocks, strict=True)))
    replay = describe(prepared, trial.result.returns, lived, rows)
    if not attention or not replay.layers:
        return replay
    return _with_attention(replay, prepared, lived, rows)


def describe(prepared: Prepared, returns: Tensor, lived: Transition, rows: list[int]) -> Replay:
    """A replay without attention.

    Args:
        prepared: As the model acted.
        returns: (N, E) of all rollouts.
        lived: (K, T, ...), of some.
        rows: Which K.
    """
    tasks, model = prepared.tasks, prepared.model
    env = tasks.make_env(tasks.generator("cpu"))
    family, actions = env.family, model.actions
    optimal = env.optimal_return()
    here = Transition(*(field.cpu() for field in lived))
    places = family.place(here.observation) if family.scene() is not None else None
    rollouts = []
    for index, row in enumerate(rows):
        bounds = find_bounds((here.terminated | here.truncated)[index].numpy())
        stop = int(bounds[prepared.episodes])
        rollouts.append(
            LivedRollout(
                task=family.words(env.tasks[row]),
                marks=family.marks(env.tasks[row]),
                place=None if places is None else places[index, :stop].numpy(),
                action=here.action[index, :stop].numpy(),
                policy=here.policy[index, :stop].float().numpy(),
                reward=here.reward[index, :stop].numpy(),
                episode_start=np.asarray(bounds[: prepared.episodes]),
                returns=returns[row].numpy(),
                optimal=None if optimal is None else float(optimal[row]),
            )
        )
    with model.seeing(prepared.context):
        is_attentive = model.config.trunk != "gru"
        window = steps_in_window(model) if is_attentive else 0
    return Replay(
        env=tasks.info.env,
        scene=family.scene(),
        actions=choice_names(family, actions),
        choices=choice_sizes(actions),
        spread=actions.middle_and_spread if isinstance(actions, DiagonalGaussian) else None,
        layers=model.config.num_layers if is_attentive else 0,
        window=window,
        prompt="" if prepared.prompt is None else prepared.prompt.told,
        rollouts=tuple(rollouts),
    )


def _with_attention(
    replay: Replay, prepared: Prepared, lived: Transition, rows: list[int]
) -> Replay:
    device = next(prepared.model.parameters()).device
    lived = Transition(*(field.to(device) for field in lived))
    shown = shown_steps(prepared, lived, rows)
    before = 0 if prepared.prompt is None else prepared.prompt.num_steps
    num_queries = max(1, ATTENTION_BYTES // (replay.layers * replay.window))
    attentive = []
    with prepared.model.seeing(prepared.context):
        for index, rollout in enumerate(replay.rollouts):
            num_steps = len(rollout.reward)
            # With the first and the last step.
            chosen = torch.linspace(0, num_steps - 1, min(num_steps, num_queries)).round().long()
            steps = shown.part(0, before + num_steps, slice(index, index + 1))
            told = attention_of(prepared.model, steps, before + chosen, before=before)
            attentive.append(replace(rollout, attention=told))
    return replace(replay, rollouts=tuple(attentive))


def _short(values: np.ndarray) -> list[Any]:
    """As lists; numbers that are no integers to four digits behind the point."""
    if values.dtype.kind == "f":
        values = np.round(values.astype(np.float64), 4)
    told: list[Any] = values.tolist()
    return told
