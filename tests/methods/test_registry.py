"""Methods by name: what each is built of, what it is called, and what is refused."""

from typing import get_args, get_type_hints

import pytest
import torch

import fastad
from fastad.base.errors import UserError
from fastad.configs import TrainConfig
from fastad.histories.reader import HistoryDataset
from fastad.methods.ad import Target
from fastad.methods.registry import METHODS, TARGET_WORDS, label, make_method
from fastad.training.settings import TrainSettings

WINDOWS = {"num_steps": 6, "batch_size": 8, "seed": 0, "start": "history", "subsample": "every-kth"}


def test_the_command_line_offers_the_methods_and_targets_that_there_are():
    assert get_args(get_type_hints(TrainConfig)["method"]) == tuple(METHODS)
    assert get_type_hints(TrainSettings)["target"] == Target
    assert tuple(TARGET_WORDS) == get_args(Target)


def test_labels_say_what_was_told():
    assert label("ad", "policy") == label("ad", "sampled") == "algorithm distillation"
    assert label("ad", "final") == "algorithm distillation, look-ahead labels"
    assert label("ad", "policy", auxiliary=["place", "heading"]) == (
        "algorithm distillation, auxiliary loss: told place and heading in training"
    )
    assert label("ad", "expert") == "algorithm distillation, expert labels: told the task"


def test_expert_distillation_shows_the_end_of_every_history(tmp_path, make_dataset):
    make_dataset(tmp_path)
    windows = {name: value for name, value in WINDOWS.items() if name != "num_steps"}
    batches = {
        name: make_method(
            name, HistoryDataset(tmp_path), target="policy", num_steps=4, **windows
        ).batch(0)
        for name in ("ad", "expert-distillation")
    }
    # Histories are of three episodes of four steps.
    assert batches["ad"].steps.observation[:, :, 1].unique().tolist() == [0, 1, 2, 3]
    last = batches["expert-distillation"]
    assert last.steps.observation[:, :, 1].tolist() == [[8, 0, 1, 2]] * 8  # 8 to 11, modulo 9
    assert last.steps.episode_start[:, 0].all()
    assert torch.equal(last.targets["policy"].argmax(-1), last.targets["action"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"start": "anywhere"}, "start=anywhere"), ({"subsample": "cut"}, "subsample=cut")],
)
def test_expert_distillation_shows_nothing_else(tmp_path, make_dataset, changes, named):
    make_dataset(tmp_path)
    dataset = HistoryDataset(tmp_path)
    with pytest.raises(UserError, match=f"method=expert-distillation shows the end .*{named}"):
        make_method("expert-distillation", dataset, target="policy", **(WINDOWS | changes))


def test_an_unknown_method_names_those_there_are(tmp_path, make_dataset):
    make_dataset(tmp_path)
    with pytest.raises(UserError, match=r"'algorithm'.*ad, .*expert-distillation"):
        make_method("algorithm", HistoryDataset(tmp_path), target="policy", **WINDOWS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return fastad.collect(
        out=tmp_path_factory.mktemp("data") / "room", env_options={"size": 3, "episode_length": 4},
        num_histories=24, num_episodes=12, num_test_tasks=2, labels=("final",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "called"),
    [
        ({"method": "expert-distillation", "window": 12}, "expert distillation"),
        ({"target": "final", "subsample": "cut"}, "algorithm distillation, look-ahead labels"),
        ({"target": "sampled", "subsample": "random"}, "algorithm distillation"),
    ],
    ids=["end", "cut", "random"],
)
def test_a_run_that_was_stopped_ends_with_the_same_bits(data, tmp_path, changes, called):
    again = {"data": data, "updates": 4, "batch_size": 6, "window": 24, "context": 24, "width": 16,
             "log_every": 1, "eval_every": 0} | changes  # fmt: skip

    def stop(done, total, **metrics):
        if done == 2:
            raise KeyboardInterrupt

    whole = fastad.train(out=tmp_path / "whole", **again)
    with pytest.raises(KeyboardInterrupt):
        fastad.train(out=tmp_path / "broken", progress=stop, **again)
    broken = fastad.train(out=tmp_path / "broken", resume=True, **again)
    ends = [run.checkpoints[-1] / "model.safetensors" for run in (whole, broken)]
    assert ends[0].read_bytes() == ends[1].read_bytes()
    assert fastad.rollout(whole, episodes=2, rollouts_per_task=1).label == called
