"""A finished run goes on for more updates, exactly, and whatever interrupts it."""

import shlex
import shutil

import pytest
import yaml

import fastad
from fastad.base.errors import UserError
from fastad.cli import _way_on, main
from fastad.training import run_files
from fastad.training.run_files import read_config, verify_run
from fastad.training.schedule import learning_rate_factor

ROOM = {"env_options": {"size": 3, "episode_length": 4}, "num_histories": 24, "num_episodes": 5}
SETTINGS = {"width": 16, "num_layers": 1, "context": 12, "dropout": 0.1, "batch_size": 4,
            "updates": 40, "warmup_updates": 5, "log_every": 1, "checkpoint_every": 20}  # fmt: skip


class StopError(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return fastad.collect(out=tmp_path_factory.mktemp("data") / "room", num_test_tasks=2, **ROOM)


@pytest.fixture
def run(data, tmp_path):
    return fastad.train(data=data, out=tmp_path / "run", **SETTINGS)


def weights(run):
    files = ("model.safetensors", "optimizer.safetensors")
    return [(run.checkpoints[-1] / name).read_bytes() for name in files]


def rates(run):
    return {r["step"]: r["learning_rate"] for r in run.metrics if "loss" in r}


def test_the_rates_are_from_there_on_those_of_a_run_of_the_new_length(data, run):
    before = rates(run)
    longer = fastad.train(data=data, out=run.path, extend=30, **SETTINGS)
    assert longer.updates == 70
    assert read_config(run.path)["settings"]["updates"] == 70
    assert "extend" not in read_config(run.path)
    after = rates(longer)
    assert [*after] == [*range(1, 71)]
    assert {step: after[step] for step in before} == before
    settings = fastad.TrainSettings(updates=70, warmup_updates=5)
    for step in range(41, 71):
        rate = settings.learning_rate * learning_rate_factor(step - 1, settings)
        assert after[step] == pytest.approx(rate)
    assert verify_run(run.path) == []


def test_an_extension_that_was_killed_ends_with_the_bits_of_an_unbroken_one(data, run, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / "copy")
    whole = fastad.train(data=data, out=run.path, extend=30, **SETTINGS)

    def stop(done, total, **figures):
        if done == 65:
            raise StopError

    with pytest.raises(StopError):
        fastad.train(data=data, out=copy, extend=30, progress=stop, **SETTINGS)
    with pytest.raises(UserError, match=r"is at update 60 of 70; finish it with: fastad train "):
        fastad.train(data=data, out=copy, extend=30, **SETTINGS)
    assert (
        main(["train", "--config", str(copy / "config.yaml"), "--out", str(copy), "--resume"]) == 0
    )
    assert weights(fastad.Run(copy)) == weights(whole)


@pytest.mark.parametrize("kill_at", ["manifest", "config", "seal"])
def test_a_kill_while_the_config_is_replaced_leaves_a_whole_run(data, run, kill_at, monkeypatch):
    written = []

    def kill_before(name, write):
        def killed(*arguments, **options):
            if name == kill_at and (name != "seal" or len(written) == 2):
                raise StopError
            written.append(name)
            return write(*arguments, **options)

        return killed

    first = "seal" if kill_at == "seal" else "manifest"
    monkeypatch.setattr(run_files, "write_json", kill_before(first, run_files.write_json))
    monkeypatch.setattr(
        run_files, "replace_durably", kill_before("config", run_files.replace_durably)
    )
    with pytest.raises(StopError):
        fastad.train(data=data, out=run.path, extend=30, **SETTINGS)
    monkeypatch.undo()
    assert verify_run(run.path) == []
    total = {"manifest": 40, "config": 40, "seal": 70}[kill_at]
    assert read_config(run.path)["settings"]["updates"] == total
    resumed = fastad.train(data=data, out=run.path, resume=True, **SETTINGS | {"updates": total})
    assert resumed.updates == total


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extend": 0}, "extend=0 must be at least 1"),
        ({"extend": 5, "overwrite": True}, "--extend and --overwrite contradict each other"),
        ({"extend": 5, "batch_size": 5}, r"--extend with changed settings \(batch_size: 4 -> 5\)"),
    ],
)
def test_what_cannot_be_extended_so_is_left_as_it_was(data, run, changes, message):
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=message):
        fastad.train(data=data, out=run.path, **SETTINGS | changes)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before


def test_there_must_be_a_run_to_extend(data, tmp_path):
    with pytest.raises(UserError, match=r"extend=5 needs a finished run, and out=.* holds none"):
        fastad.train(data=data, out=tmp_path / "new", extend=5, **SETTINGS)
    assert not (tmp_path / "new").exists()


def test_a_stopped_extension_is_told_to_go_on_and_not_to_extend_again(data, run, tmp_path):
    words = ["train", str(data.path), "--out", str(run.path), "--extend", "30", "--threads", "1"]
    _, _, way_on = _way_on(words).partition("go on with: ")
    config = str(run.path / "config.yaml")
    assert shlex.split(way_on) == ["fastad", "train", "--config", config, "--resume"]


def test_a_run_from_before_a_setting_was_there_is_continued_with_its_default(data, run):
    config = run.path / "config.yaml"
    content = yaml.safe_load(config.read_text())
    del content["model"]["token_mask"]
    run_files.replace_config(run.path, yaml.safe_dump(content).encode())
    assert fastad.train(data=data, out=run.path, resume=True, **SETTINGS).updates == 40
    with pytest.raises(UserError, match=r"token_mask: 0\.0 -> 0\.3"):
        fastad.train(data=data, out=run.path, resume=True, token_mask=0.3, **SETTINGS)
