"""The dropout mask: the generator's published values, the layout of its bytes, and the kernel's."""

import pytest
import torch
from fastad_kernels import attention, philox

# Known answers of Philox4x32 with 7 rounds: kat_vectors of Random123, the authors' own code.
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_values(counter, key, expected):
    words = philox.philox(
        tuple(torch.tensor(word) for word in counter), tuple(torch.tensor(word) for word in key)
    )
    assert [int(word) for word in words] == expected


def test_byte_of_a_column_is_its_place_in_the_little_endian_words():
    # Column 16 + 6, row 2, head 1 of sequence 3 with 2 heads: counter (1, 2, 7, 0), word 1, byte 2.
    seed = torch.tensor([(5 << 32) + 9])
    counter = tuple(torch.tensor(word) for word in (1, 2, 7, 0))
    words = philox.philox(counter, (torch.tensor(9), torch.tensor(5)))
    byte = int(words[1]).to_bytes(4, "little")[2]
    for dropout, kept in ((byte / 256, True), ((byte + 1) / 256, False)):
        mask = philox.keep_mask(
            seed, dropout, batch=torch.tensor([3]), heads=2, rows=3, columns=23
        )  # fmt: skip
        assert mask.shape == (1, 2, 3, 23)
        assert bool(mask[0, 1, 2, 22]) is kept


def test_share_of_kept_weights_is_the_rounded_probability():
    mask = philox.keep_mask(
        torch.tensor([1]), 0.3, batch=torch.arange(2), heads=4, rows=200, columns=200
    )  # fmt: skip
    # round(0.3 * 256) = 77 of 256 are dropped; five standard deviations of 320,000 draws.
    share = 1 - 77 / 256
    assert mask.double().mean().item() == pytest.approx(
        share, abs=5 * (share * (1 - share) / 320_000) ** 0.5
    )
    assert philox.keep_scale(0.3) == 256 / 179


def test_either_half_of_the_seed_changes_the_mask():
    masks = [
        philox.keep_mask(
            torch.tensor([seed]), 0.5, batch=torch.arange(1), heads=1, rows=9, columns=50
        )
        for seed in (1, 2, 1 + (1 << 32), -1)
    ]
    for i, mask in enumerate(masks):
        assert all((mask != other).float().mean() > 0.3 for other in masks[:i])


def test_reference_dropout_applies_the_mask_and_the_scale():
    q = torch.zeros(1, 4, 1, 2, dtype=torch.float64)
    v = torch.eye(4, dtype=torch.float64).view(1, 4, 1, 4)
    q = torch.zeros_like(v)
    seed = torch.tensor([11])
    out = attention(q, q, v, causal=False, dropout=0.5, dropout_seed=seed, impl="reference")
    keep = philox.keep_mask(seed, 0.5, batch=torch.arange(1), heads=1, rows=4, columns=4)
    # Four equal weights of 1/4, doubled where kept.
    assert torch.equal(out[0, :, 0], keep[0, 0] * 0.5)


def test_a_seed_of_its_own_is_drawn_from_torchs_generator():
    q = torch.randn(1, 20, 1, 16, generator=torch.Generator().manual_seed(0))

    def draw(manual_seed):
        torch.manual_seed(manual_seed)
        return [attention(q, q, q, dropout=0.5, impl="reference") for _ in range(2)]

    first, again, other = draw(0), draw(0), draw(1)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_kernel_makes_the_same_mask_bit_for_bit():
    pytest.importorskip("triton")
    from tests.kernels.mask_kernel import kernel_mask

    for seed, dropout in ((3, 0.1), (-(2**62) + 12345, 0.5), (2**63 - 1, 1 / 256)):
        # Sequence 3, head 1 of 2; rows from 20, columns from 128.
        actual = kernel_mask(seed, dropout, batch_head=7, first_row=20, first_column=128)
        expected = philox.keep_mask(
            torch.tensor([seed]), dropout, batch=torch.tensor([3]), heads=2, rows=52, columns=192
        )  # fmt: skip
        assert torch.equal(actual.cpu(), expected[0, 1, 20:, 128:])
