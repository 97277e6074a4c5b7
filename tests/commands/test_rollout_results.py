"""What a rollout leaves: figures first, under names of their own, whatever the rest does."""

import json
import re
import time

import pytest

import fastad
from fastad.cli import main
from fastad.configs import RolloutConfig
from fastad.evaluate import plots
from fastad.evaluate.result import Result

ROOM = ["--env-options", "size=3", "episode_length=4"]
COLLECT = [*ROOM, "--num-histories", "24", "--num-episodes", "5", "--num-test-tasks", "2"]
MODEL = ["--width", "16", "--num-layers", "1", "--context", "12", "--updates", "2"]


@pytest.fixture
def run(tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    assert main(["collect", str(data), *COLLECT]) == 0
    assert main(["train", str(data), "--out", str(run), *MODEL]) == 0
    return run


def rollout(run, *options):
    return main(["rollout", str(run), "--episodes", "2", *options])


def test_every_rollout_leaves_figures_and_a_picture_with_names_of_their_own(run, monkeypatch):
    moment = time.gmtime(0)
    monkeypatch.setattr(time, "gmtime", lambda *_: moment)  # all within one second
    for options in ([], [], ["--control", "no-reward"], ["--split", "train"]):
        assert rollout(run, *options) == 0
    stems = ["19700101-000000-test", "19700101-000000-test-2", "19700101-000000-test-no-reward",
             "19700101-000000-train"]  # fmt: skip
    names = sorted(file.name for file in (run / "rollouts").iterdir())
    assert names == sorted(f"{stem}{suffix}" for stem in stems for suffix in (".json", ".png"))
    figures = json.loads((run / "rollouts" / f"{stems[2]}.json").read_text())
    assert (figures["control"], figures["split"], len(figures["returns"])) == (
        "no-reward",
        "test",
        2,
    )


def test_figures_are_on_the_disk_before_the_picture_is_drawn(run, tmp_path, monkeypatch, capsys):
    def broken(*arguments, **settings):
        raise OSError(5, "Input/output error", "x.png")

    monkeypatch.setattr(plots, "write_picture", broken)
    capsys.readouterr()
    assert rollout(run, "--json", str(tmp_path / "f.json")) == 2
    assert "Input/output error; the device fails" in capsys.readouterr().err
    (kept,) = (run / "rollouts").iterdir()
    assert kept.read_text() == (tmp_path / "f.json").read_text()
    assert len(json.loads(kept.read_text())["returns"]) == 2


def test_the_figures_in_the_run_are_the_result_and_can_be_loaded(run, tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert rollout(run, "--split", "validation", "--greedy", "--json", str(file)) == 0
    (kept,) = (run / "rollouts").glob("*.json")
    result = Result.load(kept)
    assert (result.split, result.greedy, result.run) == ("validation", True, str(run))
    assert result.updates == 2
    defaults = RolloutConfig().asked
    assert "device" not in defaults
    assert result.asked == defaults | {"split": "validation", "greedy": True, "episodes": 2}
    assert result.returns.shape == (result.num_tasks * result.rollouts_per_task, 2)
    assert json.loads(file.read_text())["returns"] == result.figures()["returns"]
    assert "marked *" not in capsys.readouterr().out
    assert main(["rollout", str(run), "--episodes", "6"]) == 0
    assert "training windows showed 5 episodes; those beyond are" in capsys.readouterr().out


def test_a_window_of_the_rollout_s_own_is_told_beside_what_it_was_trained_with(run, capsys):
    capsys.readouterr()
    assert rollout(run, "--context", "30", "--save-histories", str(run.parent / "kept")) == 0
    assert "attention window 30 tokens, trained with 12" in " ".join(
        capsys.readouterr().out.split()
    )
    (kept,) = (run / "rollouts").glob("*.json")
    result = Result.load(kept)
    assert (result.context, result.trained_context) == (30, 12)
    (axes,) = result.plot().axes
    assert "attention window 30 tokens, trained with 12" in " ".join(
        axes.get_title(loc="left").split()
    )
    info = json.loads((run.parent / "kept" / "dataset.json").read_text())
    assert info["source_kwargs"]["context"] == 30
    assert rollout(run) == 0
    assert "attention window" not in capsys.readouterr().out


def test_a_rollout_may_go_on_from_episodes_of_kept_ones(run, tmp_path, capsys):
    kept, file = tmp_path / "kept", tmp_path / "figures.json"
    assert main(["rollout", str(run), "--episodes", "7", "--save-histories", str(kept)]) == 0
    (whole,) = map(Result.load, (run / "rollouts").glob("*.json"))
    capsys.readouterr()
    prompt = ["--prompt-from", str(kept), "--prompt-episodes", "0:4", "--json", str(file)]
    assert main(["rollout", str(run), "--episodes", "3", *prompt]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "prompted with episodes 0:4 of" in shown
    # Training windows showed 5 episodes: 4 of the prompt and one more.
    assert "training windows showed 5 episodes, the prompt's included; those beyond" in shown
    result = Result.load(file)
    assert result.prompt == f"episodes 0:4 of {kept}"
    assert (result.prompt_episodes, result.trained_until) == (4, 1)
    assert result.prompt_return == pytest.approx(whole.returns[:, :4].mean())
    (axes,) = result.plot().axes
    assert axes.get_xlabel() == "episode after the prompt"
    # It matters what was shown.
    settings = {"episodes": 3, "actions": True, "prompt_from": kept}
    first, last = (
        fastad.rollout(run, prompt_episodes=episodes, **settings) for episodes in ("0:4", "-4:")
    )
    assert first.returns.tolist() == result.returns.tolist()
    assert first.actions.tolist() != last.actions.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt-episodes", "0:5"], "prompt_episodes=0:5 are of no history"),
        (["--prompt-from", "source", "--prompt-episodes", "5"], "not of the form FIRST:LAST"),
        (["--prompt-from", "source", "--control", "wiped-context"], "forgets the prompt"),
        (["--prompt-from", "source", "--prompt-episodes=-6:"], "the shortest history has 5"),
    ],
)
def test_prompts_that_make_no_sense_are_refused_before_any_work(run, options, message, capsys):
    capsys.readouterr()
    assert rollout(run, *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (run / "rollouts").exists()


def test_learned_positions_have_no_other_window(run, tmp_path, capsys):
    data, fixed = run.parent / "data", tmp_path / "fixed"
    learned = ["train", str(data), "--out", str(fixed), *MODEL, "--positions", "learned",
               "--context", "20"]  # fmt: skip
    reason = "positions=learned has context=20 places and cannot slide"
    assert main([*learned, "--eval-context", "40"]) == 2
    assert reason in capsys.readouterr().err
    assert not fixed.exists()
    assert main(learned) == 0
    capsys.readouterr()
    assert rollout(fixed, "--context", "40") == 2
    assert reason in capsys.readouterr().err
    assert not (fixed / "rollouts").exists()


def test_a_checkpoint_is_rolled_out_into_its_run(run, capsys):
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert main(["rollout", str(checkpoint), "--episodes", "1"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"results: .*run/rollouts/\d{8}-\d{6}-test\.json", shown)
    assert len(list((run / "rollouts").iterdir())) == 2


def test_drawing_leaves_the_plots_of_a_notebook_as_they_are(run):
    import matplotlib

    matplotlib.use("svg")
    assert rollout(run) == 0
    assert matplotlib.get_backend().lower() == "svg"


def test_histories_of_a_stopped_rollout_are_no_dataset_and_the_same_command_goes_again(
    run, tmp_path, monkeypatch, capsys
):
    from fastad.histories.reader import HistoryDataset
    from fastad.histories.writer import ShardWriter

    out = tmp_path / "histories"
    original, blocks = ShardWriter.append, []

    def stop_at_the_second(self, block):
        blocks.append(None)
        if len(blocks) == 2:
            raise KeyboardInterrupt
        original(self, block)

    monkeypatch.setattr(ShardWriter, "append", stop_at_the_second)
    command = ["rollout", str(run), "--episodes", "3", "--save-histories", str(out)]
    assert main(command) == 130
    assert "start again with: fastad rollout" in capsys.readouterr().err
    assert not (out / "dataset.json").exists()
    assert main(command) == 0
    assert HistoryDataset(out).complete
    (out / "mine.txt").write_text("precious")
    assert main(command) == 2
    assert "exists; choose a folder that does not" in capsys.readouterr().err
