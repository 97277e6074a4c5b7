"""The algorithm of the backward kernels in plain PyTorch: weights again from what was saved.

The derivative of the softmax subtracts rowsum(dO * O) from dO V^T. Automatic differentiation takes
that sum over the same rounded terms, so that in a row with few visible keys its rounding errors
cancel. Whoever starts from the saved output, as every fused kernel does, has one rounding step of
that output more; and whoever saves the log-sum-exp, to base 2 as hardware wants it, one step of
that, which in a row with one large score is no multiple of the score's own rounding. This file says
how much both are.
"""

import math

import torch
from fastad_kernels import philox, reference
from torch import Tensor


def recomputed_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad_out: Tensor,
    *,
    order: int = 0,
    saves_lse: bool = False,
    **settings,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk and dv, with products of rounded factors summed in float32, as tensor cores do.

    Args:
        q: (B, T, H, D), or packed with `cu_seqlens_q` and so on among the settings.
        k: (B, S, Hkv, D).
        v: As k.
        grad_out: As q.
        order: Places by which features are moved, so that sums over them round otherwise.
        saves_lse: Whether the log-sum-exp is saved in float32, to base 2, or its parts apart.
        **settings: All keyword arguments of `reference.attention`, or of `attention_varlen`.
    """
    tensors = [x.roll(order, -1) for x in (q, k, v, grad_out)]
    if "cu_seqlens_q" not in settings:
        parts = _gradients(*tensors, first_sequence=0, saves_lse=saves_lse, **settings)
    else:
        per_q, per_k = (settings.pop(f"cu_seqlens_{x}").diff().tolist() for x in "qk")
        del settings["max_seqlen_q"], settings["max_seqlen_k"]
        sequences = zip(
            *(x.split(per) for x, per in zip(tensors, (per_q, per_k, per_k, per_q), strict=True)),
            strict=True,
        )
        found = [
            _gradients(
                *(x[None] for x in sequence), first_sequence=number, saves_lse=saves_lse, **settings
            )
            for number, sequence in enumerate(sequences)
        ]
        parts = [torch.cat(x, dim=1)[0] for x in zip(*found, strict=True)]
    return tuple(x.roll(-order, -1).to(q.dtype) for x in parts)


def _gradients(q, k, v, grad_out, *, first_sequence, saves_lse, **settings):
    out, lse = reference.attention_with_lse(
        q.float(), k.float(), v.float(), first_sequence=first_sequence, **settings
    )
    out, rounded = out.to(q.dtype).float(), lambda x: x.to(q.dtype).float()
    num_queries, num_keys, groups = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    q, k, v, grad_out = (x.float() for x in (q, k, v, grad_out))
    k, v = (x.repeat_interleave(groups, dim=2) for x in (k, v))
    distance = torch.arange(num_queries)[:, None] + num_keys - num_queries
    distance = distance.to(q.device) - torch.arange(num_keys, device=q.device)
    scores = torch.einsum("bthd,bshd->bhts", q, k) * settings["scale"]
    if settings["alibi_slopes"] is not None:
        scores = scores - settings["alibi_slopes"][:, None, None] * distance
    if saves_lse:
        saved = (lse * math.log2(math.e))[..., None]
        fused = scores.double() * math.log2(math.e) - saved.double()  # in one rounding
        weights = torch.exp2(fused.float())
    else:
        weights = torch.exp(scores - lse[..., None])
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if settings["causal"]:
        hidden |= distance < 0
    if settings["window"] is not None:
        hidden |= distance >= settings["window"]
    weights = weights.masked_fill(hidden, 0.0)
    kept = torch.ones_like(weights)
    if settings["dropout"] > 0:
        kept = kept * philox.keep_scale(settings["dropout"]) * philox.keep_mask(
            settings["dropout_seed"], settings["dropout"],
            batch=torch.arange(first_sequence, first_sequence + q.shape[0]), heads=q.shape[2],
            rows=num_queries, columns=num_keys,
        )  # fmt: skip
    grad_weights = torch.einsum("bthd,bshd->bhts", grad_out, v) * kept
    delta = (grad_out * out).sum(-1).transpose(1, 2)[..., None]  # (B, H, T, 1)
    grad_scores = rounded(weights * (grad_weights - delta))
    dq = torch.einsum("bhts,bshd->bthd", grad_scores, k) * settings["scale"]
    dk = torch.einsum("bhts,bthd->bshd", grad_scores, q) * settings["scale"]
    dv = torch.einsum("bhts,bthd->bshd", rounded(weights * kept), grad_out)
    return dq, *(x.unflatten(2, (-1, groups)).sum(3) for x in (dk, dv))
