"""What `rollout` does with its config."""

from collections.abc import Mapping
from contextlib import ExitStack

from fastad.acting.interact import Transition
from fastad.base.config import parse_options
from fastad.base.device import choose_device
from fastad.base.progress import Report, unwatched
from fastad.configs import RolloutConfig
from fastad.evaluate.kept_results import kept_baselines
from fastad.evaluate.kept_rollouts import check_place, keep_rollouts
from fastad.evaluate.measure import measure
from fastad.evaluate.prompts import load_prompt
from fastad.evaluate.result import Baseline, Result
from fastad.evaluate.task_set import load_task_set, try_model
from fastad.histories.writer import ShardWriter
from fastad.model.kernels import check_kernels
from fastad.rollouts.gpu_proof import takes_graph
from fastad.training.checkpoint import load_model_of_update
from fastad.training.run_files import episodes_per_window, taught


def act(
    config: RolloutConfig,
    *,
    keep_actions: bool,
    progress: Report | None,
    baselines: Mapping[str, Baseline] | None = None,
) -> Result:
    """Open what is needed, or refuse it; then act."""
    device = choose_device(config.device, config.threads)
    if config.save_histories is not None:
        check_place(config.save_histories)
    model, updates = load_model_of_update(config.run)
    model = model.to(device)
    model.kernels = config.kernels
    model.check_window(config.context)
    window = None if model.config.trunk == "gru" else model.window
    check_kernels(config.kernels, model.config, device, kv_cache=config.kv_cache)
    tasks = load_task_set(
        config.run, split=config.split, num_tasks=config.tasks, repeats=config.rollouts_per_task,
        seed=config.seed, env=config.env,
        env_options=parse_options("env_options", config.env_options),
    )  # fmt: skip
    prompt = None
    if config.prompt_from is not None:
        history = None if str(config.prompt_from) == "source" else config.prompt_from
        prompt = load_prompt(history, config.prompt_slice, tasks, device)
    trained_episodes = episodes_per_window(config.run, tasks.info)
    episodes = trained_episodes if config.episodes is None else config.episodes
    done, total = 0, episodes * tasks.info.episode_length * len(tasks.rows)
    report = progress or unwatched
    report(done, total)
    writer: ShardWriter | None = None
    with ExitStack() as stack:

        def on_block(block: Transition) -> None:
            nonlocal done, writer
            done += block.reward.numel()
            report(done, total)
            if config.save_histories is not None:
                # Begun with the first block: a rollout that cannot start leaves no dataset.
                if writer is None:
                    kept = keep_rollouts(
                        config.save_histories, config.run, tasks, num_episodes=episodes,
                        greedy=config.greedy, control=config.control, context=config.context,
                        prompt=None if prompt is None else prompt.told,
                        target_return=config.target_return,
                    )  # fmt: skip
                    writer = stack.enter_context(kept)
                writer.append(block)

        trial = try_model(
            model, tasks, num_episodes=episodes, kv_cache=config.kv_cache, greedy=config.greedy,
            control=config.control, context=config.context, prompt=prompt,
            target_return=config.target_return, compile=config.compile,
            cuda_graph=takes_graph(config.cuda_graph, device, kv_cache=config.kv_cache),
            on_block=on_block, workers=config.workers,
        )  # fmt: skip
    method, target, auxiliary = taught(config.run)
    if baselines is None:
        baselines = kept_baselines(config.run, tasks)
    return measure(
        trial, method=method, target=target, target_return=config.target_return,
        auxiliary=auxiliary, run=str(config.run), updates=updates, asked=config.asked,
        control=config.control, greedy=config.greedy, kv_cache=config.kv_cache,
        trained_episodes=trained_episodes, context=config.context or window,
        trained_context=window, prompt=prompt, baselines=baselines, keep_actions=keep_actions,
    )  # fmt: skip
