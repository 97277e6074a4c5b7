"""The C++ kernels give a row, and an environment, the same bits whoever stands beside it."""

import pytest
import torch
from fastad_kernels import (
    BlockShape,
    RingCache,
    decode_attention,
    native,
    projection,
    residual_mlp,
)

from tests.kernels.test_native_blocks import SIZES, make_blocks, to
from tests.kernels.test_native_rows import make_inputs

pytestmark = pytest.mark.skipif(
    native.why_unavailable() is not None, reason=str(native.why_unavailable())
)

BATCHES = (*range(1, 19), 31, 32, 33, 47, 48, 49, 64, 70)
THREADS = (1, 2, 3)


def assert_rows_are_alone(function, *inputs):
    """`function` of the first rows of `inputs`, for all batches and threads, bit for bit."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = torch.cat([function(*(x[n : n + 1] for x in inputs)) for n in range(70)])
        for batch in BATCHES:
            torch.set_num_threads(THREADS[batch % len(THREADS)])
            last = 70 - batch  # other rows come first in every batch
            actual = function(*(x[last:] for x in inputs))
            different = (actual != expected[last:]).flatten(1).any(1)
            assert not different.any(), f"batch {batch}: rows {different.nonzero().flatten()}"
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("extra", ["nothing", "norm", "residual", "norm and residual"])
@pytest.mark.parametrize(("size", "out"), [(16, 16), (64, 192), (256, 64), (200, 5), (13, 44)])
def test_a_linear_map_gives_a_row_the_same_bits_in_every_batch(size, out, extra):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, scale, shift, residual = (
        torch.randn(shape, generator=generator)
        for shape in ((70, size), (out, size), (out,), (size,), (size,), (70, out))
    )
    norm = (scale, shift) if "norm" in extra else None

    def run(x, residual):
        rest = residual if "residual" in extra else None
        return projection(x, weight, bias, norm=norm, residual=rest, impl="native")

    assert_rows_are_alone(run, x, residual)


@pytest.mark.parametrize(("width", "hidden"), [(16, 16), (64, 256), (20, 50)])
def test_an_mlp_gives_a_row_the_same_bits_in_every_batch(width, hidden):
    (x, *weights), _ = make_inputs(70, width, hidden)
    assert_rows_are_alone(lambda x: residual_mlp(x, *weights, impl="native"), x[0])


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (7, 1)])
def test_decoding_gives_an_environment_the_same_bits_in_every_batch(heads, kv_heads):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(70, 25, count, 12, generator=generator) for count in (heads, kv_heads, kv_heads)
    )

    def run(q, k, v):
        ring = RingCache(len(q), 16, kv_heads, 12, order="column")
        steps = (slice(t, t + 1) for t in range(25))
        outs = [
            decode_attention(q[:, t], k[:, t], v[:, t], ring, window=13, impl="native")
            for t in steps
        ]
        return torch.cat(outs, 1)

    assert_rows_are_alone(run, q, k, v)


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"width {sizes['width']}")
@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("num_new", [1, 3])
def test_blocks_give_an_environment_the_same_bits_in_every_batch(sizes, pre_norm, num_new):
    heads, kv_heads, dim = (sizes[name] for name in ("heads", "kv_heads", "dim"))
    shape = BlockShape(heads, kv_heads, dim, dim**-0.5, window=20, pre_norm=pre_norm)
    frozen = native.NativeBlocks(to(torch.float32, make_blocks(2, **sizes)), shape)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(70, 9 * num_new, sizes["width"], generator=generator)

    def run(x):
        rings = frozen.make_rings(len(x), 20 + num_new - 1)
        return torch.cat([frozen.decode(part, rings) for part in x.split(num_new, 1)], 1)

    assert_rows_are_alone(run, x)
