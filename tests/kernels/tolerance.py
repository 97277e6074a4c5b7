"""The numerical criterion: as exact as plain PyTorch at the same precision, up to rounding.

It follows from rounding and from no machine. The root mean square of the errors against float64,
pooled over all draws, is at most 1.5 times that of plain PyTorch, itself pooled over the same draws
and several orders of summation; and the largest error at most 4 times its largest. Neither part is
enough: many slightly worse sums show in the first, a coarse exponential or one wrong number in the
second.

A draw is a problem of its own random numbers: a seed, or a row of the batch, a head, a step of a
session with its own. There are at least `NUM_DRAWS` in every comparison; in Triton's interpreter,
where each takes its time, the blocks of queries of long sequences are counted, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_DRAWS = 8
MOST_RMS, MOST_LARGEST = 1.5, 4.0


@dataclass(frozen=True)
class Comparison:
    """What was found of one result: errors as multiples of what is allowed beside plain PyTorch's.

    Attributes:
        name: Of the result.
        dtype: Of the result.
        rms: Root mean square of the errors divided by plain PyTorch's, or by its floor.
        largest: Largest error divided likewise.
    """

    name: str
    dtype: torch.dtype
    rms: float
    largest: float


# Filled by every comparison; `accuracy_table` makes a table of it.
comparisons: list[Comparison] = []


def assert_as_exact_as_plain(
    actual: Tensor, plain: Sequence[Tensor], exact: Tensor, name: str = ""
) -> None:
    """Hold the errors of a kernel to those of plain PyTorch; see the module.

    The floor is one rounding step of the dtype of `actual`: of the root mean square of the results
    for that of the errors, of the largest result for the largest error.
    Where `exact` is infinite or NaN, `actual` must be the same.

    Args:
        actual: What the kernel gave, of all draws.
        plain: The reference at the precision of the kernel's arguments, once per order of
            summation. If its precision is another than that of `actual` (float32 beside float64),
            its errors are converted by the ratio of rounding steps.
        exact: The reference in float64.
        name: Of the tensor, for the message.
    """
    assert actual.shape == exact.shape, f"{name}: shape {actual.shape}, expected {exact.shape}"
    got, exact = (x.detach().double().cpu() for x in (actual, exact))
    finite = exact.isfinite()
    torch.testing.assert_close(got[~finite], exact[~finite], rtol=0, atol=0, equal_nan=True)
    assert got[finite].isfinite().all(), f"{name}: not finite where the exact result is"
    if not finite.any():
        return
    eps, wanted = torch.finfo(actual.dtype).eps, exact[finite]
    errors = (got[finite] - wanted).abs()
    plain_errors = torch.stack([(x.detach().double().cpu()[finite] - wanted).abs() for x in plain])
    if plain[0].dtype != actual.dtype:
        plain_errors *= eps / torch.finfo(plain[0].dtype).eps
        # Beside a result in float64 the exact one has errors like it: two of them are seen.
        plain_errors *= 2**0.5 if actual.dtype == torch.float64 else 1.0
    # The floors are divided, so that what is at the floor may be as much as is allowed.
    rms_unit = max(_rms(plain_errors), eps * _rms(wanted) / MOST_RMS)
    largest_unit = max(plain_errors.max().item(), eps * wanted.abs().max().item() / MOST_LARGEST)
    found = Comparison(
        name,
        actual.dtype,
        _ratio(_rms(errors), rms_unit),
        _ratio(errors.max().item(), largest_unit),
    )
    comparisons.append(found)
    for what, ratio, most in (
        ("rms", found.rms, MOST_RMS), ("largest", found.largest, MOST_LARGEST),
    ):  # fmt: skip
        assert ratio <= most, (
            f"{name}: the {what} error is {ratio:.2f} times that of plain PyTorch, more than {most}"
        )


def _rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def _ratio(error: float, unit: float) -> float:
    """`error / unit`, where no error at all is no multiple of anything."""
    return error / unit if error else 0.0
