"""How much of the machine's rate of products an update of training reaches: one process, in turns.

    python -m benchmarks.product_share [--preset dark-room] [--threads N] [--rounds 15]

The limit is what PyTorch's own large product (2048 x 2048, float32) does here in the same minute.
A second figure is what its products at the sizes of the update do, by themselves: an update of
those calls and of nothing else would reach that share. A third leaves the optimisers out, on both
sides of the fraction. Counted are the products that an update cannot do without: linear maps of
blocks and policy, attention over what the window shows, and Muon's; not what is computed a second
time, nor norms, softmax and GELU. Prints a JSON object: least times and medians.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.update import NUM_STEPS, Training, make_training
from fastad.base.device import set_threads
from fastad.model.kernels import keeping_freed_memory
from fastad.model.sequence_model import SequenceModel
from fastad.training.muon import Muon

LARGE = 2048
Product = tuple[int, int, int]  # (rows, inner, columns)


def products_of_gradients(training: Training) -> Iterator[tuple[Product, int]]:
    """Sizes of the products of a forward and a backward pass, and how many there are of each."""
    model = training.model
    tokens = len(training.actions) * NUM_STEPS * model.config.tokens_per_step
    in_blocks = [m for m in model.trunk.modules() if isinstance(m, nn.Linear)]
    of_tokens = [(linear, tokens) for linear in in_blocks]
    of_steps = (model.heads.policy, tokens // model.config.tokens_per_step)
    for linear, rows in [*of_tokens, of_steps]:
        out, size = linear.weight.shape
        yield (rows, size, out), 1
        yield (rows, out, size), 1  # to the input
        yield (out, rows, size), 1  # to the weight


def products_of_muon(training: Training) -> Iterator[tuple[Product, int]]:
    """Those of Newton-Schulz iterations."""
    for optimizer in training.optimizers:
        for group in optimizer.param_groups if isinstance(optimizer, Muon) else ():
            for matrix in group["params"]:
                rows, columns = sorted(matrix.shape)
                for product in ((rows, columns, rows), (rows, rows, rows), (rows, rows, columns)):
                    yield product, group["ns_steps"]


def attention_flops(model: SequenceModel, batch: int) -> float:
    """Six products of what is seen: scores, what they weigh, and the gradients of both."""
    config, length = model.config, NUM_STEPS * model.config.tokens_per_step
    seen = sum(min(position + 1, model.window) for position in range(length))
    return 6 * 2.0 * batch * seen * config.width * config.num_layers


def flops(product: Product) -> float:
    """Of one product: a multiplication and an addition each."""
    rows, inner, columns = product
    return 2.0 * rows * inner * columns


def total_flops(sizes: list[tuple[Product, int]]) -> float:
    """Of all of them."""
    return sum(count * flops(product) for product, count in sizes)


def gradients(training: Training) -> None:
    """All of an update but its optimisers."""
    training.backward()
    training.model.zero_grad(set_to_none=True)


def make_product(product: Product) -> Callable[[], Tensor]:
    """PyTorch's, of random matrices."""
    rows, inner, columns = product
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    out = torch.empty(rows, columns)
    return lambda: torch.mm(left, right, out=out)


def measure(training: Training, rounds: int) -> dict[str, float]:
    """Seconds of everything, in turns; then shares."""
    of_gradients = list(products_of_gradients(training))
    sizes = [*of_gradients, *products_of_muon(training)]
    single = {product: make_product(product) for product, _ in sizes}
    sides: dict[str, Callable[[], object]] = {
        "update": training.update,
        "gradients": lambda: gradients(training),
        "large": make_product((LARGE, LARGE, LARGE)),
        "products": lambda: [single[product]() for product, count in sizes for _ in range(count)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            for _ in range(3):
                began = time.perf_counter()
                side()
                seconds[name].append(time.perf_counter() - began)
    of_products = total_flops(sizes)
    of_attention = attention_flops(training.model, len(training.actions))
    work = of_products + of_attention
    figures = {"gflop": work * 1e-9}
    for kind, pick in (("least", min), ("median", statistics.median)):
        update, without, large, alone = (pick(times[3:]) for times in seconds.values())
        limit = flops((LARGE, LARGE, LARGE)) / large
        figures |= {
            f"{kind} update ms": update * 1e3,
            f"{kind} ms without optimisers": without * 1e3,
            f"{kind} large GFLOP/s": limit * 1e-9,
            f"{kind} share": work / update / limit,
            f"{kind} share without optimisers": (
                (total_flops(of_gradients) + of_attention) / without / limit
            ),
            f"{kind} share of products alone": of_products / alone / limit,
        }
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="dark-room")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    threads = set_threads(options.threads)
    training = make_training(options.preset)
    with keeping_freed_memory():
        figures = measure(training, options.rounds)
    shown = {name: round(value, 3) for name, value in figures.items()}
    print(json.dumps({"preset": options.preset, "threads": threads} | shown))


if __name__ == "__main__":
    main()
