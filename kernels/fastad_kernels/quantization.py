"""Eight-bit storage of keys and values: one scale per token and head.

A row x of D numbers is stored as integer codes c and one fp32 scale,

    scale = max|x| / 127,    c = floor(x / scale + 1/2),    x' = c * scale,

so that every element is off by at most half a scale, |x - x'| <= scale / 2 (up to fp32 rounding; a
row whose scale would vanish in fp32 is stored as zeros).

What this does to the output of attention. Let a query q see keys k_j and values v_j with scales
a_j and b_j, its scores be s_j = scale * q.k_j + bias_j, and its weights w = softmax(s).

1. A score moves by at most delta = scale * |q|_1 * max_j a_j / 2, since |q.(k'_j - k_j)| is at
   most |q|_1 * max_d |k'_jd - k_jd|.
2. Moving every score by at most delta multiplies the odds of any set of keys by at most
   exp(2 delta), and sigmoid(y + 2 delta) - sigmoid(y) is largest at y = -delta. So the weights
   move by at most tanh(delta / 2) in total variation.
3. o' - o = sum_j w'_j (v'_j - v_j) + sum_j (w'_j - w_j) v_j. The first sum is at most
   max_j b_j / 2; in the second the differences add up to zero, so it is at most their total
   variation times the range of the values:

    |o'_d - o_d| <= max_j b_j / 2 + tanh(delta / 2) * (max_j v_jd - min_j v_jd).

`output_error_bound` computes the right side.
"""

import torch
from torch import Tensor

LARGEST_CODE = 127


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scales of rows x (..., D).

    Args:
        x: Any floating dtype; computed on in fp32.

    Returns:
        Codes, (..., D) int8 in [-127, 127], and scales, (...) fp32.
    """
    x = x.float()
    scales = x.abs().amax(dim=-1) / LARGEST_CODE
    divisor = scales.masked_fill(scales == 0.0, 1.0).unsqueeze(-1)
    # Only a subnormal scale, itself rounded coarsely, would lead beyond the largest code.
    codes = torch.floor(x / divisor + 0.5).clamp(-LARGEST_CODE, LARGEST_CODE)
    return codes.to(torch.int8), scales


def dequantize(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The rows (..., D) that codes (..., D) and scales (...) stand for, multiplied out in fp32."""
    return (codes.float() * scales.unsqueeze(-1)).to(dtype)


def output_error_bound(
    q: Tensor, v: Tensor, key_scales: Tensor, value_scales: Tensor, *, scale: float
) -> Tensor:
    """How far eight-bit keys and values can move attention's output, element by element.

    Args:
        q: One head's queries, (T, D), as they are multiplied with the keys (after RoPE).
        v: Values that any of them sees, (S, D), before they were quantised.
        key_scales: (S,).
        value_scales: (S,).
        scale: Of the scores.

    Returns:
        (T, D), fp64; the module's docstring has the derivation.
    """
    delta = abs(scale) * q.double().abs().sum(-1, keepdim=True) * key_scales.double().max() / 2
    spread = v.double().amax(0) - v.double().amin(0)
    return value_scales.double().max() / 2 + torch.tanh(delta / 2) * spread
