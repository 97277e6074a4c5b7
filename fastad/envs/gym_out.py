"""Gymnasium's view of the batched environments: one task as `Env`, many as `VectorEnv`.

Both take the family's options and, if wanted, the task (`TaskFamily.task_arguments`):
`gymnasium.make("fastad/DarkRoom-v0", goal=(3, 7), size=11)`. A task that is not given is drawn
from `np_random` at the first reset and at every seeded one, and kept by resets without a seed, so
that an agent can go on learning it; where there are infinitely many, `split="test"` draws as for
the test. `reset(options={"task": row})` sets another task and `options={"task": "random"}` draws
one, until the next seeded reset. The info that `reset` returns holds the task.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from fastad.base.errors import UserError, unknown
from fastad.envs.base import BatchedEnv
from fastad.envs.family import SPLITS
from fastad.envs.registry import env_options, family_class, make_family

RENDER_MODES = ("ansi", "rgb_array")  # lines of text; a picture, (height, width, 3) uint8


class _Tasks:
    """The batched environment behind an adapter, with the tasks that it was given or drew."""

    def __init__(self, name: str, num_envs: int, arguments: dict[str, Any]) -> None:
        self.num_envs = num_envs
        wanted = family_class(name).task_arguments
        choices = (*env_options(name), *wanted, "split")
        for argument in arguments:
            if argument not in choices:
                raise unknown(f"argument of {name}", argument, choices)
        self.split = arguments.get("split", "train")
        if self.split not in SPLITS:
            raise unknown("split", self.split, SPLITS)
        options = {k: v for k, v in arguments.items() if k not in (*wanted, "split")}
        given = {key: arguments[key] for key in wanted if arguments.get(key) is not None}
        for key in given:
            width = wanted[key]
            if isinstance(width, str):  # the option that says how many numbers there are
                options.setdefault(width, np.atleast_1d(given[key]).shape[-1])
        self.family = make_family(name, **options)
        self.listed = self.family.tasks()
        if "split" in arguments and self.listed is not None:
            raise UserError(f"split={self.split!r} is not possible: {name} lists its tasks")
        self.given = self._given_tasks(given)
        self.generator = torch.Generator()
        tasks = self._draw(np.random.default_rng(0)) if self.given is None else self.given
        self.env = self._make(tasks)
        self._fresh = True

    def reset(
        self, np_random: np.random.Generator, *, seeded: bool, options: dict[str, Any] | None
    ) -> Tensor:
        """Begin an episode everywhere, with other tasks if asked to; returns observations."""
        fresh, self._fresh = seeded or self._fresh, False
        if fresh:
            self.generator.manual_seed(int(np_random.integers(2**63)))
        wanted = (options or {}).get("task")
        if isinstance(wanted, str) and wanted != "random":
            raise UserError(f"options['task']={wanted!r} is not possible; use a row or 'random'")
        if isinstance(wanted, str) or (wanted is None and fresh and self.given is None):
            self.env = self._make(self._draw(np_random))
        elif wanted is not None:
            self.env = self._make(self._rows("options['task']", wanted, None))
        elif fresh and self.given is not None:
            self.env = self._make(self.given)
        return self.env.reset()

    @property
    def space(self) -> gymnasium.Space[Any]:
        """Of what one environment shows: frames, say, where poses are stored."""
        spec = self.family.spec()
        return spec.observation_space if spec.shown_space is None else spec.shown_space

    def shown(self, observation: Tensor) -> np.ndarray:
        """What is shown of observations (N, ...), as an array of its own, row by row."""
        return np.array(self.family.show(observation).numpy(), order="C")

    def task_rows(self) -> np.ndarray:
        """The current tasks, (N, K), a copy."""
        return self.env.tasks.numpy().copy()

    def _given_tasks(self, given: dict[str, Any]) -> Tensor | None:
        """The task from its arguments; None if they do not say which."""
        name, widths = self.family.name, self.family.task_arguments
        if not given:
            return None
        if missing := [key for key in widths if key not in given]:
            raise UserError(f"{missing[0]} is not given; {name} wants {' and '.join(widths)}")
        return torch.cat([self._rows(key, given[key], widths[key]) for key in widths], dim=1)

    def _rows(self, field: str, value: Any, width: int | str | None) -> Tensor:
        """One row for all environments or one for each, as (N, width)."""
        rows = np.asarray(value)
        rows = rows.reshape(-1, 1) if width == 1 else np.atleast_2d(rows)
        fits = rows.ndim == 2 and len(rows) in (1, self.num_envs)
        if isinstance(width, int):
            fits = fits and rows.shape[1] == width
        if rows.dtype.kind not in "iuf" or not fits:
            numbers = f"{width} number{'s' * (width > 1)}" if isinstance(width, int) else "numbers"
            many = f", or {self.num_envs} such rows" if self.num_envs > 1 else ""
            raise UserError(f"{field}={value!r} is not possible; give {numbers}{many}")
        return torch.tensor(rows).expand(self.num_envs, -1).contiguous()

    def _draw(self, np_random: np.random.Generator) -> Tensor:
        if self.listed is not None:
            rows = np_random.integers(len(self.listed), size=self.num_envs)
            return self.listed[torch.from_numpy(rows)]
        generator = torch.Generator().manual_seed(int(np_random.integers(2**63)))
        return self.family.sample(self.num_envs, self.split, generator)

    def _make(self, tasks: Tensor) -> BatchedEnv:
        return self.family.make(tasks, self.generator)


class GymEnv(gymnasium.Env[Any, Any]):
    """One task of one family.

    Args:
        env: The family's name in the registry.
        render_mode: One of `RENDER_MODES`, or None.
        **arguments: Of the task and of the family, see the module.
    """

    metadata: dict[str, Any] = {"render_modes": [*RENDER_MODES], "render_fps": 4}  # noqa: RUF012

    def __init__(self, env: str, *, render_mode: str | None = None, **arguments: Any) -> None:
        self._tasks = _Tasks(env, 1, arguments)
        self.metadata = self.metadata | {"render_modes": _render_modes(self._tasks.env)}
        self.render_mode = _checked(render_mode, self.metadata)
        self.observation_space = self._tasks.space
        self.action_space = self._tasks.env.action_space
        self._observation: Tensor | None = None  # (1, ...)
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; see the module for when the task changes."""
        super().reset(seed=seed)
        self._observation = self._tasks.reset(
            self.np_random, seeded=seed is not None, options=options
        )
        self._over = False
        return self._shown(), {"task": self._tasks.task_rows()[0]}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step; the observation of the last step of an episode is its true end."""
        if self._over:
            raise gymnasium.error.ResetNeeded("the episode is over or has not begun; call reset()")
        env = self._tasks.env
        observation, reward, terminated, truncated = env.step(_actions(env, [action]))
        self._over = bool(terminated) or bool(truncated)
        self._observation = env.final_observation if self._over else observation
        return self._shown(), float(reward), bool(terminated), bool(truncated), {}

    def render(self) -> str | np.ndarray | None:
        """The environment as `render_mode` has it, what is hidden from the agent included."""
        if self.render_mode is None or self._observation is None:
            return None
        return _rendered(self._tasks.env, self.render_mode, self._observation, 0)

    def _shown(self) -> Any:
        """What is shown of where one is."""
        assert self._observation is not None
        return _single(self._tasks.shown(self._observation))


class GymVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """`num_envs` tasks of one family, reset within the step that ends their episode.

    Args:
        env: The family's name in the registry.
        num_envs: Environments advanced together.
        render_mode: One of `RENDER_MODES`, or None.
        **arguments: Of the tasks and of the family, see the module; a task argument is one
            task for all or a sequence of `num_envs`.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012, as of Gymnasium
        "render_modes": [*RENDER_MODES],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self, env: str, *, num_envs: int = 1, render_mode: str | None = None, **arguments: Any
    ) -> None:
        if num_envs < 1:
            raise UserError(f"num_envs={num_envs} is not possible; use 1 or more")
        self.num_envs = num_envs
        self._tasks = _Tasks(env, num_envs, arguments)
        self.metadata = self.metadata | {"render_modes": _render_modes(self._tasks.env)}
        self.render_mode = _checked(render_mode, self.metadata)
        self.single_observation_space = self._tasks.space
        self.single_action_space = self._tasks.env.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._observation: Tensor | None = None  # (num_envs, ...)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode everywhere; see the module for when the tasks change."""
        super().reset(seed=seed)
        self._observation = self._tasks.reset(
            self.np_random, seeded=seed is not None, options=options
        )
        mask = np.ones(self.num_envs, np.bool_)
        return self._tasks.shown(self._observation), self._task_info(mask)

    def step(
        self, actions: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one step everywhere; where an episode ended, `final_obs` is in the info."""
        if self._observation is None:
            raise gymnasium.error.ResetNeeded("no episode has begun; call reset()")
        env = self._tasks.env
        self._observation, reward, terminated, truncated = env.step(_actions(env, actions))
        ended = (terminated | truncated).numpy()
        info: dict[str, Any] = {}
        if ended.any():
            final = np.full(self.num_envs, None, dtype=object)
            for index in np.flatnonzero(ended):
                row = env.final_observation[index : index + 1]
                final[index] = _single(self._tasks.shown(row))
            info = {"final_obs": final, "_final_obs": ended, "final_info": {}}
            info |= {"_final_info": ended.copy()} | self._task_info(ended.copy())
        rewards = reward.numpy().astype(np.float64)
        shown = self._tasks.shown(self._observation)
        return shown, rewards, terminated.numpy().copy(), truncated.numpy(), info

    def render(self) -> tuple[str | np.ndarray, ...] | None:
        """The environments as `render_mode` has them, what is hidden from agents included."""
        if self.render_mode is None or self._observation is None:
            return None
        env, mode, observation = self._tasks.env, self.render_mode, self._observation
        return tuple(_rendered(env, mode, observation, index) for index in range(self.num_envs))

    def _task_info(self, mask: np.ndarray) -> dict[str, Any]:
        """The tasks of the environments in `mask` that have just begun an episode."""
        rows = self._tasks.task_rows()
        rows[~mask] = 0
        return {"task": rows, "_task": mask}


def _render_modes(env: BatchedEnv) -> list[str]:
    """Without pictures where the environment leaves them out."""
    has_picture = type(env).render_picture is not BatchedEnv.render_picture
    return [mode for mode in RENDER_MODES if mode == "ansi" or has_picture]


def _checked(render_mode: str | None, metadata: dict[str, Any]) -> str | None:
    if render_mode is not None and render_mode not in metadata["render_modes"]:
        raise unknown("render_mode", render_mode, metadata["render_modes"])
    return render_mode


def _rendered(env: BatchedEnv, mode: str, observation: Tensor, index: int) -> str | np.ndarray:
    render = env.render_text if mode == "ansi" else env.render_picture
    return render(observation, index)


def _actions(env: BatchedEnv, actions: Any) -> Tensor:
    """Actions as the batched environment takes them, (N, ...), refused if there are no such."""
    array = np.asarray(actions)
    if not env.is_discrete:
        return _vectors(env, array)
    wanted = f"{env.num_envs} integer(s) from 0 to {env.num_actions - 1}"
    if array.shape != (env.num_envs,) or array.dtype.kind not in "iu":
        raise UserError(f"action={actions!r} is not possible; give {wanted}")
    if array.min() < 0 or array.max() >= env.num_actions:
        raise UserError(f"action={actions!r} is out of range; give {wanted}")
    return torch.from_numpy(array.astype(np.int64))


def _vectors(env: BatchedEnv, array: np.ndarray) -> Tensor:
    """Actions (N, d) of a space that is not discrete."""
    space, dtype = env.action_space, env.actions.dtype
    kinds = "iuf" if dtype.is_floating_point else "iu"
    fits = array.shape == (env.num_envs, *env.actions.shape) and array.dtype.kind in kinds
    if not fits or not all(space.contains(row.astype(space.dtype)) for row in array):
        raise UserError(f"action={array.tolist()} is not possible; give {env.num_envs} of {space}")
    return torch.as_tensor(array, dtype=dtype)


def _single(shown: np.ndarray) -> Any:
    """What is shown of one environment, (1, ...): a number, or an array of its own."""
    array = shown[0]
    return array if array.ndim else array[()]
