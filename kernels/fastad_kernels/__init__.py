"""Exact banded attention with a ring-buffer KV cache, for contexts that span many episodes.

Three calls, `attention` over whole sequences, `attention_varlen` over packed ones and
`decode_attention` on a `RingCache`; `FrozenBlocks` and `FrozenModel`, which decode whole
transformer blocks and whole models; and what is done row by row: `embed`, and the linear maps of a
block, `projection` and `residual_mlp`. Each has a plain-PyTorch reference beside it that is its
specification.
"""

from fastad_kernels.api import attention, attention_varlen, decode_attention
from fastad_kernels.blocks import Affine, BlockShape, BlockWeights, FrozenBlocks
from fastad_kernels.cache import RingCache
from fastad_kernels.dispatch import IMPLEMENTATIONS, Implementation
from fastad_kernels.drawing import LEAST_LOG, Sample, draw, normalise, sample, soft_exp, softmax
from fastad_kernels.episodes import EpisodeMemory
from fastad_kernels.frozen import FrozenModel, StepTables
from fastad_kernels.positions import alibi_slopes, apply_rope, rope_angles
from fastad_kernels.q_tables import QSettings, QTables, make_q_tables
from fastad_kernels.rows import embed, projection, residual_mlp
from fastad_kernels.stacked import StackedAdam, StackedMLP
from fastad_kernels.stacked_cnn import StackedCNN
from fastad_kernels.told import Told, make_told
from fastad_kernels.walks import Walked, Walks, World, make_walks

__all__ = [
    "IMPLEMENTATIONS",
    "LEAST_LOG",
    "Affine",
    "BlockShape",
    "BlockWeights",
    "EpisodeMemory",
    "FrozenBlocks",
    "FrozenModel",
    "Implementation",
    "QSettings",
    "QTables",
    "RingCache",
    "Sample",
    "StackedAdam",
    "StackedCNN",
    "StackedMLP",
    "StepTables",
    "Told",
    "Walked",
    "Walks",
    "World",
    "alibi_slopes",
    "apply_rope",
    "attention",
    "attention_varlen",
    "decode_attention",
    "draw",
    "embed",
    "make_q_tables",
    "make_told",
    "make_walks",
    "normalise",
    "projection",
    "residual_mlp",
    "rope_angles",
    "sample",
    "soft_exp",
    "softmax",
]
