"""Windows of several tiles, of which some lie whole within the band and are not masked."""

import pytest
import torch

pytest.importorskip("triton")

from fastad_kernels import alibi_slopes

from tests.kernels.test_backward import (
    assert_gradients_are_as_exact_as_plain,
    make_gradient,
    make_qkv,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_windows_of_several_tiles_have_whole_ones_inside(dtype):
    # Queries 128 to 255 all see keys 64 to 127: whole tiles at either precision's sizes.
    q, k, v = make_qkv((300, 300), 16, (2, 1), dtype)
    settings = {"window": 256, "alibi_slopes": alibi_slopes(2, device=q.device)}
    assert_gradients_are_as_exact_as_plain("triton", q, k, v, make_gradient(q), **settings)
