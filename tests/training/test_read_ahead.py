"""Reading ahead: the same batches, errors where they belong, and no thread left behind."""

import threading
from functools import partial

import pytest
import torch

from fastad.training import trainer
from fastad.training.read_ahead import ReadAhead
from fastad.training.settings import TrainSettings
from fastad.training.trainer import train

CPU = torch.device("cpu")


def tensors(batch):
    return [*batch.steps, batch.action, batch.policy]


def threads():
    return [thread for thread in threading.enumerate() if "read-ahead" in thread.name]


class Recorder:
    """A sampler that notes which batches were read, and where; may fail at one of them."""

    def __init__(self, sampler, fails_at=None):
        self.sampler, self.fails_at, self.read = sampler, fails_at, []
        self.num_steps = sampler.num_steps

    def batch(self, step):
        self.read.append((step, threading.current_thread() is threading.main_thread()))
        if step == self.fails_at:
            raise OSError(f"batch {step} is gone")
        return self.sampler.batch(step)


def test_the_batches_are_the_samplers_and_none_is_read_past_the_end(tiny_training):
    _, sampler = tiny_training()
    recorder = Recorder(sampler)
    with ReadAhead(recorder, CPU, stop=6, ahead=True) as batches:
        for step in (2, 3, 4, 5):
            pairs = zip(tensors(batches.batch(step)), tensors(sampler.batch(step)), strict=True)
            assert all(torch.equal(*pair) for pair in pairs)
    assert recorder.read == [(2, True), (3, False), (4, False), (5, False)]
    assert batches.waited > 0
    assert threads() == []


def test_a_cpu_reads_when_asked_and_needs_no_thread(tiny_training):
    _, sampler = tiny_training()
    recorder = Recorder(sampler)
    with ReadAhead(recorder, CPU, stop=6) as batches:
        batches.batch(0)
        assert threads() == []
    assert recorder.read == [(0, True)]


def test_an_error_of_the_thread_surfaces_at_its_own_update(tiny_training, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "ReadAhead", partial(ReadAhead, ahead=True))
    model, sampler = tiny_training()
    logged = []
    with pytest.raises(OSError, match="batch 3 is gone"):
        train(
            model,
            Recorder(sampler, fails_at=3),
            TrainSettings(updates=5, log_every=1),
            run=tmp_path,
            log=lambda step, metrics: logged.append(step),
        )
    assert logged == [1, 2, 3]
    assert threads() == []


def test_weights_do_not_depend_on_reading_ahead_nor_on_an_interrupt(
    tiny_training, tmp_path, monkeypatch
):
    def run(name, stop_at=None):
        def log(step, metrics):
            if step == stop_at:
                raise KeyboardInterrupt

        model, sampler = tiny_training(dropout=0.1)
        settings = TrainSettings(updates=8, log_every=1, warmup_updates=2)
        train(model, sampler, settings, run=tmp_path / name, log=log)
        return model.state_dict()

    plain = run("plain")
    monkeypatch.setattr(trainer, "ReadAhead", partial(ReadAhead, ahead=True))
    ahead = run("ahead")
    with pytest.raises(KeyboardInterrupt):
        run("cut", stop_at=3)
    assert threads() == []
    resumed = run("cut")
    for name, tensor in plain.items():
        assert torch.equal(tensor, ahead[name])
        assert torch.equal(tensor, resumed[name])


def test_the_share_of_time_spent_waiting_for_data_is_logged(tiny_training, tmp_path):
    model, sampler = tiny_training()
    shares = []
    train(
        model,
        sampler,
        TrainSettings(updates=6, log_every=3),
        run=tmp_path,
        log=lambda step, metrics: shares.append(metrics["data_wait_share"]),
    )
    assert len(shares) == 2
    assert all(0 < share < 1 for share in shares)
