"""Exact banded attention with a ring-buffer KV cache, for contexts that span many episodes.

Two calls, `attention` over whole sequences and `decode_attention` on a `RingCache`, each with a
plain-PyTorch reference beside it that is its specification.
"""

from fastad_kernels.api import IMPLEMENTATIONS, Implementation, attention, decode_attention
from fastad_kernels.cache import RingCache
from fastad_kernels.positions import alibi_slopes, apply_rope, rope_angles

__all__ = [
    "IMPLEMENTATIONS",
    "Implementation",
    "RingCache",
    "alibi_slopes",
    "apply_rope",
    "attention",
    "decode_attention",
    "rope_angles",
]
