"""Tokens of environment steps by one call of the C++ kernels, in place of a dozen operations."""

import ctypes
import functools
from ctypes import c_double, c_int64
from typing import NamedTuple

import torch
from torch import Tensor

from fastad_kernels.native.build import addresses, library


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in ("num_steps", "width", "num_coordinates")),
        *((name, c_int64) for name in ("num_actions", "num_cells", "episode_length", "num_places")),
        *((name, c_double) for name in ("reward_shift", "reward_scale")),
    ]


_shape = functools.lru_cache(maxsize=16)(_Shape)  # the same at every step


class StepTables(NamedTuple):
    """What steps are summed from, (rows, width) float32, contiguous; None where there is none."""

    action: Tensor  # the last row is "none"
    reward: Tensor  # as many rows; each is scaled by the reward
    observation: Tensor | None  # None: observations are given as features
    start: Tensor  # two rows
    step: Tensor | None  # later steps share the last row
    kind: Tensor | None  # three rows; a step is one token if None, else one for each
    place: Tensor | None  # by the token's position


def embed_steps(
    tables: StepTables,
    action: Tensor,
    reward: Tensor,
    observation: Tensor,
    start: Tensor,
    step: Tensor,
    positions: Tensor | None,
    *,
    offsets: Tensor | None,
    reward_shift: float,
    reward_scale: float,
) -> Tensor:
    """Sum the rows of every step; without gradients.

    A step's tokens are action, (reward - shift) / scale times its action's row, and observation,
    start and step: summed, or one after the other with their kind. Their bits depend on no other
    step. Numbers without a row are refused.

    Args:
        tables: Rows.
        action: The previous one, (B, T) int64.
        reward: The previous one, (B, T) float32; counts as 0 after action "none".
        observation: (B, T) or (B, T, coordinates) int64, or features (B, T, width) float32.
        start: (B, T) bool.
        step: (B, T) int64.
        positions: Of the tokens, (B, tokens) or (tokens,) int64; for `tables.place` alone.
        offsets: Added to coordinates, (coordinates,) int64; None for features.
        reward_shift: See above.
        reward_scale: See above.

    Returns:
        (B, tokens, width).

    Raises:
        ValueError: If shapes or dtypes do not fit together.
        IndexError: If a number has no row in its table.
    """
    batch, length = action.shape
    per_step = 1 if tables.kind is None else 3
    width, size = tables.action.shape[1], 0 if offsets is None else len(offsets)
    _check_sizes(action, (reward, start, step), observation, size or width)
    if tables.place is not None:
        assert positions is not None
        positions = positions.expand(batch, length * per_step)
    features, coordinates = (observation, None) if offsets is None else (None, observation.long())
    # These must live until the call is over: C sees nothing but their addresses.
    fields = [
        None if x is None else x.contiguous()
        for x in (action, reward, coordinates, features, start, step, positions, offsets)
    ]
    out = tables.action.new_empty((batch, length * per_step, width))
    shape = _shape(
        batch * length, width, size, len(tables.action), _rows(tables.observation),
        _rows(tables.step), _rows(tables.place), reward_shift, reward_scale,
    )  # fmt: skip
    wrong = c_int64()
    library().fastad_embed_steps(
        ctypes.byref(shape), addresses(tables), addresses(fields), out.data_ptr(),
        ctypes.byref(wrong), torch.get_num_threads(),
    )  # fmt: skip
    if wrong.value:
        raise IndexError(
            f"{wrong.value} of {batch * length} steps have an action, observation, step or "
            "position that is not in the model's tables"
        )
    return out


def _check_sizes(
    action: Tensor, others: tuple[Tensor, Tensor, Tensor], observation: Tensor, size: int
) -> None:
    """The kernels trust what they are given."""
    dtypes = tuple(x.dtype for x in (action, *others))
    if dtypes != (torch.int64, torch.float32, torch.bool, torch.int64):
        raise ValueError(f"action, reward, start, step are {dtypes}; see `embed_steps`")
    if any(x.shape != action.shape for x in others) or observation.numel() != action.numel() * size:
        raise ValueError(
            f"shapes do not fit together: action {tuple(action.shape)}, reward, start and step "
            f"{[tuple(x.shape) for x in others]}, observation {tuple(observation.shape)}"
        )


def _rows(table: Tensor | None) -> int:
    return 0 if table is None else len(table)
