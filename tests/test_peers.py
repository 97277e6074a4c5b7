"""Peers of the benchmarks compute what fastad does, and so does what is told of an update."""

import json

import pytest
import torch
from fastad_kernels.native import why_unavailable

from benchmarks import product_share
from benchmarks.models import make_model, random_steps
from benchmarks.peers.rolled import RolledCache


def steps_of(steps, t):
    return type(steps)(*(None if x is None else x[:, t : t + 1] for x in steps))


@torch.no_grad()
def test_a_cache_that_is_copied_along_gives_what_the_window_gives():
    model = make_model(12).eval()
    steps = random_steps(2, 12)
    expected = model(steps).policy
    cache = RolledCache(model, 2)
    found = torch.stack([cache.decode(steps_of(steps, t)) for t in range(12)], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_gpt2_reads_the_models_tokens_whole_and_one_by_one():
    transformers = pytest.importorskip("transformers")
    from benchmarks.peers.gpt2 import GPT2

    model = make_model(12).eval()
    steps = random_steps(2, 12)
    peer = GPT2(model, 12).eval()
    expected = model(steps).policy
    torch.testing.assert_close(peer(steps).policy, expected, rtol=1e-4, atol=1e-5)
    cache = transformers.DynamicCache()
    found = torch.stack([peer.decode(steps_of(steps, t), cache) for t in range(12)], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(why_unavailable() is not None, reason="an update by PyTorch takes its time")
def test_the_share_of_products_counts_each_of_an_update(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["product_share", "--threads", "1", "--rounds", "1"])
    threads = torch.get_num_threads()
    product_share.main()
    torch.set_num_threads(threads)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    # Dark Room: 2400 tokens of 64 features, two blocks, four heads, a window of 200; Muon's apart.
    maps = 6 * 2400 * (2 * 12 * 64**2 + 64 * 5)
    attention = 6 * 2 * 12 * (200 * 201 // 2) * 64 * 2
    small, middle, large = (
        5 * 2 * (rows * rows * columns * 2 + rows**3)
        for rows, columns in ((64, 64), (64, 64), (64, 256))
    )
    muon = 2 * (2 * small + 2 * middle + 2 * large)
    assert figures["gflop"] == pytest.approx((maps + attention + muon) * 1e-9, abs=1e-3)
    assert figures["least share"] > 0.0
    seconds, limit = figures["least update ms"] * 1e-3, figures["least large GFLOP/s"]
    assert figures["least share"] == pytest.approx(
        figures["gflop"] / seconds / limit, rel=1e-2, abs=1e-3
    )
    share, seconds = (
        figures[f"least {name}"] for name in ("share without optimisers", "ms without optimisers")
    )
    expected = (maps + attention) * 1e-9 / (seconds * 1e-3) / limit
    assert share == pytest.approx(expected, rel=1e-2, abs=1e-3)
