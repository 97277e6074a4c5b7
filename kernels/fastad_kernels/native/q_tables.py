"""Q-learning in tables by the C++ kernels: a step of every learner is one call."""

import ctypes
from ctypes import c_double, c_float, c_int64, c_void_p
from functools import cache

import torch
from torch import Tensor

from fastad_kernels.drawing import LEAST_LOG, normalise
from fastad_kernels.native.build import library
from fastad_kernels.native.draw import check, draw, normalise_and_draw, sums_like_pytorch
from fastad_kernels.q_tables import QSettings, QTables


class _Tables(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("values", "memory", "episode_step")),
        *((name, c_int64) for name in ("num_learners", "num_states", "num_actions")),
        *((name, c_int64) for name in ("episode_length", "replay_sweeps")),
        *((name, c_double) for name in ("learning_rate", "gamma")),
        ("lerp_is_fused", c_int64),
    ]


# Of what `learn` is given.
DTYPES = torch.int64, torch.int64, torch.float32, torch.int64, torch.bool, torch.bool
_Pointers = c_void_p * len(DTYPES)


class NativeQTables(QTables):
    """See `QTables`; float32 on a CPU."""

    def __init__(self, values: Tensor, settings: QSettings) -> None:
        super().__init__(values, settings)
        num_learners, length, *rates, sweeps = settings
        # A remembered step is two places in its learner's table, a reward and a discount.
        self._steps = torch.zeros(length if sweeps else 0, num_learners, 4, dtype=torch.int32)
        num_rows, num_actions = values.shape
        self._tables = _Tables(
            values.data_ptr(), self._steps.data_ptr(), self._episode_step.data_ptr(), num_learners,
            num_rows // num_learners, num_actions, length, sweeps, *rates, bool(lerp_is_fused()),
        )  # fmt: skip
        self._sums_are_known = sums_like_pytorch(num_actions)
        self._shape, self._wrong = (num_learners,), c_int64()
        self._pointers = ctypes.byref(self._tables), ctypes.byref(self._wrong)

    @staticmethod
    def takes(values: Tensor, settings: QSettings) -> bool:
        """Whether the bits are those of plain PyTorch, and places in a table fit 32 bits."""
        rounds_alike = settings.learning_rate == 1 or lerp_is_fused() is not None
        return rounds_alike and values.numel() < 2**31 * settings.num_learners

    def scores(self, state: Tensor, temperature: float) -> Tensor:
        """See `QTables.scores`."""
        (state,) = self._packed(DTYPES[:1], state)
        scores = torch.empty(self.settings.num_learners, self.values.shape[1])
        tables, wrong = self._pointers
        scale = (c_float * 2)(temperature, LEAST_LOG)
        library().fastad_q_scores(tables, state.data_ptr(), scale, scores.data_ptr(), wrong, 1)
        self._refuse_wrong()
        return scores

    def _draw(self, weights: Tensor, uniform: Tensor, epsilon: float) -> Tensor:
        if not self._sums_are_known:
            return draw(normalise(weights, epsilon=epsilon), uniform)
        check(weights, uniform)
        return normalise_and_draw(weights, uniform, epsilon)

    def learn(
        self,
        state: Tensor,
        action: Tensor,
        reward: Tensor,
        next_state: Tensor,
        terminated: Tensor,
        truncated: Tensor,
    ) -> None:
        """See `QTables.learn`."""
        # Alive until the call returns.
        packed = self._packed(DTYPES, state, action, reward, next_state, terminated, truncated)
        tables, wrong = self._pointers
        pointers = _Pointers(*[x.data_ptr() for x in packed])
        library().fastad_q_learn(tables, pointers, wrong, 1)
        self._refuse_wrong()

    def _packed(self, dtypes: tuple[torch.dtype, ...], *fields: Tensor) -> list[Tensor]:
        """Fields as the kernels read them, without gaps; refuses what they would misread."""
        packed = []
        for x, dtype in zip(fields, dtypes, strict=True):
            if x.dtype is not dtype or x.shape != self._shape or not x.is_cpu:
                seen = [(tuple(y.shape), y.dtype, str(y.device)) for y in fields]
                number = self.settings.num_learners
                raise ValueError(f"a step of {number} learners is {seen}; see `QTables.learn`")
            packed.append(x.contiguous())
        return packed

    def _refuse_wrong(self) -> None:
        if self._wrong.value:
            raise IndexError(
                f"{self._wrong.value} of {self.settings.num_learners} learners have a state or "
                "action that is not in their tables, or an episode that should have ended"
            )


@cache
def lerp_is_fused() -> bool | None:
    """Whether `torch.lerp` rounds once on this processor, or twice; None if now so, now so."""
    start, end = torch.linspace(0.5, 1.0, 1003), torch.linspace(0.4, 0.9, 1003).flip(0)
    weight = torch.tensor(0.3)
    change = end - start
    once = (weight.double() * change.double() + start.double()).float()
    found = start.lerp(end, weight.item())
    if torch.equal(found, once):
        return True
    return False if torch.equal(found, weight * change + start) else None
