"""The dropout mask of attention in plain PyTorch: a function of the seed and the position alone.

Philox is a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"): there is no state to carry, so the backward pass, a kernel working on any tile, and this
file all give the same mask. One call gives 16 bytes, which serve 16 neighbouring keys of one query.
"""

import torch
from torch import Tensor

ROUNDS = 7
COLUMNS_PER_CALL = 16

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor], rounds: int = ROUNDS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox 4x32.

    Args:
        counter: Four tensors of 32-bit words kept in int64, of shapes that broadcast.
        key: Two tensors of 32-bit words kept in int64.
        rounds: 7 pass all of the paper's tests of randomness, 10 is its default with a margin.

    Returns:
        Four tensors of 32-bit words, int64.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def _multiply(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low words of a 64-bit product; wrapping past int64 leaves its bits right."""
    product = word * factor
    return (product >> 32) & _WORD, product & _WORD


def drop_threshold(dropout: float) -> int:
    """Of the 256 values of a byte, how many mean "drop": the probability rounded to 1/256."""
    return round(dropout * 256)


def keep_mask(
    seed: Tensor, dropout: float, *, batch: Tensor, heads: int, rows: int, columns: int
) -> Tensor:
    """Which attention weights are kept.

    Philox runs with the seed's low and high words as its key and the counter
    (column // 16, row, batch * heads + head, 0). Byte column % 16 of the 16 bytes drawn, words in
    order and the low byte of each first, belongs to that column; the weight is kept where it is
    at least `drop_threshold(dropout)`.

    Args:
        seed: One int64.
        dropout: Probability, rounded to 1/256.
        batch: Numbers of the sequences in their batch, (B,) int64.
        heads: `H`, query heads.
        rows: `T`, queries.
        columns: `S`, keys.

    Returns:
        (B, H, T, S) bool, on the device of `seed`.
    """
    device = seed.device
    calls = -(-columns // COLUMNS_PER_CALL)
    head = torch.arange(heads, device=device)
    counter = (
        torch.arange(calls, device=device),
        torch.arange(rows, device=device)[:, None],
        (batch.to(device)[:, None] * heads + head)[:, :, None, None],
        torch.zeros((), dtype=torch.int64, device=device),
    )
    seed = seed.reshape(())
    words = philox(counter, (seed & _WORD, (seed >> 32) & _WORD))
    shape = (batch.shape[0], heads, rows, calls)
    drawn = torch.stack([word.expand(shape) for word in words], dim=-1)  # (B, H, T, calls, 4)
    shifts = torch.arange(0, 32, 8, device=device)
    drawn = (drawn[..., None] >> shifts) & 0xFF  # (B, H, T, calls, 4, 4)
    return drawn.flatten(-3)[..., :columns] >= drop_threshold(dropout)


def keep_scale(dropout: float) -> float:
    """What kept weights are multiplied by, so that the mean stays: for the rounded probability."""
    return 256.0 / (256 - drop_threshold(dropout))
