"""The numerical criterion: as exact as plain PyTorch at the same precision, times two."""

from collections.abc import Sequence

import torch
from torch import Tensor


def assert_as_exact_as_plain(
    actual: Tensor, plain: Tensor | Sequence[Tensor], exact: Tensor, name: str = ""
) -> None:
    """Hold the error of a kernel to that of plain PyTorch.

    The largest error of `actual` may be twice that of `plain`, or one rounding step (machine
    epsilon of its dtype) of the largest result, whichever is more. Where `exact` is infinite or
    NaN, `actual` must be the same.

    Args:
        actual: What the kernel gave.
        plain: The reference at the precision of the kernel's arguments. One largest error is a
            single draw of the rounding; several results, of the same sums taken in different
            orders, say better what it is. If their precision is another than that of `actual`
            (float32 beside float64), their error is converted by the ratio of rounding steps.
        exact: The reference in float64.
        name: Of the tensor, for the message.
    """
    assert actual.shape == exact.shape, f"{name}: shape {actual.shape}, expected {exact.shape}"
    plains = [plain] if isinstance(plain, Tensor) else plain
    got, exact = (x.detach().double().cpu() for x in (actual, exact))
    finite = exact.isfinite()
    torch.testing.assert_close(got[~finite], exact[~finite], rtol=0, atol=0, equal_nan=True)
    assert got[finite].isfinite().all(), f"{name}: not finite where the exact result is"
    if not finite.any():
        return

    def largest_error(x: Tensor) -> float:
        return (x.detach().double().cpu() - exact)[finite].abs().max().item()

    eps = torch.finfo(actual.dtype).eps
    error, step = largest_error(actual), eps * exact[finite].abs().max().item()
    plain_error = max(largest_error(x) * eps / torch.finfo(x.dtype).eps for x in plains)
    allowed = max(2 * plain_error, step)
    assert error <= allowed, (
        f"{name}: error {error:.3e} exceeds {allowed:.3e} "
        f"(plain PyTorch {plain_error:.3e}, one rounding step {step:.3e})"
    )
