"""The C++ kernels under GCC's sanitizers: no access out of bounds, no undefined behaviour."""

import os
import shutil
import subprocess
import sys

import pytest

# Every kernel, at sizes that fill neither vectors nor blocks, with tensors that end where the
# allocator says: the sanitizer watches what lies beyond.
EXERCISE = """
import torch
from fastad_kernels.native import compiler, trial

trial.prove = lambda library: ""  # the kernels are exercised here
compiler.FLAGS += ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
from fastad_kernels import (
    Affine, BlockWeights, BlockShape, RingCache, alibi_slopes, attention, attention_varlen,
    QSettings, StackedMLP, StepTables, World, decode_attention, draw, embed, make_q_tables,
    make_told, make_walks,
    projection, residual_mlp, rope_angles, softmax,
)
from fastad_kernels.blocks import absorb
from fastad_kernels.native import NativeBlocks, NativeModel

torch.set_num_threads(2)
torch.manual_seed(0)
for queries, keys, heads, kv_heads, dim, window, causal in (
    (70, 70, 4, 2, 5, 33, True), (1, 140, 2, 2, 16, None, True), (140, 3, 2, 1, 24, 2, True),
    (45, 61, 3, 3, 64, 20, False), (0, 5, 2, 2, 16, None, True), (5, 0, 2, 2, 16, None, True),
):
    q, k, v = (
        torch.randn(2, n, h, dim, requires_grad=True)
        for n, h in ((queries, heads), (keys, kv_heads), (keys, kv_heads))
    )
    out = attention(
        q, k, v, window=window, causal=causal, alibi_slopes=alibi_slopes(heads), impl="native"
    )
    out.sum().backward()
per_q, per_k = [1, 0, 40, 3], [2, 5, 40, 0]
q, k, v = (
    torch.randn(sum(n), h, 7, requires_grad=True) for n, h in ((per_q, 4), (per_k, 2), (per_k, 2))
)
ends = [torch.tensor([0, *n]).cumsum(0).int() for n in (per_q, per_k)]
attention_varlen(
    q, k, v, cu_seqlens_q=ends[0], cu_seqlens_k=ends[1], max_seqlen_q=40, max_seqlen_k=40,
    window=9, impl="native",
).sum().backward()
with torch.no_grad():
    for heads, kv_heads, dim, window, new in ((4, 2, 5, 12, 3), (7, 1, 16, 600, 100)):
        ring = RingCache(2, window + new - 1, kv_heads, dim, order="column")
        for _ in range(3 * window // new):
            q, k, v = (torch.randn(2, new, h, dim) for h in (heads, kv_heads, kv_heads))
            decode_attention(q, k, v, ring, window=window, impl="native")
    for width, heads, kv_heads, dim, hidden, new in ((20, 3, 1, 6, 50, 3), (64, 4, 4, 16, 256, 1)):
        def affine(out, size):
            return Affine(torch.randn(out, size), torch.randn(out))
        norm = Affine(torch.ones(width), torch.zeros(width))
        block = BlockWeights(
            norm, affine(heads * dim, width), affine(2 * kv_heads * dim, width),
            affine(width, heads * dim), norm, affine(hidden, width), affine(width, hidden),
        )
        shape = BlockShape(heads, kv_heads, dim, 0.3, 20)
        for (one, sizes), turned in (((block, shape), True), (absorb(block, shape), False)):
            frozen = NativeBlocks([one] * 2, sizes)
            rings = frozen.make_rings(35, 20 + new - 1)
            for _ in range(50 // new):
                rope = rope_angles(rings[0].new_positions(new), dim) if turned else None
                frozen.decode(torch.randn(35, new, width), rings, rope=rope)
        rows = (6, 6, 9, 2, 7, 3, 23)  # one step of three tokens, or steps of one
        tables = [torch.randn(n, width) for n in rows[: 5 if new == 1 else 7]]
        model = NativeModel(
            StepTables(*tables, *[None] * (7 - len(tables))), NativeBlocks([block], shape),
            norm=norm, head=affine(5, width), offsets=torch.tensor([0, 4]), reward_shift=0.0,
            reward_scale=1.0,
        )
        rings, last = model.make_rings(35, 22), torch.full((35,), 1)
        told = make_told(last, torch.ones(35), last > 0, last.clone(), impl="auto")
        for step in range(25):
            shown = (x[:, None] for x in (told.action, told.reward, told.start, told.step))
            places = torch.arange(new) if new > 1 else None
            drawn, *_ = model.sample(
                torch.rand(35, 1), torch.full((35, 1, 2), 3), *shown, rings, places
            )
            told.take(drawn, torch.ones(35), drawn > 3, drawn < 1)
tables = [torch.randn(n, 20, requires_grad=True) for n in (6, 9)]
indices = [torch.randint(6, (70, count)) for count in (1, 2)]
embed(tables, indices, [torch.randn(70), None], impl="native").sum().backward()
for tokens, width, hidden in ((1, 16, 16), (67, 48, 80)):
    shapes = (tokens, width), width, width, (hidden, width), hidden, (width, hidden), width
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    out = residual_mlp(*inputs, impl="native")
    x, norm = inputs[0], tuple(inputs[1:3])
    projection(out, inputs[3], inputs[4], norm=norm, impl="native").sum().backward()
    projection(x, inputs[3], inputs[4], residual=torch.randn(tokens, hidden), impl="native")
for num_actions in (1, 5):
    tables = make_q_tables(torch.zeros(21, num_actions), QSettings(3, 4, 0.6, 0.9, 2))
    first = 7 * torch.arange(3)
    for step in range(8):
        state, over = first + step % 7, torch.full((3,), step % 4 == 3)
        policy = tables.policy(state, 0.1, 0.2)
        draw(policy, torch.rand(3, 1), impl="auto")
        action, _ = tables.act(state, torch.rand(3, 1), 0.1, 0.2)
        tables.learn(state, action, torch.ones(3), first + 6, over, over)
for num_walkers, terminates in ((3, False), (700, True)):
    walkers, cells = torch.arange(num_walkers), torch.arange(7)[:, None]
    walks = make_walks(
        World(
            (cells + torch.arange(5)) % 7, torch.cat((cells, cells), 1),
            (walkers % 7)[:, None].repeat(1, 3), torch.arange(5).repeat(num_walkers, 1), 6,
            terminates,
        ),
        impl="auto",
    )
    walks.reset(walkers % 7)
    for step in range(40):
        walks.cell(walks.step((walkers + step) % 5, walkers % 7).observation)
for sizes, rows in (((5, 32, 16, 3), 7), ((1, 48, 1), 1)):
    networks = StackedMLP(3, sizes, device=torch.device("cpu"))
    networks.draw(torch.Generator(), input_norm=1.0, output_scale=1.0)
    passed = networks.forward(torch.randn(3, rows, sizes[0]))
    networks.backward(passed, torch.randn(3, rows, sizes[-1]))
    twice = [torch.stack((x, x)).transpose(0, 1) for x in passed]
    networks.backward(twice, torch.randn(3, 2, rows, sizes[-1]))
    softmax(passed[-1], impl="auto")
print("all kernels ran")
"""


@pytest.mark.slow  # a minute: everything is compiled once more
@pytest.mark.skipif(
    shutil.which("g++") is None or sys.platform != "linux", reason="needs g++ on Linux"
)
def test_no_kernel_leaves_its_memory(tmp_path):
    where = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    environment = {
        "CXX": "g++",
        "LD_PRELOAD": where.stdout.strip(),
        # Python itself frees little at its end.
        "ASAN_OPTIONS": "detect_leaks=0",
        "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", EXERCISE], env=os.environ | environment, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "all kernels ran" in done.stdout
