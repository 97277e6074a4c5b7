"""Muon for many small matrices: PyTorch's on GPUs, in float32 and in batches on CPUs."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastad.training.shards import is_part, part_as, whole


class Muon(torch.optim.Muon):
    """Muon (Jordan et al. 2024) as `torch.optim.Muon` has it, quick on every processor.

    PyTorch orthogonalises in bfloat16, one matrix after the other. Processors without bfloat16
    instructions emulate it, which took half of the training time there; and an AD model has a
    dozen matrices of two shapes, too small to be worth a call each. On CPUs the same iteration
    runs in float32, on all matrices of a shape at once. Rules, defaults and state are PyTorch's.

    Where ranks hold parts of the matrices, each gathers them all, and keeps its part of the update.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the matrices that have a gradient, in place; see `torch.optim.Optimizer.step`."""
        matrices = [p for group in self.param_groups for p in group["params"]]
        if any(p.device.type != "cpu" and not is_part(p) for p in matrices):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group, [p for p in group["params"] if p.grad is not None])
        return loss

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        momentum, lr = group["momentum"], float(group["lr"])
        gradients = [p.grad for p in params if p.grad is not None]
        if not gradients:
            return
        for p, gradient in zip(params, gradients, strict=True):
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(gradient)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        nesterov = group["nesterov"]
        directions = torch._foreach_lerp(gradients, buffers, momentum) if nesterov else buffers
        same_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p, part in zip(params, directions, strict=True):
            direction = whole(part)
            # A matrix and its transpose have the same iteration: keep the smaller Gram matrix.
            wide = direction.T if p.shape[0] > p.shape[1] else direction
            same_shape[tuple(wide.shape)].append((p, wide))
        if group["weight_decay"] != 0:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        for pairs in same_shape.values():
            stacked = orthogonalise(
                torch.stack([wide for _, wide in pairs]),
                group["ns_coefficients"], steps=group["ns_steps"], epsilon=group["eps"],
            )  # fmt: skip
            for (p, _), wide in zip(pairs, stacked, strict=True):
                update = wide.T if p.shape[0] > p.shape[1] else wide
                p.add_(part_as(update, p), alpha=-lr * _scale(p, group["adjust_lr_fn"]))


def orthogonalise(
    matrices: Tensor, coefficients: tuple[float, float, float], *, steps: int, epsilon: float
) -> Tensor:
    """Bring all singular values near 1, by a quintic Newton-Schulz iteration.

    Args:
        matrices: (N, rows, columns), no more rows than columns.
        coefficients: Of X, (X X^T) X and (X X^T)^2 X.
        steps: Iterations.
        epsilon: Smallest norm that a matrix is divided by.

    Returns:
        (N, rows, columns).
    """
    linear, cubic, quintic = coefficients
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=epsilon)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), x,
                          beta=linear)  # fmt: skip
    return x


def _scale(matrix: Tensor, rule: str | None) -> float:
    """Of the learning rate, so that updates of all shapes are of one size, by PyTorch's rules."""
    rows, columns = matrix.shape
    if rule == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))
