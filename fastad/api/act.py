"""What `rollout` does with its config."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

from fastad.acting.interact import Transition
from fastad.base.config import parse_options
from fastad.base.device import choose_device
from fastad.base.progress import Report, unwatched
from fastad.configs import RolloutConfig
from fastad.evaluate.kept_results import kept_baselines
from fastad.evaluate.kept_rollouts import check_place, keep_rollouts
from fastad.evaluate.measure import measure
from fastad.evaluate.prepared import prepare
from fastad.evaluate.result import Baseline, Result
from fastad.histories.writer import ShardWriter
from fastad.rollouts.gpu_proof import takes_graph
from fastad.training.run_files import taught


def act(
    config: RolloutConfig,
    *,
    keep_actions: bool,
    progress: Report | None,
    baselines: Mapping[str, Baseline] | None = None,
    on_block: Callable[[Transition], None] | None = None,
) -> Result:
    """Open what is needed, or refuse it; then act."""
    device = choose_device(config.device, config.threads)
    if config.save_histories is not None:
        check_place(config.save_histories)
    prepared = prepare(
        config.run, device, env=config.env,
        env_options=parse_options("env_options", config.env_options), split=config.split,
        tasks=config.tasks, rollouts_per_task=config.rollouts_per_task, seed=config.seed,
        episodes=config.episodes,
        context=config.context, prompt_from=config.prompt_from,
        prompt_episodes=config.prompt_slice, kernels=config.kernels, kv_cache=config.kv_cache,
        greedy=config.greedy, control=config.control, target_return=config.target_return,
    )  # fmt: skip
    model, tasks, prompt = prepared.model, prepared.tasks, prepared.prompt
    window = None if model.config.trunk == "gru" else model.window
    done, total = 0, prepared.episodes * tasks.info.episode_length * len(tasks.rows)
    report = progress or unwatched
    report(done, total)
    writer: ShardWriter | None = None
    with ExitStack() as stack:

        def take(block: Transition) -> None:
            nonlocal done, writer
            done += block.reward.numel()
            report(done, total)
            if on_block is not None:
                on_block(block)
            if config.save_histories is not None:
                # Begun with the first block: a rollout that cannot start leaves no dataset.
                if writer is None:
                    kept = keep_rollouts(
                        config.save_histories, config.run, tasks, num_episodes=prepared.episodes,
                        greedy=config.greedy, control=config.control, context=config.context,
                        prompt=None if prompt is None else prompt.told,
                        target_return=config.target_return,
                    )  # fmt: skip
                    writer = stack.enter_context(kept)
                writer.append(block)

        trial = prepared.act(
            on_block=take, kv_cache=config.kv_cache, compile=config.compile,
            cuda_graph=takes_graph(config.cuda_graph, device, kv_cache=config.kv_cache),
            workers=config.workers,
        )  # fmt: skip
    method, target, auxiliary = taught(config.run)
    if baselines is None:
        baselines = kept_baselines(config.run, tasks)
    return measure(
        trial, method=method, target=target, target_return=config.target_return,
        auxiliary=auxiliary, run=str(config.run), updates=prepared.updates, asked=config.asked,
        control=config.control, greedy=config.greedy, kv_cache=config.kv_cache,
        trained_episodes=prepared.trained_episodes, context=config.context or window,
        trained_context=window, prompt=prompt, baselines=baselines, keep_actions=keep_actions,
    )  # fmt: skip
