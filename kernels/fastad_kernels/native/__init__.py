"""C++ kernels for CPUs, compiled where they run: attention, linear maps, whole frozen blocks."""

from fastad_kernels.native.attention import (
    DROPOUT_BY_SEED,
    attention,
    attention_op,
    attention_varlen,
)
from fastad_kernels.native.build import NativeUnavailableError, library, why_unavailable
from fastad_kernels.native.common import takes_rows
from fastad_kernels.native.decode import NativeBlocks, decode_attention, reads

__all__ = [
    "DROPOUT_BY_SEED",
    "NativeBlocks",
    "NativeUnavailableError",
    "attention",
    "attention_op",
    "attention_varlen",
    "decode_attention",
    "library",
    "reads",
    "takes_rows",
    "why_unavailable",
]
