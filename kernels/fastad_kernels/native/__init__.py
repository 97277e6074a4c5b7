"""C++ kernels for CPUs, compiled where they run: attention, rows, frozen models, Q tables."""

from fastad_kernels.native.attention import (
    DROPOUT_BY_SEED,
    attention,
    attention_op,
    attention_varlen,
)
from fastad_kernels.native.build import built, library, why_unavailable
from fastad_kernels.native.choices import impose, measured, prefer
from fastad_kernels.native.common import takes_rows
from fastad_kernels.native.compiler import NativeUnavailableError
from fastad_kernels.native.decode import NativeBlocks, decode_attention, reads
from fastad_kernels.native.draw import draw
from fastad_kernels.native.model import NativeModel
from fastad_kernels.native.q_tables import NativeQTables, lerp_is_fused
from fastad_kernels.native.stacked import NativeStack

__all__ = [
    "DROPOUT_BY_SEED",
    "NativeBlocks",
    "NativeModel",
    "NativeQTables",
    "NativeStack",
    "NativeUnavailableError",
    "attention",
    "attention_op",
    "attention_varlen",
    "built",
    "decode_attention",
    "draw",
    "impose",
    "lerp_is_fused",
    "library",
    "measured",
    "prefer",
    "reads",
    "takes_rows",
    "why_unavailable",
]
