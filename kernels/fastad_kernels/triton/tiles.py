"""Tile sizes of every kernel, one table keyed by (architecture, pass, element size, head dim).

Chosen by what the compiled kernels show without running: no spills, then fewest instructions per
score, then occupancy. Nothing is tuned at run time.
"""

from dataclasses import dataclass
from functools import cache

import torch
import triton


@dataclass(frozen=True)
class Tile:
    """One program's share, and how it is compiled.

    Attributes:
        block_m: Queries of a tile.
        block_n: Keys of a tile.
        num_warps: Of 32 threads (64 on AMD).
        num_stages: Depth of the software pipeline that loads ahead.
    """

    block_m: int
    block_n: int
    num_warps: int = 4
    num_stages: int = 3


# In the interpreter an operation costs much the same whatever its size. Blocks have as many queries
# as on GPUs or more: ALiBi's terms, and with them its rounding, grow with the block.
_INTERPRETER = {2: Tile(128, 64), 4: Tile(64, 64), 8: Tile(64, 64)}

# (architecture, pass, bytes of an element) -> head dim -> tile
_TABLE: dict[tuple[str, str, int], dict[int, Tile]] = {
    ("sm_80", "forward", 2): {
        16: Tile(128, 64, 4, 3), 32: Tile(128, 64, 4, 3),
        64: Tile(128, 64, 8, 3), 128: Tile(128, 32, 8, 2),
    },
    ("sm_90", "forward", 2): {
        16: Tile(128, 64, 4, 3), 32: Tile(128, 64, 4, 3),
        64: Tile(128, 64, 8, 3), 128: Tile(128, 64, 8, 2),
    },
    ("sm_100", "forward", 2): {
        16: Tile(128, 64, 4, 3), 32: Tile(128, 64, 8, 2),
        64: Tile(128, 64, 8, 3), 128: Tile(128, 64, 8, 2),
    },
    # AMD's matrix instructions take 32 queries: with fewer per warp, two warps compute the same.
    ("gfx942", "forward", 2): {
        16: Tile(128, 64, 4, 2), 32: Tile(128, 64, 4, 2),
        64: Tile(128, 64, 4, 2), 128: Tile(128, 32, 4, 2),
    },
    ("gfx942", "forward", 4): {
        16: Tile(64, 64, 2, 2), 32: Tile(64, 64, 2, 2),
        64: Tile(64, 32, 2, 2), 128: Tile(64, 32, 2, 1),
    },
    ("gfx942", "forward", 8): {
        16: Tile(64, 32, 4, 1), 32: Tile(64, 32, 4, 1),
        64: Tile(64, 32, 4, 1), 128: Tile(64, 16, 4, 1),
    },
}  # fmt: skip

# On NVIDIA, full float32 precision goes without tensor cores: operands stand whole in registers.
for _architecture_name in ("sm_80", "sm_90", "sm_100"):
    _TABLE[_architecture_name, "forward", 4] = {
        16: Tile(64, 64, 4, 2), 32: Tile(64, 32, 4, 2 if _architecture_name == "sm_100" else 1),
        64: Tile(32, 32, 8, 1), 128: Tile(32, 16, 8, 1),
    }  # fmt: skip
    _TABLE[_architecture_name, "forward", 8] = {
        16: Tile(32, 32, 4, 1), 32: Tile(32, 16, 4, 1),
        64: Tile(32, 32, 4, 1), 128: Tile(16, 16, 4, 1),
    }  # fmt: skip

# Dropout's generator needs registers, so with it the backward kernels take smaller tiles.
_TABLE |= {
    ("sm_80", "dq", 2): {
        16: Tile(128, 64, 4, 2), 32: Tile(64, 64, 4, 2),
        64: Tile(128, 64, 8, 2), 128: Tile(64, 32, 4, 2),
    },
    ("sm_80", "dkdv", 2): {
        16: Tile(64, 128, 4, 2), 32: Tile(32, 128, 4, 2),
        64: Tile(32, 128, 8, 2), 128: Tile(64, 64, 8, 2),
    },
    ("sm_80", "dkdv_dropout", 2): {
        16: Tile(32, 128, 4, 2), 32: Tile(64, 64, 4, 2),
        64: Tile(32, 64, 4, 2), 128: Tile(64, 64, 8, 2),
    },
    ("sm_90", "dq", 2): {
        16: Tile(128, 64, 4, 2), 32: Tile(128, 64, 4, 2),
        64: Tile(64, 64, 4, 2), 128: Tile(128, 64, 8, 2),
    },
    ("sm_90", "dq_dropout", 2): {
        16: Tile(128, 64, 4, 2), 32: Tile(64, 64, 4, 2),
        64: Tile(64, 64, 4, 2), 128: Tile(128, 64, 8, 2),
    },
    ("sm_90", "dkdv", 2): {
        16: Tile(64, 128, 4, 2), 32: Tile(32, 128, 4, 2),
        64: Tile(64, 64, 4, 2), 128: Tile(32, 128, 8, 1),
    },
    ("sm_90", "dkdv_dropout", 2): {
        16: Tile(32, 128, 4, 2), 32: Tile(64, 64, 4, 2),
        64: Tile(32, 128, 8, 2), 128: Tile(32, 128, 8, 1),
    },
    ("sm_100", "dq", 2): {
        16: Tile(128, 64, 4, 2), 32: Tile(128, 64, 4, 2),
        64: Tile(128, 32, 4, 2), 128: Tile(128, 64, 8, 2),
    },
    ("sm_100", "dq_dropout", 2): {
        16: Tile(64, 64, 4, 2), 32: Tile(128, 64, 8, 2),
        64: Tile(128, 64, 8, 2), 128: Tile(128, 64, 8, 2),
    },
    ("sm_100", "dkdv", 2): {
        16: Tile(32, 128, 4, 2), 32: Tile(32, 128, 4, 2),
        64: Tile(64, 128, 8, 2), 128: Tile(32, 128, 8, 2),
    },
    ("sm_100", "dkdv_dropout", 2): {
        16: Tile(64, 128, 8, 2), 32: Tile(64, 64, 4, 2),
        64: Tile(64, 128, 8, 2), 128: Tile(32, 128, 8, 2),
    },
    ("gfx942", "dq", 2): {
        16: Tile(128, 64, 4, 2), 32: Tile(128, 64, 4, 2),
        64: Tile(128, 32, 4, 2), 128: Tile(128, 32, 4, 2),
    },
    ("gfx942", "dkdv", 2): {
        16: Tile(64, 128, 4, 1), 32: Tile(32, 128, 4, 2),
        64: Tile(32, 128, 4, 1), 128: Tile(32, 128, 4, 1),
    },
    ("gfx942", "dq", 4): dict.fromkeys((16, 32, 64), Tile(64, 32, 2, 1))
    | {128: Tile(128, 32, 4, 1)},
    ("gfx942", "dkdv", 4): dict.fromkeys((16, 32, 64), Tile(32, 64, 2, 1))
    | {128: Tile(16, 32, 2, 1)},
    ("gfx942", "dq", 8): dict.fromkeys((16, 32, 64, 128), Tile(32, 32, 4, 1)),
    ("gfx942", "dkdv", 8): dict.fromkeys((16, 32, 64, 128), Tile(32, 32, 4, 1)),
}  # fmt: skip

for _architecture_name in ("sm_80", "sm_90", "sm_100"):
    _TABLE[_architecture_name, "dq", 4] = {
        16: Tile(64, 32, 4, 2), 32: Tile(32, 32, 4, 2),
        64: Tile(32, 32, 8, 1), 128: Tile(16, 16, 8, 1),
    }  # fmt: skip
    _TABLE[_architecture_name, "dkdv", 4] = {
        16: Tile(32, 64, 4, 1 if _architecture_name == "sm_80" else 2), 32: Tile(32, 64, 4, 2),
        64: Tile(16, 32, 4, 1), 128: Tile(16, 16, 4, 1),
    }  # fmt: skip
    _TABLE[_architecture_name, "dq", 8] = dict.fromkeys((16, 32, 64, 128), Tile(16, 16, 4, 1))
    _TABLE[_architecture_name, "dkdv", 8] = dict.fromkeys((16, 32, 64, 128), Tile(16, 16, 4, 1))

# Decode streams ring rows, as wide for every head dim, against 16 rows of queries as a rule. With 4
# bytes, NVIDIA has no tensor cores, as above; with 1, codes are converted first. AMD's compiler
# lays warps along the rows: with more than one, all would compute the same.
_DECODE_DIMS = (16, 32, 64, 128)
for _architecture_name in ("sm_80", "sm_90", "sm_100"):
    _TABLE[_architecture_name, "decode", 1] = dict.fromkeys(_DECODE_DIMS, Tile(16, 32, 4, 2))
    _TABLE[_architecture_name, "decode", 2] = dict.fromkeys(_DECODE_DIMS, Tile(16, 64, 4, 3))
    _TABLE[_architecture_name, "decode", 4] = {
        16: Tile(16, 32, 4, 2), 32: Tile(16, 32, 4, 2),
        64: Tile(16, 32, 4, 2), 128: Tile(16, 32, 8, 2),
    }  # fmt: skip
    # Codes loaded ahead for float32 queries would spill where each thread holds the longest rows.
    _TABLE[_architecture_name, "decode_int8", 4] = _TABLE[_architecture_name, "decode", 4] | {
        128: Tile(16, 32, 8, 1)
    }
_TABLE["gfx942", "decode", 1] = dict.fromkeys(_DECODE_DIMS, Tile(16, 32, 1, 2))
_TABLE["gfx942", "decode", 2] = dict.fromkeys(_DECODE_DIMS, Tile(16, 32, 1, 2))
_TABLE["gfx942", "decode", 4] = dict.fromkeys(_DECODE_DIMS, Tile(16, 16, 1, 2))


def find_tile(architecture: str, head_dim: int, which: str, element_size: int = 2) -> Tile:
    """One row of the table.

    Args:
        architecture: As `current_architecture` gives it.
        head_dim: `D`.
        which: The pass: "forward", "dq", "dkdv" or "decode"; with dropout "dq_dropout" and
            "dkdv_dropout", from int8 storage "decode_int8", which are as without where they have
            no rows.
        element_size: Of q, k and v, in bytes (of "decode", as `decode_ops` chooses it). Where a
            pass has no row for it, that of 2 is taken.

    Raises:
        KeyError: If the table has no row; head dims are checked before any kernel is chosen.
    """
    if architecture == "interpreter":
        return _INTERPRETER[max(2, element_size)]
    plain = which.partition("_")[0]
    for key in ((which, element_size), (plain, element_size), (plain, 2)):
        if rows := _TABLE.get((architecture, *key)):
            return rows[head_dim]
    raise KeyError((architecture, which, head_dim))


def dot_precision(dtype: torch.dtype) -> str:
    """How float32 products are formed: as PyTorch's setting for matrix products says."""
    matmul = torch.backends.cuda.matmul
    # Since PyTorch 2.9 there is a newer setting; reading the older one raises once it was used.
    setting = getattr(matmul, "fp32_precision", None)
    tf32 = matmul.allow_tf32 if setting is None else setting == "tf32"
    return "tf32" if tf32 and dtype == torch.float32 else "ieee"


def current_architecture() -> str:
    """Which rows of the table the current device takes."""
    if triton.knobs.runtime.interpret:
        return "interpreter"
    target = triton.runtime.driver.active.get_current_target()
    return _architecture(target.backend, str(target.arch))


@cache
def _architecture(backend: str, arch: str) -> str:
    if backend == "hip":
        return "gfx942"
    capability = int(arch)
    if capability >= 120:
        return "sm_80"  # consumer cards: 99 KB of shared memory, no tensor memory
    return "sm_100" if capability >= 100 else "sm_90" if capability >= 90 else "sm_80"
