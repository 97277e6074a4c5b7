"""The interpreter made right: bfloat16 as PyTorch has it, and products."""

import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl
from fastad_kernels.testing import interpreter

BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def _installed():
    if not hasattr(_copy_kernel, "rewrite"):
        pytest.skip("TRITON_INTERPRET=1 was not set before this module was imported")
    interpreter.install()


@triton.jit
def _copy_kernel(p_in, p_out, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    tl.store(p_out + index, tl.load(p_in + index).to(p_out.dtype.element_ty))


@triton.jit
def _truncate_kernel(p_in, p_out, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    b_in = tl.load(p_in + index)
    tl.store(p_out + index, b_in.to(tl.bfloat16, fp_downcast_rounding="rtz"))


@triton.jit
def _dot_kernel(p_a, p_b, p_out, N: tl.constexpr):
    row, column = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    b_a, b_b = tl.load(p_a + row * N + column), tl.load(p_b + row * N + column)
    tl.store(p_out + row * N + column, tl.dot(b_a, tl.trans(b_b)))


@triton.jit
def _elementwise_kernel(p_a, p_b, p_out, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    b_a, b_b = tl.load(p_a + index), tl.load(p_b + index)
    tl.store(p_out + index, b_a + b_b)
    tl.store(p_out + BLOCK + index, b_a - b_b)
    tl.store(p_out + 2 * BLOCK + index, b_a * b_b)
    tl.store(p_out + 3 * BLOCK + index, -b_a)
    tl.store(p_out + 4 * BLOCK + index, tl.maximum(b_a, b_b))
    tl.store(p_out + 5 * BLOCK + index, tl.minimum(b_a, b_b))
    tl.store(p_out + 6 * BLOCK + index, tl.abs(b_a))
    tl.store(p_out + 7 * BLOCK + index, tl.where(b_a > b_b, b_a, b_b * 0.5))
    tl.store(p_out + 8 * BLOCK + index, tl.fma(b_a, b_b, b_a))
    tl.store(p_out + 9 * BLOCK + index, b_a + tl.full([BLOCK], 1.5, tl.bfloat16))


@triton.jit
def _reduce_kernel(p_a, p_out, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    b_a = tl.load(p_a + row[:, None] * COLUMNS + column[None, :])
    tl.store(p_out + row, tl.sum(b_a.to(tl.float32), 1))
    tl.store(p_out + ROWS + row, tl.max(b_a, 1))
    tl.store(p_out + 2 * ROWS + row, tl.min(b_a, 1))
    tl.store(p_out + 3 * ROWS + row, tl.sum(b_a, 1))
    tl.store(p_out + 4 * ROWS + row, tl.sum(tl.sum(b_a, 1, keep_dims=True), 1))


def _cast(values, dtype):
    out = torch.empty(values.numel(), dtype=dtype)
    _copy_kernel[(1,)](values, out, BLOCK=values.numel())
    return out


def _bits(x):
    return x.view(torch.int16).tolist()


def test_float32_rounds_to_the_nearest_even_bfloat16():
    # 1 + 2**-8 lies between 1 and 1 + 2**-7: the even one is 1. The next tie goes up to 1 + 2**-6.
    ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 1 + 2**-8 + 2**-20])
    expected = [1.0, 1 + 2**-6, -1.0, 1 + 2**-7]
    assert _cast(ties, BF16).tolist() == expected
    assert ties.to(BF16).tolist() == expected


def test_float32_overflows_to_infinity_and_keeps_infinities_zeros_and_subnormals():
    values = torch.tensor([3.4e38, -3.4028235e38, torch.inf, -torch.inf, 0.0, -0.0, 1e-40, -3e-39])
    assert _bits(_cast(values, BF16)) == _bits(values.to(BF16))


def test_nan_stays_nan_whatever_its_payload():
    bits = torch.tensor([0x7F800001, 0x7FC00000, 0x7FFFFFFF, -1, -0x7FFFFF, 0, 0, 0])
    values = bits.to(torch.int32).view(torch.float32)
    assert _cast(values, BF16).isnan().tolist() == [True] * 5 + [False] * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_every_cast_from_and_to_a_float_is_as_in_pytorch(dtype):
    values = torch.randn(1024, generator=torch.Generator().manual_seed(0)).to(dtype) * 100
    assert _bits(_cast(values, BF16)) == _bits(values.to(BF16))
    narrow = values.to(BF16)
    assert torch.equal(_cast(narrow, dtype), narrow.to(dtype))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_every_cast_from_and_to_an_integer_is_as_in_pytorch(dtype):
    values = torch.arange(-128, 128).to(dtype)
    assert _bits(_cast(values, BF16)) == _bits(values.to(BF16))
    narrow = (torch.arange(-128, 128) * 0.75).to(BF16)
    assert torch.equal(_cast(narrow, dtype), narrow.to(dtype))


def test_explicit_truncation_cuts_the_low_bits_off():
    out = torch.empty(2, dtype=BF16)
    _truncate_kernel[(1,)](torch.tensor([1.999, -1.999]), out, BLOCK=2)
    assert out.tolist() == [1.9921875, -1.9921875]


def test_dot_multiplies_values_and_sums_in_float32():
    a, b = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(1)).to(BF16)
    out = torch.empty(32, 32)
    _dot_kernel[(1,)](a, b, out, N=32)
    torch.testing.assert_close(out, a.float() @ b.float().T, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("num_terms", [1, 16, 37, 128])
def test_a_product_and_its_transpose_have_the_same_bits_however_they_lie_in_memory(num_terms):
    a = torch.randn(48, num_terms, generator=torch.Generator().manual_seed(5)).numpy()
    b = torch.randn(num_terms, 32, generator=torch.Generator().manual_seed(6)).numpy()
    product = interpreter.multiply(a, b, np.dtype(np.float32))
    turned = interpreter.multiply(b.T, a.T, np.dtype(np.float32)).T
    fortran = interpreter.multiply(np.asfortranarray(a), b.copy(), np.dtype(np.float32))
    alone = interpreter.multiply(a[5:6], b[:, 7:8], np.dtype(np.float32))
    assert (product == turned).all()
    assert (product == fortran).all()
    assert alone == product[5, 7]
    assert np.abs(product - a.astype(np.float64) @ b).max() < 2e-5


def test_dot_takes_no_blas(monkeypatch):
    monkeypatch.setattr(np, "matmul", None)
    a = torch.ones(2, 16, 16)
    out = torch.empty(16, 16)
    _dot_kernel[(1,)](a[0], a[1], out, N=16)
    assert (out == 16.0).all()


def test_arithmetic_and_comparisons_are_as_in_pytorch():
    a, b = torch.randn(2, 64, generator=torch.Generator().manual_seed(2)).to(BF16)
    out = torch.empty(10, 64, dtype=BF16)
    _elementwise_kernel[(1,)](a, b, out, BLOCK=64)
    expected = [
        a + b, a - b, a * b, -a, torch.maximum(a, b), torch.minimum(a, b), a.abs(),
        torch.where(a > b, a, b * 0.5), (a.float() * b.float() + a.float()).to(BF16), a + 1.5,
    ]  # fmt: skip
    for row, (got, want) in enumerate(zip(out, expected, strict=True)):
        assert torch.equal(got, want), f"operation {row}"


def test_a_negative_zero_equals_zero_and_nan_equals_nothing():
    out = torch.empty(10, 2, dtype=BF16)
    a = torch.tensor([-0.0, torch.nan], dtype=BF16)
    _elementwise_kernel[(1,)](a, torch.tensor([0.0, 4.0], dtype=BF16), out, BLOCK=2)
    assert out[7].tolist() == [0.0, 2.0]  # a > b is false in both places: b / 2


def test_reductions_are_over_values():
    a = torch.randn(4, 128, generator=torch.Generator().manual_seed(3)).to(BF16)
    out = torch.empty(5, 4)
    _reduce_kernel[(1,)](a, out, ROWS=4, COLUMNS=128)
    torch.testing.assert_close(out[0], a.float().sum(1), rtol=1e-6, atol=1e-5)
    assert torch.equal(out[1], a.float().amax(1))
    assert torch.equal(out[2], a.float().amin(1))
    assert torch.equal(out[3], a.float().sum(1).to(BF16).float())
    assert torch.equal(out[4], out[3])


def test_installing_again_changes_nothing():
    before = triton.runtime.interpreter.InterpreterBuilder.cast_impl
    interpreter.install()
    assert triton.runtime.interpreter.InterpreterBuilder.cast_impl is before


_WITHOUT_THE_FIX = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch, triton, triton.language as tl
from {module} import _copy_kernel
out = torch.empty(2, dtype=torch.bfloat16)
_copy_kernel[(1,)](torch.tensor([1.999, -1.999]), out, BLOCK=2)
print(out.tolist())
"""


@pytest.mark.skipif(triton.__version__ > "3.9.9", reason="seen in 3.6 to 3.9 only")
def test_without_the_fix_a_cast_truncates(tmp_path):
    # The kernel has to live in a file: the interpreter reads its source.
    (tmp_path / "plain.py").write_text(
        "import triton, triton.language as tl\n"
        "@triton.jit\n"
        "def _copy_kernel(p_in, p_out, BLOCK: tl.constexpr):\n"
        "    index = tl.arange(0, BLOCK)\n"
        "    tl.store(p_out + index, tl.load(p_in + index).to(p_out.dtype.element_ty))\n"
    )
    code = _WITHOUT_THE_FIX.format(module="plain")
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert run.stdout.strip() == "[1.9921875, -1.9921875]", run.stderr
    # Rounding gives 2: 1.999 lies nearer to it than to 1.9921875.
    assert torch.tensor([1.999, -1.999]).to(BF16).tolist() == [2.0, -2.0]


@pytest.mark.parametrize("fails", [False, True])
def test_triton_s_language_is_itself_again_after_a_kernel(fails):
    def functions():
        return [
            {name: value for name in dir(part) if callable(value := getattr(part, name))}
            for part in (tl, tl.core, tl.math, tl.tensor)
        ]

    before = functions()
    values, out = torch.ones(8, 8, dtype=BF16), torch.zeros(5, 8, dtype=BF16)
    if fails:
        with pytest.raises(triton.runtime.errors.InterpreterError):
            _reduce_kernel[(1,)](values, out, ROWS=7, COLUMNS=8)  # no power of two
    else:
        _reduce_kernel[(2,)](values, out, ROWS=8, COLUMNS=8)  # calls functions of two modules
    assert functions() == before


def test_nothing_that_is_asserted_is_left_out():
    """Overflow is looked for only to be asserted, and that is done only in debugging."""
    builder = triton.runtime.interpreter.interpreter_builder
    assert not builder.options.debug
    assert not builder.options.sanitize_overflow
