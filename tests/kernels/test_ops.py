"""The operators as PyTorch sees them: registration, fake tensors, compilation, derivatives."""

import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from fastad_kernels import alibi_slopes, attention, attention_varlen
from fastad_kernels.triton import attention_ops

from tests.kernels.test_triton_forward import DEVICE, cumulate, make_qkv


def dense_arguments(dtype=torch.float32, *, requires_grad=False):
    q, k, v = make_qkv((20, 24), 16, (2, 1), dtype)
    inputs = [x.requires_grad_(requires_grad) for x in (q, k, v)]
    slopes, seed = alibi_slopes(2, device=q.device), torch.tensor([5], device=q.device)
    return *inputs, None, None, slopes, seed, 20, 24, 9, True, 0.25, 0.1


def packed_arguments(dtype=torch.float32, *, requires_grad=False):
    q, k, v = make_qkv((20, 24), 16, (2, 1), dtype, layout="packed")
    inputs = [x.requires_grad_(requires_grad) for x in (q, k, v)]
    cu_seqlens_q, cu_seqlens_k = cumulate([1, 19]), cumulate([5, 19])
    return *inputs, cu_seqlens_q, cu_seqlens_k, None, None, 19, 19, None, True, 0.25, 0.0


@pytest.mark.parametrize("make_arguments", [dense_arguments, packed_arguments])
def test_forward_operator_is_registered_as_pytorch_wants(make_arguments):
    torch.library.opcheck(attention_ops.attention_op, make_arguments(requires_grad=True))


@pytest.mark.parametrize("make_arguments", [dense_arguments, packed_arguments])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_backward_operator_is_registered_as_pytorch_wants(make_arguments, dtype):
    q, *rest = make_arguments(dtype)
    out, lse2 = attention_ops.attention_op(q, *rest)
    arguments = (torch.ones_like(out), q, *rest[:2], out, lse2, *rest[2:])
    torch.library.opcheck(attention_ops.attention_backward_op, arguments)


def banded(q, k, v):
    return attention(q, k, v, window=9, alibi_slopes=alibi_slopes(2), impl="triton").sin()


def packed(q, k, v):
    cu_seqlens = torch.tensor([0, 1, 24], dtype=torch.int32, device=q.device)
    return attention_varlen(
        q[0], k[0], v[0], cu_seqlens_q=cu_seqlens, cu_seqlens_k=cu_seqlens, max_seqlen_q=23,
        max_seqlen_k=23, impl="triton",
    ).sin()  # fmt: skip


@pytest.mark.parametrize("function", [banded, packed])
def test_a_compiled_function_gives_the_same_results_and_gradients(function):
    torch.compiler.reset()
    results = []
    for call in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        q, k, v = (x.requires_grad_() for x in make_qkv((24, 24), 16, (2, 1), torch.float32))
        out = call(q, k, v)
        results.append((out, *torch.autograd.grad(out.sum(), (q, k, v))))
    for expected, actual in zip(*results, strict=True):
        assert torch.equal(actual, expected)


def test_slopes_and_boundaries_may_be_strided():
    q, k, v = make_qkv((20, 20), 16, (2, 1), torch.float32, layout="packed")
    slopes, cu_seqlens = alibi_slopes(2, device=q.device), cumulate([4, 16])
    expected, actual = (
        attention_varlen(
            q, k, v, cu_seqlens_q=boundaries, cu_seqlens_k=boundaries, max_seqlen_q=16,
            max_seqlen_k=16, alibi_slopes=x, impl="triton",
        )
        for x, boundaries in (
            (slopes, cu_seqlens),
            (slopes.repeat_interleave(2)[::2], cu_seqlens.repeat_interleave(3)[::3]),
        )
    )  # fmt: skip
    assert torch.equal(actual, expected)


def test_second_derivatives_are_refused_by_name():
    q, k, v = (x.requires_grad_() for x in make_qkv((5, 5), 16, (1, 1), torch.float32))
    (dq,) = torch.autograd.grad(
        attention(q, k, v, impl="triton").square().sum(), q, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="impl='reference'"):
        dq.sum().backward()


def test_only_what_needs_a_gradient_gets_one():
    q, k, v = make_qkv((5, 5), 16, (1, 1), torch.float32)
    k.requires_grad_()
    attention(q, k, v, impl="triton").sum().backward()
    assert k.grad is not None
    assert q.grad is None
    assert v.grad is None


def test_without_gradients_nothing_is_kept_for_a_backward_pass():
    q, k, v = (x.requires_grad_() for x in make_qkv((5, 5), 16, (1, 1), torch.float32))
    with torch.no_grad():
        assert attention(q, k, v, impl="triton").grad_fn is None


def test_under_autocast_the_dtype_of_the_projections_is_kept():
    q, k, v = make_qkv((5, 5), 16, (1, 1), torch.float32)
    projection = torch.nn.Linear(16, 16, device=q.device)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        projected = [projection(x) for x in (q, k, v)]
        out = attention(*projected, impl="triton")
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert projection.weight.grad.dtype == torch.float32
    assert projection.weight.grad.isfinite().all()


def test_importing_the_package_does_not_import_triton():
    code = "import sys, fastad_kernels; sys.exit('triton' in sys.modules)"
    path = [entry for entry in sys.path if entry]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"],
                   check=True)  # fmt: skip
