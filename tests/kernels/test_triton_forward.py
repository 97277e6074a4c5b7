"""The forward kernel against the reference: results and log-sum-exp, every feature and pair."""

import math

import pytest
import torch

from tests.kernels.pairwise import pairwise
from tests.kernels.tolerance import NUM_DRAWS, assert_as_exact_as_plain

pytest.importorskip("triton")

from fastad_kernels import alibi_slopes, attention, attention_varlen, reference
from fastad_kernels.triton import forward
from fastad_kernels.triton.tiles import dot_precision

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = pairwise(
    lengths=[
        (1, 1),
        (63, 63),
        (128, 128),
        (300, 300),
        (111, 300),
        (300, 111),
        (1, 600),
        (130, 129),
    ],
    window=[None, 1, 63, 64, 65, 129],
    dim=[16, 32, 64, 128],
    dtype=[torch.float32, torch.float16, torch.bfloat16, torch.float64],
    layout=["dense", "packed", "strided"],
    heads=[(2, 2), (4, 2), (4, 1)],
    causal=[True, False],
    alibi=[False, True],
    dropout=[0.0, 0.3],
)


def make_qkv(lengths, dim, heads, dtype, *, layout="dense", seed=0, batch=None):
    """Random q, k, v, dense or packed, where values lie otherwise in memory than keys.

    Packed values, and all three of the layout "strided", are slices of a buffer that is NaN around.
    """
    generator = torch.Generator().manual_seed(seed)
    (queries, keys), (num_heads, kv_heads) = lengths, heads
    if batch is None:
        batch = 2 if queries * keys < 10_000 else 1
    tensors = []
    sizes = ((queries, num_heads), (keys, kv_heads), (keys, kv_heads))
    for number, (length, count) in enumerate(sizes):
        shape = (length, count, dim) if layout == "packed" else (batch, length, count, dim)
        x = torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)
        if layout == "strided":
            around = batch, count + 1 + number, length + 1 + number, dim + 16 + 8 * number
            buffer = torch.empty(around, dtype=dtype, device=DEVICE)
            x = buffer.transpose(1, 2)[:, :length, 1 : count + 1, :dim].copy_(x)
        elif layout == "packed" and number == 2:
            buffer = torch.empty(length, count + 1, dim + 8, dtype=dtype, device=DEVICE)
            x = buffer[:, 1:, :dim].copy_(x)
        tensors.append(x)
    return tensors


def num_rows(lengths, num_heads):
    """Sequences that have `NUM_DRAWS` heads; long ones are draws enough by themselves."""
    return NUM_DRAWS // num_heads if math.prod(lengths) < 10_000 else 1


def split_lengths(total, parts):
    """Lengths of sequences that fill `total`: as many ones as fit, an empty one, the rest."""
    ones = min(parts, total - 1) if total > 1 else 0
    return [1] * ones + [0] * (parts - ones) + [total - ones]


def cumulate(lengths):
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32).to(DEVICE)


def run(q, k, v, packing, **settings):
    """Attention and natural log-sum-exp of the kernel, of plain PyTorch, and in float64.

    Plain PyTorch comes four times, with the features of q and k in different orders.
    """
    if packing is None:
        sizes = {
            "cu_seqlens_q": None, "cu_seqlens_k": None,
            "max_seqlen_q": q.shape[1], "max_seqlen_k": k.shape[1],
        }  # fmt: skip
        specification = reference.attention_with_lse
    else:
        sizes = packing
        settings = settings | packing
        specification = reference.attention_varlen_with_lse
    exact = specification(q.double(), k.double(), v.double(), **settings)
    # There is nothing more exact to hold float64 to: its error is inferred from that of float32.
    low = [x.float() if x.dtype == torch.float64 else x for x in (q, k, v)]
    rolled = [(*(x.roll(shift, -1) for x in low[:2]), low[2]) for shift in (0, 3, 6, 11)]
    plain = zip(*(specification(*qkv, **settings) for qkv in rolled), strict=True)
    out, lse2 = forward.launch(q, k, v, **(settings | sizes))
    return (out, lse2 * math.log(2)), plain, exact


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_forward_is_as_exact_as_plain_pytorch(case):
    lengths, packing, batch = case["lengths"], None, num_rows(case["lengths"], case["heads"][0])
    if case["layout"] == "packed":
        per_q, per_k = (batch * split_lengths(total, 3) for total in lengths)
        lengths = (sum(per_q), sum(per_k))
        packing = {
            "cu_seqlens_q": cumulate(per_q), "cu_seqlens_k": cumulate(per_k),
            "max_seqlen_q": max(per_q), "max_seqlen_k": max(per_k),
        }  # fmt: skip
    q, k, v = make_qkv(
        lengths, case["dim"], case["heads"], case["dtype"], layout=case["layout"], batch=batch
    )
    actual, plain, exact = run(
        q, k, v, packing,
        # By 1 / sqrt(D), mostly a power of two, plain PyTorch would scale without rounding.
        window=case["window"], causal=case["causal"], scale=1.1 * case["dim"] ** -0.5,
        alibi_slopes=alibi_slopes(q.shape[-2], device=q.device) if case["alibi"] else None,
        dropout=case["dropout"], dropout_seed=torch.tensor([2**40 + 3], device=q.device),
    )  # fmt: skip
    assert actual[0].dtype == q.dtype
    for name, a, p, e in zip(("out", "lse"), actual, plain, exact, strict=True):
        assert_as_exact_as_plain(a, p, e, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_large_scores_neither_overflow_nor_lose_precision(dtype):
    q, k, v = make_qkv((130, 130), 64, (2, 2), dtype, batch=2)
    actual, plain, exact = run(
        q * 5, k * 3, v, None, window=100, causal=True, scale=1.0, alibi_slopes=None,
        dropout=0.0, dropout_seed=None,
    )  # fmt: skip
    for name, a, p, e in zip(("out", "lse"), actual, plain, exact, strict=True):
        assert_as_exact_as_plain(a, p, e, name)


def test_a_query_that_sees_no_key_gives_zero_and_minus_infinity():
    q, k, v = make_qkv((7, 3), 16, (2, 2), torch.float32)
    out, lse2 = forward.launch(
        q, k, v, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=7, max_seqlen_k=3,
        window=2, causal=True, scale=1.0, alibi_slopes=None, dropout=0.0, dropout_seed=None,
    )  # fmt: skip
    assert (out[:, :4] == 0).all()
    assert (lse2[..., :4] == -math.inf).all()
    assert lse2[..., 4:].isfinite().all()


def test_no_keys_at_all_give_zero():
    q, k, v = make_qkv((5, 0), 16, (2, 2), torch.float32)
    assert (attention(q, k, v, impl="triton") == 0).all()


def test_no_queries_give_an_empty_result():
    q, k, v = make_qkv((0, 5), 16, (2, 2), torch.float32)
    assert attention(q, k, v, impl="triton").shape == q.shape


@pytest.mark.parametrize("causal", [True, False])
def test_nan_in_keys_that_no_query_sees_stays_there(causal):
    # The last 40 of 300 keys have queries, and the first of those looks back to key 196.
    q, k, v = make_qkv((40, 300), 16, (2, 2), torch.float32)
    settings = {"window": 65, "causal": causal}
    expected = attention(q, k, v, impl="triton", **settings)
    k[:, :196], v[:, :196] = math.nan, math.inf
    assert torch.equal(attention(q, k, v, impl="triton", **settings), expected)


def test_nan_in_one_packed_sequence_leaves_its_neighbours_alone():
    q, k, v = make_qkv((90, 90), 16, (2, 2), torch.float32, layout="packed")
    cu_seqlens = cumulate([30, 25, 35])
    k[30:55], v[30:55] = math.nan, math.nan
    out, lse2 = forward.launch(
        q, k, v, cu_seqlens_q=cu_seqlens, cu_seqlens_k=cu_seqlens, max_seqlen_q=35,
        max_seqlen_k=35, window=None, causal=False, scale=1.0, alibi_slopes=None,
        dropout=0.0, dropout_seed=None,
    )  # fmt: skip
    assert out[:30].isfinite().all()
    assert out[55:].isfinite().all()
    assert out[30:55].isnan().all()
    assert lse2[:, :30].isfinite().all()


def test_the_public_calls_reach_the_kernel():
    q, k, v = make_qkv((65, 65), 16, (2, 1), torch.float64)
    expected, actual = (attention(q, k, v, window=9, impl=i) for i in ("reference", "triton"))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", ["packed", "strided"])
@pytest.mark.parametrize("window", [None, 65])
def test_every_access_stays_inside_and_every_result_is_written_once(layout, window):
    if DEVICE != "cpu":
        pytest.skip("addresses are watched in the interpreter")
    from fastad_kernels.testing.addresses import check_addresses

    q, k, v = make_qkv((130, 201), 16, (2, 1), torch.float16, layout=layout)
    per_q, per_k = [1, 129], [1, 200]
    packed = layout == "packed"
    with check_addresses() as report:
        out, lse2 = forward.launch(
            q, k, v, cu_seqlens_q=cumulate(per_q) if packed else None,
            cu_seqlens_k=cumulate(per_k) if packed else None, max_seqlen_q=130, max_seqlen_k=201,
            window=window, causal=True, scale=1.0, alibi_slopes=None, dropout=0.0,
            dropout_seed=None,
        )  # fmt: skip
    traffic = report.launches[0].traffic
    for name, x in (("p_out", out), ("p_lse", lse2)):
        assert traffic[name].written.unique == traffic[name].written.total == x.nbytes
    if window is not None and not packed:
        # Of 201 keys the first query, beside key 71, sees those from 7 on.
        assert traffic["p_k"].read.unique == (201 - 7) * 16 * 2 * k.shape[0]


def test_steep_slopes_lose_no_precision():
    q, k, v = make_qkv((300, 300), 16, (4, 2), torch.float32)
    actual, plain, exact = run(
        q, k, v, None, window=None, causal=True, scale=0.25, dropout=0.0, dropout_seed=None,
        alibi_slopes=torch.tensor([0.25, 0.5, 1.0, 2.0], device=DEVICE),
    )  # fmt: skip
    for name, a, p, e in zip(("out", "lse"), actual, plain, exact, strict=True):
        assert_as_exact_as_plain(a, p, e, name)


def test_slopes_and_sequence_ends_may_lie_apart_in_memory():
    q, k, v = make_qkv((40, 40), 16, (4, 4), torch.float64, layout="packed")
    slopes = torch.tensor([0.5, -1.0, 0.25, -1.0, 0.125, -1.0, 1.0, -1.0], device=DEVICE)[::2]
    ends = torch.tensor([[0, 9], [7, 9], [40, 9]], dtype=torch.int32, device=DEVICE)[:, 0]
    expected, actual = (
        attention_varlen(
            q, k, v, cu_seqlens_q=ends, cu_seqlens_k=ends, max_seqlen_q=33, max_seqlen_k=33,
            alibi_slopes=slopes, impl=impl,
        )
        for impl in ("reference", "triton")
    )  # fmt: skip
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_tokens_beyond_the_last_sequence_give_zero():
    q, k, v = make_qkv((40, 40), 16, (2, 2), torch.float32, layout="packed")
    out, _ = forward.launch(
        q, k, v, cu_seqlens_q=cumulate([30]), cu_seqlens_k=cumulate([30]), max_seqlen_q=30,
        max_seqlen_k=30, window=None, causal=True, scale=1.0, alibi_slopes=None, dropout=0.0,
        dropout_seed=None,
    )  # fmt: skip
    assert (out[30:] == 0).all()


def test_either_of_pytorchs_settings_for_float32_products_is_followed():
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this PyTorch has the older setting alone")
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        assert dot_precision(torch.float32) == "tf32"
        assert dot_precision(torch.float16) == "ieee"
        matmul.fp32_precision = "ieee"
        assert dot_precision(torch.float32) == "ieee"
    finally:
        matmul.fp32_precision = before
