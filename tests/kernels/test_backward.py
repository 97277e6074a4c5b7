"""Gradients of Triton's and the C++ kernels against the reference: every feature and pair."""

import math

import pytest
import torch

from tests.kernels.pairwise import pairwise
from tests.kernels.recomputed_gradients import recomputed_gradients
from tests.kernels.tolerance import NUM_DRAWS, assert_as_exact_as_plain

pytest.importorskip("triton")

from fastad_kernels import alibi_slopes, attention, attention_varlen, reference
from fastad_kernels.triton import backward, forward

from tests.kernels.test_triton_forward import DEVICE, cumulate, make_qkv, num_rows

# Five tiles of keys at most: a sixth is like the fifth, and the interpreter is slow.
CASES = pairwise(
    lengths=[(1, 111), (63, 63), (128, 128), (111, 300), (300, 111), (130, 129)],
    window=[None, 2, 63, 64, 65],
    dtype=[torch.float32, torch.float16, torch.bfloat16],
    dim=[16, 32, 64, 128],
    layout=["dense", "packed", "strided"],
    heads=[(2, 2), (2, 1), (4, 1)],
    causal=[True, False],
    alibi=[False, True],
    dropout=[0.0, 0.3],
)
# The C++ kernels compute in float32 and have no dropout, but take any head dim.
NATIVE_CASES = pairwise(
    lengths=[(1, 111), (63, 63), (128, 128), (111, 600), (600, 111), (130, 129)],
    window=[None, 2, 63, 64, 65],
    dtype=[torch.float32],
    dim=[5, 16, 24, 32, 64, 128],
    layout=["dense", "packed", "strided"],
    heads=[(2, 2), (2, 1), (4, 1)],
    causal=[True, False],
    alibi=[False, True],
    dropout=[0.0],
)
FUSED = pytest.mark.parametrize("impl", ["triton", "native"])
# Places by which features are moved before plain PyTorch sums over them: draws of its rounding.
ORDERS = (0, 3, 6, 11)
DEFAULTS = {
    "window": None, "causal": True, "scale": 0.3, "alibi_slopes": None, "dropout": 0.0,
    "dropout_seed": None,
}  # fmt: skip


def run_forward(impl, *qkv, order=0, **settings):
    call = attention_varlen if "cu_seqlens_q" in settings else attention
    rolled = (x.roll(order, -1) if order else x for x in qkv)
    out = call(*rolled, impl=impl, **(DEFAULTS | settings))
    return out.roll(-order, -1) if order else out


def run(impl, q, k, v, grad_out, **settings):
    """Output, dq, dk, dv."""
    inputs = [x.detach().requires_grad_() for x in (q, k, v)]
    out = run_forward(impl, *inputs, **settings)
    return out.detach(), *torch.autograd.grad(out, inputs, grad_out.to(out.dtype))


def assert_gradients_are_as_exact_as_plain(impl, q, k, v, grad_out, **settings):
    settings = DEFAULTS | settings
    exact = run("reference", q.double(), k.double(), v.double(), grad_out, **settings)
    plain = [
        (
            run_forward("reference", q, k, v, order=order, **settings),
            *recomputed_gradients(
                q, k, v, grad_out, order=order, saves_lse=impl == "triton", **settings
            ),
        )
        for order in ORDERS
    ]
    actual = run(impl, q, k, v, grad_out, **settings)
    for name, a, p, e in zip(
        ("out", "dq", "dk", "dv"), actual, zip(*plain, strict=True), exact, strict=True
    ):
        assert a.dtype == q.dtype
        assert_as_exact_as_plain(a, p, e, name)


def make_gradient(q, seed=1):
    """Of the output, not contiguous, as a transposition after the attention gives it."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*q.shape[:-3], q.shape[-2], q.shape[-3], q.shape[-1])
    return torch.randn(shape, generator=generator).to(q.device, q.dtype).transpose(-3, -2)


def describe(case):
    if isinstance(case, str):
        return case
    return "-".join(str(setting).removeprefix("torch.") for setting in case.values())


@pytest.mark.parametrize(
    ("impl", "case"),
    [*(("triton", case) for case in CASES), *(("native", case) for case in NATIVE_CASES)],
    ids=describe,
)
def test_gradients_are_as_exact_as_those_of_plain_pytorch(impl, case):
    lengths, packing = case["lengths"], {}
    batch = NUM_DRAWS if impl == "native" else num_rows(lengths, case["heads"][0])
    if case["layout"] == "packed":
        # Around the histories in question some of one token, without queries, and without keys.
        per_q = [1, *batch * lengths[:1], 0, 1, 2, 1]
        per_k = [1, *batch * lengths[1:], 3, 1, 0, 1]
        lengths = (sum(per_q), sum(per_k))
        packing = {
            "cu_seqlens_q": cumulate(per_q), "cu_seqlens_k": cumulate(per_k),
            "max_seqlen_q": max(per_q), "max_seqlen_k": max(per_k),
        }  # fmt: skip
    q, k, v = make_qkv(
        lengths, case["dim"], case["heads"], case["dtype"], layout=case["layout"], batch=batch
    )
    dropout = {}
    if case["dropout"]:
        seed = torch.tensor([2**40 + 3], device=q.device)
        dropout = {"dropout": case["dropout"], "dropout_seed": seed}
    assert_gradients_are_as_exact_as_plain(
        impl, q, k, v, make_gradient(q), **packing, **dropout,
        # By 1 / sqrt(D), mostly a power of two, plain PyTorch would scale without rounding.
        window=case["window"], causal=case["causal"], scale=1.1 * case["dim"] ** -0.5,
        alibi_slopes=alibi_slopes(q.shape[-2], device=q.device) if case["alibi"] else None,
    )  # fmt: skip


EVERY_DTYPE = pytest.mark.parametrize(
    ("impl", "dtype"),
    [
        *(("triton", dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)),
        ("native", torch.float32),
    ],
)


@EVERY_DTYPE
@pytest.mark.parametrize(("length", "window"), [(1, None), (111, 1)])
def test_queries_that_see_one_key_have_gradients_of_zero_up_to_rounding(
    impl, length, window, dtype
):
    q, k, v = make_qkv((length, length), 32, (2, 1), dtype, batch=NUM_DRAWS // 2)
    grad_out, settings = make_gradient(q), {"window": window, "scale": 0.25}
    *_, exact = run("reference", q.double(), k.double(), v.double(), grad_out, **settings)
    plain = [
        recomputed_gradients(q, k, v, grad_out, order=order, **(DEFAULTS | settings))[2]
        for order in ORDERS
    ]
    out, dq, dk, dv = run(impl, q, k, v, grad_out, **settings)
    assert torch.equal(out, v.repeat_interleave(2, dim=2))
    assert_as_exact_as_plain(dv, plain, exact, "dv")
    # A weight of 1 has the derivative dO V^T - rowsum(dO * O), a difference of equal sums, each of
    # which is rounded.
    terms = (grad_out.double() * out.double()).abs().sum(-1).max()
    step = torch.finfo(dtype).eps * terms * 0.25
    for gradient, factor in ((dq, k), (dk, q)):
        assert gradient.abs().max() <= step * factor.abs().max() * (2 if factor is q else 1)


@EVERY_DTYPE
def test_large_scores_neither_overflow_nor_lose_precision(impl, dtype):
    q, k, v = make_qkv((130, 130), 64, (2, 2), dtype, batch=2)
    assert_gradients_are_as_exact_as_plain(
        impl, q * 5, k * 3, v, make_gradient(q), window=100, scale=1.0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_steep_slopes_far_from_the_first_key_lose_no_precision(dtype):
    q, k, v = make_qkv((64, 600), 16, (2, 2), dtype, batch=2)
    grad_out = make_gradient(q)
    settings = DEFAULTS | {"alibi_slopes": torch.tensor([1.0, 0.25], device=q.device)}
    exact = run("reference", q.double(), k.double(), v.double(), grad_out, **settings)
    plain = [
        recomputed_gradients(q, k, v, grad_out, order=order, saves_lse=True, **settings)
        for order in ORDERS
    ]
    # What the forward kernel saved is taken as exact as it can be stored: it is tested elsewhere.
    out, lse = reference.attention_with_lse(q.double(), k.double(), v.double(), **settings)
    sizes = {"cu_seqlens_q": None, "cu_seqlens_k": None, "max_seqlen_q": 64, "max_seqlen_k": 600}
    actual = backward.launch(
        grad_out, q, k, v, out.to(dtype), (lse * math.log2(math.e)).float(), **settings, **sizes
    )
    for name, a, p, e in zip(
        ("dq", "dk", "dv"), actual, zip(*plain, strict=True), exact[1:], strict=True
    ):
        assert_as_exact_as_plain(a, p, e, name)


def test_float64_is_exact_to_its_own_rounding():
    q, k, v = make_qkv((130, 150), 16, (4, 2), torch.float64)
    settings = {"window": 70, "alibi_slopes": alibi_slopes(4, device=q.device)}
    expected, actual = (
        run(impl, q, k, v, make_gradient(q), **settings) for impl in ("reference", "triton")
    )
    for e, a in zip(expected, actual, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-13)


@FUSED
def test_gradients_are_bitwise_the_same_every_time(impl):
    dtype = torch.float32 if impl == "native" else torch.float16
    q, k, v = make_qkv((70, 70), 16, (2, 1), dtype)
    settings = {"window": 65, "alibi_slopes": alibi_slopes(2, device=q.device)}
    if impl == "triton":
        settings |= {"dropout": 0.3, "dropout_seed": torch.tensor([7], device=q.device)}
    results = [run(impl, q, k, v, make_gradient(q), **settings) for _ in range(3)]
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@FUSED
def test_packed_histories_give_bitwise_the_gradients_of_each_alone(impl):
    q, k, v = make_qkv((150, 170), 16, (2, 1), torch.float32, layout="packed")
    grad_out, per_q, per_k = make_gradient(q), [20, 1, 129], [40, 1, 129]
    packed = run(
        impl, q, k, v, grad_out, window=33, cu_seqlens_q=cumulate(per_q),
        cu_seqlens_k=cumulate(per_k), max_seqlen_q=129, max_seqlen_k=129,
    )  # fmt: skip
    parts = zip(*(x.split(per) for x, per in ((q, per_q), (k, per_k), (v, per_k))),
                grad_out.split(per_q), strict=True)  # fmt: skip
    alone = [run(impl, *(x[None] for x in part), window=33) for part in parts]
    for actual, expected in zip(packed, zip(*alone, strict=True), strict=True):
        assert torch.equal(actual, torch.cat([x[0] for x in expected]))


@FUSED
def test_a_query_that_sees_no_key_gets_and_gives_no_gradient(impl):
    q, k, v = make_qkv((70, 3), 16, (2, 2), torch.float32)
    grad_out = make_gradient(q)
    q[:, :67], grad_out[:, :67] = math.nan, math.nan
    _, dq, dk, dv = run(impl, q, k, v, grad_out, window=2)
    assert (dq[:, :67] == 0).all()
    seeing = run(impl, q[:, 67:], k, v, grad_out[:, 67:], window=2)
    for actual, expected in zip((dq[:, 67:], dk, dv), seeing[1:], strict=True):
        assert torch.equal(actual, expected)


@FUSED
@pytest.mark.parametrize("causal", [True, False])
def test_a_key_that_no_query_sees_gets_and_gives_no_gradient(causal, impl):
    # The last 40 of 300 keys have queries, and the first of those looks back to key 196.
    q, k, v = make_qkv((40, 300), 16, (2, 1), torch.float32)
    grad_out, settings = make_gradient(q), {"window": 65, "causal": causal}
    expected = run(impl, q, k, v, grad_out, **settings)
    k[:, :196], v[:, :196] = math.nan, math.inf
    actual = run(impl, q, k, v, grad_out, **settings)
    assert all(map(torch.equal, actual, expected))
    assert (actual[2][:, :196] == 0).all()
    assert (actual[3][:, :196] == 0).all()


@FUSED
def test_nan_in_one_packed_sequence_leaves_its_neighbours_alone(impl):
    q, k, v = make_qkv((90, 90), 16, (2, 2), torch.float32, layout="packed")
    cu_seqlens, grad_out = cumulate([30, 25, 35]), make_gradient(q)
    for x in (q, k, v, grad_out):
        x[30:55] = math.nan
    gradients = run(
        impl, q, k, v, grad_out, causal=False, cu_seqlens_q=cu_seqlens,
        cu_seqlens_k=cu_seqlens, max_seqlen_q=35, max_seqlen_k=35,
    )  # fmt: skip
    for gradient in gradients:
        assert gradient[:30].isfinite().all()
        assert gradient[30:55].isnan().all()
        assert gradient[55:].isfinite().all()


def test_packed_tokens_beyond_the_last_sequence_get_no_gradient():
    q, k, v = make_qkv((90, 90), 16, (2, 2), torch.float32, layout="packed")
    cu_seqlens, grad_out = cumulate([30, 25]), make_gradient(q)
    for x in (q, k, v, grad_out):
        x[55:] = math.nan
    settings = DEFAULTS | {
        "cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens, "max_seqlen_q": 30,
        "max_seqlen_k": 30,
    }  # fmt: skip
    out, lse2 = forward.launch(q, k, v, **settings)
    for gradient in backward.launch(grad_out, q, k, v, out, lse2, **settings):
        assert gradient[:55].isfinite().all()
        assert (gradient[55:] == 0).all()


@FUSED
def test_an_expanded_gradient_is_read_like_a_whole_one(impl):
    q, k, v = make_qkv((65, 65), 16, (2, 1), torch.float32)
    ones = torch.ones_like(q)
    expanded = torch.ones((), device=q.device).expand_as(q)
    whole, actual = (run(impl, q, k, v, g, window=9) for g in (ones, expanded))
    assert all(map(torch.equal, actual, whole))


@FUSED
@pytest.mark.parametrize("lengths", [(5, 0), (0, 5)])
def test_without_keys_or_queries_all_gradients_are_zero(lengths, impl):
    q, k, v = make_qkv(lengths, 16, (2, 2), torch.float32)
    for x in run(impl, q, k, v, torch.ones_like(q)):
        assert (x == 0).all()


@pytest.mark.parametrize("layout", ["packed", "strided"])
def test_every_access_stays_inside_and_every_gradient_is_written_once(layout):
    if DEVICE != "cpu":
        pytest.skip("addresses are watched in the interpreter")
    from fastad_kernels.testing.addresses import check_addresses

    q, k, v = make_qkv((130, 201), 16, (4, 2), torch.float16, layout=layout)
    packed = layout == "packed"
    settings = DEFAULTS | {
        "cu_seqlens_q": cumulate([1, 129]) if packed else None,
        "cu_seqlens_k": cumulate([1, 200]) if packed else None,
        "max_seqlen_q": 130, "max_seqlen_k": 201, "window": 65, "alibi_slopes": alibi_slopes(4),
    }  # fmt: skip
    out, lse2 = forward.launch(q, k, v, **settings)
    with check_addresses() as report:
        gradients = backward.launch(make_gradient(q), q, k, v, out, lse2, **settings)
    traffic = report.launches[0].traffic | report.launches[1].traffic
    for name, x in zip(("p_dq", "p_dk", "p_dv"), gradients, strict=True):
        assert traffic[name].written.unique == traffic[name].written.total == x.nbytes
