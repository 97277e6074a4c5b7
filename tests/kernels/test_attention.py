"""Attention over whole sequences: literal values, the specification, and every implementation."""

import itertools
import math

import pytest
import torch
from fastad_kernels import alibi_slopes, apply_rope, attention, reference, rope_angles

from tests.kernels.tolerance import assert_as_exact_as_plain

LENGTHS = (1, 63, 64, 65, 200)


def random_qkv(*, queries=65, keys=65, heads=4, kv_heads=4, dim=16, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((queries, heads), (keys, kv_heads), (keys, kv_heads))
    return [
        torch.randn(2, length, count, dim, generator=generator, dtype=dtype, requires_grad=True)
        for length, count in shapes
    ]


def test_reference_averages_the_values_in_the_band_when_all_scores_are_equal():
    q = torch.zeros(1, 4, 1, 2)
    v = torch.tensor([1.0, 3.0, 5.0, 9.0]).view(1, 4, 1, 1).expand(1, 4, 1, 2)
    out = attention(q, q, v, window=2, impl="reference")
    assert out[0, :, 0, 0].tolist() == [1.0, 2.0, 4.0, 7.0]


def test_reference_weighs_by_the_softmax_of_scaled_scores():
    q = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)
    k = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    v = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    out = attention(q, k, v, scale=0.5, impl="reference")
    # The second query scores 0 and 1: sigmoid(1).
    assert out[0, 1, 0, 0].item() == pytest.approx(0.7310585786)


def test_reference_aligns_the_last_query_with_the_last_key():
    q = torch.zeros(1, 1, 1, 1)
    v = torch.tensor([1.0, 3.0, 5.0]).view(1, 3, 1, 1)
    assert attention(q, v * 0, v, window=2, impl="reference").item() == 4.0


@pytest.mark.parametrize("impl", ["sdpa", "reference"])
def test_a_query_before_every_key_gives_zero_and_finite_gradients(impl):
    q, k, v = random_qkv(queries=5, keys=3)
    out = attention(q, k, v, window=2, impl=impl)
    assert out[:, :2].abs().max() == 0.0
    out.sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))
    assert q.grad[:, :2].abs().max() == 0.0


def test_alibi_lowers_a_score_by_slope_times_distance():
    q = torch.zeros(1, 2, 1, 1)
    v = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    slope = torch.tensor([3.0])
    for impl in ("reference", "sdpa"):
        out = attention(q, q, v, alibi_slopes=slope, impl=impl)
        assert out[0, 1, 0, 0].item() == pytest.approx(1 / (1 + torch.e**-3), abs=1e-6)


def test_alibi_slopes_are_the_papers_for_eight_heads():
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]


def test_rope_scores_depend_on_distance_only_even_at_step_ten_million():
    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(0))

    def score(query_position, key_position):
        rotated = [
            apply_rope(x, *rope_angles(torch.tensor([position]), 16))
            for x, position in ((q, query_position), (k, key_position))
        ]
        return (rotated[0] * rotated[1]).sum().item()

    near, far = score(17, 3), score(10_000_017, 10_000_003)
    assert far == pytest.approx(near, abs=2e-6)


def test_reference_gradients_are_right_by_finite_differences():
    q, k, v = random_qkv(queries=7, keys=7, heads=2, kv_heads=1, dim=4)

    def banded(*qkv):
        return attention(*qkv, window=3, alibi_slopes=alibi_slopes(2), impl="reference")

    assert torch.autograd.gradcheck(banded, (q, k, v))


FEATURES = list(itertools.product((None, 1, 16, 63, 64, 65), (False, True), (4, 2, 1)))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("window", "alibi", "kv_heads"), FEATURES)
def test_sdpa_equals_the_reference_forward_and_backward(length, window, alibi, kv_heads):
    q, k, v = random_qkv(queries=length, keys=length, kv_heads=kv_heads)
    slopes = alibi_slopes(4) if alibi else None
    weights = torch.linspace(-1, 1, q.numel(), dtype=q.dtype).view_as(q)
    results = []
    for impl in ("reference", "sdpa"):
        out = attention(q, k, v, window=window, alibi_slopes=slopes, impl=impl)
        results.append((out, *torch.autograd.grad((out * weights).sum(), (q, k, v))))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(3, 70), (70, 3), (64, 65)])
@pytest.mark.parametrize("window", [None, 5])
def test_sdpa_equals_the_reference_where_lengths_differ(causal, queries, keys, window):
    q, k, v = random_qkv(queries=queries, keys=keys)
    expected, actual = (
        attention(q, k, v, window=window, causal=causal, impl=impl)
        for impl in ("reference", "sdpa")
    )
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_sdpa_is_as_exact_as_plain_pytorch():
    q, k, v = (x.detach() for x in random_qkv(queries=300, keys=300))  # 8 heads are as many draws
    exact = attention(q, k, v, window=100, impl="reference")
    q, k, v = q.float(), k.float(), v.float()
    plain = [
        attention(q.roll(order, -1), k.roll(order, -1), v, window=100, impl="reference")
        for order in (0, 3, 6, 11)
    ]
    assert_as_exact_as_plain(attention(q, k, v, window=100, impl="sdpa"), plain, exact)


def test_large_scores_do_not_overflow():
    q, k, v = (x.float() for x in random_qkv())
    assert attention(q * 50, k * 30, v, window=9, impl="sdpa").isfinite().all()


@pytest.mark.parametrize("impl", ["sdpa", "reference"])
def test_dropout_keeps_the_mean_and_is_not_a_no_op(impl):
    torch.manual_seed(0)
    q, k = torch.zeros(2, 2, 400, 4, 16)
    out = attention(q, k, torch.ones_like(q), dropout=0.5, impl=impl)
    assert out[:, 200:].mean().item() == pytest.approx(1.0, abs=0.02)
    assert out.std() > 0.01


def test_log_sum_exp_is_that_of_the_visible_scores():
    # Scores of the last query: 0, 1 and 2, less ALiBi's distances 2, 1 and 0; a window of 2.
    q, k = torch.ones(1, 1, 1, 1), torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1)
    _, lse = reference.attention_with_lse(
        q, k, k, window=2, causal=True, scale=1.0, alibi_slopes=torch.ones(1), dropout=0.0,
        dropout_seed=None,
    )  # fmt: skip
    assert lse.shape == (1, 1, 1)
    assert lse.item() == pytest.approx(math.log(math.exp(1 - 1) + math.exp(2)))


@pytest.mark.parametrize("window", [None, 4])
def test_nan_that_no_query_sees_reaches_neither_result_nor_gradient(window):
    # Three queries of 20 keys see the last 6 in a window of 4; of 20 queries of 3 keys, 17 are
    # blind, and what they hold or receive does not matter, either.
    for queries, keys in ((3, 20), (20, 3)):
        q, k, v = (x.detach() for x in random_qkv(queries=queries, keys=keys))
        clean = [x.clone().requires_grad_() for x in (q, k, v)]
        hidden_keys = max(0, keys - queries - window + 1) if window else 0
        hidden_queries = max(0, queries - keys)
        q[:, :hidden_queries] = math.nan
        k[:, :hidden_keys], v[:, :hidden_keys] = math.nan, math.inf
        dirty = [x.requires_grad_() for x in (q, k, v)]
        gradient = torch.ones_like(q)
        outs = [attention(*x, window=window, impl="reference") for x in (clean, dirty)]
        assert torch.equal(*outs)
        expected = torch.autograd.grad(outs[0], clean, gradient)
        gradient[:, :hidden_queries] = math.nan
        actual = torch.autograd.grad(outs[1], dirty, gradient)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 0}, "window=0 must be at least 1"),
        ({"dropout": 1.0}, r"dropout=1.0 must be in \[0, 1\)"),
        (
            {"impl": "sdpaa"},
            "impl='sdpaa' must be one of auto, triton, native",
        ),
        ({"k": torch.zeros(2, 5, 3, 16), "v": torch.zeros(2, 5, 3, 16)}, "4 query heads"),
        ({"k": torch.zeros(2, 5, 4, 8), "v": torch.zeros(2, 5, 4, 8)}, "head dim"),
        ({"v": torch.zeros(2, 6, 4, 16)}, "same shape"),
        ({"q": torch.zeros(5, 4, 16)}, r"q has shape \(5, 4, 16\)"),
        ({"q": torch.zeros(2, 5, 4, 16, dtype=torch.float64)}, "give one dtype"),
        ({"alibi_slopes": torch.ones(3)}, r"alibi_slopes \(3,\) must be \(4,\)"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {name: torch.zeros(2, 5, 4, 16) for name in "qkv"} | change
    with pytest.raises(ValueError, match=message):
        attention(**arguments)
