"""Relative positions: rotary embeddings (RoPE) and linear biases (ALiBi)."""

import torch
from torch import Tensor


def rope_angles(
    positions: Tensor, head_dim: int, *, base: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles (Su et al. 2021, arXiv 2104.09864, eq. 34).

    Angles are formed in float64 from 64-bit positions, so that step 10^7 is as exact as step 10.

    Args:
        positions: Absolute token positions, (...), int64.
        head_dim: `D`, even.
        base: Wavelengths run from 2*pi to 2*pi*base.
        dtype: Of the result.

    Returns:
        cos and sin, (..., D / 2).
    """
    if head_dim % 2:
        raise ValueError(f"head_dim={head_dim} must be even for RoPE")
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float64)
    angles = positions.to(torch.float64).unsqueeze(-1) * base ** (-exponents / head_dim)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x[i], x[i + D/2]) of each head.

    Args:
        x: (B, T, H, D).
        cos: (T, D / 2), or (B, T, D / 2) where positions differ by row.
        sin: As `cos`.

    Returns:
        (B, T, H, D), dtype of x.
    """
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)  # (..., T, 1, D/2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def alibi_slopes(num_heads: int, *, device: torch.device | None = None) -> Tensor:
    """Slopes (H,) of attention with linear biases (Press et al. 2022, arXiv 2108.12409).

    A geometric sequence that starts at, and has the ratio, 2^(-8 / H).
    """
    heads = torch.arange(1, num_heads + 1, device=device, dtype=torch.float32)
    return torch.exp2(-8.0 * heads / num_heads)
