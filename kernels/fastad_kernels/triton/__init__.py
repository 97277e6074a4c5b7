"""Attention in Triton: the same three calls as the reference, with the same arguments."""

import triton

from fastad_kernels.triton.attention_ops import attention, attention_varlen
from fastad_kernels.triton.decode_ops import decode_attention

# Kernels are bound to the interpreter or the compiler when they are defined, that is, now.
INTERPRETED: bool = triton.knobs.runtime.interpret
if INTERPRETED:
    # The interpreter computes on bfloat16's bit patterns as if they were integers; see there.
    from fastad_kernels.testing.interpreter import install

    install()

DROPOUT_BY_SEED = True

__all__ = ["DROPOUT_BY_SEED", "INTERPRETED", "attention", "attention_varlen", "decode_attention"]
