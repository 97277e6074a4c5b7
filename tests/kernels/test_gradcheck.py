"""Finite differences in float64 through the Triton code itself, forward and backward."""

import pytest
import torch

pytest.importorskip("triton")

from fastad_kernels import attention, attention_varlen

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the interpreter computes in float64 at no loss"
)

CASES = {
    "plain": {},
    "banded": {"window": 5},
    "alibi": {"alibi_slopes": [0.5, 0.1]},
    "grouped": {"kv_heads": 1},
    "dropout": {"dropout": 0.4},
    "everything": {
        "window": 9, "alibi_slopes": [0.5, 0.1], "kv_heads": 1, "dropout": 0.2, "lengths": (17, 21),
    },
}  # fmt: skip


def make_inputs(shapes):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def settings_of(*, alibi_slopes=None, **settings):
    slopes = None if alibi_slopes is None else torch.tensor(alibi_slopes)
    return {"alibi_slopes": slopes, "dropout_seed": torch.tensor([11]), "impl": "triton"} | settings


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_gradients_are_right_by_finite_differences(case):
    case = dict(case)
    (queries, keys), kv_heads = case.pop("lengths", (17, 17)), case.pop("kv_heads", 2)
    inputs = make_inputs([(1, queries, 2, 16), *[(1, keys, kv_heads, 16)] * 2])
    assert torch.autograd.gradcheck(
        lambda *qkv: attention(*qkv, **settings_of(**case)), inputs, fast_mode=True
    )


def test_gradients_of_packed_histories_are_right_by_finite_differences():
    cu_seqlens_q = torch.tensor([0, 1, 9, 20], dtype=torch.int32)
    cu_seqlens_k = torch.tensor([0, 1, 15, 24], dtype=torch.int32)
    inputs = make_inputs([(20, 2, 16), (24, 1, 16), (24, 1, 16)])
    assert torch.autograd.gradcheck(
        lambda *qkv: attention_varlen(
            *qkv, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k, max_seqlen_q=11,
            max_seqlen_k=14, **settings_of(window=6, alibi_slopes=[0.5, 0.1]),
        ),
        inputs, fast_mode=True,
    )  # fmt: skip
