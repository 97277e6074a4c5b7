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
    return [*batch.steps[:5], *batch.targets.values()]


def threads():
    return [thread for thread in threading.enumerate() if "read-ahead" in thread.name]


class Recorder:
    """A method that notes which batches were read, and where; may fail at one of them."""

    follows_weights = False
    has_moments = False

    def __init__(self, method, fails_at=None):
        self.method, self.fails_at, self.read = method, fails_at, []
        self.loss = method.loss

    def batch(self, step):
        self.read.append((step, threading.current_thread() is threading.main_thread()))
        if step == self.fails_at:
            raise OSError(f"batch {step} is gone")
        return self.method.batch(step)


def test_the_batches_are_the_methods_and_none_is_read_past_the_end(tiny_training):
    _, method = tiny_training()
    recorder = Recorder(method)
    with ReadAhead(recorder, CPU, stop=6, ahead=True) as batches:
        for step in (2, 3, 4, 5):
            pairs = zip(tensors(batches.batch(step)), tensors(method.batch(step)), strict=True)
            assert all(torch.equal(*pair) for pair in pairs)
    assert recorder.read == [(2, True), (3, False), (4, False), (5, False)]
    assert batches.waited > 0
    assert threads() == []


def test_a_cpu_reads_when_asked_and_needs_no_thread(tiny_training):
    _, method = tiny_training()
    recorder = Recorder(method)
    with ReadAhead(recorder, CPU, stop=6) as batches:
        batches.batch(0)
        assert threads() == []
    assert recorder.read == [(0, True)]


def test_what_depends_on_the_weights_is_never_read_ahead(tiny_training):
    recorder = Recorder(tiny_training()[1])
    recorder.follows_weights = True
    with ReadAhead(recorder, CPU, stop=6, ahead=True) as batches:
        for step in (0, 1):
            batches.batch(step)
    assert recorder.read == [(0, True), (1, True)]


def test_an_error_of_the_thread_surfaces_at_its_own_update(tiny_training, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "ReadAhead", partial(ReadAhead, ahead=True))
    model, method = tiny_training()
    logged = []
    with pytest.raises(OSError, match="batch 3 is gone"):
        train(
            model,
            Recorder(method, fails_at=3),
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

        model, method = tiny_training(dropout=0.1)
        settings = TrainSettings(updates=8, log_every=1, warmup_updates=2)
        train(model, method, settings, run=tmp_path / name, log=log)
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
    model, method = tiny_training()
    shares = []
    train(
        model,
        method,
        TrainSettings(updates=6, log_every=3),
        run=tmp_path,
        log=lambda step, metrics: shares.append(metrics["data_wait_share"]),
    )
    assert len(shares) == 2
    assert all(0 < share < 1 for share in shares)
