"""A tiny check of every compiled kernel against the reference in float64, once after compiling.

The tests say whether the sources are right. This says whether a compiler and its flags kept them
so: with -Ofast, for example, comparisons with infinity and NaN are left out, and attention is wrong
by 0.3.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from fastad_kernels import alibi_slopes, reference, rope_angles
from fastad_kernels.blocks import Affine, BlockShape, BlockWeights, decode_blocks
from fastad_kernels.cache import RingCache
from fastad_kernels.drawing import draw, softmax
from fastad_kernels.frozen import StepTables
from fastad_kernels.native.attention import attention
from fastad_kernels.native.decode import NativeBlocks, decode_attention
from fastad_kernels.native.draw import softmax as native_softmax
from fastad_kernels.native.embed import embed
from fastad_kernels.native.mlp import residual_mlp
from fastad_kernels.native.model import NativeModel
from fastad_kernels.native.projection import projection
from fastad_kernels.native.q_tables import NativeQTables
from fastad_kernels.native.stacked import NativeStack
from fastad_kernels.native.told import NativeTold
from fastad_kernels.native.walks import NativeWalks
from fastad_kernels.q_tables import QSettings, QTables
from fastad_kernels.stacked import StackedMLP
from fastad_kernels.told import Told
from fastad_kernels.walks import Walks, World

# The tests allow 1.5 times the root-mean-square error of plain PyTorch; a wrong compilation is far
# beyond, and a right one must not be refused for one unlucky draw.
FACTOR = 8.0

Results = Sequence[Tensor]


def find_error() -> str:
    """What is wrong with the kernels, in one line, or ""."""
    for name, actual, plain, exact in _cases():
        for a, p, e in zip(actual, plain, exact, strict=True):
            if not torch.equal(a.isfinite(), e.isfinite()):
                return f"{name} is not finite where it should be, or finite where it should not"
            size = e.square().mean().sqrt().item()
            error, allowed = ((x.double() - e).square().mean().sqrt().item() for x in (a, p))
            allowed = FACTOR * max(allowed, torch.finfo(torch.float32).eps * size)
            if not error <= allowed:
                return (
                    f"{name} is off by {error / size:.1e} of its size, {allowed / size:.1e} allowed"
                )
    return ""


def _cases() -> Iterator[tuple[str, Results, Results, Results]]:
    """Name; results of the kernels, of plain PyTorch in float32, and in float64."""
    yield from _attention()
    yield from _decoding()
    yield from _rows()
    yield from _blocks()
    yield from _steps()
    yield from _learning()
    yield from _acting()
    yield from _stacked()


def _compare(
    name: str, ours: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: Results
) -> tuple[str, Results, Results, Results]:
    """Outputs and gradients of all inputs."""

    def run(function: Callable[..., Tensor], dtype: torch.dtype) -> Results:
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
        out = function(*leaves)
        weights = torch.arange(out.numel(), dtype=dtype).cos().view(out.shape)
        return out.detach(), *torch.autograd.grad(out, leaves, weights)

    results = run(ours, torch.float32), run(reference, torch.float32), run(reference, torch.float64)
    return name, *results


def _attention() -> Iterator[tuple[str, Results, Results, Results]]:
    """Edges of the window, queries that see no key, grouped heads, scores far apart."""
    for queries, keys, window, size in ((75, 75, 33, 1.0), (40, 30, None, 1.0), (75, 140, 50, 9.0)):
        generator = torch.Generator().manual_seed(queries + keys)
        inputs = [
            size * torch.randn(2, tokens, heads, 16, generator=generator)
            for tokens, heads in ((queries, 4), (keys, 2), (keys, 2))
        ]
        settings: dict[str, Any] = {
            "window": window, "causal": True, "scale": 0.25, "alibi_slopes": alibi_slopes(4),
            "dropout": 0.0, "dropout_seed": None,
        }  # fmt: skip

        ours, plain = (partial(f, **settings) for f in (attention, reference.attention))
        yield _compare("attention", ours, plain, inputs)


def _rows() -> Iterator[tuple[str, Results, Results, Results]]:
    """A linear map with everything beside it, the MLP, and tables."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / math.sqrt(shape[-1])

    def bind(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, weight, bias, scale, shift, residual: function(
            x, weight, bias, norm=(scale, shift), residual=residual, epsilon=1e-5
        )

    inputs = [random(75, 48), random(80, 48), random(80), random(48), random(48), random(75, 80)]
    yield _compare("a linear map", bind(projection), bind(reference.projection), inputs)
    inputs = [
        random(75, 48), random(48), random(48), random(80, 48), random(80), random(48, 80),
        random(48),
    ]  # fmt: skip
    ours, plain = (partial(f, epsilon=1e-5) for f in (residual_mlp, reference.residual_mlp))
    yield _compare("the MLP", ours, plain, inputs)
    indices = [torch.arange(75 * k).remainder(rows).view(75, k) for rows, k in ((3, 1), (7, 2))]

    def sum_up(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *tables: function(tables, indices, [None, factor.to(tables[0].dtype)])

    factor = random(75)
    inputs = [random(3, 40), random(7, 40)]
    yield _compare("sums of tables' rows", sum_up(embed), sum_up(reference.embed), inputs)


@torch.no_grad()
def _decoding() -> Iterator[tuple[str, Results, Results, Results]]:
    """A ring beyond its wrap, whose unwritten slots hold NaN."""
    window, capacity, steps, new = 20, 32, 16, 3
    generator = torch.Generator().manual_seed(0)
    tokens = [
        [torch.randn(2, new, heads, 16, generator=generator) for heads in (4, 2, 2)]
        for _ in range(steps)
    ]
    slopes = alibi_slopes(4)

    def run(function: Callable[..., Tensor], dtype: torch.dtype) -> Results:
        ring = RingCache(2, capacity, 2, 16, dtype=dtype, order="column")
        ring.keys.fill_(math.nan)
        ring.values.fill_(math.nan)
        outs = [
            function(
                *(x.to(dtype) for x in qkv), ring, window=window, scale=0.25, alibi_slopes=slopes,
                rope=None,
            )
            for qkv in tokens
        ]  # fmt: skip
        return [torch.cat(outs, 1)]

    yield (
        "decoding", run(decode_attention, torch.float32),
        run(reference.decode_attention, torch.float32),
        run(reference.decode_attention, torch.float64),
    )  # fmt: skip


@torch.no_grad()
def _blocks() -> Iterator[tuple[str, Results, Results, Results]]:
    """Whole frozen blocks with rotary positions, through a wrap."""
    width, hidden, steps = 48, 80, 50
    shape = BlockShape(num_heads=3, num_kv_heads=3, dim=16, scale=0.25, window=20)
    generator = torch.Generator().manual_seed(0)

    def affine(out: int, size: int) -> Affine:
        weight = torch.randn(out, size, generator=generator) / math.sqrt(size)
        return Affine(weight, torch.randn(out, generator=generator))

    norm = Affine(torch.ones(width), torch.zeros(width))
    weights = [
        norm, affine(width, width), affine(2 * width, width), affine(width, width), norm,
        affine(hidden, width), affine(width, hidden),
    ]  # fmt: skip
    tokens = [torch.randn(3, 1, width, generator=generator) for _ in range(steps)]

    def run(dtype: torch.dtype) -> Results:
        block = BlockWeights(*(Affine(*(y.to(dtype) for y in affine)) for affine in weights))
        rings = [RingCache(3, 32, 3, 16, dtype=dtype)]
        outs = [
            decode_blocks(
                x.to(dtype), [block], rings, shape, rope=rope_angles(rings[0].new_positions(1), 16)
            )
            for x in tokens
        ]
        return [torch.cat(outs, 1)]

    frozen = NativeBlocks([BlockWeights(*weights)], shape)
    rings = frozen.make_rings(3, 32)
    ours = [
        frozen.decode(x, rings, rope=rope_angles(rings[0].new_positions(1), 16)) for x in tokens
    ]
    yield "a frozen block", [torch.cat(ours, 1)], run(torch.float32), run(torch.float64)


@torch.no_grad()
def _steps() -> Iterator[tuple[str, Results, Results, Results]]:
    """A whole frozen model: steps of environments in, logits, distributions and draws out."""
    width, num_envs, num_steps = 48, 3, 9
    shape = BlockShape(num_heads=3, num_kv_heads=3, dim=16, scale=0.25, window=5)
    generator = torch.Generator().manual_seed(0)

    def random(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator) / math.sqrt(sizes[-1])

    rows = {"action": 6, "reward": 6, "observation": 9, "start": 2, "step": 4}
    tables = {name: random(n, width) for name, n in rows.items()}
    norm, head = Affine(random(width) + 1, random(width)), Affine(random(5, width), random(5))
    block = [
        norm, Affine(random(width, width), random(width)),
        Affine(random(2 * width, width), random(2 * width)),
        Affine(random(width, width), random(width)), norm,
        Affine(random(80, width), random(80)), Affine(random(width, 80), random(width)),
    ]  # fmt: skip
    offsets, envs = torch.tensor([0, 4]), torch.arange(num_envs)[:, None]
    shown = [
        (envs + t) % n if name != "reward" else random(num_envs, 1)
        for t in range(num_steps) for name, n in rows.items()
    ]  # fmt: skip
    steps = [shown[t : t + 5] for t in range(0, 5 * num_steps, 5)]
    seen = [torch.cat((envs + t, 2 * envs + t), 1)[:, None] % 4 for t in range(num_steps)]

    def run(dtype: torch.dtype) -> Results:
        cast = [[Affine(*(y.to(dtype) for y in affine)) for affine in block]]
        rings = [RingCache(num_envs, 16, 3, 16, dtype=dtype)]
        table = {name: rows.to(dtype) for name, rows in tables.items()}
        logits = []
        for (action, reward, _, start, step), cells in zip(steps, seen, strict=True):
            factor = ((reward - 0.5) / 2.0).masked_fill(action == 5, 0.0).to(dtype)[..., None]
            x = table["action"][action] + factor * table["reward"][action]
            x = x + table["observation"][cells + offsets].sum(2)
            x = x + table["start"][start] + table["step"][step]
            x = decode_blocks(x, [BlockWeights(*one) for one in cast], rings, shape)
            x = layer_norm(x, (width,), norm.weight.to(dtype), norm.bias.to(dtype))
            logits.append(linear(x, *(y.to(dtype) for y in head))[:, 0])
        out = torch.stack(logits)
        return out, out.softmax(-1)

    model = NativeModel(
        StepTables(**tables, kind=None, place=None), NativeBlocks([BlockWeights(*block)], shape),
        norm=norm, head=head, offsets=offsets, reward_shift=0.5, reward_scale=2.0,
    )  # fmt: skip
    rings, uniform = model.make_rings(num_envs, 5), (envs + 0.5) / num_envs
    samples = [
        model.sample(uniform, cells, action, reward, start.bool(), step, rings)
        for (action, reward, _, start, step), cells in zip(steps, seen, strict=True)
    ]
    drawn, probs, logits = (torch.stack(x) for x in zip(*samples, strict=True))
    yield "a frozen model", [logits, probs], run(torch.float32), run(torch.float64)
    wanted = [draw(probs.flatten(0, 1), uniform.repeat(num_steps, 1)).view(drawn.shape).float()]
    yield "what a frozen model draws", [drawn.float()], wanted, wanted


def _learning() -> Iterator[tuple[str, Results, Results, Results]]:
    """Q-learning at a rate that blends, with replays of episodes that end apart."""
    num_learners, num_states, num_actions, length = 33, 7, 5, 6
    settings = QSettings(num_learners, length, learning_rate=0.6, gamma=0.9, replay_sweeps=2)
    learners, first = torch.arange(num_learners), torch.arange(num_learners) * num_states

    def run(tables: type[QTables], dtype: torch.dtype) -> Results:
        values = torch.zeros(num_learners * num_states, num_actions, dtype=dtype)
        learned = tables(values, settings)
        for step in range(30):
            state, next_state = ((learners + i * i) % num_states for i in (step, step + 1))
            learned.learn(
                first + state, (learners + step) % num_actions, (learners + 3 * step).float().cos(),
                first + next_state, (learners + step) % 11 == 0, (learners + step) % 5 == 0,
            )  # fmt: skip
        return learned.values, learned.scores(first, 0.1)

    exact = run(QTables, torch.float64)
    yield "Q-learning", run(NativeQTables, torch.float32), run(QTables, torch.float32), exact


def _acting() -> Iterator[tuple[str, Results, Results, Results]]:
    """What is told of steps, and steps in a world whose episodes end early, late, and for both."""
    num_envs, num_cells, num_actions = 33, 7, 5
    envs, cells = torch.arange(num_envs), torch.arange(num_cells)[:, None]

    def tell(told: type[Told]) -> Results:
        """Rewards that are no numbers, and episodes that end by either sign."""
        tensors = (envs.clone(), torch.zeros(num_envs), envs == 0, envs.clone())
        noted = told(*tensors)
        reward = torch.where(envs % 3 == 0, math.nan, envs.float())
        for step in range(9):
            ends = [(envs + step) % rest == 0 for rest in (11, 5)]
            noted.take((envs + step) % num_actions, reward, *ends)
        return [x.float() for x in tensors]

    plain = [x.nan_to_num(-7.0) for x in tell(Told)]
    yield "what is told of a step", [x.nan_to_num(-7.0) for x in tell(NativeTold)], plain, plain

    world = World(
        (cells + torch.arange(num_actions)) % num_cells, torch.cat((cells, 10 + cells), 1),
        torch.stack((envs % num_cells, envs % 3, -1 - 0 * envs), 1),
        torch.arange(num_actions).repeat(num_envs, 1).flip(1), episode_length=6, terminates=True,
    )  # fmt: skip

    def walk(walks: type[Walks]) -> Results:
        walkers = walks(world)
        seen = [walkers.reset(envs % num_cells)]
        for step in range(40):
            walked = walkers.step((envs + step * step) % num_actions, (envs + step) % num_cells)
            seen += [x.float() for x in (*walked, walkers.collected)]
        return [torch.cat([x.flatten().float() for x in seen])]

    yield "steps in a world of tables", walk(NativeWalks), walk(Walks), walk(Walks)


def _stacked() -> Iterator[tuple[str, Results, Results, Results]]:
    """Networks of two hidden layers, forward and backward, some of their units saturated."""
    sizes, rows = (5, 32, 48, 6), 75
    generator = torch.Generator().manual_seed(0)
    inputs, gradient = (torch.randn(3, rows, n, generator=generator) for n in (5, 6))

    def run(dtype: torch.dtype, native: bool) -> Results:
        networks = StackedMLP(3, sizes, device=torch.device("cpu"), impl="reference")
        networks.draw(torch.Generator().manual_seed(1), input_norm=1.0, output_scale=1.0)
        for name in ("parameters", "gradients"):
            setattr(networks, name, [x.to(dtype) for x in getattr(networks, name)])
        if not native:
            passed = networks.forward(inputs.to(dtype))
            hidden = [x.clone() for x in passed[1:]]
            networks.backward(passed, gradient.to(dtype))
            return [*hidden, *networks.gradients, softmax(passed[-1])]
        stack = NativeStack(networks.parameters)
        passed = stack.forward(inputs, None)
        stack.backward(passed, gradient, networks.gradients)
        return [*passed[1:], *networks.gradients, native_softmax(passed[-1])]

    exact = run(torch.float64, native=False)
    yield (
        "a stack of networks, or its softmax",
        run(torch.float32, native=True),
        run(torch.float32, False),
        exact,
    )
