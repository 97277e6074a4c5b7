"""Eight-bit storage: codes and scales, literal and random, and the derived bound on the output."""

import pytest
import torch
from fastad_kernels import RingCache, decode_attention
from fastad_kernels.quantization import dequantize, output_error_bound, quantize
from hypothesis import given, settings
from hypothesis import strategies as st

FP32_ROUNDING = 1 + 2.0**-15  # 127 steps of 2^-24, generously


def test_codes_and_scale_of_a_literal_row():
    codes, scales = quantize(torch.tensor([-254.0, 3.0, 1.0, -1.0, 0.5]))
    assert scales.item() == 2.0
    # Halves are rounded up: 3 / 2 + 1/2 = 2, 1 / 2 + 1/2 = 1, -1 / 2 + 1/2 = 0.
    assert codes.tolist() == [-127, 2, 1, 0, 0]
    assert dequantize(codes, scales, torch.float32).tolist() == [-254.0, 4.0, 2.0, 0.0, 0.0]


def test_a_row_of_zeros_comes_back_as_zeros():
    codes, scales = quantize(torch.zeros(2, 4))
    assert scales.tolist() == [0.0, 0.0]
    assert dequantize(codes, scales, torch.float16).tolist() == [[0.0] * 4] * 2


def test_each_row_has_its_own_scale():
    _, scales = quantize(torch.tensor([[127.0, 0.0], [0.0, 1.27]]))
    torch.testing.assert_close(scales, torch.tensor([1.0, 0.01]))


@given(seed=st.integers(0, 2**31), exponent=st.integers(-44, 37), dim=st.sampled_from([1, 16, 128]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_an_element_is_off_by_half_a_scale_at_most(seed, exponent, dim):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(8, dim, generator=generator, dtype=torch.float64) * 10.0**exponent).float()
    codes, scales = quantize(x)
    assert codes.abs().max() <= 127
    error = (dequantize(codes, scales, torch.float64).double() - x.double()).abs()
    # Below the normal numbers of fp32 a scale is itself rounded, by up to 2^-150 times 127.
    limit = scales.double()[:, None] / 2 * FP32_ROUNDING + 127 * 2.0**-149
    assert (error <= limit).all()


def decode_both(seed, spread, length, dim, alibi):
    """One new token after `length` others: output on int8 storage, on fp32, and the bound."""
    generator = torch.Generator().manual_seed(seed)
    rings = [RingCache(1, length, 1, dim, dtype=dtype) for dtype in (torch.int8, torch.float64)]
    tokens = torch.randn(3, 1, length, 1, dim, generator=generator, dtype=torch.float64)
    # Rows of very different size, so that scales differ from token to token.
    tokens[1:] *= torch.exp(spread * torch.randn(2, 1, length, 1, 1, generator=generator)).double()
    tokens = tokens.float().double()
    slopes = torch.tensor([0.1]) if alibi else None
    outputs = []
    for ring in rings:
        ring.append(*tokens[1:, :, :-1])
        step = tokens[:, :, -1:]
        outputs.append(
            decode_attention(*step, ring, window=length, alibi_slopes=slopes, impl="reference")
        )
    codes, floats = rings
    bound = output_error_bound(
        tokens[0, 0, -1:, 0], floats.values[0, :, 0], codes.key_scales[0, :, 0],
        codes.value_scales[0, :, 0], scale=dim**-0.5,
    )  # fmt: skip
    return outputs[0][0, :, 0], outputs[1][0, :, 0], bound


@given(
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([0.0, 0.5, 2.0]),
    length=st.sampled_from([2, 17, 200]),
    dim=st.sampled_from([16, 64]),
    alibi=st.booleans(),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_the_output_stays_within_the_derived_bound(seed, spread, length, dim, alibi):
    ours, exact, bound = decode_both(seed, spread, length, dim, alibi)
    assert ((ours - exact).abs() <= bound * FP32_ROUNDING).all()


def test_the_bound_on_values_is_reached():
    """One key alone: its weight is 1, and 1.5 scales are stored as 2."""
    v = torch.tensor([127.0, 1.5]).view(1, 1, 1, 2)
    ring = RingCache(1, 1, 1, 2, dtype=torch.int8)
    out = decode_attention(v, v, v, ring, window=1, impl="reference")
    assert out.flatten().tolist() == [127.0, 2.0]
    bound = output_error_bound(v[0, :, 0], v[0, :, 0], torch.ones(1), torch.ones(1), scale=1.0)
    assert bound.tolist() == [[0.5, 0.5]]


def test_the_bound_on_weights_is_that_of_two_keys_moved_apart():
    q, values = torch.tensor([[0.6]]), torch.tensor([[0.0], [1.0]])
    bound = output_error_bound(q, values, torch.ones(2), torch.zeros(2), scale=1.0)
    # Scores move by 0.6 / 2. At worst they were 0.3 and 0, and become 0 and 0.3:
    # sigmoid(0.3) - sigmoid(-0.3) = 0.57444 - 0.42556.
    assert bound.item() == pytest.approx(0.14889, abs=1e-5)


def test_sdpa_reads_the_same_codes_as_the_reference():
    generator = torch.Generator().manual_seed(0)
    rings = [RingCache(2, 6, 2, 16, dtype=torch.int8) for _ in range(2)]
    for step in range(8):
        if step == 3:
            for ring in rings:
                ring.reset(torch.tensor([True, False]))
        q, k, v = torch.randn(3, 2, 1, 2, 16, generator=generator)
        outputs = [
            decode_attention(q, k, v, ring, window=5, impl=impl)
            for ring, impl in zip(rings, ("sdpa", "reference"), strict=True)
        ]
        torch.testing.assert_close(*outputs)
