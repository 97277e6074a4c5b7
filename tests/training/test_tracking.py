"""What trackers are told is what metrics.jsonl holds, over all sessions, and nothing else."""

import json
import logging
import os
import shutil
import struct
import subprocess
import sys

import pytest

import fastad
from fastad.base.config import Track
from fastad.base.errors import UserError
from fastad.cli import main
from fastad.training import trackers
from fastad.training.tracking import Tracking, scalars
from tests.training.small_run import MODEL, fails

EVERY = ["--log-every", "1", "--eval-every", "3", "--checkpoint-every", "3"]


def trained(world, out, *options, updates=6):
    words = [str(world / "data"), "--out", str(out), *MODEL, *EVERY, "--updates", str(updates)]
    assert main(["train", *words, *map(str, options)]) == 0


def lines(run):
    """Every figure of the log by step, under the names that trackers have for it."""
    found = {}
    for record in map(json.loads, (run / "metrics.jsonl").open()):
        found.setdefault(record["step"], {}).update(scalars(record))
    return found


def wandb_records(content, block=32768, header=7):
    """What a .wandb file holds, which is a log of LevelDB's behind seven bytes of its own."""
    at, whole = header, b""
    while at + header <= len(content):
        left = block - at % block
        if left < header:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        whole += content[at + header : at + header + length]
        at += header + length
        if kind in (1, 4):  # the whole of a record, or its last part
            yield whole
            whole = b""


class Notebook:
    """A tracker that keeps what it is told."""

    takes_back = False
    opened = None

    def __init__(self, run):
        self.run, self.told, self.finished = run, [], 0
        Notebook.opened = self

    @staticmethod
    def check():
        pass

    def log(self, step, metrics):
        self.told.append((step, dict(metrics)))

    def finish(self):
        self.finished += 1


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "trackio", Notebook)
    return Notebook


def test_the_command_line_knows_every_tracker_by_name():
    assert set(Track.__args__) == set(trackers.TRACKERS)


def test_what_the_log_lists_are_numbers_of_their_own_in_a_tracker():
    told = scalars({"step": 3, "eval_last": 2.0, "eval_returns": [float(i) for i in range(10)]})
    assert told["eval_last"] == 2.0
    assert told["eval_returns/01"] == 0.0
    assert told["eval_returns/10"] == 9.0
    assert len(told) == 11


def test_tensorboard_s_files_hold_the_log_after_a_session_that_was_killed(world, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    trained(world, run, "--track", "tensorboard")
    # As if killed before the last checkpoint: its lines are written again.
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    trained(world, run, "--track", "tensorboard", "--resume")
    kept = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    told = {}
    for tag in kept.Tags()["scalars"]:
        for event in kept.Scalars(tag):
            assert tag not in told.setdefault(event.step, {})
            told[event.step][tag] = event.value
    expected = lines(run)
    assert told.keys() == expected.keys() == {1, 2, 3, 4, 5, 6}
    for step, figures in expected.items():
        assert told[step] == pytest.approx(figures, rel=1e-6)
    (text,) = kept.Tensors("hyperparameters/text_summary")
    settings = text.tensor_proto.string_val[0].decode()
    assert "    settings.updates: 6\n" in settings
    assert "    dataset.source: frontier\n" in settings
    assert f"    made_by.torch: {fastad.Run(run).made_by['torch']}\n" in settings
    assert fastad.Run(run).model() is not None
    # And they are fastad's own to delete.
    trained(world, run, "--overwrite", updates=3)
    assert not (run / "tensorboard").exists()


@pytest.mark.slow  # several seconds to start and to end
def test_wandb_s_files_hold_the_log_of_both_sessions_of_one_run(world, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    trained(world, run, "--track", "wandb", "--track-project", "rooms")
    trained(world, run, "--track", "wandb", "--track-project", "rooms", "--extend", "3")
    told, begun = {}, []
    for file in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")):
        for data in wandb_records(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                begun.append(record.run)
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if not name.startswith("_"):
                    told.setdefault(record.history.step.num, {})[name] = json.loads(item.value_json)
    assert told == lines(run)
    assert max(told) == 9
    assert {(one.run_id, one.project) for one in begun} == {(begun[0].run_id, "rooms")}
    settings = {item.key: json.loads(item.value_json) for item in begun[0].config.update}
    assert settings["settings"]["updates"] == 6
    assert settings["made_by"]["fastad"] == fastad.__version__


@pytest.mark.slow
def test_trackio_s_store_holds_the_log_of_both_sessions_of_one_run(world, tmp_path):
    pytest.importorskip("trackio")
    run, store = tmp_path / "run", tmp_path / "store"
    for options in (["--updates", "6"], ["--updates", "6", "--extend", "3"]):
        command = ["train", str(world / "data"), "--out", str(run), *MODEL, *EVERY, *options]
        subprocess.run(
            [sys.executable, "-m", "fastad", *command, "--track", "trackio"],
            env={**os.environ, "TRACKIO_DIR": str(store)}, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    read = (
        "import json, trackio\n"
        "from trackio.sqlite_storage import SQLiteStorage as Store\n"
        "(run,) = trackio.Api().runs('fastad')\n"
        "print(json.dumps([run.config, Store.get_logs('fastad', run.name)]))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", read], env={**os.environ, "TRACKIO_DIR": str(store)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    settings, records = json.loads(shown.stdout.splitlines()[-1])
    told = {}
    for record in records:
        del record["timestamp"]
        told.setdefault(record.pop("step"), {}).update(record)
    assert told == lines(run)
    assert max(told) == 9
    assert settings["settings.updates"] == 9
    assert settings["made_by.fastad"] == fastad.__version__


def test_a_tracker_that_comes_late_is_told_what_is_in_the_log(world, tmp_path, notebook):
    run = tmp_path / "run"
    trained(world, run)
    trained(world, run, "--extend", "3", "--track", "trackio")
    told = {}
    for step, figures in notebook.opened.told:
        told.setdefault(step, {}).update(figures)
    assert told == lines(run)
    assert notebook.opened.finished == 1
    first = notebook.opened.run
    assert first.done is None
    trained(world, run, "--extend", "1", "--track", "trackio", updates=9)
    again = notebook.opened.run
    assert (again.identity, again.done) == (first.identity, 9)
    assert {step for step, _ in notebook.opened.told} == {10}


def test_what_cannot_be_taken_back_is_not_told_twice(world, tmp_path, notebook):
    run = tmp_path / "run"
    trained(world, run, "--track", "trackio")
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    trained(world, run, "--track", "trackio", "--resume")
    # The lines of updates 4 to 6 were told by the first session, to the same tracker.
    assert notebook.opened.told == []
    assert set(lines(run)) == {1, 2, 3, 4, 5, 6}


def test_a_tracker_that_fails_is_named_once_and_the_others_go_on(caplog):
    class Broken(Notebook):
        def log(self, step, metrics):
            raise OSError("gone\nfor good")

    broken, whole = Broken(None), Notebook(None)
    tracking = Tracking({"wandb": broken, "trackio": whole})
    with caplog.at_level(logging.WARNING, logger="fastad"):
        for step in (1, 2):
            tracking.log(step, {"loss": 0.5})
        tracking.finish()
    (warning,) = caplog.messages
    assert warning.startswith("track=wandb failed")
    assert warning.endswith("OSError: gone for good")
    assert whole.told == [(1, {"loss": 0.5}), (2, {"loss": 0.5})]
    assert (broken.finished, whole.finished) == (0, 1)


def test_training_ends_as_if_nobody_tracked_it_where_a_tracker_fails(
    world, tmp_path, notebook, monkeypatch
):
    def fail(self, step, metrics):
        raise ConnectionError

    monkeypatch.setattr(Notebook, "log", fail)
    trained(world, tmp_path / "run", "--track", "trackio")
    trained(world, tmp_path / "untracked")
    weights = [
        tmp_path / name / "checkpoints/step-00000006/model.safetensors"
        for name in ("run", "untracked")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_tracker_that_cannot_begin_leaves_no_run(world, tmp_path, notebook, capsys, monkeypatch):
    def refuse(self, run):
        raise ConnectionError("no network")

    monkeypatch.setattr(Notebook, "__init__", refuse)
    run = tmp_path / "run"
    words = ["train", world / "data", "--out", run, *MODEL, "--updates", "3"]
    complaint = fails(capsys, *words, "--track", "trackio")
    assert "track=trackio cannot begin: ConnectionError: no network" in complaint
    assert not [p for p in run.rglob("*") if p.name != ".fastad-lock"]
    trained(world, run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    fails(capsys, *words[:-1], "6", *EVERY, "--resume", "--track", "trackio")
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("names", "missing", "said"),
    [
        (["tensorboard"], "torch.utils.tensorboard", "track=tensorboard needs a package"),
        (["trackio"], "trackio", "track=trackio needs a package"),
        (["wandb"], "wandb", "track=wandb needs a package"),
        (["trackio", "trackio"], None, "names trackio twice"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused_with_nothing_written(
    world, tmp_path, names, missing, said, capsys, monkeypatch
):
    if missing is not None:
        monkeypatch.setitem(sys.modules, missing, None)
    elif "trackio" in names:
        monkeypatch.setitem(sys.modules, "trackio", sys)
    run = tmp_path / "run"
    complaint = fails(capsys, "train", world / "data", "--out", run, "--track", *names)
    assert said in complaint
    assert missing is None or f"[{names[0]}]" in complaint
    assert not run.exists()
    for command in (["demo"], ["compare", "dark-room"]):
        assert said in fails(capsys, *command, "--out", tmp_path / "out", "--track", *names)
        assert not (tmp_path / "out").exists()


def test_wandb_without_a_key_is_refused_before_work_starts(world, tmp_path, capsys, monkeypatch):
    class Wandb:
        class setup:  # noqa: N801
            class settings:  # noqa: N801
                mode = None

        @staticmethod
        def login(*, prompt):
            assert not prompt
            return False

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    run = tmp_path / "run"
    complaint = fails(capsys, "train", world / "data", "--out", run, "--track", "wandb")
    assert "track=wandb has no key; run `wandb login`" in complaint
    assert not run.exists()


def test_an_identity_that_is_none_is_refused(world, run, notebook, capsys):
    (run / "trackers.json").write_text('{"trackio": "../../elsewhere"}')
    complaint = fails(
        capsys, "train", world / "data", "--out", run, *MODEL, "--updates", "6", "--resume",
        "--checkpoint-every", "3", "--log-every", "1", "--track", "trackio",
    )  # fmt: skip
    assert "trackio='../../elsewhere' is no identity" in complaint


def test_two_names_for_one_project_are_told_to_whoever_has_projects(tmp_path):
    told = trackers.Tracked(tmp_path / "room", "a1", None, {}, None)
    assert (told.name, told.group) == ("room", tmp_path.name)
    with pytest.raises(UserError, match="twice"):
        trackers.check_trackers(["wandb", "wandb"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_of_two_ranks_the_first_alone_tracks(world, tmp_path):
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fastad"]
    command = ["train", str(world / "data"), "--out", str(run), *MODEL, *EVERY, "--updates", "3"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *command, "--track", "tensorboard"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (events,) = (run / "tensorboard").iterdir()
    assert events.name.endswith(".fastad")
    assert set(lines(run)) == {1, 2, 3}
