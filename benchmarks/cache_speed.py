"""Steps per second with the ring cache and without it, at the same point of the same rollout.

    python benchmarks/cache_speed.py --layers 4 --context 400 --envs 64

Without the cache everything that can influence a prediction is recomputed at every step: all steps
so far, up to layers * (context - 1) + 1. Both sides see the same rollout, first at a history as
long as the context, then at one as long as the whole receptive field. Logits are compared first;
nothing is timed if they differ. Medians over repeats, in one process.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from gymnasium import spaces

from fastad.envs.registry import env_class, make_env
from fastad.interact import interact
from fastad.model.cache import ModelCache
from fastad.model.config import ModelConfig
from fastad.model.transformer import Transformer
from fastad.rollout import InContextAgent, StepBuffer
from fastad.steps import Steps
from fastad.tracking import describe_machine

TOLERANCE = 1e-5  # relative to the largest logit


def seconds_per_call(call: Callable[[], object], repeats: int) -> float:
    """Median wall time of one call, after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


@torch.inference_mode()
def measure(model: Transformer, shown: list[Steps], num_envs: int) -> tuple[float, float, float]:
    """Relative logit difference, and seconds per step with and without the cache."""
    cache = ModelCache(model.config, num_envs)
    for steps in shown:
        logits = model(steps, cache)[:, -1]
    buffer = StepBuffer(model, num_envs)
    # As it would be one step earlier, so that every call below has exactly this history.
    buffer.steps, buffer.lengths = shown[:-1], buffer.lengths + len(shown) - 1
    recomputed = buffer.append_and_recompute(shown[-1])
    error = ((recomputed - logits).abs().max() / recomputed.abs().max()).item()
    if error > TOLERANCE:
        raise SystemExit(f"logits differ by {error:.1e} of the largest: nothing was timed")

    def without_cache() -> None:
        buffer.steps, buffer.lengths = shown[:-1], torch.full_like(buffer.lengths, len(shown) - 1)
        buffer.append_and_recompute(shown[-1])

    return (
        error,
        seconds_per_call(lambda: model(shown[-1], cache), 60),
        seconds_per_call(without_cache, 5),
    )


def record(model: Transformer, num_envs: int, num_steps: int) -> list[Steps]:
    """What a rollout in Dark Room shows the model, step by step, each (N, 1)."""
    goals = env_class("dark-room").enumerate_tasks()
    assert goals is not None
    generator = torch.Generator().manual_seed(0)
    env = make_env("dark-room", goals[torch.arange(num_envs) % len(goals)], generator=generator)
    agent = InContextAgent(model, num_envs, generator=generator)
    shown = []
    for _ in interact(env, agent, num_steps=num_steps, block_steps=1, generator=generator):
        assert agent.latest is not None
        shown.append(agent.latest[0])
    return shown


def main() -> None:
    """Measure and print one line per history length, then everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--context", type=int, default=400)
    parser.add_argument("--envs", type=int, default=64)
    arguments = parser.parse_args()
    config = ModelConfig(num_layers=arguments.layers, context=arguments.context)
    torch.manual_seed(0)
    space = spaces.MultiDiscrete([9, 9])
    model = Transformer(config, space, spaces.Discrete(5), episode_length=20).eval()
    shown = record(model, arguments.envs, config.receptive_field)
    results = []
    for length in (config.context, config.receptive_field):
        error, *seconds = measure(model, shown[:length], arguments.envs)
        cached, uncached = (arguments.envs / each for each in seconds)
        print(
            f"history {length:5} steps: {cached:9,.0f} steps/s with the cache, {uncached:7,.0f} "
            f"without: {cached / uncached:.0f}x (logits differ by {error:.0e} of the largest)"
        )
        results.append(
            {
                "history": length,
                "steps_per_second_cached": cached,
                "steps_per_second_uncached": uncached,
                "max_logit_difference": error,
            }
        )
    print(json.dumps({**vars(arguments), "results": results, "versions": describe_machine()}))


if __name__ == "__main__":
    main()
