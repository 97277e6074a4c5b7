"""Triton's interpreter made right: bfloat16, and products that are the same on any processor.

The interpreter keeps bfloat16 as raw 16-bit integers, because NumPy has no such type, and in the
releases 3.6 to 3.9 forgets about it in most places: `tl.dot` multiplies the bit patterns, `a + b`
adds them, casts from float32 cut the low bits off instead of rounding, and casts from other types
take the integer value. Nothing warns. `install` replaces those methods of the interpreter's builder
by ones that compute in float32 and round to nearest, ties to even, as the hardware does.

Loads, stores, selects, shapes and bit casts move bits only and are right as they are; `tl.max`,
`tl.min` and the scans widen to float32 themselves. `tl.sum` does not: here it sums in float32 and
rounds once, where a GPU rounds after every addition, so a kernel had better widen before it sums.

`tl.dot` takes NumPy's floats by `multiply` instead of a BLAS.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as triton_interpreter
from triton.runtime.interpreter import InterpreterBuilder, ReduceOps, TensorHandle

_MARK = "_fastad_bfloat16"
_QUIET_NAN = np.uint16(0x7FC0)
_FLOATS = (np.float16, np.float32, np.float64)
_LANES = 8  # a power of two


def install() -> None:
    """Make this process's interpreter right; calling it again changes nothing.

    Triton's own objects are changed, so every kernel of the process profits. Compiled kernels are
    not affected. Whether the interpreter is in use at all is decided by `TRITON_INTERPRET=1`, at
    the time a kernel is defined.
    """
    if getattr(InterpreterBuilder, _MARK, False):
        return
    setattr(InterpreterBuilder, _MARK, True)
    for name, wrap in _WRAPPERS.items():
        setattr(InterpreterBuilder, name, wrap(getattr(InterpreterBuilder, name)))
    ReduceOps.sum = _wrap_sum(ReduceOps.sum)
    InterpreterBuilder.get_bf16 = _get_bf16  # 3.6 has none, so tl.full(..., tl.bfloat16) fails
    _leave_out_what_nobody_reads()
    triton_interpreter._patch_lang = _patching_once(triton_interpreter._patch_lang)
    triton_interpreter._get_np_dtype = _knowing_types(triton_interpreter._get_np_dtype)


def to_float32(bits: np.ndarray) -> np.ndarray:
    """Values of bfloat16 bit patterns (uint16) as float32; exact."""
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32)


def from_float32(values: np.ndarray, *, truncate: bool = False) -> np.ndarray:
    """Bit patterns (uint16) of the bfloat16 numbers nearest to float32 `values`.

    Args:
        values: float32, any shape.
        truncate: Round towards zero instead of to nearest even.

    Returns:
        uint16 of the same shape. Every NaN becomes the quiet NaN.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).reshape(np.shape(values))
    # A carry out of the mantissa raises the exponent, which is the right result, infinity included.
    half = np.uint32(0) if truncate else np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))
    with np.errstate(over="ignore"):
        rounded = ((bits + half) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), _QUIET_NAN, rounded)


def _is_bf16(*handles: TensorHandle) -> bool:
    return any(handle.dtype.scalar == tl.bfloat16 for handle in handles)


def _widen(handle: TensorHandle) -> TensorHandle:
    if not _is_bf16(handle):
        return handle
    return TensorHandle(to_float32(handle.data), tl.float32)


def _narrow(handle: TensorHandle) -> TensorHandle:
    """Back to bfloat16, except for truth values: the interpreter types those by their operands."""
    if handle.data.dtype == np.bool_:
        return TensorHandle(handle.data, tl.bfloat16)
    return TensorHandle(from_float32(handle.data), tl.bfloat16)


def _get_bf16(self: InterpreterBuilder, value: float) -> TensorHandle:
    return TensorHandle(from_float32(np.array([value], dtype=np.float32)), tl.bfloat16)


def _wrap_cast(original: Callable) -> Callable:
    def cast_impl(self: InterpreterBuilder, src: TensorHandle, dst_type: Any) -> TensorHandle:
        destination = dst_type.scalar
        if src.dtype.scalar == destination:
            return src
        if destination != tl.bfloat16:
            # The original casts integers and NumPy's floats to one another correctly.
            src = _widen(src)
            return src if destination == tl.float32 == src.dtype else original(self, src, dst_type)
        with np.errstate(over="ignore"):
            return TensorHandle(from_float32(src.data.astype(np.float32)), tl.bfloat16)

    return cast_impl


def _wrap_fp_to_fp(original: Callable) -> Callable:
    """The cast with an explicit rounding mode, `tl.cast(x, ..., fp_downcast_rounding=...)`."""

    def create_fp_to_fp(
        self: InterpreterBuilder,
        src: TensorHandle,
        dst_type: Any,
        rounding_mode: Any,
    ) -> TensorHandle:
        if dst_type.scalar == tl.bfloat16 and src.dtype.scalar == tl.float32:
            towards_zero = rounding_mode == triton_interpreter._ir.ROUNDING_MODE.RTZ
            return TensorHandle(from_float32(src.data, truncate=towards_zero), tl.bfloat16)
        if _is_bf16(src) and dst_type.scalar in (tl.float16, tl.float32, tl.float64):
            return self.cast_impl(src, dst_type)
        return original(self, src, dst_type, rounding_mode)

    return create_fp_to_fp


def _wrap_binary(original: Callable) -> Callable:
    def binary_op(
        self: InterpreterBuilder, lhs: TensorHandle, rhs: TensorHandle, op: Callable
    ) -> TensorHandle:
        if not _is_bf16(lhs, rhs):
            return original(self, lhs, rhs, op)
        return _narrow(original(self, _widen(lhs), _widen(rhs), op))

    return binary_op


def _wrap_unary(original: Callable) -> Callable:
    def unary_op(self: InterpreterBuilder, arg: TensorHandle, op: Callable) -> TensorHandle:
        return (
            _narrow(original(self, _widen(arg), op)) if _is_bf16(arg) else original(self, arg, op)
        )

    return unary_op


def _wrap_ternary(original: Callable) -> Callable:
    def ternary_op(
        self: InterpreterBuilder, a: TensorHandle, b: TensorHandle, c: TensorHandle, op: Callable
    ) -> TensorHandle:
        # np.where, the select, moves bits; np.clip, the clamp, compares values.
        if op is np.where or not _is_bf16(c):
            return original(self, a, b, c, op)
        return _narrow(original(self, _widen(a), _widen(b), _widen(c), op))

    return ternary_op


def _wrap_fma(original: Callable) -> Callable:
    def create_fma(
        self: InterpreterBuilder, x: TensorHandle, y: TensorHandle, z: TensorHandle
    ) -> TensorHandle:
        if not _is_bf16(z):
            return original(self, x, y, z)
        return _narrow(original(self, _widen(x), _widen(y), _widen(z)))

    return create_fma


def _wrap_dot(original: Callable) -> Callable:
    def create_dot(
        self: InterpreterBuilder, a: TensorHandle, b: TensorHandle, d: TensorHandle, *rest: Any
    ) -> TensorHandle:
        a, b = _widen(a), _widen(b)
        if not all(x.data.dtype in _FLOATS for x in (a, b, d)):
            return original(self, a, b, d, *rest)  # integers, and codes of 8-bit floats
        return TensorHandle(d.data + multiply(a.data, b.data, d.data.dtype), d.dtype.scalar)

    return create_dot


def multiply(a: np.ndarray, b: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Product of a and b, (..., M, K) by (..., K, N), every element by the same steps.

    A BLAS, which NumPy's own product takes, picks its code by processor, by shape and by how the
    operands lie in memory. Here `_LANES` sums run over every `_LANES`-th term and are then added
    pairwise, so that a product and its transpose have the same bits.
    """
    a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    missing = -a.shape[-1] % _LANES
    if missing:
        a = np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, missing)])
        b = np.pad(b, [(0, 0)] * (b.ndim - 2) + [(0, missing), (0, 0)])
    left, right = a.swapaxes(-1, -2)[..., None], b[..., None, :]  # (..., K, M, 1), (..., K, 1, N)
    sums = left[..., :_LANES, :, :] * right[..., :_LANES, :, :]
    for start in range(_LANES, a.shape[-1], _LANES):
        step = slice(start, start + _LANES)
        sums += left[..., step, :, :] * right[..., step, :, :]
    while sums.shape[-3] > 1:
        half = sums.shape[-3] // 2
        sums = sums[..., :half, :, :] + sums[..., half:, :, :]
    return sums[..., 0, :, :]


def _wrap_sum(original: Callable) -> Callable:
    def sum_(self: ReduceOps, values: Any) -> Any:
        if not _is_bf16(values.handle):
            return original(self, values)
        wide = to_float32(values.handle.data)
        total = np.sum(wide, axis=self.axis, keepdims=self.keep_dims)
        return self.to_tensor(from_float32(total), values.dtype)

    return sum_


def _leave_out_what_nobody_reads() -> None:
    """Whether sums of integers overflow: asserted by what does nothing outside of debugging.

    Yet every sum and product is computed once more for it, in a third of a kernel's time.
    """
    builder = triton_interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = replace(builder.options, sanitize_overflow=False)


def _knowing_types(original: Callable) -> Callable:
    """NumPy's types of Triton's, without a table of all of them at every call."""
    known = cache(original)

    def get_np_dtype(tt_dtype: Any) -> np.dtype:
        scalar = tt_dtype.scalar
        return original(scalar) if isinstance(scalar, tl.pointer_type) else known(scalar)

    return get_np_dtype


def _patching_once(original: Callable) -> Callable:
    """Replace what kernels see of `triton.language` once a kernel, not in every call of a function.

    Each of those looks through all of it, a fifth of a kernel's time, and leaves what it replaced;
    here that is put back with the kernel's own.
    """
    scopes: dict[int, Any] = {}  # of the running kernel and what it called, by their global names

    def patch_lang(function: Any) -> Any:
        names = id(function.__globals__)
        if names in scopes:
            return triton_interpreter._LangPatchScope()
        is_kernel, scope = not scopes, original(function)
        scopes[names] = scope
        if is_kernel:
            restore = scope.restore

            def restore_all() -> None:
                _, *others = scopes.values()
                scopes.clear()
                for other in reversed(others):
                    other.restore()
                restore()

            scope.restore = restore_all
        return scope

    return patch_lang


_WRAPPERS = {
    "cast_impl": _wrap_cast,
    "create_fp_to_fp": _wrap_fp_to_fp,
    "binary_op": _wrap_binary,
    "unary_op": _wrap_unary,
    "ternary_op": _wrap_ternary,
    "create_fma": _wrap_fma,
    "create_dot": _wrap_dot,
}
