from pathlib import Path

import pytest

from fastad.base.config import parse_options
from fastad.base.errors import UserError
from fastad.commands.collect import run_collect
from fastad.configs import CollectConfig

SMALL = {"num_histories": 20, "num_episodes": 3}


def test_options_are_typed_as_yaml() -> None:
    pairs = ["size=11", "start=centre", "gamma=0.5", "terminate_on_goal=true"]
    assert parse_options("env_options", pairs) == {
        "size": 11, "start": "centre", "gamma": 0.5, "terminate_on_goal": True,
    }  # fmt: skip


@pytest.mark.parametrize("pair", ["size", "=11", "size="])
def test_options_of_another_form_are_refused(pair: str) -> None:
    with pytest.raises(UserError, match=f"source_options: '{pair}' is not of the form KEY=VALUE"):
        parse_options("source_options", [pair])


def test_options_given_twice_are_refused() -> None:
    with pytest.raises(UserError, match="'size' is given twice"):
        parse_options("env_options", ["size=9", "size=11"])


def test_the_summary_tells_returns_knowledge_and_what_is_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_collect(CollectConfig(out=tmp_path / "data", **SMALL))  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("collect steps=1200 total=1200 steps_per_second=")
    assert "20 histories of 60 steps, dark-room learned by frontier" in lines[1]
    assert "mean return" in lines[2]
    assert lines[3] == "source knows: the movement rules, not the reward"
    assert lines[4] == f"next: fastad train {tmp_path / 'data'}"


def test_a_tabula_rasa_source_claims_no_knowledge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_collect(CollectConfig(out=tmp_path / "data", source="q-learning", **SMALL))  # type: ignore[arg-type]
    assert "knows" not in capsys.readouterr().out


def test_a_complete_dataset_is_not_collected_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_collect(CollectConfig(out=tmp_path / "data", **SMALL))  # type: ignore[arg-type]
    capsys.readouterr()
    run_collect(CollectConfig(out=tmp_path / "data", resume=True, **SMALL))  # type: ignore[arg-type]
    assert "already complete" in capsys.readouterr().out


def test_options_reach_environment_and_source(tmp_path: Path) -> None:
    from fastad.histories.reader import load_info

    out = tmp_path / "data"
    config = CollectConfig(
        out=out,
        env_options=("size=5", "episode_length=8"),
        source="q-learning",
        source_options=("gamma=0.5",),
        num_test_tasks=4,
        **SMALL,  # type: ignore[arg-type]
    )
    run_collect(config)
    info = load_info(out)
    assert info.env_kwargs == {"size": 5, "episode_length": 8}
    assert info.source_kwargs == {"gamma": 0.5}
    assert (info.num_train, info.num_validation, info.num_test) == (18, 2, 4)
